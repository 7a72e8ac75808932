//! The deterministic simulation: the real coordinator and real agents in one process, under virtual time, with faults
//! that a seed makes.
//!
//! Owns nothing but the order: each seed runs in a process of its own. A seed that fails prints the command that runs it
//! again. docs/adr/0017 says how it works.

mod check;
mod clocks;
mod closed;
mod disk;
mod ends;
mod files;
mod gates;
mod hosts;
mod nature;
mod node;
mod operator;
mod place;
mod plan;
mod records;
mod script;
mod silence;
mod strays;
mod sweep;
mod told;
mod trace;
mod turns;
mod user;
mod wire;
mod world;
mod yard;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    panic,
    process::{Command, ExitCode, Output},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use tracing::subscriber::{NoSubscriber, set_global_default};
use trainyard_coordinator::telemetry::Telemetry;

use crate::{clocks::Clocks, disk::Moment, files::Gone, plan::Plan};

/// Before what a run had that not every run has.
const SEEN: &str = "seen: ";
/// Real seconds that a seed may take; it takes one.
const STUCK: u32 = 600;

/// Runs seeds of the simulation.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this one seed in this process.
    #[arg(long)]
    only: Option<u64>,
    /// Show what happened, line by line.
    #[arg(long)]
    trace: bool,
    /// Show the product's own log, such as `debug` or `trainyard_agent=trace`.
    #[arg(long)]
    log: Option<String>,
    /// The plan that the seed is for: pinned seeds are of the one that found something.
    #[arg(long, default_value_t = plan::NEWEST)]
    plan: u32,
    /// In place of all faults the power fails with this sync of the store, the first being 0; with `--only`.
    #[arg(long, requires = "only")]
    cut_at: Option<u32>,
    /// What that sync brings to the disk.
    #[arg(long, value_enum, default_value_t = Moment::Amid)]
    moment: Moment,
    /// In place of all faults the agent of this node is gone with a write that is to last, and back some seconds later; with
    /// `--only`.
    #[arg(long, requires = "only")]
    end_agent: Option<usize>,
    /// With which one, the first being 0; `--moment` says what it brings to the disk.
    #[arg(long, default_value_t = u32::MAX)]
    at_write: u32,
    /// Whether its machine loses power then.
    #[arg(long, value_enum, default_value_t = Gone::Program)]
    gone: Gone,
    /// In place of all faults the coordinator is killed and stays away for so many seconds; with `--only`.
    #[arg(long, requires = "only")]
    away: Option<u64>,
    /// The simulation itself breaks an invariant, to show what is said then.
    #[arg(long, hide = true)]
    broken: bool,
    /// Runs the first seed once for each sync of its store and each of these moments, with a power cut there.
    #[arg(long)]
    sweep: bool,
    /// Runs the first seed once for each write of its agents that is to last and each of these moments: the agent is gone
    /// then, and once more its machine.
    #[arg(long)]
    sweep_agents: bool,
    /// Of those syncs, or of those runs for agents, one of so many.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// Seeds that run at once.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.only {
        Some(seed) => only(seed, &arguments),
        None if arguments.sweep => many(&arguments, sweep::cuts(&arguments)?),
        None if arguments.sweep_agents => many(&arguments, sweep::ends(&arguments)?),
        None => {
            let end = arguments.seed.saturating_add(arguments.seeds);
            let runs = (arguments.seed..end).map(|seed| words(&arguments, seed));
            many(&arguments, runs.collect())
        }
    }
}

/// What a process of its own is told.
fn words(arguments: &Arguments, seed: u64) -> Vec<String> {
    let (seed, plan) = (seed.to_string(), arguments.plan.to_string());
    let mut words: Vec<String> = ["--only", &seed, "--plan", &plan].map(str::to_owned).into();
    words.extend(arguments.broken.then(|| "--broken".to_owned()));
    words
}

/// That of the seed, or what is asked for in its place.
fn planned(seed: u64, arguments: &Arguments) -> Plan {
    let (mut plan, moment) = (Plan::of(seed, arguments.plan), arguments.moment);
    if let Some(sync) = arguments.cut_at {
        plan = plan.with_power_cut_at(sync, moment);
    }
    if let Some(node) = arguments.end_agent {
        plan = plan.with_agent_gone_at(node, (arguments.at_write, moment, arguments.gone));
    }
    if let Some(seconds) = arguments.away {
        plan = plan.with_coordinator_away_for(Duration::from_secs(seconds));
    }
    plan
}

/// On a thread of its own, whose maps have taken no keys yet.
fn only(seed: u64, arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.log {
        Some(filter) => {
            let shows = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(io::stderr);
            set_global_default(Clocks::before(shows.finish()))?;
        }
        None => set_global_default(Clocks::before(NoSubscriber::new()))?,
    }
    let panics = note_panics();
    // The kernel ends a run that stands still.
    nix::unistd::alarm::set(STUCK);
    // Its clock is calibrated once in a process, by waiting for real time to pass.
    drop(Telemetry::new());
    let (show, cut_at) = (arguments.trace, arguments.cut_at);
    let plan = planned(seed, arguments);
    let (breaks, writes) = (arguments.broken, arguments.end_agent.is_some());
    let work = move || {
        trainyard_runtime::simulate();
        nature::begin(seed);
        let trace = trace::Trace::default();
        let outcome = world::run((seed, plan, breaks), &trace);
        (outcome, trace.lines())
    };
    let thread = thread::Builder::new().stack_size(64 << 20).spawn(work)?;
    let (outcome, lines) = thread
        .join()
        .map_err(|_panic| anyhow!("the simulation panicked"))?;
    let outcome = outcome.and_then(|ran| {
        let panic = panics.try_iter().next();
        panic.map_or(Ok(ran), |place| {
            Err(anyhow!("a part of the product panicked at {place}"))
        })
    });
    let mut out = io::stdout().lock();
    if show || outcome.is_err() {
        for line in &lines {
            writeln!(out, "{line}")?;
        }
    }
    match outcome {
        Ok(ran) => {
            let (first, end) = ran.syncs;
            if cut_at.is_some() {
                writeln!(out, "syncs {first} {end}")?;
            }
            for (agent, all) in ran.writes.iter().filter(|_| writes) {
                writeln!(out, "writes {agent} {all}")?;
            }
            for (what, times) in ran.seen {
                writeln!(out, "{SEEN}{times} {what}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            writeln!(out, "seed {seed}: {error:#}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn many(arguments: &Arguments, runs: Vec<Vec<String>>) -> Result<ExitCode> {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seen = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        let workers = (0..arguments.at_once.max(1)).map(|_| {
            scope.spawn(|| -> Result<()> {
                while let Some(words) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = one(words)?;
                    add(
                        &mut seen.lock().unwrap_or_else(PoisonError::into_inner),
                        &output,
                    );
                    if !output.status.success() {
                        tell(words, &output)?;
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        });
        let workers: Vec<_> = workers.collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_panic| anyhow!("a worker panicked"))??;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    let (runs, failed) = (runs.len(), failed.into_inner());
    let mut out = io::stdout().lock();
    for (what, times) in seen.into_inner().unwrap_or_else(PoisonError::into_inner) {
        writeln!(out, "{times} {what}")?;
    }
    writeln!(out, "{runs} runs, {failed} failed")?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A part that panics is started anew by the one above it, which would hide it. Those of redb are known, and made a word
/// about a disk.
fn note_panics() -> mpsc::Receiver<String> {
    let (tell, panics) = mpsc::channel();
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if !place.contains("/redb-") {
            tell.send(place).ok();
        }
        before(info);
    }));
    panics
}

/// What a run had is counted over all runs.
fn add(all: &mut BTreeMap<String, u64>, output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let seen = said
        .lines()
        .filter_map(|line| line.strip_prefix(SEEN)?.split_once(' '));
    for (times, what) in seen {
        *all.entry(what.to_owned()).or_default() += times.parse().unwrap_or(0);
    }
}

fn one(words: &[String]) -> Result<Output> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).args(words).output();
    output.context("this program could not be started again")
}

/// The end of what a failed seed said, and how to see it again.
fn tell(words: &[String], output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    let cried = String::from_utf8_lossy(&output.stderr);
    let mut out = io::stdout().lock();
    for text in [said, cried] {
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(12)) {
            writeln!(out, "  {line}")?;
        }
    }
    let (status, words) = (output.status, words.join(" "));
    writeln!(out, "failed ({status}); see it again with:")?;
    writeln!(
        out,
        "  cargo run -p tests --bin simulate -- {words} --trace"
    )?;
    Ok(())
}
