//! What leaves a job's actor: the memory is ahead of the disk by as much as is under way, what leaves it never is.
//!
//! Owns that whatever is said from memory goes by way of the store. Never decides what to say. Called by the job's actor.

use tokio::sync::mpsc;
use trainyard_core::{
    ids::NodeName,
    job::Job,
    task::{Phase, Report},
};
use trainyard_proto::v1::{self, connect_response::Frame};

use super::{ActReply, State, records::Ack};
use crate::{
    actors::{
        nodes::NodesMsg,
        scheduler::{SchedulerMsg, answer},
    },
    store::StoreError,
};

impl State {
    /// Says it behind the steps that are under way. Said at once it would be ahead of the disk: a crash would unmake
    /// what somebody has acted on.
    pub(super) async fn once_stored(
        &self,
        say: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let then = move |_: &crate::store::Committed| say();
        self.peers.store.commit(Vec::new(), Box::new(then)).await
    }

    pub(super) async fn send(&self, node: NodeName, frame: Frame) -> Result<(), StoreError> {
        let nodes = self.peers.nodes.clone();
        let send = NodesMsg::Send(node, Box::new(frame));
        self.once_stored(move || drop(nodes.cast(send))).await
    }

    /// How the job stands now.
    pub(super) async fn tell_scheduler(&self) -> Result<(), StoreError> {
        let told = SchedulerMsg::JobIs(Box::new(self.job.clone()));
        let scheduler = self.peers.scheduler.clone();
        self.once_stored(move || drop(scheduler.cast(told))).await
    }
}

/// What to answer to a report of a task that nobody wants.
pub(super) fn refusal(report: &Report) -> Frame {
    let task = Some(report.task.into());
    match report.phase {
        Phase::Ended(..) => Frame::Forget(v1::ForgetTask { task }),
        Phase::Preparing | Phase::Waiting(_) | Phase::Running(_) => Frame::Stop(v1::StopTask {
            task,
            cause: v1::StopCause::Fenced.into(),
            grace_period: None,
        }),
    }
}

/// The number up to which records are stored has a row of its own.
pub(super) fn worth_storing(before: &Job, after: &Job) -> bool {
    let mut before = before.clone();
    for (old, new) in before.attempts.iter_mut().zip(&after.attempts) {
        for (rank, part) in new.parts() {
            old.note_stored(rank, part.stored_seq);
        }
    }
    before != *after
}

/// What is done once a step is stored.
#[derive(Debug)]
pub(super) enum Done {
    Answer(Option<ActReply>),
    Ack(mpsc::Sender<Ack>, Ack),
}

impl Done {
    pub(super) fn with(self, job: Job) {
        match self {
            Self::Answer(Some(reply)) => answer(reply, Ok(job)),
            Self::Answer(None) => {}
            Self::Ack(..) => self.carry_out(),
        }
    }

    /// The channel has room for each permit; a closed one means that the stream is gone, and the
    /// records will come again.
    pub(super) fn carry_out(self) {
        if let Self::Ack(acks, ack) = self {
            acks.try_send(ack).ok();
        }
    }
}
