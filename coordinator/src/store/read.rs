//! Reads of the store: synchronous, microseconds while the rows are cached.
//!
//! Owns the queries. Never writes and never keeps a transaction, which would pin pages. Called by
//! the actors and their readers; a long scan belongs on a blocking thread.

use std::sync::atomic::Ordering;

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _,
};
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, Rank, TaskKey},
    job::{Job, JobState},
    record::{LogLine, Progress},
    sched::QueuedJob,
    time::Timestamp,
};

use super::{
    Document, Most, NodeRow, ReadError, Sample, Store, StoredLine, StoredPoint, UserRow, Whose,
    codec::{self, Place},
    documents,
    error::spared,
    events, numbers,
    parts::by_parts,
    series,
    tables::{
        COUNTERS, CURSORS, JOBS, LAST_JOB, LOGS, META, NODES, OPEN_JOBS, POINTS, REQUEST_KEYS,
        USERS, USERS_BY_EMAIL,
    },
};

/// When the last decision was noted, or the last job moved: one row of each. A damaged row says nothing.
pub(super) fn newest(txn: &ReadTransaction) -> Result<Timestamp, ReadError> {
    let mut newest = Timestamp::default();
    if let Some((id, bytes)) = txn.open_table(JOBS)?.last()? {
        let place = Place {
            table: "jobs",
            key: &id.value(),
        };
        let moved = spared(codec::end_from_json(place, bytes.value()))?;
        newest = newest.max(moved.unwrap_or_default());
    }
    let decided = events::last_decided(txn)?;
    Ok(newest.max(decided.unwrap_or_default()))
}

/// Where a list of jobs ends.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// After so many that are wanted.
    pub rows: usize,
    /// Before their text grows beyond so many bytes; one alone may be larger.
    pub bytes: usize,
    /// After so many that were looked at, wanted or not.
    pub looks: usize,
}

/// Jobs of a list, newest first.
#[derive(Debug, Default)]
pub struct FoundJobs {
    /// Those that were wanted.
    pub jobs: Vec<Job>,
    /// The list ended at its bounds: it goes on before this job.
    pub next: Option<JobId>,
}

/// Text that is read of jobs that are not wanted, in bytes, for one list.
const LOOKED: usize = 64 << 20;

/// The numbers of all jobs that have not ended, lowest first.
pub(super) fn open_numbers(txn: &ReadTransaction) -> Result<Vec<u64>, ReadError> {
    let open = txn.open_table(OPEN_JOBS)?;
    open.iter()?.map(|row| Ok(row?.0.value())).collect()
}

/// The rows of those of these jobs that are there.
fn rows_of(
    jobs: &ReadOnlyTable<u64, &'static [u8]>,
    numbers: &[u64],
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    for id in numbers {
        if let Some(bytes) = jobs.get(id)? {
            visit(*id, bytes.value())?;
        }
    }
    Ok(())
}

/// A list under way.
struct Gathered {
    found: FoundJobs,
    left: Bounds,
    read: usize,
}

impl Gathered {
    fn within(bounds: Bounds) -> Self {
        Self {
            found: FoundJobs::default(),
            left: bounds,
            read: LOOKED,
        }
    }

    /// Looks at a row, and says whether to look at the next one.
    fn take(
        &mut self,
        id: u64,
        bytes: &[u8],
        keep: impl Fn(&Job) -> bool,
    ) -> Result<bool, ReadError> {
        let size = bytes.len();
        if self.left.rows == 0 || self.left.looks == 0 || self.read == 0 {
            return Ok(false);
        }
        let job = spared(decode_job(id, bytes))?;
        if let Some(job) = job.filter(|job| keep(job)) {
            if size > self.left.bytes && !self.found.jobs.is_empty() {
                return Ok(false);
            }
            self.left.bytes = self.left.bytes.saturating_sub(size);
            self.left.rows -= 1;
            self.found.jobs.push(job);
        }
        self.left.looks -= 1;
        self.read = self.read.saturating_sub(size);
        self.found.next = Some(JobId(id));
        Ok(true)
    }

    /// The list, when nothing is left to look at.
    fn whole(self) -> FoundJobs {
        FoundJobs {
            next: None,
            ..self.found
        }
    }
}

impl Store {
    pub(super) fn read(&self) -> Result<ReadTransaction, ReadError> {
        Ok(self.inner.shared.db.begin_read()?)
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Result<Option<Job>, ReadError> {
        let table = self.read()?.open_table(JOBS)?;
        let bytes = table.get(id.0)?;
        bytes
            .map(|bytes| decode_job(id.0, bytes.value()))
            .transpose()
    }

    /// Every job that has not ended, oldest first.
    pub fn open_jobs(&self) -> Result<Vec<Job>, ReadError> {
        let mut found = Vec::new();
        self.each_open(|id, bytes| {
            found.push(decode_job(id, bytes)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The rows of jobs that have not ended, oldest first.
    fn each_open(
        &self,
        visit: impl FnMut(u64, &[u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let txn = self.read()?;
        rows_of(&txn.open_table(JOBS)?, &open_numbers(&txn)?, visit)
    }

    /// The same apart: those in the queue, of which no more is read than the queue needs, and the others.
    pub fn open_jobs_apart(&self) -> Result<(Vec<QueuedJob>, Vec<Job>), ReadError> {
        let txn = self.read()?;
        let jobs = txn.open_table(JOBS)?;
        let parts = by_parts(&open_numbers(&txn)?, |part| {
            let (mut waiting, mut others) = (Vec::new(), Vec::new());
            rows_of(&jobs, part, |id, bytes| {
                match codec::queued_from_json(place_of(&id), bytes)? {
                    Some(queued) => waiting.push(queued),
                    None => others.push(decode_job(id, bytes)?),
                }
                Ok(())
            })?;
            Ok((waiting, others))
        })?;
        let (waiting, others): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let (waiting, others) = (waiting.into_iter(), others.into_iter());
        Ok((waiting.flatten().collect(), others.flatten().collect()))
    }

    /// Of so many of the newest jobs those that can be read, newest first.
    pub fn newest_jobs(&self, count: usize) -> Result<Vec<Job>, ReadError> {
        let jobs = self.read()?.open_table(JOBS)?;
        let mut found = Vec::new();
        for entry in jobs.iter()?.rev().take(count) {
            let (id, bytes) = entry?;
            found.extend(spared(decode_job(id.value(), bytes.value()))?);
        }
        Ok(found)
    }

    /// Points and lines that were ever stored.
    pub fn totals(&self) -> Result<(u64, u64), ReadError> {
        let counters = self.read()?.open_table(COUNTERS)?;
        let total = |name: &str| {
            let next = numbers::counter(&counters, name)?;
            Ok::<_, ReadError>(next.map_or(0, |next| next.saturating_sub(1)))
        };
        Ok((total(POINTS.name)?, total(LOGS.name)?))
    }

    /// How many jobs are in each state of those that have not ended. Reads no more of a job than its state.
    pub fn count_states(&self) -> Result<Vec<(JobState, u64)>, ReadError> {
        let open = JobState::ALL
            .into_iter()
            .filter(|state| !state.is_terminal());
        let mut counts: Vec<_> = open.map(|state| (state, 0)).collect();
        self.each_open(|id, bytes| {
            let state = codec::state_from_json(place_of(&id), bytes)?;
            let of_state = counts.iter_mut().filter(|(known, _)| *known == state);
            of_state.for_each(|(_, count)| *count += 1);
            Ok(())
        })?;
        Ok(counts)
    }

    /// How many jobs have not ended.
    pub fn count_open(&self) -> Result<u64, ReadError> {
        Ok(self.read()?.open_table(OPEN_JOBS)?.len()?)
    }

    /// The same as of the last commit, without a look at the file.
    #[must_use]
    pub fn open_jobs_known(&self) -> u64 {
        self.inner.shared.open_jobs.load(Ordering::Relaxed)
    }

    /// Jobs that `keep` wants, newest first, older than `before`, within `bounds`.
    pub fn jobs(
        &self,
        before: Option<JobId>,
        bounds: Bounds,
        keep: impl Fn(&Job) -> bool,
    ) -> Result<FoundJobs, ReadError> {
        let table = self.read()?.open_table(JOBS)?;
        let end = before.map_or(u64::MAX, |job| job.0);
        let mut found = Gathered::within(bounds);
        for entry in table.range(..end)?.rev() {
            let (id, bytes) = entry?;
            if !found.take(id.value(), bytes.value(), &keep)? {
                return Ok(found.found);
            }
        }
        Ok(found.whole())
    }

    /// As [`Store::jobs`], of those that have not ended.
    pub fn jobs_open(
        &self,
        before: Option<JobId>,
        bounds: Bounds,
        keep: impl Fn(&Job) -> bool,
    ) -> Result<FoundJobs, ReadError> {
        let txn = self.read()?;
        let jobs = txn.open_table(JOBS)?;
        let end = before.map_or(u64::MAX, |job| job.0);
        let mut found = Gathered::within(bounds);
        for entry in txn.open_table(OPEN_JOBS)?.range(..end)?.rev() {
            let id = entry?.0.value();
            let Some(bytes) = jobs.get(id)? else { continue };
            if !found.take(id, bytes.value(), &keep)? {
                return Ok(found.found);
            }
        }
        Ok(found.whole())
    }

    /// The highest number of a job; 0 when there is none.
    pub fn highest_job(&self) -> Result<JobId, ReadError> {
        let table = self.read()?.open_table(JOBS)?;
        let last = table.last()?;
        Ok(last.map_or(JobId(0), |(id, _)| JobId(id.value())))
    }

    /// The highest number that was ever given to a job, though its row may be gone; 0 when there is none.
    pub fn last_job(&self) -> Result<JobId, ReadError> {
        let counters = self.read()?.open_table(COUNTERS)?;
        let noted = numbers::counter(&counters, LAST_JOB)?;
        Ok(self.highest_job()?.max(JobId(noted.unwrap_or_default())))
    }

    /// Points of a job with an id above `after`, ascending: a page of at most `limit`, see [`Most`].
    pub fn points(
        &self,
        job: JobId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredPoint>, ReadError> {
        let rows = series::after(&self.read()?, POINTS, job, (after, Most::rows(limit)))?;
        Ok(rows.into_iter().map(point).collect())
    }

    /// The newest points of a job that `keep` wants, ascending.
    pub fn newest_points(
        &self,
        job: JobId,
        most: Most,
        keep: impl Fn(Whose, &Progress) -> bool,
    ) -> Result<Vec<StoredPoint>, ReadError> {
        let rows = series::newest(&self.read()?, POINTS, job, (most, keep))?;
        Ok(rows.into_iter().map(point).collect())
    }

    /// Hands out what the points of a job say of one metric, in order, while `take` wants more. Of what is sealed it
    /// reads no other metric.
    pub fn each_value(
        &self,
        job: JobId,
        name: &str,
        take: impl FnMut(Sample) -> bool,
    ) -> Result<(), ReadError> {
        series::each_value(&self.read()?, job, name, take)
    }

    /// How many points a job has.
    pub fn count_points(&self, job: JobId) -> Result<u64, ReadError> {
        series::count(&self.read()?, POINTS, job)
    }

    /// How many points of a job have an id above `after`.
    pub fn count_points_after(&self, job: JobId, after: u64) -> Result<u64, ReadError> {
        series::count_after::<Progress>(&self.read()?, POINTS, job, after)
    }

    /// Lines of a job's log with an id above `after`, ascending: a page of at most `limit`, see [`Most`].
    pub fn logs(&self, job: JobId, after: u64, limit: usize) -> Result<Vec<StoredLine>, ReadError> {
        let rows = series::after(&self.read()?, LOGS, job, (after, Most::rows(limit)))?;
        Ok(rows.into_iter().map(line).collect())
    }

    /// The newest lines of a job's log that `keep` wants, ascending.
    pub fn newest_logs(
        &self,
        job: JobId,
        most: Most,
        keep: impl Fn(&LogLine) -> bool,
    ) -> Result<Vec<StoredLine>, ReadError> {
        let rows = series::newest(&self.read()?, LOGS, job, (most, |_, line: &_| keep(line)))?;
        Ok(rows.into_iter().map(line).collect())
    }

    /// How many lines a job's log has.
    pub fn count_logs(&self, job: JobId) -> Result<u64, ReadError> {
        series::count(&self.read()?, LOGS, job)
    }

    /// Up to which number the records of each task of a job are stored.
    pub fn cursors(&self, job: JobId) -> Result<Vec<(TaskKey, u64)>, ReadError> {
        let table = self.read()?.open_table(CURSORS)?;
        let mut found = Vec::new();
        for entry in table.range((job.0, 0, 0)..=(job.0, u32::MAX, u32::MAX))? {
            let (key, seq) = entry?;
            let (_, attempt, rank) = key.value();
            let seq = numbers::cursor(key.value(), seq.value())?;
            let task = TaskKey {
                job,
                attempt: AttemptNo(attempt),
                rank: Rank(rank),
            };
            found.push((task, seq));
        }
        Ok(found)
    }

    /// Every node by name.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, ReadError> {
        let table = self.read()?.open_table(NODES)?;
        let mut found = Vec::new();
        for entry in table.iter()? {
            let (key, bytes) = entry?;
            let name = NodeName(String::from_utf8_lossy(key.value()).into_owned());
            let place = Place {
                table: "nodes",
                key: &name,
            };
            found.push(codec::from_json(place, bytes.value())?);
        }
        Ok(found)
    }

    /// Every user by number.
    pub fn users(&self) -> Result<Vec<UserRow>, ReadError> {
        let table = self.read()?.open_table(USERS)?;
        let mut found = Vec::new();
        for entry in table.iter()? {
            let (id, bytes) = entry?;
            let place = Place {
                table: "users",
                key: &id.value(),
            };
            found.push(codec::from_json(place, bytes.value())?);
        }
        Ok(found)
    }

    /// One user by number.
    pub fn user(&self, id: u64) -> Result<Option<UserRow>, ReadError> {
        user(&self.read()?, id)
    }

    /// One user by number, if there is also this document; both as of the same moment.
    pub fn user_with<D: Document>(&self, key: &str, id: u64) -> Result<Option<UserRow>, ReadError> {
        let txn = self.read()?;
        match documents::find::<D>(&txn, key)? {
            Some(_) => user(&txn, id),
            None => Ok(None),
        }
    }

    /// One user by e-mail address.
    pub fn user_by_email(&self, email: &str) -> Result<Option<UserRow>, ReadError> {
        let txn = self.read()?;
        let id = txn.open_table(USERS_BY_EMAIL)?.get(email.as_bytes())?;
        id.map_or(Ok(None), |id| user(&txn, id.value()))
    }

    /// The number that the next user gets.
    pub fn next_user(&self) -> Result<u64, ReadError> {
        let table = self.read()?.open_table(USERS)?;
        let last = table.last()?;
        Ok(last.map_or(1, |(id, _)| id.value() + 1))
    }

    /// A value of the coordinator's own.
    pub fn meta(&self, key: &str) -> Result<Option<String>, ReadError> {
        let table = self.read()?.open_table(META)?;
        let place = Place {
            table: "meta",
            key: &key,
        };
        let bytes = table.get(key.as_bytes())?;
        bytes
            .map(|bytes| codec::to_text(place, bytes.value()))
            .transpose()
    }

    /// The job that a submission with this key became.
    pub fn request_key(&self, key: &str) -> Result<Option<JobId>, ReadError> {
        let table = self.read()?.open_table(REQUEST_KEYS)?;
        let job = table.get(key.as_bytes())?;
        Ok(job.map(|job| JobId(job.value())))
    }
}

pub(super) fn decode_job(id: u64, bytes: &[u8]) -> Result<Job, ReadError> {
    codec::job_from_json(place_of(&id), bytes)
}

fn place_of(id: &u64) -> Place<'_> {
    Place {
        table: "jobs",
        key: id,
    }
}

fn user(txn: &ReadTransaction, id: u64) -> Result<Option<UserRow>, ReadError> {
    let table = txn.open_table(USERS)?;
    let place = Place {
        table: "users",
        key: &id,
    };
    let bytes = table.get(id)?;
    bytes
        .map(|bytes| codec::from_json(place, bytes.value()))
        .transpose()
}

fn point((id, whose, progress): series::Row<trainyard_core::record::Progress>) -> StoredPoint {
    StoredPoint {
        id,
        attempt: whose.attempt,
        rank: whose.rank,
        progress,
    }
}

fn line((id, whose, line): series::Row<trainyard_core::record::LogLine>) -> StoredLine {
    StoredLine {
        id,
        attempt: whose.attempt,
        rank: whose.rank,
        line,
    }
}
