//! What must be true at the end: of each job's state, points and lines, and of who held which GPU.
//!
//! Changes nothing. Called by the world once all jobs have ended.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tests::jobs::outcome;
use trainyard_proto::v1::{self, FailureClass, JobState, LogStream};

use crate::{
    client::Client,
    losses, orders,
    plan::{End, Plan, Wish},
    record::Record,
};

/// Looks at every job; what is wrong goes to the record.
pub(crate) async fn jobs(client: &Client, plan: &Plan, record: &Record) -> Result<()> {
    let all = client.all().await?;
    let ids = ids(plan, record);
    ensure!(
        all.len() == ids.len(),
        "{} jobs were wished for, and there are {}",
        ids.len(),
        all.len()
    );
    if let Err(error) = gpus(&all) {
        record.finding(format!("{error:#}"));
    }
    let mut jobs = BTreeMap::new();
    for (_, id) in &ids {
        jobs.insert(*id, client.job(*id).await?);
    }
    for error in [orders::arrays(&jobs), losses::drains(&jobs, record)]
        .into_iter()
        .filter_map(Result::err)
    {
        record.finding(format!("{error:#}"));
    }
    for (number, id) in ids {
        let (Some(wish), Some(job)) = (plan.wishes.get(number), jobs.get(&id)) else {
            continue;
        };
        let job = job.clone();
        count(&job, record);
        let said = Said::of(client, &job).await?;
        let judged = [
            end(&job, wish, record),
            losses::explained(&job, record),
            orders::followed(&job, (wish, record), &jobs),
            whole(&job, wish),
            said.points(&job, wish),
            said.lines(&job, wish, record),
        ];
        for error in judged.into_iter().filter_map(Result::err) {
            record.finding(format!("job {id} ({wish:?}): {error:#}"));
        }
    }
    Ok(())
}

/// The jobs that there must be, each with the number of its wish: an array has several.
fn ids(plan: &Plan, record: &Record) -> Vec<(usize, u64)> {
    let known = record.lock().ids.clone().into_iter();
    let ids = known.flat_map(|(number, first)| {
        let jobs = plan.wishes.get(number).map_or(1, |wish| wish.order.jobs());
        (first..first.saturating_add(jobs)).map(move |id| (number, id))
    });
    ids.collect()
}

fn count(job: &v1::Job, record: &Record) {
    record.count(&format!("jobs {:?}", job.state()));
    for attempt in &job.attempts {
        let how = attempt.outcome.clone().unwrap_or_default();
        if how.failure_class() == FailureClass::Unspecified {
            continue;
        }
        let infrastructure = how.failure_class() == FailureClass::Infrastructure;
        let words = if infrastructure {
            how.message.as_str()
        } else {
            ""
        };
        // Numbers and paths differ.
        let words: String = words
            .chars()
            .map(|c| if c.is_ascii_digit() { '#' } else { c })
            .collect();
        record.count(&format!("attempts {:?} {words}", how.failure_class()));
    }
}

/// No GPU belongs to two attempts at one time.
fn gpus(jobs: &[v1::Job]) -> Result<()> {
    let mut held: BTreeMap<&str, Vec<(u128, u128, u64, u32)>> = BTreeMap::new();
    let micros = |at: Option<prost_types::Timestamp>| {
        let at = at.unwrap_or_default();
        u128::from(at.seconds.unsigned_abs()) * 1_000_000
            + u128::from(at.nanos.unsigned_abs()) / 1_000
    };
    for job in jobs {
        for attempt in &job.attempts {
            let whole = attempt.gpu_uuids.iter().map(|gpu| (gpu, attempt.ended_at));
            let whole = whole.filter(|_| attempt.tasks.is_empty());
            let ranks = attempt.tasks.iter().flat_map(|task| {
                let until = task.ended_at.or(attempt.ended_at);
                task.gpu_uuids.iter().map(move |gpu| (gpu, until))
            });
            for (gpu, until) in whole.chain(ranks) {
                let span = (
                    micros(attempt.placed_at),
                    micros(until),
                    job.job_id,
                    attempt.number,
                );
                held.entry(gpu).or_default().push(span);
            }
        }
    }
    for (gpu, mut spans) in held {
        spans.sort_unstable();
        for (one, other) in spans.iter().zip(spans.iter().skip(1)) {
            ensure!(
                one.1 <= other.0,
                "GPU {gpu} was of {}/{} and of {}/{} at one time",
                one.2,
                one.3,
                other.2,
                other.3
            );
        }
    }
    Ok(())
}

/// The job ended as its trainer and its users wanted, or as what was done to it says.
fn end(job: &v1::Job, wish: &Wish, record: &Record) -> Result<()> {
    let outcome = outcome(job);
    let last = job.attempts.last().map_or(0, |attempt| attempt.number);
    let (killed, cancelled) = {
        let record = record.lock();
        let killed = record.killed.contains(&(job.job_id, last));
        (killed, record.cancelled.contains(&job.job_id))
    };
    let told = (outcome.exit_code, outcome.signal);
    let expected = match job.state() {
        JobState::Completed => wish.end == End::Completes && told == (Some(0), None),
        JobState::Cancelled => cancelled || orders::was_hopeless(job),
        JobState::Failed => {
            let own = match wish.end {
                End::Exits(code) => told == (Some(code), None),
                End::Dies(signal) => told == (None, Some(signal)),
                End::Completes | End::Never => false,
            };
            let user = outcome.failure_class() == FailureClass::User;
            user && (own || killed && told == (None, Some(9)))
        }
        JobState::Unspecified
        | JobState::Pending
        | JobState::Queued
        | JobState::Starting
        | JobState::Running
        | JobState::Finishing => false,
    };
    ensure!(
        expected,
        "it ended {:?} ({outcome:?}) after {last} attempts; killed {killed}, cancelled {cancelled}",
        job.state()
    );
    attempts(job, wish, record)
}

/// A gang that completed has done so on all of its nodes.
fn whole(job: &v1::Job, wish: &Wish) -> Result<()> {
    let last = job.attempts.last();
    let Some(last) = last.filter(|_| wish.nodes > 1 && job.state() == JobState::Completed) else {
        return Ok(());
    };
    let well = |task: &&v1::AttemptTask| {
        let code = task.outcome.as_ref().and_then(|how| how.exit_code);
        task.started_at.is_some() && code == Some(0)
    };
    ensure!(
        last.tasks.iter().filter(well).count() == usize::try_from(wish.nodes)?,
        "it completed, and its ranks did not: {:?}",
        last.tasks
    );
    Ok(())
}

/// Every attempt but the last ended by no fault of its own, and by one that is known.
fn attempts(job: &v1::Job, wish: &Wish, record: &Record) -> Result<()> {
    for attempt in &job.attempts {
        let how = attempt.outcome.clone().unwrap_or_default();
        let run = (job.job_id, attempt.number);
        let is_last = job
            .attempts
            .last()
            .is_some_and(|last| last.number == attempt.number);
        let (shimless, cramped) = {
            let record = record.lock();
            (
                record.shimless.contains(&run),
                record.cramped.contains(&run),
            )
        };
        let fine = match how.failure_class() {
            // Who waits for its node is lost with nobody, but for a node that is back and knows nothing of it.
            FailureClass::Lost => !wish.waits || how.message.contains(losses::FORGOTTEN),
            FailureClass::Preempted => wish.order.preemptible,
            // A full disk may keep a trainer from its start, and ends none that has started.
            FailureClass::Infrastructure => {
                let space = cramped || how.message.contains("space");
                shimless || space && attempt.started_at.is_none()
            }
            FailureClass::Unspecified
            | FailureClass::User
            | FailureClass::OutOfMemory
            | FailureClass::Cancelled
            | FailureClass::Timeout => is_last,
        };
        ensure!(
            fine,
            "attempt {} ended by {:?}: {}",
            attempt.number,
            how.failure_class(),
            how.message
        );
    }
    Ok(())
}

/// What is stored of a job.
struct Said {
    counted: Vec<v1::MetricPoint>,
    all: Vec<v1::MetricPoint>,
    lines: Vec<v1::LogLine>,
}

impl Said {
    async fn of(client: &Client, job: &v1::Job) -> Result<Self> {
        Ok(Self {
            counted: client.points(job.job_id, false).await?,
            all: client.points(job.job_id, true).await?,
            lines: client.lines(job.job_id).await?,
        })
    }

    /// Each epoch once in the curve, each report of an attempt once, and all of them of a job that completed.
    fn points(&self, job: &v1::Job, wish: &Wish) -> Result<()> {
        let curve: Vec<u32> = self.counted.iter().map(|point| point.epoch).collect();
        let mut sorted = curve.clone();
        sorted.sort_unstable();
        let whole: Vec<u32> = (1..=u32::try_from(sorted.len())?).collect();
        ensure!(sorted == whole, "the curve has epochs {curve:?}");
        if job.state() == JobState::Completed {
            let all = usize::try_from(wish.epochs)?;
            ensure!(
                whole.len() == all,
                "it completed with {} epochs",
                whole.len()
            );
        }
        for (number, rank) in ranks(job, wish) {
            let own = |point: &&v1::MetricPoint| (point.attempt, point.rank) == (number, rank);
            let own = self.all.iter().filter(own);
            let epochs: Vec<u32> = own.map(|point| point.epoch).collect();
            // Only who goes on from a checkpoint begins later.
            let first = epochs.first().copied().filter(|_| wish.resumes);
            let whole: Vec<u32> = (first.unwrap_or(1)..).take(epochs.len()).collect();
            ensure!(
                epochs == whole,
                "rank {rank} of attempt {number} reported epochs {epochs:?}"
            );
        }
        Ok(())
    }

    /// Each line of a rank once and in order; all of them where nothing was lost.
    fn lines(&self, job: &v1::Job, wish: &Wish, record: &Record) -> Result<()> {
        for (number, rank) in ranks(job, wish) {
            let mark = format!("line {number} ");
            let own = |line: &&v1::LogLine| (line.attempt, line.rank) == (number, rank);
            let told = |line: &v1::LogLine| line.text.contains(TOLD);
            let said = |line: &v1::LogLine| line.stream() == LogStream::Stdout;
            let mut all = self.lines.iter().filter(own);
            let epochs = all.clone().filter(|line| said(line)).map(|line| {
                let epoch = line.text.strip_prefix(&mark);
                epoch.and_then(|rest| rest.parse::<u32>().ok())
            });
            let epochs: Vec<Option<u32>> = epochs.collect();
            // A disk that is full may take lines of an output, and pieces of them.
            if record.lock().cramped.contains(&(job.job_id, number)) {
                let known: Vec<u32> = epochs.into_iter().flatten().collect();
                ensure!(
                    known.is_sorted_by(|a, b| a < b),
                    "rank {rank} of attempt {number} has lines {known:?}"
                );
                continue;
            }
            let first = epochs.first().copied().flatten();
            let first = first.filter(|_| wish.resumes).unwrap_or(1);
            let whole: Vec<Option<u32>> = (first..).map(Some).take(epochs.len()).collect();
            ensure!(
                epochs == whole,
                "rank {rank} of attempt {number} has lines {epochs:?}"
            );
            ensure!(
                wish.nodes < 2 || all.find(|line| said(line) || told(line)).is_none_or(told),
                "rank {rank} of attempt {number} ran before its gang was whole"
            );
            let how = outcome_of(job, (number, rank));
            let is_sure = !wish.resumes || !epochs.is_empty();
            if is_sure && came_to_its_end(&how, wish) {
                let last = first.saturating_add(u32::try_from(epochs.len())?) - 1;
                ensure!(
                    last == wish.epochs,
                    "rank {rank} of attempt {number} came to its end ({how:?}) with lines up to {last}"
                );
            }
        }
        Ok(())
    }
}

/// Whether a trainer did all that it was to do, and ended as it was to.
fn came_to_its_end(how: &v1::Outcome, wish: &Wish) -> bool {
    let told = (how.exit_code, how.signal);
    match wish.end {
        End::Completes => {
            told == (Some(0), None) && how.failure_class() == FailureClass::Unspecified
        }
        End::Exits(code) => told == (Some(code), None) && wish.nodes == 1,
        // Another hand may have killed it.
        End::Dies(_) | End::Never => false,
    }
}

/// The agent's word before a rank of a gang is launched.
const TOLD: &str = "all nodes of the gang are prepared";

/// Attempts with each of their ranks.
fn ranks(job: &v1::Job, wish: &Wish) -> Vec<(u32, u32)> {
    let attempts = job.attempts.iter().map(|attempt| attempt.number);
    let ranks = attempts.flat_map(|number| (0..wish.nodes).map(move |rank| (number, rank)));
    ranks.collect()
}

fn outcome_of(job: &v1::Job, (number, rank): (u32, u32)) -> v1::Outcome {
    let attempt = job.attempts.iter().find(|one| one.number == number);
    let of_rank = attempt.and_then(|one| one.tasks.iter().find(|task| task.rank == rank));
    let of_rank = of_rank.and_then(|task| task.outcome.clone());
    let whole = attempt.and_then(|one| one.outcome.clone());
    of_rank.or(whole).unwrap_or_default()
}
