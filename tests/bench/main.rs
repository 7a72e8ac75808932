//! The load generator: how fast a real cluster of the `trainyard` binary is on this machine.
//!
//! Starts a coordinator and agents as processes on loopback, loads them over gRPC, and prints one
//! table or JSON document. Build the binary with `--release` first; see docs/performance.md.

mod agents;
mod api;
mod backlog;
mod clock;
mod datasets;
mod fleet;
mod latency;
mod machine;
mod memory;
mod points;
mod raw;
mod report;
mod returns;
mod seal;
mod spawn;
mod throughput;

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Measures a cluster on this machine; prints each figure beside its aim, peers and limits.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary to measure, built with --release.
    #[arg(long, global = true, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// One JSON document with all that was measured, in place of the table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All of it but datasets; some ten minutes.
    All,
    /// Submit to trainer process started, one at a time on an idle cluster.
    Latency {
        /// How many jobs.
        #[arg(long, default_value_t = 200)]
        jobs: usize,
    },
    /// The same while many jobs wait for more than is free.
    Queued {
        /// How many jobs.
        #[arg(long, default_value_t = 200)]
        jobs: usize,
        /// How many wait.
        #[arg(long, default_value_t = 1_000)]
        waiting: usize,
    },
    /// Jobs of /bin/true from the first submit to the last end, beside the machine's own limit.
    Throughput {
        /// How many jobs.
        #[arg(long, default_value_t = 2_000)]
        jobs: usize,
        /// Slots of the agent.
        #[arg(long, default_value_t = 64)]
        slots: u32,
    },
    /// Reads and durable submits over REST and gRPC, 64 clients.
    Api {
        /// How many of each.
        #[arg(long, default_value_t = 20_000)]
        requests: usize,
    },
    /// Points of metrics in, on disk, from many simulated agents.
    Points {
        /// How many, each with one task.
        #[arg(long, default_value_t = 100)]
        agents: usize,
        /// Metrics in one report.
        #[arg(long, default_value_t = 8)]
        values: usize,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Simulated agents that are connected and have nothing to do.
    Agents {
        /// How many. Each takes two file descriptors here and two at the coordinator.
        #[arg(long, default_value_t = 5_000)]
        agents: usize,
        /// With a data stream, too, as those that run something.
        #[arg(long)]
        both: bool,
        /// How long they are watched.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// A coordinator with very many jobs is killed and starts again.
    Restart {
        /// How many jobs.
        #[arg(long, default_value_t = 100_000)]
        jobs: usize,
        /// How many of them run, at simulated agents.
        #[arg(long, default_value_t = 10_000)]
        active: usize,
    },
    /// Resident memory of a coordinator with very many queued jobs.
    Backlog {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        jobs: usize,
    },
    /// How soon a silent node is suspect, a killed agent has its tasks again, and agents are back after a coordinator.
    Returns {
        /// How often each.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Submits with a dataset of many small files.
    Datasets {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        files: usize,
    },
    /// Points and lines of ended jobs that are sealed into blocks, in this process.
    Seal {
        /// How many jobs.
        #[arg(long, default_value_t = 20)]
        jobs: u64,
        /// Points, and as many lines, of each.
        #[arg(long, default_value_t = 20_000)]
        rows: usize,
    },
    /// Resident memory of an idle coordinator and an idle agent.
    Memory,
    /// Processes of /bin/true that this machine starts and reaps by itself.
    Spawn {
        /// How many.
        #[arg(long, default_value_t = 2_000)]
        processes: usize,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let binary = arguments.trainyard.canonicalize();
    let binary = binary.with_context(|| {
        format!(
            "{} is not there; run cargo build --release -p trainyard, or name it with --trainyard",
            arguments.trainyard.display()
        )
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let binary = binary.display().to_string();
    let (load, measured) = runtime.block_on(async {
        let load = machine::Load::now().await?;
        anyhow::Ok((load, measure(&binary, &arguments.what).await?))
    })?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&report::document(&measured, &load))?,
        false => report::table(&measured, &load),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

async fn measure(binary: &str, what: &What) -> Result<Value> {
    Ok(match what {
        What::Latency { jobs } => json!({"latency": latency::measure(binary, *jobs, 0).await?}),
        What::Queued { jobs, waiting } => {
            json!({"queued": latency::measure(binary, *jobs, *waiting).await?})
        }
        What::Throughput { jobs, slots } => {
            let spawn = spawn::measure(2_000)?;
            let measured = throughput::measure(binary, (*jobs, *slots), &spawn).await?;
            json!({"spawn": spawn, "throughput": measured})
        }
        What::Api { requests } => json!({"api": api::measure(binary, *requests).await?}),
        What::Points {
            agents,
            values,
            seconds,
        } => {
            let how = (*values, Duration::from_secs(*seconds));
            json!({"points": points::measure(binary, *agents, how).await?})
        }
        What::Agents {
            agents,
            both,
            seconds,
        } => {
            let span = Duration::from_secs(*seconds);
            json!({"agents": agents::measure(binary, (*agents, *both), span).await?})
        }
        What::Restart { jobs, active } => {
            json!({"restart": backlog::restart(binary, *jobs, *active).await?})
        }
        What::Backlog { jobs } => json!({"backlog": backlog::memory(binary, *jobs).await?}),
        What::Returns { rounds } => json!({"returns": returns::measure(binary, *rounds).await?}),
        What::Datasets { files } => json!({"datasets": datasets::measure(binary, *files).await?}),
        What::Seal { jobs, rows } => json!({"seal": seal::measure(*jobs, *rows).await?}),
        What::Memory => json!({"memory": memory::measure(binary).await?}),
        What::Spawn { processes } => json!({"spawn": spawn::measure(*processes)?}),
        What::All => all(binary).await?,
    })
}

async fn all(binary: &str) -> Result<Value> {
    let spawn = spawn::measure(2_000)?;
    Ok(json!({
        "binary_bytes": std::fs::metadata(binary)?.len(),
        "memory": memory::measure(binary).await?,
        "latency": latency::measure(binary, 200, 0).await?,
        "queued": latency::measure(binary, 200, 1_000).await?,
        "throughput": throughput::measure(binary, (2_000, 64), &spawn).await?,
        "spawn": spawn,
        "api": api::measure(binary, 20_000).await?,
        "points": points::measure(binary, 100, (8, Duration::from_secs(10))).await?,
        "agents": agents::measure(binary, (5_000, false), Duration::from_secs(30)).await?,
        "restart": backlog::restart(binary, 100_000, 10_000).await?,
        "backlog": backlog::memory(binary, 100_000).await?,
        "returns": returns::measure(binary, 5).await?,
        "seal": seal::measure(20, 20_000).await?,
    }))
}

/// Least, median, 99th percentile and most of some measurements.
fn distribution(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among a few thousand values"
        )]
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied()
    };
    json!({
        "count": values.len(), "min": at(0.0), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0),
    })
}
