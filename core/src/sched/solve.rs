//! The decision itself: priority, then age; the node that is left fullest by the placement.

use crate::{
    ids::{JobId, NodeName},
    resources::{ResourceRequest, format_bytes},
    sched::ledger::{Allocation, Ledger, NodeEntry},
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
    /// Since when; the oldest first among equals.
    pub queued_at: Timestamp,
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
/// Solving again at once places nothing.
pub fn solve(ledger: &mut Ledger, queue: &[QueuedJob]) -> Vec<Placement> {
    let mut order: Vec<&QueuedJob> = queue.iter().collect();
    order.sort_by_key(|queued| (-i64::from(queued.priority), queued.queued_at, queued.job));
    let mut placements = Vec::new();
    for queued in order {
        let Some(allocation) = best(ledger, &queued.request) else {
            continue;
        };
        if ledger.take(queued.job, allocation.clone()).is_ok() {
            placements.push(Placement {
                job: queued.job,
                allocation,
            });
        }
    }
    placements
}

/// Best fit: fewest GPUs left over, then fewest CPUs, so that room for large jobs stays whole.
fn best(ledger: &Ledger, request: &ResourceRequest) -> Option<Allocation> {
    let mut fitting = Vec::new();
    for (name, entry) in ledger.nodes() {
        if let Some(allocation) = ledger.carve(name, request) {
            let free = entry.free();
            fitting.push(((free.gpus.len(), free.cpus, name.clone()), allocation));
        }
    }
    fitting.sort_by(|a, b| a.0.cmp(&b.0));
    fitting.into_iter().next().map(|(_, allocation)| allocation)
}

/// Why no node could hold `request` even if it were empty; `None` if one could, or if there is no
/// node yet to judge by.
#[must_use]
pub fn largest_node_misfit(ledger: &Ledger, request: &ResourceRequest) -> Option<Unfit> {
    let fits = |entry: &NodeEntry| request.shortage(&entry.capacity).is_none();
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
        if request.shortage(&entry.capacity).is_some() {
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
