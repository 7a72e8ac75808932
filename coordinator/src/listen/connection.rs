//! HTTP on one connection: versions 1.1 and 2, limits, and what each request is told of its sender.
//!
//! A connection on which nothing is asked within the bound is closed, and so is one that stops in the
//! middle of a header, that asks for nothing more, or whose client does not take what it asked for.
//! Called by `accept`.

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
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    Peer, PeerCertificate,
    calls::{Answer, Calls, Doing, Patience},
    socket::Socket,
};
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
    patience: Patience,
    closing: CancellationToken,
}

impl Door {
    pub(super) fn new(router: Router, limits: &Server, closing: CancellationToken) -> Self {
        let silence = Duration::from_secs(u64::from(limits.header_timeout_seconds));
        let seconds = |n: u32| Duration::from_secs(u64::from(n));
        let patience = Patience {
            idle: seconds(limits.idle_timeout_seconds),
            stall: seconds(limits.stall_timeout_seconds),
        };
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
            patience,
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
        let calls = Calls::new();
        let (router, first) = (self.router.clone(), Arc::clone(&asked));
        let open = Arc::clone(&calls);
        let service = service_fn(move |request| {
            first.store(true, Ordering::Relaxed);
            answer(router.clone(), (asker.clone(), Arc::clone(&open)), request)
        });
        let serving = self
            .http
            .serve_connection_with_upgrades(TokioIo::new(socket), service);
        let mut serving = std::pin::pin!(serving);
        let mut bound = std::pin::pin!(tokio::time::sleep(self.silence));
        let mut look = tokio::time::interval(self.patience.look());
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                _ = look.tick() => match calls.doing(Instant::now(), self.patience) {
                    Doing::Something => {}
                    Doing::Nothing if closes => {}
                    Doing::Nothing => {
                        closes = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    Doing::Stalled => {
                        tracing::debug!(%peer, "a client does not take what it asked for");
                        return;
                    }
                },
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
    (asker, calls): (Asker, Arc<Calls>),
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let call = calls.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Peer(asker.peer));
    if let Some(certificate) = asker.certificate {
        request.extensions_mut().insert(certificate);
    }
    let answered = router.oneshot(request).await?;
    Ok(answered.map(|body| Body::new(Answer { body, call })))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        config::Config,
        listen::{places::Places, socket::Stream},
    };

    /// No condition takes longer, however busy the machine is.
    const LONG: Duration = Duration::from_secs(30);

    /// A door with `/much`, which never ends, and `/quiet`, which says nothing.
    fn door(idle: u32, stall: u32) -> Arc<Door> {
        let much = async || {
            let piece = Ok::<_, Infallible>(axum::body::Bytes::from(vec![7; 1 << 16]));
            Body::from_stream(futures::stream::repeat(piece))
        };
        let quiet = async || {
            let nothing = futures::stream::pending::<Result<axum::body::Bytes, Infallible>>();
            Body::from_stream(nothing)
        };
        let router = Router::new()
            .route("/much", get(much))
            .route("/quiet", get(quiet))
            .route("/", get(async || "here"));
        let mut limits = Config::load(None, []).unwrap().server;
        limits.header_timeout_seconds = 600;
        limits.idle_timeout_seconds = idle;
        limits.stall_timeout_seconds = stall;
        Arc::new(Door::new(router, &limits, CancellationToken::new()))
    }

    /// A client that asks for `path`, and the serving of its connection.
    async fn ask(door: &Arc<Door>, path: &str) -> (TcpStream, impl Future<Output = ()> + use<>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let place = Places::new(1, 1, Vec::new()).take(peer.ip()).unwrap();
        let socket = Socket {
            stream: Stream::Plain(stream),
            _place: place,
        };
        let asker = Asker {
            peer,
            certificate: None,
        };
        let door = Arc::clone(door);
        (client, async move { door.serve(socket, asker).await })
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_and_one_without_news_is_not() {
        let door = door(600, 1);
        let (_quiet_client, quiet) = ask(&door, "/quiet").await;
        let (_deaf_client, deaf) = ask(&door, "/much").await;
        let cut = async {
            tokio::select! {
                () = deaf => {}
                () = quiet => panic!("a stream without news was cut"),
            }
        };
        tokio::time::timeout(LONG, cut).await.expect("it is cut");
    }

    #[tokio::test]
    async fn a_reader_that_takes_what_it_asked_for_is_not_cut() {
        let door = door(600, 1);
        let (mut client, slow) = ask(&door, "/much").await;
        let (_deaf_client, deaf) = ask(&door, "/much").await;
        let reading = async {
            let mut piece = vec![0; 1 << 16];
            loop {
                assert_ne!(client.read(&mut piece).await.unwrap(), 0);
            }
        };
        let cut = async {
            tokio::select! {
                () = deaf => {}
                () = slow => panic!("a reader was cut"),
                () = reading => {}
            }
        };
        tokio::time::timeout(LONG, cut).await.expect("it is cut");
    }

    #[tokio::test]
    async fn a_connection_that_asks_for_nothing_more_is_closed() {
        let door = door(1, 1);
        let (mut client, serving) = ask(&door, "/").await;
        let mut said = String::new();
        let read = client.read_to_string(&mut said);
        let ended = async { tokio::join!(serving, read) };
        let (_, read) = tokio::time::timeout(LONG, ended)
            .await
            .expect("it is closed");
        read.unwrap();
        assert!(
            said.starts_with("HTTP/1.1 200 ") && said.ends_with("here"),
            "{said}"
        );
    }
}
