//! `trainyard replay`: what the scheduling policy would have made of a trace. Talks to no coordinator.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use trainyard_replay::{
    run::{Nodes, Question, answer},
    svg, table,
};

use crate::{clock, exit::Exit, output::Screen};

/// Flags of `trainyard replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The trace: CSV, packed by gzip or not, with job_id, submit_time_s, gpus and duration_s, and where known user, vc, name and walltime_s
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// The cluster: so many nodes of so many GPUs, such as 72x8
    #[arg(long, value_name = "COUNTxGPUS")]
    nodes: Nodes,
    /// Only jobs of this virtual cluster
    #[arg(long, value_name = "NAME")]
    vc: Option<String>,
    /// Jobs that had ended before the trace begins, for what is known of jobs of their kind
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// default, fifo, easy or throughput; all of them and simple policies to compare with: all
    #[arg(long, value_name = "NAME", default_value = "default")]
    policy: String,
    /// Seconds that a job loses when it is stopped and started again
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(i64).range(0..=86_400))]
    restart_cost: i64,
    /// The part of the jobs that may be stopped, 0 to 1; which ones is drawn by their number
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = part)]
    preemptible: f64,
    /// Guess when jobs that wait will start, and say how often that was right
    #[arg(long)]
    predict: bool,
    /// Draw the queue over time into this file
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

fn part(text: &str) -> Result<f64, String> {
    let part: Option<f64> = text.parse().ok();
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| format!("'{text}' is not a number from 0 to 1"))
}

/// Replays, and prints the table.
pub(crate) fn run(screen: &Screen, args: ReplayArgs) -> anyhow::Result<Exit> {
    let capacity = args.nodes.count.saturating_mul(args.nodes.gpus);
    let question = Question {
        trace: args.trace,
        nodes: args.nodes,
        vc: args.vc,
        history: args.history,
        policy: args.policy,
        restart_cost: args.restart_cost,
        preemptible: args.preemptible,
        predict: args.predict,
    };
    let answer = answer(&question, &clock::stopwatch())?;
    if let Some(path) = &args.svg {
        let named = answer.policies.iter();
        let named: Vec<_> = named
            .map(|(figures, went)| (figures.policy.clone(), went))
            .collect();
        fs::write(path, svg::draw(&named, capacity))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let rows: Vec<_> = answer.policies.iter().map(|(figures, _)| figures).collect();
    screen.show(
        || serde_json::to_value(answer.document()).unwrap_or_default(),
        || table::table(&rows),
    )?;
    Ok(Exit::Ok)
}
