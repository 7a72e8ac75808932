//! Nodes that the policy keeps for a gang, in words. Changes nothing.

use std::collections::BTreeSet;

use super::Planner;
use crate::{
    ids::{JobId, NodeName},
    sched::policy::Reservation,
    time::Timestamp,
};

/// So many nodes are named.
const SHOWN: usize = 4;

/// Nodes that are kept for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptNodes {
    /// For which.
    pub job: JobId,
    /// Which.
    pub nodes: BTreeSet<NodeName>,
    /// When they are expected to be free, in words.
    pub words: String,
}

impl Planner {
    /// What the last look kept, and for whom.
    #[must_use]
    pub fn kept(&self, now: Timestamp) -> Option<KeptNodes> {
        let kept = self.policy.kept()?;
        let nodes = kept.pieces.iter().map(|piece| piece.node);
        let nodes = nodes.filter_map(|ix| self.names.get(&ix)).cloned();
        let who = match self.policy.keeps_from_borrowers() {
            true => "who would borrow",
            false => "who comes behind it",
        };
        let words = match self.kept_where(now, kept) {
            (names, Some(then)) => format!(
                "{names} are kept for it, and expected to be free at {then}: {who} starts there only if it is expected to be gone by then"
            ),
            (names, None) => format!(
                "{names} are kept for it, and {} when they are free: {who} does not start there",
                self.nobody_says()
            ),
        };
        Some(KeptNodes {
            job: JobId(kept.job),
            nodes: nodes.collect(),
            words,
        })
    }

    /// Of a job that would start if it were gone in time: for whom nodes are kept.
    pub(super) fn held_by_promise(&self, now: Timestamp, job: JobId) -> Option<String> {
        let kept = self.policy.kept_from(job.0)?;
        let (nodes, then) = self.kept_where(now, kept);
        let other = JobId(kept.job);
        Some(match then {
            Some(then) => format!(
                "waits beside another: {nodes} are kept for job {other} from {then} on, and jobs like it run beyond that"
            ),
            None => format!(
                "waits beside another: {nodes} are kept for job {other}, and {} when they are free",
                self.nobody_says()
            ),
        })
    }

    /// What is kept for a job, to be said behind why it waits.
    pub(super) fn promise_words(&self, now: Timestamp, job: JobId) -> String {
        let Some(kept) = self.policy.kept_for(job.0) else {
            return String::new();
        };
        let (nodes, then) = self.kept_where(now, kept);
        match then {
            Some(then) => format!("; {nodes} are kept for it, and expected to be free at {then}"),
            None => {
                let nobody = self.nobody_says();
                format!("; {nodes} are kept for it, and {nobody} when they are free")
            }
        }
    }

    /// Where no moment is known: some rules go by limits alone, though more may be guessed.
    fn nobody_says(&self) -> &'static str {
        match self.policy.goes_by_limits() {
            true => "no time limit says",
            false => "nobody knows",
        }
    }

    /// Which nodes, and when, if that is known.
    fn kept_where(&self, now: Timestamp, kept: &Reservation) -> (String, Option<String>) {
        let nodes = kept.pieces.iter().map(|piece| piece.node);
        let mut names: Vec<&str> = nodes
            .filter_map(|ix| self.names.get(&ix))
            .map(|name| name.0.as_str())
            .collect();
        names.dedup();
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let mut words = format!("nodes {}", names.join(", "));
        if more > 0 {
            words.push_str(&format!(" and {more} more"));
        }
        let then = kept.known().map(|then| self.moment(then).moment(now));
        (words, then)
    }
}
