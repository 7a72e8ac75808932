//! One transaction's worth of changes, turned into rows.
//!
//! Owns which tables a change touches, and the indexes that follow. Never commits. Called by the
//! committing thread.

use std::collections::BTreeSet;

use redb::{ReadableTable as _, ReadableTableMetadata as _, WriteTransaction};
use serde::Serialize;
use trainyard_core::{
    ids::{JobId, TaskKey},
    job::Job,
};

use super::{
    Change, NodeRow, UserRow, changed,
    codec::{self, Place},
    error::ReadError,
    events,
    held::Held,
    numbers,
    opened::Opened,
    seal, series,
    tables::{
        COUNTERS, DOCUMENTS, LOGS, META, NODES, OPEN_SUM, POINTS, REQUEST_KEYS, Rows, Series,
        USERS, USERS_BY_EMAIL, VALIDATIONS,
    },
};

/// The changes of one commit.
pub(super) struct Batch<'t> {
    pub(super) txn: &'t WriteTransaction,
    pub(super) next_point: u64,
    next_log: u64,
    /// The two as they stand in the file.
    noted: (u64, u64),
    changed: BTreeSet<u64>,
    /// By how much the sum of the open jobs grows.
    open_sum: u64,
    /// The highest number of a job whose first row this is; 0 when there is none.
    new_job: u64,
    /// The number of the last event; none when there is no new one.
    pub(super) last_event: Option<u64>,
    pub(super) held: Held,
    pub(super) opened: Opened<'t>,
}

impl<'t> Batch<'t> {
    pub(super) fn begin(txn: &'t WriteTransaction) -> Result<Self, ReadError> {
        let (next_point, next_log) = series::next_ids(txn)?;
        Ok(Self {
            txn,
            next_point,
            next_log,
            noted: (next_point, next_log),
            changed: BTreeSet::new(),
            open_sum: 0,
            new_job: 0,
            last_event: None,
            held: Held::default(),
            opened: Opened::default(),
        })
    }

    /// How many jobs have not ended; none when no job was written.
    pub(super) fn count_open(&mut self) -> Result<Option<u64>, ReadError> {
        if self.changed.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.opened.open_jobs(self.txn)?.len()?))
    }

    /// Numbers what was changed and counts what is held; once, after the last change.
    pub(super) fn finish(mut self) -> Result<Option<u64>, ReadError> {
        self.opened.close();
        if self.noted != (self.next_point, self.next_log) {
            series::note_ids(self.txn, (self.next_point, self.next_log))?;
        }
        if self.open_sum != 0 {
            let before = numbers::counter(&self.txn.open_table(COUNTERS)?, OPEN_SUM)?;
            let sum = before.unwrap_or_default().wrapping_add(self.open_sum);
            numbers::note_sum(self.txn, sum)?;
        }
        if self.new_job > 0 {
            numbers::note_job(self.txn, self.new_job)?;
        }
        self.held.write(self.txn)?;
        changed::number(self.txn, &self.changed)
    }

    /// Writes the change; for an append, the id of its first row.
    pub(super) fn apply(&mut self, change: Change) -> Result<Option<u64>, ReadError> {
        match change {
            Change::PutJob(job) => {
                self.changed.insert(job.id.0);
                self.put_job(*job)?;
            }
            Change::AppendPoints { task, points } => {
                self.changed.insert(task.job.0);
                return self.append(POINTS, (task, points)).map(Some);
            }
            Change::AppendLogs { task, lines } => {
                return self.append(LOGS, (task, lines)).map(Some);
            }
            Change::PutValidation { job, epoch, body } => {
                let bytes = codec::seal(body.as_bytes());
                let mut table = self.txn.open_table(VALIDATIONS)?;
                table.insert((job.0, epoch), bytes.as_slice())?;
            }
            Change::PutCursor { task, seq } => {
                let key = (task.job.0, task.attempt.0, task.rank.0);
                let row = numbers::seal::<numbers::Cursor>(&key, seq);
                self.opened.cursors(self.txn)?.insert(key, row)?;
            }
            Change::PutNode(node) => self.put_node(&node)?,
            Change::RemoveNode(name) => {
                self.txn.open_table(NODES)?.remove(name.0.as_bytes())?;
            }
            Change::PutUser(user) => self.put_user(&user)?,
            Change::PutMeta { key, value } => put_meta(self.txn, &key, &value)?,
            Change::PutDocument { kind, key, body } => {
                let bytes = codec::seal(body.as_bytes());
                let mut table = self.txn.open_table(DOCUMENTS)?;
                table.insert((kind, key.as_str()), bytes.as_slice())?;
            }
            Change::RemoveDocument { kind, key } => {
                let mut table = self.txn.open_table(DOCUMENTS)?;
                table.remove((kind, key.as_str()))?;
            }
            Change::PutRequestKey { key, job } => {
                let mut table = self.txn.open_table(REQUEST_KEYS)?;
                table.insert(key.as_bytes(), job.0)?;
            }
            Change::DropRequestKey { key, job, document } => {
                self.drop_request_key(&key, job, document)?;
            }
            Change::Note(notes) => self.note(&notes)?,
            Change::ForgetEvents(to) => {
                self.opened.close();
                events::forget(self.txn, to)?;
            }
            Change::Seal(sealing) => {
                self.opened.close();
                seal::exchange(self.txn, *sealing, &mut self.held)?;
            }
            Change::Trim(what) => self.trim(*what)?,
        }
        Ok(None)
    }

    /// The id of the first row.
    pub(super) fn append<T: Serialize>(
        &mut self,
        series: Series,
        rows: (TaskKey, Vec<T>),
    ) -> Result<u64, ReadError> {
        let next = match series.rows {
            Rows::Points => &mut self.next_point,
            Rows::Lines => &mut self.next_log,
        };
        let (job, first) = (rows.0.job, *next);
        let tables = self.opened.appending(self.txn, series.rows)?;
        if let Some(bytes) = series::append(tables, series, next, rows)? {
            self.held.chunk(series.rows, job.0, bytes);
        }
        Ok(first)
    }

    fn put_job(&mut self, job: Job) -> Result<(), ReadError> {
        let id = job.id.0;
        let open = self.opened.open_jobs(self.txn)?;
        if job.state.is_terminal() {
            if open.remove(id)?.is_some() {
                self.open_sum = self.open_sum.wrapping_sub(numbers::weight(id));
                // What is sent of an attempt that is over is not taken, however far it was.
                numbers::forget(self.opened.cursors(self.txn)?, id)?;
            }
        } else if open.insert(id, ())?.is_none() {
            self.open_sum = self.open_sum.wrapping_add(numbers::weight(id));
        }
        let place = Place {
            table: "jobs",
            key: &id,
        };
        let bytes = codec::job_to_json(place, job)?;
        let jobs = self.opened.jobs(self.txn)?;
        if jobs.insert(id, bytes.as_slice())?.is_none() {
            self.new_job = self.new_job.max(id);
        }
        Ok(())
    }

    fn drop_request_key(&mut self, key: &str, job: JobId, document: &str) -> Result<(), ReadError> {
        if self.opened.open_jobs(self.txn)?.get(job.0)?.is_some() {
            return Ok(());
        }
        let mut keys = self.txn.open_table(REQUEST_KEYS)?;
        let own = keys
            .get(key.as_bytes())?
            .is_some_and(|of| of.value() == job.0);
        if own {
            keys.remove(key.as_bytes())?;
            self.txn.open_table(DOCUMENTS)?.remove((document, key))?;
        }
        Ok(())
    }

    fn put_node(&mut self, node: &NodeRow) -> Result<(), ReadError> {
        let place = Place {
            table: "nodes",
            key: &node.name,
        };
        let bytes = codec::to_json(place, node)?;
        let mut table = self.txn.open_table(NODES)?;
        let before = table.insert(node.name.0.as_bytes(), bytes.as_slice())?;
        let before = before.map(|before| codec::from_json::<NodeRow>(place, before.value()));
        let before = before.transpose()?;
        drop(table);
        let notes = events::of_node(before.as_ref(), node);
        if notes.is_empty() {
            return Ok(());
        }
        self.note(&notes)
    }

    fn put_user(&self, user: &UserRow) -> Result<(), ReadError> {
        let place = Place {
            table: "users",
            key: &user.id,
        };
        let bytes = codec::to_json(place, user)?;
        let mut by_email = self.txn.open_table(USERS_BY_EMAIL)?;
        let mut users = self.txn.open_table(USERS)?;
        if let Some(old) = users.insert(user.id, bytes.as_slice())? {
            let old: UserRow = codec::from_json(place, old.value())?;
            by_email.remove(old.email.as_bytes())?;
        }
        by_email.insert(user.email.as_bytes(), user.id)?;
        Ok(())
    }
}

/// Writes a value of `META`.
pub(super) fn put_meta(txn: &WriteTransaction, key: &str, value: &str) -> Result<(), ReadError> {
    let bytes = codec::seal(value.as_bytes());
    let mut table = txn.open_table(META)?;
    table.insert(key.as_bytes(), bytes.as_slice())?;
    Ok(())
}
