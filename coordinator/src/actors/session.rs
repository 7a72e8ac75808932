//! One connected agent's control stream: frames in, frames out.
//!
//! Child of Nodes, which ends it when a newer session of the same node begins. Parses what comes
//! and passes it to its owner; knows nothing of jobs itself. Not restarted: the agent connects again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, SessionNo},
    task::Report,
};
use trainyard_proto::v1::{self, connect_request, connect_response};

use super::{
    job::JobMsg,
    jobs::{JobsMsg, JobsRef},
    nodes::{NodesMsg, NodesRef, Pulse},
};
use crate::clock;

/// Where to send [`SessionMsg`].
pub type SessionRef = ActorRef<SessionMsg>;

/// Frames to the agent, as the stream's writer takes them: in boxes, since a channel keeps room for many.
pub type Outgoing = mpsc::Sender<Box<connect_response::Frame>>;

/// What a session takes.
#[derive(Debug)]
pub enum SessionMsg {
    /// The agent says something.
    Incoming(Box<connect_request::Frame>),
    /// For the agent.
    Send(Box<connect_response::Frame>),
    /// The stream has ended.
    Closed,
}

/// Whom a session speaks to.
#[derive(Debug)]
pub struct SessionArgs {
    /// The node.
    pub node: NodeName,
    /// The number of this session.
    pub session: SessionNo,
    /// Signs of life.
    pub pulse: Arc<Pulse>,
    /// To the agent.
    pub outgoing: Outgoing,
    /// Takes reports.
    pub jobs: JobsRef,
    /// The parent.
    pub nodes: NodesRef,
    /// The GPUs that the agent has said get no jobs, with the reasons.
    pub blocked: BTreeMap<String, String>,
    /// Why the agent has said that its node is to get no jobs; empty for nothing.
    pub condition: String,
    /// The attempts of which the agent has said that it has tasks.
    pub listed: BTreeSet<(JobId, AttemptNo)>,
}

/// Attempts of which an agent lists tasks, also those of which it says what is not understood.
pub(super) fn listed(tasks: &[v1::TaskReport]) -> BTreeSet<(JobId, AttemptNo)> {
    let keys = tasks.iter().filter_map(|task| task.task);
    keys.map(|key| (JobId(key.job_id), AttemptNo(key.attempt)))
        .collect()
}

/// As the agent says it.
pub(super) fn blocked(wire: Vec<v1::BlockedGpu>) -> BTreeMap<String, String> {
    wire.into_iter().map(|gpu| (gpu.uuid, gpu.reason)).collect()
}

/// The behaviour; the state is [`SessionArgs`].
#[derive(Debug)]
pub struct Session;

impl Actor for Session {
    type Msg = SessionMsg;
    type State = SessionArgs;
    type Arguments = SessionArgs;

    async fn pre_start(
        &self,
        _myself: SessionRef,
        args: SessionArgs,
    ) -> Result<SessionArgs, ActorProcessingErr> {
        Ok(args)
    }

    async fn handle(
        &self,
        myself: SessionRef,
        message: SessionMsg,
        state: &mut SessionArgs,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SessionMsg::Incoming(frame) => state.incoming(*frame)?,
            SessionMsg::Send(frame) => {
                // Waits when the agent is slow: this mailbox grows, nobody else waits. A dead one
                // is found by the keep-alive, which closes the stream.
                if state.outgoing.send(frame).await.is_err() {
                    myself.stop(Some("the stream has ended".to_owned()));
                }
            }
            SessionMsg::Closed => myself.stop(Some("the agent has gone".to_owned())),
        }
        Ok(())
    }
}

impl SessionArgs {
    fn incoming(&mut self, frame: connect_request::Frame) -> Result<(), ActorProcessingErr> {
        use connect_request::Frame;
        if self.pulse.beat(clock::now()) {
            self.nodes.cast(NodesMsg::Seen(self.node.clone()))?;
        }
        match frame {
            Frame::Heartbeat(beat) => {
                // Before the reports, one of which may give such a GPU back.
                let blocked = blocked(beat.blocked_gpus);
                if blocked != self.blocked {
                    self.blocked.clone_from(&blocked);
                    let told = NodesMsg::Blocked(self.node.clone(), blocked);
                    self.nodes.cast(told)?;
                }
                if beat.condition != self.condition {
                    self.condition.clone_from(&beat.condition);
                    let told = NodesMsg::Condition(self.node.clone(), beat.condition);
                    self.nodes.cast(told)?;
                }
                self.compare(listed(&beat.tasks))?;
                for report in beat.tasks {
                    self.report(report)?;
                }
            }
            Frame::Report(report) => self.report(report)?,
            Frame::Hello(_) | Frame::Attach(_) | Frame::Batch(_) => {
                tracing::warn!(node = %self.node, "a frame that does not belong on a control stream");
            }
        }
        Ok(())
    }

    /// What the agent lists no more holds nothing on its node, whoever wanted it.
    fn compare(&mut self, lists: BTreeSet<(JobId, AttemptNo)>) -> Result<(), ActorProcessingErr> {
        for task in self.listed.difference(&lists) {
            let gone = NodesMsg::Unlisted(self.node.clone(), self.session, *task);
            self.nodes.cast(gone)?;
        }
        self.listed = lists;
        Ok(())
    }

    fn report(&mut self, wire: v1::TaskReport) -> Result<(), ActorProcessingErr> {
        match Report::try_from(wire) {
            Ok(report) => {
                let job = report.task.job;
                self.listed.insert((job, report.task.attempt));
                let message = JobMsg::Report(self.node.clone(), Box::new(report), self.session);
                self.jobs.cast(JobsMsg::Route(job, message))?;
            }
            Err(error) => tracing::warn!(node = %self.node, %error, "a report was not understood"),
        }
        Ok(())
    }
}
