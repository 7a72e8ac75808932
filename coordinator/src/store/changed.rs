//! Which jobs changed since a number: what those who follow all jobs read instead of all jobs.
//!
//! Owns one row a job, under the number of its last change; a change takes the row to the end. Lines
//! of logs are no change. Never says what changed. Written by the committing thread in the
//! transaction of the change itself, so that nothing is missed; read by the trackers.

use std::collections::BTreeSet;

use redb::{ReadableDatabase as _, WriteTransaction};
use tokio::sync::watch;
use trainyard_core::ids::JobId;

use super::{
    ReadError, Store, numbers,
    tables::{CHANGED, CHANGED_COUNTER, CHANGED_OF, COUNTERS},
};

/// Gives each of the jobs the next number; the last one given, if there was any job.
pub(super) fn number(
    txn: &WriteTransaction,
    jobs: &BTreeSet<u64>,
) -> Result<Option<u64>, ReadError> {
    if jobs.is_empty() {
        return Ok(None);
    }
    let mut counters = txn.open_table(COUNTERS)?;
    let mut changed = txn.open_table(CHANGED)?;
    let mut of = txn.open_table(CHANGED_OF)?;
    let mut last = numbers::counter(&counters, CHANGED_COUNTER)?.unwrap_or(0);
    for &job in jobs {
        last += 1;
        if let Some(old) = of.insert(job, last)? {
            changed.remove(old.value())?;
        }
        changed.insert(last, job)?;
    }
    numbers::count(&mut counters, CHANGED_COUNTER, last)?;
    Ok(Some(last))
}

impl Store {
    /// Jobs whose last change has a number above `after`, in the order of the changes, at most `limit`.
    pub fn changed_jobs(&self, after: u64, limit: usize) -> Result<Vec<(u64, JobId)>, ReadError> {
        let txn = self.inner.shared.db.begin_read()?;
        let table = txn.open_table(CHANGED)?;
        let rows = table.range(after.saturating_add(1)..)?.take(limit);
        rows.map(|row| {
            let (number, job) = row?;
            Ok((number.value(), JobId(job.value())))
        })
        .collect()
    }

    /// The number of the last change of this job; 0 when there was none.
    pub fn last_change_of(&self, job: JobId) -> Result<u64, ReadError> {
        let txn = self.inner.shared.db.begin_read()?;
        let last = txn.open_table(CHANGED_OF)?.get(job.0)?;
        Ok(last.map_or(0, |last| last.value()))
    }

    /// The number of the last change of any job; 0 when there was none.
    pub fn last_change(&self) -> Result<u64, ReadError> {
        let txn = self.inner.shared.db.begin_read()?;
        let counters = txn.open_table(COUNTERS)?;
        Ok(numbers::counter(&counters, CHANGED_COUNTER)?.unwrap_or(0))
    }

    /// Grows with each commit that changed a job; what changed is read from the store.
    #[must_use]
    pub fn all_changes(&self) -> watch::Receiver<u64> {
        self.inner.shared.changed.subscribe()
    }
}
