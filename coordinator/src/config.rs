//! The coordinator's settings: shipped defaults, then a file, then the environment.
//!
//! Owns their names, types and checks. Never reads the environment by itself and never uses a
//! setting. Called once by the binary before anything starts.

mod access;
mod datasets;
mod http;
mod outward;
mod scheduling;
mod tls;
mod trackers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use access::{Login, OidcConfig};
pub use datasets::{DatasetsConfig, LabelerConfig, Provider, StorageConfig};
pub use http::Http;
pub(crate) use outward::is_exposed;
pub use scheduling::{PolicyName, ProjectConfig, Scheduling};
use serde::Deserialize;
pub use tls::{ClientCert, Tls};
use trainyard_config::Shipped;
pub use trainyard_config::{ConfigError, Secret};
use trainyard_core::{node::Lease, retention::Retention};

pub use trackers::{ClearmlConfig, EVENTS, MlflowConfig, TrackersConfig, WebhookConfig};

/// The shipped defaults, every key with a comment.
pub const DEFAULTS: &str = include_str!("../../config/coordinator.toml");

/// What variables of the environment that set a key start with.
pub const ENV_PREFIX: &str = "TRAINYARD__";

/// All settings of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it is reached.
    pub server: Server,
    /// Certificates.
    pub tls: Tls,
    /// Where it remembers.
    pub store: StoreConfig,
    /// For how long it remembers.
    pub retention: RetentionConfig,
    /// Who may use it.
    pub auth: Auth,
    /// How often logins may fail.
    pub login: Login,
    /// Whose tokens are taken beside our own.
    pub oidc: OidcConfig,
    /// How long a silent node is believed.
    pub leases: Leases,
    /// When a node gets no more jobs.
    pub nodes: NodesConfig,
    /// Who starts where, and who makes room.
    pub scheduling: Scheduling,
    /// How much it takes.
    pub limits: Limits,
    /// What is asked of HTTP clients.
    pub http: Http,
    /// Where runs are told to others.
    pub trackers: TrackersConfig,
    /// Where snapshots' metadata and checkpoints lie.
    pub storage: StorageConfig,
    /// Options of object stores by scheme or bucket.
    pub storage_options: BTreeMap<String, Secret>,
    /// Where datasets come from.
    pub datasets: DatasetsConfig,
    /// The service that owns datasets, if it does.
    pub labeler: LabelerConfig,
}

/// Where the coordinator is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port of REST and gRPC.
    pub listen: SocketAddr,
    /// Plain text may leave this machine.
    pub insecure: bool,
    /// Services that settings name may be called in plain text on other machines.
    pub insecure_outward: bool,
    /// Connections at once.
    pub connections: u32,
    /// Connections from one address at once.
    pub connections_per_address: u32,
    /// TLS handshakes at once.
    pub handshakes: u32,
    /// How long one may take, in seconds.
    pub handshake_timeout_seconds: u32,
    /// How long a connection may ask for nothing, or take to ask, in seconds.
    pub header_timeout_seconds: u32,
    /// How long a connection may ask for nothing more, in seconds.
    pub idle_timeout_seconds: u32,
    /// How long a client may take nothing of its answer, in seconds.
    pub stall_timeout_seconds: u32,
}

/// Where the coordinator remembers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The folder.
    pub data_dir: PathBuf,
    /// Memory for cached pages in MiB.
    pub cache_mib: u32,
    /// Free space in MiB below which new jobs are refused.
    pub reserve_mib: u64,
}

/// How long points and lines of jobs that have ended are kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// Points, in days after the job's end; 0 for ever.
    pub points_days: u32,
    /// Lines, in days after the job's end; 0 for ever.
    pub logs_days: u32,
    /// Both of all jobs together, in GiB; 0 for any number.
    pub max_gib: u32,
    /// Keys of submissions, in days after their jobs were accepted; 0 for ever.
    pub idempotency_keys_days: u32,
    /// What was decided, in days; 0 for ever.
    pub events_days: u32,
    /// Rows of what was decided; 0 for any number.
    pub events_most: u32,
}

/// Who may use the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Life of an access token in minutes.
    pub access_token_minutes: u32,
    /// Life of a refresh token in days.
    pub refresh_token_days: u32,
    /// The user created when there is none; empty for nobody.
    pub first_user_email: String,
    /// Its password.
    pub first_user_password: Secret,
    /// A join token without an end; empty for none.
    pub join_token: Secret,
    /// Anyone may register, as a guest.
    pub open_registration: bool,
    /// Anyone may read jobs, without a token.
    pub open_reads: bool,
}

/// How long a silent node is believed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// Silence in seconds after which a node is suspect, at the latest: it is 50 ms earlier.
    pub suspect_after_seconds: u32,
    /// Silence in seconds after which it is lost.
    pub lost_after_seconds: u32,
}

/// When a node gets no more jobs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodesConfig {
    /// After so many launches in a row that failed by the node's fault; 0 for never.
    pub cordon_after_failures: u32,
    /// For how long a gang waits for a rank that says nothing new.
    pub gang_patience_seconds: u32,
}

/// How much the coordinator takes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Jobs that have not ended.
    pub open_jobs: u32,
    /// The body of a request in MiB.
    pub request_mib: u32,
    /// Streams followed at once.
    pub streams: u32,
    /// Of them by one caller.
    pub streams_per_caller: u32,
    /// Rows on a page.
    pub page_rows: u32,
}

const SHIPPED: Shipped = Shipped {
    defaults: DEFAULTS,
    env_prefix: ENV_PREFIX,
    may_be_zero: &[
        "nodes.cordon_after_failures",
        "store.reserve_mib",
        "retention.points_days",
        "retention.logs_days",
        "retention.max_gib",
        "retention.idempotency_keys_days",
        "retention.events_days",
        "retention.events_most",
        "scheduling.restart_cost_seconds",
        "scheduling.settled_seconds",
        "scheduling.patience_hours",
        "scheduling.fair_share_percent",
        "scheduling.projects.*.gpus",
        "scheduling.projects.*.gpu_hours",
        "scheduling.projects.*.running",
        "scheduling.projects.*.queued",
    ],
    open_sections: &["storage_options"],
    open_tables: &[("scheduling.projects", scheduling::PROJECT)],
    texts: &[
        ("server.listen", address),
        ("store.data_dir", folder),
        ("storage.artifacts", datasets::artifacts),
        ("storage.public_url", datasets::web),
        ("datasets.provider", datasets::provider),
        ("datasets.local_roots", datasets::roots),
        ("datasets.allow_private_urls", datasets::networks),
        ("labeler.url", datasets::web),
        ("labeler.storage_root", datasets::artifacts),
        ("http.cors_origins", http::origins),
        ("login.trusted_proxies", access::networks),
        ("tls.require_client_cert", tls::who),
        ("scheduling.policy", scheduling::policies),
        ("scheduling.rank", scheduling::ranks),
        ("scheduling.reserve", scheduling::reserves),
        ("scheduling.projects.*.gpu_hours_per", scheduling::periods),
    ],
};

fn address(text: &str) -> Option<&'static str> {
    let parsed = text.parse::<SocketAddr>();
    let expected = "an address with a port, such as 127.0.0.1:8000";
    parsed.is_err().then_some(expected)
}

fn folder(text: &str) -> Option<&'static str> {
    text.is_empty().then_some("the path of a folder")
}

impl Config {
    /// The defaults, changed by `file`, changed by the variables `TRAINYARD__SECTION__KEY` in `env`.
    ///
    /// # Errors
    /// Names the file or variable, the key, and what is expected.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let config: Self = trainyard_config::load(&SHIPPED, file, env)?;
        config.check()?;
        Ok(config)
    }

    /// The file of the store.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.store.data_dir.join("trainyard.redb")
    }

    /// The spans of a node's lease.
    #[must_use]
    pub fn lease(&self) -> Lease {
        let seconds = |n: u32| std::time::Duration::from_secs(u64::from(n));
        Lease {
            suspect_after: seconds(self.leases.suspect_after_seconds),
            lost_after: seconds(self.leases.lost_after_seconds),
        }
    }

    /// For how long a gang waits for a rank that says nothing new.
    #[must_use]
    pub fn gang_patience(&self) -> Duration {
        Duration::from_secs(u64::from(self.nodes.gang_patience_seconds))
    }

    /// What is to be removed, and when.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let asked = |n: u32| (n > 0).then_some(u64::from(n));
        let days = |n| asked(n).map(|days| Duration::from_secs(days * 86_400));
        Retention {
            points: days(self.retention.points_days),
            lines: days(self.retention.logs_days),
            bytes: asked(self.retention.max_gib).map(|gib| gib << 30),
            keys: days(self.retention.idempotency_keys_days),
            events: days(self.retention.events_days),
            events_most: asked(self.retention.events_most),
        }
    }

    /// What flags may have changed since the settings were loaded; with `dev` there is a user with a
    /// password that everybody knows.
    ///
    /// # Errors
    /// When plain text would leave this machine and nobody has said so, or the known password would be
    /// good from elsewhere; when files of TLS are missing.
    pub fn check_transport(&self, dev: bool) -> Result<(), ConfigError> {
        self.tls.check()?;
        self.check_outward()?;
        let listen = self.server.listen;
        let exposed = !listen.ip().to_canonical().is_loopback();
        if exposed && dev && !self.server.insecure {
            return Err(ConfigError::Check(format!(
                "--dev makes a user whose password everybody knows, and server.listen is {listen}, which other machines reach; leave --dev out and set auth.first_user_email and auth.first_user_password, listen on 127.0.0.1, or say --insecure (server.insecure = true) if the network is yours alone"
            )));
        }
        if exposed && !self.tls.is_on() && !self.server.insecure {
            return Err(ConfigError::Check(format!(
                "server.listen is {listen}, which other machines reach, and nothing is encrypted: tokens could be read on the way; make certificates with `trainyard tls init` and give --tls-cert and --tls-key, or say --insecure (server.insecure = true) if the network is yours alone"
            )));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Leases {
            suspect_after_seconds: suspect,
            lost_after_seconds: lost,
        } = self.leases;
        if suspect >= lost {
            return Err(ConfigError::Check(format!(
                "leases.lost_after_seconds is {lost} and must be above leases.suspect_after_seconds, which is {suspect}"
            )));
        }
        let auth = &self.auth;
        if !auth.first_user_email.is_empty() && auth.first_user_password.expose().is_empty() {
            return Err(ConfigError::Check(
                "auth.first_user_email is set and auth.first_user_password is empty; set both, for example with TRAINYARD__AUTH__FIRST_USER_PASSWORD".to_owned(),
            ));
        }
        self.check_datasets()?;
        self.oidc.check()?;
        self.scheduling.check()?;
        self.trackers.check()
    }
}

#[cfg(test)]
mod tests;
