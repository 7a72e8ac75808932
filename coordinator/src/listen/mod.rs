//! The port: gRPC and REST on one listener, plain or encrypted.
//!
//! Owns accepting connections, their number in all and of one address, how long one may be silent before
//! it asks for something or while it takes an answer, and the limits of HTTP. Nagle's algorithm is off, or small answers wait for 40 ms; keep-alive finds
//! peers that vanished without a word. Requests carry [`Peer`], and [`PeerCertificate`] where the
//! client has shown one. Called by `boot`.

mod accept;
mod calls;
mod certificates;
mod connection;
mod places;
mod socket;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, extract::DefaultBodyLimit, middleware, response::IntoResponse};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use accept::Listener;
pub(crate) use certificates::Certificates;
pub use certificates::PeerCertificate;

use crate::{
    api::{Service, grpc, peer, rest},
    config::Config,
};

/// The address of who has sent a request: an extension of each, behind plain text and TLS alike. An
/// axum handler takes it as `Extension(Peer(address))`, a gRPC one by `request.extensions().get()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Why nothing is served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The embedded descriptors are damaged.
    #[error("the gRPC reflection service could not be built: {0}; report this")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `closing`, then lets the calls under way end.
///
/// # Errors
/// When the services cannot be built.
pub(crate) async fn serve(
    listener: Listener,
    service: Service,
    (config, certificates): (&Config, Option<Certificates>),
    closing: CancellationToken,
) -> Result<(), ListenError> {
    let body = usize::try_from(config.limits.request_mib)
        .unwrap_or(usize::MAX)
        .saturating_mul(1 << 20);
    let rest = rest::router(&service).layer(DefaultBodyLimit::max(body));
    let introduce = middleware::from_fn_with_state(service.clone(), peer::introduce);
    let router: Router = grpc::router(&service).await?.merge(rest).fallback(unknown);
    let router = router.layer(introduce);
    let door = connection::Door::new(router, &config.server, closing.clone());
    let certificates = certificates.map(Arc::new);
    let limits = &config.server;
    let most = (limits.connections, limits.connections_per_address);
    let places = places::Places::new(most.0, most.1, shared(config));
    accept::run(listener, door, certificates, (limits, places)).await;
    Ok(())
}

/// Where connections of many come from as if of one: proxies, and whatever runs on this machine.
fn shared(config: &Config) -> Vec<IpNet> {
    let mut networks = config.login.trusted();
    networks.extend(Ipv4Net::new(Ipv4Addr::LOCALHOST, 8).map(IpNet::from));
    networks.extend(Ipv6Net::new(Ipv6Addr::LOCALHOST, 128).map(IpNet::from));
    networks
}

/// What nobody serves, in the words of the door that was knocked at.
async fn unknown(headers: HeaderMap) -> axum::response::Response {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Status::unimplemented("there is no such method").into_http();
    }
    rest::detail(StatusCode::NOT_FOUND, "Not Found").into_response()
}
