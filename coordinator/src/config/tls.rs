//! The settings of encryption. Never reads a file. Checked with all other settings.

use std::path::PathBuf;

use serde::Deserialize;
use trainyard_config::ConfigError;

/// Certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The coordinator's certificate; empty for plain text.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of clients' certificates; empty asks for none.
    pub client_ca: PathBuf,
    /// Who must show one.
    pub require_client_cert: ClientCert,
    /// An agent's certificate must be for the name of its node.
    pub client_cert_names_node: bool,
}

/// Who must show a certificate, where `tls.client_ca` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCert {
    /// Whoever wants to.
    Nobody,
    /// Agents.
    Agents,
    /// Whoever connects.
    Everybody,
}

impl Tls {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }

    /// Whether clients are asked for a certificate.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        !self.client_ca.as_os_str().is_empty()
    }

    /// Whether an agent without a certificate is refused.
    #[must_use]
    pub fn agents_must_show(&self) -> bool {
        self.asks_clients() && self.require_client_cert != ClientCert::Nobody
    }

    /// # Errors
    /// Names the key that lacks another.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |words: &str| Err(ConfigError::Check(words.to_owned()));
        match (self.is_on(), !self.key.as_os_str().is_empty()) {
            (true, false) => {
                return wrong(
                    "tls.cert is set and tls.key is empty; set both (--tls-cert, --tls-key)",
                );
            }
            (false, true) => {
                return wrong(
                    "tls.key is set and tls.cert is empty; set both (--tls-cert, --tls-key)",
                );
            }
            (true, true) | (false, false) => {}
        }
        if self.asks_clients() && !self.is_on() {
            return wrong(
                "tls.client_ca is set and tls.cert is empty; clients show certificates only over TLS",
            );
        }
        if self.client_cert_names_node && !self.agents_must_show() {
            return wrong(
                "tls.client_cert_names_node is true, so agents must show certificates; set tls.client_ca, and tls.require_client_cert to agents or everybody",
            );
        }
        Ok(())
    }
}

/// The rule of `tls.require_client_cert`.
pub(super) fn who(text: &str) -> Option<&'static str> {
    let known = ["nobody", "agents", "everybody"].contains(&text);
    (!known).then_some("nobody, agents or everybody")
}
