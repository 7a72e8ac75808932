//! Following a job: what is stored, then what is stored next, until it has ended.
//!
//! Owns the loop that never misses a row: the watch is marked as seen before the store is read, so
//! whatever is committed meanwhile wakes it again. Rows are read on a thread that may wait. Never keeps a transaction and
//! never buffers more than one page. Also ends what is followed by whoever may no longer be told it.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use trainyard_core::{ids::JobId, job::Job};

use super::{ApiError, Caller, Service, stopping};
use crate::store::{ReadError, Store};

/// Rows that are read at once, unless their texts are long.
const PAGE: usize = 1_000;
/// How often it is looked at, of a stream that tells nothing, whether its caller may still be told.
const BEAT: Duration = Duration::from_secs(10);

/// Everything that is needed to follow one job.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub(super) store: Store,
    pub(super) job: JobId,
    /// Ends every stream when the coordinator stops.
    pub(super) stop: CancellationToken,
}

impl Follower {
    /// Pages of rows after `after`, read by `read` (job, after, limit); `id` is a row's own.
    /// Without `follow` it ends with the last row stored so far.
    pub(super) fn rows<T: Send + 'static>(
        self,
        after: u64,
        follow: bool,
        read: impl Fn(&Store, JobId, u64, usize) -> Result<Vec<T>, ReadError> + Copy + Send + 'static,
        id: impl Fn(&T) -> u64 + Send + 'static,
    ) -> impl Stream<Item = Result<Vec<T>, ApiError>> + Send {
        async_stream::try_stream! {
            let mut changes = self.store.changes(self.job);
            let mut after = after;
            loop {
                changes.borrow_and_update();
                // Before the rows: a job that is over now has all its rows stored.
                let over = self.over()?;
                let (store, job) = (self.store.clone(), self.job);
                let page = move || read(&store, job, after, PAGE);
                let rows = trainyard_runtime::blocking(page).await;
                let rows = rows.ok().ok_or_else(stopping)??;
                match rows.last() {
                    Some(last) => {
                        after = id(last);
                        yield rows;
                    }
                    None if over || !follow => break,
                    None => {
                        tokio::select! {
                            changed = changes.changed() => if changed.is_err() { break },
                            () = self.stop.cancelled() => break,
                        }
                    }
                }
            }
        }
    }

    /// The job now and after each change, until it has ended.
    pub(super) fn states(self) -> impl Stream<Item = Result<Job, ApiError>> + Send {
        async_stream::try_stream! {
            let mut changes = self.store.changes(self.job);
            let mut last: Option<Job> = None;
            loop {
                changes.borrow_and_update();
                let job = self.store.job(self.job)?.ok_or_else(ApiError::no_job)?;
                let over = job.state.is_terminal();
                if last.as_ref() != Some(&job) {
                    last = Some(job.clone());
                    yield job;
                }
                if over {
                    break;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { break },
                    () = self.stop.cancelled() => break,
                }
            }
        }
    }

    fn over(&self) -> Result<bool, ApiError> {
        let job = self.store.job(self.job)?;
        Ok(job.is_none_or(|job| job.state.is_terminal()))
    }
}

impl Service {
    /// What is told, while the caller may still be told it: a stream outlives logins and memberships. It
    /// ends with the refusal, also while nothing happens to the job.
    pub(super) fn guarded<T, S>(
        &self,
        (caller, id): (&Caller, JobId),
        told: S,
    ) -> impl Stream<Item = Result<T, ApiError>> + Send + use<T, S>
    where
        T: Send + 'static,
        S: Stream<Item = Result<T, ApiError>> + Send + 'static,
    {
        let (service, caller) = (self.clone(), caller.clone());
        let may = move || service.readable(&service.still(&caller)?, id).map(drop);
        let mut told = Box::pin(told);
        async_stream::try_stream! {
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let next = tokio::select! {
                    next = told.next() => Some(next),
                    _ = beat.tick() => None,
                };
                match next {
                    Some(None) => break,
                    Some(Some(next)) => {
                        may()?;
                        yield next?;
                    }
                    None => may()?,
                }
            }
        }
    }
}
