//! Rows in chunks and blocks: points and log lines, under ids that ascend over all jobs.
//!
//! Owns how a chunk is laid out, and how the rows of chunks and blocks are found again. Never looks into a row but for
//! its size. Used by the committing thread to append, by the readers, and by those who care for the file.

use std::ops::RangeInclusive;

use redb::{ReadableTable as _, WriteTransaction};
use serde::{Deserialize, Serialize};
use trainyard_core::ids::{AttemptNo, JobId, TaskKey};

use super::{
    Most, Sample,
    block::{self, Kept, Unpacked},
    codec::{self, Body, Place},
    error::ReadError,
    numbers,
    opened::Appending,
    page::Filling,
    rows::Whose,
    tables::{COUNTERS, LOGS, POINTS, Series, Source},
};

/// One batch of rows of one attempt.
#[derive(Serialize, Deserialize)]
struct Chunk<T> {
    attempt: AttemptNo,
    rows: Vec<T>,
}

/// A row with its id and task.
pub(super) type Row<T> = (u64, Whose, T);

/// What the index says of a chunk or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// How many rows.
    pub(super) rows: u32,
    /// It is a block.
    pub(super) sealed: bool,
}

impl Entry {
    const SEALED: u32 = 1 << 31;

    pub(super) fn of(value: u32) -> Self {
        Self {
            rows: value & !Self::SEALED,
            sealed: value & Self::SEALED != 0,
        }
    }

    pub(super) fn value(self) -> u32 {
        match self.sealed {
            true => self.rows | Self::SEALED,
            false => self.rows & !Self::SEALED,
        }
    }
}

/// A chunk or a block that is read; its rows are made when they are asked for.
pub(super) enum Opened<T: Kept> {
    Chunk(u64, Whose, Vec<T>),
    Block(Unpacked<T::Block>),
}

impl<T: Kept> Opened<T> {
    pub(super) fn attempt(&self) -> AttemptNo {
        match self {
            Self::Chunk(_, whose, _) => whose.attempt,
            Self::Block(block) => block.attempt,
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Self::Block(_))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Chunk(_, _, rows) => rows.len(),
            Self::Block(block) => block.ids.len(),
        }
    }

    /// The ids of its rows, ascending.
    pub(super) fn ids(&self) -> Vec<u64> {
        match self {
            Self::Chunk(first, _, rows) => (*first..).take(rows.len()).collect(),
            Self::Block(block) => block.ids.clone(),
        }
    }

    /// How many rows have an id up to this one.
    fn upto(&self, id: u64) -> usize {
        match self {
            Self::Chunk(first, _, rows) => {
                let upto = id.saturating_add(1).saturating_sub(*first);
                usize::try_from(upto).unwrap_or(usize::MAX).min(rows.len())
            }
            Self::Block(block) => block.ids.partition_point(|known| *known <= id),
        }
    }

    /// Its rows but the first `skip`, from either end.
    pub(super) fn rows(self, skip: usize) -> Box<dyn DoubleEndedIterator<Item = Row<T>>> {
        match self {
            Self::Chunk(first, whose, mut rows) => {
                let rest = rows.split_off(skip.min(rows.len()));
                let first = first.saturating_add(u64::try_from(rows.len()).unwrap_or(u64::MAX));
                let numbered = rest.into_iter().enumerate();
                Box::new(numbered.map(move |(n, row)| {
                    let id = first.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                    (id, whose, row)
                }))
            }
            Self::Block(Unpacked {
                attempt,
                ranks,
                ids,
                block,
            }) => Box::new((skip..ids.len()).filter_map(move |n| {
                let row = T::row(&block, n)?;
                let rank = ranks.of(n);
                Some((*ids.get(n)?, Whose { attempt, rank }, row))
            })),
        }
    }
}

/// The ids that the next point and the next line get.
pub(super) fn next_ids(txn: &WriteTransaction) -> Result<(u64, u64), ReadError> {
    let counters = txn.open_table(COUNTERS)?;
    let next = |series: Series| numbers::counter(&counters, series.name);
    Ok((next(POINTS)?.unwrap_or(1), next(LOGS)?.unwrap_or(1)))
}

/// Writes them.
pub(super) fn note_ids(txn: &WriteTransaction, next: (u64, u64)) -> Result<(), ReadError> {
    let mut counters = txn.open_table(COUNTERS)?;
    numbers::count(&mut counters, POINTS.name, next.0)?;
    numbers::count(&mut counters, LOGS.name, next.1)
}

/// Appends rows from `*next` on, and moves it; returns the bytes of the chunk, none without rows.
pub(super) fn append<T: Serialize>(
    tables: &mut Appending<'_>,
    series: Series,
    next: &mut u64,
    (task, rows): (TaskKey, Vec<T>),
) -> Result<Option<usize>, ReadError> {
    let first = *next;
    if rows.is_empty() {
        return Ok(None);
    }
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let place = Place {
        table: series.name,
        key: &first,
    };
    let attempt = task.attempt;
    let bytes = codec::to_rows(place, task.rank, &Chunk { attempt, rows })?;
    tables.chunks.insert(first, bytes.as_slice())?;
    tables.by_job.insert((task.job.0, first), count)?;
    *next += u64::from(count);
    Ok(Some(bytes.len()))
}

/// Rows with an id above `after`, ascending, as many as the page holds.
pub(super) fn after<T: Kept>(
    source: &impl Source,
    series: Series,
    job: JobId,
    (after, most): (u64, Most),
) -> Result<Vec<Row<T>>, ReadError> {
    let index = source.table(series.by_job)?;
    // The chunk that holds `after` may also hold the next rows.
    let holding = index.range(keys(job, 0..=after))?.next_back().transpose()?;
    let start = holding.map_or(0, |(key, _)| key.value().1);
    let mut found = Filling::to(most);
    for entry in index.range(keys(job, start..=u64::MAX))? {
        if found.is_full() {
            break;
        }
        let chunk: Opened<T> = read(source, series, entry?.0.value().1)?;
        let known = chunk.upto(after);
        if !chunk.rows(known).all(|row| found.take(row.2.size(), row)) {
            break;
        }
    }
    Ok(found.rows)
}

/// The newest rows that `keep` wants, ascending, as many as the page holds.
pub(super) fn newest<T: Kept>(
    source: &impl Source,
    series: Series,
    job: JobId,
    (most, keep): (Most, impl Fn(Whose, &T) -> bool),
) -> Result<Vec<Row<T>>, ReadError> {
    let index = source.table(series.by_job)?;
    let mut found = Filling::to(most);
    for entry in index.range(keys(job, 0..=u64::MAX))?.rev() {
        if found.is_full() {
            break;
        }
        let chunk: Opened<T> = read(source, series, entry?.0.value().1)?;
        let wanted = chunk.rows(0).rev();
        let mut wanted = wanted.filter(|(_, whose, row)| keep(*whose, row));
        if !wanted.all(|row| found.take(row.2.size(), row)) {
            break;
        }
    }
    found.rows.reverse();
    Ok(found.rows)
}

/// How many rows a job has.
pub(super) fn count(source: &impl Source, series: Series, job: JobId) -> Result<u64, ReadError> {
    let index = source.table(series.by_job)?;
    let mut sum = 0;
    for entry in index.range(keys(job, 0..=u64::MAX))? {
        sum += u64::from(Entry::of(entry?.1.value()).rows);
    }
    Ok(sum)
}

/// How many rows a job has with an id above `after`.
pub(super) fn count_after<T: Kept>(
    source: &impl Source,
    series: Series,
    job: JobId,
    after: u64,
) -> Result<u64, ReadError> {
    let index = source.table(series.by_job)?;
    let holding = index.range(keys(job, 0..=after))?.next_back().transpose()?;
    let holding = holding.map(|(key, entry)| (key.value().1, Entry::of(entry.value())));
    // Of the chunk that holds `after`, the rows behind it.
    let mut sum = match holding {
        Some((first, entry)) if entry.sealed => {
            let block: Opened<T> = read(source, series, first)?;
            u64::try_from(block.len() - block.upto(after)).unwrap_or(u64::MAX)
        }
        Some((first, entry)) => {
            let end = first + u64::from(entry.rows);
            end.saturating_sub(after.saturating_add(1))
        }
        None => 0,
    };
    for entry in index.range(keys(job, after.saturating_add(1)..=u64::MAX))? {
        sum += u64::from(Entry::of(entry?.1.value()).rows);
    }
    Ok(sum)
}

/// Hands out the values of one metric of a job in order while `take` wants more. Of a block it reads no other metric.
pub(super) fn each_value(
    source: &impl Source,
    job: JobId,
    name: &str,
    mut take: impl FnMut(Sample) -> bool,
) -> Result<(), ReadError> {
    let index = source.table(POINTS.by_job)?;
    let chunks = source.table(POINTS.chunks)?;
    for entry in index.range(keys(job, 0..=u64::MAX))? {
        let first = entry?.0.value().1;
        let Some(bytes) = chunks.get(first)? else {
            return Err(missing(POINTS, first));
        };
        let place = Place {
            table: POINTS.name,
            key: &first,
        };
        let more = match codec::body(place, bytes.value())? {
            Body::Block(body) => block::each_value(source, (first, body, name), &mut take)?,
            Body::Chunk(..) => opened(source, POINTS, first, bytes.value())?
                .rows(0)
                .filter_map(|row| Sample::of(row, name))
                .all(&mut take),
        };
        if !more {
            break;
        }
    }
    Ok(())
}

pub(super) fn keys(job: JobId, ids: RangeInclusive<u64>) -> RangeInclusive<(u64, u64)> {
    (job.0, *ids.start())..=(job.0, *ids.end())
}

pub(super) fn read<T: Kept>(
    source: &impl Source,
    series: Series,
    first: u64,
) -> Result<Opened<T>, ReadError> {
    let chunks = source.table(series.chunks)?;
    let Some(bytes) = chunks.get(first)? else {
        return Err(missing(series, first));
    };
    opened(source, series, first, bytes.value())
}

fn missing(series: Series, first: u64) -> ReadError {
    let place = Place {
        table: series.name,
        key: &first,
    };
    place.decode("the index names a chunk that is not there")
}

/// The chunk or block whose first row has this id.
pub(super) fn opened<T: Kept>(
    source: &impl Source,
    series: Series,
    first: u64,
    bytes: &[u8],
) -> Result<Opened<T>, ReadError> {
    let place = Place {
        table: series.name,
        key: &first,
    };
    match codec::body(place, bytes)? {
        Body::Chunk(rank, body) => {
            let Chunk { attempt, rows }: Chunk<T> = codec::from_chunk(place, body)?;
            Ok(Opened::Chunk(first, Whose { attempt, rank }, rows))
        }
        Body::Block(body) => Ok(Opened::Block(T::unpack(source, first, body)?)),
    }
}
