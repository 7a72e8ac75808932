//! What of nodes is promised to jobs that have not come to it yet, and looks free in the books. Changes nothing.
//!
//! Part of the planner, called for the words of why another waits.

use std::{borrow::Cow, collections::BTreeMap};

use super::{Planner, names::class_of};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        QueuedJob,
        ledger::{Allocation, Ledger, NodeEntry},
        policy::cluster::GpuClass,
    },
};

/// So many nodes, and so many who have to go, are named.
const SHOWN: usize = 4;

/// The books as one who waits should read them.
pub(super) struct Promises<'p> {
    /// With what others are promised as if they held it.
    pub(super) ledger: Cow<'p, Ledger>,
    /// To whom something of a node is promised.
    to: BTreeMap<NodeName, Vec<JobId>>,
}

/// Who comes, and who has to go first, in words. They are found once for each job: of a wide gang that takes a look at all
/// of its nodes.
#[derive(Debug, Default)]
pub(super) struct Comers(BTreeMap<JobId, String>);

#[cfg(test)]
thread_local! {
    /// So often such words were found.
    pub(super) static FOUND: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Planner {
    /// What others are promised than this one.
    pub(super) fn promises(&self, but: JobId) -> Promises<'_> {
        let mut to = BTreeMap::new();
        for (name, entry) in self.ledger.nodes() {
            let jobs = self.promised_on(name, entry, but);
            if !jobs.is_empty() {
                to.insert(name.clone(), jobs);
            }
        }
        if to.is_empty() {
            let ledger = Cow::Borrowed(&self.ledger);
            return Promises { ledger, to };
        }
        let mut ledger = self.ledger.only(|_, _| true);
        for (name, jobs) in &to {
            let Some(held) = self
                .ledger
                .node(name)
                .map(|entry| self.promised(name, entry))
            else {
                continue;
            };
            for (place, job) in jobs.iter().enumerate() {
                let nothing = Allocation {
                    node: name.clone(),
                    cpus: 0,
                    memory_bytes: 0,
                    gpus: Vec::new(),
                    address: String::new(),
                };
                let held = if place == 0 { held.clone() } else { nothing };
                ledger.imagine(*job, held);
            }
        }
        let ledger = Cow::Owned(ledger);
        Promises { ledger, to }
    }

    /// To whom something of a node is promised, and who holds nothing there yet.
    fn promised_on(&self, name: &NodeName, entry: &NodeEntry, but: JobId) -> Vec<JobId> {
        let ix = self.ixs.get(name);
        let comes = ix.map(|ix| self.policy.holders(*ix)).unwrap_or_default();
        let comes = comes.into_iter().map(JobId);
        comes
            .filter(|job| *job != but && !entry.jobs().any(|held| held == *job))
            .collect()
    }

    /// All that is free on a node by the books, and that the policy has promised.
    fn promised(&self, name: &NodeName, entry: &NodeEntry) -> Allocation {
        let left = self.ixs.get(name).and_then(|ix| self.policy.left_on(*ix));
        let (cpus, memory_bytes, mut gpus) = left.unwrap_or_default();
        let free = entry.free();
        let mut is_left = |class: GpuClass| match gpus.get_mut(&class) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            Some(_) | None => false,
        };
        let taken = free.gpus.iter().filter(|gpu| !is_left(class_of(gpu)));
        Allocation {
            node: name.clone(),
            cpus: free.cpus.saturating_sub(cpus),
            memory_bytes: free.memory_bytes.saturating_sub(memory_bytes),
            gpus: taken.map(|gpu| gpu.uuid.clone()).collect(),
            address: String::new(),
        }
    }

    /// To whom something of a node is promised, and who has to go first, to be said behind what is short there.
    pub(super) fn promised_words(
        &self,
        promises: &Promises<'_>,
        node: &NodeName,
        comers: &mut Comers,
    ) -> String {
        match promises.to.get(node) {
            Some(jobs) => format!("; promised to {}", self.who_comes(jobs, comers)),
            None => String::new(),
        }
    }

    /// Nodes that could hold one of its tasks and are promised to others, to be said behind why it waits.
    pub(super) fn all_promised_words(&self, promises: &Promises<'_>, queued: &QueuedJob) -> String {
        let could = |name: &NodeName| {
            let entry = self.ledger.node(name).filter(|entry| entry.open);
            entry.is_some_and(|entry| queued.wish().could_use(entry))
        };
        let mut by_jobs: BTreeMap<&Vec<JobId>, Vec<&str>> = BTreeMap::new();
        for (name, jobs) in promises.to.iter().filter(|(name, _)| could(name)) {
            by_jobs.entry(jobs).or_default().push(&name.0);
        }
        let mut comers = Comers::default();
        let words = by_jobs.into_iter().take(SHOWN).map(|(jobs, mut nodes)| {
            let more = nodes.len().saturating_sub(SHOWN);
            nodes.truncate(SHOWN);
            let of = if nodes.len() > 1 { "nodes" } else { "node" };
            let are = if nodes.len() > 1 { "are" } else { "is" };
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let (nodes, who) = (nodes.join(", "), self.who_comes(jobs, &mut comers));
            format!("; {of} {nodes}{more} {are} promised to {who}")
        });
        words.collect()
    }

    /// Jobs for which nodes are chosen, and those who have to go before these come.
    fn who_comes(&self, jobs: &[JobId], comers: &mut Comers) -> String {
        let words = jobs.iter().take(SHOWN).map(|job| {
            let words = comers.0.entry(*job);
            words.or_insert_with(|| self.comes_behind(*job)).clone()
        });
        let words: Vec<String> = words.collect();
        words.join(" and to ")
    }

    /// One for whom nodes are chosen, and those who have to go before it comes.
    fn comes_behind(&self, job: JobId) -> String {
        #[cfg(test)]
        FOUND.set(FOUND.get() + 1);
        let nodes = self.chosen_nodes(job).unwrap_or_default();
        let leavers = self.leavers(job, &nodes).into_iter();
        let leavers: Vec<String> = leavers.map(|job| format!("job {job}")).collect();
        match leavers.get(..SHOWN.min(leavers.len())).unwrap_or_default() {
            [] => format!("job {job}"),
            some => format!("job {job}, which waits for {} to go", some.join(" and ")),
        }
    }
}
