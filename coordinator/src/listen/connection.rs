//! HTTP on one connection: versions 1.1 and 2, limits, and what each request is told of its sender.
//!
//! A connection on which nothing is asked within the bound is closed, and so is one that stops in the
//! middle of a header. Called by `accept`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{Peer, PeerCertificate, socket::Socket};
use crate::config::Server;

/// Streams of one connection; each agent uses one, each client a handful.
const STREAMS: u32 = 256;
/// How often a silent peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) peer: SocketAddr,
    pub(super) certificate: Option<PeerCertificate>,
}

/// What every connection is served with.
pub(super) struct Door {
    router: Router,
    http: Builder<TokioExecutor>,
    silence: Duration,
    closing: CancellationToken,
}

impl Door {
    pub(super) fn new(router: Router, limits: &Server, closing: CancellationToken) -> Self {
        let silence = Duration::from_secs(u64::from(limits.header_timeout_seconds));
        let mut http = Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(silence);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(STREAMS);
        Self {
            router,
            http,
            silence,
            closing,
        }
    }

    /// Cancelled when no new call is taken.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Serves until the client goes, is too slow, or the coordinator stops.
    pub(super) async fn serve(&self, socket: Socket, asker: Asker) {
        let peer = asker.peer;
        let asked = Arc::new(AtomicBool::new(false));
        let (router, first) = (self.router.clone(), Arc::clone(&asked));
        let service = service_fn(move |request| {
            first.store(true, Ordering::Relaxed);
            answer(router.clone(), asker.clone(), request)
        });
        let serving = self
            .http
            .serve_connection_with_upgrades(TokioIo::new(socket), service);
        let mut serving = std::pin::pin!(serving);
        let mut bound = std::pin::pin!(tokio::time::sleep(self.silence));
        let mut waits = true;
        let mut closes = false;
        loop {
            tokio::select! {
                served = serving.as_mut() => {
                    if let Err(error) = served {
                        tracing::debug!(%peer, %error, "a connection has broken");
                    }
                    return;
                }
                () = bound.as_mut(), if waits => {
                    waits = false;
                    if !asked.load(Ordering::Relaxed) {
                        tracing::debug!(%peer, "a connection asked for nothing");
                        return;
                    }
                }
                () = self.closing.cancelled(), if !closes => {
                    closes = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

async fn answer(
    router: Router,
    asker: Asker,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Peer(asker.peer));
    if let Some(certificate) = asker.certificate {
        request.extensions_mut().insert(certificate);
    }
    router.oneshot(request).await
}
