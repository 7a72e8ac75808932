//! The agent's settings: shipped defaults, then a file, then the environment.
//!
//! Owns their names and checks. Never reads the environment by itself and never uses a setting.
//! Called once by the binary before anything starts; flags go before all of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

mod datasets;

pub use datasets::{CheckpointsConfig, DatasetsConfig};
use serde::Deserialize;
pub use trainyard_config::ConfigError;
use trainyard_config::{Secret, Shipped};
use trainyard_core::{device::GivingBack, label};

use crate::ports::PortRange;

/// The shipped defaults, every key with a comment.
pub const DEFAULTS: &str = include_str!("../../config/agent.toml");

/// What variables of the environment that set a key start with.
pub const ENV_PREFIX: &str = "TRAINYARD_AGENT__";

/// All settings of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whom it works for.
    pub coordinator: Coordinator,
    /// Certificates.
    pub tls: Tls,
    /// Who it is.
    pub node: NodeConfig,
    /// How gangs meet.
    pub gang: GangConfig,
    /// When GPUs are free.
    pub gpus: GpusConfig,
    /// How datasets come.
    pub datasets: DatasetsConfig,
    /// How checkpoints go.
    pub checkpoints: CheckpointsConfig,
    /// What its operator says about it.
    pub labels: BTreeMap<String, String>,
}

/// Whom the agent works for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coordinator {
    /// `https://host:port`, or `http://` on this machine.
    pub url: String,
    /// A join token; empty when it is given otherwise or the agent has joined.
    pub token: Secret,
    /// Plain text may leave this machine.
    pub insecure: bool,
}

/// Certificates; empty paths for none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authority that the coordinator's certificate must be of, where it is not the system's.
    #[serde(deserialize_with = "folder")]
    pub ca: Option<PathBuf>,
    /// The agent's own certificate, where it has one.
    #[serde(deserialize_with = "folder")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(deserialize_with = "folder")]
    pub key: Option<PathBuf>,
}

/// Who the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name, where one is set.
    #[serde(deserialize_with = "given")]
    pub name: Option<String>,
    /// Where it remembers.
    pub data_dir: PathBuf,
    /// Where other nodes reach it, where that is set.
    #[serde(deserialize_with = "given")]
    pub address: Option<String>,
    /// CPU slots to offer, where they are set.
    #[serde(deserialize_with = "above_zero")]
    pub slots: Option<u32>,
    /// What a task may tell before the coordinator takes it, in MiB; beyond half of it metrics are thinned.
    pub spool_mib: u64,
    /// No new task is taken while less is free on the disk of the data folder, in MiB; of a small disk a twentieth.
    pub reserve_mib: u64,
    /// The operator's own trainers, where there are some.
    #[serde(deserialize_with = "folder")]
    pub trainers_dir: Option<PathBuf>,
}

/// How the nodes of a gang meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GangConfig {
    /// Where, on the node of rank 0.
    pub ports: PortRange,
}

/// When a GPU that a job has left is given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpusConfig {
    /// Memory in use below this many MiB is nobody's.
    pub free_below_mib: u32,
    /// For how many seconds it is waited for; 0 for not at all.
    pub free_within_seconds: u32,
}

impl GpusConfig {
    /// As the agent takes it.
    #[must_use]
    pub fn giving_back(self) -> GivingBack {
        GivingBack {
            free_below: u64::from(self.free_below_mib) << 20,
            patience: Duration::from_secs(self.free_within_seconds.into()),
        }
    }
}

fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn folder<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(given(from)?.map(PathBuf::from))
}

fn above_zero<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    Ok(Some(u32::deserialize(from)?).filter(|number| *number > 0))
}

const SHIPPED: Shipped = Shipped {
    defaults: DEFAULTS,
    env_prefix: ENV_PREFIX,
    may_be_zero: &[
        "node.slots",
        "node.reserve_mib",
        "checkpoints.every_seconds",
        "gpus.free_within_seconds",
    ],
    open_sections: &["labels"],
    open_tables: &[],
    texts: &[
        ("node.data_dir", path),
        ("node.address", address),
        ("gang.ports", ports),
    ],
};

/// It stands in lists and in options of a command line.
fn address(text: &str) -> Option<&'static str> {
    let sound = |one: char| one.is_ascii_alphanumeric() || ".:-_".contains(one);
    let wanted = "an IP address or the name of a host, without port";
    (!text.chars().all(sound)).then_some(wanted)
}

fn ports(text: &str) -> Option<&'static str> {
    let wanted =
        "two ports from 1 to 65535 with a hyphen between, the lower one first, such as 29500-29999";
    text.parse::<PortRange>().err().map(|_| wanted)
}

fn path(text: &str) -> Option<&'static str> {
    text.is_empty().then_some("the path of a folder")
}

impl Config {
    /// The defaults, changed by `file`, changed by the variables `TRAINYARD_AGENT__SECTION__KEY` in
    /// `env`.
    ///
    /// # Errors
    /// Names the file or variable, the key, and what is expected.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let config: Self = trainyard_config::load(&SHIPPED, file, env)?;
        let mut labels = config.labels.iter();
        match labels.find_map(|(key, value)| label::problem_of(key, value)) {
            Some(words) => Err(ConfigError::Check(format!("[labels]: {words}"))),
            None => Ok(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> Config {
        let file = file(text);
        Config::load(Some(file.path()), []).unwrap()
    }

    fn file_error(text: &str) -> String {
        let file = file(text);
        let error = Config::load(Some(file.path()), []).unwrap_err();
        error.to_string()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_shipped_defaults_have_every_key_and_what_is_empty_is_not_given() {
        let config = Config::load(None, []).unwrap();
        assert_eq!(config.coordinator.url, "http://127.0.0.1:8000");
        assert_eq!(config.node.data_dir, Path::new("agent-data"));
        assert_eq!((config.node.name, config.node.slots), (None, None));
        assert_eq!(config.node.trainers_dir, None);
        assert!(config.labels.is_empty());
    }

    #[test]
    fn an_address_and_a_range_of_ports_are_checked_in_words() {
        let config = Config::load(None, []).unwrap();
        assert_eq!(config.node.address, None);
        assert_eq!(config.gang.ports, PortRange::default());
        let config = of_file("[node]\naddress = \"fd00::9\"\n[gang]\nports = \"7000-7009\"");
        assert_eq!(config.node.address.as_deref(), Some("fd00::9"));
        assert_eq!(config.gang.ports.to_string(), "7000-7009");
        let error = file_error("[gang]\nports = \"29500\"");
        assert!(
            error.contains("'gang.ports'") && error.contains("29500-29999"),
            "{error}"
        );
        let error = file_error("[node]\naddress = \"10.0.0.1, 10.0.0.2\"");
        assert!(
            error.contains("'node.address'") && error.contains("without port"),
            "{error}"
        );
    }

    #[test]
    fn any_label_may_stand_there_and_all_other_keys_are_known() {
        let config = of_file("[node]\nslots = 8\n[labels]\nroom = \"7\"");
        assert_eq!(config.node.slots, Some(8));
        assert_eq!(config.labels["room"], "7");
        let error = file_error("[node]\nslot = 8");
        assert!(error.ends_with("did you mean 'node.slots'?"), "{error}");
        let error = file_error("[labels]\n\"my room\" = \"7\"");
        assert!(
            error.contains("'my room' is not the key of a label"),
            "{error}"
        );
        let error = file_error("[labels]\nroom = 7");
        assert!(error.contains("key 'labels.room' in "), "{error}");
    }

    #[test]
    fn the_environment_goes_first_and_the_token_is_never_shown() {
        let variable = ("TRAINYARD_AGENT__COORDINATOR__TOKEN", "hunter2");
        let of_coordinator = ("TRAINYARD__STORE__CACHE_MIB", "9");
        let env = [variable, of_coordinator].map(|(name, text)| (name.into(), text.into()));
        let config = Config::load(None, env).unwrap();
        assert_eq!(config.coordinator.token.expose(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
        let error = file_error("[coordinator]\ntoken = 12345");
        assert!(!error.contains("12345"), "{error}");
    }
}
