//! The load generator: how fast a real cluster of the `trainyard` binary is on this machine.
//!
//! Starts a coordinator and an agent as processes on loopback, loads them over gRPC, and prints one
//! JSON document. Build the binary with `--release` first; see docs/performance.md.

mod api;
mod datasets;
mod latency;
mod memory;
mod spawn;
mod throughput;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Measures a cluster of one coordinator and one agent on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary to measure, built with --release.
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All of it.
    All,
    /// Submit to trainer process started, one at a time on an idle cluster.
    Latency {
        /// How many jobs.
        #[arg(long, default_value_t = 200)]
        jobs: usize,
    },
    /// Jobs of /bin/true from the first submit to the last end.
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
        /// How many of each; twice as many must fit below limits.open_jobs.
        #[arg(long, default_value_t = 4_500)]
        requests: usize,
    },
    /// Submits with a dataset of many small files.
    Datasets {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        files: usize,
    },
    /// Resident memory of an idle coordinator and an idle agent.
    Memory,
    /// Processes of /bin/true that this machine starts and reaps by itself.
    Spawn {
        /// How many.
        #[arg(long, default_value_t = 2_000)]
        processes: usize,
    },
    /// Prints the clock: the job of the latency measurement.
    #[command(hide = true)]
    Stamp,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if matches!(arguments.what, What::Stamp) {
        return latency::stamp();
    }
    let binary = arguments.trainyard.canonicalize();
    let binary = binary.with_context(|| {
        format!(
            "{} is not there; run cargo build --release -p trainyard, or name it with --trainyard",
            arguments.trainyard.display()
        )
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let binary = binary.display().to_string();
    let measured = runtime.block_on(measure(&binary, &arguments.what))?;
    let text = serde_json::to_string_pretty(&measured)?;
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

async fn measure(binary: &str, what: &What) -> Result<Value> {
    Ok(match what {
        What::Latency { jobs } => latency::measure(binary, *jobs).await?,
        What::Throughput { jobs, slots } => throughput::measure(binary, *jobs, *slots).await?,
        What::Api { requests } => api::measure(binary, *requests).await?,
        What::Datasets { files } => datasets::measure(binary, *files).await?,
        What::Memory => memory::measure(binary).await?,
        What::Spawn { processes } => spawn::measure(*processes)?,
        What::Stamp => Value::Null,
        What::All => json!({
            "binary_bytes": std::fs::metadata(binary)?.len(),
            "spawn": spawn::measure(2_000)?,
            "memory": memory::measure(binary).await?,
            "api": api::measure(binary, 4_500).await?,
            "latency": latency::measure(binary, 200).await?,
            "throughput": throughput::measure(binary, 2_000, 64).await?,
        }),
    })
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
