//! The job machine: `(job, now, event) → (job, effects)`, and nothing else.
//!
//! `state` holds the states and the one table of legal edges, `machine` the transitions. A report
//! of an older attempt is `Illegal` data to log, never a transition. INV-04: no report ever leaves a
//! terminal state; only a user's restart does, with a new attempt.

mod asked;
mod attempt;
mod curve;
mod machine;
mod pace;
mod served;
mod state;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use asked::LastAsked;
pub use attempt::{Attempt, Blame, Heard, Part, Vacates};
pub use curve::Curve;
pub use served::{GoesOn, Served, served};
pub use state::{EDGES, JobState};

use crate::{
    failure::{Outcome, StopCause, TaskEnd},
    ids::{AttemptNo, JobId, NodeName, Rank, TaskKey},
    record::{Checkpoint, Completion, Progress},
    retry::Tried,
    sched::{Allocation, Gate, QueuedJob},
    secret::Secret,
    spec::JobSpec,
    time::Timestamp,
};

/// A job and its whole history: one row of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// By whom.
    pub submitted_by: String,
    /// The snapshot that it trains on, for its whole life; none without a `dataset_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Where it stands.
    pub state: JobState,
    /// Since when.
    pub state_since: Timestamp,
    /// What its node does at present; the scheduler knows why it waits.
    pub reason: String,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// A user wants it stopped.
    pub cancel_requested: bool,
    /// When a user last asked for it to run: its place in the queue, however often it is tried again.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
    /// The newest attempt by then, 0 for none. A row of an older version does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_after: Option<AttemptNo>,
    /// What has been tried since a user last started it.
    #[serde(default)]
    pub tried: Tried,
    /// It waits, before it is tried again, at least until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Where it was tried in vain since a user last started it: other nodes go before these.
    #[serde(default)]
    pub failed_on: BTreeSet<NodeName>,
    /// The newest checkpoint that is known to be in the artifact store: where another node can go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumable: Option<Checkpoint>,
    /// The newest report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The best checkpoint so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_checkpoint: Option<Checkpoint>,
    /// The last checkpoint so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<Checkpoint>,
    /// Which attempt has told of each of these checkpoints, by their paths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub saved_in: BTreeMap<String, AttemptNo>,
    /// As the trainer reported them at its end.
    pub final_metrics: BTreeMap<String, f64>,
    /// When the first trainer process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it reached its terminal state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The run of its newest attempt at MLflow, once there is one: that of the tracker, else the one
    /// that the trainer named at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow_run_id: Option<String>,
    /// The task of its newest attempt at ClearML, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clearml_task_id: Option<String>,
}

/// Where attempts are runs that the job shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracker {
    /// An MLflow tracking server.
    Mlflow,
    /// A ClearML server.
    Clearml,
}

/// What happens to a job. Past tense: facts.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All that the job needs is known.
    Prepared,
    /// The scheduler has given it a place.
    Placed {
        /// Since when the job had waited that was given the place: the fence against late ones.
        queued_at: Timestamp,
        /// The place: what it holds on each node, by rank.
        allocations: Vec<Allocation>,
        /// Drawn by the caller, who has randomness.
        secret: Secret,
    },
    /// A node is busy with its task: fetching, building.
    Preparing(TaskKey, String),
    /// A task of a gang is prepared; rank 0 names the port where the gang meets.
    Waiting(TaskKey, Option<u16>),
    /// The trainer process runs.
    Started(TaskKey, Timestamp),
    /// The trainer process is gone, or never was.
    Ended(TaskKey, TaskEnd),
    /// Records of a task are stored; with what they said.
    Stored(TaskKey, Box<Told>),
    /// A user wants it stopped.
    CancelRequested,
    /// A user wants it run again.
    RestartRequested,
    /// A user wants it started: one that waits is started anyway, one that has ended runs again.
    StartRequested(Resume),
    /// A task is gone: its node came back without a trace of it.
    AttemptLost(TaskKey, String),
    /// A node of the attempt has been silent for longer than its lease.
    NodeLost(AttemptNo, NodeName, String),
    /// The node of a task speaks of it again, as of one that runs.
    Heard(TaskKey),
    /// These ranks keep the rest of their gang waiting for too long.
    Late(AttemptNo, Vec<Rank>),
    /// It waits for a job that did not succeed, in words: it will never start.
    Hopeless(String),
    /// The scheduler needs the attempt's place for that job.
    MakeRoom(AttemptNo, JobId),
    /// A node of the attempt goes out of service, for this reason: all of it is to go on elsewhere.
    Vacate(AttemptNo, String),
    /// The attempt has this run at a tracker; may come long after its end.
    Tracked(AttemptNo, Tracker, String),
}

/// What stored records of a task said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// All records up to this number are stored.
    pub seq: u64,
    /// The newest report among them.
    pub progress: Option<Progress>,
    /// The trainer's last word, if it was among them.
    pub completion: Option<Completion>,
    /// The epoch of the first report with metrics among them.
    pub first_epoch: Option<u32>,
    /// The newest last checkpoint among them that its agent has put into the artifact store.
    pub kept: Option<Checkpoint>,
}

/// Where a trainer begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The checkpoint, as the trainer's node sees it; without one the job's last one.
    pub checkpoint: Option<String>,
    /// Go on where it ended, epochs and optimizer included; else only its weights are taken.
    pub whole: bool,
}

/// What is to be done once the changed job is stored. Imperative, plain data, safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Put it in the scheduler's queue.
    Enqueue,
    /// Take it out of the queue.
    Dequeue,
    /// Give back what tasks that are over have held.
    Release,
    /// Tell the node to run the task.
    Start(NodeName, TaskKey),
    /// Tell the node that its gang is complete: the task starts.
    Launch(NodeName, TaskKey),
    /// Tell the node to stop it.
    Stop(NodeName, TaskKey, StopCause),
    /// Tell the node that all is stored.
    Forget(NodeName, TaskKey),
}

/// An event that the job's state does not allow; a fact to log or to answer, never a transition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    /// The attempt is not the live one.
    #[error("attempt {} is not the live one ({live:?})", .seen.0)]
    Fenced {
        /// What the report carried.
        seen: AttemptNo,
        /// What is true.
        live: Option<AttemptNo>,
    },
    /// The state has no such edge.
    #[error("a {} job does not take '{event}'", .state.name())]
    NotNow {
        /// Where the job stands.
        state: JobState,
        /// What came.
        event: &'static str,
    },
}

/// A legal transition: the job as it is to be stored, and what to do then.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Step {
    /// The changed job.
    pub job: Job,
    /// To be carried out after it is stored, in order.
    pub effects: Vec<Effect>,
}

impl Job {
    /// A job just accepted.
    #[must_use]
    pub fn accepted(id: JobId, spec: JobSpec, submitted_by: String, now: Timestamp) -> Self {
        Self {
            id,
            spec,
            submitted_by,
            snapshot_id: None,
            created_at: now,
            state: JobState::Pending,
            state_since: now,
            reason: String::new(),
            attempts: Vec::new(),
            cancel_requested: false,
            asked_at: Some(now),
            asked_after: Some(AttemptNo(0)),
            tried: Tried::default(),
            not_before: None,
            failed_on: BTreeSet::new(),
            resumable: None,
            progress: None,
            outcome: None,
            best_checkpoint: None,
            last_checkpoint: None,
            saved_in: BTreeMap::new(),
            final_metrics: BTreeMap::new(),
            started_at: None,
            ended_at: None,
            mlflow_run_id: None,
            clearml_task_id: None,
        }
    }

    /// Notes where the next attempt's trainer begins: afresh when nothing is wanted, or when there is
    /// no checkpoint to go on from.
    fn begin_with(&mut self, from: &Resume) {
        let last = self.last_checkpoint.as_ref().filter(|_| from.whole);
        let last = last.map(|checkpoint| checkpoint.path.clone());
        self.spec.resume_from = from.checkpoint.clone().or(last);
        self.spec.resume = from.whole && self.spec.resume_from.is_some();
    }

    /// Whether the next attempt goes on from where this job's own trainer was.
    fn goes_on(&self) -> bool {
        let own = [&self.last_checkpoint, &self.best_checkpoint];
        let mut paths = own.into_iter().flatten().map(|own| &own.path);
        self.spec.resume && paths.any(|path| Some(path) == self.spec.resume_from.as_ref())
    }

    /// The newest attempt, live or over.
    #[must_use]
    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The attempt that is not over.
    #[must_use]
    pub fn live(&self) -> Option<&Attempt> {
        let holds = self.state.holds_resources();
        self.attempts.last().filter(|_| holds)
    }

    /// What the job holds now, by rank: tasks that are over have given back what was theirs.
    #[must_use]
    pub fn allocations(&self) -> Vec<&Allocation> {
        let parts = self.live().into_iter().flat_map(Attempt::parts);
        let held = parts.filter(|(_, part)| !part.is_over());
        held.map(|(_, part)| &part.allocation).collect()
    }

    /// When a user last asked for it to run, and which attempts came before that.
    #[must_use]
    pub fn last_asked(&self) -> LastAsked {
        LastAsked {
            at: self.asked_at.unwrap_or(self.created_at),
            had: self.asked_after,
        }
    }

    /// What the scheduler is told of it while it waits.
    #[must_use]
    pub fn queued(&self) -> QueuedJob {
        let served = self.served();
        QueuedJob {
            job: self.id,
            request: self.spec.resources.clone(),
            nodes: self.spec.nodes,
            priority: self.spec.priority,
            queued_at: self.state_since,
            age: QueuedJob::age(self.asked_at, self.state_since),
            not_before: self.not_before,
            avoid: self.failed_on.clone(),
            project: self.spec.project_id,
            user: self.submitted_by.clone(),
            name: self.spec.name.clone(),
            preemptible: self.spec.preemptible,
            limit: self.spec.time_limit,
            has_run: served.has_run,
            in_vain: served.in_vain,
            passed: self.last_asked().placed(&self.attempts),
            placement: self.spec.placement.clone(),
            gate: Gate::of(&self.spec),
        }
    }

    /// What its attempts that are over have come to, as far as they were not in vain: without a checkpoint to go on from
    /// they were.
    #[must_use]
    pub fn served(&self) -> Served {
        let saved = self.resumable.as_ref();
        served(
            &self.attempts,
            self.last_asked(),
            GoesOn::of(saved, &self.saved_in),
        )
    }

    /// For how long trainers of its attempts have run since a user last asked for it; none if none ever did.
    #[must_use]
    pub fn ran(&self) -> Option<std::time::Duration> {
        let asked = self.last_asked();
        let attempts = self.attempts.iter();
        let mut spans = attempts
            .filter(|attempt| asked.is_before(attempt))
            .filter_map(|attempt| Some(attempt.ended_at()?.since(attempt.started_at()?)))
            .peekable();
        spans.peek()?;
        Some(spans.sum())
    }

    /// The name of one of its tasks.
    #[must_use]
    pub fn task(&self, attempt: AttemptNo, rank: Rank) -> TaskKey {
        TaskKey {
            job: self.id,
            attempt,
            rank,
        }
    }

    /// Applies `event` at `now`.
    ///
    /// # Errors
    /// When the event is of a fenced attempt or the state does not allow it.
    pub fn step(&self, now: Timestamp, event: Event) -> Result<Step, Illegal> {
        machine::step(self, now, event)
    }
}

#[cfg(test)]
mod states_doc;
#[cfg(test)]
mod tests;
