//! The client's end: whom it trusts, what it shows, and the one way to connect.
//!
//! Files are read at each connection, so that a renewed certificate needs no restart. Never keeps a
//! connection and adds no token: whoever calls does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::{Place, PlaceError, TlsError, pem, words};

/// How long a TCP connection to one address may take.
const CONNECT: Duration = Duration::from_secs(5);

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

/// The way to a coordinator. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Connection {
    place: Place,
    tls: ClientTls,
    endpoint: Endpoint,
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
        })
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
        connected.map_err(|error| ConnectError(self.words(&error)))
    }

    /// What an error of this connection means, also of one that broke later.
    #[must_use]
    pub fn words(&self, error: &(dyn std::error::Error + 'static)) -> String {
        if let Some(said) = words::explain(error) {
            return said;
        }
        let cause = words::root_cause(error);
        match words::is_garbled(error) && !self.place.is_tls() {
            true => format!("{cause}; if it speaks TLS, write https://"),
            false => cause,
        }
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
