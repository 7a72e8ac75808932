//! Sealing: chunks that nobody writes on any more become a block, with the small blocks before them.
//!
//! Owns which chunks and blocks are put together, and the one change that puts a block in their place. Reads and compresses where it
//! is called, off the committing thread; only the exchange is the committing thread's. Called by whoever keeps the store
//! small.

use redb::{ReadTransaction, ReadableTable as _, WriteTransaction};
use trainyard_core::{
    ids::{AttemptNo, JobId, Rank},
    record::{LogLine, Progress},
};

use super::{
    Change, ReadError, Store,
    block::{Kept, Packed},
    codec::Place,
    held::Held,
    series::{self, Entry, Opened},
    tables::{COLUMNS, OPEN_JOBS, Rows, Series},
};

/// Chunks that a job that goes on may have before they are sealed.
pub const UNSEALED: u64 = 128;
/// Chunks of one block: what one commit takes out at most.
const CHUNKS: usize = 512;
/// A block is full when it has so many rows…
const fn rows_of(rows: Rows) -> usize {
    match rows {
        Rows::Points => 2_048,
        Rows::Lines => 8_192,
    }
}
/// … or when its chunks had so many bytes.
const fn bytes_of(rows: Rows) -> usize {
    match rows {
        Rows::Points => 1 << 20,
        Rows::Lines => 256 << 10,
    }
}

/// A block, and the smaller blocks and the chunks behind them whose place it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealing {
    rows: Rows,
    job: JobId,
    blocks: Vec<(u64, Entry)>,
    chunks: Vec<u64>,
    count: u32,
    packed: Packed,
}

/// Chunks that follow each other in one attempt.
struct Run<T> {
    attempt: AttemptNo,
    chunks: Vec<u64>,
    rows: Vec<(u64, Rank, T)>,
    bytes: usize,
}

impl Store {
    /// The next job from `from` on that has chunks to seal: all of them when it has ended, else when they are more
    /// than [`UNSEALED`].
    pub fn sealable(&self, rows: Rows, from: JobId) -> Result<Option<JobId>, ReadError> {
        let txn = self.read()?;
        let open = txn.open_table(OPEN_JOBS)?;
        for entry in txn.open_table(rows.series().raw)?.range(from.0..)? {
            let (job, chunks) = entry?;
            if chunks.value() > UNSEALED || open.get(job.value())?.is_none() {
                return Ok(Some(JobId(job.value())));
            }
        }
        Ok(None)
    }

    /// The first chunks of a job that are not sealed, as a block; none when all are. Blocks: it compresses.
    pub fn sealing(&self, rows: Rows, job: JobId) -> Result<Option<Change>, ReadError> {
        let txn = self.read()?;
        let sealing = match rows {
            Rows::Points => sealing::<Progress>(&txn, rows, job)?,
            Rows::Lines => sealing::<LogLine>(&txn, rows, job)?,
        };
        Ok(sealing.map(|sealing| Change::Seal(Box::new(sealing))))
    }
}

fn sealing<T: Kept>(
    txn: &ReadTransaction,
    rows: Rows,
    job: JobId,
) -> Result<Option<Sealing>, ReadError> {
    let Some(mut run) = run::<T>(txn, rows, job)? else {
        return Ok(None);
    };
    let blocks = absorb(txn, (rows, job), &mut run)?;
    let first = run.rows.first().map(|(id, _, _)| *id).unwrap_or_default();
    let place = Place {
        table: rows.series().name,
        key: &first,
    };
    let count = u32::try_from(run.rows.len()).map_err(|error| place.decode(error))?;
    Ok(Some(Sealing {
        rows,
        job,
        blocks,
        chunks: run.chunks,
        count,
        packed: T::pack(place, run.attempt, run.rows)?,
    }))
}

/// The first chunks that are not sealed, until a block is full, something else lies between, or another attempt begins.
fn run<T: Kept>(
    txn: &ReadTransaction,
    rows: Rows,
    job: JobId,
) -> Result<Option<Run<T>>, ReadError> {
    let series = rows.series();
    let below = txn.open_table(series.trimmed)?.get(job.0)?;
    let below = below.map_or(0, |trimmed| trimmed.value().0);
    let index = txn.open_table(series.by_job)?;
    let chunks = txn.open_table(series.chunks)?;
    let mut run: Option<Run<T>> = None;
    for entry in index.range(series::keys(job, 0..=u64::MAX))? {
        let (key, entry) = entry?;
        let first = key.value().1;
        if Entry::of(entry.value()).sealed {
            match run {
                Some(_) => break,
                None => continue,
            }
        }
        // What is being taken out, and what is not, never share a block.
        let divided = run
            .as_ref()
            .and_then(|run| run.chunks.last())
            .is_some_and(|last| *last < below && first >= below);
        if divided || run.as_ref().is_some_and(|run| run.is_full(rows)) {
            break;
        }
        let Some(bytes) = chunks.get(first)? else {
            continue;
        };
        let chunk: Opened<T> = series::opened(txn, series, first, bytes.value())?;
        let size = bytes.value().len();
        let attempt = chunk.attempt();
        let run = run.get_or_insert_with(|| Run::new(attempt));
        let fits = run.chunks.is_empty() || run.bytes + size <= bytes_of(rows);
        if run.attempt != attempt || !fits {
            break;
        }
        run.chunks.push(first);
        run.bytes += size;
        let rows = chunk.rows(0);
        run.rows
            .extend(rows.map(|(id, whose, row)| (id, whose.rank, row)));
    }
    Ok(run)
}

/// Takes blocks of the same attempt that stand right before the run into it, as long as all of it is one block. Of a job
/// that goes on only those that are no larger than what comes to them: so each row is packed anew a few times at most, and
/// a slow job has a few blocks.
fn absorb<T: Kept>(
    txn: &ReadTransaction,
    (rows, job): (Rows, JobId),
    run: &mut Run<T>,
) -> Result<Vec<(u64, Entry)>, ReadError> {
    let series = rows.series();
    let ended = txn.open_table(OPEN_JOBS)?.get(job.0)?.is_none();
    let below = txn.open_table(series.trimmed)?.get(job.0)?;
    let below = below.map_or(0, |trimmed| trimmed.value().0);
    let index = txn.open_table(series.by_job)?;
    let mut next = run.chunks.first().copied().unwrap_or_default();
    let mut blocks = Vec::new();
    let before = series::keys(job, 0..=next.saturating_sub(1));
    for entry in index.range(before)?.rev() {
        let (key, entry) = entry?;
        let (first, entry) = (key.value().1, Entry::of(entry.value()));
        let count = usize::try_from(entry.rows).unwrap_or(usize::MAX);
        let small = ended || count <= run.rows.len();
        let fits = count.saturating_add(run.rows.len()) <= rows_of(rows);
        let divided = first < below && next >= below;
        if !entry.sealed || !small || !fits || divided {
            break;
        }
        // One that is damaged stays as it is: whoever checks the file tells.
        let Ok(block) = series::read::<T>(txn, series, first) else {
            break;
        };
        let attempt = block.attempt();
        let own: Vec<(u64, Rank, T)> = block
            .rows(0)
            .map(|(id, whose, row)| (id, whose.rank, row))
            .collect();
        let size: usize = own.iter().map(|(_, _, row)| row.size()).sum();
        if attempt != run.attempt || run.bytes + size > bytes_of(rows) {
            break;
        }
        run.bytes += size;
        run.rows.splice(0..0, own);
        blocks.push((first, entry));
        next = first;
    }
    blocks.reverse();
    Ok(blocks)
}

impl<T> Run<T> {
    fn new(attempt: AttemptNo) -> Self {
        Self {
            attempt,
            chunks: Vec::new(),
            rows: Vec::new(),
            bytes: 0,
        }
    }

    fn is_full(&self, rows: Rows) -> bool {
        self.chunks.len() >= CHUNKS || self.rows.len() >= rows_of(rows)
    }
}

/// Puts the block in the place of those before and of its chunks, if they are all there as they were.
pub(super) fn exchange(
    txn: &WriteTransaction,
    sealing: Sealing,
    held: &mut Held,
) -> Result<(), ReadError> {
    let series = sealing.rows.series();
    let job = sealing.job.0;
    let index = txn.open_table(series.by_job)?;
    for first in &sealing.chunks {
        let entry = index.get((job, *first))?;
        if entry.is_none_or(|entry| Entry::of(entry.value()).sealed) {
            return Ok(());
        }
    }
    for (first, known) in &sealing.blocks {
        let entry = index.get((job, *first))?;
        if entry.map(|entry| Entry::of(entry.value())) != Some(*known) {
            return Ok(());
        }
    }
    let begins = sealing.blocks.first().map(|(first, _)| *first);
    let Some(first) = begins.or_else(|| sealing.chunks.first().copied()) else {
        return Ok(());
    };
    drop(index);
    for (first, _) in &sealing.blocks {
        remove(txn, (series, job, *first), held)?;
    }
    let mut index = txn.open_table(series.by_job)?;
    let mut chunks = txn.open_table(series.chunks)?;
    for chunk in &sealing.chunks {
        index.remove((job, *chunk))?;
        let gone = chunks.remove(*chunk)?;
        held.take(sealing.rows, job, gone.map_or(0, |gone| gone.value().len()));
        held.sealed(sealing.rows, job);
    }
    let entry = Entry {
        rows: sealing.count,
        sealed: true,
    };
    index.insert((job, first), entry.value())?;
    chunks.insert(first, sealing.packed.body.as_slice())?;
    held.give(sealing.rows, job, sealing.packed.body.len());
    if sealing.packed.columns.is_empty() {
        return Ok(());
    }
    let mut columns = txn.open_table(COLUMNS)?;
    for (name, bytes) in &sealing.packed.columns {
        columns.insert((first, name.as_str()), bytes.as_slice())?;
        held.give(sealing.rows, job, bytes.len());
    }
    Ok(())
}

/// Takes a chunk or block out, with its columns.
pub(super) fn remove(
    txn: &WriteTransaction,
    (series, job, first): (Series, u64, u64),
    held: &mut Held,
) -> Result<(), ReadError> {
    let entry = txn
        .open_table(series.by_job)?
        .remove((job, first))?
        .map(|entry| Entry::of(entry.value()));
    let gone = txn
        .open_table(series.chunks)?
        .remove(first)?
        .map(|gone| gone.value().len());
    held.take(series.rows, job, gone.unwrap_or(0));
    match entry {
        Some(entry) if entry.sealed => {}
        Some(_) => held.sealed(series.rows, job),
        None => return Ok(()),
    }
    if series.rows == Rows::Points {
        let mut columns = txn.open_table(COLUMNS)?;
        let mut bytes = 0;
        columns.retain_in((first, "")..(first.saturating_add(1), ""), |_, column| {
            bytes += column.len();
            false
        })?;
        held.take(series.rows, job, bytes);
    }
    Ok(())
}
