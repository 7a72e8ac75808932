//! The client's end: whom it trusts, what it shows, and the one way to connect.
//!
//! Files are read at each connection, so that a renewed certificate needs no restart. Never keeps a
//! connection and adds no token: whoever calls does.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use http::Uri;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use thiserror::Error;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{Place, PlaceError, TlsError, pem, words};

/// How long a TCP connection to one address may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The preface of HTTP/2 and an empty frame of settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Whether plain text may leave this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plain {
    /// Only to this machine itself.
    #[default]
    Loopback,
    /// Anywhere (`--insecure`).
    Anywhere,
}

/// Whom a client trusts and what it shows. Nothing given: the system's authorities, no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The authorities that a coordinator's certificate must be of.
    pub ca: Option<PathBuf>,
    /// The client's own certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Why a connection could not be made ready.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The address.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client.
    #[error("the HTTP client could not be made: {0}")]
    Http(#[from] reqwest::Error),
}

/// Why there is no connection.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConnectError(String);

/// What the bytes of a simulated connection go through.
pub trait Wire: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

/// Any of them.
pub type BoxedWire = Box<dyn Wire>;

/// A wire that is being laid.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<BoxedWire>> + Send>>;

/// Lays wires to `host` and `port`: how a simulation connects.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(String, u16) -> Dialling + Send + Sync>);

impl Dial {
    /// By this function.
    pub fn new(dial: impl Fn(String, u16) -> Dialling + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }

    /// Lays a wire to where `uri` leads.
    fn wire(&self, uri: &Uri) -> Dialling {
        let host = uri.host().unwrap_or_default().to_owned();
        (self.0)(host, uri.port_u16().unwrap_or(80))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// The way to a coordinator. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Connection {
    place: Place,
    tls: ClientTls,
    endpoint: Endpoint,
    dial: Option<Dial>,
}

impl Connection {
    /// The way to `url`; connects to nothing yet, but reads all files.
    ///
    /// # Errors
    /// When `url` is no address or one that `plain` does not allow, or a file is of no use.
    pub fn new(url: &str, tls: ClientTls, plain: Plain) -> Result<Self, SetupError> {
        let place = Place::parse(url, plain == Plain::Anywhere)?;
        if place.is_tls() {
            tls.config(Trust::Coordinator)?;
        }
        let endpoint = Endpoint::from_shared(place.url().to_owned());
        let endpoint = endpoint.map_err(|_invalid| PlaceError::Not {
            text: url.to_owned(),
            fault: "it is no URL",
        })?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(CONNECT);
        Ok(Self {
            place,
            tls,
            endpoint,
            dial: None,
        })
    }

    /// The same over the wires of a simulation.
    #[must_use]
    pub fn through(mut self, dial: Dial) -> Self {
        self.dial = Some(dial);
        self
    }

    /// Changes how connections behave: keep-alive, time-outs.
    #[must_use]
    pub fn tuned(mut self, tune: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        self.endpoint = tune(self.endpoint);
        self
    }

    /// Such as `https://10.0.0.1:8000`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.place.url()
    }

    /// Where it leads.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// Says in words what is in the way.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        if let Some(dial) = self.dial.clone() {
            let connector = tower::service_fn(move |uri: Uri| {
                let wire = dial.wire(&uri);
                async move { wire.await.map(TokioIo::new) }
            });
            let connected = self.endpoint.connect_with_connector(connector).await;
            return connected.map_err(|error| ConnectError(words::reason(&error)));
        }
        let connected = match self.place.is_tls() {
            true => {
                let tls = self.tls.clone();
                let made = tokio::task::spawn_blocking(move || tls.config(Trust::Coordinator));
                let made = made
                    .await
                    .map_err(|error| ConnectError(error.to_string()))?;
                let config = made.map_err(|error| ConnectError(error.to_string()))?;
                self.endpoint.connect_with_connector(https(config)).await
            }
            false => self.endpoint.connect().await,
        };
        connected.map_err(|error| ConnectError(words::reason(&error)))
    }

    /// Why a connection was closed before anything was answered, in words; none when nothing is wrong
    /// with it. The other side says so after the handshake, where a client that only has a broken
    /// call does not see it: it is asked once more, by hand.
    pub async fn diagnose(&self) -> Option<String> {
        if self.dial.is_some() {
            return None;
        }
        let asked = tokio::time::timeout(CONNECT, self.knock());
        asked.await.ok()?
    }

    async fn knock(&self) -> Option<String> {
        let uri = self.endpoint.uri();
        let host = uri.host()?.trim_matches(['[', ']']);
        let usual = if self.place.is_tls() { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let stream = TcpStream::connect((host, port)).await.ok()?;
        if !self.place.is_tls() {
            return plain_answer(stream).await;
        }
        let mut config = self.tls.config(Trust::Coordinator).ok()?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let refused = match TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
        {
            Ok(mut stream) => talk(&mut stream).await.err()?,
            Err(refused) => refused,
        };
        words::explain(&refused)
    }

    /// The beginning of an HTTP client with the same certificate, which trusts the system's
    /// authorities and the coordinator's. Set the time-outs that fit.
    ///
    /// # Errors
    /// When a file is of no use.
    pub fn http(&self) -> Result<reqwest::ClientBuilder, SetupError> {
        self.tls.http()
    }
}

impl ClientTls {
    /// As [`Connection::http`], for whoever has no coordinator.
    ///
    /// # Errors
    /// When a file is of no use.
    pub fn http(&self) -> Result<reqwest::ClientBuilder, SetupError> {
        let mut config = self.config(Trust::Everybody)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let builder = reqwest::Client::builder().connect_timeout(CONNECT);
        Ok(builder.tls_backend_preconfigured(config).tcp_nodelay(true))
    }

    fn config(&self, trust: Trust) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| TlsError::Make(error.to_string()))?;
        let builder = builder.with_root_certificates(self.roots(trust)?);
        let (cert, key) = match (&self.cert, &self.key) {
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => return Err(TlsError::Half("the key")),
            (None, Some(_)) => return Err(TlsError::Half("the certificate")),
        };
        let made = builder.with_client_auth_cert(pem::chain(cert)?, pem::key(key)?);
        made.map_err(|error| TlsError::Pair {
            cert: cert.clone(),
            key: key.clone(),
            reason: error.to_string(),
        })
    }

    fn roots(&self, trust: Trust) -> Result<RootCertStore, TlsError> {
        let mut roots = match &self.ca {
            Some(path) => pem::roots(path)?,
            None => RootCertStore::empty(),
        };
        if self.ca.is_none() || trust == Trust::Everybody {
            // Single files of the system that cannot be read are no reason to trust nobody.
            let found: Vec<CertificateDer<'_>> = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found);
        }
        Ok(roots)
    }
}

/// Who may be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Of the authority that was given, if one was.
    Coordinator,
    /// And of the system's.
    Everybody,
}

fn https(config: ClientConfig) -> hyper_rustls::HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // Without it small messages wait for 40 ms.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http2()
        .wrap_connector(tcp)
}

/// What a port that should speak plain text says.
async fn plain_answer(mut stream: TcpStream) -> Option<String> {
    let answer = talk(&mut stream).await.ok()?;
    let encrypted = answer.starts_with(b"HTTP/1.1 400") || answer.starts_with(&[0x15, 0x03]);
    encrypted.then(|| "it speaks TLS; write https://".to_owned())
}

/// Begins HTTP/2 and reads the first answer.
async fn talk(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<Vec<u8>> {
    stream.write_all(HELLO).await?;
    stream.flush().await?;
    let mut answer = vec![0; 64];
    let read = stream.read(&mut answer).await?;
    answer.truncate(read);
    Ok(answer)
}
