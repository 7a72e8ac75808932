//! Opening the file: who may, which version, and what is wrong with it.
//!
//! Owns the checks before the first write and the first rows of a new file. Never repairs by itself
//! and never overwrites a file that it does not understand. Called by `Store::open`.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _,
    StorageError, TableError,
};

use super::{
    StoreOptions,
    apply::put_meta,
    care::check,
    codec::{self, Place},
    error::{OpenError, ReadError},
    migrate,
    tables::{self, INSTANCE_KEY, META, OPEN_JOBS, SCHEMA, SCHEMA_KEY},
    writer::panic_text,
};

/// A database whose schema is understood.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) instance: String,
    /// Jobs that have not ended.
    pub(super) open_jobs: u64,
}

/// The folder of the file.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn open(options: &StoreOptions) -> Result<Opened, OpenError> {
    let path = options.path.as_path();
    touch(path).map_err(|source| OpenError::NotWritable {
        path: path.to_path_buf(),
        source,
    })?;
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    // redb asserts on some damaged files instead of returning an error.
    let db = catch_unwind(AssertUnwindSafe(|| builder.create(path)))
        .map_err(|panic| damaged(path, panic_text(panic.as_ref())))?
        .map_err(|error| refused(path, error))?;
    prepare(db, path)
}

/// Checks the schema, or writes it into a new file.
pub(super) fn prepare(db: Database, path: &Path) -> Result<Opened, OpenError> {
    let unreadable = |error: ReadError| damaged(path, error.to_string());
    let (from, instance) = match meta(&db, SCHEMA_KEY).map_err(unreadable)? {
        Some(text) => {
            let found = schema(&text, path)?;
            if found > SCHEMA {
                return Err(newer(path, found));
            }
            let instance = meta(&db, INSTANCE_KEY)
                .map_err(unreadable)?
                .ok_or_else(|| damaged(path, "it has no instance id".to_owned()))?;
            (found, instance)
        }
        None => (SCHEMA, format!("{:032x}", rand::random::<u128>())),
    };
    initialise(&db, from, &instance).map_err(unreadable)?;
    let txn = db.begin_read().map_err(|error| unreadable(error.into()))?;
    check::first_damage(&txn).map_err(unreadable)?;
    let open_jobs = count_open(&txn).map_err(unreadable)?;
    drop(txn);
    Ok(Opened {
        db,
        instance,
        open_jobs,
    })
}

fn count_open(txn: &ReadTransaction) -> Result<u64, ReadError> {
    Ok(txn.open_table(OPEN_JOBS)?.len()?)
}

/// The version that is written in a file.
pub(super) fn schema(text: &str, path: &Path) -> Result<u32, OpenError> {
    let found = text.parse().ok();
    found.ok_or_else(|| damaged(path, format!("its schema version is '{text}'")))
}

pub(super) fn newer(path: &Path, found: u32) -> OpenError {
    OpenError::Newer {
        path: path.to_path_buf(),
        found,
        known: SCHEMA,
    }
}

/// A new file, or one of an older version, becomes one of this version in one transaction.
fn initialise(db: &Database, from: u32, instance: &str) -> Result<(), ReadError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    tables::create_all(&txn)?;
    migrate::upgrade(&txn, from)?;
    put_meta(&txn, SCHEMA_KEY, &SCHEMA.to_string())?;
    put_meta(&txn, INSTANCE_KEY, instance)?;
    txn.commit()?;
    Ok(())
}

/// A value of `META`; none when the file is new.
pub(super) fn meta(db: &Database, key: &str) -> Result<Option<String>, ReadError> {
    let txn = db.begin_read()?;
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let place = Place {
        table: "meta",
        key: &key,
    };
    let bytes = table.get(key.as_bytes())?;
    bytes
        .map(|bytes| codec::to_text(place, bytes.value()))
        .transpose()
}

/// Makes folder and file; the file holds secrets, so it is its owner's alone.
fn touch(path: &Path) -> io::Result<()> {
    fs::create_dir_all(folder(path))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path).map(drop)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "redb's errors are open-ended; whatever else it says, the file is not usable"
)]
pub(super) fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let path_buf = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse { path: path_buf }
        }
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            OpenError::NotWritable {
                path: path_buf,
                source,
            }
        }
        other => damaged(path, other.to_string()),
    }
}

pub(super) fn damaged(path: &Path, reason: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_path_buf(),
        reason,
    }
}
