//! What the scheduler is told and asked, and what it answers.

use std::collections::BTreeSet;

use ractor::{ActorRef, RpcReplyPort};
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, SessionNo},
    job::Job,
    resources::Capacity,
    sched::{Explanation, QueuedJob},
    service::Window,
    usage::Lately,
};

use super::Stood;
use crate::actors::jobs::JobsRef;

/// Where to send [`SchedulerMsg`].
pub type SchedulerRef = ActorRef<SchedulerMsg>;

/// What a node holds and has left.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Which.
    pub name: NodeName,
    /// What is left.
    pub free: Capacity,
    /// Who holds something.
    pub jobs: Vec<JobId>,
    /// Tasks that run there though nobody wants them any more.
    pub strays: usize,
}

/// A node that has registered.
#[derive(Debug)]
pub struct NodeUp {
    /// Which.
    pub name: NodeName,
    /// What it offers.
    pub capacity: Capacity,
    /// Whether jobs may be placed there.
    pub open: bool,
    /// In which it said so.
    pub session: SessionNo,
    /// Attempts that it has a trace of.
    pub knows: BTreeSet<(JobId, AttemptNo)>,
    /// Those among them that have not ended.
    pub runs: BTreeSet<(JobId, AttemptNo)>,
}

/// What would become of a job.
#[derive(Clone, Debug)]
pub struct Foreseen {
    /// Where it would start at once.
    pub nodes: Option<Vec<NodeName>>,
    /// Why it would wait.
    pub why: Option<Explanation>,
}

/// What the scheduler takes.
#[derive(Debug)]
pub enum SchedulerMsg {
    /// Where to send placements; the first message.
    Meet(JobsRef),
    /// The truth about a job, as stored: it waits, holds something, or neither.
    JobIs(Box<Job>),
    /// What waits already, when the coordinator starts.
    Waiting(Vec<QueuedJob>),
    /// What jobs had used lately is to be read, from nothing as of that moment.
    LookBack(Lately),
    /// What they had.
    UsedLately(Lately),
    /// Jobs that had ended before the coordinator started: what is known of jobs like them. Newest first.
    Ended(Vec<Job>),
    /// A node is connected, with what it knows of tasks.
    NodeUp(Box<NodeUp>),
    /// A task that nobody wants runs on a node, as that said in this session.
    Stray(NodeName, SessionNo, (JobId, AttemptNo)),
    /// A task that nobody wanted has ended on a node.
    StrayGone(NodeName, (JobId, AttemptNo)),
    /// A node that the store knows, or whose openness changed.
    NodeIs(NodeName, Capacity, bool),
    /// Where other nodes reach this one.
    Address(NodeName, String),
    /// What a node is labelled with, each `key=value`.
    Labels(NodeName, BTreeSet<String>),
    /// The GPUs of a node that nobody gets for now.
    Blocked(NodeName, BTreeSet<String>),
    /// The lease of a node is over.
    NodeLost(NodeName, String),
    /// Whoever holds something on a node is to go on elsewhere, for this reason.
    Vacate(NodeName, String),
    /// All maintenance windows.
    Windows(Vec<Window>),
    /// Place what fits.
    Solve,
    /// The wait of a job that is tried again may be over.
    Alarm,
    /// Why each of these jobs waits; nothing of those that do not.
    Reasons(Vec<JobId>, RpcReplyPort<Vec<Option<String>>>),
    /// All about why a job waits.
    Explain(JobId, RpcReplyPort<Option<Box<Explanation>>>),
    /// What would become of a job.
    Foresee(Box<QueuedJob>, RpcReplyPort<Box<Foreseen>>),
    /// How jobs stand that others wait for, as the store says; asked for under this number.
    Stood(u64, Vec<(JobId, Stood)>),
    /// How many jobs of a project wait.
    WaitingOf(i64, RpcReplyPort<u64>),
    /// What nodes hold.
    View(RpcReplyPort<Vec<NodeView>>),
}
