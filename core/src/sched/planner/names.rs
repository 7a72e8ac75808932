//! From names to counts: what the policy is told of jobs and nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Planner;
use crate::{
    ids::JobId,
    resources::Gpu,
    sched::{
        QueuedJob,
        ledger::{Allocation, NodeEntry},
        policy::{
            Seconds, Submission,
            ask::{Ask, Gang, GpuWish},
            cluster::{GpuClass, NodeIx, NodeOffer, Piece},
        },
    },
};

/// A label of nodes that others reach: a gang asks for it.
const REACHABLE: &str = "trainyard/reachable";

impl Planner {
    pub(super) fn submission(&self, queued: &QueuedJob) -> Submission {
        let project = match queued.project {
            Some(project) => project.to_string(),
            // Jobs of no project are their user's own.
            None => format!("user {}", queued.user),
        };
        Submission {
            job: queued.job.0,
            ask: self.ask_of(queued),
            priority: u32::try_from(queued.priority.saturating_add(1_000)).unwrap_or(0),
            project,
            user: queued.user.clone(),
            name: queued.name.clone(),
            preemptible: queued.preemptible,
            limit: queued.limit.map(whole),
            not_before: None,
            since: Some(self.seconds(queued.age)),
            done: whole(queued.has_run),
        }
    }

    /// What the policy looks at.
    pub(super) fn ask_of(&self, queued: &QueuedJob) -> Ask {
        let request = &queued.request;
        let nodes = queued.nodes.max(1);
        let mut labels = BTreeSet::new();
        if nodes > 1 {
            labels.insert(REACHABLE.to_owned());
        }
        Ask {
            gang: Gang::Each {
                nodes,
                gpus: request.gpus,
            },
            cpus: request.cpus,
            memory_bytes: request.memory_bytes,
            gpu: GpuWish {
                model: request.gpu_model.clone(),
                at_least: request.gpu_memory_bytes,
                ..GpuWish::default()
            },
            labels,
            avoid: self.shunned(queued),
            ..Ask::packed(0)
        }
    }

    /// Nodes that have failed it are taken last: only as many as are missing elsewhere.
    pub(super) fn shunned(&self, queued: &QueuedJob) -> BTreeSet<NodeIx> {
        if queued.avoid.is_empty() {
            return BTreeSet::new();
        }
        let could = self
            .ledger
            .nodes()
            .filter(|(_, entry)| entry.open && entry.could_hold(&queued.request, queued.nodes));
        let (blamed, others): (Vec<_>, Vec<_>) = could
            .map(|(name, _)| name)
            .partition(|name| queued.avoid.contains(*name));
        let wanted = usize::try_from(queued.nodes.max(1)).unwrap_or(usize::MAX);
        let missing = wanted.saturating_sub(others.len());
        let shunned = blamed.into_iter().skip(missing);
        shunned
            .filter_map(|name| self.ixs.get(name).copied())
            .collect()
    }

    /// What a node offers: a GPU that is blocked counts as long as somebody has it who stays.
    pub(super) fn offer_of(&self, entry: &NodeEntry) -> NodeOffer {
        let stays = |job: &JobId| !self.leaving.contains_key(job);
        let mut gpus: BTreeMap<GpuClass, u32> = BTreeMap::new();
        for gpu in entry.usable(stays) {
            *gpus.entry(class_of(gpu)).or_default() += 1;
        }
        let reachable = (!entry.address().is_empty()).then(|| REACHABLE.to_owned());
        NodeOffer {
            cpus: entry.capacity.cpus,
            memory_bytes: entry.capacity.memory_bytes,
            gpus,
            labels: reachable.into_iter().collect(),
            open: entry.open,
        }
    }
}

/// Whole seconds.
pub(super) fn whole(span: Duration) -> Seconds {
    Seconds::try_from(span.as_secs()).unwrap_or(Seconds::MAX)
}

pub(super) fn class_of(gpu: &Gpu) -> GpuClass {
    GpuClass {
        memory_bytes: gpu.memory_bytes,
        model: gpu.model.clone(),
    }
}

/// What is held on a node, in the policy's counts. GPUs that the node does not have any more are left out.
pub(super) fn pieces_of(
    node: NodeIx,
    entry: &NodeEntry,
    offer: &NodeOffer,
    held: &Allocation,
) -> Vec<Piece> {
    let mut counts: BTreeMap<GpuClass, u32> = BTreeMap::new();
    let gpus = entry.capacity.gpus.iter();
    for gpu in gpus.filter(|gpu| held.gpus.contains(&gpu.uuid)) {
        *counts.entry(class_of(gpu)).or_default() += 1;
    }
    let (mut cpus, mut memory_bytes) = (held.cpus, held.memory_bytes);
    let mut pieces = Vec::new();
    for (slot, class) in (0u8..).zip(offer.gpus.keys()) {
        if let Some(gpus) = counts.get(class) {
            pieces.push(Piece {
                node,
                slot,
                gpus: *gpus,
                cpus: std::mem::take(&mut cpus),
                memory_bytes: std::mem::take(&mut memory_bytes),
            });
        }
    }
    if pieces.is_empty() {
        pieces.push(Piece {
            node,
            slot: 0,
            gpus: 0,
            cpus,
            memory_bytes,
        });
    }
    pieces
}
