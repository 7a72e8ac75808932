//! `trainyard replay`: what the scheduling policy would have made of a trace, or of the cluster's own history. Talks to a
//! coordinator only for that.

mod history;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use trainyard_core::sched::policy::{Config, RankBy, Reserve};
use trainyard_replay::{
    run::{Nodes, Question, Source, answer},
    svg, table,
};

use super::{
    Context,
    usage::{Moment, moment},
};
use crate::{
    clock,
    exit::Exit,
    output::{self, Screen},
};

/// Flags of `trainyard replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The trace: CSV, packed by gzip or not, with job_id, submit_time_s, gpus and duration_s, and where known user, vc, name and walltime_s
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "from_store",
        conflicts_with = "from_store"
    )]
    trace: Option<PathBuf>,
    /// Replay this cluster's own history: that of the running coordinator, or with --store that of a file
    #[arg(long)]
    from_store: bool,
    /// A store that no coordinator has open or the folder that it lies in, a backup, or what `trainyard store export` wrote
    #[arg(long, value_name = "PATH", requires = "from_store")]
    store: Option<PathBuf>,
    /// Only jobs that were submitted since: a moment such as 2026-11-01T00:00:00Z, or how long ago, such as 30d
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "from_store")]
    since: Option<Moment>,
    /// The cluster: so many nodes of so many GPUs, such as 72x8 [default with --from-store: the nodes that are known there]
    #[arg(
        long,
        value_name = "COUNTxGPUS",
        required_unless_present = "from_store"
    )]
    nodes: Option<Nodes>,
    /// Only jobs of this virtual cluster
    #[arg(long, value_name = "NAME")]
    vc: Option<String>,
    /// Jobs that had ended before the trace begins, for what is known of jobs of their kind
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// default, fifo, easy or throughput; all of them and simple policies to compare with: all
    #[arg(long, value_name = "NAME", default_value = "default")]
    policy: String,
    /// For whom the default policy keeps nodes: guard (who has waited for 48 h), top (the first gang in the order, too) or off
    #[arg(long, value_name = "FOR", default_value = "guard")]
    reserve: Reserve,
    /// What ranks jobs under the default policy: gittins, attained or arrival
    #[arg(long, value_name = "BY", default_value = "gittins")]
    rank: RankBy,
    /// Nobody makes room for others, under none of the policies
    #[arg(long)]
    no_preempt: bool,
    /// Seconds that a job loses when it is stopped and started again
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(i64).range(0..=86_400))]
    restart_cost: i64,
    /// The part of the jobs of a trace that may be stopped, 0 to 1; which ones is drawn by their number. Those of --from-store say it themselves
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = part, conflicts_with = "from_store")]
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
pub(crate) async fn run(context: &Context<'_>, args: ReplayArgs) -> anyhow::Result<Exit> {
    let screen = &context.screen;
    let (source, known) = match &args.trace {
        Some(path) => (Source::Trace(path.clone()), Vec::new()),
        None => own(context, &args).await?,
    };
    let nodes = args.nodes.map_or(known, Nodes::each);
    if nodes.is_empty() {
        bail!("no node with GPUs is known there; say which to replay with, such as --nodes 4x8");
    }
    let question = Question {
        source,
        nodes,
        vc: args.vc,
        history: args.history,
        policy: args.policy,
        settings: Config {
            rank: args.rank,
            reserve: args.reserve,
            preempt: !args.no_preempt,
            restart_cost: args.restart_cost,
            ..Config::default()
        },
        preemptible: args.preemptible,
        predict: args.predict,
    };
    let answer = answer(&question, &clock::stopwatch())?;
    if let Some(path) = &args.svg {
        let named = answer.policies.iter();
        let named: Vec<_> = named
            .map(|(figures, went)| (figures.policy.clone(), went))
            .collect();
        fs::write(path, svg::draw(&named, question.capacity()?))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let rows: Vec<_> = answer.policies.iter().map(|(figures, _)| figures).collect();
    screen.show(
        || serde_json::to_value(answer.document()).unwrap_or_default(),
        || table::table(&rows),
    )?;
    Ok(Exit::Ok)
}

/// The cluster's own history, and the GPUs of its nodes.
async fn own(context: &Context<'_>, args: &ReplayArgs) -> anyhow::Result<(Source, Vec<u32>)> {
    let since = args.since.map(|since| since.as_of(clock::now()));
    let (name, found) = match &args.store {
        Some(path) => (path.clone(), history::of_file(path, since)?),
        None => {
            let mut client = context.client().await?;
            let name = PathBuf::from(client.url());
            (name, history::of_coordinator(&mut client, since).await?)
        }
    };
    if found.without_gpus > 0 {
        let (left, screen) = (found.without_gpus, &context.screen);
        say(
            screen,
            &format!("{left} jobs without GPUs are left out: a replay is about GPUs"),
        );
    }
    if found.damaged > 0 {
        let words = "rows cannot be read and are left out; `trainyard store check` names them";
        say(&context.screen, &format!("{} {words}", found.damaged));
    }
    Ok((Source::Jobs(found.jobs, name), found.nodes))
}

fn say(screen: &Screen, words: &str) {
    if !screen.json {
        output::note(words);
    }
}
