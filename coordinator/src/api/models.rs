//! What the shipped trainers can do: their `capabilities.json`, which travel inside the binary.
//!
//! Owns reading and finding. Never runs a trainer. Called by the REST door.

use std::sync::LazyLock;

use rust_embed::RustEmbed;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(RustEmbed)]
#[folder = "../trainers/"]
#[include = "*/capabilities.json"]
struct Files;

/// What a trainer can do.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Capabilities {
    /// The name that a submission gives.
    pub(super) framework: String,
    /// Its models.
    pub(super) models: Vec<Model>,
    /// Whatever else its author says of it.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

/// A model.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Model {
    /// The name that a submission gives.
    pub(super) model_name: String,
    /// Tasks under their short names.
    pub(super) task_types: Vec<String>,
    /// For people.
    #[serde(default)]
    pub(super) description: String,
    /// Whether it is tried and meant to be used.
    #[serde(default)]
    pub(super) supported: bool,
}

/// Every shipped trainer by name.
pub(super) fn all() -> &'static [Capabilities] {
    static ALL: LazyLock<Vec<Capabilities>> = LazyLock::new(read);
    &ALL
}

/// The trainer of this name.
pub(super) fn of(framework: &str) -> Option<&'static Capabilities> {
    all().iter().find(|found| found.framework == framework)
}

fn read() -> Vec<Capabilities> {
    let mut found: Vec<Capabilities> = Files::iter()
        .filter_map(|path| {
            let file = Files::get(&path)?;
            // A test reads them all.
            serde_json::from_slice(&file.data)
                .inspect_err(|error| tracing::error!(%path, %error, "a trainer's capabilities"))
                .ok()
        })
        .collect();
    found.sort_by(|one, other| one.framework.cmp(&other.framework));
    found
}

#[cfg(test)]
mod tests {
    use trainyard_core::spec::{FRAMEWORKS, TaskType};

    use super::*;

    #[test]
    fn every_framework_but_command_ships_what_it_can_do() {
        let names: Vec<_> = all().iter().map(|found| found.framework.as_str()).collect();
        let known = FRAMEWORKS.iter().filter(|name| **name != "command");
        assert_eq!(names, known.copied().collect::<Vec<_>>());
        assert_eq!(Files::iter().count(), names.len());
        for trainer in all() {
            assert!(!trainer.models.is_empty(), "{}", trainer.framework);
            let tasks = trainer.models.iter().flat_map(|model| &model.task_types);
            for task in tasks {
                assert!(TaskType::parse(task).is_some(), "{task}");
            }
        }
    }
}
