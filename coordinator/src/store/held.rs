//! What each job holds of points and lines: bytes, and chunks that are not sealed.
//!
//! Owns both numbers. A transaction gathers what it changes of them and writes it once, so that a batch of rows costs no
//! more than a row here a job. Used by the committing thread, by the migration and by mending.

use std::collections::BTreeMap;

use redb::{ReadableTable as _, WriteTransaction};

use super::{
    ReadError,
    series::Entry,
    tables::{COLUMNS, OfJob, Rows, Series},
};

/// What a transaction changes.
#[derive(Default)]
pub(super) struct Held(BTreeMap<(Rows, u64), Delta>);

#[derive(Clone, Copy, Default)]
struct Delta {
    raw: i64,
    bytes: i64,
}

impl Held {
    /// A chunk of so many bytes has come.
    pub(super) fn chunk(&mut self, rows: Rows, job: u64, bytes: usize) {
        self.of(rows, job).raw += 1;
        self.give(rows, job, bytes);
    }

    /// A chunk is sealed, or gone.
    pub(super) fn sealed(&mut self, rows: Rows, job: u64) {
        self.of(rows, job).raw -= 1;
    }

    pub(super) fn give(&mut self, rows: Rows, job: u64, bytes: usize) {
        self.of(rows, job).bytes += signed(bytes);
    }

    pub(super) fn take(&mut self, rows: Rows, job: u64, bytes: usize) {
        self.of(rows, job).bytes -= signed(bytes);
    }

    fn of(&mut self, rows: Rows, job: u64) -> &mut Delta {
        self.0.entry((rows, job)).or_default()
    }

    /// Writes the numbers; once, at the end of the transaction.
    pub(super) fn write(self, txn: &WriteTransaction) -> Result<(), ReadError> {
        for ((rows, job), delta) in self.0 {
            let series = rows.series();
            add(txn, series.raw, job, delta.raw)?;
            add(txn, series.held, job, delta.bytes)?;
        }
        Ok(())
    }
}

fn add(txn: &WriteTransaction, table: OfJob, job: u64, delta: i64) -> Result<(), ReadError> {
    if delta == 0 {
        return Ok(());
    }
    let mut table = txn.open_table(table)?;
    let before = table.get(job)?.map_or(0, |number| number.value());
    match before.saturating_add_signed(delta) {
        0 => drop(table.remove(job)?),
        after => drop(table.insert(job, after)?),
    }
    Ok(())
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Makes the numbers anew from the rows that are there.
pub(super) fn recount(txn: &WriteTransaction, series: Series) -> Result<(), ReadError> {
    txn.open_table(series.raw)?.retain(|_, _| false)?;
    txn.open_table(series.held)?.retain(|_, _| false)?;
    let mut held = Held::default();
    {
        let chunks = txn.open_table(series.chunks)?;
        let columns = txn.open_table(COLUMNS)?;
        for entry in txn.open_table(series.by_job)?.iter()? {
            let (key, entry) = entry?;
            let (job, first) = key.value();
            let bytes = chunks.get(first)?.map_or(0, |bytes| bytes.value().len());
            if !Entry::of(entry.value()).sealed {
                held.chunk(series.rows, job, bytes);
                continue;
            }
            held.give(series.rows, job, bytes);
            if series.rows == Rows::Points {
                for column in columns.range((first, "")..(first.saturating_add(1), ""))? {
                    held.give(series.rows, job, column?.1.value().len());
                }
            }
        }
    }
    held.write(txn)
}
