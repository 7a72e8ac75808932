//! The deterministic simulation: the real coordinator and real agents in one process, under virtual time, with faults
//! that a seed makes.
//!
//! Owns nothing but the order: each seed runs in a process of its own. A seed that fails prints the command that runs it
//! again. docs/adr/0017 says how it works.

mod check;
mod disk;
mod ends;
mod files;
mod hosts;
mod nature;
mod plan;
mod script;
mod trace;
mod user;
mod wire;
mod world;
mod yard;

use std::{
    io::{self, Write as _},
    process::{Command, ExitCode, Output},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use trainyard_coordinator::telemetry::Telemetry;

use crate::{disk::Moment, plan::Plan};

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
    /// Runs the first seed once for each sync of its store and each of these moments, with a power cut there.
    #[arg(long)]
    sweep: bool,
    /// Of those syncs one of so many.
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
        None if arguments.sweep => many(&arguments, cuts(&arguments)?),
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
    ["--only", &seed, "--plan", &plan].map(str::to_owned).into()
}

/// A run for each sync that a calm run of the seed has once its store is made, and for each moment of it.
fn cuts(arguments: &Arguments) -> Result<Vec<Vec<String>>> {
    let cut = |sync: usize, moment: &str| {
        let mut words = words(arguments, arguments.seed);
        let sync = sync.to_string();
        words.extend(["--cut-at", &sync, "--moment", moment].map(str::to_owned));
        words
    };
    // It never comes to this one.
    let calm = one(&cut(usize::try_from(u32::MAX)?, "amid"))?;
    let said = String::from_utf8_lossy(&calm.stdout).into_owned();
    let syncs = said
        .trim()
        .rsplit_once("syncs ")
        .and_then(|(_, range)| range.split_once(' '));
    let (first, end) = syncs.with_context(|| format!("the calm run has failed: {said}"))?;
    let syncs = (first.parse()?..end.parse()?).step_by(arguments.stride.max(1));
    let moments = ["before", "amid", "after"];
    Ok(syncs
        .flat_map(|sync| moments.map(|moment| cut(sync, moment)))
        .collect())
}

/// On a thread of its own, whose maps have taken no keys yet.
fn only(seed: u64, arguments: &Arguments) -> Result<ExitCode> {
    if let Some(filter) = &arguments.log {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .init();
    }
    // The kernel ends a run that stands still.
    nix::unistd::alarm::set(STUCK);
    // Its clock is calibrated once in a process, by waiting for real time to pass.
    drop(Telemetry::new());
    let (show, cut_at, moment) = (arguments.trace, arguments.cut_at, arguments.moment);
    let mut plan = Plan::of(seed, arguments.plan);
    if let Some(sync) = cut_at {
        plan = plan.with_power_cut_at(sync, moment);
    }
    let work = move || {
        trainyard_runtime::simulate();
        nature::begin(seed);
        let trace = trace::Trace::default();
        let outcome = world::run((seed, plan), &trace);
        (outcome, trace.lines())
    };
    let thread = thread::Builder::new().stack_size(64 << 20).spawn(work)?;
    let (outcome, lines) = thread
        .join()
        .map_err(|_panic| anyhow!("the simulation panicked"))?;
    let mut out = io::stdout().lock();
    if show || outcome.is_err() {
        for line in &lines {
            writeln!(out, "{line}")?;
        }
    }
    match outcome {
        Ok((first, end)) => {
            if cut_at.is_some() {
                writeln!(out, "syncs {first} {end}")?;
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
    thread::scope(|scope| {
        let workers = (0..arguments.at_once.max(1)).map(|_| {
            scope.spawn(|| -> Result<()> {
                while let Some(words) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = one(words)?;
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
    writeln!(out, "{runs} runs, {failed} failed")?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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
