//! The tables of the store. Keys ascend with time wherever much is written.
//!
//! Owns their names and types, which never change meaning without a new schema version. Never reads
//! or writes. Used by the store's own modules.

use std::collections::BTreeSet;

use redb::{
    Key, ReadTransaction, ReadableTable, TableDefinition, TableHandle as _, Value, WriteTransaction,
};

use super::error::ReadError;

/// The schema version that this code writes. 2: blocks, and what each job holds. 3: tasks above rank 0, in rows of jobs,
/// chunks and blocks. 4: what jobs ask for beyond their resources, and causes of stops that older programs would not heed.
/// 5: checksums of counters and cursors, and the sum of the open jobs.
pub(super) const SCHEMA: u32 = 5;
/// Where the schema version stands in `META`.
pub(super) const SCHEMA_KEY: &str = "store.schema";
/// Where the instance id stands in `META`.
pub(super) const INSTANCE_KEY: &str = "store.instance";
/// Where the highest number of a session stands in `META` that may have been given; written with the first row of a node.
pub(crate) const SESSIONS_KEY: &str = "sessions";

pub(super) type Numbered = TableDefinition<'static, u64, &'static [u8]>;
pub(super) type Named = TableDefinition<'static, &'static [u8], &'static [u8]>;
pub(super) type NamedNumber = TableDefinition<'static, &'static [u8], u64>;
pub(super) type ByJob = TableDefinition<'static, (u64, u64), u32>;
/// A number, and the checksum of it and of its key.
pub(super) type Checked = (u64, u32);
pub(super) type OfJob = TableDefinition<'static, u64, u64>;

pub(super) const META: Named = TableDefinition::new("meta");
pub(super) const COUNTERS: TableDefinition<'static, &'static [u8], Checked> =
    TableDefinition::new("checked_counters");
/// As versions before 5 had it.
pub(super) const OLD_COUNTERS: NamedNumber = TableDefinition::new("counters");
/// Where the sum of the open jobs stands in `COUNTERS`.
pub(super) const OPEN_SUM: &str = "open_jobs";
/// Where the highest number that was ever given to a job stands in `COUNTERS`; older programs of this version write none.
pub(super) const LAST_JOB: &str = "last_job";
pub(super) const JOBS: Numbered = TableDefinition::new("jobs");
pub(super) const OPEN_JOBS: TableDefinition<'static, u64, ()> = TableDefinition::new("open_jobs");
pub(super) const VALIDATIONS: TableDefinition<'static, (u64, u32), &'static [u8]> =
    TableDefinition::new("validations");
pub(super) const CURSORS: TableDefinition<'static, (u64, u32, u32), Checked> =
    TableDefinition::new("checked_cursors");
/// As versions before 5 had it.
pub(super) const OLD_CURSORS: TableDefinition<'static, (u64, u32, u32), u64> =
    TableDefinition::new("cursors");
pub(super) const NODES: Named = TableDefinition::new("nodes");
pub(super) const USERS: Numbered = TableDefinition::new("users");
pub(super) const USERS_BY_EMAIL: NamedNumber = TableDefinition::new("users_by_email");
/// (kind, key) → JSON.
pub(super) const DOCUMENTS: TableDefinition<'static, (&str, &str), &'static [u8]> =
    TableDefinition::new("documents");
pub(super) const REQUEST_KEYS: NamedNumber = TableDefinition::new("request_keys");
/// Number of a job's last change → job; one row a job, numbers ascend with time.
pub(super) const CHANGED: TableDefinition<'static, u64, u64> = TableDefinition::new("changed");
/// Job → number of its last change.
pub(super) const CHANGED_OF: TableDefinition<'static, u64, u64> =
    TableDefinition::new("changed_of");
/// Where the last number stands in `COUNTERS`.
pub(super) const CHANGED_COUNTER: &str = "changed";

/// Number → what was decided. Ascending with time; the last one is never removed, so that no number is given twice.
pub(super) const EVENTS: Numbered = TableDefinition::new("events");
/// (job, number) of what is about a job, or for it.
pub(super) const EVENTS_OF_JOB: TableDefinition<'static, (u64, u64), ()> =
    TableDefinition::new("events_of_job");
/// (node, number) of what is about a node.
pub(super) const EVENTS_OF_NODE: TableDefinition<'static, (&str, u64), ()> =
    TableDefinition::new("events_of_node");

/// (id of the first row of a sealed block of points, name of a metric) → its values.
pub(super) const COLUMNS: TableDefinition<'static, (u64, &str), &'static [u8]> =
    TableDefinition::new("point_columns");

/// What there is of a job in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// Reports of progress.
    Points,
    /// Lines of its log.
    Lines,
}

impl Rows {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Points, Self::Lines];

    pub(super) fn series(self) -> Series {
        match self {
            Self::Points => POINTS,
            Self::Lines => LOGS,
        }
    }
}

/// Rows in chunks and sealed blocks under ascending ids, with an index by job.
#[derive(Clone, Copy)]
pub(super) struct Series {
    /// Of which kind.
    pub(super) rows: Rows,
    /// Its name, also of its counter.
    pub(super) name: &'static str,
    /// Id of the first row → chunk or block.
    pub(super) chunks: Numbered,
    /// (job, id of the first row) → number of rows, and whether they are sealed.
    pub(super) by_job: ByJob,
    /// Job → chunks that are not sealed; none when there are none.
    pub(super) raw: OfJob,
    /// Job → bytes of its values; none when it has none.
    pub(super) held: OfJob,
    /// Job → below which id its rows are taken out, and up to which id that is known.
    pub(super) trimmed: TableDefinition<'static, u64, (u64, u64)>,
}

pub(super) const POINTS: Series = Series {
    rows: Rows::Points,
    name: "points",
    chunks: TableDefinition::new("points"),
    by_job: TableDefinition::new("points_by_job"),
    raw: TableDefinition::new("points_raw"),
    held: TableDefinition::new("points_held"),
    trimmed: TableDefinition::new("points_trimmed"),
};
pub(super) const LOGS: Series = Series {
    rows: Rows::Lines,
    name: "logs",
    chunks: TableDefinition::new("logs"),
    by_job: TableDefinition::new("logs_by_job"),
    raw: TableDefinition::new("logs_raw"),
    held: TableDefinition::new("logs_held"),
    trimmed: TableDefinition::new("logs_trimmed"),
};

/// Where tables are read: a snapshot, or a transaction that writes.
pub(super) trait Source {
    /// One of them. A transaction that writes has a table open once at a time.
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<impl ReadableTable<K, V>, ReadError>;
}

impl Source for ReadTransaction {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<impl ReadableTable<K, V>, ReadError> {
        Ok(self.open_table(definition)?)
    }
}

impl Source for WriteTransaction {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<impl ReadableTable<K, V>, ReadError> {
        Ok(self.open_table(definition)?)
    }
}

/// Something that is done with every table.
pub(super) trait Visit {
    /// One of them.
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), ReadError>;
}

/// Shows every table, in an order that never matters.
pub(super) fn visit_all(visit: &mut impl Visit) -> Result<(), ReadError> {
    visit.table(META)?;
    visit.table(COUNTERS)?;
    visit.table(JOBS)?;
    visit.table(OPEN_JOBS)?;
    visit.table(VALIDATIONS)?;
    visit.table(CURSORS)?;
    visit.table(NODES)?;
    visit.table(USERS)?;
    visit.table(USERS_BY_EMAIL)?;
    visit.table(REQUEST_KEYS)?;
    visit.table(DOCUMENTS)?;
    visit.table(CHANGED)?;
    visit.table(CHANGED_OF)?;
    visit.table(EVENTS)?;
    visit.table(EVENTS_OF_JOB)?;
    visit.table(EVENTS_OF_NODE)?;
    for series in [POINTS, LOGS] {
        visit.table(series.chunks)?;
        visit.table(series.by_job)?;
        visit.table(series.raw)?;
        visit.table(series.held)?;
        visit.table(series.trimmed)?;
    }
    visit.table(COLUMNS)
}

/// Shows the tables that only files of versions before have.
pub(super) fn visit_old(visit: &mut impl Visit) -> Result<(), ReadError> {
    visit.table(OLD_COUNTERS)?;
    visit.table(OLD_CURSORS)
}

/// The names of the tables that each file of this version has, and of those that only files of versions before have.
pub(super) fn names() -> Result<(Names, Names), ReadError> {
    let (mut all, mut old) = (Names::new(), Names::new());
    visit_all(&mut all)?;
    visit_old(&mut old)?;
    Ok((all, old))
}

/// Names of tables.
pub(super) type Names = BTreeSet<String>;

impl Visit for Names {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), ReadError> {
        self.insert(definition.name().to_owned());
        Ok(())
    }
}

/// Creates what is missing, so that no reader meets a missing table.
pub(super) fn create_all(txn: &WriteTransaction) -> Result<(), ReadError> {
    struct Create<'t>(&'t WriteTransaction);
    impl Visit for Create<'_> {
        fn table<K: Key + 'static, V: Value + 'static>(
            &mut self,
            definition: TableDefinition<'static, K, V>,
        ) -> Result<(), ReadError> {
            self.0.open_table(definition)?;
            Ok(())
        }
    }
    visit_all(&mut Create(txn))
}
