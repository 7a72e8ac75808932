//! Who holds what on which node. INV-01: a GPU belongs to at most one live attempt. INV-02:
//! allocations on a node never exceed its capacity.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    ids::{JobId, NodeName},
    resources::{Capacity, Gpu, ResourceRequest},
};

/// What one job holds on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The node.
    pub node: NodeName,
    /// CPU slots.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// UUIDs of the GPUs.
    pub gpus: Vec<String>,
    /// Of a gang: where the other ranks reach this node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
}

/// One node of the ledger.
#[derive(Clone, Debug, Default)]
pub struct NodeEntry {
    /// All that it offers.
    pub capacity: Capacity,
    /// Connected and not draining: jobs may be placed here.
    pub open: bool,
    /// It came back with less than is held here: INV-02 holds again once enough was given back.
    shrunk: bool,
    held: BTreeMap<JobId, Allocation>,
    /// GPUs that nobody gets for now, though they are there.
    blocked: BTreeSet<String>,
    /// Where other nodes reach it; without one it takes part in no gang.
    address: String,
    /// What it is labelled with, each `key=value`.
    labels: BTreeSet<String>,
}

/// Why an allocation was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The node never registered.
    #[error("node '{0}' is not known")]
    UnknownNode(NodeName),
    /// The job holds something already.
    #[error("job {0} holds an allocation already")]
    AlreadyHeld(JobId),
}

impl NodeEntry {
    /// Jobs that hold something here, oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        self.held.keys().copied()
    }

    /// Who holds what here, oldest job first.
    pub fn held(&self) -> impl Iterator<Item = (&JobId, &Allocation)> {
        self.held.iter()
    }

    /// Whether GPUs here are kept from everybody for now.
    #[must_use]
    pub fn has_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Its GPUs but for those that are blocked, and that nobody holds who `stays`.
    pub fn usable(&self, stays: impl Fn(&JobId) -> bool) -> impl Iterator<Item = &Gpu> {
        let held = self.held.iter().filter(|(job, _)| stays(job));
        let held: BTreeSet<&str> = held
            .flat_map(|(_, held)| held.gpus.iter().map(String::as_str))
            .collect();
        let gpus = self.capacity.gpus.iter();
        gpus.filter(move |gpu| {
            !self.blocked.contains(&gpu.uuid) || held.contains(gpu.uuid.as_str())
        })
    }

    /// Where other nodes reach it; empty if that is not known.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it is labelled with, each `key=value`.
    #[must_use]
    pub fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// Whether it can hold one of the tasks of a job of so many, were it empty.
    #[must_use]
    pub fn could_hold(&self, request: &ResourceRequest, nodes: u32) -> bool {
        (nodes < 2 || !self.address.is_empty()) && request.fits(&self.capacity)
    }

    /// More is held than there is.
    fn is_overdrawn(&self) -> bool {
        let cpus: u64 = self.held.values().map(|held| u64::from(held.cpus)).sum();
        let memory: u64 = self.held.values().map(|held| held.memory_bytes).sum();
        cpus > self.capacity.cpus.into() || memory > self.capacity.memory_bytes
    }

    /// What is left. Never negative, even if the node came back with less than is held.
    #[must_use]
    pub fn free(&self) -> Capacity {
        let mut cpus = self.capacity.cpus;
        let mut memory_bytes = self.capacity.memory_bytes;
        let mut taken = BTreeSet::new();
        for allocation in self.held.values() {
            cpus = cpus.saturating_sub(allocation.cpus);
            memory_bytes = memory_bytes.saturating_sub(allocation.memory_bytes);
            taken.extend(allocation.gpus.iter().map(String::as_str));
        }
        taken.extend(self.blocked.iter().map(String::as_str));
        let is_free = |gpu: &&Gpu| !taken.contains(gpu.uuid.as_str());
        let gpus = self.capacity.gpus.iter().filter(is_free).cloned().collect();
        Capacity {
            cpus,
            memory_bytes,
            gpus,
        }
    }
}

/// All nodes, and where each job holds something.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// A copy shares them until it is changed: many look at what would be.
    nodes: BTreeMap<NodeName, Arc<NodeEntry>>,
    homes: BTreeMap<JobId, Vec<NodeName>>,
    /// Where something was taken since it was looked at last.
    touched: BTreeSet<NodeName>,
}

impl Ledger {
    /// Registers a node, or changes what it offers; what is held there stays held.
    pub fn set_node(&mut self, name: NodeName, capacity: Capacity, open: bool) {
        self.touched.insert(name.clone());
        let entry = self.entry(name);
        entry.capacity = capacity;
        entry.open = open;
        entry.shrunk = entry.is_overdrawn();
    }

    /// From now on nobody gets these GPUs of a node, and all of its others again. It is no smaller for that: a job that
    /// needs them waits.
    pub fn block(&mut self, name: NodeName, gpus: BTreeSet<String>) {
        self.entry(name).blocked = gpus;
    }

    /// Where other nodes reach this one.
    pub fn set_address(&mut self, name: NodeName, address: String) {
        self.entry(name).address = address;
    }

    /// What a node is labelled with, each `key=value`.
    pub fn set_labels(&mut self, name: NodeName, labels: BTreeSet<String>) {
        self.entry(name).labels = labels;
    }

    fn entry(&mut self, name: NodeName) -> &mut NodeEntry {
        Arc::make_mut(self.nodes.entry(name).or_default())
    }

    fn known(&mut self, name: &NodeName) -> Option<&mut NodeEntry> {
        self.nodes.get_mut(name).map(Arc::make_mut)
    }

    /// The same with these nodes alone, to look at.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&NodeName, &NodeEntry) -> bool) -> Self {
        let nodes = self.nodes.iter().filter(|(name, entry)| keep(name, entry));
        Self {
            nodes: nodes
                .map(|(name, entry)| (name.clone(), Arc::clone(entry)))
                .collect(),
            ..Self::default()
        }
    }

    /// Of a copy to look at: as if a job held this of a node too.
    pub(super) fn imagine(&mut self, job: JobId, held: Allocation) {
        if let Some(entry) = self.known(&held.node) {
            entry.held.insert(job, held);
        }
    }

    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeEntry)> {
        self.nodes
            .iter()
            .map(|(name, entry)| (name, entry.as_ref()))
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&NodeEntry> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// What `job` holds, in the order in which it was taken.
    #[must_use]
    pub fn held_by(&self, job: JobId) -> Vec<&Allocation> {
        let nodes = self.homes.get(&job).into_iter().flatten();
        let held = nodes.filter_map(|node| self.nodes.get(node)?.held.get(&job));
        held.collect()
    }

    /// What the store says is held; the node is made known if it was not. That it came back with less than that
    /// meanwhile is nobody's fault: INV-02 holds again there once enough was given back.
    ///
    /// # Errors
    /// When the job holds something already.
    pub fn restore(&mut self, job: JobId, held: Vec<Allocation>) -> Result<(), LedgerError> {
        let nodes: Vec<NodeName> = held.iter().map(|held| held.node.clone()).collect();
        self.take(job, held)?;
        for node in nodes {
            if let Some(entry) = self.known(&node) {
                entry.shrunk |= entry.is_overdrawn();
            }
        }
        Ok(())
    }

    /// Takes what a placement names.
    ///
    /// # Errors
    /// When the job holds something already.
    pub fn take(&mut self, job: JobId, allocations: Vec<Allocation>) -> Result<(), LedgerError> {
        if self.homes.contains_key(&job) {
            return Err(LedgerError::AlreadyHeld(job));
        }
        let nodes = allocations.iter().map(|held| held.node.clone()).collect();
        self.homes.insert(job, nodes);
        for allocation in allocations {
            self.touched.insert(allocation.node.clone());
            let known = self.nodes.contains_key(&allocation.node);
            let entry = self.entry(allocation.node.clone());
            entry.held.insert(job, allocation);
            entry.shrunk |= !known;
        }
        Ok(())
    }

    /// Gives back all that `job` holds; nothing happens if it holds nothing.
    pub fn release(&mut self, job: JobId) -> Vec<Allocation> {
        let nodes = self.homes.remove(&job).unwrap_or_default();
        let mut given_back = Vec::new();
        for node in nodes {
            if let Some(entry) = self.known(&node) {
                given_back.extend(entry.held.remove(&job));
                entry.shrunk &= entry.is_overdrawn();
            }
        }
        given_back
    }

    /// INV-01 and INV-02, in words, of the first node where one does not hold.
    #[must_use]
    pub fn violated(&self) -> Option<String> {
        self.violated_at(self.nodes())
    }

    /// As [`Ledger::violated`], of the nodes that were changed since this was asked last: nothing is given back
    /// more than was taken, so nowhere else can it have come about.
    pub fn newly_violated(&mut self) -> Option<String> {
        let touched = std::mem::take(&mut self.touched);
        self.violated_at(
            touched
                .iter()
                .filter_map(|name| Some((name, self.node(name)?))),
        )
    }

    fn violated_at<'n>(
        &self,
        nodes: impl Iterator<Item = (&'n NodeName, &'n NodeEntry)>,
    ) -> Option<String> {
        for (name, entry) in nodes {
            let mut seen = BTreeSet::new();
            let gpus = entry.held.values().flat_map(|held| &held.gpus);
            if let Some(twice) = gpus.clone().find(|gpu| !seen.insert(gpu.as_str())) {
                return Some(format!("INV-01: GPU {twice} of {name} is held twice"));
            }
            if entry.is_overdrawn() && !entry.shrunk {
                return Some(format!("INV-02: {name} gives more than it has"));
            }
        }
        None
    }
}
