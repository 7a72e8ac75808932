//! What is noted of jobs that wait: why, when that changes, and that they were let through.
//!
//! Owns the pace. A submission notes nothing: a job that is placed at once never waited. Of those that are left, a few are
//! looked at in a second, in turn, so that a long queue costs little; what they wait for is noted when it is of another
//! sort than before. Nothing durable hangs on these notes: they are put into the store's queue behind all else, and one
//! that finds the queue full is written at the next look. Part of the scheduler.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trainyard_core::{
    decision::{Decision, Kind},
    ids::{JobId, NodeName},
    sched::KeptNodes,
    time::Timestamp,
};

use super::State;
use crate::store::{Change, Store};

/// Jobs whose reason is looked at in one go.
const LOOKS: usize = 32;
/// So many are written in one go: others wait for that commit.
const WRITES: usize = 256;
/// At least so long from one look to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// So long from when all were looked at, and nothing was new, to when it begins anew of itself.
const ROUND: Duration = Duration::from_secs(10);

/// What was noted, and who is looked at next.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What the last note of a waiting job says.
    told: BTreeMap<JobId, String>,
    /// Behind this one it goes on; none between two rounds.
    behind: Option<JobId>,
    /// Not to look before then.
    pause: Timestamp,
    /// When to look though nothing happens; none when nobody waits.
    wake: Option<Timestamp>,
    /// To be written.
    waiting: Vec<Decision>,
    /// For whom it was noted last that nodes are kept, which, and when.
    kept: Option<(JobId, BTreeSet<NodeName>, Timestamp)>,
}

impl Notes {
    /// When to look again though nothing happens.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.wake
    }

    #[cfg(test)]
    pub(super) fn unwritten(&self) -> &[Decision] {
        &self.waiting
    }

    /// Jobs that were held back, and are not any more. Of who was let through while nobody looked it is not noted: what
    /// comes next, its place or what it waits for now, is.
    pub(super) fn let_through(&mut self, jobs: &[JobId], now: Timestamp) {
        let words = "what it waited for has come: it waits for nodes from now on";
        let notes = jobs
            .iter()
            .map(|job| Decision::of_job(now, Kind::LetThrough, *job, words));
        self.waiting.extend(notes);
    }

    /// For whom nodes are kept now: noted when it is another job, or they are others, and no sooner than a round after the
    /// last such note.
    pub(super) fn keeps(&mut self, kept: Option<KeptNodes>, now: Timestamp, store: Option<&Store>) {
        let Some(KeptNodes { job, nodes, words }) = kept else {
            return;
        };
        let same = match &self.kept {
            Some((before, which, then)) => {
                // A clock that was set back must not silence it.
                let lately = now >= *then && now.since(*then) < ROUND;
                lately || *before == job && *which == nodes
            }
            // It may have been noted before a restart.
            None => store.is_some_and(|store| {
                let last = store.last_event(job).ok().flatten();
                let last = last.filter(|last| last.kind == Kind::Kept);
                last.is_some_and(|last| nodes.iter().zip(&last.nodes).all(|(a, b)| a == b))
            }),
        };
        if same {
            self.kept.get_or_insert((job, nodes, now));
            return;
        }
        let note = Decision::of_job_on(now, Kind::Kept, job, nodes.iter().cloned(), words);
        self.waiting.push(note);
        self.kept = Some((job, nodes, now));
    }

    /// A job waits no more.
    pub(super) fn forget(&mut self, job: JobId) {
        self.told.remove(&job);
        // What is still to be written of its waiting is not true any more.
        let of_wait = [Kind::Waits, Kind::Kept];
        let stale = |note: &Decision| of_wait.contains(&note.kind) && note.job == Some(job);
        self.waiting.retain(|note| !stale(note));
    }

    /// Whether this reason is of another sort than what was noted last, be it before a restart.
    fn is_news(&mut self, store: &Store, job: JobId, words: &str) -> bool {
        if let Some(told) = self.told.get(&job) {
            return !Decision::is_same_wait(told, words);
        }
        match store.last_event(job) {
            Ok(Some(last)) if last.kind == Kind::Waits => {
                let same = Decision::is_same_wait(&last.words, words);
                self.told.insert(job, last.words);
                !same
            }
            // What it said before that is not looked for: told again after each restart, it would be no news.
            Ok(Some(last)) if last.kind == Kind::Kept => {
                self.told.insert(job, words.to_owned());
                false
            }
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%job, %error, "what was noted of a job cannot be read");
                false
            }
        }
    }

    /// Writes some of what is to be written; the rest at the next look.
    pub(super) fn write(&mut self, store: &Store) {
        let some = self.waiting.len().min(WRITES);
        let notes: Vec<Decision> = self.waiting.drain(..some).collect();
        if !notes.is_empty() {
            let change = Change::Note(notes.clone());
            if store.try_commit(vec![change], Box::new(|_| ())).is_err() {
                self.waiting.splice(..0, notes);
            }
        }
        if !self.waiting.is_empty() {
            self.wake = Some(self.pause);
        }
    }
}

impl State {
    /// Looks at some of those who wait, if it is time.
    pub(super) fn note(&mut self, now: Timestamp) {
        let Some(store) = self.store.clone() else {
            return;
        };
        // A clock that was set back must not silence it.
        if now < self.notes.pause && self.notes.pause.since(now) <= PAUSE {
            let waits = !self.planner.queue().is_empty();
            self.notes.wake = waits.then_some(self.notes.pause);
        } else if self.notes.waiting.len() < LOOKS {
            self.look(&store, now);
        }
        self.notes.write(&store);
    }

    fn look(&mut self, store: &Store, now: Timestamp) {
        let some: Vec<JobId> = self
            .planner
            .queue()
            .behind(self.notes.behind)
            .take(LOOKS)
            .collect();
        let before = self.notes.waiting.len();
        for job in &some {
            let Some(words) = self.planner.reason(now, *job) else {
                continue;
            };
            if self.notes.is_news(store, *job, &words) {
                let note = Decision::of_job(now, Kind::Waits, *job, words.clone());
                self.notes.waiting.push(note);
                self.notes.told.insert(*job, words);
            }
        }
        let more = some.len() == LOOKS;
        let again = more || self.notes.waiting.len() > before;
        let wake = now.plus(if again { PAUSE } else { ROUND });
        self.notes.behind = some.last().copied().filter(|_| more);
        self.notes.wake = (!some.is_empty()).then_some(wake);
        self.notes.pause = now.plus(PAUSE);
    }
}
