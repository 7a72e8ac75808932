//! Why a job waits, with names: what is short on which node, who holds it, what change would start it now.
//!
//! Pure, and changes nothing. Called by the scheduler actor for who asks.

use std::collections::BTreeSet;

use super::{Planner, upkeep::Outlook};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        QueuedJob,
        ledger::NodeEntry,
        policy::{Expected, Place},
    },
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
            return Some(words + &self.overdue(now, job));
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
            expected: self.expected(now, queued),
        })
    }

    /// When it starts. One whose moment has yet to come does not start before that, and is taken to stand in the order as
    /// if it had come: what becomes of the others until then is not known.
    fn expected(&self, now: Timestamp, queued: &QueuedJob) -> Option<[Timestamp; 3]> {
        let (job, at) = (queued.job, self.seconds(now));
        if let Some(nodes) = self.chosen_nodes(job) {
            let expected = self.expected_there(now, job, &nodes);
            return expected.map(|expected| self.moments(expected));
        }
        let outages = self.outages(now, queued);
        let Some(earliest) = self.comes(now, queued)? else {
            let expected = self.policy.expect(at, job.0, &outages);
            return expected.map(|expected| self.moments(expected));
        };
        let mut after = self.clone();
        after.submit(at, queued);
        let expected = after.policy.expect(at, job.0, &outages)?;
        Some(self.moments(expected).map(|then| then.max(earliest)))
    }

    /// The moment before which it is not considered, if that is all that keeps it from being so; nothing where other jobs
    /// do.
    fn comes(&self, now: Timestamp, queued: &QueuedJob) -> Option<Option<Timestamp>> {
        let dated = match self.gates.holds(queued.job) {
            true => Some(self.gates.only_date(queued.job, now)?),
            false => None,
        };
        let again = queued.not_before.filter(|_| !queued.is_due(now));
        Some(dated.max(again))
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
        let starts = |changed: &QueuedJob| self.starts(outlook, changed);
        let less = self
            .counts(queued)
            .into_iter()
            .filter_map(|count| count.smallest(queued, starts));
        let dropped = wishes(queued)
            .into_iter()
            .filter(|(_, changed)| starts(changed))
            .map(|(change, _)| change);
        less.chain(dropped)
            .chain(self.shorter(outlook, queued))
            .collect()
    }

    /// Whether a new job that asks for this would start at once, were this one cancelled: what else is known of this one
    /// is not known of that.
    pub(super) fn starts(&self, outlook: &Outlook<'_>, changed: &QueuedJob) -> bool {
        let anew = QueuedJob {
            avoid: BTreeSet::new(),
            ..changed.clone()
        };
        let ask = self.ask_given(&anew, self.closes_at(outlook, &anew));
        let place = self.policy.would_start_anew(anew.job.0, &ask);
        // The policy counts what is still being left as free.
        place.is_some_and(|pieces| self.is_free(&anew, &pieces))
    }

    /// What is counted, and of which less can be asked for.
    fn counts(&self, queued: &QueuedJob) -> Vec<Count> {
        let request = &queued.request;
        let total = queued.placement.gpus_total.unwrap_or_default();
        let number = |field, from: u32, put| Count {
            field,
            from: from.into(),
            tries: Tries::Below(from.into()),
            put,
        };
        vec![
            number("resources.gpus", request.gpus, |queued, gpus| {
                queued.request.gpus = small(gpus);
            }),
            number("resources.cpus", request.cpus, |queued, cpus| {
                queued.request.cpus = small(cpus);
            }),
            number("nodes", queued.nodes, |queued, nodes| {
                queued.nodes = small(nodes);
            }),
            number("placement.gpus_total", total, |queued, gpus| {
                queued.placement.gpus_total = Some(small(gpus));
            }),
            Count {
                field: "resources.memory_bytes",
                from: request.memory_bytes,
                tries: Tries::Of(self.free_memory(queued)),
                put: |queued, bytes| queued.request.memory_bytes = bytes,
            },
        ]
    }

    /// What is free of memory on nodes that could do, and is less than what is asked for: the least first.
    fn free_memory(&self, queued: &QueuedJob) -> Vec<u64> {
        let asked = queued.request.memory_bytes;
        let open = self.ledger.nodes().filter(|(_, entry)| entry.open);
        let free = open.map(|(_, entry)| entry.free().memory_bytes);
        let less: BTreeSet<u64> = free.filter(|free| (1..asked).contains(free)).collect();
        less.into_iter().collect()
    }
}

/// Something that is counted, and how a job asks for another count of it.
struct Count {
    field: &'static str,
    from: u64,
    tries: Tries,
    put: fn(&mut QueuedJob, u64),
}

/// What may be asked for instead.
enum Tries {
    /// Any number from 1 to less than this.
    Below(u64),
    /// These, the least first.
    Of(Vec<u64>),
}

impl Tries {
    fn many(&self) -> u64 {
        match self {
            Self::Below(from) => from.saturating_sub(1),
            Self::Of(values) => u64::try_from(values.len()).unwrap_or(u64::MAX),
        }
    }

    /// The one of this place, from 1.
    fn at(&self, place: u64) -> Option<u64> {
        match self {
            Self::Below(from) => Some(place).filter(|place| place < from),
            Self::Of(values) => {
                let index = usize::try_from(place.checked_sub(1)?).ok()?;
                values.get(index).copied()
            }
        }
    }
}

impl Count {
    /// The largest count with which it starts: by halves, since fewer are never harder to find.
    fn smallest(&self, queued: &QueuedJob, starts: impl Fn(&QueuedJob) -> bool) -> Option<Change> {
        let with = |place| {
            let count = self.tries.at(place)?;
            let mut changed = queued.clone();
            (self.put)(&mut changed, count);
            starts(&changed).then_some(count)
        };
        let (mut good, mut bad) = (1, self.tries.many() + 1);
        let mut found = with(good)?;
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match with(middle) {
                Some(count) => (good, found) = (middle, count),
                None => bad = middle,
            }
        }
        Some(Change {
            field: self.field,
            from: self.from.to_string(),
            to: found.to_string(),
        })
    }
}

/// Of a count that was one of as few.
fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Wishes that can be dropped, each with the job without it.
fn wishes(queued: &QueuedJob) -> Vec<(Change, QueuedJob)> {
    let request = &queued.request;
    let placement = &queued.placement;
    let (least, most) = (request.gpu_memory_bytes, request.gpu_memory_max_bytes);
    let wanted = [
        (
            "resources.gpu_model",
            Some(request.gpu_model.clone()).filter(|model| !model.is_empty()),
            (|queued| queued.request.gpu_model.clear()) as fn(&mut QueuedJob),
        ),
        (
            "resources.gpu_memory_bytes",
            (least > 0).then(|| least.to_string()),
            |queued| queued.request.gpu_memory_bytes = 0,
        ),
        (
            "resources.gpu_memory_max_bytes",
            (most > 0).then(|| most.to_string()),
            |queued| queued.request.gpu_memory_max_bytes = 0,
        ),
        ("placement.labels", texts(&placement.labels), |queued| {
            queued.placement.labels.clear();
        }),
        (
            "placement.anti_labels",
            texts(&placement.anti_labels),
            |queued| queued.placement.anti_labels.clear(),
        ),
        ("placement.fabric", placement.fabric.clone(), |queued| {
            queued.placement.fabric = None;
        }),
        (
            "placement.exclusive",
            placement.exclusive.then(|| "true".to_owned()),
            |queued| queued.placement.exclusive = false,
        ),
    ];
    let without = |(field, from, drop): (&'static str, Option<String>, fn(&mut QueuedJob))| {
        let mut changed = queued.clone();
        drop(&mut changed);
        let to = "any".to_owned();
        let change = Change {
            field,
            from: from?,
            to,
        };
        Some((change, changed))
    };
    wanted.into_iter().filter_map(without).collect()
}

fn texts(labels: &BTreeSet<String>) -> Option<String> {
    let texts: Vec<&str> = labels.iter().map(String::as_str).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}
