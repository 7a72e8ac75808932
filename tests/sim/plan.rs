//! What happens in a run: cluster, wishes and faults, all drawn from the seed beforehand.
//!
//! Pure. What a newer plan has more is drawn from numbers of its own, and drawn only where that plan is asked for: seeds
//! that are pinned say which plan they mean. Called by the world.

mod faults;
mod full;
mod late;
mod operators;
mod orders;
mod stays;

use std::{collections::BTreeSet, time::Duration};

use rand::{Rng, SeedableRng as _, rngs::StdRng};

use trainyard_core::job::JobState;

pub(crate) use operators::Act;
pub(crate) use orders::Order;

use crate::{
    disk::Moment,
    files::Gone,
    script::{Finish, Script},
};

/// The newest plan.
pub(crate) const NEWEST: u32 = 10;

/// Time between two checks, where the plan says nothing else.
const STEP: Duration = Duration::from_millis(10);

/// A launch takes so long where the plan says nothing else.
const LAUNCH: Duration = Duration::from_millis(20);

/// When a coordinator goes that is to stay away.
pub(crate) const GOES_AWAY: Duration = Duration::from_secs(60);

/// All faults are over by then.
pub(crate) const CALM: Duration = Duration::from_secs(240);

/// What every machine has of it.
const MEMORY_GIB: u64 = 64;

/// What a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Has {
    pub(crate) cpus: u32,
    pub(crate) gpus: u32,
    pub(crate) memory_gib: u64,
}

impl Has {
    pub(crate) fn all_of((cpus, gpus): (u32, u32)) -> Self {
        Self {
            cpus,
            gpus,
            memory_gib: MEMORY_GIB,
        }
    }
}

/// What there is.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// CPUs and GPUs of each node.
    pub(crate) nodes: Vec<(u32, u32)>,
    pub(crate) suspect_after: u32,
    pub(crate) lost_after: u32,
    /// The longest way of a message.
    pub(crate) latency: Duration,
    /// Each frame of so many comes twice; 0 is none.
    pub(crate) twice: u64,
    /// A launch takes so long.
    pub(crate) launch: Duration,
    /// A power cut takes from agents' disks what was not synced, a launch goes on without its agent, and what a machine
    /// has changes only while it is off.
    pub(crate) honest: bool,
    /// Who is to make room is looked for every few seconds, and who waits is asked why.
    pub(crate) prompt: bool,
    /// How often that is, where anything was stored meanwhile.
    pub(crate) asks: Duration,
    /// What its disk suffers lasts until the fault ends: no room for a coordinator that starts meanwhile, no power.
    pub(crate) lasting: bool,
    /// An end amid a write or a sync is awaited until it comes, whatever else happens meanwhile.
    pub(crate) patient: bool,
    /// By how many seconds the clock of each node is ahead of the coordinator's.
    pub(crate) ahead: Vec<i64>,
}

/// A job that the user wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) at: Duration,
    pub(crate) script: Script,
    pub(crate) cpus: u32,
    pub(crate) gpus: u32,
    pub(crate) memory_gib: u64,
    /// Ranks of a gang, on as many nodes.
    pub(crate) nodes: u32,
    pub(crate) cancel_after: Option<Duration>,
    /// Cancelled once it is in this state.
    pub(crate) cancel_in: Option<JobState>,
    /// Once it has ended it runs again.
    pub(crate) again: Vec<Again>,
    pub(crate) order: Order,
    pub(crate) terms: Terms,
}

/// What a user says of ends that are not the trainer's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How often it may be tried again; none as it is by default.
    pub(crate) limit: Option<u32>,
    /// A lost node is waited for.
    pub(crate) waits: bool,
    /// So many seconds each trainer of it may run; 0 is any time.
    pub(crate) seconds: u32,
}

/// A job that has ended runs once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) after: Duration,
    /// From its last checkpoint.
    pub(crate) goes_on: bool,
}

/// Something bad, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Neither hears the other.
    Cut(usize),
    /// The node does not hear the coordinator.
    Deaf(usize),
    /// The coordinator does not hear the node.
    Mute(usize),
    /// The network between them is as it should be.
    Mend(usize),
    /// What they say arrives later, all at once.
    Hold(usize),
    /// It arrives now.
    Release(usize),
    /// The agent is killed; its trainers go on.
    KillAgent(usize),
    /// It is started.
    StartAgent(usize),
    /// The machine loses power.
    KillNode(usize),
    /// It comes back with this.
    StartNode(usize, Has),
    /// The agent, or its machine, is gone with a write that is to last, after so many.
    FailAgent(usize, u32, Moment, Gone),
    /// One of the living trainers is killed, with its shim or without.
    KillTrainer(usize, usize, bool),
    /// The coordinator's machine loses power.
    KillCoordinator,
    /// The coordinator is killed; what it has written is there.
    KillProgram,
    /// Its machine loses power with a sync, after so many.
    FailDisk(u32, Moment),
    /// Its disk takes only so many more bytes.
    FillDisk(usize),
    /// It is started.
    StartCoordinator,
    /// Each sync of its disk takes so long.
    SlowStore(Duration),
    /// Each sync of an agent's disk takes so long.
    SlowSpools(Duration),
    /// The disk of a node is full after so many further writes.
    FillAgent(usize, u32),
    /// It has room.
    EmptyAgent(usize),
    /// Clocks are set by so many seconds.
    Jump(i64),
    /// The clock of this node alone is.
    JumpAlone(usize, i64),
    /// What was to end amid a write and has not will not.
    Spare,
}

/// All of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cluster: Cluster,
    pub(crate) wishes: Vec<Wish>,
    /// By time.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// What operators do, by time.
    pub(crate) acts: Vec<(Duration, Act)>,
    /// Time between two checks.
    pub(crate) step: Duration,
    /// It is not over before that.
    pub(crate) until: Duration,
}

impl Plan {
    /// Of the seed, as that plan has it.
    pub(crate) fn of(seed: u64, number: u32) -> Self {
        let mut plan = Self::first(seed);
        if number >= 2 {
            plan.grow(&mut StdRng::seed_from_u64(seed ^ 0x5EC0));
        }
        if number >= 3 {
            plan.join(&mut StdRng::seed_from_u64(seed ^ 0x6A46));
        }
        if number >= 4 {
            plan.wear(&mut StdRng::seed_from_u64(seed ^ 0x3EA4));
        }
        if number >= 5 {
            plan.order(&mut StdRng::seed_from_u64(seed ^ 0x0DE5));
        }
        if number >= 6 {
            plan.serve(&mut StdRng::seed_from_u64(seed ^ 0x5E81));
        }
        if number >= 7 {
            plan.crowd(&mut StdRng::seed_from_u64(seed ^ 0xF177));
        }
        if number >= 8 {
            plan.last(&mut StdRng::seed_from_u64(seed ^ 0x1A57));
        }
        if number >= 9 {
            plan.stay(&mut StdRng::seed_from_u64(seed ^ 0x57A1));
        }
        if number >= 10 {
            plan.delay(&mut StdRng::seed_from_u64(seed ^ 0x1A7E));
        }
        // The order of those at one time is theirs of being drawn.
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    fn first(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (0..rng.random_range(1..=3)).map(|_| {
            let gpus = rng.random_range(0..=4);
            (rng.random_range(2..=6), gpus)
        });
        let cluster = Cluster {
            nodes: nodes.collect(),
            suspect_after: 10,
            lost_after: rng.random_range(20..=60),
            latency: Duration::from_millis(rng.random_range(2..=200)),
            twice: 0,
            launch: LAUNCH,
            honest: false,
            prompt: false,
            asks: STEP * 10,
            lasting: false,
            patient: false,
            ahead: Vec::new(),
        };
        let wishes = (0..rng.random_range(2..=10)).map(|_| wish(&mut rng, &cluster));
        let wishes = wishes.collect();
        let mut faults = Vec::new();
        // Some runs are calm: what fails in them is no fault's doing.
        if rng.random_bool(0.9) {
            for _ in 0..rng.random_range(1..=12) {
                faults::any(&mut rng, &cluster, &mut faults);
            }
        }
        // Nodes that came back with less are repaired, or what was asked of them would wait for ever.
        for (number, node) in cluster.nodes.iter().enumerate() {
            let whole = Fault::StartNode(number, Has::all_of(*node));
            let shrunk = |(_, fault): &(Duration, Fault)| {
                matches!(fault, Fault::StartNode(of, _) if *of == number) && *fault != whole
            };
            if faults.iter().any(shrunk) {
                faults.push((CALM, Fault::KillNode(number)));
                faults.push((CALM, whole));
            }
        }
        Self {
            cluster,
            wishes,
            faults,
            acts: Vec::new(),
            step: STEP,
            until: CALM,
        }
    }
}

impl Plan {
    /// Checkpoints, jobs that run again, frames that come twice, and more that happens to disks.
    fn grow(&mut self, rng: &mut StdRng) {
        for wish in &mut self.wishes {
            if rng.random_bool(0.5) {
                wish.script.saves = rng.random_range(1..=3);
            }
            let states = [
                JobState::Queued,
                JobState::Starting,
                JobState::Running,
                JobState::Finishing,
            ];
            if wish.cancel_after.is_none() && rng.random_bool(0.15) {
                wish.cancel_in = states.get(rng.random_range(0..states.len())).copied();
            }
            if rng.random_bool(0.25) {
                let again = (0..rng.random_range(1..=2)).map(|_| Again {
                    after: Duration::from_millis(rng.random_range(0..=20_000)),
                    goes_on: rng.random_bool(0.5),
                });
                wish.again = again.collect();
            }
        }
        if rng.random_bool(0.4) {
            self.cluster.twice = rng.random_range(1..=4);
        }
        // A calm run stays calm.
        if !self.faults.is_empty() {
            for _ in 0..rng.random_range(0..=4) {
                faults::of_disks(rng, &mut self.faults);
            }
        }
    }

    /// Some jobs are gangs, of what every node has.
    fn join(&mut self, rng: &mut StdRng) {
        let nodes = &mut self.cluster.nodes;
        while nodes.len() < 2 {
            nodes.push((rng.random_range(2..=6), rng.random_range(0..=4)));
        }
        let cpus = nodes.iter().map(|node| node.0).min().unwrap_or(1);
        let gpus = nodes.iter().map(|node| node.1).min().unwrap_or(0);
        let most = u32::try_from(nodes.len()).unwrap_or(2);
        for wish in &mut self.wishes {
            if rng.random_bool(0.4) {
                wish.nodes = rng.random_range(2..=most);
                wish.cpus = wish.cpus.min(cpus);
                wish.gpus = wish.gpus.min(gpus);
            }
        }
    }

    /// Agents that are gone amid their writes, power cuts that take what was not synced, launches that take long, jobs
    /// that need memory, and nodes that come back with less of everything.
    fn wear(&mut self, rng: &mut StdRng) {
        self.cluster.honest = true;
        if rng.random_bool(0.5) {
            self.cluster.launch = Duration::from_millis(rng.random_range(20..=3_000));
        }
        for wish in &mut self.wishes {
            if rng.random_bool(0.5) {
                wish.memory_gib = rng.random_range(1..=40);
            }
        }
        // A calm run stays calm.
        if self.faults.is_empty() {
            return;
        }
        let mut shrunk = BTreeSet::new();
        for _ in 0..rng.random_range(1..=5) {
            let number = rng.random_range(0..self.cluster.nodes.len());
            let Some(node) = self.cluster.nodes.get(number) else {
                continue;
            };
            let has = faults::of_writes(rng, (number, *node), &mut self.faults);
            if has != Has::all_of(*node) {
                shrunk.insert(number);
            }
        }
        for number in shrunk {
            let node = self.cluster.nodes.get(number).copied().unwrap_or((1, 0));
            let whole = Fault::StartNode(number, Has::all_of(node));
            self.faults.push((CALM, Fault::KillNode(number)));
            self.faults.push((CALM, whole));
        }
    }

    /// Clocks of nodes that are not the coordinator's; a coordinator whose disk is full, or whose machine is off, for as
    /// long as the fault lasts.
    fn last(&mut self, rng: &mut StdRng) {
        self.cluster.lasting = true;
        let spans = [-86_400, -600, -45, -2, 0, 0, 2, 45, 600, 86_400];
        for _ in &self.cluster.nodes {
            let ahead = spans.get(rng.random_range(0..spans.len()));
            self.cluster.ahead.push(ahead.copied().unwrap_or(0));
        }
    }

    /// A calm run, but for the power that fails with this sync.
    pub(crate) fn with_power_cut_at(mut self, sync: u32, moment: Moment) -> Self {
        self.faults = vec![(Duration::ZERO, Fault::FailDisk(sync, moment))];
        // It is back at once.
        self.cluster.lasting = false;
        self.cluster.patient = false;
        self.acts.clear();
        self
    }

    /// A calm run of a few wishes, but for the agent of this node, or its machine, that is gone with that write; it is back
    /// some seconds later.
    pub(crate) fn with_agent_gone_at(
        mut self,
        node: usize,
        (write, moment, gone): (u32, Moment, Gone),
    ) -> Self {
        let fault = Fault::FailAgent(node, write, moment, gone);
        self.faults = vec![(Duration::ZERO, fault)];
        self.cluster.patient = true;
        self.acts.clear();
        self.wishes.truncate(4);
        for wish in &mut self.wishes {
            wish.at /= 8;
            wish.order.not_before = None;
        }
        // It is over as soon as nothing is left to do.
        self.until = Duration::ZERO;
        self
    }

    /// A calm run of a few wishes, but for the coordinator that is killed and stays away for so long. Trainings take long,
    /// so that some end meanwhile; steps do too.
    pub(crate) fn with_coordinator_away_for(mut self, away: Duration) -> Self {
        let back = GOES_AWAY + away;
        self.faults = vec![
            (GOES_AWAY, Fault::KillProgram),
            (back, Fault::StartCoordinator),
        ];
        self.acts.clear();
        self.step = STEP * 10;
        self.wishes.truncate(3);
        for (number, wish) in self.wishes.iter_mut().enumerate() {
            wish.at = wish.at.min(GOES_AWAY / 2);
            // One still runs when it is back.
            let lasts = if number == 0 {
                away * 11 / 10
            } else {
                away / 3
            };
            let lasts = lasts / wish.script.epochs.max(1);
            wish.script.millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            (wish.cancel_after, wish.cancel_in) = (None, None);
            wish.again.clear();
            // All of them find room at once.
            (wish.cpus, wish.gpus, wish.nodes) = (1, 0, 1);
            wish.order = Order::default();
            (wish.script.finish, wish.terms) = (Finish::Done, Terms::default());
        }
        self
    }

    /// Whether all clocks are set: then times on them say little.
    pub(crate) fn has_jumps(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|(_, fault)| matches!(fault, Fault::Jump(_)))
    }

    /// Whether any clock is.
    pub(crate) fn sets_clocks(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|(_, fault)| matches!(fault, Fault::Jump(_) | Fault::JumpAlone(..)))
    }
}

fn wish(rng: &mut StdRng, cluster: &Cluster) -> Wish {
    // One that some node can hold.
    let node = rng.random_range(0..cluster.nodes.len());
    let (most_cpus, most_gpus) = cluster.nodes.get(node).copied().unwrap_or((1, 0));
    let script = Script {
        epochs: rng.random_range(1..=8),
        millis: rng.random_range(100..=12_000),
        code: if rng.random_bool(0.15) { 3 } else { 0 },
        stubborn: rng.random_bool(0.3),
        saves: 0,
        finish: Finish::Done,
    };
    let cancel_after = rng.random_bool(0.2);
    Wish {
        at: Duration::from_millis(rng.random_range(500..=120_000)),
        script,
        cpus: rng.random_range(1..=most_cpus.min(3)),
        gpus: rng.random_range(0..=most_gpus.min(2)),
        memory_gib: 0,
        nodes: 1,
        cancel_after: cancel_after.then(|| Duration::from_millis(rng.random_range(0..=40_000))),
        cancel_in: None,
        again: Vec::new(),
        order: Order::default(),
        terms: Terms::default(),
    }
}
