//! What a store knows of jobs, as JSON, a line a row: for other programs, and to save what can be read of a
//! damaged file.
//!
//! Owns the form of the lines. Passwords, keys and tokens are never among them. A row that is damaged is
//! passed over and counted. A number that is none (NaN, infinity) becomes null. Only reads.

use std::io::{self, Write};

use redb::{
    Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
};
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;
use trainyard_core::{
    decision::Decision,
    record::{LogLine, Progress},
};

use super::Care;
use crate::store::{
    NodeRow,
    block::Kept,
    codec::{self, Place},
    error::ReadError,
    series,
    tables::{EVENTS, JOBS, LOGS, NODES, POINTS, Series, VALIDATIONS},
};

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// One line a job, as it is now.
    Jobs,
    /// One line a point.
    Points,
    /// One line a line.
    Logs,
    /// One line a job's epoch.
    Validations,
    /// One line a node.
    Nodes,
    /// One line a decision.
    Events,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Lines.
    pub lines: u64,
    /// Rows that cannot be read, and are not among them.
    pub damaged: u64,
}

/// Why the export ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The store cannot be read any further.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nobody takes the lines.
    #[error("cannot write the export: {0}")]
    Write(#[from] io::Error),
}

impl Care {
    /// Writes the parts out, those of one job when it is named. Blocks.
    ///
    /// # Errors
    /// When the disk or the other end fails.
    pub fn export(
        &self,
        parts: &[Part],
        job: Option<u64>,
        out: &mut dyn Write,
    ) -> Result<Exported, ExportError> {
        let txn = self.db.begin_read().map_err(ReadError::from)?;
        let mut export = Export {
            txn: &txn,
            job,
            out,
            done: Exported::default(),
        };
        for part in parts {
            match part {
                Part::Jobs => export.jobs()?,
                Part::Points => export.series::<Progress>("point", POINTS)?,
                Part::Logs => export.series::<LogLine>("log", LOGS)?,
                Part::Validations => export.validations()?,
                Part::Nodes => export.nodes()?,
                Part::Events => export.events()?,
            }
        }
        export.out.flush()?;
        Ok(export.done)
    }
}

struct Export<'t> {
    txn: &'t ReadTransaction,
    job: Option<u64>,
    out: &'t mut dyn Write,
    done: Exported,
}

impl Export<'_> {
    fn wants(&self, job: u64) -> bool {
        self.job.is_none_or(|wanted| wanted == job)
    }

    fn jobs(&mut self) -> Result<(), ExportError> {
        each(self.txn, JOBS, |id, bytes| {
            if !self.wants(id) {
                return Ok(());
            }
            let place = Place {
                table: "jobs",
                key: &id,
            };
            let row = codec::from_json::<Value>(place, bytes);
            self.line(row.map(|row| json!({"kind": "job", "id": id, "row": row})))
        })
    }

    fn nodes(&mut self) -> Result<(), ExportError> {
        each(self.txn, NODES, |name, bytes| {
            let name = String::from_utf8_lossy(name).into_owned();
            let place = Place {
                table: "nodes",
                key: &name,
            };
            let row = codec::from_json::<NodeRow>(place, bytes);
            self.line(row.map(|row| json!({"kind": "node", "name": name, "row": row})))
        })
    }

    /// A file that an older version wrote has none.
    fn events(&mut self) -> Result<(), ExportError> {
        match self.txn.open_table(EVENTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(ReadError::from(error).into()),
            Ok(_) => {}
        }
        each(self.txn, EVENTS, |id, bytes| {
            let place = Place {
                table: "events",
                key: &id,
            };
            let row = codec::from_json::<Decision>(place, bytes);
            if row.as_ref().is_ok_and(|row| !self.is_about(row)) {
                return Ok(());
            }
            self.line(row.map(|row| json!({"kind": "event", "id": id, "row": row})))
        })
    }

    fn is_about(&self, decision: &Decision) -> bool {
        let job = decision.job.map(|job| job.0);
        self.job.is_none_or(|wanted| job == Some(wanted))
    }

    fn validations(&mut self) -> Result<(), ExportError> {
        each(self.txn, VALIDATIONS, |(job, epoch), bytes| {
            if !self.wants(job) {
                return Ok(());
            }
            let key = format!("{job}/{epoch}");
            let place = Place {
                table: "validations",
                key: &key,
            };
            let line =
                |row: Value| json!({"kind": "validation", "job": job, "epoch": epoch, "row": row});
            self.line(codec::from_json(place, bytes).map(line))
        })
    }

    fn series<T: Kept>(&mut self, kind: &str, series: Series) -> Result<(), ExportError> {
        let chunks = self.txn.open_table(series.chunks);
        let chunks = chunks.map_err(ReadError::from)?;
        each(self.txn, series.by_job, |(job, first), _count| {
            let bytes = chunks.get(first).map_err(ReadError::from)?;
            let Some(bytes) = bytes.filter(|_| self.wants(job)) else {
                return Ok(());
            };
            let chunk = match series::opened::<T>(self.txn, series, first, bytes.value()) {
                Ok(chunk) => chunk,
                Err(error) => return self.line(Err(error)),
            };
            for (id, whose, row) in chunk.rows(0) {
                let mut line = json!({"kind": kind, "id": id, "job": job, "attempt": whose.attempt, "row": row});
                let fields = line.as_object_mut().filter(|_| whose.rank.0 > 0);
                if let Some(fields) = fields {
                    fields.insert("rank".to_owned(), json!(whose.rank));
                }
                self.line(Ok(line))?;
            }
            Ok(())
        })
    }

    fn line(&mut self, row: Result<Value, ReadError>) -> Result<(), ExportError> {
        match row {
            Ok(row) => {
                serde_json::to_writer(&mut *self.out, &row).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
                self.done.lines += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "a row cannot be exported");
                self.done.damaged += 1;
            }
        }
        Ok(())
    }
}

fn each<K: Key + 'static, V: redb::Value + 'static>(
    txn: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
    mut take: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let table = txn.open_table(definition).map_err(ReadError::from)?;
    for row in table.iter().map_err(ReadError::from)? {
        let (key, value) = row.map_err(ReadError::from)?;
        take(key.value(), value.value())?;
    }
    Ok(())
}
