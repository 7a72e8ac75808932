//! Listens on 127.0.0.1, on the same port for the life of the data folder: running trainers hold the
//! address and must find a restarted agent there. Never listens on any other address. Called by the
//! agent's root.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use super::registry::Registry;
use super::routes::router;

/// Why the endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("port {port} on 127.0.0.1 is taken, and running trainers report to it; stop the program that has it, or remove {} when no trainer runs on this node", path.display())]
    PortTaken {
        /// The port.
        port: u16,
        /// The file that names it.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("{} does not hold a port number; remove it when no trainer runs on this node", path.display())]
    NotAPort {
        /// The file that names it.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The system refused to listen.
    #[error("cannot listen on 127.0.0.1: {0}")]
    Listen(#[source] io::Error),
}

/// The endpoint, listening; nothing is answered before `run`.
#[derive(Debug)]
pub struct CallbackServer {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

/// Listens on the port in `<data_dir>/callback-port`, or on a free one that is then kept there.
pub async fn bind(data_dir: &Path, registry: Registry) -> Result<CallbackServer, BindError> {
    let path = data_dir.join("callback-port");
    let kept = read_port(&path)?;
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, kept.unwrap_or(0)));
    let listener = match (TcpListener::bind(wanted).await, kept) {
        (Ok(listener), _) => listener,
        (Err(error), Some(port)) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(BindError::PortTaken { port, path });
        }
        (Err(error), _) => return Err(BindError::Listen(error)),
    };
    let address = listener.local_addr().map_err(BindError::Listen)?;
    if kept.is_none() {
        write_port(&path, address.port()).map_err(|source| BindError::File {
            action: "write",
            path,
            source,
        })?;
    }
    Ok(CallbackServer {
        listener,
        address,
        router: router(registry),
    })
}

/// The `CALLBACK_URL` of the task that `secret` stands for, at an endpoint that listens on `address`.
#[must_use]
pub fn callback_url(address: SocketAddr, secret: &str) -> String {
    format!("http://{address}/t/{secret}/api/v1")
}

impl CallbackServer {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `CALLBACK_URL` of the task that `secret` stands for.
    #[must_use]
    pub fn callback_url(&self, secret: &str) -> String {
        callback_url(self.address, secret)
    }

    /// Answers until `stop` is ready and the open calls are answered.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let listener = self.listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "a trainer's connection stays slow");
            }
        });
        axum::serve(listener, self.router)
            .with_graceful_shutdown(stop)
            .await
    }
}

fn read_port(path: &Path) -> Result<Option<u16>, BindError> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(0) | Err(_) => Err(BindError::NotAPort {
                path: path.to_owned(),
            }),
            Ok(port) => Ok(Some(port)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BindError::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_port(path: &Path, port: u16) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, format!("{port}\n"))?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)
}
