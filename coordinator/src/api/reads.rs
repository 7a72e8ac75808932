//! What is read of a job: points and lines; once or followed until it has ended.
//!
//! The part of the service that only reads. Clients of the HTTP contract know nothing of attempts: they
//! see the points that count, so that a job that was restarted or went on has each epoch once. Owns the bounds on pages and on streams followed at
//! once. A long scan runs on a blocking thread.

use std::collections::{BTreeSet, VecDeque};

use futures::{Stream, StreamExt};
use trainyard_core::{
    ids::JobId,
    job::{Curve, Job},
    record::{LogLine, Progress},
};

use super::{
    ApiError, Caller,
    service::{Service, stopping},
    streams::Following,
};
use crate::store::{Filling, Most, ReadError, Sizable as _, Store, StoredLine, StoredPoint, Whose};

/// Text of points, lines or validation results in one answer, in bytes; more only when one alone is larger.
pub(super) const TEXT: usize = 16 << 20;
/// Rows that are read of the store at once.
const AT_ONCE: usize = 1_000;
/// Text of the names of a job's metrics in one answer, in bytes: a trainer may make up new ones all the time.
const NAMES: usize = 1 << 20;

/// What is wanted of a job's points.
#[derive(Clone, Copy, Debug, Default)]
pub struct Points {
    /// Only of this epoch and later ones.
    pub since_epoch: u32,
    /// At most so many.
    pub limit: usize,
    /// The newest ones, newest first; else the oldest ones, oldest first.
    pub newest: bool,
}

/// A page of something, and whether there is more.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// There may be more after the last row.
    pub more: bool,
}

impl<T> Page<T> {
    /// Nothing is behind it.
    fn whole(rows: Vec<T>) -> Self {
        let more = false;
        Self { rows, more }
    }

    /// It may go on behind its last row.
    fn part(rows: Vec<T>) -> Self {
        let more = true;
        Self { rows, more }
    }
}

impl Service {
    /// Points after `after` that count, or all, ascending. A page ends early when its text would grow beyond [`TEXT`].
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn points(
        &self,
        caller: &Caller,
        (id, all): (JobId, bool),
        (after, limit): (u64, usize),
    ) -> Result<Page<StoredPoint>, ApiError> {
        let curve = self.readable(caller, id)?.curve();
        let mut page = Filling::to(self.most(limit));
        self.blocking(move |store| {
            let mut after = after;
            loop {
                let batch = store.points(id, after, AT_ONCE)?;
                let Some(last) = batch.last() else {
                    return Ok(Page::whole(page.rows));
                };
                after = last.id;
                let mut batch = batch.into_iter().filter(|row| all || counts(&curve, row));
                if !batch.all(|row| page.take(row.size(), row)) || page.is_full() {
                    return Ok(Page::part(page.rows));
                }
            }
        })
        .await
    }

    /// Lines after `after` that `keep` wants, ascending. A page ends early when its text would grow beyond [`TEXT`].
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn lines(
        &self,
        caller: &Caller,
        id: JobId,
        (after, limit): (u64, usize),
        keep: impl Fn(&LogLine) -> bool + Send + 'static,
    ) -> Result<Page<StoredLine>, ApiError> {
        self.readable(caller, id)?;
        let mut page = Filling::to(self.most(limit));
        // Wanted lines may be few among many.
        self.blocking(move |store| {
            let mut after = after;
            loop {
                let batch = store.logs(id, after, AT_ONCE)?;
                let Some(last) = batch.last() else {
                    return Ok(Page::whole(page.rows));
                };
                after = last.id;
                let mut wanted = batch.into_iter().filter(|row| keep(&row.line));
                if !wanted.all(|row| page.take(row.size(), row)) || page.is_full() {
                    return Ok(Page::part(page.rows));
                }
            }
        })
        .await
    }

    /// Pages of points after `after` that count when they are read, or of all, until the job has ended.
    ///
    /// # Errors
    /// When there is no such job, none that the caller may read, or too much is followed already.
    pub fn follow_points(
        &self,
        caller: &Caller,
        (id, all): (JobId, bool),
        after: u64,
    ) -> Result<impl Stream<Item = Result<Vec<StoredPoint>, ApiError>> + Send + use<>, ApiError>
    {
        self.readable(caller, id)?;
        let permit = self.stream(caller)?;
        let read = Store::points;
        let rows = self
            .follower(id)
            .rows(after, true, read, |point: &StoredPoint| point.id);
        let store = self.store().clone();
        let rows = rows.map(move |page| {
            let mut page = page?;
            if !all && let Some(job) = store.job(id)? {
                let curve = job.curve();
                page.retain(|row| counts(&curve, row));
            }
            Ok(page)
        });
        Ok(holding(permit, self.guarded((caller, id), rows)))
    }

    /// Pages of lines after `after`; with `follow` until the job has ended.
    ///
    /// # Errors
    /// As [`Service::follow_points`].
    pub fn follow_lines(
        &self,
        caller: &Caller,
        id: JobId,
        (after, follow): (u64, bool),
    ) -> Result<impl Stream<Item = Result<Vec<StoredLine>, ApiError>> + Send + use<>, ApiError>
    {
        self.readable(caller, id)?;
        let permit = self.stream(caller)?;
        let read = Store::logs;
        let rows = self
            .follower(id)
            .rows(after, follow, read, |line: &StoredLine| line.id);
        Ok(holding(permit, self.guarded((caller, id), rows)))
    }

    /// The job now and after each change, until it has ended.
    ///
    /// # Errors
    /// As [`Service::follow_points`].
    pub fn follow_job(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<impl Stream<Item = Result<Job, ApiError>> + Send + use<>, ApiError> {
        self.readable(caller, id)?;
        let permit = self.stream(caller)?;
        let (service, of) = (self.clone(), caller.clone());
        let states = self.guarded((caller, id), self.follower(id).states());
        let states = states.then(move |job| {
            let (service, caller) = (service.clone(), of.clone());
            async move {
                match job {
                    Ok(job) => Ok(service.with_reason(&caller, job).await),
                    Err(error) => Err(error),
                }
            }
        });
        Ok(holding(permit, states))
    }

    /// Points that count from an epoch on, from either end; as many as fit into [`TEXT`].
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn points_from(
        &self,
        caller: &Caller,
        id: JobId,
        wanted: Points,
    ) -> Result<Vec<StoredPoint>, ApiError> {
        let curve = self.readable(caller, id)?.curve();
        let limit = self.rows(wanted.limit);
        self.blocking(move |store| {
            let (mut kept, mut text) = (VecDeque::new(), 0);
            each_point(store, (id, &curve), |point| {
                if point.progress.epoch < wanted.since_epoch {
                    return true;
                }
                let full = text + point.size() > TEXT && !kept.is_empty();
                if full && !wanted.newest {
                    return false;
                }
                text += point.size();
                kept.push_back(point);
                while kept.len() > limit || (text > TEXT && kept.len() > 1) {
                    let oldest = kept.pop_front();
                    text -= oldest.map_or(0, |point| point.size());
                }
                wanted.newest || kept.len() < limit
            })?;
            let rows = kept.into_iter();
            Ok(match wanted.newest {
                true => rows.rev().collect(),
                false => rows.collect(),
            })
        })
        .await
    }

    /// The newest points that count, oldest of them first; as many as fit into [`TEXT`].
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn latest_points(
        &self,
        caller: &Caller,
        id: JobId,
        limit: usize,
    ) -> Result<Vec<StoredPoint>, ApiError> {
        let curve = self.readable(caller, id)?.curve();
        let most = self.most(limit);
        let keep =
            move |whose: Whose, point: &Progress| curve.has(whose.attempt, whose.rank, point.epoch);
        self.blocking(move |store| store.newest_points(id, most, keep))
            .await
    }

    /// The names of the job's metrics, as many as fit into [`NAMES`], and how many points count.
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn metric_names(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<(BTreeSet<String>, u64), ApiError> {
        let curve = self.readable(caller, id)?.curve();
        self.blocking(move |store| {
            let (mut names, mut count, mut text) = (BTreeSet::new(), 0, 0);
            each_point(store, (id, &curve), |point| {
                count += 1;
                for name in point.progress.values.into_keys() {
                    let size = name.len();
                    if text + size <= NAMES && names.insert(name) {
                        text += size;
                    }
                }
                true
            })?;
            Ok((names, count))
        })
        .await
    }

    /// Checkpoints of points that count by path, in the order in which they were first reported, each with the epoch of
    /// its newest report.
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn checkpoints(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<Vec<(String, u32)>, ApiError> {
        let curve = self.readable(caller, id)?.curve();
        self.blocking(move |store| {
            let mut found: Vec<(String, u32)> = Vec::new();
            each_point(store, (id, &curve), |point| {
                let progress = point.progress;
                if let Some(checkpoint) = progress.checkpoint {
                    match found.iter_mut().find(|(path, _)| *path == checkpoint.path) {
                        Some((_, epoch)) => *epoch = progress.epoch,
                        None => found.push((checkpoint.path, progress.epoch)),
                    }
                }
                true
            })?;
            Ok(found)
        })
        .await
    }

    /// The newest lines that `keep` wants, oldest of them first; as many as fit into [`TEXT`].
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn latest_lines(
        &self,
        caller: &Caller,
        id: JobId,
        limit: usize,
        keep: impl Fn(&LogLine) -> bool + Send + 'static,
    ) -> Result<Vec<StoredLine>, ApiError> {
        self.readable(caller, id)?;
        let most = self.most(limit);
        self.blocking(move |store| store.newest_logs(id, most, keep))
            .await
    }

    /// How many jobs have not ended: read from the store, so that it also says whether that works.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open_jobs(&self) -> Result<u64, ApiError> {
        Ok(self.store().count_open()?)
    }

    /// As many rows as a page of points or lines has at most.
    fn rows(&self, wanted: usize) -> usize {
        match wanted {
            0 => self.page(0),
            wanted => wanted.min(self.series_rows()),
        }
    }

    fn most(&self, wanted: usize) -> Most {
        let rows = self.rows(wanted);
        Most { rows, bytes: TEXT }
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.store().clone();
        let done = trainyard_runtime::blocking(move || read(&store)).await;
        Ok(done.ok().ok_or_else(stopping)??)
    }
}

fn counts(curve: &Curve, row: &StoredPoint) -> bool {
    curve.has(row.attempt, row.rank, row.progress.epoch)
}

/// Points that count in order while `take` wants more.
fn each_point(
    store: &Store,
    (id, curve): (JobId, &Curve),
    mut take: impl FnMut(StoredPoint) -> bool,
) -> Result<(), ReadError> {
    let mut after = 0;
    loop {
        let rows = store.points(id, after, AT_ONCE)?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = last.id;
        for row in rows {
            if counts(curve, &row) && !take(row) {
                return Ok(());
            }
        }
    }
}

/// `rows`, with `permit` given back at their end.
fn holding<T>(
    permit: Following,
    rows: impl Stream<Item = T> + Send,
) -> impl Stream<Item = T> + Send {
    rows.map(move |row| {
        let _held = &permit;
        row
    })
}
