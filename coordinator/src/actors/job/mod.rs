//! One active job: drives core's machine, stores each step, then lets its effects out.
//!
//! Child of Jobs. Owns the job in memory; nothing else changes it. If it fails, Jobs starts it again
//! from the store, and agents tell again what was not acknowledged. Never kills anything itself: it
//! sends frames to nodes.

mod direct;
mod out;
mod records;

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use thiserror::Error;
use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, JobId, NodeName, Rank, TaskKey},
    job::{Effect, Event, Illegal, Job, JobState, Step},
    secret::Secret,
    snapshot::Snapshot,
    task::{Phase, Report},
    time::Timestamp,
};
use trainyard_proto::{convert::duration, v1};
use v1::connect_response::Frame;

use self::out::{Done, refusal, worth_storing};
pub use self::{
    direct::DirectReport,
    records::{Ack, Batch},
};
use super::{
    jobs::{JobsMsg, JobsRef},
    nodes::{Launch, NodesMsg, NodesRef},
    scheduler::{SchedulerMsg, SchedulerRef, answer},
};
use crate::{
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
    /// A node says how a task stands.
    Report(NodeName, Box<Report>),
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
    /// The node that should run this attempt, and registered at this time, knew nothing of it then.
    NoTrace(AttemptNo, Timestamp),
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
}

impl Peers {
    /// A task that nobody wants is stopped; one that has ended is forgotten, and its place is free.
    pub(super) fn refuse(&self, node: NodeName, report: &Report) {
        let frame = NodesMsg::Send(node.clone(), Box::new(refusal(report)));
        self.nodes.cast(frame).ok();
        if matches!(report.phase, Phase::Ended(..)) {
            let task = (report.task.job, report.task.attempt);
            let gone = SchedulerMsg::StrayGone(node, task);
            self.scheduler.cast(gone).ok();
        }
    }
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct JobActor;

/// An attempt that cannot begin, and why.
type Unable = (AttemptNo, TaskEnd);

/// The job, and what is needed to act for it.
#[derive(Debug)]
pub struct State {
    job: Job,
    peers: Arc<Peers>,
    /// Epochs and steps that the live attempt has reported; read from the store when first needed.
    reported: Option<(AttemptNo, direct::Reported)>,
    /// Identity of the last lines that a trainer has sent to the coordinator itself.
    last_body: Option<(u64, AttemptNo)>,
}

impl Actor for JobActor {
    type Msg = JobMsg;
    type State = State;
    type Arguments = (JobId, Arc<Peers>);

    async fn pre_start(
        &self,
        _myself: ActorRef<JobMsg>,
        (id, peers): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let job = load(&peers.store, id)?.ok_or("the store has no such job")?;
        Ok(State {
            job,
            peers,
            reported: None,
            last_body: None,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<JobMsg>,
        message: JobMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JobMsg::Event(event, reply) => state.event(event, reply).await?,
            JobMsg::Report(node, report) => state.report(&node, *report).await?,
            JobMsg::Records(batch) => state.records(batch).await?,
            JobMsg::Direct {
                secret,
                report,
                reply,
            } => state.direct(&secret, *report, reply).await?,
            JobMsg::NoTrace(attempt, at) => state.no_trace(attempt, at).await?,
            // Whatever the scheduler believed while nobody was here, this is the truth. Only then: a
            // placement that is on its way here must not be taken back.
            JobMsg::Wake => state.tell_scheduler().await?,
            #[cfg(test)]
            JobMsg::Fail => return Err("a test wants it".into()),
        }
        if state.job.allocation().is_none() {
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
        let of_live = |(task, _): &&(TaskKey, u64)| task.attempt == live.number;
        live.stored_seq = cursors.iter().find(of_live).map_or(0, |(_, seq)| *seq);
    }
    Ok(Some(job))
}

impl State {
    async fn event(
        &mut self,
        event: Event,
        reply: Option<ActReply>,
    ) -> Result<(), ActorProcessingErr> {
        match self.job.step(clock::now(), event) {
            Ok(step) => {
                let unable = self.take(step, Vec::new(), Done::Answer(reply)).await?;
                self.end_without_snapshot(unable).await
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

    async fn report(&mut self, node: &NodeName, report: Report) -> Result<(), ActorProcessingErr> {
        let attempt = report.task.attempt;
        let live = self.job.attempt().filter(|live| live.number == attempt);
        let is_its_own = live.is_some_and(|live| live.allocation.node == *node);
        if self.job.allocation().is_none() || !is_its_own {
            let (peers, node) = (Arc::clone(&self.peers), node.clone());
            let refuse = move || peers.refuse(node, &report);
            return Ok(self.once_stored(refuse).await?);
        }
        let event = match report.phase {
            Phase::Preparing if self.job.state == JobState::Starting => {
                if self.job.reason == report.detail {
                    return self.stop_again(node, attempt).await;
                }
                Event::Preparing(attempt, report.detail)
            }
            Phase::Running(at) if self.job.state == JobState::Starting => {
                Event::Started(attempt, at)
            }
            Phase::Ended(ended) => {
                if self.job.state == JobState::Finishing {
                    return Ok(());
                }
                // Of a short task only the newest report comes.
                if let Some(at) = ended
                    .started
                    .filter(|_| self.job.state == JobState::Starting)
                {
                    self.event(Event::Started(attempt, at), None).await?;
                }
                Event::Ended(attempt, ended.end)
            }
            Phase::Running(_) if self.is_waited_for() => Event::Heard(attempt),
            Phase::Preparing | Phase::Waiting(_) | Phase::Running(_) => {
                return self.stop_again(node, attempt).await;
            }
        };
        self.event(event, None).await
    }

    /// Its node was lost, the job waits for it, and here it speaks.
    fn is_waited_for(&self) -> bool {
        let runs = self.job.state == JobState::Running && !self.job.cancel_requested;
        runs && !self.job.reason.is_empty()
    }

    /// A stop may have been lost on the way: a live task of a cancelled job hears of it again.
    async fn stop_again(
        &self,
        node: &NodeName,
        attempt: AttemptNo,
    ) -> Result<(), ActorProcessingErr> {
        if self.job.cancel_requested && self.job.state != JobState::Finishing {
            let stop = self.stop_frame(attempt, StopCause::Cancelled);
            self.send(node.clone(), stop).await?;
        }
        Ok(())
    }

    async fn no_trace(
        &mut self,
        attempt: AttemptNo,
        at: Timestamp,
    ) -> Result<(), ActorProcessingErr> {
        let Some(live) = self.job.attempt() else {
            return Ok(());
        };
        if live.number != attempt || self.job.allocation().is_none() {
            return Ok(self.tell_scheduler().await?);
        }
        if self.job.state == JobState::Starting && !self.job.cancel_requested {
            let node = live.allocation.node.clone();
            return match self.start_frame(attempt) {
                Err(end) => self.end_without_snapshot(Some((attempt, end))).await,
                Ok(start) => Ok(self.send(node, start).await?),
            };
        }
        if self.job.state != JobState::Starting && self.job.state_since >= at {
            // Its start reached the node after that, and was heard of before this.
            return Ok(());
        }
        let node = &live.allocation.node;
        let why = format!("node {node} came back without a trace of the attempt");
        self.event(Event::AttemptLost(attempt, why), None).await
    }

    /// Stores the step, then lets the effects out; answers with an attempt that cannot begin. The memory is ahead of the disk by as much as is
    /// under way; what leaves this actor never is.
    async fn take(
        &mut self,
        step: Step,
        mut changes: Vec<Change>,
        done: Done,
    ) -> Result<Option<Unable>, StoreError> {
        let before = std::mem::replace(&mut self.job, step.job);
        if worth_storing(&before, &self.job) {
            changes.push(Change::PutJob(Box::new(self.job.clone())));
        }
        let moved = before.state != self.job.state;
        let launch = Launch::between(&before, &self.job);
        let (frames, unable) = self.frames(&step.effects);
        let job = self.job.clone();
        let peers = Arc::clone(&self.peers);
        let then = move |_: &crate::store::Committed| {
            if moved {
                tracing::info!(job = %job.id, state = job.state.name(), "job");
                let told = SchedulerMsg::JobIs(Box::new(job.clone()));
                peers.scheduler.cast(told).ok();
            }
            if let Some((node, launch)) = launch {
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

    /// Enqueue, dequeue and release are for the scheduler, who is told the whole job. Beside the frames an
    /// attempt that cannot begin, and why.
    fn frames(&self, effects: &[Effect]) -> (Vec<(NodeName, Frame)>, Option<Unable>) {
        let (mut frames, mut unable) = (Vec::new(), None);
        for effect in effects {
            match effect {
                Effect::Start(node, attempt) => match self.start_frame(*attempt) {
                    Ok(start) => frames.push((node.clone(), start)),
                    Err(end) => unable = Some((*attempt, end)),
                },
                Effect::Stop(node, attempt, cause) => {
                    frames.push((node.clone(), self.stop_frame(*attempt, *cause)));
                }
                Effect::Forget(node, attempt) => {
                    let task = Some(self.task(*attempt).into());
                    frames.push((node.clone(), Frame::Forget(v1::ForgetTask { task })));
                }
                Effect::Enqueue | Effect::Dequeue | Effect::Release => {}
            }
        }
        (frames, unable)
    }

    /// The order to begin an attempt; none without what the job trains on: the node would take it for a
    /// job that names a path.
    fn start_frame(&self, attempt: AttemptNo) -> Result<Frame, TaskEnd> {
        let snapshot = self.snapshot()?;
        let live = self.job.attempts.iter().find(|a| a.number == attempt);
        Ok(Frame::Start(v1::StartTask {
            task: Some(self.task(attempt).into()),
            spec: Some(self.job.spec.clone().into()),
            gpu_uuids: live.map_or_else(Vec::new, |live| live.allocation.gpus.clone()),
            world_size: 1,
            secret: live.map_or_else(String::new, |live| live.secret.expose().to_owned()),
            snapshot: snapshot.map(Into::into),
        }))
    }

    /// What the job trains on. Its row was stored with the job and stays while the job is open; where it
    /// is not, no attempt can begin.
    fn snapshot(&self) -> Result<Option<Snapshot>, TaskEnd> {
        let Some(id) = self.job.snapshot_id.as_deref() else {
            return Ok(None);
        };
        // Another try would end the same way.
        let end = |error: String| TaskEnd {
            error: Some(error),
            ..TaskEnd::default()
        };
        match self.peers.store.document::<Snapshot>(id) {
            Ok(Some(snapshot)) => Ok(Some(snapshot)),
            Ok(None) => Err(end(format!(
                "snapshot '{id}' of the job is gone; submit the job anew"
            ))),
            Err(error) => Err(end(format!(
                "snapshot '{id}' of the job cannot be read: {error}; submit the job anew"
            ))),
        }
    }

    /// Ends an attempt of which the node was not told, for want of a snapshot.
    async fn end_without_snapshot(
        &mut self,
        unable: Option<Unable>,
    ) -> Result<(), ActorProcessingErr> {
        let Some((attempt, end)) = unable else {
            return Ok(());
        };
        tracing::error!(job = %self.job.id, error = end.error, "an attempt could not begin");
        let step = self.job.step(clock::now(), Event::Ended(attempt, end))?;
        self.take(step, Vec::new(), Done::Answer(None)).await?;
        Ok(())
    }

    fn stop_frame(&self, attempt: AttemptNo, cause: StopCause) -> Frame {
        Frame::Stop(v1::StopTask {
            task: Some(self.task(attempt).into()),
            cause: v1::StopCause::from(cause).into(),
            grace_period: Some(duration(self.job.spec.grace_period)),
        })
    }

    fn task(&self, attempt: AttemptNo) -> TaskKey {
        TaskKey {
            job: self.job.id,
            attempt,
            rank: Rank(0),
        }
    }
}
