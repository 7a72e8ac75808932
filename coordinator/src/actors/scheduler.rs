//! The scheduler: sole owner of ledger, queue and policy.
//!
//! Child of Root. Asks `core::sched::Planner` what to do once after a burst of changes, never for each, and carries it
//! out: places go to their jobs, and jobs that are to make room are told. It holds no durable state: at start Root tells
//! it what the store says. If it fails, the process ends and begins again from the store.

mod alarm;
mod awaited;
mod machines;
mod messages;
mod notes;
mod places;
mod service;
mod spent;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use ractor::{Actor, ActorProcessingErr, RpcReplyPort};
use rand::Rng;
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName},
    sched::{Explanation, NodeEntry, Planner, QueuedJob, policy},
    secret::Secret,
    time::Timestamp,
};

pub use self::{
    awaited::Stood,
    messages::{Foreseen, NodeUp, NodeView, SchedulerMsg, SchedulerRef},
};
use self::{machines::Seen, notes::Notes, places::Proposal};
use super::{
    job::JobMsg,
    jobs::{JobsMsg, JobsRef},
};
use crate::{clock, store::Store};

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Scheduler;

/// What the scheduler is given at start.
#[derive(Debug)]
pub struct SchedulerArgs {
    /// Who starts where, and who makes room.
    pub policy: policy::Config,
    /// Says how jobs stand that others wait for.
    pub store: Store,
    /// Set once it has looked at the queue that it is told of at its start.
    pub has_looked: Arc<OnceLock<()>>,
}

/// The planner, and what is under way.
#[derive(Debug, Default)]
pub struct State {
    planner: Planner,
    unanswered: BTreeMap<JobId, Proposal>,
    attempts: BTreeMap<JobId, AttemptNo>,
    /// Those of them that end or leave already.
    going: BTreeSet<JobId>,
    /// Nodes where tasks still run that nobody wants, and whether they are open but for that: what
    /// such tasks hold is not in the ledger.
    strays: BTreeMap<NodeName, (bool, BTreeSet<(JobId, AttemptNo)>)>,
    /// What nodes have said when they registered.
    seen: BTreeMap<NodeName, Seen>,
    jobs: Option<JobsRef>,
    store: Option<Store>,
    /// What is noted of those who wait.
    notes: Notes,
    dirty: bool,
    /// A look at all is on its way to itself.
    solving: bool,
    /// Of whom the store is to be asked how they stand.
    unread: BTreeSet<JobId>,
    /// Of whom it is being asked, under which number.
    reading: BTreeMap<JobId, u64>,
    /// Those of whom it could not say: it is asked again with the next alarm.
    unreadable: BTreeSet<JobId>,
    /// How often it was asked.
    asked: u64,
    /// When the queue is looked at next for jobs whose wait is over.
    alarm: Option<Timestamp>,
    /// It was told of the queue as the store had it.
    knows: bool,
    /// Set with the first look after that.
    has_looked: Arc<OnceLock<()>>,
}

impl Actor for Scheduler {
    type Msg = SchedulerMsg;
    type State = State;
    type Arguments = SchedulerArgs;

    async fn pre_start(
        &self,
        myself: SchedulerRef,
        args: SchedulerArgs,
    ) -> Result<State, ActorProcessingErr> {
        let mut planner = Planner::new(args.policy.clone());
        let known = (&args.policy, clock::now());
        spent::tell(&mut planner, &args.store, known)?;
        spent::look_back_soon(&myself, known);
        Ok(State {
            planner,
            store: Some(args.store),
            has_looked: args.has_looked,
            ..State::default()
        })
    }

    async fn handle(
        &self,
        myself: SchedulerRef,
        message: SchedulerMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SchedulerMsg::Meet(jobs) => state.jobs = Some(jobs),
            SchedulerMsg::JobIs(job) => state.job_is(*job),
            SchedulerMsg::Waiting(jobs) => state.wait_already(jobs),
            SchedulerMsg::LookBack(nothing) => state.look_back(&myself, nothing),
            SchedulerMsg::UsedLately(used) => state.planner.had_used_lately(clock::now(), &used),
            SchedulerMsg::Ended(jobs) => jobs.iter().rev().for_each(|job| state.had_ended(job)),
            SchedulerMsg::NodeUp(node) => state.node_up(*node),
            SchedulerMsg::NodeIs(name, capacity, open) => state.set_node(name, capacity, open),
            SchedulerMsg::Address(name, address) => state.set_address(&name, address),
            SchedulerMsg::Labels(name, labels) => state.set_labels(&name, labels),
            SchedulerMsg::Blocked(name, gpus) => state.block(&name, gpus),
            SchedulerMsg::Stray(name, session, task) => state.stray(&name, session, task),
            SchedulerMsg::StrayGone(name, task) => state.stray_gone(name, task),
            SchedulerMsg::NodeLost(name, why) => state.node_lost(&name, &why),
            SchedulerMsg::Vacate(name, why) => state.vacate(&name, &why),
            SchedulerMsg::Windows(windows) => state.set_windows(windows),
            SchedulerMsg::Solve => {
                state.solving = false;
                return state.solve(&myself);
            }
            SchedulerMsg::Alarm => state.rings(),
            SchedulerMsg::Reasons(jobs, reply) => {
                let reasons = jobs.into_iter().map(|job| state.reason(job));
                answer(reply, reasons.collect());
            }
            SchedulerMsg::Explain(job, reply) => answer(reply, state.explain(job)),
            SchedulerMsg::Foresee(queued, reply) => state.foresee(*queued, reply),
            SchedulerMsg::WaitingOf(project, reply) => {
                answer(reply, state.planner.queue().of_project(project));
            }
            SchedulerMsg::Stood(number, found) => state.stood(number, found),
            SchedulerMsg::View(reply) => answer(reply, state.view()),
        }
        state.ask_the_store(&myself);
        if std::mem::take(&mut state.dirty) && !state.solving {
            // Behind all that waits already: one solve for the whole burst.
            state.solving = true;
            myself.cast(SchedulerMsg::Solve)?;
        }
        Ok(())
    }
}

impl State {
    fn wait_already(&mut self, jobs: Vec<QueuedJob>) {
        (self.dirty, self.knows) = (true, true);
        jobs.into_iter().for_each(|job| self.waits(job));
    }

    fn explain(&self, job: JobId) -> Option<Box<Explanation>> {
        self.planner.explain(clock::now(), job).map(Box::new)
    }

    /// On a copy, and elsewhere: a look at all jobs, with what is found out about one, holds up nobody.
    fn foresee(&self, queued: QueuedJob, reply: RpcReplyPort<Box<Foreseen>>) {
        let now = clock::now();
        let planner = self.planner.clone();
        let look = move || {
            let (nodes, why) = planner.foresee(now, queued);
            answer(reply, Box::new(Foreseen { nodes, why }));
        };
        drop(trainyard_runtime::blocking(look));
    }

    fn solve(&mut self, myself: &SchedulerRef) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        self.place(now)?;
        self.note(now);
        self.wake_for(myself, now);
        if self.knows {
            self.has_looked.get_or_init(|| ());
        }
        Ok(())
    }

    fn place(&mut self, now: Timestamp) -> Result<(), ActorProcessingErr> {
        let decisions = self.planner.solve(now);
        // Nothing that is already done holds it: a start anew makes all of it from the store.
        if let Some(broken) = decisions.broken {
            return Err(broken.into());
        }
        // Before the placements, which are stored behind it.
        self.notes.let_through(&decisions.through, now);
        let kept = self.planner.kept(now);
        self.notes.keeps(kept, now, self.store.as_ref());
        if let Some(store) = &self.store {
            self.notes.write(store);
        }
        for placement in decisions.placements {
            let proposal = Proposal {
                queued_at: placement.queued_at,
                allocations: placement.allocations,
                secret: secret(),
                why: placement.why,
            };
            self.unanswered.insert(placement.job, proposal.clone());
            self.tell(placement.job, proposal.into());
        }
        for (job, why) in decisions.never {
            self.give_up(job, &why);
        }
        for leaving in decisions.leaving {
            let why = decisions.room.get(&leaving.job).cloned();
            self.make_room(leaving, why);
        }
        match self.planner.newly_violated() {
            None => Ok(()),
            Some(broken) => Err(broken.into()),
        }
    }

    fn reason(&self, job: JobId) -> Option<String> {
        if let Some(proposal) = self.unanswered.get(&job) {
            let nodes = proposal.allocations.iter();
            let nodes: Vec<_> = nodes.map(|held| held.node.0.as_str()).collect();
            let nodes = nodes.join(", ");
            return Some(format!("has a place on {nodes}, which is being stored"));
        }
        self.planner.reason(clock::now(), job)
    }

    fn view(&self) -> Vec<NodeView> {
        let view = |(name, entry): (&NodeName, &NodeEntry)| NodeView {
            name: name.clone(),
            free: entry.free(),
            jobs: entry.jobs().collect(),
            strays: self.strays.get(name).map_or(0, |(_, tasks)| tasks.len()),
        };
        self.planner.ledger().nodes().map(view).collect()
    }

    fn tell(&self, job: JobId, message: JobMsg) {
        let route = JobsMsg::Route(job, message);
        let jobs = self.jobs.as_ref();
        if jobs.is_none_or(|jobs| jobs.cast(route).is_err()) {
            tracing::warn!(%job, "a placement found no one; the job waits for the next start");
        }
    }
}

/// 128 random bits for the callback URL of an attempt.
fn secret() -> Secret {
    format!("{:032x}", rand::rng().random::<u128>()).into()
}

/// A caller that no longer waits is not an error.
pub(super) fn answer<T>(reply: RpcReplyPort<T>, value: T) {
    reply.send(value).ok();
}

#[cfg(test)]
mod tests;
