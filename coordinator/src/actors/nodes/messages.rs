//! What the supervisor of sessions is told and asked, and what it answers.

use std::collections::BTreeMap;

use ractor::{ActorRef, RpcReplyPort};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, SessionNo},
    node::NodeState,
    service::{Closure, Duty, Window},
};
use trainyard_proto::v1::{self, connect_response::Frame};

use super::{LabelChange, Launch, NewWindow, NodeOrder};
use crate::{
    actors::{
        jobs::JobsRef,
        session::{Outgoing, SessionRef},
    },
    store::NodeRow,
};

/// Where to send [`NodesMsg`].
pub type NodesRef = ActorRef<NodesMsg>;

/// A node as operators see it, without what is free on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// As it is stored.
    pub row: NodeRow,
    /// What is believed of it.
    pub state: NodeState,
    /// Its GPUs that get no jobs, with the reasons.
    pub blocked: BTreeMap<String, String>,
    /// Why it gets no jobs, as its agent says; empty for nothing.
    pub condition: String,
    /// What it does, as far as operators have a say.
    pub duty: Duty,
    /// The maintenance window that is on, or comes next, as core chooses it.
    pub window: Option<Closure>,
}

/// Two agents have been given the same name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "node '{0}' is connected from another agent; give this one a name of its own (--name), or stop the other"
)]
pub struct NameTaken(pub NodeName);

/// What Nodes takes.
#[derive(Debug)]
pub enum NodesMsg {
    /// Where to route reports; the first message.
    Meet(JobsRef),
    /// An agent that has shown its token registers.
    Register {
        /// Its first frame.
        hello: Box<v1::Hello>,
        /// To the agent.
        outgoing: Outgoing,
        /// Its session; frames go there.
        reply: RpcReplyPort<Result<SessionRef, NameTaken>>,
    },
    /// A data stream of this session wants to begin; answered, if it may, with what is cancelled when
    /// the session is over.
    Attach(NodeName, SessionNo, RpcReplyPort<Option<CancellationToken>>),
    /// Ends the session of a node, if it has one: its agent may not speak any more. Who has revoked it, by e-mail address;
    /// nobody where that is noted already.
    Disconnect(NodeName, Option<String>, RpcReplyPort<()>),
    /// A node that was doubted has given a sign of life.
    Seen(NodeName),
    /// Which GPUs of a node get no jobs now, with the reasons.
    Blocked(NodeName, BTreeMap<String, String>),
    /// Why a node is to get no jobs now, as its agent says; empty when it is well.
    Condition(NodeName, String),
    /// The agent of a node has listed a task in this session, and does not any more.
    Unlisted(NodeName, SessionNo, (JobId, AttemptNo)),
    /// For the agent of a node; lost if it is not connected, since it is told all when it is.
    Send(NodeName, Box<Frame>),
    /// How the launch of an attempt went.
    Launched(NodeName, Launch),
    /// Look at the leases.
    LeaseTick,
    /// One node.
    Find(NodeName, RpcReplyPort<Option<NodeInfo>>),
    /// All nodes.
    List(RpcReplyPort<Vec<NodeInfo>>),
    /// Drain or resume; answered with the node, if there is one.
    SetDrain(NodeName, Box<NodeOrder>, RpcReplyPort<Option<NodeInfo>>),
    /// One more maintenance window; answered with it.
    AddWindow(Box<NewWindow>, RpcReplyPort<Window>),
    /// One less, as whoever has this e-mail address wants it; answered with it, if there was one.
    RemoveWindow(u64, String, RpcReplyPort<Option<Window>>),
    /// All windows, the first to begin comes first.
    Windows(RpcReplyPort<Vec<Window>>),
    /// Labels that operators set; answered with the node, if there is one.
    SetLabels(NodeName, LabelChange, RpcReplyPort<Option<NodeInfo>>),
}
