//! Between the policy, which counts, and the cluster, which has names: jobs, nodes and GPUs by UUID.
//!
//! Owns ledger, queue and policy, and that the last two believe of nodes what the ledger says. Decides nothing itself but
//! which of equal GPUs a task gets. Pure: it is told the time. Called by the scheduler actor, which carries out what
//! `solve` answers.

mod explain;
mod names;
mod seats;
mod upkeep;
mod words;

pub use explain::{Change, Explanation, Short};

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    names::{pieces_of, whole},
    upkeep::Upkeep,
};
use super::{
    Gate, Gates, Opened, Placement, Queue, QueuedJob, Standing,
    ledger::{Allocation, Ledger, NodeEntry},
    policy::{
        Config, Holding, Preempt, Scheduler, Seconds, Submission,
        cluster::{NodeIx, Piece},
    },
};
use crate::{
    ids::{JobId, NodeName},
    resources::Capacity,
    time::Timestamp,
};

const SECOND: i64 = 1_000_000;

/// What is to be done is looked at so often at most before it is told.
const MOST_PASSES: usize = 4;

/// A job that is to save its work and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Which.
    pub job: JobId,
    /// For whom.
    pub for_job: JobId,
}

/// All that is to be carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// These start.
    pub placements: Vec<Placement>,
    /// These make room.
    pub leaving: Vec<Leaving>,
    /// Why they do, in words.
    pub room: BTreeMap<JobId, String>,
    /// These will never start, with the reasons.
    pub never: Vec<(JobId, String)>,
    /// These were held back, and are not any more.
    pub through: Vec<JobId>,
    /// The plan breaks one of its post-conditions, in words: a bug of ours. Nothing of it is to be carried out.
    pub broken: Option<String>,
}

/// A job that holds something.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it asked for.
    pub asked: QueuedJob,
    /// What it holds.
    pub allocations: Vec<Allocation>,
    /// Since when.
    pub since: Timestamp,
    /// Since when all of its trainers run, once they do.
    pub runs_since: Option<Timestamp>,
    /// It has shown a checkpoint from which it could go on.
    pub saved: bool,
    /// For whom it makes room, if it was told to.
    pub leaves_for: Option<JobId>,
}

/// Jobs, nodes, and what is to be done.
#[derive(Clone, Debug)]
pub struct Planner {
    ledger: Ledger,
    queue: Queue,
    /// Who of them may be considered at all.
    gates: Gates,
    policy: Scheduler,
    ixs: BTreeMap<NodeName, NodeIx>,
    names: BTreeMap<NodeIx, NodeName>,
    /// Places that the policy has chosen, and that are not free yet.
    seats: BTreeMap<JobId, Vec<Piece>>,
    /// Why those have them, in words.
    why: BTreeMap<JobId, String>,
    leaving: BTreeMap<JobId, JobId>,
    /// Waiting jobs that shun nodes, and which they shun as things are.
    shy: BTreeMap<JobId, BTreeSet<NodeIx>>,
    /// Nodes have changed since that was looked at.
    moved: bool,
    /// The policy's clock never goes back: it is ahead of the real one by so much.
    skew: Seconds,
    latest: Option<Seconds>,
    /// Nodes that are about to close.
    upkeep: Upkeep,
}

impl Default for Planner {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Planner {
    /// Without nodes and jobs.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            upkeep: Upkeep::with(config.restart_cost),
            ledger: Ledger::default(),
            queue: Queue::default(),
            gates: Gates::default(),
            policy: Scheduler::new(config),
            ixs: BTreeMap::new(),
            names: BTreeMap::new(),
            seats: BTreeMap::new(),
            why: BTreeMap::new(),
            leaving: BTreeMap::new(),
            shy: BTreeMap::new(),
            moved: false,
            skew: 0,
            latest: None,
        }
    }

    /// Who holds what.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Who waits.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The policy's own view.
    #[must_use]
    pub fn policy(&self) -> &Scheduler {
        &self.policy
    }

    /// For whom a job is to make room, if it is.
    #[must_use]
    pub fn leaves_for(&self, job: JobId) -> Option<JobId> {
        self.leaving.get(&job).copied()
    }

    /// INV-01 and INV-02, of what has changed since this was asked last.
    pub fn newly_violated(&mut self) -> Option<String> {
        self.ledger.newly_violated()
    }

    /// A node is known, or offers something else, or is open or closed.
    pub fn set_node(&mut self, now: Timestamp, name: &NodeName, capacity: Capacity, open: bool) {
        self.ledger.set_node(name.clone(), capacity, open);
        self.node_changed(now, name);
    }

    /// GPUs of a node that nobody gets for now.
    pub fn block(&mut self, now: Timestamp, name: &NodeName, gpus: BTreeSet<String>) {
        self.ledger.block(name.clone(), gpus);
        self.node_changed(now, name);
    }

    /// What a node is labelled with, each `key=value`.
    pub fn set_labels(&mut self, now: Timestamp, name: &NodeName, labels: BTreeSet<String>) {
        self.ledger.set_labels(name.clone(), labels);
        self.node_changed(now, name);
    }

    /// How a job stands that others may wait for, and when it ended.
    pub fn stands(&mut self, job: JobId, standing: Standing, ended_at: Option<Timestamp>) {
        self.gates.stands(job, standing, ended_at);
    }

    /// One of an array had ended before the coordinator was started.
    pub fn member_ended(&mut self, array: JobId, at: Timestamp) {
        self.gates.member_ended(array, at);
    }

    /// Why a job will never start that has not said yet that it knows.
    #[must_use]
    pub fn never(&self, job: JobId) -> Option<&str> {
        self.gates.never(job)
    }

    /// All of those.
    pub fn nevers(&self) -> impl Iterator<Item = (JobId, &str)> {
        self.gates.nevers()
    }

    /// Whether it is known how a job stands, or nobody waits for it.
    #[must_use]
    pub fn knows(&self, job: JobId) -> bool {
        self.gates.knows(job)
    }

    /// Jobs that this one waits for, and of which it is not known how they stand.
    pub fn unknown(&self, gate: &Gate) -> Vec<JobId> {
        let unknown = gate.awaited().filter(|job| !self.gates.knows(*job));
        unknown.collect()
    }

    /// Where other nodes reach it.
    pub fn set_address(&mut self, now: Timestamp, name: &NodeName, address: String) {
        self.ledger.set_address(name.clone(), address);
        self.node_changed(now, name);
    }

    fn node_changed(&mut self, now: Timestamp, name: &NodeName) {
        let now = self.tick(now);
        self.upkeep.stale = true;
        let Some(offer) = self.ledger.node(name).map(|entry| self.offer_of(entry)) else {
            return;
        };
        let known = self.ixs.get(name);
        if known.is_some_and(|ix| self.policy.offer(*ix) == Some(&offer)) {
            return;
        }
        self.refresh(now, name);
        self.moved = true;
    }

    /// What the policy believes of a node is what the ledger says.
    fn refresh(&mut self, now: Seconds, name: &NodeName) {
        let Some(entry) = self.ledger.node(name) else {
            return;
        };
        let offer = self.offer_of(entry);
        let Some(ix) = self.ixs.get(name).copied() else {
            let ix = self.policy.add_node(offer);
            self.ixs.insert(name.clone(), ix);
            self.names.insert(ix, name.clone());
            return;
        };
        let held = entry.held();
        let held = held.filter(|(job, _)| !self.leaving.contains_key(job));
        let mut held: Vec<(u64, Vec<Piece>)> = held
            .map(|(job, held)| (job.0, pieces_of(ix, entry, &offer, held)))
            .collect();
        // What is chosen and not free yet is somebody's too, as long as the node is what it was.
        let same = offer.open
            && self
                .policy
                .offer(ix)
                .is_some_and(|before| before.gpus == offer.gpus);
        let mut unseated = Vec::new();
        for (job, pieces) in &self.seats {
            let here = pieces.iter().filter(|piece| piece.node == ix);
            let here: Vec<Piece> = here.copied().collect();
            if here.is_empty() {
                continue;
            }
            if same {
                held.push((job.0, here));
            } else {
                unseated.push(*job);
            }
        }
        self.policy.change_node(now, ix, offer, &held);
        for job in unseated {
            self.unseat(now, job);
        }
    }

    /// The place that was chosen for a job is not to be had: it waits again.
    fn unseat(&mut self, now: Seconds, job: JobId) {
        self.seats.remove(&job);
        self.leaving.remove(&job);
        self.policy.withdraw(now, job.0);
        if let Some(queued) = self.queue.get(job).cloned() {
            self.submit(now, &queued);
        }
    }

    /// Nodes have changed: who shuns some may have to take them now, or need not any more.
    fn reconsider(&mut self, now: Seconds) {
        let shy: Vec<JobId> = self.shy.keys().copied().collect();
        for job in shy {
            let Some(queued) = self.queue.get(job).cloned() else {
                self.shy.remove(&job);
                continue;
            };
            if self.shy.get(&job) != Some(&self.shunned(&queued)) && self.policy.waits(job.0) {
                self.policy.withdraw(now, job.0);
                self.submit(now, &queued);
            }
        }
    }

    /// A job like this has run for so long, before the coordinator was started.
    pub fn learn(&mut self, queued: &QueuedJob, ran: Duration) {
        let asked = self.submission(queued);
        let gpus = asked.ask.gang.gpus();
        let history = &mut self.policy.history;
        let class = history.class(&asked.user, &asked.project, &asked.name, gpus);
        history.ended(class, whole(ran));
    }

    /// What jobs of a project had used, in GPU-seconds, of the span in which its GPU-hours are counted.
    pub fn has_used(&mut self, now: Timestamp, project: i64, gpu_seconds: f64) {
        let now = self.tick(now);
        let project = project.to_string();
        self.policy.has_used(now, &project, gpu_seconds);
    }

    /// A job waits. Told twice, it stands once.
    pub fn queued(&mut self, now: Timestamp, queued: QueuedJob) {
        let job = queued.job;
        let known = self.queue.get(job);
        if known == Some(&queued) {
            return;
        }
        // Its user has asked for it again meanwhile.
        let anew = known.is_some_and(|known| known.queued_at != queued.queued_at);
        if anew && self.gates.never(job).is_some() {
            self.gates.gone(job, now);
        }
        let due = queued.is_due(now);
        let now = self.tick(now);
        let left = self.leaving.remove(&job).is_some();
        self.seats.remove(&job);
        self.release(now, job);
        // Who has run since it was asked for was let through, and needs not be so again.
        let held = match queued.passed {
            Some(then) => {
                self.gates.placed(job, &queued.gate, then);
                false
            }
            None => self.gates.queued(job, queued.gate.clone()),
        };
        self.queue.insert(queued.clone());
        // It goes on to the place that it was promised, if it still asks for the same.
        if left && due && !held && self.policy.leaves_for(job.0, &self.ask_of(&queued)) {
            let done = whole(queued.has_run);
            self.policy.released_with(now, job.0, done);
            return;
        }
        self.policy.withdraw(now, job.0);
        if due && !held {
            self.submit(now, &queued);
        }
    }

    /// A job holds something: the store says so.
    pub fn holds(&mut self, now: Timestamp, held: Held) {
        let now = self.tick(now);
        let job = held.asked.job;
        self.queue.remove(job);
        let first = held.asked.passed.unwrap_or(held.since);
        self.gates.placed(job, &held.asked.gate, first);
        self.seats.remove(&job);
        self.shy.remove(&job);
        let nodes = || held.allocations.iter().map(|held| &held.node);
        let before: Vec<Allocation> = self.ledger.held_by(job).into_iter().cloned().collect();
        let differs = before != held.allocations;
        let mut touched: BTreeSet<NodeName> = BTreeSet::new();
        if differs {
            self.ledger.release(job);
            // It holds nothing any more: there is nothing to refuse.
            self.ledger.restore(job, held.allocations.clone()).ok();
            let (old, new) = (before.iter(), held.allocations.iter());
            let gone = old.filter(|one| !held.allocations.contains(one));
            let come = new.filter(|one| !before.contains(one));
            touched = gone.chain(come).map(|held| held.node.clone()).collect();
        }
        let known = self.policy.holds(job.0);
        if differs && known {
            for name in &touched {
                self.refresh(now, name);
            }
        }
        let runs_since = held.runs_since.map(|since| self.seconds(since));
        if known {
            self.policy.saved(job.0, held.saved);
            if let Some(since) = runs_since {
                self.policy.began(now, job.0, since);
            }
            return;
        }
        self.policy.withdraw(now, job.0);
        let unknown: Vec<NodeName> = nodes()
            .filter(|name| !self.ixs.contains_key(*name))
            .cloned()
            .collect();
        for name in unknown {
            self.refresh(now, &name);
        }
        if let Some(for_job) = held.leaves_for {
            self.leaving.insert(job, for_job);
        }
        let pieces = held.allocations.iter().filter_map(|held| {
            let (ix, entry) = (self.ixs.get(&held.node)?, self.ledger.node(&held.node)?);
            Some(pieces_of(*ix, entry, self.policy.offer(*ix)?, held))
        });
        let holding = Holding {
            pieces: pieces.flatten().collect(),
            asked: Submission {
                saved: held.saved,
                ..self.submission(&held.asked)
            },
            since: runs_since,
            leaving: held.leaves_for.is_some(),
        };
        self.policy.adopt(now, &holding);
    }

    /// A job neither waits nor holds anything. One that has ended after running for so long is learnt from.
    pub fn gone(&mut self, at: Timestamp, job: JobId, ran: Option<Duration>) {
        let now = self.tick(at);
        self.queue.remove(job);
        self.gates.gone(job, at);
        self.seats.remove(&job);
        self.leaving.remove(&job);
        self.shy.remove(&job);
        self.release(now, job);
        match ran {
            Some(ran) => self.policy.ended(now, job.0, whole(ran)),
            None => self.policy.withdraw(now, job.0),
        }
    }

    fn release(&mut self, now: Seconds, job: JobId) {
        for held in self.ledger.release(job) {
            let entry = self.ledger.node(&held.node);
            // A GPU that is blocked counts as long as somebody has it.
            if entry.is_some_and(NodeEntry::has_blocked) {
                self.refresh(now, &held.node);
            }
        }
    }

    /// What is to be done now. Asked again at the same moment, it has nothing to add.
    pub fn solve(&mut self, at: Timestamp) -> Decisions {
        let mut decisions = Decisions::default();
        let now = self.tick(at);
        self.keep_up(now);
        if std::mem::take(&mut self.moved) {
            self.reconsider(now);
        }
        self.let_in(at, now, &mut decisions);
        // More than once only where the books differed, or somebody goes who had not come.
        for _ in 0..MOST_PASSES {
            let plan = self.policy.pass(now);
            if plan.broken.is_some() {
                decisions.broken = plan.broken;
                break;
            }
            let mut again = false;
            for preempt in &plan.preempts {
                again |= self.send_off(now, preempt, &mut decisions);
            }
            for start in plan.starts {
                self.why.insert(JobId(start.job), words::of_start(&start));
                self.seats.insert(JobId(start.job), start.pieces);
            }
            again |= self.seat_all(at, &mut decisions.placements);
            if !again {
                break;
            }
        }
        decisions
    }

    /// Those whose gate has opened, or whose wait is over, are considered from now on.
    fn let_in(&mut self, at: Timestamp, now: Seconds, decisions: &mut Decisions) {
        let opened = self.open_gates(at, now);
        decisions.never = opened.never;
        decisions.through.clone_from(&opened.news);
        let due: BTreeSet<JobId> = self.queue.take_due(at).into_iter().collect();
        for job in due.into_iter().chain(opened.go) {
            let open = |_: &&QueuedJob| !self.gates.holds(job);
            let Some(queued) = self.queue.get(job).filter(open).cloned() else {
                continue;
            };
            if queued.is_due(at) {
                self.submit(now, &queued);
            } else {
                // The clock was set back since: it is looked at again when its time comes.
                self.queue.insert(queued);
            }
        }
    }

    /// A job is to make room. Says whether its own place was not free yet: then nobody has to be told.
    fn send_off(&mut self, now: Seconds, preempt: &Preempt, decisions: &mut Decisions) -> bool {
        let leaving = Leaving {
            job: JobId(preempt.job),
            for_job: JobId(preempt.for_job),
        };
        if self.seats.remove(&leaving.job).is_some() {
            let queued = self.queue.get(leaving.job);
            let done = queued.map(|queued| whole(queued.has_run));
            self.policy
                .released_with(now, preempt.job, done.unwrap_or_default());
            return true;
        }
        self.leaving.insert(leaving.job, leaving.for_job);
        let why = words::of_leaving(preempt);
        decisions.room.insert(leaving.job, why);
        decisions.leaving.push(leaving);
        false
    }

    fn open_gates(&mut self, at: Timestamp, now: Seconds) -> Opened {
        let opened = self.gates.open(at);
        let never = opened.never.iter().map(|(job, _)| job);
        for job in opened.back.iter().chain(never) {
            self.hold_back(now, *job);
        }
        for job in &opened.dated {
            if let Some(since) = self.gates.since(*job) {
                let since = self.seconds(since);
                self.policy.waits_since(now, job.0, since);
            }
        }
        opened
    }

    /// It is not to be considered any more, for now or for good; it stays in the queue.
    fn hold_back(&mut self, now: Seconds, job: JobId) {
        self.seats.remove(&job);
        self.shy.remove(&job);
        self.policy.withdraw(now, job.0);
    }

    fn submit(&mut self, now: Seconds, queued: &QueuedJob) {
        let asked = self.submission(queued);
        if !queued.avoid.is_empty() {
            self.shy.insert(queued.job, asked.ask.avoid.clone());
        }
        self.policy.submit(now, &asked);
        self.note_crossing(queued);
    }

    /// When to solve again though nothing happens.
    #[must_use]
    pub fn wake(&self, now: Timestamp) -> Option<Timestamp> {
        let policy = self
            .policy
            .wake(self.latest.unwrap_or_else(|| self.seconds(now)));
        let policy = policy.map(|then| Timestamp((then - self.skew).saturating_mul(SECOND)));
        let gates = self.gates.next_look();
        let next = self.queue.next_due(now).into_iter().chain(policy);
        next.chain(gates).min()
    }

    fn seconds(&self, at: Timestamp) -> Seconds {
        at.0.div_euclid(SECOND) + self.skew
    }

    /// The policy's time, which goes on where it was when the clock is set back.
    fn tick(&mut self, now: Timestamp) -> Seconds {
        self.upkeep.tick(now);
        let latest = match self.latest {
            Some(latest) => latest,
            None => {
                let first = self.seconds(now);
                self.policy.hold_off(first);
                first
            }
        };
        self.skew += (latest - self.seconds(now)).max(0);
        let now = self.seconds(now);
        self.latest = Some(now);
        now
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod asked;

#[cfg(test)]
mod stories;

#[cfg(test)]
mod windows;
