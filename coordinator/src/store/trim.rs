//! Retention: rows of jobs that have ended are taken out, a bounded number a commit.
//!
//! Owns how that is done and how a job says so, in a line of its own log. Never decides which jobs. A job that has not
//! ended is never touched: the committing thread looks once more.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _};
use trainyard_core::{
    ids::{AttemptNo, JobId, Rank, TaskKey},
    record::{LogLine, Progress},
    retention,
};

use super::{
    Change, ReadError, Store, StoreError,
    apply::Batch,
    codec::{self, Place},
    error::spared,
    seal, series,
    tables::{JOBS, LOGS, OPEN_JOBS, Rows, Source},
};

/// Chunks and blocks that one commit takes out.
const AT_ONCE: usize = 512;

/// What is taken out, and the line that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimming {
    /// Of which job.
    pub job: JobId,
    /// Its points or its lines: all that it has.
    pub rows: Rows,
    /// Of which attempt the line is.
    pub attempt: AttemptNo,
    /// Told with the first of them, and kept. Without one no more goes than was begun and told of before.
    pub line: Option<LogLine>,
}

impl Store {
    /// What jobs that have ended have of points and lines that could be taken out, and the bytes that all jobs have
    /// together. Blocks.
    pub fn holdings(&self) -> Result<(u64, Vec<retention::Held>), ReadError> {
        let txn = self.read()?;
        let mut sizes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut total = 0_u64;
        for rows in Rows::ALL {
            for entry in txn.open_table(rows.series().held)?.iter()? {
                let (job, bytes) = entry?;
                total = total.saturating_add(bytes.value());
                let size = sizes.entry(job.value()).or_default();
                match rows {
                    Rows::Points => size.0 = bytes.value(),
                    Rows::Lines => size.1 = bytes.value(),
                }
            }
        }
        let jobs = txn.open_table(JOBS)?;
        let open = txn.open_table(OPEN_JOBS)?;
        let mut found = Vec::new();
        for (job, (points, lines)) in sizes {
            let is_open = open.get(job)?.is_some();
            let Some(bytes) = jobs.get(job)?.filter(|_| !is_open) else {
                continue;
            };
            let place = Place {
                table: "jobs",
                key: &job,
            };
            // Of a damaged row it is not known when its job ended: what it has told stays.
            let Some(ended_at) = spared(codec::end_from_json(place, bytes.value()))? else {
                continue;
            };
            let held = retention::Held {
                job: JobId(job),
                ended_at,
                points: left(&txn, Rows::Points, job, points)?,
                lines: left(&txn, Rows::Lines, job, lines)?,
            };
            if held.points > 0 || held.lines > 0 {
                found.push(held);
            }
        }
        Ok((total, found))
    }

    /// What a crash has left of points and lines of which their job says that they were removed. Blocks.
    pub fn trims_begun(&self) -> Result<Vec<(JobId, Rows)>, ReadError> {
        let txn = self.read()?;
        let open = txn.open_table(OPEN_JOBS)?;
        let mut found = Vec::new();
        for rows in Rows::ALL {
            for entry in txn.open_table(rows.series().trimmed)?.iter()? {
                let (job, known) = entry?;
                let (job, (below, _)) = (job.value(), known.value());
                if open.get(job)?.is_none() && is_begun(&txn, rows, (job, below))? {
                    found.push((JobId(job), rows));
                }
            }
        }
        Ok(found)
    }

    /// Takes all points or lines of a job out, a bounded number a commit; says whether any were. A job that is open by
    /// then keeps what it has.
    ///
    /// # Errors
    /// When the store has stopped, or cannot be read.
    pub async fn trim(&self, what: Trimming) -> Result<bool, TrimError> {
        let mut any = false;
        while self.trimmable(&what)? {
            self.commit_and_wait(vec![Change::Trim(Box::new(what.clone()))])
                .await?;
            any = true;
        }
        Ok(any)
    }

    /// Whether any were ever taken out of a job.
    pub fn was_trimmed(&self, job: JobId, rows: Rows) -> Result<bool, ReadError> {
        let txn = self.read()?;
        let known = txn.open_table(rows.series().trimmed)?.get(job.0)?;
        Ok(known.is_some_and(|known| known.value().0 > 0))
    }

    fn trimmable(&self, what: &Trimming) -> Result<bool, ReadError> {
        let (txn, job) = (self.read()?, what.job.0);
        let is_open = txn.open_table(OPEN_JOBS)?.get(job)?.is_some();
        let (below, seen) = known(&txn, what.rows, job)?;
        if is_open || is_begun(&txn, what.rows, (job, below))? {
            return Ok(!is_open);
        }
        Ok(what.line.is_some() && is_more(&txn, what.rows, (job, seen))?)
    }
}

/// Why rows were not taken out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrimError {
    /// The store does not write any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The bytes, if any of them could be taken out.
fn left(txn: &ReadTransaction, rows: Rows, job: u64, bytes: u64) -> Result<u64, ReadError> {
    let (below, seen) = known(txn, rows, job)?;
    let some = is_begun(txn, rows, (job, below))? || is_more(txn, rows, (job, seen))?;
    Ok(if some { bytes } else { 0 })
}

/// Below which id rows of a job go, and up to which id that is known.
fn known(source: &impl Source, rows: Rows, job: u64) -> Result<(u64, u64), ReadError> {
    let trimmed = source.table(rows.series().trimmed)?;
    let known = trimmed.get(job)?.map(|known| known.value());
    Ok(known.unwrap_or_default())
}

/// Some that are to be taken out are still there.
fn is_begun(source: &impl Source, rows: Rows, (job, below): (u64, u64)) -> Result<bool, ReadError> {
    let index = source.table(rows.series().by_job)?;
    let first = index.range((job, 0)..(job, below))?.next();
    Ok(first.transpose()?.is_some())
}

/// There are some behind those that are known. Of what cannot be read this is not known, and no row goes by a guess.
fn is_more(source: &impl Source, rows: Rows, (job, seen): (u64, u64)) -> Result<bool, ReadError> {
    let series = rows.series();
    let behind = match rows {
        Rows::Points => series::count_after::<Progress>(source, series, JobId(job), seen),
        Rows::Lines => series::count_after::<LogLine>(source, series, JobId(job), seen),
    };
    Ok(spared(behind)?.is_some_and(|count| count > 0))
}

impl Batch<'_> {
    pub(super) fn trim(&mut self, what: Trimming) -> Result<(), ReadError> {
        let (job, series) = (what.job.0, what.rows.series());
        self.opened.close();
        if self.txn.open_table(OPEN_JOBS)?.get(job)?.is_some() {
            return Ok(());
        }
        let (below, seen) = known(self.txn, what.rows, job)?;
        let below = if is_begun(self.txn, what.rows, (job, below))? {
            below
        } else if let Some(line) = what.line
            && is_more(self.txn, what.rows, (job, seen))?
        {
            let task = TaskKey {
                job: what.job,
                attempt: what.attempt,
                rank: Rank(0),
            };
            self.begin_trim((task, what.rows), line)?
        } else {
            return Ok(());
        };
        let mut gone = Vec::new();
        for entry in self
            .txn
            .open_table(series.by_job)?
            .range((job, 0)..(job, below))?
            .take(AT_ONCE)
        {
            gone.push(entry?.0.value().1);
        }
        for first in gone {
            seal::remove(self.txn, (series, job, first), &mut self.held)?;
        }
        Ok(())
    }

    /// Says it in the job's log and notes below which id rows go. A log in which nothing else is to be taken out is not
    /// trimmed because of a line that says that the points are gone.
    fn begin_trim(
        &mut self,
        (task, rows): (TaskKey, Rows),
        line: LogLine,
    ) -> Result<u64, ReadError> {
        let job = task.job.0;
        let lines = known(self.txn, Rows::Lines, job)?;
        let quiet = !is_begun(self.txn, Rows::Lines, (job, lines.0))?
            && !is_more(self.txn, Rows::Lines, (job, lines.1))?;
        let told = self.append(LOGS, (task, vec![line]))?;
        self.opened.close();
        let below = match rows {
            Rows::Points => self.next_point,
            Rows::Lines => told,
        };
        let seen = below.saturating_sub(u64::from(rows == Rows::Points));
        let mut trimmed = self.txn.open_table(rows.series().trimmed)?;
        trimmed.insert(job, (below, seen))?;
        drop(trimmed);
        if rows == Rows::Points && quiet {
            let mut trimmed = self.txn.open_table(LOGS.trimmed)?;
            trimmed.insert(job, (lines.0, told))?;
        }
        Ok(below)
    }
}
