//! A run from its start to its end: the cluster, the wishes and the faults in their time, the calm, the check.
//!
//! Owns the order of things. Called by the shell inside of the namespaces.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use tests::jobs::is_over;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Arguments, check,
    client::Client,
    fleet::Fleet,
    plan::{Fault, Plan, Size},
    processes::{self, Ident, Trainer},
    record::{Record, now},
    silence::{By, Micros},
};

/// How often the service manager and the watch on GPUs look.
const TICK: Duration = Duration::from_millis(50);
/// A tick that takes so much longer shows that the whole machine stood still.
const STALL: Duration = Duration::from_millis(500);
/// How long the last jobs may take once all faults are over.
const PATIENCE: Duration = Duration::from_secs(180);

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Wish(usize),
    Cancel(usize),
    Fault(Fault),
}

#[derive(Debug)]
struct World {
    plan: Plan,
    fleet: Fleet,
    client: Client,
    record: Record,
    /// Users at work.
    users: JoinSet<Result<()>>,
    frozen: Vec<Ident>,
    /// Faults that wait for a trainer to hit.
    pending: Vec<Fault>,
    conflict: bool,
}

/// Plays the whole run.
pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let record = Record::new();
    let folder = arguments.folder()?;
    let size = Size {
        jobs: arguments.jobs,
        faults: arguments.faults,
        agents: arguments.agents,
    };
    let plan = match arguments.cancels_behind_a_cut {
        true => Plan::of_cancels_behind_a_cut(),
        false => Plan::of(arguments.seed, size),
    };
    let program = arguments.program()?;
    record.say(&format!(
        "seed {}, {size:?}: {}",
        arguments.seed,
        arguments.replay()
    ));
    let mut fleet = Fleet::make((&program, folder), &plan.gpus, record.clone()).await?;
    fleet.start(0)?;
    let logging_in = Client::log_in(record.clone(), !arguments.no_cgroups);
    let client = tokio::time::timeout(PATIENCE, logging_in).await;
    let client = client.context("the coordinator does not come up")??;
    for agent in 1..=plan.gpus.len() {
        fleet.start(agent)?;
    }
    let mut world = World {
        plan,
        fleet,
        client,
        record: record.clone(),
        users: JoinSet::new(),
        frozen: Vec::new(),
        pending: Vec::new(),
        conflict: false,
    };
    if let Err(error) = world.play(&program).await {
        record.finding(format!("{error:#}"));
    }
    world.tell(arguments.logs.as_deref())
}

impl World {
    async fn play(&mut self, program: &Path) -> Result<()> {
        self.disturb().await?;
        self.heal()?;
        self.record.say("all faults are over");
        self.wait_for_the_end().await?;
        check::jobs(&self.client, &self.plan, &self.record).await?;
        self.end_in_order().await;
        let mut check = std::process::Command::new(program);
        check.args(["store", "check"]).arg(self.fleet.data(0));
        let output = check.output()?;
        ensure!(
            output.status.success(),
            "the store is not sound: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Wishes and faults, each in its time.
    async fn disturb(&mut self) -> Result<()> {
        let mut events = Vec::new();
        for (number, wish) in self.plan.wishes.iter().enumerate() {
            events.push((wish.at, Event::Wish(number)));
            if let Some(after) = wish.cancel_after {
                events.push((wish.at + after, Event::Cancel(number)));
            }
        }
        let faults = self.plan.faults.iter();
        events.extend(faults.map(|(at, fault)| (*at, Event::Fault(*fault))));
        events.sort_by_key(|(at, _)| *at);
        let onlooker = self.client.clone();
        self.users
            .spawn(async move { onlooker.look_at_those_who_wait().await });
        let began = Instant::now();
        for (at, event) in events {
            while began.elapsed() < at {
                self.tick().await?;
            }
            self.happens(event)?;
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<()> {
        let (begun, at) = (Instant::now(), now());
        tokio::time::sleep(TICK).await;
        if begun.elapsed() > STALL {
            self.stood_still(at);
        }
        self.fleet.supervise()?;
        self.watch();
        for fault in std::mem::take(&mut self.pending) {
            self.strike(fault)?;
        }
        while let Some(done) = self.users.try_join_next() {
            if let Err(error) = done? {
                self.record.finding(format!("a user was told: {error:#}"));
            }
        }
        Ok(())
    }

    fn stood_still(&self, since: Micros) {
        self.record.count("the machine stood still");
        let mut record = self.record.lock();
        for host in 0..self.fleet.hosts.len() {
            record.silences.begins(host, By::Machine, since);
            record.silences.ends(host, By::Machine, now());
        }
    }

    /// Looks at what may never be, at any moment.
    fn watch(&mut self) {
        let conflict = processes::gpu_held_twice(&processes::all());
        let conflict = conflict.or_else(|| processes::rank_run_twice(&self.trainers()));
        if let Some(conflict) = conflict.filter(|_| !self.conflict) {
            self.conflict = true;
            self.record.finding(conflict);
        }
        for (number, host) in self.fleet.hosts.iter().enumerate() {
            if host.full {
                let tasks = fs::read_dir(self.fleet.data(number).join("tasks"));
                let names = tasks.into_iter().flatten().flatten();
                let runs = names.filter_map(|task| run_of(&task.file_name().to_string_lossy()));
                self.record.lock().cramped.extend(runs);
            }
        }
    }

    fn happens(&mut self, event: Event) -> Result<()> {
        let client = self.client.clone();
        match event {
            Event::Wish(number) => {
                self.record.say(&format!(
                    "wish {number}: {:?}",
                    self.plan.wishes.get(number)
                ));
                self.submit(number);
            }
            Event::Cancel(number) => {
                let wish = self
                    .plan
                    .wishes
                    .get(number)
                    .cloned()
                    .context("no such wish")?;
                // It waits for its job to be accepted.
                self.users.spawn(async move {
                    match client.submit(number, &wish).await? {
                        Some(id) => client.cancel(id).await,
                        None => Ok(()),
                    }
                });
            }
            Event::Fault(fault) => self.strike(fault)?,
        }
        Ok(())
    }

    fn submit(&mut self, number: usize) {
        let client = self.client.clone();
        if let Some(wish) = self.plan.wishes.get(number).cloned() {
            self.users
                .spawn(async move { client.submit(number, &wish).await.map(drop) });
        }
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(host) => self.fleet.kill(host),
            Fault::Start(host) => self.fleet.start(host)?,
            Fault::Freeze(host) => {
                self.record.silenced(host, By::Freeze);
                self.fleet.signal(host, Signal::SIGSTOP);
            }
            Fault::Thaw(host) => self.thaw_host(host),
            Fault::Cut(host, way) => {
                self.record.silenced(host, By::Network);
                self.fleet.network().cut(host, way)?;
            }
            Fault::Mend(host) => self.mend(host),
            Fault::Fill(host) => self.fleet.fill(host),
            Fault::Free(host) => self.fleet.free(host),
            Fault::ThawTrainers => self.thaw(),
            Fault::KillTrainer(pick)
            | Fault::KillShim(pick)
            | Fault::FreezeTrainer(pick)
            | Fault::Cancel(pick) => {
                let Some(trainer) = self.pick(pick) else {
                    self.pending.push(fault);
                    return Ok(());
                };
                self.hit(fault, trainer);
                self.record.say(&format!("{fault:?}: {trainer:?}"));
                return Ok(());
            }
            Fault::Submit(pick) => {
                let known: Vec<usize> = self.record.lock().ids.keys().copied().collect();
                if let Some(number) = known.get(pick % known.len().max(1)) {
                    self.submit(*number);
                }
            }
        }
        self.record.say(&format!("{fault:?}"));
        Ok(())
    }

    fn hit(&mut self, fault: Fault, trainer: Trainer) {
        match fault {
            Fault::KillTrainer(_) => {
                self.record.lock().killed.insert(trainer.of);
                trainer.trainer.signal(Signal::SIGKILL);
            }
            Fault::KillShim(_) => {
                self.record.lock().shimless.insert(trainer.of);
                trainer.shim.signal(Signal::SIGKILL);
            }
            Fault::FreezeTrainer(_) => {
                trainer.trainer.signal(Signal::SIGSTOP);
                self.frozen.push(trainer.trainer);
            }
            Fault::Cancel(_) => {
                let client = self.client.clone();
                self.users
                    .spawn(async move { client.cancel(trainer.of.0).await });
            }
            Fault::Kill(_)
            | Fault::Start(_)
            | Fault::Freeze(_)
            | Fault::Thaw(_)
            | Fault::Cut(..)
            | Fault::Mend(_)
            | Fault::Fill(_)
            | Fault::Free(_)
            | Fault::ThawTrainers
            | Fault::Submit(_) => {}
        }
    }

    fn pick(&self, pick: usize) -> Option<Trainer> {
        let all = self.trainers();
        all.get(pick % all.len().max(1)).copied()
    }

    fn trainers(&self) -> Vec<Trainer> {
        let agents = 1..self.fleet.hosts.len();
        let all = agents.flat_map(|agent| processes::trainers(&self.fleet.data(agent)));
        all.collect()
    }

    fn thaw(&mut self) {
        for trainer in self.frozen.drain(..) {
            trainer.signal(Signal::SIGCONT);
        }
    }

    fn thaw_host(&self, host: usize) {
        self.fleet.signal(host, Signal::SIGCONT);
        self.record.heard(host, By::Freeze);
    }

    fn mend(&self, host: usize) {
        self.fleet.network().mend(host);
        self.record.heard(host, By::Network);
    }

    fn heal(&mut self) -> Result<()> {
        self.thaw();
        self.pending.clear();
        for host in 0..self.fleet.hosts.len() {
            self.mend(host);
            self.fleet.free(host);
            self.thaw_host(host);
            self.fleet.start(host)?;
        }
        Ok(())
    }

    /// Until every job has ended, nothing of a trainer is left and everything is free.
    async fn wait_for_the_end(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            self.tick().await?;
            let left = self.left().await?;
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("after {PATIENCE:?} of calm: {}", left.join("; "));
            }
        }
    }

    /// What has not ended.
    async fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let accepted = {
            let record = self.record.lock();
            record.ids.len() + record.refused.len()
        };
        if accepted < self.plan.wishes.len() {
            left.push(format!(
                "{accepted} of {} wishes are accepted",
                self.plan.wishes.len()
            ));
        }
        for job in self.client.all().await? {
            if !is_over(&job) {
                left.push(format!(
                    "job {} is {:?} ({})",
                    job.job_id,
                    job.state(),
                    job.reason
                ));
            }
        }
        for node in self.client.nodes().await? {
            if node.draining {
                self.record
                    .count(&format!("resumed: {}", node.drain_reason));
                let drain = (node.name.clone(), node.drain_reason.clone());
                self.record.lock().drains.push(drain);
                self.client.resume(&node.name).await?;
            }
            let free = node.free == node.capacity && node.job_ids.is_empty();
            if !free || node.state() != trainyard_proto::v1::NodeState::Ready || node.draining {
                left.push(format!(
                    "node {} is {:?} and free: {free}",
                    node.name,
                    node.state()
                ));
            }
        }
        let own = self.own();
        let orphans = processes::orphans(&own).into_iter();
        left.extend(orphans.map(|seen| {
            format!(
                "process {} of {:?}: {}",
                seen.ident.pid, seen.of, seen.command
            )
        }));
        Ok(left)
    }

    /// The processes that are no trainer's.
    fn own(&self) -> std::collections::BTreeSet<i32> {
        let me = nix::unistd::getpid().as_raw();
        self.fleet.pids().into_iter().chain([1, me]).collect()
    }

    async fn end_in_order(&mut self) {
        for host in (0..self.fleet.hosts.len()).rev() {
            self.fleet.stop(host).await;
        }
        let own = self.own();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            let mut left = processes::all();
            left.retain(|seen| !own.contains(&seen.ident.pid));
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        self.record
            .finding("processes are left after all agents have ended in order".to_owned());
    }

    /// What came of it.
    fn tell(&self, logs: Option<&Path>) -> Result<ExitCode> {
        let written = self.fleet.logs();
        for (host, log) in &written {
            // What the coordinator finds broken itself it says by its name, and ends if it is its ledger.
            let bad = ["panicked at", "an invariant is broken", "INV-0"];
            let bad = |line: &&str| bad.iter().any(|word| line.contains(word));
            for line in log.lines().filter(bad) {
                self.record.finding(format!("{host}: {line}"));
            }
        }
        let counts = self.record.lock().counts.clone();
        for (what, count) in counts {
            self.record.say(&format!("{count:6} x {what}"));
        }
        let found = self.record.lock().findings.len();
        self.record.say(&format!("{found} findings"));
        if let Some(logs) = logs.filter(|_| found > 0) {
            fs::create_dir_all(logs)?;
            for (host, log) in written {
                fs::write(logs.join(format!("{host}.log")), log)?;
            }
        }
        Ok(if found == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn run_of(folder: &str) -> Option<processes::Run> {
    let mut numbers = folder.split('-');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
