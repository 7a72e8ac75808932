//! Rows in chunks: points and log lines, under ids that ascend over all jobs.
//!
//! Owns how a chunk is laid out and found again. Never looks into a row but for its size. Used by the
//! committing thread to append and by the readers.

use std::ops::RangeInclusive;

use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use trainyard_core::ids::{AttemptNo, JobId};

use super::{
    Most,
    codec::{self, Place},
    error::ReadError,
    page::{Filling, Sizable},
    tables::{COUNTERS, Series},
};

/// One batch of rows of one attempt.
#[derive(Serialize, Deserialize)]
struct Chunk<T> {
    attempt: AttemptNo,
    rows: Vec<T>,
}

/// A row with its id and attempt.
pub(super) type Row<T> = (u64, AttemptNo, T);

/// The id that the next row gets.
pub(super) fn next_id(txn: &WriteTransaction, series: Series) -> Result<u64, ReadError> {
    let counters = txn.open_table(COUNTERS)?;
    let next = counters.get(series.name.as_bytes())?;
    Ok(next.map_or(1, |guard| guard.value()))
}

/// Appends rows from `*next` on, and moves it; returns the first id.
pub(super) fn append<T: Serialize>(
    txn: &WriteTransaction,
    series: Series,
    next: &mut u64,
    (job, attempt, rows): (JobId, AttemptNo, Vec<T>),
) -> Result<u64, ReadError> {
    let first = *next;
    if rows.is_empty() {
        return Ok(first);
    }
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let place = Place {
        table: series.name,
        key: &first,
    };
    let bytes = codec::to_chunk(place, &Chunk { attempt, rows })?;
    txn.open_table(series.chunks)?
        .insert(first, bytes.as_slice())?;
    txn.open_table(series.by_job)?
        .insert((job.0, first), count)?;
    *next += u64::from(count);
    txn.open_table(COUNTERS)?
        .insert(series.name.as_bytes(), *next)?;
    Ok(first)
}

/// Rows with an id above `after`, ascending, as many as the page holds.
pub(super) fn after<T: DeserializeOwned + Sizable>(
    txn: &ReadTransaction,
    series: Series,
    job: JobId,
    (after, most): (u64, Most),
) -> Result<Vec<Row<T>>, ReadError> {
    let index = txn.open_table(series.by_job)?;
    // The chunk that holds `after` may also hold the next rows.
    let holding = index.range(keys(job, 0..=after))?.next_back().transpose()?;
    let start = holding.map_or(0, |(key, _)| key.value().1);
    let mut found = Filling::to(most);
    for entry in index.range(keys(job, start..=u64::MAX))? {
        if found.is_full() {
            break;
        }
        let chunk: Vec<Row<T>> = read(txn, series, entry?.0.value().1)?;
        let mut behind = chunk.into_iter().filter(|(id, _, _)| *id > after);
        if !behind.all(|row| found.take(row.2.size(), row)) {
            break;
        }
    }
    Ok(found.rows)
}

/// The newest rows that `keep` wants, ascending, as many as the page holds.
pub(super) fn newest<T: DeserializeOwned + Sizable>(
    txn: &ReadTransaction,
    series: Series,
    job: JobId,
    (most, keep): (Most, impl Fn(AttemptNo, &T) -> bool),
) -> Result<Vec<Row<T>>, ReadError> {
    let index = txn.open_table(series.by_job)?;
    let mut found = Filling::to(most);
    for entry in index.range(keys(job, 0..=u64::MAX))?.rev() {
        if found.is_full() {
            break;
        }
        let chunk: Vec<Row<T>> = read(txn, series, entry?.0.value().1)?;
        let wanted = chunk.into_iter().rev();
        let mut wanted = wanted.filter(|(_, attempt, row)| keep(*attempt, row));
        if !wanted.all(|row| found.take(row.2.size(), row)) {
            break;
        }
    }
    found.rows.reverse();
    Ok(found.rows)
}

/// How many rows a job has.
pub(super) fn count(txn: &ReadTransaction, series: Series, job: JobId) -> Result<u64, ReadError> {
    let index = txn.open_table(series.by_job)?;
    let mut sum = 0;
    for entry in index.range(keys(job, 0..=u64::MAX))? {
        sum += u64::from(entry?.1.value());
    }
    Ok(sum)
}

/// How many rows a job has with an id above `after`.
pub(super) fn count_after(
    txn: &ReadTransaction,
    series: Series,
    job: JobId,
    after: u64,
) -> Result<u64, ReadError> {
    let index = txn.open_table(series.by_job)?;
    let holding = index.range(keys(job, 0..=after))?.next_back().transpose()?;
    // Of the chunk that holds `after`, the rows behind it.
    let mut sum = holding.map_or(0, |(key, count)| {
        let end = key.value().1 + u64::from(count.value());
        end.saturating_sub(after.saturating_add(1))
    });
    for entry in index.range(keys(job, after.saturating_add(1)..=u64::MAX))? {
        sum += u64::from(entry?.1.value());
    }
    Ok(sum)
}

fn keys(job: JobId, ids: RangeInclusive<u64>) -> RangeInclusive<(u64, u64)> {
    (job.0, *ids.start())..=(job.0, *ids.end())
}

fn read<T: DeserializeOwned>(
    txn: &ReadTransaction,
    series: Series,
    first: u64,
) -> Result<Vec<Row<T>>, ReadError> {
    let Some(bytes) = txn.open_table(series.chunks)?.get(first)? else {
        return Err(ReadError::Decode {
            table: series.name.to_owned(),
            key: first.to_string(),
            reason: "the index names a chunk that is not there".to_owned(),
        });
    };
    rows(series, first, bytes.value())
}

/// The rows of a chunk whose first has this id.
pub(super) fn rows<T: DeserializeOwned>(
    series: Series,
    first: u64,
    bytes: &[u8],
) -> Result<Vec<Row<T>>, ReadError> {
    let place = Place {
        table: series.name,
        key: &first,
    };
    let Chunk { attempt, rows }: Chunk<T> = codec::from_chunk(place, bytes)?;
    let numbered = (first..).zip(rows).map(|(id, row)| (id, attempt, row));
    Ok(numbered.collect())
}
