//! Which jobs that wait may be considered at all: those whose time has come, whose dependencies are met, and whose array
//! has a place left.
//!
//! Owns what is known of that. It is told of jobs that come into the queue, run and end, and how those stand that others
//! wait for. Never places anything, and reads neither clock nor store. Called by the planner.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::JobId,
    job::JobState,
    spec::{ArrayPlace, JobSpec},
    time::Timestamp,
};

/// What stands between a job and its consideration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Not before this moment.
    pub not_before: Option<Timestamp>,
    /// Not before these have succeeded.
    pub after: Vec<JobId>,
    /// Not before these have ended, well or ill.
    pub after_any: Vec<JobId>,
    /// Not while as many of its array run as may.
    pub array: Option<ArrayPlace>,
}

impl Gate {
    /// As the job's specification says.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            not_before: spec.not_before,
            after: spec.after.clone(),
            after_any: spec.after_any.clone(),
            array: spec.array.clone(),
        }
    }

    /// Jobs that it waits for.
    pub fn awaited(&self) -> impl Iterator<Item = JobId> + '_ {
        self.after.iter().chain(&self.after_any).copied()
    }

    /// Its array's number and limit, if that has one.
    fn limited(&self) -> Option<(JobId, u32, u32)> {
        let place = self.array.as_ref()?;
        Some((place.id, place.index, place.at_most?))
    }

    fn is_open(&self) -> bool {
        self.not_before.is_none() && self.awaited().next().is_none() && self.limited().is_none()
    }
}

/// How a job stands that others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not ended.
    Open,
    /// It has completed.
    Succeeded,
    /// It has failed.
    Failed,
    /// Somebody has cancelled it, or it waited for one that did not succeed.
    Cancelled,
    /// Nobody knows it any more.
    Unknown,
}

impl Standing {
    /// Of a job in this state; of none where there is no such job.
    #[must_use]
    pub fn of(state: Option<JobState>) -> Self {
        match state {
            Some(
                JobState::Pending
                | JobState::Queued
                | JobState::Starting
                | JobState::Running
                | JobState::Finishing,
            ) => Self::Open,
            Some(JobState::Completed) => Self::Succeeded,
            Some(JobState::Failed) => Self::Failed,
            Some(JobState::Cancelled) => Self::Cancelled,
            None => Self::Unknown,
        }
    }
}

/// What became of jobs that were held back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// They may be placed from now on.
    pub go: Vec<JobId>,
    /// They never may, with the reasons.
    pub never: Vec<(JobId, String)>,
}

/// The jobs of an array that has a limit.
#[derive(Clone, Debug, Default)]
struct Members {
    /// Let through, and not ended.
    out: BTreeSet<JobId>,
    /// Held back by the limit alone, by index.
    ready: BTreeSet<(u32, JobId)>,
}

/// A job that was let through.
#[derive(Clone, Copy, Debug)]
struct Through {
    /// In whose places it counts.
    array: Option<JobId>,
    /// When; not known of one that ran already when it was first heard of.
    at: Option<Timestamp>,
}

/// All jobs that are held back.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    held: BTreeMap<JobId, Gate>,
    /// Who waits for whom.
    waiters: BTreeMap<JobId, BTreeSet<JobId>>,
    /// Of those that are waited for.
    standings: BTreeMap<JobId, Standing>,
    due: BTreeSet<(Timestamp, JobId)>,
    arrays: BTreeMap<JobId, Members>,
    /// Jobs that were let through and have not ended.
    through: BTreeMap<JobId, Through>,
    /// Arrays in which a place was given back.
    freed: BTreeSet<JobId>,
    /// Whose gate may have opened.
    look: BTreeSet<JobId>,
}

impl Gates {
    /// A job waits. Says whether it is held back: then `open` tells when it no longer is.
    pub fn queued(&mut self, job: JobId, gate: Gate) -> bool {
        self.let_go_of(job);
        self.stands(job, Standing::Open);
        // One that was let through once, and is tried again, is let through.
        if gate.is_open() || self.through.contains_key(&job) {
            return false;
        }
        self.due.extend(gate.not_before.map(|then| (then, job)));
        for other in gate.awaited() {
            self.waiters.entry(other).or_default().insert(job);
        }
        self.held.insert(job, gate);
        self.look.insert(job);
        true
    }

    /// A job holds nodes.
    pub fn runs(&mut self, job: JobId, gate: &Gate) {
        self.let_go_of(job);
        self.stands(job, Standing::Open);
        if gate.is_open() || self.through.contains_key(&job) {
            return;
        }
        let array = gate.limited().map(|(array, ..)| array);
        if let Some(array) = array {
            self.arrays.entry(array).or_default().out.insert(job);
        }
        self.through.insert(job, Through { array, at: None });
    }

    /// A job neither waits nor holds anything any more.
    pub fn gone(&mut self, job: JobId) {
        self.let_go_of(job);
        let through = self.through.remove(&job);
        if let Some(array) = through.and_then(|through| through.array)
            && let Some(members) = self.arrays.get_mut(&array)
        {
            members.out.remove(&job);
            self.freed.insert(array);
        }
    }

    /// Whether it is known how a job stands, or nobody wants to know.
    #[must_use]
    pub fn knows(&self, job: JobId) -> bool {
        self.standings.contains_key(&job) || !self.waiters.contains_key(&job)
    }

    /// When a job was let through that was held back: before that it has not waited for nodes.
    #[must_use]
    pub fn since(&self, job: JobId) -> Option<Timestamp> {
        self.through.get(&job)?.at
    }

    /// How a job stands that others may wait for.
    pub fn stands(&mut self, job: JobId, standing: Standing) {
        if let Some(waiters) = self.waiters.get(&job) {
            self.standings.insert(job, standing);
            self.look.extend(waiters);
        }
    }

    /// Those whose gate has opened since this was asked last, or never will.
    pub fn open(&mut self, now: Timestamp) -> Opened {
        while let Some((then, job)) = self.due.first().copied().filter(|(then, _)| *then <= now) {
            self.due.remove(&(then, job));
            // It has come, whatever the clock says later.
            if let Some(gate) = self.held.get_mut(&job) {
                gate.not_before = None;
            }
            self.look.insert(job);
        }
        let mut opened = Opened::default();
        for job in std::mem::take(&mut self.look) {
            if let Some(words) = self.held.get(&job).and_then(|gate| self.hopeless(gate)) {
                self.let_go_of(job);
                opened.never.push((job, words));
            } else if self.is_met(job, now) && self.has_place(job) {
                self.pass(job, now);
                opened.go.push(job);
            }
        }
        for array in std::mem::take(&mut self.freed) {
            self.refill(array, now, &mut opened.go);
        }
        opened
    }

    /// Gives the places of an array that are free to its next ones.
    fn refill(&mut self, array: JobId, now: Timestamp, go: &mut Vec<JobId>) {
        while let Some(members) = self.arrays.get_mut(&array) {
            let Some((index, job)) = members.ready.first().copied() else {
                if members.out.is_empty() {
                    self.arrays.remove(&array);
                }
                return;
            };
            members.ready.remove(&(index, job));
            if !self.is_met(job, now) {
                continue;
            }
            if !self.has_place(job) {
                return;
            }
            self.pass(job, now);
            go.push(job);
        }
    }

    fn pass(&mut self, job: JobId, now: Timestamp) {
        let limited = self.held.get(&job).and_then(Gate::limited);
        let array = limited.map(|(array, ..)| array);
        self.through.insert(
            job,
            Through {
                array,
                at: Some(now),
            },
        );
        self.let_go_of(job);
    }

    /// Whether nothing but its array's limit holds the job back.
    fn is_met(&self, job: JobId, now: Timestamp) -> bool {
        self.held.get(&job).is_some_and(|gate| {
            let early = gate.not_before.is_some_and(|then| now < then);
            !early && self.unmet(gate).next().is_none()
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
        self.held.contains_key(&job)
    }

    /// Why a job is held back, for people; none when it is not.
    #[must_use]
    pub fn why(&self, job: JobId, now: Timestamp) -> Option<String> {
        let gate = self.held.get(&job)?;
        let mut words = Vec::new();
        let unmet: Vec<String> = self.unmet(gate).collect();
        if let Some(shown) = unmet.get(..3).filter(|_| unmet.len() > 3) {
            words.push(format!(
                "waits for {} and {} others",
                shown.join(", "),
                unmet.len() - 3
            ));
        } else if !unmet.is_empty() {
            words.push(format!("waits for {}", unmet.join(" and for ")));
        }
        if let Some(then) = gate.not_before.filter(|then| now < *then) {
            words.push(format!("not before {}", then.moment(now)));
        }
        if let (Some((array, _, at_most)), true) = (gate.limited(), words.is_empty()) {
            let out = self
                .arrays
                .get(&array)
                .map_or(0, |members| members.out.len());
            words.push(format!(
                "{out} of its array run or are next, and {at_most} at once is its limit"
            ));
        }
        Some(words.join("; "))
    }

    /// A place of the array, which the job has taken then; one without a limit always has one.
    fn has_place(&mut self, job: JobId) -> bool {
        let Some((array, index, at_most)) = self.held.get(&job).and_then(Gate::limited) else {
            return true;
        };
        let members = self.arrays.entry(array).or_default();
        let free = members.out.len() < usize::try_from(at_most).unwrap_or(usize::MAX);
        if free {
            members.out.insert(job);
            members.ready.remove(&(index, job));
        } else {
            members.ready.insert((index, job));
        }
        free
    }

    /// What a job waits for of others, each in words.
    fn unmet<'g>(&'g self, gate: &'g Gate) -> impl Iterator<Item = String> + 'g {
        let open = |job: &&JobId| matches!(self.standings.get(*job), None | Some(Standing::Open));
        let after = gate.after.iter().filter(open);
        let any = gate.after_any.iter().filter(open);
        after
            .map(|job| format!("job {job} to succeed"))
            .chain(any.map(|job| format!("job {job} to end")))
    }

    /// Why the job will never start.
    fn hopeless(&self, gate: &Gate) -> Option<String> {
        gate.after.iter().find_map(|job| {
            let became = match self.standings.get(job)? {
                Standing::Open | Standing::Succeeded => return None,
                Standing::Failed => "has failed",
                Standing::Cancelled => "was cancelled",
                Standing::Unknown => "is not there any more",
            };
            Some(format!(
                "it was to start when job {job} has succeeded, and that {became}"
            ))
        })
    }

    /// It is not held back any more.
    fn let_go_of(&mut self, job: JobId) {
        let Some(gate) = self.held.remove(&job) else {
            return;
        };
        self.look.remove(&job);
        if let Some(then) = gate.not_before {
            self.due.remove(&(then, job));
        }
        for other in gate.awaited() {
            let Some(waiters) = self.waiters.get_mut(&other) else {
                continue;
            };
            waiters.remove(&job);
            if waiters.is_empty() {
                self.waiters.remove(&other);
                self.standings.remove(&other);
            }
        }
        if let Some((array, index, _)) = gate.limited()
            && let Some(members) = self.arrays.get_mut(&array)
        {
            members.ready.remove(&(index, job));
        }
    }
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
