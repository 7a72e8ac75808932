//! Frames to the nodes of a job, made of the effects of its steps.
//!
//! Owns what orders say. Sends nothing itself: frames leave when their step is stored. Called by the job's actor.

use std::time::Duration;

use ractor::ActorProcessingErr;
use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{NodeName, TaskKey},
    job::{Effect, Event},
    snapshot::Snapshot,
};
use trainyard_proto::{
    convert::duration,
    v1::{self, connect_response::Frame},
};

use super::{Done, State, Unable};
use crate::clock;

/// Ranks whose gang has failed get no longer than this to end: nobody waits for what they do.
const PEERS_GRACE: Duration = Duration::from_secs(20);

impl State {
    /// Enqueue, dequeue and release are for the scheduler, who is told the whole job. Beside the frames tasks that cannot
    /// begin, and why.
    pub(super) fn frames(&self, effects: &[Effect]) -> (Vec<(NodeName, Frame)>, Unable) {
        let (mut frames, mut unable) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Start(node, task) => match self.start_frame(*task) {
                    Ok(start) => frames.push((node.clone(), start)),
                    Err(end) => unable.push((*task, end)),
                },
                Effect::Launch(node, task) => frames.push((node.clone(), self.launch_frame(*task))),
                Effect::Stop(node, task, cause) => {
                    frames.push((node.clone(), self.stop_frame(*task, *cause)));
                }
                Effect::Forget(node, task) => {
                    let task = Some((*task).into());
                    frames.push((node.clone(), Frame::Forget(v1::ForgetTask { task })));
                }
                Effect::Enqueue | Effect::Dequeue | Effect::Release => {}
            }
        }
        (frames, unable)
    }

    /// The order to begin a task; none without what the job trains on: the node would take it for a
    /// job that names a path.
    pub(super) fn start_frame(&self, task: TaskKey) -> Result<Frame, TaskEnd> {
        let snapshot = self.snapshot()?;
        let live = self.job.attempts.iter().find(|a| a.number == task.attempt);
        let part = live.and_then(|live| live.part(task.rank));
        Ok(Frame::Start(v1::StartTask {
            task: Some(task.into()),
            spec: Some(self.job.spec.clone().into()),
            gpu_uuids: part.map_or_else(Vec::new, |part| part.allocation.gpus.clone()),
            world_size: live.map_or(1, trainyard_core::job::Attempt::world_size),
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

    /// Ends tasks of which their nodes were not told, for want of a snapshot.
    pub(super) async fn end_unable(&mut self, unable: Unable) -> Result<(), ActorProcessingErr> {
        for (task, end) in unable {
            tracing::error!(%task, error = end.error, "a task could not begin");
            let step = self.job.step(clock::now(), Event::Ended(task, end))?;
            self.take(step, Vec::new(), Done::Answer(None)).await?;
        }
        Ok(())
    }

    /// The gang is complete.
    fn launch_frame(&self, task: TaskKey) -> Frame {
        let live = self.job.attempts.iter().find(|a| a.number == task.attempt);
        let parts = live.into_iter().flat_map(|live| live.parts());
        let addresses = parts.map(|(_, part)| part.allocation.address.clone());
        Frame::Launch(v1::LaunchTask {
            task: Some(task.into()),
            addresses: addresses.collect(),
            port: live.and_then(|live| live.port).unwrap_or_default().into(),
        })
    }

    pub(super) fn stop_frame(&self, task: TaskKey, cause: StopCause) -> Frame {
        let asked = self.job.spec.grace_period;
        let grace = match cause {
            StopCause::PeerFailed => asked.min(PEERS_GRACE),
            StopCause::Cancelled
            | StopCause::TimeLimit
            | StopCause::Fenced
            | StopCause::Preempted => asked,
        };
        Frame::Stop(v1::StopTask {
            task: Some(task.into()),
            cause: v1::StopCause::from(cause).into(),
            grace_period: Some(duration(grace)),
        })
    }
}
