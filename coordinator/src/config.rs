//! The coordinator's settings: shipped defaults, then a file, then the environment.
//!
//! Owns their names, types and checks. Never reads the environment by itself and never uses a
//! setting. Called once by the binary before anything starts.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};
use trainyard_core::node::Lease;

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
    /// Where it remembers.
    pub store: StoreConfig,
    /// Who may use it.
    pub auth: Auth,
    /// How long a silent node is believed.
    pub leases: Leases,
    /// How much it takes.
    pub limits: Limits,
}

/// Where the coordinator is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port of REST and gRPC.
    pub listen: SocketAddr,
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
    /// What agents must show; empty draws one and keeps it.
    pub join_token: Secret,
}

/// How long a silent node is believed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// Silence in seconds after which a node is suspect.
    pub suspect_after_seconds: u32,
    /// Silence in seconds after which it is lost.
    pub lost_after_seconds: u32,
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
    /// Rows on a page.
    pub page_rows: u32,
    /// Bytes of a line of a log.
    pub log_line_bytes: u32,
}

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why the settings could not be taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error(
        "cannot read the configuration file {}: {source}; check the path, or start without one to use the defaults",
        .path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: {source}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("unknown key '{key}' in {origin}; did you mean '{nearest}'?")]
    UnknownKey {
        /// The key with its section.
        key: String,
        /// The file or the variable.
        origin: String,
        /// The known key that is most like it.
        nearest: String,
    },
    /// A value of another type, or out of range.
    #[error("key '{key}' in {origin} must be {expected}, not {found}")]
    WrongValue {
        /// The key with its section.
        key: String,
        /// The file or the variable.
        origin: String,
        /// What is expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value that the settings together do not allow.
    #[error("{0}")]
    Check(String),
    /// The shipped defaults do not fit the code.
    #[error("the shipped defaults are broken: {0}; report this")]
    Defaults(#[source] Box<toml::de::Error>),
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
        let mut merged: Table = parse(DEFAULTS)?;
        if let Some(path) = file {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
                path: path.to_path_buf(),
                source,
            })?;
            let table: Table = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
                path: path.to_path_buf(),
                source: Box::new(source),
            })?;
            merge_file(&mut merged, table, &path.display().to_string())?;
        }
        for (name, text) in env {
            if let Some(key) = name.strip_prefix(ENV_PREFIX) {
                let key = key.to_lowercase().replacen("__", ".", 1);
                merge_variable(&mut merged, &key, text, &name)?;
            }
        }
        let config: Self = Value::Table(merged)
            .try_into()
            .map_err(|error| ConfigError::Defaults(Box::new(error)))?;
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
        Ok(())
    }
}

fn parse(text: &str) -> Result<Table, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Defaults(Box::new(error)))
}

fn merge_file(merged: &mut Table, file: Table, origin: &str) -> Result<(), ConfigError> {
    for (section, value) in file {
        if !merged.contains_key(&section) {
            return Err(unknown(merged, &section, origin));
        }
        let Value::Table(keys) = value else {
            return Err(wrong(&section, origin, "a section", &value));
        };
        for (name, value) in keys {
            let key = format!("{section}.{name}");
            let Some(slot) = slot(merged, &key) else {
                return Err(unknown(merged, &key, origin));
            };
            put(slot, value, &key, origin)?;
        }
    }
    Ok(())
}

fn merge_variable(
    merged: &mut Table,
    key: &str,
    text: String,
    variable: &str,
) -> Result<(), ConfigError> {
    let origin = format!("the environment ({variable})");
    let Some(slot) = slot(merged, key) else {
        return Err(unknown(merged, key, &origin));
    };
    let value = if slot.is_integer() {
        text.parse().map(Value::Integer).ok()
    } else {
        None
    };
    put(slot, value.unwrap_or(Value::String(text)), key, &origin)
}

/// The value of `section.key`; none when there is no such key.
fn slot<'t>(merged: &'t mut Table, key: &str) -> Option<&'t mut Value> {
    let (section, name) = key.split_once('.')?;
    merged.get_mut(section)?.as_table_mut()?.get_mut(name)
}

/// Replaces a value by one of the same type and in range.
fn put(slot: &mut Value, value: Value, key: &str, origin: &str) -> Result<(), ConfigError> {
    let least = i64::from(!ZERO_ALLOWED.contains(&key));
    let expected = match (&*slot, &value) {
        (Value::Integer(_), Value::Integer(n)) if (least..=MOST).contains(n) => None,
        (Value::Integer(_), _) => Some(format!("a whole number from {least} to {MOST}")),
        (Value::String(_), Value::String(text)) if key == "server.listen" => text
            .parse::<SocketAddr>()
            .is_err()
            .then(|| "an address with a port, such as 127.0.0.1:8000".to_owned()),
        (Value::String(_), Value::String(text)) if key == "store.data_dir" => {
            text.is_empty().then(|| "the path of a folder".to_owned())
        }
        (Value::String(_), Value::String(_)) => None,
        (Value::String(_), _) => Some("a text in quotes".to_owned()),
        (other, _) => (!other.same_type(&value)).then(|| other.type_str().to_owned()),
    };
    if let Some(expected) = expected {
        return Err(wrong(key, origin, &expected, &value));
    }
    *slot = value;
    Ok(())
}

/// Numbers that may be 0.
const ZERO_ALLOWED: [&str; 1] = ["store.reserve_mib"];
/// The highest number of any key.
const MOST: i64 = 1_000_000_000;

fn wrong(key: &str, origin: &str, expected: &str, found: &Value) -> ConfigError {
    let found = match found {
        _ if key.contains("password") || key.contains("token") => "what is there".to_owned(),
        Value::String(text) => format!("'{text}'"),
        Value::Table(_) => "a section".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            found.to_string()
        }
    };
    ConfigError::WrongValue {
        key: key.to_owned(),
        origin: origin.to_owned(),
        expected: expected.to_owned(),
        found,
    }
}

/// An unknown key with the known one that is most like it: a section for a section, a key for a key.
fn unknown(known: &Table, key: &str, origin: &str) -> ConfigError {
    let mut names: Vec<String> = Vec::new();
    for (section, keys) in known {
        match keys.as_table().filter(|_| key.contains('.')) {
            Some(keys) => names.extend(keys.keys().map(|name| format!("{section}.{name}"))),
            None => names.push(section.clone()),
        }
    }
    let distance = |name: &String| strsim::osa_distance(name, key);
    ConfigError::UnknownKey {
        key: key.to_owned(),
        origin: origin.to_owned(),
        nearest: names.into_iter().min_by_key(distance).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
