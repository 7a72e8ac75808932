//! What a job asks of its nodes beyond resources, and when it may start: the fields, and what may stand in them.
//!
//! Owns those checks. Whether there are such nodes, and how the jobs stand that it waits for, the coordinator says. Called
//! by `JobSpec::check`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Findings, JobSpec, array::Indices};
use crate::{ids::JobId, label, time::Timestamp};

/// Labels that a job may ask for, and as many that it may not want.
pub const MOST_LABELS: usize = 50;
/// Jobs that one may wait for.
pub const MOST_AWAITED: usize = 100;
/// GPUs in all.
pub const MOST_GPUS: u32 = 65_536;
/// The last moment of the year 9999.
const LAST: Timestamp = Timestamp(253_402_300_799_999_999);

/// Which nodes will do, and how a job lies on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placing {
    /// Labels, `key=value`, that each node must have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
    /// Labels that no node may have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub anti_labels: BTreeSet<String>,
    /// Which nodes are taken first.
    pub arrange: Arrange,
    /// The key of a label that must have one value on all its nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fabric: Option<String>,
    /// Nobody else on its nodes.
    pub exclusive: bool,
    /// GPUs in all, on as few nodes as hold them; in place of `nodes` and `resources.gpus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus_total: Option<u32>,
}

impl Placing {
    /// Whether it asks for nothing in particular.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Which nodes are taken first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrange {
    /// The fullest that do, so that whole nodes stay whole.
    #[default]
    Pack,
    /// The emptiest.
    Spread,
}

pub(super) fn check(spec: &JobSpec, found: &mut Findings) {
    labels(&spec.placement, found);
    total(spec, found);
    awaited(spec, found);
    moment(spec, found);
    array(spec, found);
    which_gpus(spec, found);
}

fn which_gpus(spec: &JobSpec, found: &mut Findings) {
    let resources = &spec.resources;
    let most = resources.gpu_memory_max_bytes;
    if most > 0 && most < resources.gpu_memory_bytes {
        let words = "is less than gpu_memory_bytes, the least that each GPU must have; give more, or leave one out";
        found.add("resources.gpu_memory_max_bytes", words.to_owned());
    }
    // Of no GPUs nothing would be heeded, and it would run on the CPU.
    if resources.names_gpus() && resources.gpus == 0 && spec.placement.gpus_total.is_none() {
        let words = "are 0, and the job says which GPUs it wants; give how many (or placement.gpus_total), or leave out gpu_model and gpu_memory";
        found.add("resources.gpus", words.to_owned());
    }
}

fn labels(placement: &Placing, found: &mut Findings) {
    let mut wanted: BTreeMap<&str, &str> = BTreeMap::new();
    for (field, labels) in [
        ("placement.labels", &placement.labels),
        ("placement.anti_labels", &placement.anti_labels),
    ] {
        if labels.len() > MOST_LABELS {
            let words = format!("are {}; give at most {MOST_LABELS}", labels.len());
            found.add(field, words);
        } else if let Some(words) = labels.iter().find_map(|text| label::parse(text).err()) {
            found.add(field, words);
        }
    }
    for (key, value) in placement
        .labels
        .iter()
        .filter_map(|text| label::parse(text).ok())
    {
        if let Some(other) = wanted.insert(key, value) {
            let words = format!(
                "ask for {key}={other} and {key}={value} at once, and a node has one value of a key; give one"
            );
            found.add("placement.labels", words);
            break;
        }
    }
    let mut both = placement.labels.intersection(&placement.anti_labels);
    if let Some(text) = both.next() {
        let words = format!(
            "have '{text}', and so have the labels that its nodes must have; take it out of one"
        );
        found.add("placement.anti_labels", words);
    }
    let fabric = placement.fabric.as_deref();
    if let Some(words) = fabric.and_then(label::key_problem) {
        found.add("placement.fabric", words);
    }
}

fn total(spec: &JobSpec, found: &mut Findings) {
    let Some(gpus) = spec.placement.gpus_total else {
        return;
    };
    let field = "placement.gpus_total";
    found.range(field, gpus.into(), 1, MOST_GPUS.into());
    if spec.nodes > 1 {
        let words = "is of all nodes together, however many that takes; leave nodes out, or give resources.gpus for each";
        found.add(field, words.to_owned());
    } else if spec.resources.gpus > 0 {
        let words = "is of all nodes together; leave resources.gpus out, or give nodes and resources.gpus in its place";
        found.add(field, words.to_owned());
    }
    if spec.framework != "command" {
        let words = format!(
            "framework '{}' trains on one node; give resources.gpus, or start a distributed program with framework command",
            spec.framework
        );
        found.add(field, words);
    }
}

fn awaited(spec: &JobSpec, found: &mut Findings) {
    let all = spec.after.len() + spec.after_any.len();
    if all > MOST_AWAITED {
        let words = format!("are {all} jobs with after_any; give at most {MOST_AWAITED}");
        found.add("after", words);
    }
    let first: BTreeSet<JobId> = spec.after.iter().copied().collect();
    if let Some(job) = spec.after_any.iter().find(|job| first.contains(job)) {
        let words = format!("has job {job}, which after has too; take it out of one");
        found.add("after_any", words);
    }
}

fn moment(spec: &JobSpec, found: &mut Findings) {
    if spec.not_before.is_some_and(|then| then > LAST) {
        let words = "lies behind the year 9999; write for example 2027-01-31T18:00:00Z";
        found.add("not_before", words.to_owned());
    }
}

fn array(spec: &JobSpec, found: &mut Findings) {
    if spec.array.is_some() {
        let words =
            "is said by the coordinator; leave it out, and give indices for an array of its own";
        found.add("array", words.to_owned());
    }
    let Some(text) = &spec.indices else { return };
    match Indices::parse(text) {
        Err(error) => found.add("indices", error.to_string()),
        Ok(indices) => {
            let row = serde_json::to_string(spec).map_or(0, |text| text.len());
            if let Some(words) = indices.too_large(row) {
                found.add("indices", words);
            }
        }
    }
}
