//! Accepting: a bound on connections, handshakes in tasks of their own with a bound and a time-out.
//!
//! Never reads a request. Called by `listen`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};

use super::{
    Certificates, PeerCertificate,
    connection::{Asker, Door},
    socket::{Socket, Stream},
};
use crate::config::Server;

/// When the system gives no further connection, it is asked again after this.
const PAUSE: Duration = Duration::from_millis(100);
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// What a client hears that speaks plain HTTP to an encrypted port.
const USE_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 43\r\n\r\nThis port is encrypted; write https:// here";

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
    listener: TcpListener,
    door: Door,
    certificates: Option<Arc<Certificates>>,
    limits: &Server,
) {
    let count = |n: u32| usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(count(limits.connections)));
    let closing = door.closing().clone();
    let mut tasks = JoinSet::new();
    if let Some(certificates) = &certificates {
        tasks.spawn(Arc::clone(certificates).watch(closing.clone()));
    }
    let hall = Arc::new(Hall {
        door,
        certificates,
        handshakes: Semaphore::new(count(limits.handshakes)),
        patience: Duration::from_secs(u64::from(limits.handshake_timeout_seconds)),
    });
    let mut full = false;
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
        let place = Arc::clone(&places).try_acquire_owned();
        if std::mem::replace(&mut full, place.is_err()) != full && full {
            tracing::warn!(
                most = limits.connections,
                "no more connections are taken (server.connections)"
            );
        }
        if let Ok(place) = place {
            tasks.spawn(Arc::clone(&hall).welcome(stream, peer, place));
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

impl Hall {
    /// One connection, from its first byte to its end.
    async fn welcome(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
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
    async fn enter(&self, stream: TcpStream) -> io::Result<(Stream, Option<PeerCertificate>)> {
        let Some(certificates) = &self.certificates else {
            return Ok((Stream::Plain(stream), None));
        };
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
            return Err(plain(stream).await);
        }
        // Beyond the bound a client waits, and the time-out goes on.
        let _place = self.handshakes.acquire().await.map_err(io::Error::other)?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
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
    use super::USE_TLS;

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
