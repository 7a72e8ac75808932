//! Ports of this node where gangs meet: each is lent to one attempt until its task has ended.
//!
//! Owns who has which. Never listens: a port is only looked at before it is lent and before it is used. The preparation
//! of a run takes one, the end of its task gives it back.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, TcpListener},
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;
use trainyard_core::ids::TaskKey;

/// The ports that may be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text that is no range of ports.
#[derive(Debug, thiserror::Error)]
#[error(
    "two ports from 1 to 65535 with a hyphen between, the lower one first, such as 29500-29999"
)]
pub struct NoRange;

impl FromStr for PortRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let (first, last) = text.split_once('-').ok_or(NoRange)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_invalid| NoRange);
        let (first, last) = (port(first)?, port(last)?);
        let sound = first > 0 && first <= last;
        sound.then_some(Self { first, last }).ok_or(NoRange)
    }
}

impl TryFrom<String> for PortRange {
    type Error = NoRange;

    fn try_from(text: String) -> Result<Self, NoRange> {
        text.parse()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Default for PortRange {
    /// As shipped.
    fn default() -> Self {
        Self {
            first: 29_500,
            last: 29_999,
        }
    }
}

/// Why there is no port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// All are lent or used.
    #[error(
        "no port of {range} is free on this node for the gang to meet; give a wider gang.ports in the agent's settings"
    )]
    None {
        /// Those that may be lent.
        range: PortRange,
    },
    /// The one that the gang was told is used by somebody else.
    #[error(
        "port {port}, where the gang was to meet, cannot be used any more: {why}; keep other programs out of gang.ports"
    )]
    Taken {
        /// Which.
        port: u16,
        /// What the system answered.
        why: String,
    },
}

/// The ports of this node.
#[derive(Debug)]
pub struct Ports {
    range: PortRange,
    lent: Mutex<BTreeMap<u16, TaskKey>>,
}

impl Ports {
    /// None is lent yet.
    #[must_use]
    pub fn new(range: PortRange) -> Self {
        Self {
            range,
            lent: Mutex::default(),
        }
    }

    /// One that an earlier life of the agent has lent; before any is lent in this one.
    pub fn keep(&self, port: u16, task: TaskKey) {
        self.lent().insert(port, task);
    }

    /// A free one; the same if the task has one.
    ///
    /// # Errors
    /// When there is none, or the task's own is used by somebody else.
    pub fn lend(&self, task: TaskKey) -> Result<u16, PortError> {
        let mut lent = self.lent();
        if let Some(port) = port_of(&lent, task) {
            return check(port).map(|()| port);
        }
        let port = self.candidates(task);
        let port = port
            .into_iter()
            .find(|port| !lent.contains_key(port) && check(*port).is_ok())
            .ok_or(PortError::None { range: self.range })?;
        lent.insert(port, task);
        Ok(port)
    }

    /// That of a task, if it has one, is given to others again.
    pub fn give_back(&self, task: TaskKey) {
        self.lent().retain(|_, of| *of != task);
    }

    /// All of them, from a place that differs from attempt to attempt: what is left of one that has just ended does not
    /// meet the next.
    fn candidates(&self, task: TaskKey) -> impl IntoIterator<Item = u16> {
        let PortRange { first, last } = self.range;
        let count = u64::from(last - first) + 1;
        let turn = task.job.0.wrapping_mul(31);
        let turn = turn.wrapping_add(u64::from(task.attempt.0)) % count;
        // Within the range, so it fits.
        let turn = u16::try_from(turn).unwrap_or(0);
        let middle = first.saturating_add(turn);
        (middle..=last).chain(first..middle)
    }

    fn lent(&self) -> MutexGuard<'_, BTreeMap<u16, TaskKey>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn port_of(lent: &BTreeMap<u16, TaskKey>, task: TaskKey) -> Option<u16> {
    let mut own = lent.iter().filter(|(_, of)| **of == task);
    own.next().map(|(port, _)| *port)
}

/// Whether nobody listens there. A simulation has no ports of its own.
pub(crate) fn check(port: u16) -> Result<(), PortError> {
    if trainyard_runtime::is_simulated() {
        return Ok(());
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    listener.map(drop).map_err(|error| PortError::Taken {
        port,
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::ids::{AttemptNo, JobId, Rank};

    fn task(job: u64) -> TaskKey {
        TaskKey {
            job: JobId(job),
            attempt: AttemptNo(1),
            rank: Rank(0),
        }
    }

    /// A range of so many ports that nobody listens at.
    fn free(count: u16) -> PortRange {
        let first = (20_000..29_000_u16).step_by(10).find(|first| {
            let mut all = *first..*first + count;
            all.all(|port| check(port).is_ok())
        });
        let first = first.unwrap();
        let last = first + count - 1;
        PortRange { first, last }
    }

    #[test]
    fn no_two_attempts_have_one_port_and_each_keeps_its_own_until_it_gives_it_back() {
        let range = free(2);
        let ports = Ports::new(range);
        let one = ports.lend(task(1)).unwrap();
        let two = ports.lend(task(2)).unwrap();
        assert_ne!(one, two);
        assert_eq!(ports.lend(task(1)), Ok(one), "the same again");
        assert_eq!(ports.lend(task(3)), Err(PortError::None { range }));
        ports.give_back(task(1));
        assert_eq!(ports.lend(task(3)), Ok(one));
    }

    #[test]
    fn a_port_at_which_somebody_listens_is_not_lent() {
        let range = free(2);
        let listens = TcpListener::bind((Ipv4Addr::LOCALHOST, range.first)).unwrap();
        let ports = Ports::new(range);
        for job in 1..3 {
            assert_eq!(ports.lend(task(job)), Ok(range.last), "whatever the turn");
            ports.give_back(task(job));
        }
        ports.keep(range.first, task(3));
        let taken = ports.lend(task(3)).unwrap_err().to_string();
        let begins = format!("port {}, where the gang was to meet", range.first);
        assert!(taken.starts_with(&begins), "{taken}");
        drop(listens);
        assert_eq!(ports.lend(task(3)), Ok(range.first));
    }

    #[test]
    fn a_range_is_two_ports_in_order() {
        for wrong in ["", "29500", "0-10", "9-8", "1-65536", "a-b", "1-2-3"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
        assert_eq!(PortRange::default().to_string(), "29500-29999");
        let one: PortRange = "29500 - 29500".parse().unwrap();
        assert_eq!((one.first, one.last), (29_500, 29_500));
    }
}
