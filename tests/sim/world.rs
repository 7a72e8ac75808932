//! One run: a cluster in turmoil, its faults at their times, and the checks after each step.
//!
//! Owns the hosts' disks and machines, which outlive the hosts. Never decides what happens: the plan has. Called by
//! `main`.

mod faults;

use std::{collections::BTreeMap, fs, path::Path, sync::PoisonError, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use rand::{Rng, SeedableRng as _, rngs::StdRng};
use tokio::sync::watch;
use trainyard_coordinator::{broken::Broken, store::Store};
use trainyard_runtime::Disk;
use turmoil::Sim;

use crate::{
    check::{Checker, Seen},
    clocks, disk,
    files::{Gone, Machines},
    hosts::{self, COORDINATOR, Office},
    nature,
    node::{Node, capacity, tear},
    operator,
    place::Place,
    plan::{CALM, Fault, Has, Plan},
    silence::Silences,
    told::Accepted,
    trace::Trace,
    user::{self, Caller},
    yard::Yard,
};

/// Every job has ended so long after the last fault, or never will.
const LIMIT: Duration = Duration::from_secs(3_600);
/// A program that has ended is started again so much later, as by systemd.
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever is gone amid a write is back so many milliseconds later, where its end was awaited.
const BACK: std::ops::RangeInclusive<u64> = 500..=40_000;
/// A run is not over sooner after that.
const SETTLES: Duration = Duration::from_secs(5);
/// Segments that a connection may hold.
const SEGMENTS: usize = 4_096;

/// A run under way.
struct World {
    plan: Plan,
    rng: StdRng,
    nodes: Vec<Node>,
    disk: disk::Disk,
    store: watch::Receiver<Option<Store>>,
    ended: watch::Receiver<Option<String>>,
    serves: bool,
    /// When it is started again, after it has ended by itself.
    again: Option<Duration>,
    /// When nodes are started again that were gone amid a write.
    back: BTreeMap<usize, Duration>,
    /// When the last of them was.
    settles: Duration,
    silences: Silences,
    /// A trainer is there twice as soon as there is one.
    breaks: bool,
    /// Syncs that making the store took.
    first_sync: u32,
    accepted: Accepted,
    /// Invariants that coordinators found broken themselves.
    broken: Broken,
    /// What was seen from inside of a host that may not be.
    found: watch::Receiver<Option<String>>,
    checker: Checker,
    trace: Trace,
}

/// What a run had.
#[derive(Debug)]
pub(crate) struct Ran {
    /// From which sync of the store to which there were.
    pub(crate) syncs: (u32, u32),
    /// How many writes each node's agent has made, and how many its shims too.
    pub(crate) writes: Vec<(u32, u32)>,
    pub(crate) seen: Seen,
}

/// Runs a plan to its end.
pub(crate) fn run((seed, plan, breaks): (u64, Plan, bool), trace: &Trace) -> Result<Ran> {
    let folder = Place::of(seed)?;
    trainyard_runtime::frames_come_twice(plan.cluster.twice);
    let (mut world, office) = World::new(plan, (seed, folder.path()), trace);
    world.breaks = breaks;
    let files = world.nodes.iter().map(|node| node.post.files.clone());
    trainyard_runtime::writes_end_as(Box::new(Machines(files.collect())));
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(1 << 30))
        .tick_duration(world.plan.step)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(world.plan.cluster.latency)
        .tcp_capacity(SEGMENTS)
        .rng_seed(seed)
        .build();
    sim.host(COORDINATOR, move || hosts::coordinator(office.clone()));
    for node in &world.nodes {
        let post = node.post.clone();
        sim.host(node.name.as_str(), move || hosts::agent(post.clone()));
    }
    world.let_users_in(&mut sim);
    let seen = world.run(&mut sim)?;
    Ok(Ran {
        syncs: (world.first_sync, world.disk.syncs()),
        writes: world
            .nodes
            .iter()
            .map(|node| node.post.files.writes())
            .collect(),
        seen,
    })
}

impl World {
    fn new(plan: Plan, (seed, folder): (u64, &Path), trace: &Trace) -> (Self, Office) {
        let disk = disk::Disk::default();
        disk.boot();
        if plan.cluster.patient {
            disk.is_patient();
        }
        let (store, seen) = watch::channel(None);
        let (ended, has_ended) = watch::channel(None);
        let (found, was_found) = watch::channel(None);
        let (accepted, broken) = (Accepted::default(), Broken::default());
        let office = Office {
            grown: watch::channel(None).0,
            broken: broken.clone(),
            accepted: accepted.clone(),
            found,
            disk: disk.clone(),
            data_dir: folder.join(COORDINATOR),
            store,
            ended,
            cluster: plan.cluster.clone(),
        };
        drop(fs::create_dir_all(&office.data_dir));
        let nodes = plan.cluster.nodes.iter().enumerate();
        let nodes = nodes.map(|(number, has)| {
            let has = capacity(number, Has::all_of(*has));
            Node::new((number, has), &plan, (seed, folder, trace))
        });
        let nodes: Vec<Node> = nodes.collect();
        let clocks = nodes.iter().map(|node| (node.name.clone(), node.ahead));
        clocks::set(clocks.collect());
        if plan.cluster.ahead.iter().any(|ahead| *ahead != 0) {
            let words = format!("clocks of nodes are ahead by {:?} s", plan.cluster.ahead);
            trace.note(words);
        }
        let world = Self {
            silences: Silences::of(nodes.len()),
            back: BTreeMap::new(),
            settles: Duration::ZERO,
            nodes,
            rng: StdRng::seed_from_u64(seed ^ 0xFA17),
            plan,
            disk,
            store: seen,
            ended: has_ended,
            serves: true,
            again: None,
            breaks: false,
            first_sync: 0,
            accepted,
            broken,
            found: was_found,
            checker: Checker::new(trace.clone()),
            trace: trace.clone(),
        };
        (world, office)
    }

    fn let_users_in(&self, sim: &mut Sim<'_>) {
        let (caller, cluster) = (Caller::default(), &self.plan.cluster);
        // Up to plan 3 each logs in by itself, which takes a third of a run's time.
        let own = || match cluster.honest {
            true => caller.clone(),
            false => Caller::default(),
        };
        let users = self.plan.wishes.iter().cloned().enumerate();
        let users = users.map(|(number, wish)| {
            let known = (self.accepted.clone(), own());
            user::user((number, wish), known, self.trace.clone())
        });
        // Up to plan 4 each is a host of its own, and a step takes as long as there are hosts.
        if cluster.prompt {
            sim.client("users", user::all(users.collect()));
        } else {
            for (number, user) in users.enumerate() {
                sim.client(format!("user-{number}"), user);
            }
        }
        // Up to plan 5 there are none.
        if !self.plan.acts.is_empty() {
            let acts = self.plan.acts.clone();
            let trace = self.trace.clone();
            sim.client("operator", operator::operator(acts, own(), trace));
        }
        sim.client("onlooker", user::onlooker(own(), self.trace.clone()));
    }

    fn run(&mut self, sim: &mut Sim<'_>) -> Result<Seen> {
        let mut faults = self.plan.faults.clone().into_iter().peekable();
        let yards: Vec<Yard> = self
            .nodes
            .iter()
            .map(|node| node.post.yard.clone())
            .collect();
        let last = self.plan.faults.last().map_or(CALM, |(at, _)| *at);
        let limit = last.max(CALM) + LIMIT;
        loop {
            let now = sim.elapsed();
            nature::elapsed(now);
            self.trace.at(now);
            for (yard, node) in yards.iter().zip(&self.nodes) {
                nature::on_a_clock_ahead_by(node.ahead);
                yard.advance(now);
            }
            nature::on_a_clock_ahead_by(0);
            if self.breaks {
                yards.iter().for_each(Yard::double);
            }
            let broken = yards.iter().flat_map(Yard::broken).collect();
            yards.iter().for_each(|yard| yard.notice(&broken));
            while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= now) {
                self.trace.note(format!("fault: {fault:?}"));
                self.silences.happens(&fault);
                self.happen(sim, &fault);
            }
            sim.step()
                .map_err(|error| anyhow!("a host has failed: {error}"))?;
            self.bury(sim, now);
            self.listen(sim, now);
            self.hear()?;
            self.restart_the_ended(sim, now);
            self.check(now, &yards)?;
            let wishes = self.plan.wishes.as_slice();
            let over = now > self.plan.until && faults.peek().is_none() && self.is_settled(now);
            if over && self.checker.is_over((wishes, &self.accepted), &yards) {
                break;
            }
            if now > limit {
                bail!("INV-09: {}", self.what_is_left(&yards));
            }
        }
        let store = self.store.borrow().clone();
        let store = store.context("the coordinator is gone at the end")?;
        let mut seen = self
            .checker
            .end(&store, &self.plan, (&self.accepted, &yards))?;
        self.note_store(&store)?;
        let refused = self.nodes.iter().map(|node| node.post.files.refused());
        let refused = refused.sum();
        if refused > 0 {
            seen.insert("writes found the disk of an agent full", refused);
        }
        self.count_ends(&mut seen);
        Ok(seen)
    }

    /// How many ends amid a write or a sync were planned, and how many have come.
    fn count_ends(&self, seen: &mut Seen) {
        let planned = |which: fn(&Fault) -> bool| {
            let all = self.plan.faults.iter();
            all.filter(|(_, fault)| which(fault)).count()
        };
        let agents = self.nodes.iter().map(|node| node.post.files.ends());
        for (what, times) in [
            (
                "ends of agents amid a write were planned",
                planned(|fault| matches!(fault, Fault::FailAgent(..))),
            ),
            ("agents were gone amid a write", agents.sum()),
            (
                "power cuts amid a sync of the store were planned",
                planned(|fault| matches!(fault, Fault::FailDisk(..))),
            ),
            (
                "power cuts came amid a sync of the store",
                self.disk.failures(),
            ),
        ] {
            if times > 0 {
                seen.insert(what, times);
            }
        }
    }

    /// All that is stored, so that a seed that is run again is seen to store the same.
    fn note_store(&self, store: &Store) -> Result<()> {
        for of in store.digest()? {
            let words = format!("stored: {} {} {}", of.table, of.rows, of.digest);
            self.trace.note(words);
        }
        Ok(())
    }

    fn check(&mut self, now: Duration, yards: &[Yard]) -> Result<()> {
        self.checker.machines(yards)?;
        let store = self.store.borrow().clone();
        match store {
            Some(store) if self.disk.is_read() => {
                if self.first_sync == 0 {
                    self.first_sync = self.disk.syncs();
                }
                let (plan, world) = ((&self.plan, &self.silences), (&self.accepted, yards));
                self.checker.store(&store, plan, world)?;
                self.checker.strays(now, plan, yards)
            }
            _ => Ok(()),
        }
    }

    /// What the coordinator finds broken itself is broken; it also ends then with that word, if its ledger is.
    fn hear(&self) -> Result<()> {
        let counts = self.broken.counts();
        if let Some((name, _)) = counts.iter().find(|(_, times)| *times > 0) {
            bail!("{name}: the coordinator has found it broken");
        }
        if let Some(why) = self
            .ended
            .borrow()
            .as_ref()
            .filter(|why| why.contains("INV-"))
        {
            bail!("the coordinator has ended: {why}");
        }
        match self.found.borrow().as_ref() {
            Some(words) => Err(anyhow!("{words}")),
            None => Ok(()),
        }
    }

    /// Whoever is gone amid a write is gone.
    fn bury(&mut self, sim: &mut Sim<'_>, now: Duration) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let running = sim.is_host_running(node.name.as_str());
            let Some(gone) = node.post.files.gone().filter(|_| running) else {
                continue;
            };
            self.trace
                .note(format!("{}: gone amid a write: {gone:?}", node.name));
            sim.crash(node.name.as_str());
            if gone == Gone::Power {
                node.power_off();
            }
            if self.plan.cluster.patient {
                let later = Duration::from_millis(self.rng.random_range(BACK));
                self.back.insert(number, now + later);
            }
        }
        let due: Vec<usize> = self
            .back
            .extract_if(.., |_, at| *at <= now)
            .map(|(number, _)| number)
            .collect();
        for number in due {
            self.settles = now + SETTLES;
            if let Some(node) = self.nodes.get_mut(number) {
                self.trace.note(format!("{} is back", node.name));
                node.on = true;
            }
            self.start_agent(sim, number);
        }
    }

    fn is_settled(&self, now: Duration) -> bool {
        // A power cut may come as late as the last start of the coordinator: then it is not back yet.
        let is_back = self.again.is_none() && self.disk.is_read() && self.store.borrow().is_some();
        self.back.is_empty() && is_back && now >= self.settles
    }

    /// Who can be heard after this step.
    fn listen(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let runs = |node: &Node| {
            let ended = node.ended.borrow().is_some();
            !ended && sim.is_host_running(node.name.as_str())
        };
        let agents: Vec<bool> = self.nodes.iter().map(runs).collect();
        let listens = self.serves && self.ended.borrow().is_none();
        self.silences.look(now, &agents, listens);
    }

    /// A program that ended by itself is started again, as systemd does.
    fn restart_the_ended(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let why = self.ended.borrow().clone();
        if let Some(why) = why.filter(|_| self.serves) {
            self.trace.note(format!("coordinator: {why}"));
            self.stop_coordinator(sim);
            self.ended_by_itself(sim, now);
        }
        if self.again.is_some_and(|at| at <= now) {
            self.disk.boot_as_it_is();
            self.serve(sim);
        }
        for at in 0..self.nodes.len() {
            let Some(node) = self.nodes.get(at) else {
                continue;
            };
            let why = node.ended.borrow().clone();
            if let Some(why) = why.filter(|_| node.on && sim.is_host_running(node.name.as_str())) {
                self.trace.note(format!("{}: {why}", node.name));
                sim.bounce(node.name.as_str());
            }
        }
    }

    fn what_is_left(&self, yards: &[Yard]) -> String {
        let trainers: Vec<_> = yards
            .iter()
            .map(|yard| yard.look(|all| all.map(|one| one.of).collect::<Vec<_>>()))
            .collect();
        let accepted = self.accepted.all(&self.plan.wishes);
        let store = self.store.borrow().clone();
        let open = store
            .and_then(|store| store.open_jobs().ok())
            .unwrap_or_default();
        let open: Vec<_> = open
            .iter()
            .map(|job| (job.id.0, job.state.name(), job.reason.clone()))
            .collect();
        format!("not over: trainers {trainers:?}, accepted {accepted:?}, open {open:?}")
    }
}
