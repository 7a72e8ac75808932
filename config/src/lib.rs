//! Settings in layers: shipped defaults, then a file, then the environment.
//!
//! Owns what goes before what, and the messages about unknown keys and wrong values. Never reads the
//! environment by itself and knows no key: coordinator and agent bring theirs.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use toml::{Table, Value};

/// What a program ships, and what its keys allow beyond their type.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// TOML with every key: its sections, their keys, and by their values the types.
    pub defaults: &'static str,
    /// What variables of the environment that set a key start with.
    pub env_prefix: &'static str,
    /// Numbers that may be 0.
    pub may_be_zero: &'static [&'static str],
    /// Sections in which any key is allowed, each with a text.
    pub open_sections: &'static [&'static str],
    /// Sections in which any name stands for a section, and TOML with every key of such a one: by their values the types.
    /// In the other lists `*` stands for the name.
    pub open_tables: &'static [(&'static str, &'static str)],
    /// Texts that must be something in particular: the key, and what is expected when it is not.
    pub texts: &'static [(&'static str, TextRule)],
}

/// What a text must be; `None` when it is.
pub type TextRule = fn(&str) -> Option<&'static str>;

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

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

/// The defaults, changed by `file`, changed by the variables `PREFIX` `SECTION__KEY` in `env`.
///
/// # Errors
/// Names the file or variable, the key, and what is expected.
pub fn load<T: DeserializeOwned>(
    shipped: &Shipped,
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let broken = |error| ConfigError::Defaults(Box::new(error));
    let merged = toml::from_str(shipped.defaults).map_err(broken)?;
    let tables = shipped.open_tables.iter();
    let tables =
        tables.map(|(section, keys)| Ok((*section, toml::from_str(keys).map_err(broken)?)));
    let tables = tables.collect::<Result<_, _>>()?;
    let mut layers = Layers {
        shipped,
        merged,
        tables,
    };
    if let Some(path) = file {
        layers.merge_file(read(path)?, &path.display().to_string())?;
    }
    for (name, text) in env {
        if let Some(key) = name.strip_prefix(shipped.env_prefix) {
            let key = layers.key_of(&key.to_lowercase());
            layers.merge_variable(&key, text, &name)?;
        }
    }
    // The defaults fit, as a test of theirs shows: what does not is inside of a list.
    let unfit = |error: toml::de::Error| ConfigError::Check(error.to_string());
    Value::Table(layers.merged).try_into().map_err(unfit)
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
        path: path.to_path_buf(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Syntax {
        path: path.to_path_buf(),
        source: Box::new(source),
    })
}

/// Settings on the way to be whole.
struct Layers<'s> {
    shipped: &'s Shipped,
    merged: Table,
    /// Of each open table, what any section in it may have.
    tables: Vec<(&'s str, Table)>,
}

impl Layers<'_> {
    fn merge_file(&mut self, file: Table, origin: &str) -> Result<(), ConfigError> {
        for (section, value) in file {
            if !self.merged.contains_key(&section) {
                return Err(self.unknown(&section, origin));
            }
            let Value::Table(keys) = value else {
                return Err(wrong(&section, origin, "a section", &value));
            };
            self.merge_section(&section, keys, origin)?;
        }
        Ok(())
    }

    /// A table inside of a section is a section of its own.
    fn merge_section(
        &mut self,
        section: &str,
        keys: Table,
        origin: &str,
    ) -> Result<(), ConfigError> {
        for (name, value) in keys {
            let key = format!("{section}.{name}");
            let is_section = self.slot(&key).is_some_and(|slot| slot.is_table());
            if let Some(inner) = value.as_table().filter(|_| is_section) {
                self.merge_section(&key, inner.clone(), origin)?;
            } else {
                self.put(&key, value, origin)?;
            }
        }
        Ok(())
    }

    /// The key that a variable names: in an open section all after its name is one.
    fn key_of(&self, variable: &str) -> String {
        let section = variable.split("__").next().unwrap_or_default();
        if self.shipped.open_sections.contains(&section) {
            variable.replacen("__", ".", 1)
        } else {
            variable.replace("__", ".")
        }
    }

    fn merge_variable(
        &mut self,
        key: &str,
        text: String,
        variable: &str,
    ) -> Result<(), ConfigError> {
        let origin = format!("the environment ({variable})");
        let value = match self.slot(key) {
            Some(Value::Integer(_)) => text.parse().map(Value::Integer).ok(),
            Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).ok(),
            _ => None,
        };
        self.put(key, value.unwrap_or(Value::String(text)), &origin)
    }

    /// What stands in an open table: its section, the name there, and the key of that, if one is named.
    fn in_table<'k>(&self, key: &'k str) -> Option<(&Table, &'k str, Option<&'k str>)> {
        self.tables.iter().find_map(|(section, keys)| {
            let rest = key.strip_prefix(section)?.strip_prefix('.')?;
            let (name, key) = match rest.split_once('.') {
                Some((name, key)) => (name, Some(key)),
                None => (rest, None),
            };
            Some((keys, name, key))
        })
    }

    /// The key as the lists of what is shipped have it.
    fn general(&self, key: &str) -> String {
        match self.in_table(key) {
            Some((_, name, Some(inner))) => {
                let section = key.len() - inner.len() - name.len() - 1;
                format!("{}*.{inner}", key.get(..section).unwrap_or_default())
            }
            _ => key.to_owned(),
        }
    }

    /// The value of `section.key`; none when there is no such key.
    fn slot(&mut self, key: &str) -> Option<&mut Value> {
        let new = match self.in_table(key) {
            Some((keys, _, Some(inner))) => Some(keys.get(inner)?.clone()),
            Some((_, _, None)) => Some(Value::Table(Table::new())),
            None => None,
        };
        let (section, name) = key.split_once('.')?;
        let keys = self.merged.get_mut(section)?.as_table_mut()?;
        if self.shipped.open_sections.contains(&section) {
            let empty = || Value::String(String::new());
            return Some(keys.entry(name).or_insert_with(empty));
        }
        let mut keys = keys;
        let mut path = name.split('.').peekable();
        while let Some(part) = path.next() {
            let empty = || Value::Table(Table::new());
            keys = match (path.peek(), &new) {
                (None, None) => return keys.get_mut(part),
                (None, Some(new)) => return Some(keys.entry(part).or_insert_with(|| new.clone())),
                (Some(_), None) => keys.get_mut(part)?,
                (Some(_), Some(_)) => keys.entry(part).or_insert_with(empty),
            }
            .as_table_mut()?;
        }
        None
    }

    /// Replaces a value by one of the same type and in range.
    fn put(&mut self, key: &str, value: Value, origin: &str) -> Result<(), ConfigError> {
        let (shipped, general) = (self.shipped, self.general(key));
        let Some(slot) = self.slot(key) else {
            return Err(self.unknown(key, origin));
        };
        if let Some(expected) = misfit(shipped, &general, slot, &value) {
            return Err(wrong(key, origin, &expected, &value));
        }
        *slot = value;
        Ok(())
    }

    /// An unknown key with the known one that is most like it: a section for a section, a key for a key.
    fn unknown(&self, key: &str, origin: &str) -> ConfigError {
        let mut names: Vec<String> = Vec::new();
        if let Some((keys, _, Some(inner))) = self.in_table(key) {
            let section = key.strip_suffix(inner).unwrap_or_default();
            leaves(keys, section.trim_end_matches('.'), &mut names);
        }
        for (section, keys) in &self.merged {
            match keys.as_table().filter(|_| key.contains('.')) {
                Some(keys) => leaves(keys, section, &mut names),
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
}

/// What is expected instead of `value`, if it does not fit.
fn misfit(shipped: &Shipped, key: &str, slot: &Value, value: &Value) -> Option<String> {
    let least = i64::from(!shipped.may_be_zero.contains(&key));
    match (slot, value) {
        (Value::Integer(_), Value::Integer(n)) if (least..=MOST).contains(n) => None,
        (Value::Integer(_), _) => Some(format!("a whole number from {least} to {MOST}")),
        (Value::String(_), Value::String(text)) => {
            let rule = shipped.texts.iter().find(|(name, _)| *name == key);
            rule.and_then(|(_, rule)| rule(text)).map(str::to_owned)
        }
        (Value::String(_), _) => Some("a text in quotes".to_owned()),
        (Value::Boolean(_), Value::Boolean(_)) => None,
        (Value::Boolean(_), _) => Some("true or false".to_owned()),
        (Value::Table(_), Value::Table(_)) => None,
        (Value::Table(_), _) => Some("a section".to_owned()),
        (other, _) => (!other.same_type(value)).then(|| other.type_str().to_owned()),
    }
}

/// The highest number of any key.
const MOST: i64 = 1_000_000_000;

fn wrong(key: &str, origin: &str, expected: &str, found: &Value) -> ConfigError {
    let found = match found {
        _ if ["password", "token", "secret", "storage_options"]
            .iter()
            .any(|word| key.contains(word)) =>
        {
            "what is there".to_owned()
        }
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

/// Every key below a section, with its path.
fn leaves(keys: &Table, path: &str, into: &mut Vec<String>) {
    for (name, value) in keys {
        let key = format!("{path}.{name}");
        if let Some(inner) = value.as_table() {
            leaves(inner, &key, into);
        } else {
            into.push(key);
        }
    }
}
