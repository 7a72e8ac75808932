//! Rows that are a number each, with a checksum of it and of its key: counters, and up to where records are stored.
//!
//! Owns their form, and what says of the open jobs that they are those that were written: their sum. A flipped bit of one
//! of these would lose or double records, or drop a job, without a word. Never decides what is counted. Used by the store's
//! own modules.

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase as _, ReadableTable, TableError,
    WriteTransaction,
};

use super::{
    codec::Place,
    error::ReadError,
    tables::{
        COUNTERS, CURSORS, Checked, LAST_JOB, OLD_COUNTERS, OLD_CURSORS, OPEN_JOBS, OPEN_SUM,
    },
};

/// Job, attempt and rank.
pub(super) type Cursor = (u64, u32, u32);

/// The first version whose files have these rows.
pub(super) const SINCE: u32 = 5;

/// Jobs whose cursors one start removes.
const FORGOTTEN: usize = 10_000;

/// A number of a job that lies further than this beyond those that are known is not believed: it is damage, or an agent's
/// mistake, and numbers would be used up by it.
pub(crate) const NEAR: u64 = 1_000_000;

/// The number as it is written under this key.
pub(super) fn seal<K: Key + 'static>(key: &K::SelfType<'_>, number: u64) -> Checked {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(K::as_bytes(key).as_ref());
    hasher.update(&number.to_le_bytes());
    (number, hasher.finalize())
}

/// The number, if it is what was written under this key.
pub(super) fn unseal<K: Key + 'static>(
    place: Place<'_>,
    key: &K::SelfType<'_>,
    row: Checked,
) -> Result<u64, ReadError> {
    if seal::<K>(key, row.0) == row {
        return Ok(row.0);
    }
    Err(ReadError::Checksum {
        table: place.table.to_owned(),
        key: place.key.to_string(),
    })
}

/// A counter of an open table.
pub(super) fn counter(
    counters: &impl ReadableTable<&'static [u8], Checked>,
    name: &str,
) -> Result<Option<u64>, ReadError> {
    let row = counters.get(name.as_bytes())?;
    row.map(|row| counted(name.as_bytes(), row.value()))
        .transpose()
}

fn counted(name: &[u8], row: Checked) -> Result<u64, ReadError> {
    let place = Place {
        table: "counters",
        key: &String::from_utf8_lossy(name),
    };
    unseal::<&[u8]>(place, &name, row)
}

/// Writes a counter.
pub(super) fn count(
    counters: &mut redb::Table<'_, &'static [u8], Checked>,
    name: &str,
    number: u64,
) -> Result<(), ReadError> {
    let key = name.as_bytes();
    counters.insert(key, seal::<&[u8]>(&key, number))?;
    Ok(())
}

/// Up to where the records of a task are stored.
pub(super) fn cursor(key: Cursor, row: Checked) -> Result<u64, ReadError> {
    let (job, attempt, rank) = key;
    let place = Place {
        table: "cursors",
        key: &format!("{job}/{attempt}/{rank}"),
    };
    unseal::<Cursor>(place, &key, row)
}

/// What an open job adds to the sum: as good as random, so that no two sets of jobs are likely to have one sum.
pub(super) fn weight(job: u64) -> u64 {
    let mixed = job.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The sum of the jobs that are open.
pub(super) fn sum(txn: &WriteTransaction) -> Result<u64, ReadError> {
    let mut sum = 0_u64;
    for row in txn.open_table(OPEN_JOBS)?.iter()? {
        sum = sum.wrapping_add(weight(row?.0.value()));
    }
    Ok(sum)
}

/// A job has ended: nobody asks any more up to where the records of its tasks are stored.
pub(super) fn forget(
    cursors: &mut redb::Table<'_, Cursor, Checked>,
    job: u64,
) -> Result<(), ReadError> {
    cursors.retain_in((job, 0, 0)..=(job, u32::MAX, u32::MAX), |_, _| false)?;
    Ok(())
}

/// The same of jobs that ended in the hands of a program which kept them; of so many of them in one start, which must not
/// take as long as the file is old. The open jobs have to be those that were written.
pub(super) fn forget_ended(db: &Database) -> Result<(), ReadError> {
    let ended = with_cursors(&db.begin_read()?)?;
    if ended.is_empty() {
        return Ok(());
    }
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    let mut cursors = txn.open_table(CURSORS)?;
    for job in &ended {
        forget(&mut cursors, *job)?;
    }
    drop(cursors);
    txn.commit()?;
    tracing::info!(
        jobs = ended.len(),
        "forgot up to where records of jobs that have ended were stored"
    );
    Ok(())
}

/// The first jobs that have ended and have cursors.
fn with_cursors(txn: &ReadTransaction) -> Result<Vec<u64>, ReadError> {
    let (cursors, open) = (txn.open_table(CURSORS)?, txn.open_table(OPEN_JOBS)?);
    let (mut found, mut last) = (Vec::new(), None);
    for row in cursors.iter()? {
        let (job, ..) = row?.0.value();
        if last.replace(job) == Some(job) || open.get(job)?.is_some() {
            continue;
        }
        found.push(job);
        if found.len() >= FORGOTTEN {
            break;
        }
    }
    Ok(found)
}

/// Notes that the jobs which are open have this sum.
pub(super) fn note_sum(txn: &WriteTransaction, sum: u64) -> Result<(), ReadError> {
    count(&mut txn.open_table(COUNTERS)?, OPEN_SUM, sum)
}

/// Notes that this number was given to a job. It stays noted when the row of that job goes.
pub(super) fn note_job(txn: &WriteTransaction, job: u64) -> Result<(), ReadError> {
    let mut counters = txn.open_table(COUNTERS)?;
    if counter(&counters, LAST_JOB)?.is_none_or(|known| known < job) {
        count(&mut counters, LAST_JOB, job)?;
    }
    Ok(())
}

/// Whether the open jobs, which have this sum, are those that were written.
pub(super) fn check_sum(txn: &ReadTransaction, sum: u64) -> Result<(), ReadError> {
    let noted = counter(&txn.open_table(COUNTERS)?, OPEN_SUM)?.unwrap_or_default();
    if sum == noted {
        return Ok(());
    }
    Err(ReadError::Contradiction {
        table: "open_jobs".to_owned(),
        key: "(all)".to_owned(),
        reason: "are not those that were written".to_owned(),
    })
}

/// Shows every row of both tables, and what is wrong with it; of an older file, that has no checksums, only the rows.
pub(super) fn each(
    txn: &ReadTransaction,
    schema: u32,
    mut look: impl FnMut(Row) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    if schema < SINCE {
        return each_old(txn, look);
    }
    for row in txn.open_table(COUNTERS)?.iter()? {
        let (name, row) = row?;
        look(Row::Counter(
            name.value().to_vec(),
            counted(name.value(), row.value()),
        ))?;
    }
    for row in txn.open_table(CURSORS)?.iter()? {
        let (key, row) = row?;
        look(Row::Cursor(key.value(), cursor(key.value(), row.value())))?;
    }
    Ok(())
}

fn each_old(
    txn: &ReadTransaction,
    mut look: impl FnMut(Row) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    if let Some(counters) = there(txn.open_table(OLD_COUNTERS))? {
        for row in counters.iter()? {
            let (name, number) = row?;
            look(Row::Counter(name.value().to_vec(), Ok(number.value())))?;
        }
    }
    if let Some(cursors) = there(txn.open_table(OLD_CURSORS))? {
        for row in cursors.iter()? {
            let (key, number) = row?;
            look(Row::Cursor(key.value(), Ok(number.value())))?;
        }
    }
    Ok(())
}

/// A row that is a number.
pub(super) enum Row {
    /// Of this name.
    Counter(Vec<u8>, Result<u64, ReadError>),
    /// Of this task.
    Cursor(Cursor, Result<u64, ReadError>),
}

impl Row {
    /// What is wrong with it, if anything is.
    pub(super) fn into_result(self) -> Result<(), ReadError> {
        match self {
            Self::Counter(_, number) | Self::Cursor(_, number) => number.map(drop),
        }
    }
}

fn there<T>(opened: Result<T, TableError>) -> Result<Option<T>, ReadError> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The numbers of a file of a version before get their checksums.
pub(super) fn upgrade(txn: &WriteTransaction, from: u32) -> Result<(), ReadError> {
    if from >= SINCE {
        return Ok(());
    }
    {
        let mut counters = txn.open_table(COUNTERS)?;
        for row in txn.open_table(OLD_COUNTERS)?.iter()? {
            let (name, number) = row?;
            let name = name.value();
            counters.insert(name, seal::<&[u8]>(&name, number.value()))?;
        }
        let mut cursors = txn.open_table(CURSORS)?;
        for row in txn.open_table(OLD_CURSORS)?.iter()? {
            let (key, number) = row?;
            let key = key.value();
            cursors.insert(key, seal::<Cursor>(&key, number.value()))?;
        }
    }
    txn.delete_table(OLD_COUNTERS)?;
    txn.delete_table(OLD_CURSORS)?;
    note_sum(txn, sum(txn)?)
}
