//! Sealing: how fast rows that nobody writes on any more are compressed, and by how much.
//!
//! A store of its own in this process, without a coordinator: what is measured is one thread that reads, compresses and
//! commits, one block after the other and without the pauses that the coordinator makes behind each.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::Instant;
use trainyard_coordinator::store::{Change, Rows, Store, StoreOptions};
use trainyard_core::{
    ids::{AttemptNo, JobId, Rank},
    job::{Job, JobState},
    record::{LogLine, LogStream, Progress},
    spec::JobSpec,
    time::Timestamp,
};

/// Rows of one batch, as a trainer that reports each step has them.
const BATCH: usize = 64;

/// Seals the points and lines of `jobs` that have ended, with so many rows of each.
pub(crate) async fn measure(jobs: u64, rows: usize) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("trainyard.redb");
    let fatal = Box::new(|error| tracing::error!(%error, "the store has failed"));
    let store = Store::open(StoreOptions::new(&path), fatal)?;
    for number in 1..=jobs {
        fill(&store, JobId(number), rows).await?;
    }
    let (before, _) = store.holdings()?;
    let mut spent = Vec::new();
    for rows in Rows::ALL {
        spent.push(seal(&store, rows).await?);
    }
    let (after, _) = store.holdings()?;
    let [points, lines] = spent.as_slice() else {
        anyhow::bail!("points and lines are sealed");
    };
    #[expect(clippy::cast_precision_loss, reason = "some millions of rows")]
    let each = |spent: &Spent| {
        let count = jobs as f64 * rows as f64;
        json!({
            "rows_per_second": count / spent.all.as_secs_f64(),
            "blocks": spent.blocks,
            "packing_share": spent.packing.as_secs_f64() / spent.all.as_secs_f64(),
        })
    };
    #[expect(clippy::cast_precision_loss, reason = "some GiB")]
    let ratio = before as f64 / after as f64;
    Ok(json!({
        "points": each(points), "lines": each(lines),
        "bytes_before": before, "bytes_after": after, "ratio": ratio,
    }))
}

/// What sealing took.
#[derive(Default)]
struct Spent {
    blocks: u64,
    /// Reading and compressing.
    packing: Duration,
    /// That, and the commits.
    all: Duration,
}

async fn seal(store: &Store, rows: Rows) -> Result<Spent> {
    let mut spent = Spent::default();
    let begun = Instant::now();
    while let Some(job) = store.sealable(rows, JobId(0))? {
        let packing = Instant::now();
        let change = store.sealing(rows, job)?;
        spent.packing += packing.elapsed();
        let change = change.context("what is to be sealed can be")?;
        store.commit_and_wait(vec![change]).await?;
        spent.blocks += 1;
    }
    spent.all = begun.elapsed();
    Ok(spent)
}

/// A job that has ended, with a curve of eight metrics that fall and scatter, and a log as trainers print it.
async fn fill(store: &Store, id: JobId, rows: usize) -> Result<()> {
    let mut job = Job::accepted(id, JobSpec::default(), "ada".to_owned(), Timestamp(1));
    job.state = JobState::Completed;
    job.ended_at = Some(Timestamp(1));
    let task = job.task(AttemptNo(1), Rank(0));
    let all: Vec<usize> = (0..rows).collect();
    for batch in all.chunks(BATCH) {
        let points = batch.iter().map(|step| point(id, *step)).collect();
        let lines = batch.iter().map(|step| line(id, *step)).collect();
        let changes = vec![
            Change::AppendPoints { task, points },
            Change::AppendLogs { task, lines },
        ];
        store.commit_and_wait(changes).await?;
    }
    store
        .commit_and_wait(vec![Change::PutJob(Box::new(job))])
        .await?;
    Ok(())
}

/// The same for the same job and step: between 0 and 1.
fn noise(id: JobId, step: usize, of: u64) -> f64 {
    let mut bits = id.0.wrapping_mul(0x9e37_79b9).wrapping_add(of);
    bits = bits.wrapping_add(u64::try_from(step).unwrap_or_default());
    bits ^= bits >> 30;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 27;
    f64::from(u16::try_from(bits & 0xffff).unwrap_or_default()) / 65_536.0
}

fn point(id: JobId, step: usize) -> Progress {
    let number = u32::try_from(step).unwrap_or(u32::MAX);
    let falls = 1.0 / (1.0 + f64::from(number) / 500.0);
    let value = |of: u64| falls + 0.05 * noise(id, step, of);
    Progress {
        at: at(step),
        epoch: number / 500,
        total_epochs: 100,
        step: Some(number.into()),
        values: (0..8)
            .map(|of| (format!("train/metric-{of}"), value(of)))
            .collect(),
        has_metrics: true,
        checkpoint: None,
        best_checkpoint: None,
    }
}

fn line(id: JobId, step: usize) -> LogLine {
    let loss = noise(id, step, 9);
    LogLine {
        at: at(step),
        stream: LogStream::Stdout,
        level: String::new(),
        text: format!(
            "epoch {:>3}/100  step {step:>6}  loss {loss:.5}  12.4 it/s  3.1 GiB",
            step / 500
        ),
    }
}

fn at(step: usize) -> Timestamp {
    Timestamp(1_795_396_822_543_843 + i64::try_from(step).unwrap_or_default() * 80_317)
}
