//! Places: how many connections there may be at once, in all and from one address.
//!
//! Owns the counts. Never opens or closes a connection. Called by `accept`; a connection holds its
//! [`Place`] until its end.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::peer::network;

/// Why there is no place. The flag says that nobody was told since there last was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There are as many connections as there may be.
    All { first: bool },
    /// There are as many from this address.
    Address { first: bool },
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    each: u32,
    /// Networks whose connections are those of many: this machine, and proxies.
    shared: Vec<IpNet>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_address: BTreeMap<IpAddr, Count>,
    full: bool,
}

#[derive(Debug, Default)]
struct Count {
    connections: u32,
    full: bool,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    of: Option<(Arc<Places>, IpAddr)>,
}

impl Places {
    /// `all` in all and `each` from one address, but for those in `shared`.
    pub(super) fn new(all: u32, each: u32, shared: Vec<IpNet>) -> Arc<Self> {
        let all = usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            all: Arc::new(Semaphore::new(all)),
            each,
            shared,
            taken: Mutex::default(),
        })
    }

    /// A place for a connection from there, if there is one.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Result<Place, Full> {
        let from = from.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(all) = Arc::clone(&self.all).try_acquire_owned() else {
            let first = !std::mem::replace(&mut taken.full, true);
            return Err(Full::All { first });
        };
        taken.full = false;
        if self.shared.iter().any(|network| network.contains(&from)) {
            return Ok(Place {
                _all: all,
                of: None,
            });
        }
        let from = network(from);
        let count = taken.by_address.entry(from).or_default();
        if count.connections >= self.each {
            let first = !std::mem::replace(&mut count.full, true);
            return Err(Full::Address { first });
        }
        count.connections += 1;
        count.full = false;
        Ok(Place {
            _all: all,
            of: Some((Arc::clone(self), from)),
        })
    }

    fn give_back(&self, from: IpAddr) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.by_address.get_mut(&from) {
            count.connections = count.connections.saturating_sub(1);
            if count.connections == 0 {
                taken.by_address.remove(&from);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((places, from)) = &self.of {
            places.give_back(*from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_takes_no_more_than_its_share_and_gives_places_back() {
        let places = Places::new(10, 2, vec!["10.0.0.0/8".parse().unwrap()]);
        let first = places.take(ip("192.0.2.1")).unwrap();
        let _second = places.take(ip("::ffff:192.0.2.1")).unwrap();
        let full = |first| Full::Address { first };
        assert_eq!(places.take(ip("192.0.2.1")).unwrap_err(), full(true));
        assert_eq!(places.take(ip("192.0.2.1")).unwrap_err(), full(false));
        let _other = places.take(ip("192.0.2.2")).unwrap();
        drop(first);
        let _again = places.take(ip("192.0.2.1")).unwrap();
        assert_eq!(places.take(ip("192.0.2.1")).unwrap_err(), full(true));
    }

    #[test]
    fn a_customer_of_ipv6_is_one_address_and_a_proxy_is_many() {
        let places = Places::new(5, 1, vec!["10.0.0.0/8".parse().unwrap()]);
        let _one = places.take(ip("2001:db8:1:1::1")).unwrap();
        assert!(places.take(ip("2001:db8:1:1:9::2")).is_err());
        let _next = places.take(ip("2001:db8:1:2::1")).unwrap();
        let proxy = ip("10.0.0.1");
        let _held = [0; 3].map(|_| places.take(proxy).unwrap());
        let full = places.take(proxy).unwrap_err();
        assert_eq!(full, Full::All { first: true });
    }

    #[test]
    fn addresses_without_a_connection_are_forgotten() {
        let places = Places::new(5, 1, Vec::new());
        drop(places.take(ip("192.0.2.1")).unwrap());
        assert!(places.taken.lock().unwrap().by_address.is_empty());
    }
}
