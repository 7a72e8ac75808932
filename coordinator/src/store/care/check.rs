//! Whether every row is what was written, and whether the tables agree.
//!
//! Owns what is wrong with a store, row by row. Only reads. A row's checksum is ours, because redb does not
//! verify its own on reads; a thorough opening has compared those of the pages too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use redb::{
    Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
};
use serde::{Serialize, de::DeserializeOwned};
use trainyard_core::{
    decision::Decision,
    record::{LogLine, Progress},
};

use super::{Care, first};
use crate::store::{
    NodeRow, UserRow,
    codec::{self, Place},
    error::{CareError, ReadError},
    numbers,
    tables::{
        CHANGED, CHANGED_OF, DOCUMENTS, EVENTS, EVENTS_OF_JOB, EVENTS_OF_NODE, JOBS, LOGS, META,
        NODES, OPEN_JOBS, POINTS, REQUEST_KEYS, SESSIONS_KEY, USERS, USERS_BY_EMAIL, VALIDATIONS,
    },
    writer::guarded,
};

/// What is said of a row of an index.
const NO_EVENT: &str = "names an event that is not there, or is about another";
/// Problems that are told one by one; the rest is counted.
const TOLD: usize = 1_000;

/// What a check has found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The schema version of the file.
    pub schema: u32,
    /// Whether redb's own checksums of its pages were right.
    pub pages_intact: bool,
    /// Every table that was read.
    pub tables: Vec<TableReport>,
    /// How many rows are damaged or contradict each other.
    pub problem_count: u64,
    /// The first thousand of them.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.pages_intact && self.problem_count == 0
    }
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// Its name.
    pub name: &'static str,
    /// Its rows; of points and logs, chunks.
    pub rows: u64,
    /// Of its values.
    pub bytes: u64,
}

/// One row that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub table: &'static str,
    /// Which row.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

impl Care {
    /// Reads every row. Blocks, for as long as the disk takes.
    ///
    /// # Errors
    /// When a table cannot be read at all.
    pub fn check(&self) -> Result<Report, CareError> {
        let failed = |source| CareError::Read {
            path: self.path.clone(),
            source,
        };
        let txn = self.db.begin_read().map_err(|error| failed(error.into()))?;
        let mut check = Check {
            txn: &txn,
            report: Report {
                schema: self.schema,
                pages_intact: self.intact,
                tables: Vec::new(),
                problem_count: 0,
                problems: Vec::new(),
            },
        };
        check.all();
        Ok(check.report)
    }
}

pub(super) struct Check<'t> {
    pub(super) txn: &'t ReadTransaction,
    pub(super) report: Report,
}

/// Every job's number, and whether it has ended.
pub(super) type Jobs = BTreeMap<u64, Option<bool>>;

impl Check<'_> {
    fn all(&mut self) {
        self.step("meta", Self::meta);
        self.step("documents", |check| {
            check.sealed("documents", DOCUMENTS, |(kind, key)| {
                format!("{kind}/{key}")
            })
        });
        self.step("nodes", Self::nodes);
        self.step("users", Self::users);
        if let Some(jobs) = self.step("jobs", Self::jobs) {
            self.step("validations", |check| check.of_jobs(&jobs));
            self.step(POINTS.name, |check| check.series::<Progress>(POINTS, &jobs));
            self.step(LOGS.name, |check| check.series::<LogLine>(LOGS, &jobs));
            self.step("changed", |check| check.changes(&jobs));
        }
        self.step("point_columns", Self::columns);
        self.step("events", Self::events);
    }

    /// A page that redb cannot read is a problem like any other: the rest is looked at all the same.
    fn step<T>(
        &mut self,
        table: &'static str,
        look: impl FnOnce(&mut Self) -> Result<T, ReadError>,
    ) -> Option<T> {
        match guarded(|| look(self)) {
            Ok(found) => Some(found),
            Err(error) => {
                let words = format!("it and what belongs to it cannot be read to the end: {error}");
                self.wrong(table, &"(all)", words);
                None
            }
        }
    }

    fn meta(&mut self) -> Result<(), ReadError> {
        self.sealed("meta", META, |key| {
            String::from_utf8_lossy(key).into_owned()
        })?;
        if first::lacks_sessions(self.txn)? {
            self.wrong("meta", &SESSIONS_KEY, first::NO_SESSIONS);
        }
        Ok(())
    }

    /// Rows with a checksum whose meaning is their owner's.
    fn sealed<K: Key + 'static>(
        &mut self,
        table: &'static str,
        definition: TableDefinition<'static, K, &'static [u8]>,
        name: impl Fn(K::SelfType<'_>) -> String,
    ) -> Result<(), ReadError> {
        self.rows(table, definition, |check, key, bytes| {
            let key = name(key);
            let place = Place { table, key: &key };
            if let Err(error) = codec::unseal(place, bytes) {
                check.damaged(table, &key, error);
            }
        })
    }

    /// A file that an older version wrote has none.
    fn events(&mut self) -> Result<(), ReadError> {
        match self.txn.open_table(EVENTS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => self.events_and_indexes(),
        }
    }

    fn events_and_indexes(&mut self) -> Result<(), ReadError> {
        let (mut of_job, mut of_node) = (BTreeSet::new(), BTreeSet::new());
        // Of a damaged one it is not known what it is about.
        let mut unread = BTreeSet::new();
        self.rows("events", EVENTS, |check, id, bytes| {
            let Some(note) = check.json::<Decision>("events", &id, bytes) else {
                unread.insert(id);
                return;
            };
            of_job.extend(
                note.job
                    .into_iter()
                    .chain(note.for_job)
                    .map(|job| (job.0, id)),
            );
            of_node.extend(note.nodes.into_iter().map(|node| (node.0, id)));
        })?;
        for row in self.txn.open_table(EVENTS_OF_JOB)?.iter()? {
            let (job, id) = row?.0.value();
            if !of_job.remove(&(job, id)) && !unread.contains(&id) {
                self.wrong("events_of_job", &format!("{job}/{id}"), NO_EVENT);
            }
        }
        for row in self.txn.open_table(EVENTS_OF_NODE)?.iter()? {
            let (key, _) = row?;
            let (node, id) = key.value();
            let node = node.to_owned();
            if !of_node.remove(&(node.clone(), id)) && !unread.contains(&id) {
                self.wrong("events_of_node", &format!("{node}/{id}"), NO_EVENT);
            }
        }
        for (_, id) in of_job {
            self.wrong("events", &id, "is not in events_of_job");
        }
        for (_, id) in of_node {
            self.wrong("events", &id, "is not in events_of_node");
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<(), ReadError> {
        self.rows("nodes", NODES, |check, key, bytes| {
            let key = String::from_utf8_lossy(key).into_owned();
            let row = check.json::<NodeRow>("nodes", &key, bytes);
            if let Some(row) = row.filter(|row| row.name.0 != key) {
                check.wrong("nodes", &key, format!("holds node {}", row.name));
            }
        })
    }

    fn users(&mut self) -> Result<(), ReadError> {
        let mut by_email = BTreeMap::new();
        self.rows("users", USERS, |check, id, bytes| {
            let Some(user) = check.json::<UserRow>("users", &id, bytes) else {
                return;
            };
            if user.id != id {
                check.wrong("users", &id, format!("holds user {}", user.id));
            }
            by_email.insert(user.email, id);
        })?;
        let index = self.txn.open_table(USERS_BY_EMAIL)?;
        for row in index.iter()? {
            let (email, id) = row?;
            let email = String::from_utf8_lossy(email.value()).into_owned();
            if by_email.remove(&email) != Some(id.value()) {
                self.wrong("users_by_email", &email, "names no user with this address");
            }
        }
        for (email, id) in by_email {
            let words = format!("{email} is not in users_by_email");
            self.wrong("users", &id, words);
        }
        Ok(())
    }

    /// Every job's number, and whether it has ended.
    fn jobs(&mut self) -> Result<Jobs, ReadError> {
        let mut jobs = BTreeMap::new();
        self.rows("jobs", JOBS, |check, id, bytes| {
            let place = Place {
                table: "jobs",
                key: &id,
            };
            let ended = match codec::job_from_json(place, bytes) {
                Ok(job) => {
                    if job.id.0 != id {
                        check.wrong("jobs", &id, format!("holds job {}", job.id));
                    }
                    Some(job.state.is_terminal())
                }
                Err(error) => {
                    check.damaged("jobs", &id, error);
                    None
                }
            };
            jobs.insert(id, ended);
        })?;
        let mut open = BTreeSet::new();
        for row in self.txn.open_table(OPEN_JOBS)?.iter()? {
            open.insert(row?.0.value());
        }
        for (id, ended) in &jobs {
            if *ended == Some(open.contains(id)) {
                let words = "open_jobs does not agree with whether it has ended";
                self.wrong("jobs", id, words);
            }
        }
        let weights = open.iter().map(|id| numbers::weight(*id));
        let sum = weights.fold(0, u64::wrapping_add);
        if self.report.schema >= numbers::SINCE
            && let Err(error) = numbers::check_sum(self.txn, sum)
        {
            self.damaged("open_jobs", &"(all)", error);
        }
        for id in open.iter().filter(|id| !jobs.contains_key(id)) {
            self.wrong("open_jobs", id, "names a job that is not there");
        }
        Ok(jobs)
    }

    /// Rows that belong to a job and have no reader of their own.
    fn of_jobs(&mut self, jobs: &Jobs) -> Result<(), ReadError> {
        self.rows("validations", VALIDATIONS, |check, (job, epoch), bytes| {
            let key = format!("{job}/{epoch}");
            let place = Place {
                table: "validations",
                key: &key,
            };
            if let Err(error) = codec::to_text(place, bytes) {
                check.damaged("validations", &key, error);
            }
            check.owned("validations", &key, jobs.contains_key(&job));
        })?;
        let (txn, schema) = (self.txn, self.report.schema);
        numbers::each(txn, schema, |row| {
            match row {
                numbers::Row::Counter(name, number) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    if let Err(error) = number {
                        self.damaged("counters", &name, error);
                    }
                }
                numbers::Row::Cursor((job, attempt, rank), number) => {
                    let key = format!("{job}/{attempt}/{rank}");
                    self.owned("cursors", &key, jobs.contains_key(&job));
                    if let Err(error) = number {
                        self.damaged("cursors", &key, error);
                    }
                }
            }
            Ok(())
        })?;
        for row in self.txn.open_table(REQUEST_KEYS)?.iter()? {
            let (key, job) = row?;
            let key = String::from_utf8_lossy(key.value()).into_owned();
            self.owned("request_keys", &key, jobs.contains_key(&job.value()));
        }
        Ok(())
    }

    fn changes(&mut self, jobs: &Jobs) -> Result<(), ReadError> {
        let mut of = BTreeMap::new();
        for row in self.txn.open_table(CHANGED_OF)?.iter()? {
            let (job, number) = row?;
            of.insert(job.value(), number.value());
        }
        for row in self.txn.open_table(CHANGED)?.iter()? {
            let (number, job) = row?;
            if of.remove(&job.value()) != Some(number.value()) {
                self.wrong("changed", &number.value(), "does not agree with changed_of");
            }
            self.owned("changed", &number.value(), jobs.contains_key(&job.value()));
        }
        for (job, _) in of {
            self.wrong("changed_of", &job, "does not agree with changed");
        }
        Ok(())
    }

    /// Every row of a table, counted.
    pub(super) fn rows<K: Key + 'static>(
        &mut self,
        name: &'static str,
        definition: TableDefinition<'static, K, &'static [u8]>,
        mut look: impl FnMut(&mut Self, K::SelfType<'_>, &[u8]),
    ) -> Result<(), ReadError> {
        let table = self.txn.open_table(definition)?;
        let mut count = TableReport {
            name,
            rows: 0,
            bytes: 0,
        };
        for row in table.iter()? {
            let (key, bytes) = row?;
            count.rows += 1;
            count.bytes += bytes.value().len() as u64;
            look(self, key.value(), bytes.value());
        }
        self.report.tables.push(count);
        Ok(())
    }

    fn json<T: DeserializeOwned>(
        &mut self,
        table: &'static str,
        key: &dyn Display,
        bytes: &[u8],
    ) -> Option<T> {
        match codec::from_json(Place { table, key }, bytes) {
            Ok(row) => Some(row),
            Err(error) => {
                self.damaged(table, key, error);
                None
            }
        }
    }

    pub(super) fn owned(&mut self, table: &'static str, key: &dyn Display, is_owned: bool) {
        if !is_owned {
            self.wrong(table, key, "belongs to a job that is not there");
        }
    }

    pub(super) fn damaged(&mut self, table: &'static str, key: &dyn Display, error: ReadError) {
        let words = match error {
            ReadError::Checksum { .. } => "its checksum is wrong".to_owned(),
            ReadError::Decode { reason, .. } => format!("it cannot be decoded: {reason}"),
            ReadError::Contradiction { reason, .. } => reason,
            ReadError::Storage(source) => format!("it cannot be read: {source}"),
        };
        self.wrong(table, key, words);
    }

    pub(super) fn wrong(
        &mut self,
        table: &'static str,
        key: &dyn Display,
        words: impl Into<String>,
    ) {
        self.report.problem_count += 1;
        if self.report.problems.len() < TOLD {
            self.report.problems.push(Problem {
                table,
                key: key.to_string(),
                problem: words.into(),
            });
        }
    }
}
