//! Why a job waits, with names: what is short on which node, who holds it, what change would start it now.
//!
//! Pure, and changes nothing. Called by the scheduler actor for who asks.

use std::collections::BTreeSet;

use super::{Planner, advice::Change, left_out, promised::Comers, upkeep::Outlook};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        QueuedJob,
        ledger::{Ledger, NodeEntry},
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
    /// Who holds something there, or is promised it.
    pub holders: Vec<JobId>,
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
    /// Of so many more nodes it is not told.
    pub short_more: usize,
    /// Cancelled and submitted again as it is, it would start now: what failed it is not known of a new one.
    pub again: bool,
    /// Any one of these would start it now.
    pub changes: Vec<Change>,
    /// Where no single one would: these together.
    pub together: Vec<Change>,
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
        let left_out = self.left_out(&outlook, queued);
        let promises = self.promises(job);
        let words = match left_out.is_empty() {
            true => self.wish_words(queued, &promises.ledger),
            false => {
                let others = promises.ledger.only(|name, _| !left_out.contains(name));
                self.wish_words(queued, &others)
            }
        };
        let words = words + &closed + &left_out::words(&left_out);
        let words = words + &self.all_promised_words(&promises, queued);
        Some(words + &self.promise_words(now, job))
    }

    /// What of these nodes it waits for, in words.
    fn wish_words(&self, queued: &QueuedJob, ledger: &Ledger) -> String {
        let in_parts = queued.wish().in_parts(ledger);
        let in_parts = in_parts.filter(|_| !self.policy.has_room(&self.ask_of(queued)));
        in_parts.unwrap_or_else(|| queued.wish().reason(ledger))
    }

    /// Why a job waits; nothing if it does not.
    #[must_use]
    pub fn explain(&self, now: Timestamp, job: JobId) -> Option<Explanation> {
        let queued = self.queue.get(job)?;
        let at = self.seconds(now);
        let due = queued.is_due(now) && !self.gates.holds(job);
        let outlook = self.outlook(now);
        let free = due && self.chosen(job).is_none();
        let left_out = self.left_out(&outlook, queued);
        let again = free && self.starts_again(&outlook, queued, &left_out);
        let (changes, together) = match free && !again {
            true => self.advice(&outlook, queued),
            false => (Vec::new(), Vec::new()),
        };
        let words = self.reason(now, job).unwrap_or_default();
        let (short, short_more) = self.short((&outlook, &left_out), queued);
        Some(Explanation {
            job,
            words: if again {
                words + &left_out::again(queued)
            } else {
                words
            },
            not_before: queued.not_before.filter(|_| !queued.is_due(now)),
            place: self.policy.place(at, job.0),
            short,
            short_more,
            again,
            changes,
            together,
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

    /// What is short on the first nodes that could hold one of its tasks, and on how many more something is.
    fn short(
        &self,
        told: (&Outlook<'_>, &BTreeSet<NodeName>),
        queued: &QueuedJob,
    ) -> (Vec<Short>, usize) {
        let promises = self.promises(queued.job);
        let (mut short, mut more) = (Vec::new(), 0);
        let mut comers = Comers::default();
        for (name, entry) in promises.ledger.nodes() {
            let Some((lacks, by_others)) = self.lacks(told, queued, (name, entry)) else {
                continue;
            };
            if short.len() == NODES {
                more += 1;
                continue;
            }
            let promised = match by_others {
                true => self.promised_words(&promises, name, &mut comers),
                false => String::new(),
            };
            short.push(Short {
                node: name.clone(),
                lacks: lacks + &promised,
                holders: entry.jobs().collect(),
            });
        }
        (short, more)
    }

    /// What is short on a node that could hold one of its tasks, and whether others have it or are promised it.
    fn lacks(
        &self,
        (outlook, left_out): (&Outlook<'_>, &BTreeSet<NodeName>),
        queued: &QueuedJob,
        (name, entry): (&NodeName, &NodeEntry),
    ) -> Option<(String, bool)> {
        let wish = queued.wish();
        if !wish.could_use(entry) {
            return None;
        }
        if let Some(window) = self.window_words(outlook, (queued, name)) {
            return Some((window, false));
        }
        if !entry.open {
            return Some(("takes no jobs now".to_owned(), false));
        }
        if left_out.contains(name) {
            let words = "left out, since an attempt of it failed there";
            return Some((words.to_owned(), false));
        }
        if queued.placement.exclusive && entry.jobs().next().is_some() {
            let used = self.ledger.node(name);
            let used = used.is_some_and(|entry| entry.jobs().next().is_some());
            let words = if used {
                "others use it"
            } else {
                "nobody uses it yet"
            };
            return Some((words.to_owned(), true));
        }
        Some((wish.shortage(entry)?, true))
    }
}
