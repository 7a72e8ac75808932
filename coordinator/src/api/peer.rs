//! What is known of a request before any door handles it: where it comes from, and whom an issuer's
//! token speaks for.
//!
//! Owns whose word about addresses is believed. Decides nothing about the request. A layer over both
//! doors, put there by `listen`.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use ipnet::IpNet;

use super::Service;
use crate::listen;

/// Where a request comes from, as far as is known; an extension of every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer(pub Option<IpAddr>);

impl Peer {
    /// The one that the layer has found.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }
}

/// The layer.
pub async fn introduce(
    State(service): State<Service>,
    mut request: Request,
    next: Next,
) -> Response {
    let trusted = service.trusted_proxies();
    let socket = socket(request.extensions());
    let peer = Peer(socket.map(|address| origin(address, request.headers(), trusted)));
    request.extensions_mut().insert(peer);
    if let Some(token) = bearer(request.headers()) {
        let token = token.to_owned();
        service.meet(&token).await;
    }
    next.run(request).await
}

fn socket(extensions: &Extensions) -> Option<IpAddr> {
    let peer = extensions.get::<listen::Peer>()?;
    Some(peer.0.ip().to_canonical())
}

/// The address that the last trusted proxy was called from. What stands further left in the header
/// was written by somebody who is not trusted.
fn origin(socket: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let hops = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.rsplit(','));
    let mut origin = socket;
    for hop in hops {
        if !is_trusted(origin) {
            break;
        }
        let Ok(address) = hop.trim().parse::<IpAddr>() else {
            break;
        };
        origin = address.to_canonical();
    }
    origin
}

/// One address, or the network of 2^64 that one IPv6 customer has: what is counted as one caller.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The token of an `Authorization: Bearer` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        headers
    }

    fn from(socket: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        origin(socket.parse().unwrap(), &headers(lines), &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(from("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(from("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_the_client_itself_wrote_is_not_believed() {
        let forged = ["1.2.3.4, 198.51.100.1, 10.0.0.2"];
        assert_eq!(from("10.0.0.1", &forged), "198.51.100.1");
        assert_eq!(
            from("10.0.0.1", &["1.2.3.4", "198.51.100.1"]),
            "198.51.100.1"
        );
        assert_eq!(from("10.0.0.1", &["1.2.3.4, nonsense"]), "10.0.0.1");
    }
}
