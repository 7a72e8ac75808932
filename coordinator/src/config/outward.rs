//! Services that the settings name: plain text to another machine is refused unless the settings say so.
//!
//! Owns which keys name a service, and the words of the refusal. Never opens a connection. Called when the
//! coordinator starts.

use trainyard_config::ConfigError;
use trainyard_net::is_loopback;
use url::Url;

use super::Config;
use crate::storage;

impl Config {
    /// # Errors
    /// Names the first key whose address is plain and leads to another machine.
    pub(super) fn check_outward(&self) -> Result<(), ConfigError> {
        if self.server.insecure_outward {
            return Ok(());
        }
        let exposed = self.services().into_iter().find(|(_, url)| is_exposed(url));
        let Some((key, url)) = exposed else {
            return Ok(());
        };
        // Not the whole address: its path or query may be a secret, as webhooks have them.
        let url = Url::parse(&url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        Err(ConfigError::Check(format!(
            "{key} begins with http:// and leads to another machine ({host}), so what is sent there could be read on the way, tokens and keys too; use https://, or say server.insecure_outward = true if the network is yours alone"
        )))
    }

    /// Every address of a service with the key that names it.
    fn services(&self) -> Vec<(String, String)> {
        let fixed = [
            ("labeler.url", &self.labeler.url),
            ("oidc.issuer", &self.oidc.issuer),
            ("oidc.jwks_url", &self.oidc.jwks_url),
            ("trackers.mlflow.url", &self.trackers.mlflow.url),
            ("trackers.clearml.url", &self.trackers.clearml.url),
        ];
        let fixed = fixed.map(|(key, url)| (key.to_owned(), url.clone()));
        let hooks = self.trackers.webhooks.iter().enumerate();
        let hooks = hooks.map(|(index, hook)| {
            let key = format!("trackers.webhooks[{index}].url");
            (key, hook.url.clone())
        });
        let stores = self.storage_options.iter().flat_map(|(name, text)| {
            let found = storage::endpoints(text.expose()).into_iter();
            found.map(move |(option, url)| (format!("storage_options.{name} ({option})"), url))
        });
        fixed.into_iter().chain(hooks).chain(stores).collect()
    }
}

/// Whether an address is plain and not of this machine.
#[must_use]
pub(crate) fn is_exposed(text: &str) -> bool {
    let Ok(url) = Url::parse(text.trim()) else {
        return false;
    };
    url.scheme() == "http" && !url.host_str().is_some_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) -> Result<(), String> {
        let owned = pairs
            .iter()
            .map(|(name, value)| (format!("TRAINYARD__{name}"), (*value).to_owned()));
        let config = Config::load(None, owned).map_err(|error| error.to_string())?;
        let checked = config.check_transport(false);
        checked.map_err(|error| error.to_string())
    }

    const SERVICES: [(&str, &str); 6] = [
        ("LABELER__URL", "labeler.url"),
        ("TRACKERS__MLFLOW__URL", "trackers.mlflow.url"),
        ("TRACKERS__CLEARML__URL", "trackers.clearml.url"),
        ("OIDC__ISSUER", "oidc.issuer"),
        ("OIDC__JWKS_URL", "oidc.jwks_url"),
        ("STORAGE_OPTIONS__S3", "storage_options.s3 (endpoint)"),
    ];

    fn with(name: &str, scheme_and_host: &str, more: &[(&str, &str)]) -> Result<(), String> {
        let url = match name {
            "STORAGE_OPTIONS__S3" => {
                format!("endpoint={scheme_and_host} secret_access_key=hunter2")
            }
            _ => scheme_and_host.to_owned(),
        };
        let mut pairs = vec![
            ("TRACKERS__CLEARML__ACCESS_KEY", "a"),
            ("TRACKERS__CLEARML__SECRET_KEY", "b"),
            ("OIDC__AUDIENCE", "c"),
        ];
        if name == "OIDC__JWKS_URL" {
            pairs.push(("OIDC__ISSUER", "https://issuer.example"));
        }
        pairs.extend_from_slice(more);
        pairs.push((name, &url));
        check(&pairs)
    }

    #[test]
    fn plain_text_to_a_service_elsewhere_is_refused_by_the_name_of_its_key() {
        for (name, key) in SERVICES {
            let told = with(name, "http://10.1.2.3:9000", &[]).unwrap_err();
            assert!(
                told.starts_with(&format!("{key} begins with http://")),
                "{told}"
            );
            assert!(told.contains("server.insecure_outward = true"), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
            // A name that only looks like this machine.
            assert!(
                with(name, "http://localhost.example.com", &[]).is_err(),
                "{key}"
            );
        }
    }

    #[test]
    fn this_machine_encryption_and_a_word_of_the_settings_are_enough() {
        let said = ("SERVER__INSECURE_OUTWARD", "true");
        for (name, _) in SERVICES {
            for url in [
                "http://127.0.0.1:9000",
                "http://[::1]:9000",
                "https://s.example",
            ] {
                assert_eq!(with(name, url, &[]), Ok(()), "{name} {url}");
            }
            assert_eq!(
                with(name, "http://10.1.2.3:9000", &[said]),
                Ok(()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_webhook_is_named_by_its_place_and_its_path_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let hook = "[[trackers.webhooks]]\nurl = \"http://hooks.example/T0KEN\"\nsecret = \"s\"";
        std::fs::write(&path, hook).unwrap();
        let config = Config::load(Some(&path), []).unwrap();
        let told = config.check_transport(false).unwrap_err().to_string();
        assert!(
            told.starts_with("trackers.webhooks[0].url begins"),
            "{told}"
        );
        assert!(!told.contains("T0KEN"), "{told}");
    }

    #[test]
    fn a_known_password_is_for_loopback_only_unless_it_is_said() {
        let config = |listen: &str, insecure: &str| {
            let pairs = [
                ("TRAINYARD__SERVER__LISTEN".to_owned(), listen.to_owned()),
                (
                    "TRAINYARD__SERVER__INSECURE".to_owned(),
                    insecure.to_owned(),
                ),
            ];
            Config::load(None, pairs).unwrap()
        };
        let told = config("0.0.0.0:8000", "false").check_transport(true);
        let told = told.unwrap_err().to_string();
        assert!(told.starts_with("--dev makes a user"), "{told}");
        assert!(config("0.0.0.0:8000", "true").check_transport(true).is_ok());
        assert!(
            config("127.0.0.1:8000", "false")
                .check_transport(true)
                .is_ok()
        );
    }
}
