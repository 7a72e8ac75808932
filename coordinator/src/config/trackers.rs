//! Settings of the trackers: where runs, points and changes of jobs are told to others.
//!
//! Owns their keys and checks. All of them are off until their address is set. Never opens a
//! connection. Part of the coordinator's settings.

use serde::Deserialize;
use trainyard_config::{ConfigError, Secret};

/// `[trackers]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackersConfig {
    /// An MLflow tracking server.
    pub mlflow: MlflowConfig,
    /// A ClearML server.
    pub clearml: ClearmlConfig,
    /// Receivers of changes; none by default.
    pub webhooks: Vec<WebhookConfig>,
}

/// `[trackers.mlflow]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlflowConfig {
    /// Base address, without `/api`; empty is off.
    pub url: String,
    /// The experiment of jobs without a project, and what those of projects start with.
    pub experiment: String,
    /// A bearer token; empty for none.
    pub token: Secret,
    /// A user for basic authentication; empty for none.
    pub username: String,
    /// That user's password.
    pub password: Secret,
}

/// `[trackers.clearml]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearmlConfig {
    /// Address of the API server; empty is off.
    pub url: String,
    /// The project of jobs without a project, and what those of projects start with.
    pub project: String,
    /// The access key of the credentials.
    pub access_key: String,
    /// Their secret.
    pub secret_key: Secret,
}

/// One of `[[trackers.webhooks]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where deliveries are posted.
    pub url: String,
    /// What signs them.
    pub secret: Secret,
    /// Which changes; empty or left out takes all.
    #[serde(default)]
    pub events: Vec<String>,
    /// A name for people, unique; left out, one is made of the address.
    #[serde(default)]
    pub name: String,
}

/// The changes that webhooks can ask for.
pub const EVENTS: [&str; 7] = [
    "submitted",
    "started",
    "checkpoint",
    "retried",
    "completed",
    "failed",
    "cancelled",
];

impl WebhookConfig {
    /// Under which name it is shown and remembered.
    #[must_use]
    pub fn shown_name(&self) -> String {
        if self.name.is_empty() {
            let hash = blake3::hash(self.url.as_bytes()).to_hex();
            format!("webhook-{}", hash.chars().take(8).collect::<String>())
        } else {
            self.name.clone()
        }
    }
}

impl TrackersConfig {
    /// Whether the settings fit together.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, url) in [
            ("trackers.mlflow.url", &self.mlflow.url),
            ("trackers.clearml.url", &self.clearml.url),
        ] {
            if !url.is_empty() {
                address(key, url)?;
            }
        }
        let clearml = &self.clearml;
        let no_keys = clearml.access_key.is_empty() || clearml.secret_key.expose().is_empty();
        if !clearml.url.is_empty() && no_keys {
            return refused(
                "trackers.clearml.url is set, so access_key and secret_key must be too; make them in ClearML under Settings, Workspace",
            );
        }
        let mlflow = &self.mlflow;
        if !mlflow.token.expose().is_empty() && !mlflow.username.is_empty() {
            return refused(
                "trackers.mlflow has both a token and a username; give the one that the server takes",
            );
        }
        self.check_webhooks()
    }

    fn check_webhooks(&self) -> Result<(), ConfigError> {
        let mut names = vec!["mlflow".to_owned(), "clearml".to_owned()];
        for (index, hook) in self.webhooks.iter().enumerate() {
            let key = format!("trackers.webhooks[{index}]");
            address(&format!("{key}.url"), &hook.url)?;
            if hook.secret.expose().is_empty() {
                return refused(&format!(
                    "{key}.secret is empty; give a random text, such as of `openssl rand -hex 32`, and the same to the receiver"
                ));
            }
            let unknown = |event: &&String| !EVENTS.contains(&event.as_str());
            if let Some(event) = hook.events.iter().find(unknown) {
                let known = EVENTS.join(", ");
                return refused(&format!("{key}.events has '{event}'; known are {known}"));
            }
            let name = hook.shown_name();
            let fits = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !fits || names.contains(&name) {
                return refused(&format!(
                    "{key}.name '{name}' is taken or has other characters than letters, digits, '-', '_' and '.'; give a name of its own"
                ));
            }
            names.push(name);
        }
        Ok(())
    }
}

fn address(key: &str, text: &str) -> Result<(), ConfigError> {
    let parsed = url::Url::parse(text).ok();
    let fits = parsed.is_some_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if fits {
        return Ok(());
    }
    // The text may hold a password, so it is not shown.
    refused(&format!(
        "{key} must be an http or https address with a host and without a user or password in it"
    ))
}

fn refused(words: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Check(words.to_owned()))
}
