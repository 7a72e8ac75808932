//! The decision itself: priority, then age; the node that is left fullest by the placement.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{JobId, NodeName},
    resources::{Capacity, ResourceRequest, format_bytes},
    retry::LONGEST_WAIT,
    sched::{
        ledger::{Allocation, Ledger, NodeEntry},
        queue::Queue,
    },
    time::Timestamp,
};

/// A job that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedJob {
    /// Which.
    pub job: JobId,
    /// What it needs.
    pub request: ResourceRequest,
    /// Higher first.
    pub priority: i32,
    /// Since when it stands in the queue.
    pub queued_at: Timestamp,
    /// The oldest first among equals: one that is tried again stands where it stood.
    pub age: Timestamp,
    /// It is tried again, and not before this moment.
    pub not_before: Option<Timestamp>,
    /// Where it was tried in vain: other nodes go before these.
    pub avoid: BTreeSet<NodeName>,
}

impl QueuedJob {
    /// Its age among equals: since its user asked for it, however often it was tried again since. Rows from before
    /// that was noted say no more than since when the job waits.
    #[must_use]
    pub fn age(asked_at: Option<Timestamp>, queued_at: Timestamp) -> Timestamp {
        asked_at.unwrap_or(queued_at)
    }

    /// Whether it may start now. A moment that lies further ahead than any wait says that the clock was set back.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.not_before
            .is_none_or(|then| now >= then || then.since(now) > LONGEST_WAIT)
    }
}

/// One job and what it is given. Complete: nothing is left to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// What it gets and where.
    pub allocation: Allocation,
}

/// A job that no registered node could ever hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What is short on the largest node, in words.
    pub shortage: String,
    /// The largest node, in words.
    pub largest: String,
}

/// Places what fits, in order of priority and age, and takes it in the ledger. A job that does not
/// fit is passed over, so that a large one never holds up small ones that fit beside it.
/// Solving again at the same moment places nothing.
pub fn solve(ledger: &mut Ledger, now: Timestamp, queue: &Queue) -> Vec<Placement> {
    let mut placements = Vec::new();
    if queue.is_empty() {
        return placements;
    }
    let mut offers: BTreeMap<NodeName, Capacity> = ledger
        .nodes()
        .filter(|(_, entry)| entry.open && entry.has_free_cpus())
        .map(|(name, entry)| (name.clone(), entry.free()))
        .collect();
    // What is free only shrinks here: what did not fit once does not fit later.
    let mut misfits: BTreeSet<&ResourceRequest> = BTreeSet::new();
    for queued in queue.iter().filter(|queued| queued.is_due(now)) {
        // Every job needs a CPU slot: on full nodes nothing more is looked at.
        if offers.is_empty() {
            break;
        }
        if misfits.contains(&queued.request) {
            continue;
        }
        let Some(allocation) = place(ledger, &offers, queued) else {
            if queued.avoid.is_empty() {
                misfits.insert(&queued.request);
            }
            continue;
        };
        let node = allocation.node.clone();
        if ledger.take(queued.job, allocation.clone()).is_err() {
            continue;
        }
        placements.push(Placement {
            job: queued.job,
            allocation,
        });
        match ledger.node(&node).map(NodeEntry::free) {
            Some(free) if free.cpus > 0 => drop(offers.insert(node, free)),
            Some(_) | None => drop(offers.remove(&node)),
        }
    }
    placements
}

/// A place for the job: a node where it has failed is taken only when no other that is open could ever hold it.
fn place(
    ledger: &Ledger,
    offers: &BTreeMap<NodeName, Capacity>,
    queued: &QueuedJob,
) -> Option<Allocation> {
    if queued.avoid.is_empty() {
        return best(offers.iter(), &queued.request);
    }
    let elsewhere = offers
        .iter()
        .filter(|(name, _)| !queued.avoid.contains(*name));
    let found = best(elsewhere, &queued.request);
    let could = |(name, entry): (&NodeName, &NodeEntry)| {
        entry.open && !queued.avoid.contains(name) && queued.request.fits(&entry.capacity)
    };
    if found.is_some() || ledger.nodes().any(could) {
        return found;
    }
    best(offers.iter(), &queued.request)
}

/// Best fit: fewest GPUs left over, then fewest CPUs, so that room for large jobs stays whole.
fn best<'o>(
    offers: impl Iterator<Item = (&'o NodeName, &'o Capacity)>,
    request: &ResourceRequest,
) -> Option<Allocation> {
    let fits = |(_, free): &(&NodeName, &Capacity)| request.fits(free);
    // Among equals the first by name, in which order they come.
    let (name, free) = offers
        .filter(fits)
        .min_by_key(|(_, free)| (free.gpus.len(), free.cpus))?;
    NodeEntry::carve(name, free, request)
}

/// Why no node could hold `request` even if it were empty; `None` if one could, or if there is no
/// node yet to judge by.
#[must_use]
pub fn largest_node_misfit(ledger: &Ledger, request: &ResourceRequest) -> Option<Unfit> {
    let fits = |entry: &NodeEntry| request.fits(&entry.capacity);
    if ledger.nodes().any(|(_, entry)| fits(entry)) {
        return None;
    }
    let largest = ledger.nodes().max_by_key(|(name, entry)| {
        let capacity = &entry.capacity;
        let gpus = capacity.gpus.iter().filter(|gpu| request.accepts(gpu));
        (
            if request.gpus > 0 { gpus.count() } else { 0 },
            capacity.cpus,
            capacity.memory_bytes,
            std::cmp::Reverse((*name).clone()),
        )
    });
    largest.map(|(name, entry)| Unfit {
        shortage: request.shortage(&entry.capacity).unwrap_or_default(),
        largest: describe(name, entry),
    })
}

/// Why `request` waits now, in words.
#[must_use]
pub fn reason(ledger: &Ledger, request: &ResourceRequest) -> String {
    if let Some(unfit) = largest_node_misfit(ledger, request) {
        return format!(
            "larger than any node ({}); the largest is {}",
            unfit.shortage, unfit.largest
        );
    }
    let mut shortage = None;
    let mut closed = 0;
    for (name, entry) in ledger.nodes() {
        if !request.fits(&entry.capacity) {
            continue;
        }
        if !entry.open {
            closed += 1;
        } else if let Some(short) = request.shortage(&entry.free()) {
            shortage = Some(format!("waits for {short} free on node {name}"));
        }
    }
    match shortage {
        Some(words) => words,
        None if closed > 0 => format!("{closed} nodes could hold it, but none is ready"),
        None if ledger.nodes().next().is_none() => "no node has registered yet".to_owned(),
        None => "waits for its turn".to_owned(),
    }
}

fn describe(name: &NodeName, entry: &NodeEntry) -> String {
    let capacity = &entry.capacity;
    let mut words = format!(
        "{name} with {} CPUs, {}",
        capacity.cpus,
        format_bytes(capacity.memory_bytes)
    );
    match capacity.gpus.first() {
        Some(gpu) => {
            let count = capacity.gpus.len();
            words.push_str(&format!(", {count} GPUs ({})", gpu.model));
        }
        None => words.push_str(", no GPU"),
    }
    words
}

#[cfg(test)]
#[path = "solve_tests.rs"]
mod tests;
