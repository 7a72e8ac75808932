//! From names to counts: what the policy is told of jobs and nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Planner;
use crate::{
    ids::{JobId, NodeName},
    resources::Gpu,
    sched::{
        QueuedJob,
        ledger::{Allocation, Ledger, NodeEntry},
        policy::{
            Seconds, Submission,
            ask::{Arrange, Ask, Gang, GpuWish},
            cluster::{Cluster, GpuClass, NodeIx, NodeOffer, Piece},
            place::Shape,
        },
    },
    spec,
    time::Timestamp,
};

/// A label of nodes that others reach: who lies on several nodes asks for it.
const REACHABLE: &str = "trainyard/reachable";

impl Planner {
    pub(super) fn submission(&self, queued: &QueuedJob) -> Submission {
        let project = payer(queued.project, &queued.user);
        Submission {
            job: queued.job.0,
            ask: self.ask_of(queued),
            priority: Submission::level(queued.priority),
            project,
            user: queued.user.clone(),
            name: queued.name.clone(),
            preemptible: queued.preemptible,
            limit: queued.limit.map(whole),
            not_before: None,
            since: Some(self.seconds(self.waits_since(queued))),
            done: whole(queued.has_run),
            // Who holds something says more.
            saved: !queued.has_run.is_zero(),
            in_vain: queued.in_vain,
        }
    }

    /// One that was held back has not waited for nodes meanwhile.
    fn waits_since(&self, queued: &QueuedJob) -> Timestamp {
        let since = self.gates.since(queued.job);
        since.map_or(queued.age, |then| then.max(queued.age))
    }

    /// What the policy looks at.
    pub(super) fn ask_of(&self, queued: &QueuedJob) -> Ask {
        self.ask_given(queued, self.closes_for(queued))
    }

    /// The same where these nodes close before it would have ended.
    pub(super) fn ask_given(&self, queued: &QueuedJob, closing: BTreeSet<NodeIx>) -> Ask {
        ask_but(queued, self.shunned_given(queued, closing))
    }

    /// Nodes that close before it would have ended, and those that have failed it.
    pub(super) fn shunned(&self, queued: &QueuedJob) -> BTreeSet<NodeIx> {
        self.shunned_given(queued, self.closes_for(queued))
    }

    fn shunned_given(&self, queued: &QueuedJob, closing: BTreeSet<NodeIx>) -> BTreeSet<NodeIx> {
        let mut shunned = closing;
        shunned.extend(self.blamed_for(queued, &shunned));
        shunned
    }

    /// Nodes that have failed it, and are not missed where these close.
    pub(super) fn blamed_for(
        &self,
        queued: &QueuedJob,
        closing: &BTreeSet<NodeIx>,
    ) -> BTreeSet<NodeIx> {
        let blamed = match queued.placement.is_plain() {
            _ if queued.avoid.is_empty() => Vec::new(),
            true => self.blamed(queued, closing),
            false => self.blamed_together(queued, closing),
        };
        blamed.into_iter().collect()
    }

    /// Nodes that have failed it are taken last: only as many as are missing elsewhere.
    fn blamed(&self, queued: &QueuedJob, closing: &BTreeSet<NodeIx>) -> Vec<NodeIx> {
        let could = self.ledger.nodes().filter(|(name, entry)| {
            let closes = self.ixs.get(*name).is_some_and(|ix| closing.contains(ix));
            entry.open && !closes && queued.wish().could_use(entry)
        });
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

    /// Where nodes must go together, all that have failed it, if the others could hold it.
    fn blamed_together(&self, queued: &QueuedJob, closing: &BTreeSet<NodeIx>) -> Vec<NodeIx> {
        let others = |name: &NodeName, entry: &NodeEntry| {
            let closes = self.ixs.get(name).is_some_and(|ix| closing.contains(ix));
            entry.open && !closes && !queued.avoid.contains(name)
        };
        let others = self.ledger.only(others);
        let enough = others.nodes().next().is_some() && queued.wish().misfit(&others).is_none();
        let blamed = queued.avoid.iter().filter(|_| enough);
        blamed
            .filter_map(|name| self.ixs.get(name).copied())
            .collect()
    }

    /// What a node offers: a GPU that is blocked counts as long as somebody has it who stays.
    pub(super) fn offer_of(&self, entry: &NodeEntry) -> NodeOffer {
        let stays = |job: &JobId| !self.leaving.contains_key(job);
        offer_with(entry, entry.usable(stays), entry.open)
    }
}

/// Who pays for a job, as the policy calls projects: jobs of no project are their user's own.
#[must_use]
pub fn payer(project: Option<i64>, user: &str) -> String {
    match project {
        Some(project) => project.to_string(),
        None => format!("user {user}"),
    }
}

/// What the policy looks at of a job, which shuns these nodes.
fn ask_but(queued: &QueuedJob, avoid: BTreeSet<NodeIx>) -> Ask {
    let request = &queued.request;
    let placement = &queued.placement;
    let gang = match placement.gpus_total {
        Some(gpus) => Gang::Packed { gpus },
        None => Gang::Each {
            nodes: queued.nodes.max(1),
            gpus: request.gpus,
        },
    };
    Ask {
        gang,
        cpus: request.cpus,
        memory_bytes: request.memory_bytes,
        gpu: GpuWish {
            model: request.gpu_model.clone(),
            at_least: request.gpu_memory_bytes,
            at_most: match request.gpu_memory_max_bytes {
                0 => u64::MAX,
                most => most,
            },
        },
        labels: placement.labels.clone(),
        together: [REACHABLE.to_owned()].into(),
        anti_labels: placement.anti_labels.clone(),
        arrange: match placement.arrange {
            spec::Arrange::Pack => Arrange::Pack,
            spec::Arrange::Spread => Arrange::Spread,
        },
        fabric: placement.fabric.clone(),
        exclusive: placement.exclusive,
        avoid,
    }
}

/// GPUs that a job would hold at least on these nodes if they were whole, empty and open: those for which its project is
/// charged.
#[must_use]
pub fn least_gpus(nodes: &Ledger, queued: &QueuedJob) -> u32 {
    let nodes = Cluster::of(nodes.nodes().map(|(_, entry)| whole_offer_of(entry)));
    Shape::new(&nodes, ask_but(queued, BTreeSet::new())).least()
}

/// What a node would offer if it were open and nothing of it blocked.
pub(super) fn whole_offer_of(entry: &NodeEntry) -> NodeOffer {
    offer_with(entry, entry.capacity.gpus.iter(), true)
}

fn offer_with<'a>(entry: &NodeEntry, gpus: impl Iterator<Item = &'a Gpu>, open: bool) -> NodeOffer {
    let mut counts: BTreeMap<GpuClass, u32> = BTreeMap::new();
    for gpu in gpus {
        *counts.entry(class_of(gpu)).or_default() += 1;
    }
    let reachable = (!entry.address().is_empty()).then(|| REACHABLE.to_owned());
    let labels = reachable.into_iter().chain(entry.labels().iter().cloned());
    NodeOffer {
        cpus: entry.capacity.cpus,
        memory_bytes: entry.capacity.memory_bytes,
        gpus: counts,
        labels: labels.collect(),
        open,
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
