//! Keys of submissions that are old enough to be forgotten.
//!
//! Owns finding them, a bounded number at a time. Never removes one: the committing thread does, and looks once more.
//! Called by the store's keeping.

use std::ops::{Bound, RangeInclusive};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable as _};
use trainyard_core::{ids::JobId, time::Timestamp};

use super::{
    ReadError, Store,
    codec::{self, Place},
    error::spared,
    tables::{JOBS, OPEN_JOBS, REQUEST_KEYS},
};

/// Keys that are told at once, and removed in one commit.
const AT_ONCE: usize = 512;

impl Store {
    /// Keys behind `after` whose jobs were accepted before then and have ended, some of them. Blocks.
    pub fn old_request_keys(
        &self,
        before: Timestamp,
        after: &str,
    ) -> Result<Vec<(String, JobId)>, ReadError> {
        let txn = self.read()?;
        let newest = last_accepted_before(&txn, before)?;
        let jobs = txn.open_table(JOBS)?;
        let open = txn.open_table(OPEN_JOBS)?;
        let keys = txn.open_table(REQUEST_KEYS)?;
        let mut found = Vec::new();
        let behind = (Bound::Excluded(after.as_bytes()), Bound::Unbounded);
        for entry in keys.range::<&[u8]>(behind)? {
            let (key, job) = entry?;
            let job = job.value();
            if job > newest || open.get(job)?.is_some() {
                continue;
            }
            // A clock that was set back makes a newer job look older than this one, which may have just been accepted.
            if let Some(row) = jobs.get(job)?
                && accepted_at(job, row.value()).is_ok_and(|at| at >= before)
            {
                continue;
            }
            // They were text when they came.
            let key = String::from_utf8_lossy(key.value()).into_owned();
            found.push((key, JobId(job)));
            if found.len() >= AT_ONCE {
                break;
            }
        }
        Ok(found)
    }
}

/// The newest job that was accepted before then: numbers ascend with time, so it is looked for by halves. 0: none. Where
/// a clock was set this is a guess, which spares reading the rows of those that are newer still: a key is kept for
/// longer by it, and is not removed by it alone.
fn last_accepted_before(txn: &ReadTransaction, before: Timestamp) -> Result<u64, ReadError> {
    let jobs = txn.open_table(JOBS)?;
    let last = jobs.last()?.map_or(0, |(id, _)| id.value());
    let (mut known, mut end) = (0, last);
    while known < end {
        let middle = known + (end - known).div_ceil(2);
        match first_accepted(&jobs, middle..=end)? {
            Some((id, at)) if at < before => known = id,
            _ => end = middle - 1,
        }
    }
    Ok(known)
}

/// The first of these jobs that can be read: numbers that were never given to a job, or whose row is damaged, count as the
/// next one.
fn first_accepted(
    jobs: &ReadOnlyTable<u64, &'static [u8]>,
    numbers: RangeInclusive<u64>,
) -> Result<Option<(u64, Timestamp)>, ReadError> {
    for row in jobs.range(numbers)? {
        let (id, bytes) = row?;
        let id = id.value();
        if let Some(at) = spared(accepted_at(id, bytes.value()))? {
            return Ok(Some((id, at)));
        }
    }
    Ok(None)
}

fn accepted_at(job: u64, row: &[u8]) -> Result<Timestamp, ReadError> {
    let place = Place {
        table: "jobs",
        key: &job,
    };
    codec::begin_from_json(place, row)
}
