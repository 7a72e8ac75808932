//! Between the policy, which counts, and the cluster, which has names: jobs, nodes and GPUs by UUID.
//!
//! Owns ledger, queue and policy, and that the last two believe of nodes what the ledger says. Decides nothing itself but
//! which of equal GPUs a task gets. Pure: it is told the time. Called by the scheduler actor, which carries out what
//! `solve` answers.

mod explain;
mod going;
mod jobs;
mod kept;
mod left_out;
mod names;
mod nodes;
mod promised;
mod seats;
mod solve;
mod upkeep;
mod words;

pub use advice::Change;
pub use explain::{Explanation, Short};
pub use kept::KeptNodes;
pub use names::{least_gpus, payer};

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{going::Going, upkeep::Upkeep};
use super::{
    Gate, Gates, Placement, Queue, QueuedJob, Standing,
    ledger::{Allocation, Ledger},
    policy::{
        Config, Scheduler, Seconds,
        cluster::{NodeIx, Piece},
    },
};
use crate::{
    ids::{JobId, NodeName},
    time::Timestamp,
};

const SECOND: i64 = 1_000_000;

/// A job that is to save its work and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Which.
    pub job: JobId,
    /// For whom.
    pub for_job: JobId,
}

/// All that is to be carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// These start.
    pub placements: Vec<Placement>,
    /// These make room.
    pub leaving: Vec<Leaving>,
    /// Why they do, in words.
    pub room: BTreeMap<JobId, String>,
    /// These will never start, with the reasons.
    pub never: Vec<(JobId, String)>,
    /// These were held back, and are not any more.
    pub through: Vec<JobId>,
    /// The plan breaks one of its post-conditions, in words: a bug of ours. Nothing of it is to be carried out.
    pub broken: Option<String>,
}

/// A job that holds something.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it asked for.
    pub asked: QueuedJob,
    /// What it holds.
    pub allocations: Vec<Allocation>,
    /// Since when.
    pub since: Timestamp,
    /// Since when all of its trainers run, once they do.
    pub runs_since: Option<Timestamp>,
    /// It has shown a checkpoint from which it could go on.
    pub saved: bool,
    /// For whom it makes room, if it was told to.
    pub leaves_for: Option<JobId>,
    /// When it was told so, where that is known.
    pub leaves_since: Option<Timestamp>,
    /// How long its trainers may take to save their work once they are told to go.
    pub grace: Duration,
}

/// Jobs, nodes, and what is to be done.
#[derive(Clone, Debug)]
pub struct Planner {
    ledger: Ledger,
    queue: Queue,
    /// Who of them may be considered at all.
    gates: Gates,
    policy: Scheduler,
    ixs: BTreeMap<NodeName, NodeIx>,
    names: BTreeMap<NodeIx, NodeName>,
    /// Places that the policy has chosen, and that are not free yet.
    seats: BTreeMap<JobId, Vec<Piece>>,
    /// Why those have them, in words.
    why: BTreeMap<JobId, String>,
    leaving: BTreeMap<JobId, Going>,
    /// How long those who hold something may take to go.
    graces: BTreeMap<JobId, Duration>,
    /// Waiting jobs that shun nodes, and which they shun as things are.
    shy: BTreeMap<JobId, BTreeSet<NodeIx>>,
    /// Nodes have changed since that was looked at.
    moved: bool,
    /// The policy's clock never goes back: it is ahead of the real one by so much.
    skew: Seconds,
    latest: Option<Seconds>,
    /// Nodes that are about to close.
    upkeep: Upkeep,
}

impl Default for Planner {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Planner {
    /// Without nodes and jobs.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            upkeep: Upkeep::with(config.restart_cost),
            ledger: Ledger::default(),
            queue: Queue::default(),
            gates: Gates::default(),
            policy: Scheduler::new(config),
            ixs: BTreeMap::new(),
            names: BTreeMap::new(),
            seats: BTreeMap::new(),
            why: BTreeMap::new(),
            leaving: BTreeMap::new(),
            graces: BTreeMap::new(),
            shy: BTreeMap::new(),
            moved: false,
            skew: 0,
            latest: None,
        }
    }

    /// Who holds what.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Who waits.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The policy's own view.
    #[must_use]
    pub fn policy(&self) -> &Scheduler {
        &self.policy
    }

    /// For whom a job is to make room, if it is.
    #[must_use]
    pub fn leaves_for(&self, job: JobId) -> Option<JobId> {
        self.leaving.get(&job).map(|going| going.for_job)
    }

    /// INV-01 and INV-02, of what has changed since this was asked last.
    pub fn newly_violated(&mut self) -> Option<String> {
        self.ledger.newly_violated()
    }

    /// How a job stands that others may wait for, and when it ended.
    pub fn stands(&mut self, job: JobId, standing: Standing, ended_at: Option<Timestamp>) {
        self.gates.stands(job, standing, ended_at);
    }

    /// One of an array that had a place had ended before the coordinator was started.
    pub fn member_ended(&mut self, array: JobId, index: u32, at: Timestamp) {
        self.gates.member_ended(array, index, at);
    }

    /// Why a job will never start that has not said yet that it knows.
    #[must_use]
    pub fn never(&self, job: JobId) -> Option<&str> {
        self.gates.never(job)
    }

    /// All of those.
    pub fn nevers(&self) -> impl Iterator<Item = (JobId, &str)> {
        self.gates.nevers()
    }

    /// Whether it is known how a job stands, or nobody waits for it.
    #[must_use]
    pub fn knows(&self, job: JobId) -> bool {
        self.gates.knows(job)
    }

    /// Jobs that this one waits for, and of which it is not known how they stand.
    pub fn unknown(&self, gate: &Gate) -> Vec<JobId> {
        let unknown = gate.awaited().filter(|job| !self.gates.knows(*job));
        unknown.collect()
    }

    /// When to solve again though nothing happens.
    #[must_use]
    pub fn wake(&self, now: Timestamp) -> Option<Timestamp> {
        let policy = self
            .policy
            .wake(self.latest.unwrap_or_else(|| self.seconds(now)));
        let policy = policy.map(|then| self.moment(then));
        let gates = self.gates.next_look();
        let next = self.queue.next_due(now).into_iter().chain(policy);
        next.chain(gates).min()
    }

    fn seconds(&self, at: Timestamp) -> Seconds {
        at.0.div_euclid(SECOND) + self.skew
    }

    fn moment(&self, then: Seconds) -> Timestamp {
        Timestamp((then - self.skew).saturating_mul(SECOND))
    }

    /// The policy's time, which goes on where it was when the clock is set back.
    fn tick(&mut self, now: Timestamp) -> Seconds {
        self.upkeep.tick(now);
        let latest = match self.latest {
            Some(latest) => latest,
            None => {
                let first = self.seconds(now);
                self.policy.hold_off(first);
                first
            }
        };
        self.skew += (latest - self.seconds(now)).max(0);
        self.policy.is_ahead_by(self.skew);
        let now = self.seconds(now);
        self.latest = Some(now);
        now
    }
}

#[cfg(test)]
mod tests;

mod advice;
#[cfg(test)]
mod asked;

#[cfg(test)]
mod stories;

#[cfg(test)]
mod windows;
