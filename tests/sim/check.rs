//! The invariants of the design, checked while a simulation runs, and what must be true at its end.
//!
//! Owns what was seen before, to tell what has changed that may not. Never changes the world. Called by the world after
//! each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use trainyard_coordinator::store::Store;
use trainyard_core::{
    failure::FailureClass,
    ids::JobId,
    job::{Attempt, Job, JobState},
    record::LogStream,
};

use crate::{
    hosts::Accepted,
    plan::{Plan, Wish},
    trace::Trace,
    yard::{Script, Yard},
};

/// Rows that are read of one job: more than any has.
const ROWS: usize = 10_000;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Checker {
    commits: Option<u64>,
    states: BTreeMap<u64, JobState>,
    /// Attempts that newer ones have followed, as they were then.
    over: BTreeMap<(u64, u32), Attempt>,
    trace: Trace,
}

impl Checker {
    pub(crate) fn new(trace: Trace) -> Self {
        Self {
            commits: None,
            states: BTreeMap::new(),
            over: BTreeMap::new(),
            trace,
        }
    }

    /// The coordinator is another one.
    pub(crate) fn forget_commits(&mut self) {
        self.commits = None;
    }

    /// INV-01 where it counts: no GPU of a machine has two trainers. INV-05 and the fence: no job has two trainers of
    /// one attempt.
    pub(crate) fn machines(&self, yards: &[Yard]) -> Result<()> {
        let mut runs = BTreeSet::new();
        for yard in yards {
            let mut held = BTreeSet::new();
            yard.look(|processes| {
                for process in processes {
                    let (job, attempt) = process.of;
                    for gpu in &process.gpus {
                        ensure!(
                            held.insert(gpu.clone()),
                            "INV-01: GPU {gpu} has two trainers"
                        );
                    }
                    ensure!(
                        runs.insert(process.of),
                        "attempt {job}/{attempt} has two trainers"
                    );
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What is stored.
    pub(crate) fn store(&mut self, store: &Store, plan: &Plan, accepted: &Accepted) -> Result<()> {
        if self.commits.replace(store.commits()) == Some(store.commits()) {
            return Ok(());
        }
        let jobs = jobs(store)?;
        for id in accepted.all().into_iter().flatten() {
            let there = jobs.iter().any(|job| job.id.0 == id);
            ensure!(there, "INV-03: job {id} was accepted and is not there");
        }
        self.held(&jobs, plan)?;
        for job in &jobs {
            self.job(job)?;
        }
        Ok(())
    }

    /// INV-01 and INV-02: what is given away.
    fn held(&self, jobs: &[Job], plan: &Plan) -> Result<()> {
        let mut gpus = BTreeMap::new();
        let mut cpus: BTreeMap<&str, u32> = BTreeMap::new();
        for job in jobs {
            let Some(allocation) = job.allocation() else {
                continue;
            };
            for gpu in &allocation.gpus {
                let other = gpus.insert(gpu, job.id);
                ensure!(
                    other.is_none(),
                    "INV-01: GPU {gpu} is of {other:?} and of {}",
                    job.id
                );
            }
            *cpus.entry(allocation.node.0.as_str()).or_default() += allocation.cpus;
        }
        for (name, held) in cpus {
            let number = name
                .strip_prefix("node-")
                .and_then(|n| n.parse::<usize>().ok());
            let node = number.and_then(|number| plan.cluster.nodes.get(number));
            let has = node.context("a node that there is not")?.0;
            ensure!(
                held <= has,
                "INV-02: {held} CPUs of {name} are given away, it has {has}"
            );
        }
        Ok(())
    }

    /// INV-04 and INV-07.
    fn job(&mut self, job: &Job) -> Result<()> {
        let id = job.id.0;
        let before = self.states.insert(id, job.state);
        if before != Some(job.state) {
            let attempt = job.attempts.len();
            let outcome = job.outcome.as_ref();
            let why = outcome.map(|outcome| (outcome.exit_code, outcome.class, &outcome.message));
            self.trace.note(format!(
                "job {id}/{attempt} is {} {why:?}",
                job.state.name()
            ));
        }
        if let Some(before) = before.filter(|before| before.is_terminal()) {
            ensure!(
                before == job.state,
                "INV-04: job {id} was {} and is {}",
                before.name(),
                job.state.name()
            );
        }
        let Some((_live, over)) = job.attempts.split_last() else {
            return Ok(());
        };
        for attempt in over {
            let key = (id, attempt.number.0);
            let known = self.over.entry(key).or_insert_with(|| attempt.clone());
            ensure!(
                known.end == attempt.end && known.completion == attempt.completion,
                "INV-07: attempt {key:?} was followed, and changed"
            );
        }
        Ok(())
    }

    /// Whether nothing is left to happen: every wish is a job, every job has ended, and no trainer is left.
    pub(crate) fn is_over(&self, (wishes, accepted): (usize, &Accepted), yards: &[Yard]) -> bool {
        let all = accepted.all();
        let known = all.iter().flatten().count() == wishes;
        let state = |id: &u64| self.states.get(id).copied();
        let ended = |id: &u64| state(id).is_some_and(JobState::is_terminal);
        let quiet = yards
            .iter()
            .all(|yard| yard.look(|all| all.next().is_none()));
        known && quiet && all.iter().flatten().all(ended)
    }

    /// INV-06, INV-09, and that each job ended as it should.
    pub(crate) fn end(&self, store: &Store, plan: &Plan, accepted: &Accepted) -> Result<()> {
        let (all, wishes) = (accepted.all(), &plan.wishes);
        ensure!(
            all.iter().flatten().collect::<BTreeSet<_>>().len() == wishes.len(),
            "INV-03: a wish was accepted twice, or never: {all:?}"
        );
        for (wish, id) in wishes.iter().zip(all.into_iter().flatten()) {
            let job = store.job(JobId(id))?;
            let job = job.context("INV-03: a job is gone")?;
            ensure!(
                job.state.is_terminal(),
                "INV-09: job {id} is {}",
                job.state.name()
            );
            outcome(&job, wish)?;
            said(store, &job, plan)?;
        }
        Ok(())
    }
}

fn jobs(store: &Store) -> Result<Vec<Job>> {
    let mut all = Vec::new();
    for id in 1..=store.highest_job()?.0 {
        all.extend(store.job(JobId(id))?);
    }
    Ok(all)
}

/// Whether the job ended as its script and its faults allow.
fn outcome(job: &Job, wish: &Wish) -> Result<()> {
    let id = job.id.0;
    let outcome = job.outcome.as_ref();
    let class = outcome.and_then(|outcome| outcome.class);
    match job.state {
        JobState::Completed => {
            ensure!(
                wish.script.code == 0,
                "job {id} completed and should have failed"
            );
        }
        JobState::Cancelled => {
            ensure!(wish.cancel_after.is_some(), "nobody has cancelled job {id}");
        }
        JobState::Pending
        | JobState::Queued
        | JobState::Starting
        | JobState::Running
        | JobState::Finishing
        | JobState::Failed => match class {
            Some(FailureClass::User) => {
                // A trainer that is killed from outside fails for its user.
                let code = outcome.and_then(|outcome| outcome.exit_code);
                let killed = outcome.is_some_and(|outcome| outcome.signal.is_some());
                ensure!(
                    killed || code == Some(wish.script.code) && wish.script.code != 0,
                    "job {id} failed for its user: {outcome:?}"
                );
            }
            Some(FailureClass::Infrastructure | FailureClass::Lost) => {
                let tried = job.attempts.len();
                ensure!(
                    tried > 3,
                    "job {id} was given up after {tried} attempts: {outcome:?}"
                );
            }
            class => anyhow::bail!("job {id} failed with {class:?}: {outcome:?}"),
        },
    }
    Ok(())
}

/// Whether the node of the last attempt may have been lost while its last records were awaited: then what it had not
/// delivered is not there (ADR 2).
fn was_given_up(job: &Job, plan: &Plan) -> bool {
    let ended = job.attempts.last().and_then(|last| last.ended_at);
    let waited = job.ended_at.zip(ended).map(|(end, at)| end.since(at));
    let lease = Duration::from_secs(u64::from(plan.cluster.lost_after));
    // The lease began with the last word of the node, up to a heartbeat before.
    let most = Duration::from_secs(10);
    plan.has_jumps() || waited.is_some_and(|waited| waited + most >= lease)
}

/// INV-06: of each attempt each epoch and each line is there once; of one that completed all are.
fn said(store: &Store, job: &Job, plan: &Plan) -> Result<()> {
    let id = job.id.0;
    let mut epochs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for point in store.points(job.id, 0, ROWS)? {
        let of = epochs.entry(point.attempt.0).or_default();
        of.push(point.progress.epoch);
    }
    let mut lines: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for line in store.logs(job.id, 0, ROWS)? {
        if line.line.stream == LogStream::Stdout {
            lines
                .entry(line.attempt.0)
                .or_default()
                .push(line.line.text);
        }
    }
    for attempt in &job.attempts {
        let number = attempt.number.0;
        let epochs = epochs.remove(&number).unwrap_or_default();
        let lines = lines.remove(&number).unwrap_or_default();
        let whole: Vec<u32> = (1..).take(epochs.len()).collect();
        ensure!(
            epochs == whole,
            "INV-06: points of {id}/{number} are {epochs:?}"
        );
        let texts: Vec<String> = (1..).take(lines.len()).map(Script::line).collect();
        ensure!(
            lines == texts,
            "INV-06: lines of {id}/{number} are {lines:?}"
        );
        let last = job
            .attempts
            .last()
            .is_some_and(|last| last.number.0 == number);
        let given_up = was_given_up(job, plan);
        if last && job.state == JobState::Completed && !given_up {
            let all = usize::try_from(job.spec.epochs).unwrap_or(usize::MAX);
            ensure!(
                epochs.len() == all && lines.len() == all,
                "job {id} completed, with {} points and {} lines of {all}",
                epochs.len(),
                lines.len()
            );
        }
    }
    Ok(())
}
