//! The tables to which most is written, kept open for a transaction: opening one costs as much as writing a row.
//!
//! Owns them until they are closed. A table is open once at a time, so whoever opens one by itself closes these
//! before. Used by the committing thread.

use redb::{Key, Table, TableDefinition, Value, WriteTransaction};

use super::{
    error::ReadError,
    tables::{
        CURSORS, Checked, EVENTS, EVENTS_OF_JOB, EVENTS_OF_NODE, JOBS, LOGS, OPEN_JOBS, POINTS,
        Rows, Series,
    },
};

type Bytes = &'static [u8];

/// Of points or of lines.
pub(super) struct Appending<'t> {
    pub(super) chunks: Table<'t, u64, Bytes>,
    pub(super) by_job: Table<'t, (u64, u64), u32>,
}

/// Opened when first needed.
#[derive(Default)]
pub(super) struct Opened<'t> {
    jobs: Option<Table<'t, u64, Bytes>>,
    open_jobs: Option<Table<'t, u64, ()>>,
    cursors: Option<Table<'t, (u64, u32, u32), Checked>>,
    points: Option<Appending<'t>>,
    lines: Option<Appending<'t>>,
    events: Option<Noting<'t>>,
}

/// What was decided.
pub(super) struct Noting<'t> {
    pub(super) events: Table<'t, u64, Bytes>,
    pub(super) of_job: Table<'t, (u64, u64), ()>,
    pub(super) of_node: Table<'t, (&'static str, u64), ()>,
}

impl<'t> Opened<'t> {
    /// Closes them all.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    pub(super) fn jobs(
        &mut self,
        txn: &'t WriteTransaction,
    ) -> Result<&mut Table<'t, u64, Bytes>, ReadError> {
        keep(&mut self.jobs, txn, JOBS)
    }

    pub(super) fn open_jobs(
        &mut self,
        txn: &'t WriteTransaction,
    ) -> Result<&mut Table<'t, u64, ()>, ReadError> {
        keep(&mut self.open_jobs, txn, OPEN_JOBS)
    }

    pub(super) fn cursors(
        &mut self,
        txn: &'t WriteTransaction,
    ) -> Result<&mut Table<'t, (u64, u32, u32), Checked>, ReadError> {
        keep(&mut self.cursors, txn, CURSORS)
    }

    pub(super) fn noting(
        &mut self,
        txn: &'t WriteTransaction,
    ) -> Result<&mut Noting<'t>, ReadError> {
        Ok(match &mut self.events {
            Some(open) => open,
            closed => closed.insert(Noting {
                events: txn.open_table(EVENTS)?,
                of_job: txn.open_table(EVENTS_OF_JOB)?,
                of_node: txn.open_table(EVENTS_OF_NODE)?,
            }),
        })
    }

    pub(super) fn appending(
        &mut self,
        txn: &'t WriteTransaction,
        rows: Rows,
    ) -> Result<&mut Appending<'t>, ReadError> {
        let slot = match rows {
            Rows::Points => &mut self.points,
            Rows::Lines => &mut self.lines,
        };
        let open = |series: Series| -> Result<Appending<'t>, ReadError> {
            Ok(Appending {
                chunks: txn.open_table(series.chunks)?,
                by_job: txn.open_table(series.by_job)?,
            })
        };
        Ok(match slot {
            Some(open) => open,
            closed => closed.insert(open(match rows {
                Rows::Points => POINTS,
                Rows::Lines => LOGS,
            })?),
        })
    }
}

fn keep<'s, 't, K: Key + 'static, V: Value + 'static>(
    slot: &'s mut Option<Table<'t, K, V>>,
    txn: &'t WriteTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<&'s mut Table<'t, K, V>, ReadError> {
    Ok(match slot {
        Some(open) => open,
        closed => closed.insert(txn.open_table(definition)?),
    })
}
