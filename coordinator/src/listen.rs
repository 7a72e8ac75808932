//! The port: gRPC and REST on one listener.
//!
//! Owns accepting connections and the limits of HTTP/2. Nagle's algorithm is off, or small answers
//! wait for 40 ms; keep-alive finds peers that vanished without a word. Called by `boot`.

use std::time::Duration;

use axum::{Router, extract::DefaultBodyLimit, middleware, response::IntoResponse};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes, transport::Server};

use crate::api::{Service, grpc, peer, rest};

/// Streams of one connection; each agent uses one, each client a handful.
const STREAMS: u32 = 1_024;
/// How often a silent peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Why nothing is served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The embedded descriptors are damaged.
    #[error("the gRPC reflection service could not be built: {0}; report this")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server ended.
    #[error("the server has ended: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `closing`, then lets the calls under way end.
///
/// # Errors
/// When the services cannot be built or the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Service,
    request_mib: u32,
    closing: CancellationToken,
) -> Result<(), ListenError> {
    let body = usize::try_from(request_mib)
        .unwrap_or(usize::MAX)
        .saturating_mul(1 << 20);
    let rest = rest::router(&service).layer(DefaultBodyLimit::max(body));
    let introduce = middleware::from_fn_with_state(service.clone(), peer::introduce);
    let router: Router = grpc::router(&service).await?.merge(rest).fallback(unknown);
    let router = router.layer(introduce);
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        accepted.inspect(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "a connection stays slow");
            }
        })
    });
    Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(Some(STREAMS))
        .add_routes(Routes::from(router))
        .serve_with_incoming_shutdown(incoming, closing.cancelled_owned())
        .await?;
    Ok(())
}

/// What nobody serves, in the words of the door that was knocked at.
async fn unknown(headers: HeaderMap) -> axum::response::Response {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Status::unimplemented("there is no such method").into_http();
    }
    rest::detail(StatusCode::NOT_FOUND, "Not Found").into_response()
}
