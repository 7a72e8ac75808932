//! Reports of what was used: every job that the caller may read, from the rows as they are.
//!
//! Owns how the rows are gone through: a bounded number at a time, on a thread that may wait, and by few reports at once.
//! What counts is decided in `core::usage`. Called by both doors.

use std::time::Duration;

use tokio::sync::Semaphore;
use trainyard_core::{
    ids::JobId,
    job::Job,
    time::Timestamp,
    usage::{By, Row, Usage, Window},
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, service::stopping, users::not_authenticated};
use crate::{
    clock,
    store::{ReadError, Store},
};

/// Rows that are read in one transaction.
const AT_ONCE: usize = 1_000;
/// How far a report goes back when nothing else is asked for.
const USUAL: Duration = Duration::from_secs(30 * 86_400);
/// So long a report waits for its place.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a report is to be about.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsageAsked {
    /// From when on; 30 days before the end when it is left out.
    pub from: Option<Timestamp>,
    /// Until when; until now when it is left out.
    pub to: Option<Timestamp>,
    /// How jobs are put together.
    pub by: By,
}

impl UsageAsked {
    /// What is wrong with `from`, if the span that begins there has nothing in it.
    #[must_use]
    pub fn problem(&self, now: Timestamp) -> Option<&'static str> {
        let from = self.from?;
        let empty = from >= self.to.unwrap_or(now);
        empty.then_some("is not before to, which is now unless it is given; give an earlier moment")
    }
}

/// A row with the name of its project.
#[derive(Clone, Debug)]
pub struct UsageRow {
    /// What was used.
    pub used: Row,
    /// Of its project; none without one, or when that is gone.
    pub project_name: Option<String>,
}

/// A report.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// What was counted.
    pub window: Window,
    /// By project, then by user.
    pub rows: Vec<UsageRow>,
    /// Of all of them together.
    pub total: Row,
}

impl Service {
    /// What jobs have used that the caller may read: all of them for whoever administers, else those of the caller's
    /// projects and the caller's own.
    ///
    /// # Errors
    /// When nobody is logged in, the span is empty, other reports take all places for too long, or the store cannot be read.
    pub async fn usage(&self, caller: &Caller, asked: UsageAsked) -> Result<UsageReport, ApiError> {
        if caller.is_anonymous() {
            return Err(not_authenticated());
        }
        let now = clock::now();
        if let Some(words) = asked.problem(now) {
            return Err(ApiError::field("from", words));
        }
        let window = window(asked, now);
        let usage = Usage::new(window, asked.by, now);
        let usage = self.reporting(self.swept(caller, window, usage)).await?;
        let total = usage.total();
        let mut rows = Vec::new();
        for used in usage.rows() {
            let name = used.project.map(|id| self.project_name(id));
            rows.push(UsageRow {
                project_name: name.transpose()?.flatten(),
                used,
            });
        }
        Ok(UsageReport {
            window,
            rows,
            total,
        })
    }

    /// Tells it of all jobs that the caller may read.
    async fn swept(
        &self,
        caller: &Caller,
        window: Window,
        mut usage: Usage,
    ) -> Result<Usage, ApiError> {
        let now = clock::now();
        let mut after = Some(JobId(0));
        while let Some(from) = after {
            let reader = self.reader(caller);
            // Between two pieces whoever asked may have gone.
            let piece = self.blocking(move |store| {
                let mut unread = None;
                let next = store.sweep_jobs(
                    (from, AT_ONCE),
                    |ended| window.may_have(ended),
                    |job| {
                        if reader.accounts_for(store, &job) {
                            match came(store, &job, now) {
                                Ok(came) => usage.add(&job, came),
                                Err(error) => unread = Some(error),
                            }
                        }
                    },
                )?;
                unread.map_or(Ok(()), Err)?;
                reader.checked((usage, next))
            });
            (usage, after) = piece.await?;
        }
        Ok(usage)
    }

    /// Reads rows for a report, when one of the few places for that is free.
    ///
    /// # Errors
    /// When none becomes free in [`PATIENCE`]; those of `reads`.
    pub(super) async fn reporting<T>(
        &self,
        reads: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        with_place((self.reports(), BUSY), reads).await
    }
}

/// When the last of the jobs that one waits for had ended; now while one of them has not.
fn came(store: &Store, job: &Job, now: Timestamp) -> Result<Option<Timestamp>, ReadError> {
    let awaited = job.spec.after.iter().chain(&job.spec.after_any);
    let ends = awaited.map(|id| Ok(store.ended_at(*id)?.unwrap_or(now)));
    let ends: Result<Vec<Timestamp>, ReadError> = ends.collect();
    Ok(ends?.into_iter().max())
}

const BUSY: &str = "other reports over all jobs are being made";

/// The place is given back before anybody is told what was read: a slow reader must not keep it from others.
pub(super) async fn with_place<T>(
    (places, busy): (&Semaphore, &str),
    reads: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let Ok(place) = tokio::time::timeout(PATIENCE, places.acquire()).await else {
        let seconds = PATIENCE.as_secs();
        let words =
            format!("{busy}, and none has ended in {seconds} seconds; try again in a minute");
        return Err(ApiError::new(Kind::Exhausted, words));
    };
    let _place = place.map_err(|_closed| stopping())?;
    reads.await
}

/// One that lies behind now has nothing in it.
fn window(asked: UsageAsked, now: Timestamp) -> Window {
    let to = asked.to.unwrap_or(now).min(now);
    let from = asked.from.unwrap_or_else(|| to.minus(USUAL));
    Window { from, to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_report_that_finds_no_place_is_told_so_in_the_end_and_a_place_is_given_back_with_what_was_read()
     {
        let places = Semaphore::new(1);
        for _ in 0..3 {
            let read = with_place((&places, BUSY), async { Ok(places.available_permits()) });
            assert_eq!(read.await.unwrap(), 0);
        }
        let held = places.acquire().await.unwrap();
        let refused = with_place((&places, BUSY), async { Ok(()) })
            .await
            .unwrap_err();
        assert_eq!(refused.kind, Kind::Exhausted);
        assert!(refused.message.contains("try again"), "{refused:?}");
        drop(held);
        assert!(with_place((&places, BUSY), async { Ok(()) }).await.is_ok());
    }
}
