//! Accepting: a bound on connections, handshakes in tasks of their own with a bound and a time-out.
//!
//! Never reads a request. Called by `listen`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};
use trainyard_net::BoxedWire;

use super::{
    Certificates, PeerCertificate,
    connection::{Asker, Door},
    places::{Full, Place, Places},
    socket::{Socket, Stream},
};
use crate::config::Server;

/// When the system gives no further connection, it is asked again after this.
const PAUSE: Duration = Duration::from_millis(100);
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// What a client hears that speaks plain HTTP to an encrypted port.
const USE_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 43\r\n\r\nThis port is encrypted; write https:// here";

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// From the network.
    Tcp(TcpListener),
    /// From a simulation, each with its address.
    Simulated(mpsc::Receiver<(BoxedWire, SocketAddr)>),
}

impl Listener {
    async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Plain(stream), peer))
            }
            Self::Simulated(wires) => match wires.recv().await {
                Some((wire, peer)) => Ok((Stream::Simulated(wire), peer)),
                None => std::future::pending().await,
            },
        }
    }
}

/// What all connections share.
struct Hall {
    door: Door,
    certificates: Option<Arc<Certificates>>,
    handshakes: Semaphore,
    patience: Duration,
}

/// Accepts until the door closes, then waits for the connections that are left; dropped early, it
/// ends them all.
pub(super) async fn run(
    mut listener: Listener,
    door: Door,
    certificates: Option<Arc<Certificates>>,
    (limits, places): (&Server, Arc<Places>),
) {
    let closing = door.closing().clone();
    let mut tasks = JoinSet::new();
    if let Some(certificates) = &certificates {
        tasks.spawn(Arc::clone(certificates).watch(closing.clone()));
    }
    let hall = Arc::new(Hall {
        door,
        certificates,
        handshakes: Semaphore::new(
            usize::try_from(limits.handshakes).unwrap_or(Semaphore::MAX_PERMITS),
        ),
        patience: Duration::from_secs(u64::from(limits.handshake_timeout_seconds)),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = tasks.join_next() => continue,
            () = closing.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of one connection, or of the whole process (no more descriptors): neither ends it.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match places.take(peer.ip()) {
            Ok(place) => {
                tasks.spawn(Arc::clone(&hall).welcome(stream, peer, place));
            }
            Err(full) => refused(full, peer, limits),
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Says once why connections are closed, until there is a place again.
fn refused(full: Full, peer: SocketAddr, limits: &Server) {
    match full {
        Full::All { first: true } => tracing::warn!(
            most = limits.connections,
            "no more connections are taken (server.connections)"
        ),
        Full::Address { first: true } => tracing::warn!(
            address = %peer.ip(),
            most = limits.connections_per_address,
            "no more connections are taken from an address (server.connections_per_address; name proxies in login.trusted_proxies)"
        ),
        Full::All { first: false } | Full::Address { first: false } => {}
    }
}

impl Hall {
    /// One connection, from its first byte to its end.
    async fn welcome(self: Arc<Self>, stream: Stream, peer: SocketAddr, place: Place) {
        if let Stream::Plain(stream) = &stream
            && let Err(error) = stream.set_nodelay(true)
        {
            tracing::debug!(%peer, %error, "a connection stays slow");
        }
        let closing = self.door.closing().clone();
        let entering = tokio::time::timeout(self.patience, self.enter(stream));
        let entered = match closing.run_until_cancelled(entering).await {
            Some(Ok(entered)) => entered,
            Some(Err(_late)) => {
                tracing::debug!(%peer, "a handshake took too long");
                return;
            }
            None => return,
        };
        match entered {
            Ok((stream, certificate)) => {
                let socket = Socket {
                    stream,
                    _place: place,
                };
                let asker = Asker { peer, certificate };
                self.door.serve(socket, asker).await;
            }
            Err(error) => tracing::debug!(%peer, %error, "a handshake has failed"),
        }
    }

    /// The handshake, where there is one.
    async fn enter(&self, stream: Stream) -> io::Result<(Stream, Option<PeerCertificate>)> {
        let (stream, certificates) = match (stream, &self.certificates) {
            (Stream::Plain(stream), Some(certificates)) => (stream, certificates),
            (stream, _) => return Ok((stream, None)),
        };
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
            return Err(plain(stream).await);
        }
        // One that never says hello costs no work, so it takes no place from those that do.
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        // Beyond the bound a client waits, and the time-out goes on.
        let _place = self.handshakes.acquire().await.map_err(io::Error::other)?;
        let stream = start.into_stream(certificates.current()).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let shown = chain.and_then(|chain| chain.first());
        let certificate = shown.map(|shown| PeerCertificate::new(shown.clone().into_owned()));
        Ok((Stream::Tls(Box::new(stream)), certificate))
    }
}

/// Tells a client that speaks plain HTTP what is expected, as far as it listens.
async fn plain(mut stream: TcpStream) -> io::Error {
    let told = async {
        stream.write_all(USE_TLS).await?;
        stream.shutdown().await
    };
    // It has no right to be told; whether it is makes no difference.
    told.await.ok();
    io::Error::other("it speaks plain text")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::{Router, routing::get};
    use tokio::{io::AsyncReadExt as _, net::TcpSocket};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::Config;

    /// No condition takes longer, however busy the machine is.
    const LONG: Duration = Duration::from_secs(30);

    /// A connection from an address of this machine that has answered once; none when it is closed.
    async fn caller(from: [u8; 4], to: SocketAddr) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::from((Ipv4Addr::from(from), 0)))
            .unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .ok()?;
        let mut first = [0; 8];
        let read = tokio::time::timeout(LONG, stream.read_exact(&mut first));
        read.await.expect("an answer or an end").ok()?;
        Some(stream)
    }

    #[tokio::test]
    async fn one_address_gets_no_more_connections_than_its_share_and_others_get_theirs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Config::load(None, []).unwrap().server;
        let router = Router::new().route("/", get(async || "here"));
        let door = Door::new(router, &limits, CancellationToken::new());
        let places = Places::new(100, 2, Vec::new());
        let listener = Listener::Tcp(listener);
        let serving = run(listener, door, None, (&limits, places));
        let calling = async {
            let (one, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
            let first = caller(one, address).await.unwrap();
            let _second = caller(one, address).await.unwrap();
            assert!(caller(one, address).await.is_none());
            let _other = caller(other, address).await.unwrap();
            drop(first);
            let again = async { while caller(one, address).await.is_none() {} };
            tokio::time::timeout(LONG, again)
                .await
                .expect("a place is free again");
        };
        tokio::select! {
            () = serving => panic!("it serves no more"),
            () = calling => {}
        }
    }

    #[test]
    fn the_hint_is_as_long_as_it_says() {
        let text = std::str::from_utf8(USE_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{head}"
        );
    }
}
