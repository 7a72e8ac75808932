//! Wires of turmoil as coordinator and agent take them. Never loses or delays anything: the world does. Called by the
//! hosts.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use trainyard_net::{BoxedWire, Dial, Wire};
use turmoil::net::{TcpListener, TcpStream};

use crate::files::Files;

/// The coordinator's port.
pub(crate) const PORT: u16 = 8000;
/// Connections that wait to be accepted.
const QUEUE: usize = 64;

/// A wire, and the machine on this end of it if that is an agent's.
struct Turmoil(TcpStream, Option<Files>);

impl Turmoil {
    /// A program that is gone says and hears nothing more.
    fn is_dead(&self) -> bool {
        self.1.as_ref().is_some_and(|files| files.gone().is_some())
    }
}

impl fmt::Debug for Turmoil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turmoil")
    }
}

impl Wire for Turmoil {}

impl AsyncRead for Turmoil {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_dead() {
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Turmoil {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_dead() {
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// How hosts connect; agents do from the machine with these files.
pub(crate) fn dial(from: Option<Files>) -> Dial {
    Dial::new(move |host, port| {
        let from = from.clone();
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            Ok(Box::new(Turmoil(stream, from)) as BoxedWire)
        })
    })
}

/// Listens on the coordinator's port; what is accepted comes out of the channel.
pub(crate) async fn listen() -> io::Result<mpsc::Receiver<(BoxedWire, SocketAddr)>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let (accepted, wires) = mpsc::channel(QUEUE);
    let accepting = async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let wire: BoxedWire = Box::new(Turmoil(stream, None));
            if accepted.send((wire, peer)).await.is_err() {
                return;
            }
        }
    };
    drop(trainyard_runtime::in_place(accepting));
    Ok(wires)
}
