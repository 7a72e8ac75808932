//! What must be true of each job at the end of a simulation.
//!
//! Pure reading: of the store, of what was wished, and of what trainers did. Called by the check.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use trainyard_coordinator::store::Store;
use trainyard_core::{
    failure::FailureClass,
    job::{Job, JobState},
    record::LogStream,
};

use crate::{
    gates,
    plan::{Plan, Wish},
    script::{Finish, Script},
    told::Accepted,
    yard::{ALONE, Yard},
};

/// Rows that are read of one job: more than any has.
const ROWS: usize = 10_000;

/// What a job says of records whose node was lost.
const NOT_ARRIVED: &str = "they had not arrived when node";

/// The epochs that were done before each job's and attempt's trainer.
type Began = BTreeMap<(u64, u32), u32>;

/// Whether the job ended as its script and its faults allow.
pub(crate) fn outcome(
    job: &Job,
    wish: &Wish,
    (plan, accepted): (&Plan, &Accepted),
    (yards, calm): (&[Yard], Duration),
) -> Result<()> {
    let id = job.id.0;
    if gates::was_hopeless(job) {
        return Ok(());
    }
    let outcome = job.outcome.as_ref();
    let class = outcome.and_then(|outcome| outcome.class);
    match job.state {
        JobState::Completed => {
            let ends = wish.script.finish == Finish::Done && wish.script.code == 0;
            ensure!(ends, "job {id} completed and should have failed");
        }
        JobState::Cancelled => {
            // Whoever runs it again does so after that.
            let stays = accepted.was_unwanted(id) && wish.again.is_empty();
            ensure!(stays, "nobody has cancelled job {id}");
        }
        JobState::Pending
        | JobState::Queued
        | JobState::Starting
        | JobState::Running
        | JobState::Finishing
        | JobState::Failed => match class {
            Some(FailureClass::User) => ensure!(
                is_its_own(job, wish, yards),
                "job {id} failed for its user: {outcome:?}"
            ),
            Some(FailureClass::Timeout) => {
                let last = job.attempts.last().map_or(0, |last| last.number.0);
                let longest = yards.iter().map(|yard| yard.lived((id, last))).max();
                let limit = Duration::from_secs(wish.terms.seconds.into());
                let long = longest.is_some_and(|longest| longest >= limit);
                // An agent that was started anew since knows the beginning by a clock that was set; no other looks at one.
                let unsure = plan.sets_clocks() && longest.is_some_and(|longest| longest >= calm);
                ensure!(
                    wish.terms.seconds > 0 && (long || unsure),
                    "job {id} has run for {longest:?}, and failed: {outcome:?}"
                );
            }
            Some(FailureClass::OutOfMemory) => ensure!(
                wish.script.finish == Finish::NoMemory,
                "job {id} had memory: {outcome:?}"
            ),
            Some(FailureClass::Infrastructure | FailureClass::Lost | FailureClass::Preempted) => {
                let again = job.tried.again;
                ensure!(
                    again >= job.spec.retry.limit,
                    "job {id} was given up, tried again {again} times: {outcome:?}"
                );
            }
            class => anyhow::bail!("job {id} failed with {class:?}: {outcome:?}"),
        },
    }
    Ok(())
}

/// Its last trainer failed as its script says, or was killed from outside, which is for its user too; or the others of its
/// gang have failed of that, and were heard first.
fn is_its_own(job: &Job, wish: &Wish, yards: &[Yard]) -> bool {
    let last = job.attempts.last().map_or(0, |last| last.number.0);
    let mut all = yards.iter();
    let killed = all.any(|yard| yard.killed().contains(&(job.id.0, last)));
    let told = job.outcome.as_ref();
    let told = told.map(|outcome| (outcome.exit_code, outcome.signal));
    let (code, fails) = (wish.script.code, wish.script.code != 0);
    // One whose memory ran out may be heard after its peers.
    let fails_alone = fails || killed || wish.script.finish == Finish::NoMemory;
    let by_kill = killed && told == Some((None, Some(9)));
    let alone = wish.nodes > 1 && told == Some((Some(ALONE), None)) && fails_alone;
    by_kill || alone || fails && told == Some((Some(code), None))
}

/// Whether the node of the last attempt may have been lost while its last records were awaited: then what it had not
/// delivered is not there (ADR 2), and the job says so.
fn may_be_given_up(job: &Job, plan: &Plan) -> bool {
    let last = job.attempts.last().into_iter();
    let parts = last.flat_map(|last| last.parts());
    let ended = parts.filter_map(|(_, part)| part.ended_at).min();
    let waited = job.ended_at.zip(ended).map(|(end, at)| end.since(at));
    let lease = Duration::from_secs(u64::from(plan.cluster.lost_after));
    // The lease began with the last word of the node, up to a heartbeat before.
    let most = Duration::from_secs(10);
    plan.has_jumps() || waited.is_some_and(|waited| waited + most >= lease)
}

/// Whether the last trainer came to the end of its script: it completed, or failed as the script says.
fn reached_its_end(job: &Job, wish: &Wish) -> bool {
    let code = job.outcome.as_ref().and_then(|outcome| outcome.exit_code);
    let failed = job.state == JobState::Failed && wish.script.code != 0;
    job.state == JobState::Completed || failed && code == Some(wish.script.code) && wish.nodes == 1
}

/// What is stored of a job, by attempt and rank.
struct Said {
    epochs: BTreeMap<(u32, u32), Vec<u32>>,
    lines: BTreeMap<(u32, u32), Vec<String>>,
    /// Attempts of which the job says that not all has come.
    given_up: BTreeSet<u32>,
}

impl Said {
    fn of(store: &Store, job: &Job) -> Result<Self> {
        let mut epochs: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for point in store.points(job.id, 0, ROWS)? {
            let of = epochs.entry((point.attempt.0, point.rank.0)).or_default();
            of.push(point.progress.epoch);
        }
        let mut lines: BTreeMap<(u32, u32), Vec<String>> = BTreeMap::new();
        let mut given_up = BTreeSet::new();
        for line in store.logs(job.id, 0, ROWS)? {
            let (attempt, rank, line) = (line.attempt.0, line.rank.0, line.line);
            if line.stream == LogStream::System && line.text.contains(NOT_ARRIVED) {
                given_up.insert(attempt);
            }
            if line.stream == LogStream::Stdout {
                lines.entry((attempt, rank)).or_default().push(line.text);
            }
        }
        Ok(Self {
            epochs,
            lines,
            given_up,
        })
    }
}

/// INV-06: of each attempt each epoch and each line is there once, from where it began; of one that came to its end all
/// are, and of all attempts together each epoch counts once.
pub(crate) fn said(
    store: &Store,
    (job, wish): (&Job, &Wish),
    plan: &Plan,
    began: &Began,
) -> Result<()> {
    let id = job.id.0;
    let Said {
        mut epochs,
        mut lines,
        given_up,
    } = Said::of(store, job)?;
    let mut saved = BTreeSet::from([0]);
    for attempt in &job.attempts {
        let number = attempt.number.0;
        let before = began.get(&(id, number)).copied().unwrap_or(0);
        ensure!(
            saved.contains(&before),
            "attempt {id}/{number} began after epoch {before}, of which no checkpoint is known"
        );
        let last = job.attempts.last();
        let last = last.is_some_and(|last| last.number.0 == number);
        let lacks = given_up.contains(&number);
        ensure!(
            !(last && lacks) || may_be_given_up(job, plan),
            "job {id} lacks records of attempt {number}, whose node nothing has kept silent"
        );
        let whole = last && reached_its_end(job, wish) && !lacks;
        let all = usize::try_from(job.spec.epochs.saturating_sub(before)).unwrap_or(usize::MAX);
        for (rank, _) in attempt.parts().skip(1) {
            let epochs = epochs.remove(&(number, rank.0)).unwrap_or_default();
            let lines = lines.remove(&(number, rank.0)).unwrap_or_default();
            in_order((before, &epochs, &lines), &format!("{id}/{number} {rank}"))?;
            ensure!(
                !whole || epochs.len() == all && lines.len() == all,
                "job {id} {}, with {} points and {} lines of {rank}, of {all}",
                job.state.name(),
                epochs.len(),
                lines.len()
            );
        }
        let epochs = epochs.remove(&(number, 0)).unwrap_or_default();
        let lines = lines.remove(&(number, 0)).unwrap_or_default();
        in_order((before, &epochs, &lines), &format!("{id}/{number}"))?;
        saved.extend(
            epochs
                .iter()
                .filter(|epoch| wish.script.saves_after(**epoch)),
        );
        if whole {
            ensure!(
                epochs.len() == all && lines.len() == all,
                "job {id} {}, with {} points and {} lines of {all}",
                job.state.name(),
                epochs.len(),
                lines.len()
            );
            curve(job, &epochs_of(store, job)?)?;
        }
    }
    Ok(())
}

/// INV-06: what a rank has said has neither gaps nor doubles.
fn in_order((before, epochs, lines): (u32, &[u32], &[String]), name: &str) -> Result<()> {
    let whole: Vec<u32> = (before + 1..).take(epochs.len()).collect();
    ensure!(epochs == whole, "INV-06: points of {name} are {epochs:?}");
    let texts: Vec<String> = (before + 1..).take(lines.len()).map(Script::line).collect();
    ensure!(lines == texts, "INV-06: lines of {name} are {lines:?}");
    Ok(())
}

fn epochs_of(store: &Store, job: &Job) -> Result<Vec<u32>> {
    let curve = job.curve();
    let points = store.points(job.id, 0, ROWS)?;
    let counts = points
        .iter()
        .filter(|point| curve.has(point.attempt, point.rank, point.progress.epoch));
    Ok(counts.map(|point| point.progress.epoch).collect())
}

/// What is shown of a job that completed has each epoch once.
fn curve(job: &Job, epochs: &[u32]) -> Result<()> {
    let id = job.id;
    let all: Vec<u32> = (1..=job.spec.epochs).collect();
    ensure!(
        epochs == all,
        "the curve of job {id} has epochs {epochs:?} of {}",
        job.spec.epochs
    );
    Ok(())
}
