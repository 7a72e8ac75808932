//! One replay as it is asked for: which trace, which nodes, which policies.
//!
//! Owns the way from a question to the figures. Called by `trainyard replay` and by the tests.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Serialize;
use thiserror::Error;
use trainyard_core::sched::policy::{
    Config, Rule,
    cluster::{Cluster, NodeOffer},
};

use crate::{
    anchors::Anchor,
    engine::{self, Outcome, Player},
    metrics::{self, Figures},
    real::Real,
    trace::{self, TraceError, TraceJob},
};

/// GPUs of a cluster that is replayed on: each node has a row.
const MOST_GPUS: u32 = 1_000_000;

/// So many nodes of so many GPUs: `72x8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// Nodes.
    pub count: u32,
    /// GPUs on each.
    pub gpus: u32,
}

impl Nodes {
    /// The GPUs of each node.
    #[must_use]
    pub fn each(self) -> Vec<u32> {
        (0..self.count).map(|_| self.gpus).collect()
    }
}

impl FromStr for Nodes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(count, gpus)| {
            let (count, gpus) = (count.trim().parse().ok()?, gpus.trim().parse().ok()?);
            Some(Self { count, gpus })
        });
        let all = |nodes: &Self| nodes.count.checked_mul(nodes.gpus);
        let fits = |nodes: &Self| all(nodes).is_some_and(|all| (1..=MOST_GPUS).contains(&all));
        parsed.filter(fits).ok_or_else(|| {
            format!(
                "'{text}' is not COUNTxGPUS of 1 to {MOST_GPUS} GPUs in all; write for example 72x8"
            )
        })
    }
}

/// Where the jobs come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A trace.
    Trace(PathBuf),
    /// Jobs that are known already, in the order of submission, and what to call them.
    Jobs(Vec<TraceJob>, PathBuf),
}

impl Source {
    fn jobs(&self) -> Result<Vec<TraceJob>, TraceError> {
        match self {
            Self::Trace(path) => trace::read(path),
            Self::Jobs(jobs, _) => Ok(jobs.clone()),
        }
    }

    fn name(&self) -> PathBuf {
        match self {
            Self::Trace(path) | Self::Jobs(_, path) => path.clone(),
        }
    }
}

/// What is replayed.
#[derive(Clone, Debug)]
pub struct Question {
    /// The jobs.
    pub source: Source,
    /// The cluster: the GPUs of each node.
    pub nodes: Vec<u32>,
    /// Only jobs of this virtual cluster.
    pub vc: Option<String>,
    /// Jobs that had ended before, for what is known of their kind.
    pub history: Option<PathBuf>,
    /// `default`, `fifo`, `easy`, `throughput`, or `all`.
    pub policy: String,
    /// How the policy is set; its rule and how often it guesses are said by `policy` and `predict`.
    pub settings: Config,
    /// The part of the jobs that may be stopped.
    pub preemptible: f64,
    /// Guess when jobs start, and count how often that was right.
    pub predict: bool,
}

impl Question {
    /// All GPUs of the cluster.
    ///
    /// # Errors
    /// When there are more than can be replayed on.
    pub fn capacity(&self) -> Result<u32, ReplayError> {
        let all: u64 = self.nodes.iter().map(|gpus| u64::from(*gpus)).sum();
        let few = u32::try_from(all).ok().filter(|all| *all <= MOST_GPUS);
        few.ok_or(ReplayError::Nodes(all))
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// A file.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The policy.
    #[error("policy '{0}' is not known; there are default, fifo, easy, throughput and all")]
    Policy(String),
    /// The trace has no such jobs.
    #[error("{0} has no job in the virtual cluster '{1}'; it has {2}")]
    Vc(PathBuf, String, String),
    /// The cluster.
    #[error(
        "the nodes have {0} GPUs in all, and a replay takes {most}; say which to replay with, such as --nodes 72x8",
        most = MOST_GPUS
    )]
    Nodes(u64),
    /// The trace is empty.
    #[error("{0} has no job")]
    Empty(PathBuf),
}

/// The figures of all policies that were asked for, and how each went.
#[derive(Debug)]
pub struct Answer {
    /// In the order of the table.
    pub policies: Vec<(Figures, Outcome)>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    policies: Vec<&'a Figures>,
}

impl Answer {
    /// For `--json`.
    #[must_use]
    pub fn document(&self) -> Document<'_> {
        Document {
            policies: self.policies.iter().map(|(figures, _)| figures).collect(),
        }
    }
}

/// With `--predict` one job is guessed at in so many seconds.
const GUESSES: i64 = 60;

const RULES: [(&str, Rule); 4] = [
    ("default", Rule::Gittins),
    ("fifo", Rule::Fifo),
    ("easy", Rule::Easy),
    ("throughput", Rule::Throughput),
];

/// Replays. `stopwatch` says how much time has passed, and decides nothing.
///
/// # Errors
/// When a file cannot be read, or nothing in it is meant.
pub fn answer(
    question: &Question,
    stopwatch: &dyn Fn() -> Duration,
) -> Result<Answer, ReplayError> {
    let known = |(name, _): &&(&str, Rule)| *name == question.policy || question.policy == "all";
    let rules: Vec<&(&str, Rule)> = RULES.iter().filter(known).collect();
    if rules.is_empty() {
        return Err(ReplayError::Policy(question.policy.clone()));
    }
    let capacity = question.capacity()?;
    let jobs = jobs(question)?;
    let history = question
        .history
        .as_deref()
        .map(trace::read)
        .transpose()?
        .unwrap_or_default();
    let bench = Bench {
        question,
        jobs: &jobs,
        capacity,
        isolated: isolated(question, &jobs, stopwatch)?,
        stopwatch,
    };
    let mut policies = Vec::new();
    for (name, rule) in rules {
        let config = Config {
            rule: *rule,
            forecast_every: if question.predict { GUESSES } else { 0 },
            ..question.settings.clone()
        };
        let nodes = &question.nodes;
        let mut real = Real::new(&jobs, &history, nodes, config, question.preemptible);
        let (mut figures, outcome) = bench.play(name, &mut real);
        figures.predicted = question.predict.then(|| real.coverage());
        policies.push((figures, outcome));
    }
    if question.policy == "all" {
        for (anchor, name) in Anchor::ALL {
            let mut cluster = Cluster::default();
            for gpus in &question.nodes {
                cluster.add(NodeOffer::of_gpus(*gpus));
            }
            let mut player =
                anchor.player(&jobs, &history, cluster, question.settings.restart_cost);
            policies.push(bench.play(&format!("anchor: {name}"), player.as_mut()));
        }
    }
    Ok(Answer { policies })
}

fn jobs(question: &Question) -> Result<Vec<TraceJob>, ReplayError> {
    let mut jobs = question.source.jobs()?;
    if let Some(vc) = &question.vc {
        let mut names: Vec<String> = jobs.iter().map(|job| job.vc.clone()).collect();
        jobs.retain(|job| job.vc == *vc);
        if jobs.is_empty() {
            names.sort();
            names.dedup();
            let path = question.source.name();
            return Err(ReplayError::Vc(path, vc.clone(), names.join(", ")));
        }
    }
    if jobs.is_empty() {
        return Err(ReplayError::Empty(question.source.name()));
    }
    Ok(jobs)
}

struct Bench<'a> {
    question: &'a Question,
    jobs: &'a [TraceJob],
    capacity: u32,
    isolated: Option<Vec<i64>>,
    stopwatch: &'a dyn Fn() -> Duration,
}

impl Bench<'_> {
    fn play(&self, name: &str, player: &mut dyn Player) -> (Figures, Outcome) {
        let before = (self.stopwatch)();
        let cost = self.question.settings.restart_cost;
        let outcome = engine::replay(self.jobs, cost, player, self.stopwatch);
        let took = (self.stopwatch)().saturating_sub(before);
        let isolated = self.isolated.as_deref();
        let mut figures = metrics::figures(name, self.jobs, self.capacity, &outcome, isolated);
        figures.wall_s = took.as_secs_f64();
        (figures, outcome)
    }
}

/// When each job would have ended if every virtual cluster had its own nodes, first come first served; known when the
/// trace has a table of them beside it, and that table is of the nodes that are replayed on.
fn isolated(
    question: &Question,
    jobs: &[TraceJob],
    stopwatch: &dyn Fn() -> Duration,
) -> Result<Option<Vec<i64>>, ReplayError> {
    let Source::Trace(trace) = &question.source else {
        return Ok(None);
    };
    let Some(parts) = parts(trace).filter(|_| question.vc.is_none()) else {
        return Ok(None);
    };
    let Some(of_each) = alike(&question.nodes, &parts) else {
        return Ok(None);
    };
    let mut ended = vec![i64::MAX / 2; jobs.len()];
    for (vc, nodes) in parts {
        let own: Vec<(usize, TraceJob)> = jobs
            .iter()
            .cloned()
            .enumerate()
            .filter(|(_, job)| job.vc == vc)
            .collect();
        let rows: Vec<TraceJob> = own.iter().map(|(_, job)| job.clone()).collect();
        let cluster = Cluster::uniform(nodes, of_each);
        let mut player =
            Anchor::FifoStrict.player(&rows, &[], cluster, question.settings.restart_cost);
        let outcome = engine::replay(
            &rows,
            question.settings.restart_cost,
            player.as_mut(),
            stopwatch,
        );
        for ((place, _), end) in own.iter().zip(&outcome.ended) {
            if let Some(slot) = ended.get_mut(*place).filter(|_| *end != i64::MIN) {
                *slot = *end;
            }
        }
    }
    Ok(Some(ended))
}

/// The GPUs of each node, if the nodes of all parts are those of the cluster and have as many each.
fn alike(nodes: &[u32], parts: &BTreeMap<String, u32>) -> Option<u32> {
    let in_parts: u64 = parts.values().map(|nodes| u64::from(*nodes)).sum();
    let of_each = nodes.first().copied()?;
    let alike = nodes.iter().all(|gpus| *gpus == of_each);
    let as_many = u64::try_from(nodes.len()).is_ok_and(|nodes| nodes == in_parts);
    (alike && as_many).then_some(of_each)
}

/// `NAME_vc_nodes.csv` beside `NAME.csv.gz`.
fn parts(trace: &Path) -> Option<BTreeMap<String, u32>> {
    let name = trace.file_name()?.to_str()?;
    let stem = name.trim_end_matches(".gz").trim_end_matches(".csv");
    let table = trace.with_file_name(format!("{stem}_vc_nodes.csv"));
    let text = std::fs::read_to_string(table).ok()?;
    let rows = text.lines().skip(1).filter_map(|line| line.split_once(','));
    let parsed = rows.filter_map(|(vc, nodes)| Some((vc.to_owned(), nodes.trim().parse().ok()?)));
    Some(parsed.collect())
}
