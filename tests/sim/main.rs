//! The deterministic simulation: the real coordinator and real agents in one process, under virtual time, with faults
//! that a seed makes.
//!
//! Owns nothing but the order: each seed runs in a process of its own. A seed that fails prints the command that runs it
//! again. docs/adr/0017 says how it works.

mod check;
mod disk;
mod hosts;
mod nature;
mod plan;
mod trace;
mod wire;
mod world;
mod yard;

use std::{
    io::{self, Write as _},
    process::{Command, ExitCode, Output},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use trainyard_coordinator::telemetry::Telemetry;

/// Real seconds that a seed may take; it takes one.
const STUCK: u32 = 120;

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
    /// Seeds that run at once.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.only {
        Some(seed) => only(seed, &arguments),
        None => all(&arguments),
    }
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
    let show = arguments.trace;
    let work = move || {
        trainyard_runtime::simulate();
        nature::begin(seed);
        let trace = trace::Trace::default();
        let outcome = world::run(seed, &trace);
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
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(out, "seed {seed}: {error:#}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn all(arguments: &Arguments) -> Result<ExitCode> {
    let end = arguments.seed.saturating_add(arguments.seeds);
    let next = AtomicU64::new(arguments.seed);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let workers = (0..arguments.at_once.max(1)).map(|_| {
            scope.spawn(|| -> Result<()> {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return Ok(());
                    }
                    let output = one(seed)?;
                    if !output.status.success() {
                        tell(seed, &output)?;
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(seed);
                    }
                }
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
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut out = io::stdout().lock();
    writeln!(out, "{} seeds, {} failed", arguments.seeds, failed.len())?;
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn one(seed: u64) -> Result<Output> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    let command = command.args(["--only", &seed.to_string()]);
    command
        .output()
        .context("this program could not be started again")
}

/// The end of what a failed seed said, and how to see it again.
fn tell(seed: u64, output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    let cried = String::from_utf8_lossy(&output.stderr);
    let mut out = io::stdout().lock();
    for text in [said, cried] {
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(12)) {
            writeln!(out, "  {line}")?;
        }
    }
    writeln!(
        out,
        "seed {seed} failed ({}); see it again with:",
        output.status
    )?;
    writeln!(
        out,
        "  cargo run -p tests --bin simulate -- --only {seed} --trace"
    )?;
    Ok(())
}
