//! What a coordinator looks at before it serves: whether what it cannot work without is what was written.
//!
//! Owns which rows these are. Only reads. Chunks of points and lines are looked at when they are read, rows of jobs that
//! have ended too; indexes by the whole check alone.

use std::fmt::Display;

use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTable as _, TableDefinition};
use serde::de::DeserializeOwned;

use crate::store::{
    NodeRow, UserRow,
    codec::{self, Place},
    error::ReadError,
    numbers,
    parts::by_parts,
    read::open_numbers,
    tables::{DOCUMENTS, JOBS, META, NODES, SCHEMA, SESSIONS_KEY, USERS},
};

/// What is said of a row that is missed in `META`.
pub(super) const NO_SESSIONS: &str = "is not there, although there are nodes";

/// The first row of the small tables, or of a job that has not ended, that is not what was written.
pub(in crate::store) fn first_damage(txn: &ReadTransaction) -> Result<(), ReadError> {
    each(txn, META, |key, bytes| {
        let key = String::from_utf8_lossy(key).into_owned();
        codec::unseal(place("meta", &key), bytes).map(drop)
    })?;
    each(txn, DOCUMENTS, |(kind, key), bytes| {
        let key = format!("{kind}/{key}");
        codec::unseal(place("documents", &key), bytes).map(drop)
    })?;
    each(txn, NODES, |key, bytes| {
        let key = String::from_utf8_lossy(key).into_owned();
        own::<NodeRow>(("nodes", &key), bytes, |row| {
            (row.name.0 != key).then(|| format!("holds node {}", row.name))
        })
    })?;
    each(txn, USERS, |id, bytes| {
        own::<UserRow>(("users", &id), bytes, |row| {
            (row.id != id).then(|| format!("holds user {}", row.id))
        })
    })?;
    if lacks_sessions(txn)? {
        return Err(contradiction(("meta", &SESSIONS_KEY), NO_SESSIONS));
    }
    let jobs = txn.open_table(JOBS)?;
    let open = open_numbers(txn)?;
    by_parts(&open, |part| {
        for id in part {
            open_job(&jobs, *id)?;
        }
        Ok(())
    })?;
    let weights = open.iter().map(|id| numbers::weight(*id));
    let sum = weights.fold(0_u64, u64::wrapping_add);
    numbers::check_sum(txn, sum)?;
    numbers::each(txn, SCHEMA, numbers::Row::into_result)
}

/// The number of the last session is noted with the row of a node: without it old sessions would be taken for new ones.
pub(super) fn lacks_sessions(txn: &ReadTransaction) -> Result<bool, ReadError> {
    let some = txn.open_table(NODES)?.first()?.is_some();
    let meta = txn.open_table(META)?;
    Ok(some && meta.get(SESSIONS_KEY.as_bytes())?.is_none())
}

fn each<K: Key + 'static>(
    txn: &ReadTransaction,
    definition: TableDefinition<'static, K, &'static [u8]>,
    look: impl Fn(K::SelfType<'_>, &[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    for row in txn.open_table(definition)?.iter()? {
        let (key, bytes) = row?;
        look(key.value(), bytes.value())?;
    }
    Ok(())
}

/// The checksum of a row is not of its key, which stands in such a row once more.
fn own<T: DeserializeOwned>(
    (table, key): (&str, &dyn Display),
    bytes: &[u8],
    wrong: impl Fn(&T) -> Option<String>,
) -> Result<(), ReadError> {
    let row = codec::from_json::<T>(Place { table, key }, bytes)?;
    match wrong(&row) {
        Some(words) => Err(contradiction((table, key), &words)),
        None => Ok(()),
    }
}

/// A job that has not ended is there, and as it was written.
fn open_job(jobs: &ReadOnlyTable<u64, &'static [u8]>, id: u64) -> Result<(), ReadError> {
    let Some(bytes) = jobs.get(id)? else {
        let words = "is not there, although the job is open";
        return Err(contradiction(("jobs", &id), words));
    };
    codec::unseal(place("jobs", &id), bytes.value()).map(drop)
}

fn place<'a>(table: &'a str, key: &'a dyn Display) -> Place<'a> {
    Place { table, key }
}

fn contradiction((table, key): (&str, &dyn Display), words: &str) -> ReadError {
    ReadError::Contradiction {
        table: table.to_owned(),
        key: key.to_string(),
        reason: words.to_owned(),
    }
}
