//! An agent registers: its row is on disk before it is welcomed, and what it runs is compared with
//! what is wanted. Called by the supervisor of sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ractor::{Actor, ActorProcessingErr};
use tokio_util::sync::CancellationToken;
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, SessionNo},
    node::NodeState,
    task::{Phase, Report},
};
use trainyard_proto::{
    convert::duration,
    v1::{self, connect_response::Frame},
};

use super::{Entry, Live, NameTaken, NodesRef, Pulse, State, heartbeat, labels};
use crate::{
    actors::{
        job::JobMsg,
        jobs::{JobsMsg, JobsRef},
        scheduler::{NodeUp, SchedulerMsg},
        session::{Outgoing, Session, SessionArgs, SessionMsg, SessionRef, blocked, listed},
    },
    clock,
    store::{Change, NodeRow, SESSIONS_KEY},
};

/// So many numbers of sessions are taken at once.
const AHEAD: u64 = 1000;

/// But for when it was seen, which is not worth a write.
fn is_as_it_was(known: &NodeRow, row: &NodeRow) -> bool {
    let known = NodeRow {
        seen_at: row.seen_at,
        ..known.clone()
    };
    known == *row
}

impl State {
    /// A live session of another agent is not pushed aside: the two would take turns for ever.
    pub(super) fn name_taken(&self, hello: &v1::Hello) -> Option<NameTaken> {
        let name = NodeName(hello.node_name.clone());
        let entry = self.nodes.get(&name)?;
        let other = entry.row.agent_id != hello.agent_id && !hello.agent_id.is_empty();
        let live = entry.session.is_some() && entry.told == NodeState::Ready;
        (other && live).then_some(NameTaken(name))
    }

    pub(super) async fn register(
        &mut self,
        myself: &NodesRef,
        hello: v1::Hello,
        outgoing: Outgoing,
    ) -> Result<SessionRef, ActorProcessingErr> {
        let name = NodeName(hello.node_name.clone());
        let session = SessionNo(self.last_session + 1);
        self.last_session = session.0;
        let row = self.row_of(&name, &hello);
        self.store_registration(&row).await?;
        // Before it is welcome: whoever has seen it is refused what it cannot hold.
        self.args.offers.set(&row);
        if let Some(old) = self.nodes.remove(&name).and_then(|entry| entry.session) {
            old.actor.stop(Some(
                "a newer session of the same node has begun".to_owned(),
            ));
        }
        let jobs = self.jobs.clone().ok_or("the jobs are not there yet")?;
        let pulse = Arc::new(Pulse::begun(clock::now()));
        let args = SessionArgs {
            node: name.clone(),
            session,
            pulse: Arc::clone(&pulse),
            outgoing,
            jobs: jobs.clone(),
            nodes: myself.clone(),
            blocked: blocked(hello.blocked_gpus.clone()),
            condition: hello.condition.clone(),
            listed: listed(&hello.tasks),
        };
        let (actor, _) = Session::spawn_linked(None, Session, args, myself.get_cell()).await?;
        let welcome = Frame::Welcome(v1::Welcome {
            session: session.0,
            heartbeat_interval: Some(duration(heartbeat(&self.args.lease))),
            coordinator_version: trainyard_proto::version().to_owned(),
        });
        actor.cast(SessionMsg::Send(Box::new(welcome)))?;
        tracing::info!(node = %name, %session, cpus = row.capacity.cpus, gpus = row.capacity.gpus.len(), "node is up");
        let known = (blocked(hello.blocked_gpus.clone()), hello.condition.clone());
        self.admit((name, session), (row, pulse), actor.clone(), known);
        self.tell_of(&jobs, session, hello)?;
        Ok(actor)
    }

    fn row_of(&self, name: &NodeName, hello: &v1::Hello) -> NodeRow {
        let earlier = self.nodes.get(name).map(|entry| &entry.row);
        let now = clock::now();
        NodeRow {
            name: name.clone(),
            capacity: hello.capacity.clone().unwrap_or_default().into(),
            labels: hello.labels.clone(),
            set_labels: earlier
                .map(|row| row.set_labels.clone())
                .unwrap_or_default(),
            agent_version: hello.agent_version.clone(),
            agent_id: hello.agent_id.clone(),
            registered_at: earlier.map_or(now, |row| row.registered_at),
            seen_at: now,
            drained: earlier.and_then(|row| row.drained.clone()),
            deadline: earlier.and_then(|row| row.deadline),
            ordered_by: earlier
                .map(|row| row.ordered_by.clone())
                .unwrap_or_default(),
            address: hello.address.clone(),
            revoked: false,
        }
    }

    /// What is new of it. An agent that comes back as it was adds nothing but a number, and those are taken in advance:
    /// thousands come back at once after a restart, and one fsync for each would keep the last of them waiting for longer
    /// than it waits.
    async fn store_registration(&mut self, row: &NodeRow) -> Result<(), ActorProcessingErr> {
        let mut changes = Vec::new();
        if self.last_session > self.taken_sessions {
            self.taken_sessions = self.last_session.saturating_add(AHEAD);
            changes.push(Change::PutMeta {
                key: SESSIONS_KEY.to_owned(),
                value: self.taken_sessions.to_string(),
            });
        }
        let known = self.nodes.get(&row.name).map(|entry| &entry.row);
        if !known.is_some_and(|known| is_as_it_was(known, row)) {
            changes.push(Change::PutNode(row.clone()));
        }
        if !changes.is_empty() {
            self.args.store.commit_and_wait(changes).await?;
        }
        Ok(())
    }

    fn admit(
        &mut self,
        (name, session): (NodeName, SessionNo),
        (row, pulse): (NodeRow, Arc<Pulse>),
        actor: SessionRef,
        (blocked, condition): (BTreeMap<String, String>, String),
    ) {
        let entry = Entry {
            duty: self.duty_of(&row, clock::now()),
            row,
            pulse,
            told: NodeState::Ready,
            session: Some(Live {
                number: session,
                actor,
                end: CancellationToken::new(),
            }),
            blocked,
            condition,
        };
        self.nodes.insert(name, entry);
    }

    /// Scheduler and jobs compare what the agent runs with what is wanted.
    fn tell_of(
        &self,
        jobs: &JobsRef,
        session: SessionNo,
        hello: v1::Hello,
    ) -> Result<(), ActorProcessingErr> {
        let name = NodeName(hello.node_name);
        let mut knows: BTreeSet<(JobId, AttemptNo)> = BTreeSet::new();
        let mut runs = BTreeSet::new();
        let mut reports = Vec::new();
        for wire in hello.tasks {
            let task = wire.task;
            match Report::try_from(wire) {
                Ok(report) => {
                    let task = (report.task.job, report.task.attempt);
                    knows.insert(task);
                    if !matches!(report.phase, Phase::Ended(..)) {
                        runs.insert(task);
                    }
                    reports.push(report);
                }
                Err(error) => {
                    tracing::warn!(node = %name, %error, "a report was not understood");
                    // As a newer agent may say it: whatever it does with the task, it has it.
                    let known = task.map(|key| (JobId(key.job_id), AttemptNo(key.attempt)));
                    knows.extend(known);
                    runs.extend(known);
                }
            }
        }
        if let Some(entry) = self.nodes.get(&name) {
            let blocked = entry.blocked.keys().cloned().collect();
            let told = SchedulerMsg::Blocked(name.clone(), blocked);
            self.args.scheduler.cast(told)?;
            let address = SchedulerMsg::Address(name.clone(), entry.row.address.clone());
            self.args.scheduler.cast(address)?;
            self.args.scheduler.cast(labels::told(&entry.row))?;
            let node = NodeUp {
                name: name.clone(),
                capacity: entry.row.capacity.clone(),
                open: entry.takes_jobs(),
                session,
                knows,
                runs,
            };
            self.args
                .scheduler
                .cast(SchedulerMsg::NodeUp(Box::new(node)))?;
        }
        for report in reports {
            let job = report.task.job;
            let message = JobMsg::Report(name.clone(), Box::new(report), session);
            jobs.cast(JobsMsg::Route(job, message))?;
        }
        Ok(())
    }
}
