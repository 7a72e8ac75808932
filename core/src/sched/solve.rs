//! The decision itself: priority, then age; the node that is left fullest by the placement.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

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
    /// What it needs on each node.
    pub request: ResourceRequest,
    /// On how many nodes; all of them or none.
    pub nodes: u32,
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
    /// What it gets on each node, by rank.
    pub allocations: Vec<Allocation>,
}

/// A job that no registered nodes could ever hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Not even one task of it.
    Task {
        /// What is short on the largest node, in words.
        shortage: String,
        /// The largest node, in words.
        largest: String,
    },
    /// Too few nodes hold one of its tasks.
    Gang {
        /// How many it asks for.
        asked: u32,
        /// How many there are.
        found: usize,
    },
}

impl Unfit {
    /// The field that asks for too much.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Task { .. } => "resources",
            Self::Gang { .. } => "nodes",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { shortage, largest } => write!(
                f,
                "no node could ever hold the job: {shortage}; the largest is {largest}"
            ),
            Self::Gang { asked, found } => write!(
                f,
                "asks for {asked} nodes that each hold its resources, and there are {found}; give {found}, or ask for less on each"
            ),
        }
    }
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
    let mut misfits: BTreeSet<(&ResourceRequest, u32)> = BTreeSet::new();
    for queued in queue.iter().filter(|queued| queued.is_due(now)) {
        // Every job needs a CPU slot: on full nodes nothing more is looked at.
        if offers.is_empty() {
            break;
        }
        let wish = (&queued.request, queued.nodes);
        if misfits.contains(&wish) {
            continue;
        }
        let Some(allocations) = place(ledger, &offers, queued) else {
            if queued.avoid.is_empty() {
                misfits.insert(wish);
            }
            continue;
        };
        if ledger.take(queued.job, allocations.clone()).is_err() {
            continue;
        }
        for allocation in &allocations {
            let node = &allocation.node;
            match ledger.node(node).map(NodeEntry::free) {
                Some(free) if free.cpus > 0 => drop(offers.insert(node.clone(), free)),
                Some(_) | None => drop(offers.remove(node)),
            }
        }
        placements.push(Placement {
            job: queued.job,
            allocations,
        });
    }
    placements
}

/// A place for the job: nodes where it has failed are taken only when the others that are open could never hold it.
fn place(
    ledger: &Ledger,
    offers: &BTreeMap<NodeName, Capacity>,
    queued: &QueuedJob,
) -> Option<Vec<Allocation>> {
    if queued.avoid.is_empty() {
        return best(ledger, offers.iter(), queued);
    }
    let elsewhere = offers
        .iter()
        .filter(|(name, _)| !queued.avoid.contains(*name));
    let found = best(ledger, elsewhere, queued);
    let could = |(name, entry): &(&NodeName, &NodeEntry)| {
        let open = entry.open && !queued.avoid.contains(*name);
        open && entry.could_hold(&queued.request, queued.nodes)
    };
    let others = ledger.nodes().filter(could).count();
    if found.is_some() || others >= count(queued.nodes) {
        return found;
    }
    best(ledger, offers.iter(), queued)
}

fn count(nodes: u32) -> usize {
    usize::try_from(nodes).unwrap_or(usize::MAX).max(1)
}

/// Best fit: fewest GPUs left over, then fewest CPUs, so that room for large jobs stays whole.
fn best<'o>(
    ledger: &Ledger,
    offers: impl Iterator<Item = (&'o NodeName, &'o Capacity)>,
    queued: &QueuedJob,
) -> Option<Vec<Allocation>> {
    let request = &queued.request;
    let fits = |(_, free): &(&NodeName, &Capacity)| request.fits(free);
    let fitting = offers.filter(fits);
    // Where it has failed comes last, however well it fits.
    let left = |(name, free): &(&NodeName, &Capacity)| {
        (queued.avoid.contains(*name), free.gpus.len(), free.cpus)
    };
    if queued.nodes < 2 {
        // Among equals the first by name, in which order they come.
        let (name, free) = fitting.min_by_key(left)?;
        return Some(vec![NodeEntry::carve(name, free, request)?]);
    }
    let address = |name: &NodeName| {
        let entry = ledger.node(name);
        entry.map(NodeEntry::address).unwrap_or_default().to_owned()
    };
    let mut fitting: Vec<_> = fitting
        .filter(|(name, _)| !address(name).is_empty())
        .collect();
    fitting.sort_by_key(left);
    let wanted = count(queued.nodes);
    let taken = fitting.get(..wanted)?.iter().map(|(name, free)| {
        let carved = NodeEntry::carve(name, free, request)?;
        Some(Allocation {
            address: address(name),
            ..carved
        })
    });
    let mut taken: Vec<Allocation> = taken.collect::<Option<_>>()?;
    // The order of ranks: the same nodes have the same ranks, however full they are.
    taken.sort_by(|one, other| (&one.address, &one.node).cmp(&(&other.address, &other.node)));
    Some(taken)
}

/// Why no nodes could hold `request` even if they were empty; `None` if they could, or if there is no
/// node yet to judge by.
#[must_use]
pub fn largest_node_misfit(
    ledger: &Ledger,
    request: &ResourceRequest,
    nodes: u32,
) -> Option<Unfit> {
    let fits = |(_, entry): &(&NodeName, &NodeEntry)| entry.could_hold(request, nodes);
    let fitting = ledger.nodes().filter(fits).count();
    if fitting >= count(nodes) {
        return None;
    }
    if fitting > 0 {
        return Some(Unfit::Gang {
            asked: nodes,
            found: fitting,
        });
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
    largest.map(|(name, entry)| Unfit::Task {
        shortage: request
            .shortage(&entry.capacity)
            .unwrap_or_else(|| "address: no agent has told one where others reach it".to_owned()),
        largest: describe(name, entry),
    })
}

/// Why a job waits now, in words.
#[must_use]
pub fn reason(ledger: &Ledger, request: &ResourceRequest, nodes: u32) -> String {
    if let Some(unfit) = largest_node_misfit(ledger, request, nodes) {
        return match unfit {
            Unfit::Task { shortage, largest } => {
                format!("larger than any node ({shortage}); the largest is {largest}")
            }
            Unfit::Gang { .. } => unfit.to_string(),
        };
    }
    let mut shortage = None;
    let (mut closed, mut ready) = (0, 0);
    for (name, entry) in ledger.nodes() {
        if !entry.could_hold(request, nodes) {
            continue;
        }
        if !entry.open {
            closed += 1;
        } else if let Some(short) = request.shortage(&entry.free()) {
            shortage = Some(format!("waits for {short} free on node {name}"));
        } else {
            ready += 1;
        }
    }
    let gang = match nodes {
        0 | 1 => String::new(),
        _ => format!("{ready} of {nodes} nodes are free; "),
    };
    match shortage {
        Some(words) => gang + &words,
        None if closed > 0 => format!("{gang}{closed} nodes could hold it, but none is ready"),
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
