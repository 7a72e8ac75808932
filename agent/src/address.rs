//! Where other nodes reach this one, and by which of its interfaces.
//!
//! Owns no state and opens no connection. The session asks for the address that stands in no setting, a gang's launch
//! for the interface.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use tokio::net::{UdpSocket, lookup_host};
use tonic::transport::Uri;

/// The address from which this machine speaks to whoever is at `url`.
///
/// # Errors
/// When `url` leads nowhere from here.
pub(crate) async fn toward(url: &str) -> io::Result<String> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for there in lookup_host((host, port)).await? {
        match from_here(there).await {
            Ok(address) => return Ok(address.to_string()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The kernel chooses a route; no packet is sent.
async fn from_here(there: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match there {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(there).await?;
    Ok(socket.local_addr()?.ip())
}

/// The interface of this machine that has `address`, an IP address or a name. All of 127.0.0.0/8 is the loopback's. May
/// ask a name server.
pub(crate) fn interface_of(address: &str) -> Option<String> {
    let wanted: Vec<IpAddr> = match address.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = std::net::ToSocketAddrs::to_socket_addrs(&(address, 0)).ok()?;
            found.map(|address| address.ip()).collect()
        }
    };
    let own: Vec<(String, IpAddr)> = getifaddrs()
        .ok()?
        .filter_map(|one| Some((one.interface_name, ip(one.address?)?)))
        .collect();
    let has = |at: &dyn Fn(IpAddr) -> bool| own.iter().find(|(_, address)| at(*address));
    let found = wanted.iter().find_map(|wanted| {
        let same = has(&|address| address == *wanted);
        same.or_else(|| {
            let loopback = wanted.is_loopback();
            has(&|address| loopback && address.is_loopback())
        })
    });
    found.map(|(name, _)| name.clone())
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_is_reached_from_itself_by_its_loopback() {
        assert_eq!(toward("http://127.0.0.1:8000").await.unwrap(), "127.0.0.1");
        let named = toward("http://localhost:8000").await.unwrap();
        let named: IpAddr = named.parse().unwrap();
        assert!(named.is_loopback(), "{named}");
        assert!(toward("nowhere").await.is_err());
    }

    #[test]
    fn an_address_is_found_at_its_interface_and_one_of_another_machine_at_none() {
        assert_eq!(interface_of("127.0.0.1").as_deref(), Some("lo"));
        assert_eq!(interface_of("127.0.0.2").as_deref(), Some("lo"));
        assert_eq!(interface_of("localhost").as_deref(), Some("lo"));
        // Of the networks of documentation: nobody has it.
        assert_eq!(interface_of("192.0.2.1"), None);
    }
}
