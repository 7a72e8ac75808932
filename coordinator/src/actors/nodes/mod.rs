//! The supervisor of sessions: which nodes there are, who is connected, and for how long a silent
//! one is believed.
//!
//! Child of Root. Owns the rows of nodes and their leases. When an agent registers, its row is on
//! disk before it is welcomed. Decides nothing about jobs: the scheduler hears when a node is up,
//! closed or lost.

mod labels;
mod launches;
mod messages;
mod pulse;
mod register;
mod revoked;
mod service;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, SupervisionEvent};
use tokio_util::sync::CancellationToken;
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, SessionNo},
    node::{Lease, NodeState},
    service::{Duty, Steady, Window},
    time::Timestamp,
};
use trainyard_proto::v1::{self, connect_response::Frame};

pub use self::{
    labels::LabelChange,
    launches::Launch,
    messages::{NameTaken, NodeInfo, NodesMsg, NodesRef},
    pulse::Pulse,
    service::{NewWindow, NodeOrder},
};
use super::{
    jobs::JobsRef,
    offers::Offers,
    scheduler::{SchedulerMsg, SchedulerRef, answer},
    session::{Outgoing, SessionMsg, SessionRef},
};
use crate::{
    clock,
    store::{NodeRow, SESSIONS_KEY, Store},
};

/// Whom Nodes is given at start.
#[derive(Debug)]
pub struct NodesArgs {
    /// For the rows of nodes.
    pub store: Store,
    /// Told what nodes offer.
    pub offers: Offers,
    /// Hears what becomes of nodes.
    pub scheduler: SchedulerRef,
    /// For how long a silent node is believed.
    pub lease: Lease,
    /// Launches in a row that may fail on a node before it gets no more jobs; 0 for any number.
    pub cordon_after: u32,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Nodes;

#[derive(Debug)]
struct Entry {
    row: NodeRow,
    pulse: Arc<Pulse>,
    told: NodeState,
    session: Option<Live>,
    blocked: BTreeMap<String, String>,
    condition: String,
    /// As it was when it was looked at last.
    duty: Duty,
}

impl Entry {
    /// Neither an operator nor its own agent has said that it should not.
    fn takes_jobs(&self) -> bool {
        self.duty == Duty::Open && self.condition.is_empty()
    }
}

/// A connected agent.
#[derive(Debug)]
struct Live {
    number: SessionNo,
    actor: SessionRef,
    /// Ends the session's data stream with it.
    end: CancellationToken,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// All nodes, and the last number of a session.
#[derive(Debug)]
pub struct State {
    args: NodesArgs,
    nodes: BTreeMap<NodeName, Entry>,
    last_session: u64,
    /// No session has a higher number until one is taken from the store again.
    taken_sessions: u64,
    jobs: Option<JobsRef>,
    /// When the leases were last looked at.
    looked: Timestamp,
    /// Launches that failed in a row, by node.
    failed_launches: BTreeMap<NodeName, u32>,
    /// Maintenance windows by number.
    windows: BTreeMap<u64, Window>,
    last_window: u64,
    /// Windows that are over are forgotten by it.
    steady: Steady,
}

/// Leases are looked at no sooner than after this.
const SOONEST: Duration = Duration::from_millis(10);

/// A quarter of the time after which a silent node is suspect, but at most two seconds.
fn heartbeat(lease: &Lease) -> Duration {
    (lease.suspect_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(2))
}

impl Actor for Nodes {
    type Msg = NodesMsg;
    type State = State;
    type Arguments = NodesArgs;

    async fn pre_start(
        &self,
        myself: NodesRef,
        args: NodesArgs,
    ) -> Result<State, ActorProcessingErr> {
        let now = clock::now();
        let mut nodes = BTreeMap::new();
        let (windows, last_window) = service::load(&args.store)?;
        args.scheduler.cast(service::told(&windows))?;
        for row in args.store.nodes()? {
            args.offers.set(&row);
            args.scheduler.cast(labels::told(&row))?;
            let address = SchedulerMsg::Address(row.name.clone(), row.address.clone());
            args.scheduler.cast(address)?;
            let told = SchedulerMsg::NodeIs(row.name.clone(), row.capacity.clone(), false);
            args.scheduler.cast(told)?;
            // While we were away nobody could report: the lease begins anew.
            let entry = Entry {
                row: row.clone(),
                pulse: Arc::new(Pulse::begun(now)),
                told: NodeState::Suspect,
                session: None,
                blocked: BTreeMap::new(),
                condition: String::new(),
                duty: service::duty_of(&windows, &row, now),
            };
            nodes.insert(row.name, entry);
        }
        let last = args.store.meta(SESSIONS_KEY)?;
        let last_session = last.map_or(Ok(0), |text| text.parse())?;
        myself.send_after(heartbeat(&args.lease), || NodesMsg::LeaseTick);
        Ok(State {
            args,
            nodes,
            last_session,
            taken_sessions: last_session,
            jobs: None,
            looked: now,
            failed_launches: BTreeMap::new(),
            windows,
            last_window,
            steady: Steady::from(now),
        })
    }

    async fn handle(
        &self,
        myself: NodesRef,
        message: NodesMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodesMsg::Meet(jobs) => state.jobs = Some(jobs),
            NodesMsg::Register {
                hello,
                outgoing,
                reply,
            } => {
                // Who has given up waiting is registering anew.
                if !outgoing.is_closed() {
                    let session = state.registers(&myself, *hello, outgoing).await?;
                    answer(reply, session);
                }
            }
            NodesMsg::Attach(node, session, reply) => answer(reply, state.attach(&node, session)),
            NodesMsg::Disconnect(node, by, reply) => {
                state.disconnect(&node)?;
                state.is_revoked(&node, by.as_deref()).await?;
                answer(reply, ());
            }
            NodesMsg::Seen(node) => state.seen(&node)?,
            NodesMsg::Blocked(node, gpus) => state.blocked(&node, gpus)?,
            NodesMsg::Condition(node, words) => state.condition(&node, words)?,
            NodesMsg::Unlisted(node, session, task) => state.unlisted(node, session, task)?,
            NodesMsg::Send(node, frame) => state.send(&node, frame),
            NodesMsg::Launched(node, launch) => state.launched(&node, launch).await?,
            NodesMsg::LeaseTick => {
                state.look_at_leases()?;
                state.look_at_windows().await?;
                myself.send_after(state.next_look(), || NodesMsg::LeaseTick);
            }
            NodesMsg::Find(node, reply) => answer(reply, state.find(&node)),
            NodesMsg::List(reply) => answer(reply, state.list()),
            NodesMsg::SetDrain(node, order, reply) => {
                answer(reply, state.set_drain(&node, *order).await?);
            }
            NodesMsg::AddWindow(new, reply) => answer(reply, state.add_window(*new).await?),
            NodesMsg::RemoveWindow(id, by, reply) => {
                answer(reply, state.remove_window(id, &by).await?);
            }
            NodesMsg::Windows(reply) => answer(reply, state.windows()),
            NodesMsg::SetLabels(node, change, reply) => {
                answer(reply, state.set_labels(&node, change).await?);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: NodesRef,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                state.session_ended(child.get_id(), &reason.unwrap_or_default())?;
            }
            SupervisionEvent::ActorFailed(child, error) => {
                state.session_ended(child.get_id(), &error.to_string())?;
            }
        }
        Ok(())
    }
}

impl State {
    async fn registers(
        &mut self,
        myself: &NodesRef,
        hello: v1::Hello,
        outgoing: Outgoing,
    ) -> Result<Result<SessionRef, NameTaken>, ActorProcessingErr> {
        if let Some(taken) = self.name_taken(&hello) {
            return Ok(Err(taken));
        }
        Ok(Ok(self.register(myself, hello, outgoing).await?))
    }

    fn attach(&self, node: &NodeName, session: SessionNo) -> Option<CancellationToken> {
        let live = self.nodes.get(node)?.session.as_ref();
        let live = live.filter(|live| live.number == session);
        live.map(|live| live.end.clone())
    }

    /// A later session has listed anew what its agent has.
    fn unlisted(
        &self,
        node: NodeName,
        session: SessionNo,
        task: (JobId, AttemptNo),
    ) -> Result<(), ActorProcessingErr> {
        if self.attach(&node, session).is_some() {
            let gone = SchedulerMsg::StrayGone(node, task);
            self.args.scheduler.cast(gone)?;
        }
        Ok(())
    }

    fn find(&self, node: &NodeName) -> Option<NodeInfo> {
        self.nodes.get(node).map(|entry| self.info(entry))
    }

    fn list(&self) -> Vec<NodeInfo> {
        self.nodes.values().map(|entry| self.info(entry)).collect()
    }

    fn seen(&mut self, node: &NodeName) -> Result<(), ActorProcessingErr> {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.pulse.beat(clock::now());
            entry.pulse.believe();
            if entry.session.is_some() && entry.told != NodeState::Ready {
                entry.told = NodeState::Ready;
                return self.tell_scheduler(node);
            }
        }
        Ok(())
    }

    fn blocked(
        &mut self,
        node: &NodeName,
        gpus: BTreeMap<String, String>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(entry) = self.nodes.get_mut(node) else {
            return Ok(());
        };
        for (gpu, reason) in &gpus {
            tracing::warn!(%node, gpu, reason, "a GPU gets no jobs");
        }
        let uuids = gpus.keys().cloned().collect();
        entry.blocked = gpus;
        let told = SchedulerMsg::Blocked(node.clone(), uuids);
        Ok(self.args.scheduler.cast(told)?)
    }

    fn condition(&mut self, node: &NodeName, words: String) -> Result<(), ActorProcessingErr> {
        let Some(entry) = self.nodes.get_mut(node) else {
            return Ok(());
        };
        if words.is_empty() {
            tracing::info!(%node, "the node is well again and gets jobs");
        } else {
            tracing::warn!(%node, condition = words, "the node gets no jobs");
        }
        entry.condition = words;
        self.tell_scheduler(node)
    }

    fn send(&self, node: &NodeName, frame: Box<Frame>) {
        let session = self
            .nodes
            .get(node)
            .and_then(|entry| entry.session.as_ref());
        match session {
            Some(live) => {
                // A session that ends now is followed by one that is told everything.
                live.actor.cast(SessionMsg::Send(frame)).ok();
            }
            None => tracing::debug!(%node, "not connected; it is told when it is"),
        }
    }

    fn look_at_leases(&mut self) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        let lease = self.args.lease;
        if lease.observer_was_away(std::mem::replace(&mut self.looked, now), now) {
            tracing::warn!("the coordinator was away for a while; the leases of nodes begin anew");
            for entry in self.nodes.values_mut() {
                entry.pulse.beat(now);
            }
        }
        let mut changed = Vec::new();
        for (name, entry) in &mut self.nodes {
            let state = lease.state(entry.pulse.at(), now);
            let worse = state == NodeState::Lost || entry.told == NodeState::Ready;
            if state != NodeState::Ready && state != entry.told && worse {
                entry.told = state;
                entry.pulse.doubt();
                if let Some(live) = entry.session.take_if(|_| state == NodeState::Lost) {
                    // What it runs is wanted no more. It has to say what that is before it gets anything else.
                    live.actor
                        .stop(Some("the node was silent beyond its lease".to_owned()));
                }
                changed.push((name.clone(), state));
            }
        }
        for (name, state) in changed {
            tracing::warn!(node = %name, ?state, "node is silent");
            self.tell_scheduler(&name)?;
        }
        let is_lost = |(_, entry): &(&NodeName, &Entry)| entry.told == NodeState::Lost;
        for (name, _) in self.nodes.iter().filter(is_lost) {
            let why = format!(
                "node {name} was silent for {:?} and is lost",
                lease.lost_after
            );
            // At each tick: whatever still holds something there hears of it again.
            let lost = SchedulerMsg::NodeLost(name.clone(), why);
            self.args.scheduler.cast(lost)?;
        }
        Ok(())
    }

    /// Until the leases are looked at again: when the next node is suspect if nothing is heard of it, which is a tick
    /// before its span is over, and soon in any case.
    fn next_look(&self) -> Duration {
        let (now, lease) = (clock::now(), self.args.lease);
        let ready = self.nodes.values();
        let ready = ready.filter(|entry| entry.told == NodeState::Ready);
        let ends = ready.filter_map(|entry| lease.deadline(entry.pulse.at(), now));
        let next = ends.chain(self.next_duty(now)).min();
        let next = next.map_or(Duration::MAX, |then| then.since(now));
        next.clamp(SOONEST, heartbeat(&lease))
    }

    fn disconnect(&mut self, node: &NodeName) -> Result<(), ActorProcessingErr> {
        let entry = self.nodes.get_mut(node);
        let Some((entry, live)) = entry.and_then(|entry| {
            let live = entry.session.take()?;
            Some((entry, live))
        }) else {
            return Ok(());
        };
        tracing::warn!(%node, "the node's session is closed; its jobs go on until its lease is over");
        entry.told = NodeState::Suspect;
        live.actor.stop(Some("the agent was revoked".to_owned()));
        self.tell_scheduler(node)
    }

    fn session_ended(
        &mut self,
        child: ractor::ActorId,
        why: &str,
    ) -> Result<(), ActorProcessingErr> {
        let is_it = |entry: &&mut Entry| {
            let session = entry.session.as_ref();
            session.is_some_and(|live| live.actor.get_id() == child)
        };
        let Some(entry) = self.nodes.values_mut().find(is_it) else {
            return Ok(());
        };
        tracing::warn!(node = %entry.row.name, %why, "node has disconnected; its jobs go on");
        entry.session = None;
        entry.told = NodeState::Suspect;
        let name = entry.row.name.clone();
        self.tell_scheduler(&name)
    }

    fn tell_scheduler(&self, node: &NodeName) -> Result<(), ActorProcessingErr> {
        if let Some(entry) = self.nodes.get(node) {
            let open =
                entry.session.is_some() && entry.told == NodeState::Ready && entry.takes_jobs();
            let capacity = entry.row.capacity.clone();
            let told = SchedulerMsg::NodeIs(node.clone(), capacity, open);
            self.args.scheduler.cast(told)?;
        }
        Ok(())
    }

    fn info(&self, entry: &Entry) -> NodeInfo {
        let mut row = entry.row.clone();
        row.seen_at = entry.pulse.at();
        NodeInfo {
            row,
            state: entry.told,
            blocked: entry.blocked.clone(),
            condition: entry.condition.clone(),
            duty: entry.duty.clone(),
            window: self.window_of(&entry.row),
        }
    }
}
