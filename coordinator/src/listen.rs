//! The port: gRPC and REST on one listener.
//!
//! Owns accepting connections and the limits of HTTP/2. Nagle's algorithm is off, or small answers
//! wait for 40 ms; keep-alive finds peers that vanished without a word. Called by `boot`.

use std::{pin::pin, time::Duration};

use axum::{Extension, Router, extract::DefaultBodyLimit, middleware, response::IntoResponse};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, transport::server::TcpConnectInfo};

use crate::api::{Service, grpc, peer, rest};

/// Streams of one connection; each agent uses one, each client a handful.
const STREAMS: u32 = 1_024;
/// How often a silent peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long the listener rests when the system has no descriptor for another connection.
const PAUSE: Duration = Duration::from_millis(100);

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
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let serving = connection(socket, router.clone(), closing.clone());
                connections.spawn(serving);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Serves one connection; WebSockets take it over.
async fn connection(socket: TcpStream, router: Router, closing: CancellationToken) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a connection stays slow");
    }
    let info = TcpConnectInfo {
        local_addr: socket.local_addr().ok(),
        remote_addr: socket.peer_addr().ok(),
    };
    let service = TowerToHyperService::new(router.layer(Extension(info)));
    let mut http = Builder::new(TokioExecutor::new());
    // With a timer, a header that takes longer than 30 s ends the connection.
    http.http1().timer(TokioTimer::new());
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS);
    let mut serving = pin!(http.serve_connection_with_upgrades(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has broken");
    }
}

/// What nobody serves, in the words of the door that was knocked at.
async fn unknown(headers: HeaderMap) -> axum::response::Response {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Status::unimplemented("there is no such method").into_http();
    }
    rest::detail(StatusCode::NOT_FOUND, "Not Found").into_response()
}
