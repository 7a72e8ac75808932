//! The scheduler: sole owner of ledger, queue and policy.
//!
//! Child of Root. Asks `core::sched::Planner` what to do once after a burst of changes, never for each, and carries it
//! out: places go to their jobs, and jobs that are to make room are told. It holds no durable state: at start Root tells
//! it what the store says. If it fails, the process ends and begins again from the store.

mod awaited;
mod notes;
mod spent;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use rand::Rng;
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName},
    job::{Event, Job, JobState},
    resources::Capacity,
    sched::{
        Allocation, Explanation, Held, Leaving, NodeEntry, Planner, QueuedJob, Standing, policy,
    },
    secret::Secret,
    service::Window,
    time::Timestamp,
};

pub use self::awaited::Stood;
use self::notes::Notes;
use super::{
    job::JobMsg,
    jobs::{JobsMsg, JobsRef},
};
use crate::{clock, store::Store};

/// It is looked at least so often when somebody waits for a moment.
const LONGEST_ALARM: Duration = Duration::from_secs(60);
/// What a job has not heard is said again after this.
const SOON: Duration = Duration::from_secs(10);

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
    /// When it said so.
    pub at: Timestamp,
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
    /// Jobs that had ended before the coordinator started: what is known of jobs like them. Newest first.
    Ended(Vec<Job>),
    /// A node is connected, with what it knows of tasks.
    NodeUp(Box<NodeUp>),
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
    /// Why a job waits.
    Reason(JobId, RpcReplyPort<Option<String>>),
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

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Scheduler;

/// A placement on its way to its job, which holds it in the ledger until the job answers.
#[derive(Clone, Debug)]
struct Proposal {
    queued_at: Timestamp,
    allocations: Vec<Allocation>,
    secret: Secret,
    /// In words.
    why: String,
}

impl From<Proposal> for JobMsg {
    fn from(proposal: Proposal) -> Self {
        let event = Event::Placed {
            queued_at: proposal.queued_at,
            allocations: proposal.allocations,
            secret: proposal.secret,
        };
        Self::Decided(event, proposal.why)
    }
}

/// What the scheduler is given at start.
#[derive(Debug)]
pub struct SchedulerArgs {
    /// Who starts where, and who makes room.
    pub policy: policy::Config,
    /// Says how jobs stand that others wait for.
    pub store: Store,
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
}

impl Actor for Scheduler {
    type Msg = SchedulerMsg;
    type State = State;
    type Arguments = SchedulerArgs;

    async fn pre_start(
        &self,
        _myself: SchedulerRef,
        args: SchedulerArgs,
    ) -> Result<State, ActorProcessingErr> {
        let mut planner = Planner::new(args.policy.clone());
        spent::tell(&mut planner, &args.store, (&args.policy, clock::now()))?;
        Ok(State {
            planner,
            store: Some(args.store),
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
            SchedulerMsg::Ended(jobs) => jobs.iter().rev().for_each(|job| state.had_ended(job)),
            SchedulerMsg::NodeUp(node) => state.node_up(*node),
            SchedulerMsg::NodeIs(name, capacity, open) => state.set_node(name, capacity, open),
            SchedulerMsg::Address(name, address) => state.set_address(&name, address),
            SchedulerMsg::Labels(name, labels) => state.set_labels(&name, labels),
            SchedulerMsg::Blocked(name, gpus) => state.block(&name, gpus),
            SchedulerMsg::StrayGone(name, task) => state.stray_gone(name, task),
            SchedulerMsg::NodeLost(name, why) => state.node_lost(&name, &why),
            SchedulerMsg::Vacate(name, why) => state.vacate(&name, &why),
            SchedulerMsg::Windows(windows) => state.set_windows(windows),
            SchedulerMsg::Solve => {
                state.solving = false;
                return state.solve(&myself);
            }
            SchedulerMsg::Alarm => state.rings(),
            SchedulerMsg::Reason(job, reply) => answer(reply, state.reason(job)),
            SchedulerMsg::Explain(job, reply) => answer(reply, state.explain(job)),
            SchedulerMsg::Foresee(queued, reply) => answer(reply, state.foresee(*queued)),
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
        self.dirty = true;
        jobs.into_iter().for_each(|job| self.waits(job));
    }

    fn explain(&self, job: JobId) -> Option<Box<Explanation>> {
        self.planner.explain(clock::now(), job).map(Box::new)
    }

    fn foresee(&self, queued: QueuedJob) -> Box<Foreseen> {
        let (nodes, why) = self.planner.foresee(clock::now(), queued);
        Box::new(Foreseen { nodes, why })
    }

    fn job_is(&mut self, job: Job) {
        self.dirty = true;
        // This is newer than what is being read.
        self.reading.remove(&job.id);
        if job.state != JobState::Queued {
            self.notes.forget(job.id);
        }
        let now = clock::now();
        let Some(attempt) = job.live() else {
            if let Some(proposal) = self.unanswered_of(&job) {
                // Not answered yet, or lost on its way. It stays held: were it given to another
                // job, both could take it.
                self.tell(job.id, proposal.into());
                return;
            }
            self.unanswered.remove(&job.id);
            self.attempts.remove(&job.id);
            self.going.remove(&job.id);
            if job.state == JobState::Queued {
                let queued = job.queued();
                let known = self.planner.queue().get(job.id);
                let same = known.is_some_and(|known| known.queued_at == queued.queued_at);
                match self.planner.never(job.id).filter(|_| same) {
                    // That was lost on its way.
                    Some(why) => self.give_up(job.id, why),
                    None => self.waits(queued),
                }
            } else {
                let standing = Standing::of(Some(job.state));
                self.planner.stands(job.id, standing, job.ended_at);
                let ran = job.ran().filter(|_| job.state.is_terminal());
                self.planner.gone(now, job.id, ran);
            }
            return;
        };
        self.unanswered.remove(&job.id);
        self.attempts.insert(job.id, attempt.number);
        // Such a job does not take it, and goes soon.
        let ends = job.cancel_requested || attempt.blame.is_some();
        let goes = ends || attempt.leaves() || job.state == JobState::Finishing;
        match goes {
            true => self.going.insert(job.id),
            false => self.going.remove(&job.id),
        };
        if let Some(for_job) = self.planner.leaves_for(job.id).filter(|_| !goes) {
            // It was told before it was what it is now, or that was lost on its way.
            let leaving = Leaving {
                job: job.id,
                for_job,
            };
            self.make_room(leaving, None);
        }
        let held = Held {
            asked: job.queued(),
            allocations: job.allocations().into_iter().cloned().collect(),
            since: attempt.placed_at,
            runs_since: attempt.started_at(),
            saved: job.spec.resume && job.resumable.is_some(),
            leaves_for: attempt.makes_room_for,
        };
        let gate = held.asked.gate.clone();
        self.planner.holds(now, held);
        self.unread.extend(self.planner.unknown(&gate));
    }

    /// A job waits. How those stand that it waits for is in the store: what changes after that is read is told.
    fn waits(&mut self, queued: QueuedJob) {
        let gate = queued.gate.clone();
        self.planner.queued(clock::now(), queued);
        self.unread.extend(self.planner.unknown(&gate));
    }

    /// The placement that `job` has still to answer; one from before it was queued anew is none.
    fn unanswered_of(&self, job: &Job) -> Option<Proposal> {
        let proposal = self.unanswered.get(&job.id)?;
        let waits = job.state == JobState::Queued && job.state_since == proposal.queued_at;
        waits.then(|| proposal.clone())
    }

    /// Jobs that the ledger sees on the node but the node has no trace of must hear of it.
    fn node_up(&mut self, node: NodeUp) {
        let NodeUp { name, knows, .. } = node;
        let on_it = self.jobs_on(&name);
        let wanted = |(job, attempt): &(JobId, AttemptNo)| {
            on_it.contains(job) && self.attempts.get(job) == Some(attempt)
        };
        let mut strays = node.runs;
        strays.retain(|task| !wanted(task));
        if strays.is_empty() {
            self.strays.remove(&name);
        } else {
            tracing::warn!(node = %name, tasks = strays.len(), "it gets no job until tasks that nobody wants have ended");
            self.strays.insert(name.clone(), (node.open, strays));
        }
        self.set_node(name.clone(), node.capacity, node.open);
        for job in on_it {
            let attempt = self.attempts.get(&job).copied();
            if let Some(attempt) = attempt.filter(|attempt| !knows.contains(&(job, *attempt))) {
                self.tell(job, JobMsg::NoTrace(attempt, name.clone(), node.at));
            }
        }
    }

    fn set_node(&mut self, name: NodeName, capacity: Capacity, open: bool) {
        self.dirty = true;
        let strays = self.strays.get_mut(&name);
        let clean = strays.is_none();
        if let Some((wished, _)) = strays {
            *wished = open;
        }
        let open = open && clean;
        self.planner.set_node(clock::now(), &name, capacity, open);
    }

    fn stray_gone(&mut self, name: NodeName, task: (JobId, AttemptNo)) {
        let Some((open, strays)) = self.strays.get_mut(&name) else {
            return;
        };
        strays.remove(&task);
        let (open, is_last) = (*open, strays.is_empty());
        let node = self.planner.ledger().node(&name).filter(|_| is_last);
        if let Some(capacity) = node.map(|node| node.capacity.clone()) {
            self.strays.remove(&name);
            self.set_node(name, capacity, open);
        }
    }

    fn node_lost(&mut self, name: &NodeName, why: &str) {
        for job in self.jobs_on(name) {
            if let Some(attempt) = self.attempts.get(&job).copied() {
                let event = Event::NodeLost(attempt, name.clone(), why.to_owned());
                self.tell(job, JobMsg::Event(event, None));
            }
        }
    }

    /// Looks again when the next job that is tried again may start.
    fn wake_for(&mut self, myself: &SchedulerRef, now: Timestamp) {
        if let Some(span) = self.next_alarm(now) {
            myself.send_after(span, || SchedulerMsg::Alarm);
        }
    }

    /// Whatever the clock says by now: it does not ring again unless it is set anew.
    fn rings(&mut self) {
        self.alarm = None;
        self.dirty = true;
        self.unread.append(&mut self.unreadable);
        for (job, why) in self.planner.nevers() {
            self.give_up(job, why);
        }
    }

    /// In how long to look again, unless that is seen to.
    fn next_alarm(&mut self, now: Timestamp) -> Option<Duration> {
        // A timer does not know when the clock is set, so it is never set for long.
        let longest = now.plus(LONGEST_ALARM);
        let unheard = self.planner.nevers().next().is_some() || !self.unreadable.is_empty();
        let again = unheard.then(|| now.plus(SOON));
        let next = self.planner.wake(now).into_iter().chain(again);
        let next = next.chain(self.notes.next()).min();
        let next = next.map(|next| next.min(longest));
        let set = self.alarm.filter(|alarm| *alarm > now);
        self.alarm = set;
        let next = next.filter(|next| set.is_none_or(|set| *next < set))?;
        self.alarm = Some(next);
        Some(next.since(now).max(Duration::from_millis(1)))
    }

    fn solve(&mut self, myself: &SchedulerRef) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        self.place(now)?;
        self.note(now);
        self.wake_for(myself, now);
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

    /// One that is not placed yet hears of it when it is.
    fn make_room(&self, leaving: Leaving, why: Option<String>) {
        if let Some(attempt) = self.attempts.get(&leaving.job) {
            let event = Event::MakeRoom(*attempt, leaving.for_job);
            let message = match why {
                Some(why) => JobMsg::Decided(event, why),
                None => JobMsg::Event(event, None),
            };
            self.tell(leaving.job, message);
        }
    }

    fn jobs_on(&self, name: &NodeName) -> Vec<JobId> {
        let entry = self.planner.ledger().node(name);
        entry.map_or_else(Vec::new, |entry| entry.jobs().collect())
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

mod service;

#[cfg(test)]
mod tests;
