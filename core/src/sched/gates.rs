//! Which jobs that wait may be considered at all: those whose time has come, whose dependencies are met, and whose array
//! has a place left.
//!
//! Owns what is known of that. It is told of jobs that come into the queue, run and end, and how those stand that others
//! wait for. Never places anything, and reads neither clock nor store. Called by the planner.

mod arrays;
mod dates;
mod gate;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use self::arrays::Members;
pub use self::gate::{Gate, Standing};
use crate::{ids::JobId, time::Timestamp};

/// What became of jobs that were held back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// They may be placed from now on.
    pub go: Vec<JobId>,
    /// They never may, with the reasons.
    pub never: Vec<(JobId, String)>,
    /// Of these, who was seen to wait before: after a start nobody has been, whose gate has come meanwhile.
    pub news: Vec<JobId>,
    /// They may not any more: what they waited for is run again, and they have had no place yet.
    pub back: Vec<JobId>,
    /// Of these, which had a place before it was known, it is known now since when they could have had one.
    pub dated: Vec<JobId>,
}

/// How far a job has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Something is in its way.
    Held,
    /// Nothing is, and it has no place yet.
    Through,
    /// It has had a place, at this moment for the first time.
    Placed(Timestamp),
    /// It will never start, and has not said yet that it knows.
    Never(String),
}

/// A job that has, or had, something in its way.
#[derive(Clone, Debug)]
struct Entry {
    gate: Gate,
    stage: Stage,
    /// Its moment has come, whatever the clock says later.
    come: bool,
    /// Since when nothing is in its way any more, as far as that is known.
    since: Option<Timestamp>,
    /// That is told for good: it was seen when it was let through, or found out since.
    dated: bool,
    /// It was looked at and had to wait, since this was started.
    waited: bool,
}

/// All jobs that are held back.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    jobs: BTreeMap<JobId, Entry>,
    /// Of these, who will never start.
    never: BTreeSet<JobId>,
    /// Who waits for whom, or wants to know when that ended.
    waiters: BTreeMap<JobId, BTreeSet<JobId>>,
    /// Of those that are waited for; and when they ended.
    standings: BTreeMap<JobId, (Standing, Option<Timestamp>)>,
    due: BTreeSet<(Timestamp, JobId)>,
    arrays: BTreeMap<JobId, Members>,
    /// Arrays in which a place was given back.
    freed: BTreeSet<JobId>,
    /// Whose gate may have opened, or closed.
    look: BTreeSet<JobId>,
}

impl Gates {
    /// A job waits that has had no place yet. Says whether it is held back: then `open` tells when it no longer is.
    pub fn queued(&mut self, job: JobId, gate: Gate) -> bool {
        self.stands(job, Standing::Open, None);
        if gate.is_open() {
            self.forget(job);
            return false;
        }
        self.look.insert(job);
        let known = self.jobs.get(&job).filter(|known| known.gate == gate);
        match known.map(|known| &known.stage) {
            Some(Stage::Held | Stage::Never(_)) => return true,
            Some(Stage::Through) => return false,
            // The place that was chosen for it was not to be had.
            Some(Stage::Placed(_)) | None => {}
        }
        self.unwatch(job);
        self.watch(job, &gate);
        self.due.extend(gate.not_before.map(|then| (then, job)));
        let held = Entry {
            gate,
            stage: Stage::Held,
            come: false,
            since: None,
            dated: false,
            waited: false,
        };
        self.jobs.insert(job, held);
        true
    }

    /// A job has a place, or has had one: since this moment for the first time.
    pub fn placed(&mut self, job: JobId, gate: &Gate, at: Timestamp) {
        self.stands(job, Standing::Open, None);
        if gate.is_open() {
            return;
        }
        let known = self.jobs.get_mut(&job);
        match known {
            Some(Entry {
                stage: Stage::Placed(_),
                ..
            }) => return,
            Some(entry) if entry.stage == Stage::Through => entry.stage = Stage::Placed(at),
            Some(_) | None => {
                self.forget(job);
                self.watch(job, gate);
                let entry = Entry {
                    gate: gate.clone(),
                    stage: Stage::Placed(at),
                    come: true,
                    since: None,
                    dated: false,
                    waited: false,
                };
                self.jobs.insert(job, entry);
            }
        }
        if let Some((array, index, _)) = gate.limited() {
            let members = self.arrays.entry(array).or_default();
            members.out.insert(job, index);
        }
        // After a start others of its array may not be known yet: the next look dates it.
        if self.jobs.get(&job).is_some_and(|entry| entry.dated) {
            self.unwatch(job);
        }
    }

    /// A job neither waits nor holds anything any more.
    pub fn gone(&mut self, job: JobId, at: Timestamp) {
        let Some(entry) = self.forget(job) else {
            return;
        };
        let limited = entry.gate.limited();
        let had = matches!(entry.stage, Stage::Placed(_) | Stage::Through);
        if let Some((array, index, _)) = limited.filter(|_| had) {
            self.member_ended(array, index, at);
            self.freed.insert(array);
        }
    }

    /// Whether it is known how a job stands, or nobody wants to know.
    #[must_use]
    pub fn knows(&self, job: JobId) -> bool {
        self.standings.contains_key(&job) || !self.waiters.contains_key(&job)
    }

    /// Since when nothing is in the way of a job that had something in its way: before that it has not waited for nodes.
    #[must_use]
    pub fn since(&self, job: JobId) -> Option<Timestamp> {
        self.jobs.get(&job)?.since
    }

    /// How a job stands that others may wait for, and when it ended.
    pub fn stands(&mut self, job: JobId, standing: Standing, ended_at: Option<Timestamp>) {
        if let Some(waiters) = self.waiters.get(&job) {
            self.standings.insert(job, (standing, ended_at));
            self.look.extend(waiters);
        }
    }

    /// Those whose gate has opened since this was asked last, never will, or has closed again.
    pub fn open(&mut self, now: Timestamp) -> Opened {
        while let Some((then, job)) = self.due.first().copied().filter(|(then, _)| *then <= now) {
            self.due.remove(&(then, job));
            if let Some(entry) = self.jobs.get_mut(&job) {
                entry.come = true;
            }
            self.look.insert(job);
        }
        let mut opened = Opened::default();
        for job in std::mem::take(&mut self.look) {
            let Some(stage) = self.jobs.get(&job).map(|entry| entry.stage.clone()) else {
                continue;
            };
            match stage {
                Stage::Never(_) => {}
                Stage::Placed(_) => {
                    if self.date(job) {
                        opened.dated.push(job);
                    }
                }
                Stage::Held | Stage::Through => self.look_at(job, now, &mut opened),
            }
        }
        for array in std::mem::take(&mut self.freed) {
            self.refill(array, now, &mut opened);
        }
        opened
    }

    /// One that has had no place yet.
    fn look_at(&mut self, job: JobId, now: Timestamp, opened: &mut Opened) {
        let was_through = self.is_through(job);
        let hopeless = self
            .jobs
            .get(&job)
            .and_then(|entry| self.hopeless(&entry.gate));
        if let Some(words) = hopeless {
            self.unwatch(job);
            self.leave_array(job);
            if let Some(entry) = self.jobs.get_mut(&job) {
                entry.stage = Stage::Never(words.clone());
                self.never.insert(job);
            }
            opened.never.push((job, words));
        } else if self.is_met(job, now) && self.has_place(job) {
            if !was_through {
                self.pass(job, now, opened);
            }
        } else if was_through {
            self.leave_array(job);
            if let Some(entry) = self.jobs.get_mut(&job) {
                entry.stage = Stage::Held;
                entry.since = None;
                entry.dated = false;
                entry.waited = true;
            }
            opened.back.push(job);
        } else if let Some(entry) = self.jobs.get_mut(&job) {
            entry.waited = true;
        }
    }

    fn pass(&mut self, job: JobId, now: Timestamp, opened: &mut Opened) {
        let since = self.moment(job);
        opened.go.push(job);
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.stage = Stage::Through;
            entry.since = since.map(|since| since.min(now));
            entry.dated = true;
            opened.news.extend(entry.waited.then_some(job));
        }
    }

    fn is_through(&self, job: JobId) -> bool {
        let stage = self.jobs.get(&job).map(|entry| &entry.stage);
        stage == Some(&Stage::Through)
    }

    /// Whether nothing but its array's limit holds the job back.
    fn is_met(&self, job: JobId, now: Timestamp) -> bool {
        self.jobs.get(&job).is_some_and(|entry| {
            let then = entry.gate.not_before.filter(|_| !entry.come);
            let early = then.is_some_and(|then| now < then);
            !early && self.unmet(&entry.gate).next().is_none()
        })
    }

    /// When the next gate opens by time alone.
    #[must_use]
    pub fn next_look(&self) -> Option<Timestamp> {
        self.due.first().map(|(then, _)| *then)
    }

    /// Whether a job is held back.
    #[must_use]
    pub fn holds(&self, job: JobId) -> bool {
        let stage = self.jobs.get(&job).map(|entry| &entry.stage);
        matches!(stage, Some(Stage::Held | Stage::Never(_)))
    }

    /// Why a job will never start that has not said yet that it knows.
    #[must_use]
    pub fn never(&self, job: JobId) -> Option<&str> {
        match &self.jobs.get(&job)?.stage {
            Stage::Never(words) => Some(words),
            Stage::Held | Stage::Through | Stage::Placed(_) => None,
        }
    }

    /// All of those.
    pub fn nevers(&self) -> impl Iterator<Item = (JobId, &str)> {
        let jobs = self.never.iter();
        jobs.filter_map(|job| Some((*job, self.never(*job)?)))
    }

    /// Nothing is known of it any more.
    fn forget(&mut self, job: JobId) -> Option<Entry> {
        self.unwatch(job);
        self.leave_array(job);
        self.look.remove(&job);
        self.never.remove(&job);
        self.jobs.remove(&job)
    }

    fn watch(&mut self, job: JobId, gate: &Gate) {
        for other in gate.awaited() {
            self.waiters.entry(other).or_default().insert(job);
        }
        self.look.insert(job);
    }

    /// It does not matter any more how those stand that it waits for, and what time it is.
    fn unwatch(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get(&job) else {
            return;
        };
        if let Some(then) = entry.gate.not_before {
            self.due.remove(&(then, job));
        }
        for other in entry.gate.awaited() {
            let Some(waiters) = self.waiters.get_mut(&other) else {
                continue;
            };
            waiters.remove(&job);
            if waiters.is_empty() {
                self.waiters.remove(&other);
                self.standings.remove(&other);
            }
        }
    }
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
