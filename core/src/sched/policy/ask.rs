//! What a job asks of nodes, as far as placement is concerned.
//!
//! Owns the words and the check of one node; never places anything: `place` does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::cluster::{GpuClass, NodeIx, NodeOffer};

/// How a job's GPUs lie on nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Gang {
    /// So many in all, on as few nodes as hold them: whole nodes, and one for the rest.
    Packed {
        /// All of them.
        gpus: u32,
    },
    /// The same number on each of so many nodes.
    Each {
        /// Nodes.
        nodes: u32,
        /// GPUs on each.
        gpus: u32,
    },
}

impl Gang {
    /// All GPUs.
    #[must_use]
    pub fn gpus(self) -> u32 {
        match self {
            Self::Packed { gpus } => gpus,
            Self::Each { nodes, gpus } => nodes.saturating_mul(gpus),
        }
    }
}

/// Which GPUs will do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuWish {
    /// A case-insensitive part of the model's name; empty takes any.
    pub model: String,
    /// The least memory in bytes.
    pub at_least: u64,
    /// The most memory in bytes.
    pub at_most: u64,
}

impl Default for GpuWish {
    fn default() -> Self {
        Self {
            model: String::new(),
            at_least: 0,
            at_most: u64::MAX,
        }
    }
}

impl GpuWish {
    /// Whether a GPU of `class` will do.
    #[must_use]
    pub fn accepts(&self, class: &GpuClass) -> bool {
        (self.at_least..=self.at_most).contains(&class.memory_bytes)
            && class
                .model
                .to_lowercase()
                .contains(&self.model.to_lowercase())
    }
}

/// Which nodes are taken first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arrange {
    /// The fullest that do, so that whole nodes stay whole.
    #[default]
    Pack,
    /// The emptiest.
    Spread,
}

/// All that placement looks at. Equal asks share one queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// GPUs and nodes.
    pub gang: Gang,
    /// CPU slots on each node.
    pub cpus: u32,
    /// Memory on each node in bytes.
    pub memory_bytes: u64,
    /// Which GPUs.
    pub gpu: GpuWish,
    /// Labels (`key=value`) that a node must have.
    pub labels: BTreeSet<String>,
    /// Labels that it must have besides where the job lies on several nodes.
    pub together: BTreeSet<String>,
    /// Labels that it must not have.
    pub anti_labels: BTreeSet<String>,
    /// Which nodes first.
    pub arrange: Arrange,
    /// The key of a label that must have one value on all nodes of the gang.
    pub fabric: Option<String>,
    /// Nobody else on its nodes.
    pub exclusive: bool,
    /// Nodes where it was tried in vain.
    #[serde(skip)]
    pub avoid: BTreeSet<NodeIx>,
}

impl Default for Ask {
    fn default() -> Self {
        Self::packed(0)
    }
}

impl Ask {
    /// So many GPUs in all, and nothing else in particular.
    #[must_use]
    pub fn packed(gpus: u32) -> Self {
        Self {
            gang: Gang::Packed { gpus },
            cpus: 0,
            memory_bytes: 0,
            gpu: GpuWish::default(),
            labels: BTreeSet::new(),
            together: BTreeSet::new(),
            anti_labels: BTreeSet::new(),
            arrange: Arrange::Pack,
            fabric: None,
            exclusive: false,
            avoid: BTreeSet::new(),
        }
    }

    /// Whether a node could hold a part of it when nobody else is there.
    #[must_use]
    pub fn admits(&self, node: &NodeOffer) -> bool {
        self.labels.is_subset(&node.labels)
            && self.anti_labels.is_disjoint(&node.labels)
            && self.cpus <= node.cpus
            && self.memory_bytes <= node.memory_bytes
    }

    /// Whether it may lie on these nodes, which are all of its own, when nobody else is there.
    #[must_use]
    pub fn admits_all(&self, nodes: &[&NodeOffer]) -> bool {
        let reaches = |node: &&NodeOffer| self.together.is_subset(&node.labels);
        let reached = nodes.len() < 2 || nodes.iter().all(reaches);
        let labels = nodes.iter().map(|node| &node.labels);
        let in_one = self
            .fabric
            .as_ref()
            .is_none_or(|key| in_one_fabric(key, labels));
        reached && in_one && nodes.iter().all(|node| self.admits(node))
    }
}

/// The label of a node that says of which fabric it is.
#[must_use]
pub fn fabric_of<'n>(key: &str, labels: &'n BTreeSet<String>) -> Option<&'n String> {
    let of_key = |label: &&String| label.split_once('=').is_some_and(|(name, _)| name == key);
    labels.iter().find(of_key)
}

/// Whether nodes with these labels are all of one fabric.
#[must_use]
pub fn in_one_fabric<'n>(key: &str, nodes: impl Iterator<Item = &'n BTreeSet<String>>) -> bool {
    let fabrics: BTreeSet<_> = nodes.map(|labels| fabric_of(key, labels)).collect();
    fabrics.len() < 2 && !fabrics.contains(&None)
}
