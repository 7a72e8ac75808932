//! How a coordinator is reached: flags, what the last login used, and what is allowed. Owns the
//! choice; never connects. Called by `client`, `login` and the agent's start.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use trainyard_net::{ClientTls, Connection, Place, Plain};

use crate::{args::EVERYWHERE, credentials::Credentials, error::CliError};

/// Whom to trust, what to show, and whether plain text may leave this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Transport {
    /// Trust a coordinator whose certificate is of this authority [default: that of the login, else the system's]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TRAINYARD_TLS_CA",
        help_heading = EVERYWHERE
    )]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This program's own certificate: the coordinator's, or a client's for mutual TLS
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub(crate) tls_key: Option<PathBuf>,
    /// Let plain text leave this machine; whoever listens can read every token
    #[arg(long, global = true, env = "TRAINYARD_INSECURE", help_heading = EVERYWHERE)]
    pub(crate) insecure: bool,
}

impl Transport {
    /// The way to `text`; what was not said now is as at the login there.
    ///
    /// # Errors
    /// When it is no address, plain text that nobody has allowed, or a file is of no use.
    pub(crate) fn connection(
        &self,
        text: &str,
        kept: &Credentials,
    ) -> Result<Connection, CliError> {
        let plain = Place::parse(text, true)?;
        let agreed = kept.transport.get(plain.url());
        let insecure = self.insecure || agreed.is_some_and(|agreed| agreed.insecure);
        let place = Place::parse(text, insecure)?;
        let said = self.or(kept.transport.get(place.url()));
        let allowed = if insecure {
            Plain::Anywhere
        } else {
            Plain::Loopback
        };
        Ok(Connection::new(place.url(), said.client(), allowed)?)
    }

    /// With what is missing from `other`.
    fn or(&self, other: Option<&Self>) -> Self {
        let Some(other) = other else {
            return self.clone();
        };
        let pair = match self.tls_cert.is_some() || self.tls_key.is_some() {
            true => self,
            false => other,
        };
        Self {
            tls_ca: self.tls_ca.clone().or_else(|| other.tls_ca.clone()),
            tls_cert: pair.tls_cert.clone(),
            tls_key: pair.tls_key.clone(),
            insecure: self.insecure || other.insecure,
        }
    }

    /// The certificates, for a connection.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
        }
    }

    /// Keeps what was said for `url`, so that it need not be said again.
    pub(crate) fn keep(&self, url: &str, kept: &mut Credentials) {
        let said = self.or(kept.transport.get(url));
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let said = Self {
            tls_ca: said.tls_ca.as_ref().map(absolute),
            tls_cert: said.tls_cert.as_ref().map(absolute),
            tls_key: said.tls_key.as_ref().map(absolute),
            insecure: said.insecure,
        };
        if said == Self::default() {
            kept.transport.remove(url);
        } else {
            kept.transport.insert(url.to_owned(), said);
        }
    }

    /// What an agent uses: flags, else its settings.
    pub(crate) fn or_settings(
        &self,
        tls: &trainyard_agent::config::Tls,
        insecure: bool,
    ) -> (ClientTls, Plain) {
        let settings = Self {
            tls_ca: tls.ca.clone(),
            tls_cert: tls.cert.clone(),
            tls_key: tls.key.clone(),
            insecure,
        };
        let said = self.or(Some(&settings));
        let plain = if said.insecure {
            Plain::Anywhere
        } else {
            Plain::Loopback
        };
        (said.client(), plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn what_the_login_used_need_not_be_said_again() {
        let mut kept = Credentials::default();
        let nothing = Transport::default();
        let error = nothing.connection("http://c:1", &kept).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("--insecure"), "{error}");
        let said = Transport {
            insecure: true,
            ..Transport::default()
        };
        assert_eq!(said.connection("c:1", &kept).unwrap().url(), "http://c:1");
        said.keep("http://c:1", &mut kept);
        assert!(nothing.connection("http://c:1", &kept).is_ok());
        assert!(nothing.connection("http://d:1", &kept).is_err());
    }

    #[test]
    fn a_ca_that_is_not_there_is_named() {
        let said = Transport {
            tls_ca: Some("/nowhere/ca.pem".into()),
            ..Transport::default()
        };
        let error = said
            .connection("https://c:1", &Credentials::default())
            .unwrap_err();
        assert_eq!(error.exit(), Exit::Configuration);
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}
