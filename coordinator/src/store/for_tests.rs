//! Damage to a row, for tests of those who read it.

use redb::ReadableTable as _;
use trainyard_core::ids::JobId;

use super::{Store, tables::JOBS};

/// Flips a bit in the row of a job.
pub(crate) fn damage_job(store: &Store, job: JobId) {
    let txn = store.inner.shared.db.begin_write().unwrap();
    let mut jobs = txn.open_table(JOBS).unwrap();
    let mut row = jobs.get(job.0).unwrap().unwrap().value().to_vec();
    *row.last_mut().unwrap() ^= 1;
    jobs.insert(job.0, row.as_slice()).unwrap();
    drop(jobs);
    txn.commit().unwrap();
}
