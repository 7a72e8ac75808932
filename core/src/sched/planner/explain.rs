//! Why a job waits, with names: what is short on which node, who holds it, what change would start it now.
//!
//! Pure, and changes nothing. Called by the scheduler actor for who asks.

use std::collections::BTreeSet;

use super::{Planner, upkeep::Outlook};
use crate::{
    ids::{JobId, NodeName},
    resources::ResourceRequest,
    sched::{
        QueuedJob,
        ledger::NodeEntry,
        policy::{Expected, Place},
    },
    spec::Placing,
    time::Timestamp,
};

/// Of so many nodes it is told what is short there.
const NODES: usize = 32;

/// One node that could hold a task of the job, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// The node.
    pub node: NodeName,
    /// What is short, or that it is closed.
    pub lacks: String,
    /// Who holds something there.
    pub holders: Vec<JobId>,
}

/// A change of one field by which the job would start at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The field's path in the job's specification.
    pub field: &'static str,
    /// What it asks for.
    pub from: String,
    /// What would do.
    pub to: String,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// In one sentence.
    pub words: String,
    /// It is tried again, and not before this moment.
    pub not_before: Option<Timestamp>,
    /// Where it stands among those who wait.
    pub place: Option<Place>,
    /// What is short, node by node.
    pub short: Vec<Short>,
    /// Any one of these would start it now.
    pub changes: Vec<Change>,
    /// When it is expected to start: before the first in one case of ten, in five, in nine.
    pub expected: Option<[Timestamp; 3]>,
}

impl Planner {
    /// Why a job waits, in one sentence.
    #[must_use]
    pub fn reason(&self, now: Timestamp, job: JobId) -> Option<String> {
        let queued = self.queue.get(job)?;
        if let Some(words) = self.gates.why(job, now) {
            return Some(words);
        }
        if let Some(then) = queued.not_before.filter(|_| !queued.is_due(now)) {
            let seconds = then.since(now).as_secs() + 1;
            return Some(format!("starts in {seconds} s at the earliest"));
        }
        if let Some(words) = self.chosen(job) {
            return Some(words);
        }
        let fits = || queued.wish().misfit(&self.ledger).is_none();
        if let Some(limit) = self.policy.limit(job.0).filter(|_| fits()) {
            return Some(limit);
        }
        let outlook = self.outlook(now);
        if let Some(words) = self.held_by_window(&outlook, queued) {
            return Some(words);
        }
        if let Some(words) = self.held_by_promise(now, job) {
            return Some(words);
        }
        let closed = self.closed_by_window(&outlook, queued);
        let words = queued.wish().reason(&self.ledger) + &closed;
        Some(words + &self.promise_words(now, job))
    }

    /// Why a job waits; nothing if it does not.
    #[must_use]
    pub fn explain(&self, now: Timestamp, job: JobId) -> Option<Explanation> {
        let queued = self.queue.get(job)?;
        let at = self.seconds(now);
        let due = queued.is_due(now) && !self.gates.holds(job);
        let outlook = self.outlook(now);
        let expected = self.policy.expect(at, job.0, &self.outages(now, queued));
        let expected = expected.filter(|_| due);
        let changes = match due && self.chosen(job).is_none() {
            true => self.changes(&outlook, queued),
            false => Vec::new(),
        };
        Some(Explanation {
            job,
            words: self.reason(now, job).unwrap_or_default(),
            not_before: queued.not_before.filter(|_| !queued.is_due(now)),
            place: self.policy.place(at, job.0),
            short: self.short(&outlook, queued),
            changes,
            expected: expected.map(|expected| self.moments(expected)),
        })
    }

    /// What would become of a job that is not submitted: the place it would get at once, or why it would wait.
    #[must_use]
    pub fn foresee(
        &self,
        now: Timestamp,
        queued: QueuedJob,
    ) -> (Option<Vec<NodeName>>, Option<Explanation>) {
        let job = queued.job;
        let mut after = self.clone();
        after.queued(now, queued);
        let placements = after.solve(now).placements;
        let placed = placements
            .into_iter()
            .find(|placement| placement.job == job);
        let nodes = placed.map(|placement| {
            placement
                .allocations
                .into_iter()
                .map(|held| held.node)
                .collect()
        });
        (nodes, after.explain(now, job))
    }

    fn moments(&self, expected: Expected) -> [Timestamp; 3] {
        expected.map(|then| self.moment(then))
    }

    fn short(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> Vec<Short> {
        let request = &queued.request;
        let could = |entry: &NodeEntry| queued.wish().could_use(entry);
        let nodes = self.ledger.nodes().filter(|(_, entry)| could(entry));
        let short = nodes.filter_map(|(name, entry)| {
            let lacks = match (self.window_words(outlook, (queued, name)), entry.open) {
                (Some(window), _) => window,
                (None, false) => "takes no jobs now".to_owned(),
                (None, true) if queued.placement.exclusive && entry.jobs().next().is_some() => {
                    "others use it".to_owned()
                }
                (None, true) => request.shortage(&entry.free())?,
            };
            Some(Short {
                node: name.clone(),
                lacks,
                holders: entry.jobs().collect(),
            })
        });
        short.take(NODES).collect()
    }

    /// Of each field the smallest change that would do.
    fn changes(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> Vec<Change> {
        let tries = counts(queued).into_iter().chain(wishes(queued));
        let found = tries.filter_map(|(field, from, tries)| {
            let starts = |(changed, _): &(QueuedJob, String)| self.starts(outlook, changed);
            let (_, to) = tries.into_iter().find(starts)?;
            Some(Change { field, from, to })
        });
        found.chain(self.shorter(outlook, queued)).collect()
    }

    pub(super) fn starts(&self, outlook: &Outlook<'_>, changed: &QueuedJob) -> bool {
        let ask = self.ask_given(changed, self.closes_at(outlook, changed));
        let place = self.policy.would_start(changed.job.0, &ask);
        // The policy counts what is still being left as free.
        place.is_some_and(|pieces| self.is_free(changed, &pieces))
    }
}

/// A field, what is asked for, and what may be asked for instead, the nearest first.
type Tries = (&'static str, String, Vec<(QueuedJob, String)>);

fn with(queued: &QueuedJob, change: impl Fn(&mut ResourceRequest)) -> QueuedJob {
    let mut changed = queued.clone();
    change(&mut changed.request);
    changed
}

/// So many smaller totals of GPUs are tried.
const MOST_TRIES: usize = 1_024;

/// Less of what is counted.
fn counts(queued: &QueuedJob) -> Vec<Tries> {
    let fewer = |from: u32| (1..from).rev();
    let request = &queued.request;
    let gpus = fewer(request.gpus).map(|gpus| {
        (
            with(queued, |request| request.gpus = gpus),
            gpus.to_string(),
        )
    });
    let cpus = fewer(request.cpus).map(|cpus| {
        (
            with(queued, |request| request.cpus = cpus),
            cpus.to_string(),
        )
    });
    let nodes = fewer(queued.nodes).map(|nodes| {
        let mut changed = queued.clone();
        changed.nodes = nodes;
        (changed, nodes.to_string())
    });
    let total = queued.placement.gpus_total.unwrap_or_default();
    // Each is looked for on all nodes: of a very large total not each smaller one is tried.
    let totals = fewer(total).take(MOST_TRIES).map(|gpus| {
        let mut changed = queued.clone();
        changed.placement.gpus_total = Some(gpus);
        (changed, gpus.to_string())
    });
    let halves = std::iter::successors(Some(request.memory_bytes / 2), |half| Some(half / 2));
    let halves = halves.take_while(|half| *half > 0);
    let bytes = halves.map(|bytes| {
        (
            with(queued, |request| request.memory_bytes = bytes),
            bytes.to_string(),
        )
    });
    vec![
        ("resources.gpus", request.gpus.to_string(), gpus.collect()),
        ("resources.cpus", request.cpus.to_string(), cpus.collect()),
        ("nodes", queued.nodes.to_string(), nodes.collect()),
        ("placement.gpus_total", total.to_string(), totals.collect()),
        (
            "resources.memory_bytes",
            request.memory_bytes.to_string(),
            bytes.collect(),
        ),
    ]
}

/// Wishes that are dropped.
fn wishes(queued: &QueuedJob) -> Vec<Tries> {
    let request = &queued.request;
    let any = "any".to_owned();
    let mut wishes = Vec::new();
    if !request.gpu_model.is_empty() {
        let changed = with(queued, |request| request.gpu_model.clear());
        wishes.push((
            "resources.gpu_model",
            request.gpu_model.clone(),
            vec![(changed, any.clone())],
        ));
    }
    if request.gpu_memory_bytes > 0 {
        let changed = with(queued, |request| request.gpu_memory_bytes = 0);
        let from = request.gpu_memory_bytes.to_string();
        wishes.push(("resources.gpu_memory_bytes", from, vec![(changed, any)]));
    }
    let most = request.gpu_memory_max_bytes;
    if most > 0 {
        let changed = with(queued, |request| request.gpu_memory_max_bytes = 0);
        let any = vec![(changed, "any".to_owned())];
        wishes.push(("resources.gpu_memory_max_bytes", most.to_string(), any));
    }
    wishes.extend(placement_wishes(queued));
    wishes
}

/// Wishes of nodes that are dropped.
fn placement_wishes(queued: &QueuedJob) -> Vec<Tries> {
    let placement = &queued.placement;
    let without = |change: fn(&mut Placing)| {
        let mut changed = queued.clone();
        change(&mut changed.placement);
        vec![(changed, "any".to_owned())]
    };
    let texts = |labels: &BTreeSet<String>| {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        labels.join(", ")
    };
    let mut wishes = Vec::new();
    if !placement.labels.is_empty() {
        let tries = without(|placement| placement.labels.clear());
        wishes.push(("placement.labels", texts(&placement.labels), tries));
    }
    if !placement.anti_labels.is_empty() {
        let tries = without(|placement| placement.anti_labels.clear());
        wishes.push((
            "placement.anti_labels",
            texts(&placement.anti_labels),
            tries,
        ));
    }
    if let Some(key) = &placement.fabric {
        let tries = without(|placement| placement.fabric = None);
        wishes.push(("placement.fabric", key.clone(), tries));
    }
    if placement.exclusive {
        let tries = without(|placement| placement.exclusive = false);
        wishes.push(("placement.exclusive", "true".to_owned(), tries));
    }
    wishes
}
