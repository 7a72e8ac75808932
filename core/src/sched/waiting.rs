//! What waits, what it is given, and the words for what is in its way.

use std::{cmp::Reverse, collections::BTreeSet, fmt, time::Duration};

use crate::{
    ids::{JobId, NodeName},
    resources::{ResourceRequest, format_bytes},
    retry::LONGEST_WAIT,
    sched::{
        gates::Gate,
        ledger::{Allocation, Ledger, NodeEntry},
        wish::Wish,
    },
    spec::Placing,
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
    /// The project that pays; its user alone without one.
    pub project: Option<i64>,
    /// Who asks.
    pub user: String,
    /// Its name: jobs of like names run for like times.
    pub name: String,
    /// It may be told to save its work and go.
    pub preemptible: bool,
    /// How long it may run.
    pub limit: Option<Duration>,
    /// For how long it has run already, as far as that was not in vain.
    pub has_run: Duration,
    /// How often in a row it made room for another and had saved nothing since it had begun.
    pub in_vain: u32,
    /// When it first had a place since its user asked for it, if it had one.
    pub passed: Option<Timestamp>,
    /// Which nodes will do.
    pub placement: Placing,
    /// What stands between it and its consideration.
    pub gate: Gate,
}

impl QueuedJob {
    /// A job that asks for so much since a moment, and for nothing else in particular.
    #[must_use]
    pub fn plain(job: JobId, request: ResourceRequest, at: Timestamp) -> Self {
        Self {
            job,
            request,
            nodes: 1,
            priority: 0,
            queued_at: at,
            age: at,
            not_before: None,
            avoid: BTreeSet::new(),
            project: None,
            user: String::new(),
            name: String::new(),
            preemptible: false,
            limit: None,
            has_run: Duration::ZERO,
            in_vain: 0,
            passed: None,
            placement: Placing::default(),
            gate: Gate::default(),
        }
    }

    /// All that it asks of nodes.
    #[must_use]
    pub fn wish(&self) -> Wish<'_> {
        Wish {
            request: &self.request,
            nodes: self.nodes,
            placement: &self.placement,
        }
    }

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
    /// Since when it had waited.
    pub queued_at: Timestamp,
    /// What it gets on each node, by rank.
    pub allocations: Vec<Allocation>,
    /// Why now, in words.
    pub why: String,
}

/// A job that no registered nodes could ever hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Not even one task of it.
    Task {
        /// What is short on the node that comes nearest, in words.
        shortage: String,
        /// That node, in words.
        nearest: String,
    },
    /// No node is labelled so.
    Labels {
        /// The field that asks for it.
        field: &'static str,
        /// What is asked for.
        wanted: String,
        /// What there is.
        known: String,
        /// Where several are asked for: the node that comes nearest, and by what it fails, in words.
        nearest: Option<String>,
    },
    /// No node that will do has a label of this key.
    NoFabric {
        /// The key that it asks for.
        key: String,
        /// Keys that nodes have, the nearest first.
        known: Vec<String>,
    },
    /// Too few nodes of one fabric hold one of its tasks.
    Fabric {
        /// The key of its labels.
        key: String,
        /// How many it asks for.
        asked: u32,
        /// How many the largest has.
        found: usize,
    },
    /// Too few GPUs in all.
    Total {
        /// How many it asks for.
        asked: u32,
        /// How many there are.
        found: usize,
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
            Self::Labels { field, .. } => field,
            Self::Fabric { .. } | Self::NoFabric { .. } => "placement.fabric",
            Self::Total { .. } => "placement.gpus_total",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { shortage, nearest } => write!(
                f,
                "no node could ever hold the job: {shortage}; the nearest is {nearest}"
            ),
            Self::Labels {
                wanted,
                known,
                nearest,
                ..
            } => {
                write!(f, "no node has {wanted}; labels of nodes are {known}")?;
                match nearest {
                    Some(nearest) => write!(f, "; the nearest is {nearest}"),
                    None => Ok(()),
                }
            }
            Self::NoFabric { key, known } => match known.as_slice() {
                [] => write!(
                    f,
                    "no node that will do is labelled with {key}, or with anything; leave fabric out, or label nodes (trainyard node label NODE {key}=VALUE)"
                ),
                [nearest, ..] => write!(
                    f,
                    "no node that will do is labelled with {key}; did you mean {nearest}? Keys of labels are {}",
                    known.join(", ")
                ),
            },
            Self::Fabric { key, asked, found } => write!(
                f,
                "asks for {asked} nodes with one value of {key} that each hold its resources, and there are at most {found}; give {found} nodes, or leave fabric out"
            ),
            Self::Total { asked, found } => write!(
                f,
                "asks for {asked} GPUs in all, and the nodes that will do have {found}; give {found}, or ask for others"
            ),
            Self::Gang { asked, found } => write!(
                f,
                "asks for {asked} nodes that each hold its resources, and there are {found}; give {found}, or ask for less on each"
            ),
        }
    }
}

fn count(nodes: u32) -> usize {
    usize::try_from(nodes).unwrap_or(usize::MAX).max(1)
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
    nearest(ledger, request).map(|(name, entry)| Unfit::Task {
        shortage: shortage(ledger, request, entry),
        nearest: describe(name, entry),
    })
}

/// The node that lacks the fewest things, and of those the smallest part of what is asked for; of equals the largest.
fn nearest<'a>(
    ledger: &'a Ledger,
    request: &ResourceRequest,
) -> Option<(&'a NodeName, &'a NodeEntry)> {
    ledger.nodes().min_by_key(|(name, entry)| {
        let capacity = &entry.capacity;
        let lacks = request.lacks(capacity);
        let missing: u128 = lacks.iter().map(|lack| lack.permille).sum();
        let size = (capacity.gpus.len(), capacity.cpus, capacity.memory_bytes);
        (lacks.len(), missing, Reverse(size), (*name).clone())
    })
}

/// All that it lacks, in words, with the GPUs that there are where none of them will do.
fn shortage(ledger: &Ledger, request: &ResourceRequest, entry: &NodeEntry) -> String {
    let lacks = request.lacks(&entry.capacity);
    if lacks.is_empty() {
        return "address: no agent has told one where others reach it".to_owned();
    }
    let words: Vec<String> = lacks.into_iter().map(|lack| lack.words).collect();
    let mut words = words.join(", and ");
    let gpus = || ledger.nodes().flat_map(|(_, entry)| &entry.capacity.gpus);
    if request.gpus > 0 && !gpus().any(|gpu| request.accepts(gpu)) {
        let kinds = gpus().map(|gpu| format!("{} {}", gpu.model, format_bytes(gpu.memory_bytes)));
        let kinds: BTreeSet<String> = kinds.collect();
        let kinds: Vec<String> = kinds.into_iter().take(KINDS).collect();
        words.push_str(&match kinds.is_empty() {
            true => " (no node has a GPU)".to_owned(),
            false => format!(" (nodes have {})", kinds.join(", ")),
        });
    }
    words
}

/// So many kinds of GPUs are named.
const KINDS: usize = 8;

/// Why a job waits now, in words.
#[must_use]
pub fn reason(ledger: &Ledger, request: &ResourceRequest, nodes: u32) -> String {
    reason_among(ledger, (request, nodes), "nodes")
}

/// The same of nodes that are called so.
pub(super) fn reason_among(
    ledger: &Ledger,
    (request, nodes): (&ResourceRequest, u32),
    kind: &str,
) -> String {
    if let Some(unfit) = largest_node_misfit(ledger, request, nodes) {
        return match unfit {
            Unfit::Task { shortage, nearest } => {
                format!("larger than any node ({shortage}); the nearest is {nearest}")
            }
            Unfit::Gang { .. }
            | Unfit::Labels { .. }
            | Unfit::Fabric { .. }
            | Unfit::NoFabric { .. }
            | Unfit::Total { .. } => unfit.to_string(),
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
        _ => format!("{ready} of {nodes} {kind} are free; "),
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
