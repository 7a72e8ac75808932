//! Opening the file: who may, which version, and what is wrong with it.
//!
//! Owns the checks before the first write and the first rows of a new file. Never repairs by itself
//! and never overwrites a file that it does not understand. Called by `Store::open`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _,
    ReadableTableMetadata as _, StorageError, TableError, TableHandle as _,
};

use trainyard_core::time::Timestamp;

use super::{
    StoreOptions,
    apply::put_meta,
    care::first,
    codec::{self, Place},
    error::{OpenError, ReadError},
    migrate, numbers, read,
    tables::{self, INSTANCE_KEY, META, Names, OPEN_JOBS, SCHEMA, SCHEMA_KEY},
    writer::{is_full, panic_text},
};

/// No file that was only just begun is larger.
const BEGUN: u64 = 1 << 20;
/// redb writes its first word, of so many bytes, when the rest of a new file is on the disk.
const FIRST_WORD: usize = 9;
/// Behind so many bytes a file that was only just begun has nothing.
const HEADER: usize = 4_096;

/// Makes the database where it lies; with the settings that it is given.
pub(super) type Make<'m> = &'m dyn Fn(&Builder) -> Result<Database, DatabaseError>;

/// A database whose schema is understood.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) instance: String,
    /// Jobs that have not ended.
    pub(super) open_jobs: u64,
    /// When the newest of what is stored was written, as far as that is known at once.
    pub(super) newest: Timestamp,
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
    touch(path).map_err(|source| unwritable(path, source))?;
    let create = |builder: &Builder| builder.create(path);
    match open_on(&create, options) {
        Err(OpenError::Damaged { .. }) if never_begun(path).unwrap_or(false) => {
            tracing::warn!(path = %path.display(), "the store was being made when its coordinator ended; it is made anew");
            empty(path).map_err(|source| unwritable(path, source))?;
            open_on(&create, options)
        }
        opened => opened,
    }
}

/// Opens what `make` makes.
pub(super) fn open_on(make: Make<'_>, options: &StoreOptions) -> Result<Opened, OpenError> {
    let path = options.path.as_path();
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    let open = || {
        let db = make(&builder).map_err(|error| refused(path, error))?;
        prepare(db, path)
    };
    // redb asserts on some damaged files instead of returning an error.
    let opened = catch_unwind(AssertUnwindSafe(open));
    opened.map_err(|panic| damaged(path, panic_text(panic.as_ref())))?
}

/// Whether a coordinator was cut off while it made this file: then nothing was ever stored in it.
fn never_begun(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() > BEGUN {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let nothing = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let (header, pages) = bytes.split_at(HEADER.min(bytes.len()));
    Ok(nothing(header.get(..FIRST_WORD).unwrap_or_default()) && nothing(pages))
}

fn empty(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// Checks the schema, or writes it into a new file.
pub(super) fn prepare(db: Database, path: &Path) -> Result<Opened, OpenError> {
    let unreadable = |error: ReadError| unread(path, error);
    let tables = table_names(&db).map_err(unreadable)?;
    let (from, instance) = match meta(&db, SCHEMA_KEY).map_err(unreadable)? {
        Some(text) => {
            let found = schema(&text, path)?;
            if found > SCHEMA {
                return Err(newer(path, found));
            }
            let instance = meta(&db, INSTANCE_KEY)
                .map_err(unreadable)?
                .ok_or_else(|| damaged(path, "it has no instance id".to_owned()))?;
            if found == SCHEMA {
                well_named(&tables, path)?;
            }
            (found, instance)
        }
        // Only one that nothing was ever committed to is new.
        None if tables.is_empty() => (SCHEMA, new_instance()),
        None => {
            let words = "it has tables and no schema version";
            return Err(damaged(path, words.to_owned()));
        }
    };
    initialise(&db, from, &instance).map_err(unreadable)?;
    let txn = db.begin_read().map_err(|error| unreadable(error.into()))?;
    first::first_damage(&txn).map_err(unreadable)?;
    drop(txn);
    numbers::forget_ended(&db).map_err(unreadable)?;
    let txn = db.begin_read().map_err(|error| unreadable(error.into()))?;
    let open_jobs = count_open(&txn).map_err(unreadable)?;
    let newest = read::newest(&txn).map_err(unreadable)?;
    drop(txn);
    Ok(Opened {
        db,
        instance,
        open_jobs,
        newest,
    })
}

pub(super) fn new_instance() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn table_names(db: &Database) -> Result<Names, ReadError> {
    let txn = db.begin_read()?;
    let tables = txn.list_tables()?;
    Ok(tables.map(|table| table.name().to_owned()).collect())
}

/// One table that is missing and one that nobody knows are a table whose name is damaged: it would be made anew, empty.
/// Either alone is of a version with the same schema that has more tables, or fewer.
fn well_named(found: &Names, path: &Path) -> Result<(), OpenError> {
    let (all, old) = tables::names().map_err(|error| unread(path, error))?;
    let missing = all.difference(found).next();
    let unknown = found
        .iter()
        .find(|name| !all.contains(*name) && !old.contains(*name));
    if let (Some(missing), Some(unknown)) = (missing, unknown) {
        let words = format!("it has a table {unknown} and none of the name {missing}");
        return Err(damaged(path, words));
    }
    Ok(())
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
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse {
                path: path.to_path_buf(),
            }
        }
        DatabaseError::Storage(StorageError::Io(source)) if is_of_the_disk(&source) => {
            unwritable(path, source)
        }
        other => damaged(path, other.to_string()),
    }
}

/// A disk that is full, or does not take writes, says nothing about what is on it.
fn unread(path: &Path, error: ReadError) -> OpenError {
    let text = error.to_string();
    if let ReadError::Storage(error) = error
        && let redb::Error::Io(source) = *error
        && is_of_the_disk(&source)
    {
        return unwritable(path, source);
    }
    damaged(path, text)
}

/// What is wrong is the disk, not what redb has found on it.
fn is_of_the_disk(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

fn unwritable(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_path_buf();
    if is_full(&source) {
        OpenError::DiskFull { path }
    } else {
        OpenError::NotWritable { path, source }
    }
}

pub(super) fn damaged(path: &Path, reason: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_path_buf(),
        reason,
    }
}
