//! One active job: drives core's machine, stores each step, then lets its effects out.
//!
//! Child of Jobs. Owns the job in memory; nothing else changes it. If it fails, Jobs starts it again
//! from the store, and agents tell again what was not acknowledged. Never kills anything itself: it
//! sends frames to nodes.

mod direct;
mod frames;
mod gang;
mod given_up;
mod out;
mod records;
mod reports;
mod told;

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use thiserror::Error;
use trainyard_core::{
    decision::Decision,
    failure::TaskEnd,
    ids::{AttemptNo, JobId, NodeName, Rank, SessionNo, TaskKey},
    invariants::broken_by,
    job::{Attempt, Event, Heard, Illegal, Job, JobState, Step},
    secret::Secret,
    task::{Phase, Report},
    time::Timestamp,
};

use self::out::{Done, refusal, worth_storing};
pub use self::{
    direct::DirectReport,
    records::{Ack, Batch},
    told::Told,
};
use super::{
    jobs::{JobsMsg, JobsRef},
    nodes::{Launch, NodesMsg, NodesRef},
    scheduler::{SchedulerMsg, SchedulerRef, answer},
};
use crate::{
    broken::Broken,
    clock,
    store::{Change, ReadError, Store, StoreError},
};

/// What a user's request to change a job can end in.
#[derive(Debug, Error)]
pub enum ActError {
    /// There is no such job.
    #[error("job not found")]
    NotFound,
    /// Its state does not allow it.
    #[error("{0}")]
    Illegal(Illegal, JobState),
}

/// Where the answer to a user's request goes.
pub type ActReply = RpcReplyPort<Result<Job, ActError>>;

/// What a job takes.
#[derive(Debug)]
pub enum JobMsg {
    /// Something happened, or a user wants something.
    Event(Event, Option<ActReply>),
    /// The scheduler has decided something, for this reason, which is noted with it.
    Decided(Event, String),
    /// A node says how a task stands, in this session.
    Report(NodeName, Box<Report>, SessionNo),
    /// Records of a task.
    Records(Batch),
    /// What a trainer reports to the coordinator itself.
    Direct {
        /// Must be that of the live attempt.
        secret: Secret,
        /// What it says.
        report: Box<DirectReport>,
        /// Answered once it is on disk.
        reply: ActReply,
    },
    /// The node that should run a task of this attempt knew nothing of it when this session of it began.
    NoTrace(AttemptNo, NodeName, SessionNo),
    /// Look whether ranks keep the rest of their gang waiting.
    LookForLate,
    /// Be there; sent at start for jobs that hold something, and to one that starts after a failure.
    Wake,
    /// Fail, as by a bug.
    #[cfg(test)]
    Fail,
}

/// Everyone a job speaks to.
#[derive(Clone, Debug)]
pub struct Peers {
    /// For all that is durable.
    pub store: Store,
    /// Told of each stored step that matters to it.
    pub scheduler: SchedulerRef,
    /// Carries frames to nodes.
    pub nodes: NodesRef,
    /// The parent.
    pub jobs: JobsRef,
    /// What locations in the artifact store begin with.
    pub artifacts: String,
    /// For how long a gang waits for a rank that says nothing new.
    pub gang_patience: Duration,
    /// Where broken invariants are counted.
    pub broken: Broken,
}

impl Peers {
    /// A task that nobody wants is stopped; one that has ended is forgotten, and its place is free.
    /// Until then nobody else gets it.
    pub(super) fn refuse(&self, (node, session): (NodeName, SessionNo), report: &Report) {
        let task = (report.task.job, report.task.attempt);
        let told = match report.phase {
            Phase::Ended(..) => SchedulerMsg::StrayGone(node.clone(), task),
            Phase::Preparing | Phase::Waiting(_) | Phase::Running(_) => {
                SchedulerMsg::Stray(node.clone(), session, task)
            }
        };
        self.scheduler.cast(told).ok();
        let frame = NodesMsg::Send(node, Box::new(refusal(report)));
        self.nodes.cast(frame).ok();
    }
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct JobActor;

/// Tasks that cannot begin, and why.
type Unable = Vec<(TaskKey, TaskEnd)>;

/// The job, and what is needed to act for it.
#[derive(Debug)]
pub struct State {
    job: Job,
    peers: Arc<Peers>,
    /// Epochs and steps that the live attempt has reported; read from the store when first needed.
    reported: Option<(AttemptNo, direct::Reported)>,
    /// Identity of the last lines that a trainer has sent to the coordinator itself.
    last_body: Option<(u64, AttemptNo)>,
    /// When it is looked for late ranks next.
    alarm: Option<Timestamp>,
    /// When ranks were last heard of.
    heard: Heard,
    /// In which sessions tasks of the newest attempt were last told of.
    told_in: Told,
    /// Why the scheduler has decided what is being taken in.
    why: Option<String>,
    /// Ranks that were late when it was last looked: a clock that was set makes nobody late.
    late: Vec<Rank>,
}

impl Actor for JobActor {
    type Msg = JobMsg;
    type State = State;
    type Arguments = (JobId, Arc<Peers>, Told);

    async fn pre_start(
        &self,
        _myself: ActorRef<JobMsg>,
        (id, peers, told_in): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let job = load(&peers.store, id)?.ok_or("the store has no such job")?;
        Ok(State {
            job,
            peers,
            reported: None,
            last_body: None,
            alarm: None,
            heard: Heard::from(clock::now()),
            told_in,
            why: None,
            late: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<JobMsg>,
        message: JobMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JobMsg::Event(event, reply) => state.event(event, reply).await?,
            JobMsg::Decided(event, why) => {
                state.why = Some(why);
                state.event(event, None).await?;
                state.why = None;
            }
            JobMsg::Report(node, report, session) => {
                state.report((&node, session), *report).await?;
            }
            JobMsg::Records(batch) => state.records(batch).await?,
            JobMsg::Direct {
                secret,
                report,
                reply,
            } => state.direct(&secret, *report, reply).await?,
            JobMsg::NoTrace(attempt, node, session) => {
                state.no_trace(attempt, &node, session).await?;
            }
            JobMsg::LookForLate => state.look_for_late().await?,
            // Whatever the scheduler believed while nobody was here, this is the truth. Only then: a
            // placement that is on its way here must not be taken back.
            JobMsg::Wake => state.tell_scheduler().await?,
            #[cfg(test)]
            JobMsg::Fail => return Err("a test wants it".into()),
        }
        state.wake_for_late(&myself);
        if !state.job.state.holds_resources() {
            // Nobody hears it when all is stopped in order.
            state.peers.jobs.cast(JobsMsg::Idle(state.job.id)).ok();
        }
        Ok(())
    }

    /// Whoever wakes this job next reads the store: all of its steps must be there by then.
    async fn post_stop(
        &self,
        _myself: ActorRef<JobMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.peers.store.commit_and_wait(Vec::new()).await?;
        Ok(())
    }
}

/// A job as it is stored, with the number up to which its live attempt's records are.
pub(super) fn load(store: &Store, id: JobId) -> Result<Option<Job>, ReadError> {
    let Some(mut job) = store.job(id)? else {
        return Ok(None);
    };
    let cursors = store.cursors(id)?;
    if let Some(live) = job.attempts.last_mut() {
        let number = live.number;
        for (task, seq) in cursors.iter().filter(|(task, _)| task.attempt == number) {
            live.note_stored(task.rank, *seq);
        }
    }
    Ok(Some(job))
}

impl State {
    async fn event(
        &mut self,
        event: Event,
        reply: Option<ActReply>,
    ) -> Result<(), ActorProcessingErr> {
        let gone = matches!(event, Event::NodeLost(..) | Event::AttemptLost(..));
        match self.job.step(clock::now(), event) {
            Ok(step) => {
                let lines = match gone {
                    true => given_up::given_up(&self.job, &step.job),
                    false => Vec::new(),
                };
                let unable = self.take(step, lines, Done::Answer(reply)).await?;
                self.end_unable(unable).await
            }
            Err(illegal) => {
                tracing::info!(job = %self.job.id, %illegal, "refused");
                if let Some(reply) = reply {
                    let refused = Err(ActError::Illegal(illegal, self.job.state));
                    self.once_stored(move || answer(reply, refused)).await?;
                }
                // A placement that came too late gives its place back.
                Ok(self.tell_scheduler().await?)
            }
        }
    }

    /// Stores the step, then lets the effects out; answers with tasks that cannot begin. The memory is ahead
    /// of the disk by as much as is under way; what leaves this actor never is.
    async fn take(
        &mut self,
        step: Step,
        mut changes: Vec<Change>,
        done: Done,
    ) -> Result<Unable, StoreError> {
        let before = std::mem::replace(&mut self.job, step.job);
        for invariant in broken_by(&before, &self.job) {
            self.peers.broken.note(invariant, &self.job.id);
        }
        if worth_storing(&before, &self.job) {
            changes.push(Change::PutJob(Box::new(self.job.clone())));
        }
        // In the same transaction as what was decided.
        let notes = Decision::between(&before, &self.job, self.why.as_deref(), clock::now());
        if !notes.is_empty() {
            changes.push(Change::Note(notes));
        }
        let moved = before.state != self.job.state;
        let held = before.allocations().len() != self.job.allocations().len();
        let leaves = |job: &Job| job.live().is_some_and(Attempt::leaves);
        let goes = leaves(&before) != leaves(&self.job);
        // Who has shown a checkpoint makes room before others.
        let saved = before.resumable.is_some() != self.job.resumable.is_some();
        let launches = Launch::between(&before, &self.job);
        let (frames, unable) = self.frames(&step.effects);
        let job = self.job.clone();
        let peers = Arc::clone(&self.peers);
        let then = move |_: &crate::store::Committed| {
            if moved {
                tracing::info!(job = %job.id, state = job.state.name(), "job");
            }
            if moved || held || goes || saved {
                let told = SchedulerMsg::JobIs(Box::new(job.clone()));
                peers.scheduler.cast(told).ok();
            }
            for (node, launch) in launches {
                peers.nodes.cast(NodesMsg::Launched(node, launch)).ok();
            }
            for (node, frame) in frames {
                peers.nodes.cast(NodesMsg::Send(node, Box::new(frame))).ok();
            }
            done.with(job);
        };
        self.peers.store.commit(changes, Box::new(then)).await?;
        Ok(unable)
    }
}
