//! Job files: TOML, YAML or JSON with the keys of a job's specification, made into one.
//!
//! Owns the draft that file and flags fill in, later ones over earlier ones. Never says whether a
//! well-formed job makes sense: the coordinator does. Called by `submit` and by the demo.

mod fields;
#[cfg(test)]
mod tests;

use std::{fs, io, path::Path};

use serde_json::{Map, Value};
use thiserror::Error;
use trainyard_core::spec::JobSpec;

use fields::{Field, Kind};

/// Why a job could not be put together.
#[derive(Debug, Error)]
pub(crate) enum DraftError {
    /// The file cannot be read.
    #[error("cannot read the job file {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML, YAML or JSON.
    #[error("{origin} is not valid {format}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// What it was read as.
        format: &'static str,
        /// Where and why.
        message: String,
    },
    /// The file's name does not say what it is.
    #[error("cannot tell the format of {0}; name it .toml, .yaml, .yml or .json")]
    Format(String),
    /// A key that does not exist.
    #[error("unknown key '{key}' in {origin}; did you mean '{nearest}'?")]
    UnknownKey {
        /// The key with its section.
        key: String,
        /// The file.
        origin: String,
        /// The known key that is most like it.
        nearest: String,
    },
    /// One thing under two names.
    #[error("{origin} says '{field}' twice, once as '{key}'; keep one")]
    Twice {
        /// The field.
        field: String,
        /// The second name.
        key: String,
        /// The file.
        origin: String,
    },
    /// A value of another type, or out of range.
    #[error("{key} {origin} must be {expected}, not {found}")]
    WrongValue {
        /// The key with its section.
        key: String,
        /// `in` the file or `on` the command line.
        origin: String,
        /// What is expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// `a.b=1` where `a` is a number.
    #[error(
        "--set {key}: '{part}' holds a value already and can hold no keys; leave one of them out"
    )]
    NoObject {
        /// The dotted key.
        key: String,
        /// The part that is in the way.
        part: String,
    },
    /// The table of fields and the specification differ.
    #[error("the specification could not be put together: {0}; report this")]
    Internal(#[from] serde_json::Error),
}

/// Reads one format; the error says where and why.
type Parser = fn(&str) -> Result<Value, String>;

/// A job as far as it has been said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Draft {
    /// Values in the specification's own form, by dotted path.
    values: Map<String, Value>,
}

impl Draft {
    /// Reads a file by the ending of its name.
    pub(crate) fn read(path: &Path) -> Result<Self, DraftError> {
        let origin = path.display().to_string();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let (format, parse): (_, Parser) = match ending {
            Some("toml") => ("TOML", toml_value),
            Some("yaml" | "yml") => ("YAML", yaml_value),
            Some("json") => ("JSON", json_value),
            _ => return Err(DraftError::Format(origin)),
        };
        let text = fs::read_to_string(path).map_err(|source| DraftError::Read {
            path: origin.clone(),
            source,
        })?;
        let value = parse(&text).map_err(|message| DraftError::Syntax {
            origin: origin.clone(),
            format,
            message,
        })?;
        Self::of(value, &origin)
    }

    /// Reads JSON.
    #[cfg(test)]
    pub(crate) fn parse_json(text: &str) -> Result<Self, DraftError> {
        Self::of(serde_json::from_str(text)?, "the text")
    }

    fn of(document: Value, origin: &str) -> Result<Self, DraftError> {
        let mut draft = Self::default();
        let Value::Object(keys) = document else {
            return Err(wrong(
                "what is",
                &within(origin),
                "a table of keys",
                &document,
            ));
        };
        for (key, value) in keys {
            match (fields::is_section(&key), value) {
                (true, Value::Object(inner)) => {
                    for (name, value) in inner {
                        draft.put_new(&format!("{key}.{name}"), value, origin)?;
                    }
                }
                (_, value) => draft.put_new(&key, value, origin)?,
            }
        }
        Ok(draft)
    }

    fn put_new(&mut self, key: &str, value: Value, origin: &str) -> Result<(), DraftError> {
        let field = fields::find(key).ok_or_else(|| DraftError::UnknownKey {
            key: key.to_owned(),
            origin: origin.to_owned(),
            nearest: fields::nearest(key).to_owned(),
        })?;
        let known = |path: &&str| self.values.contains_key(*path);
        let of_gpu = matches!(field.kind, Kind::Gpus) && fields::OF_GPU.iter().any(known);
        if of_gpu || known(&field.path) {
            return Err(DraftError::Twice {
                field: field.path.to_owned(),
                key: key.to_owned(),
                origin: origin.to_owned(),
            });
        }
        self.put(field, key, value, &within(origin))
    }

    fn put(
        &mut self,
        field: &Field,
        key: &str,
        value: Value,
        origin: &str,
    ) -> Result<(), DraftError> {
        if value.is_null() {
            return Ok(());
        }
        let canonical = field.kind.take(&value).map_err(|expected| {
            let expected = expected.unwrap_or_else(|| field.kind.words());
            wrong(key, origin, &expected, &value)
        })?;
        match (field.kind, canonical) {
            // All that it says of GPUs, and nothing that was said before.
            (Kind::Gpus, Value::Array(parts)) => {
                let of_gpu = fields::OF_GPU.map(str::to_owned);
                self.values.extend(of_gpu.into_iter().zip(parts));
            }
            (_, canonical) => drop(self.values.insert(field.path.to_owned(), canonical)),
        }
        Ok(())
    }

    /// Sets what a flag says, over what the file says.
    pub(crate) fn flag(
        &mut self,
        path: &str,
        flag: &str,
        value: impl Into<Value>,
    ) -> Result<(), DraftError> {
        match fields::find(path) {
            Some(field) => self.put(field, flag, value.into(), "on the command line"),
            None => Err(DraftError::UnknownKey {
                key: path.to_owned(),
                origin: "the command line".to_owned(),
                nearest: fields::nearest(path).to_owned(),
            }),
        }
    }

    /// Adds a variable of the trainer's environment.
    pub(crate) fn variable(&mut self, name: &str, value: &str) {
        object(&mut self.values, "environment").insert(name.to_owned(), value.into());
    }

    /// Puts the keys of `settings` over the advanced settings.
    pub(crate) fn advanced(&mut self, settings: Map<String, Value>) {
        object(&mut self.values, "advanced_config").extend(settings);
    }

    /// Sets one advanced setting by its dotted key; `text` is JSON where it reads as such.
    pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<(), DraftError> {
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        let (parents, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut at = object(&mut self.values, "advanced_config");
        for part in parents.split('.').filter(|part| !part.is_empty()) {
            let slot = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
            at = match slot {
                Value::Object(inner) => inner,
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_) => {
                    return Err(DraftError::NoObject {
                        key: key.to_owned(),
                        part: part.to_owned(),
                    });
                }
            };
        }
        at.insert(last.to_owned(), value);
        Ok(())
    }

    /// What has been said about `path`.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        self.values.get(path)
    }

    /// The specification, with the defaults for all that was not said.
    pub(crate) fn finish(mut self) -> Result<JobSpec, DraftError> {
        if self.get("framework").and_then(Value::as_str) == Some("command") {
            // A command has no epochs: one, so that progress does not speak of fifty.
            for path in ["epochs", "batch_size"] {
                self.values.entry(path).or_insert_with(|| 1.into());
            }
        }
        let mut document = Map::new();
        for (path, value) in self.values {
            match path.split_once('.') {
                Some((section, name)) => {
                    object(&mut document, section).insert(name.to_owned(), value);
                }
                None => {
                    document.insert(path, value);
                }
            }
        }
        Ok(serde_json::from_value(Value::Object(document))?)
    }
}

/// The object at `key`; what else stands there gives way, which the kinds rule out.
fn object<'m>(map: &'m mut Map<String, Value>, key: &str) -> &'m mut Map<String, Value> {
    let slot = map.entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object just above")
}

fn within(origin: &str) -> String {
    format!("in {origin}")
}

fn wrong(key: &str, origin: &str, expected: &str, found: &Value) -> DraftError {
    let found = match found {
        Value::String(text) => format!("'{text}'"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => found.to_string(),
    };
    DraftError::WrongValue {
        key: key.to_owned(),
        origin: origin.to_owned(),
        expected: expected.to_owned(),
        found,
    }
}

fn toml_value(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}

fn yaml_value(text: &str) -> Result<Value, String> {
    serde_yaml_ng::from_str(text).map_err(|error| error.to_string())
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The kinds that a value can have, for the error of a bad one.
impl Kind {
    fn words(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Whole { least, most } => format!("a whole number from {least} to {most}"),
            Self::Number => "a number".to_owned(),
            Self::Bytes => "a size of memory such as 8GiB".to_owned(),
            Self::Span => "a span of time such as 1h30m".to_owned(),
            Self::Texts => "a list of texts".to_owned(),
            Self::Variables => "a table of texts".to_owned(),
            Self::Object => "a table of settings".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Moment => "a time such as 2027-01-31T18:00:00Z, or +2h from now".to_owned(),
            Self::Jobs => "numbers of jobs such as [12, 13]".to_owned(),
            Self::Gpus => "GPUs such as H100:80GB..".to_owned(),
        }
    }
}
