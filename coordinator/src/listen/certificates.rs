//! The coordinator's certificate, and whom of its clients it asks for theirs.
//!
//! Owns reading the files, and reading them again when they change (or at SIGHUP): connections that
//! stand keep theirs, and files that are of no use change nothing. Used by `accept`.

use std::{
    fs,
    path::Path,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::rustls::{
    self, ServerConfig,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_util::sync::CancellationToken;
use trainyard_net::{TlsError, pem};

use crate::config::{ClientCert, Tls};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The certificate that a client has shown, and that is of an authority in `tls.client_ca`. An
/// extension of each of its requests.
#[derive(Clone, Debug)]
pub struct PeerCertificate(Arc<CertificateDer<'static>>);

impl PeerCertificate {
    pub(super) fn new(der: CertificateDer<'static>) -> Self {
        Self(Arc::new(der))
    }

    /// Whether it is for this name.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        let (Ok(certificate), Ok(name)) = (
            ParsedCertificate::try_from(&*self.0),
            ServerName::try_from(name),
        ) else {
            return false;
        };
        verify_server_name(&certificate, &name).is_ok()
    }
}

/// The certificate in use.
pub(crate) struct Certificates {
    files: Tls,
    current: RwLock<Arc<ServerConfig>>,
}

impl Certificates {
    /// Reads the files; none where no certificate is set.
    ///
    /// # Errors
    /// Names the file that is of no use.
    pub(crate) fn load(files: &Tls) -> Result<Option<Self>, TlsError> {
        if !files.is_on() {
            return Ok(None);
        }
        Ok(Some(Self {
            current: RwLock::new(config(files)?),
            files: files.clone(),
        }))
    }

    /// For the next handshake.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        match self.current.read() {
            Ok(current) => Arc::clone(&current),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        }
    }

    /// Reads the files again when they change, until `closing`.
    pub(super) async fn watch(self: Arc<Self>, closing: CancellationToken) {
        let mut asked = signal(SignalKind::hangup()).ok();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.stamp().await;
        loop {
            let hangup = async {
                match &mut asked {
                    Some(asked) => asked.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = tick.tick() => {}
                _ = hangup => tracing::info!("asked to read the certificates again"),
                () = closing.cancelled() => return,
            }
            let now = self.stamp().await;
            if now != seen {
                seen = now;
                self.reload().await;
            }
        }
    }

    async fn reload(&self) {
        let files = self.files.clone();
        let read = trainyard_runtime::blocking(move || config(&files)).await;
        match read {
            Ok(Ok(fresh)) => {
                match self.current.write() {
                    Ok(mut current) => *current = fresh,
                    Err(poisoned) => *poisoned.into_inner() = fresh,
                }
                tracing::info!("new certificates are in use; connections that stand go on");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the changed certificates are of no use; the old ones stay");
            }
            Err(error) => tracing::error!(%error, "the certificates could not be read again"),
        }
    }

    /// What changes when a file does.
    async fn stamp(&self) -> Vec<Option<(SystemTime, u64)>> {
        let files = [&self.files.cert, &self.files.key, &self.files.client_ca];
        let files = files.map(|path| path.to_path_buf());
        let look = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        let looked = move || files.iter().map(|path| look(path)).collect();
        trainyard_runtime::blocking(looked)
            .await
            .unwrap_or_default()
    }
}

fn config(files: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Make(error.to_string()))?;
    let builder = match files.asks_clients() {
        true => builder.with_client_cert_verifier(verifier(files, provider)?),
        false => builder.with_no_client_auth(),
    };
    let made = builder.with_single_cert(pem::chain(&files.cert)?, pem::key(&files.key)?);
    let mut config = made.map_err(|error| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn verifier(
    files: &Tls,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(pem::roots(&files.client_ca)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    let builder = match files.require_client_cert {
        ClientCert::Everybody => builder,
        ClientCert::Nobody | ClientCert::Agents => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::Content {
        what: "certificate of an authority",
        path: files.client_ca.clone(),
        reason: error.to_string(),
    })
}
