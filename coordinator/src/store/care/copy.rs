//! A copy of a store as of one moment, without its unused space: what a backup is.
//!
//! Owns the order: a file beside the wanted one, all rows, on disk, renamed. Never writes into the store
//! that it copies and never over a file that is there. Rows are copied as they are, not understood.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{
    Database, Durability, Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, Value, backends::FileBackend,
};
use thiserror::Error;

use super::Care;
use crate::store::{
    Store,
    error::ReadError,
    open,
    tables::{self, Visit},
};

/// Rows of one transaction.
const GROUP: usize = 20_000;

/// What a copy holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of all tables.
    pub rows: u64,
    /// Of the file.
    pub bytes: u64,
}

/// Why there is no copy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The wanted file is there, or its folder is not to be written.
    #[error("cannot make the backup {}: {source}; name a file that is not there yet, in a folder with enough free space", .path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The new file could not be written, or the old one not read.
    #[error("cannot copy the store to {}: {source}", .path.display())]
    Rows {
        /// The wanted file.
        path: PathBuf,
        /// Which row and why.
        source: ReadError,
    },
}

impl Care {
    /// Copies the store to a new file. Blocks.
    ///
    /// # Errors
    /// Names the file; nothing of it stays.
    pub fn copy(&self, to: &Path) -> Result<Copied, CopyError> {
        let txn = self.db.begin_read().map_err(|error| failed(to, error))?;
        copy(&txn, to)
    }
}

impl Store {
    /// Copies the store as it is now to a new file, while it is written on. Blocks, for as long as the disk
    /// takes; belongs on a blocking thread.
    ///
    /// # Errors
    /// Names the file; nothing of it stays.
    pub fn copy(&self, to: &Path) -> Result<Copied, CopyError> {
        let txn = self.inner.shared.db.begin_read();
        copy(&txn.map_err(|error| failed(to, error))?, to)
    }
}

fn copy(txn: &ReadTransaction, to: &Path) -> Result<Copied, CopyError> {
    let target = |source| CopyError::Target {
        path: to.to_path_buf(),
        source,
    };
    if to.exists() {
        return Err(target(io::ErrorKind::AlreadyExists.into()));
    }
    let draft = Draft(beside(to));
    let file = create(&draft.0).map_err(target)?;
    let rows = fill(txn, file).map_err(|source| CopyError::Rows {
        path: to.to_path_buf(),
        source,
    })?;
    // A link, not a rename: it fails where somebody has made the file meanwhile.
    fs::hard_link(&draft.0, to)
        .and_then(|()| File::open(open::folder(to))?.sync_all())
        .map_err(target)?;
    let bytes = fs::metadata(to).map_err(target)?.len();
    Ok(Copied { rows, bytes })
}

fn failed(to: &Path, error: impl Into<ReadError>) -> CopyError {
    CopyError::Rows {
        path: to.to_path_buf(),
        source: error.into(),
    }
}

/// Unfinished; goes when it is dropped.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a draft of a backup could not be removed");
        }
    }
}

fn beside(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}.part", rand::random::<u32>()));
    to.with_file_name(name)
}

/// The store holds secrets, so a copy is its owner's alone too.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

fn fill(from: &ReadTransaction, file: File) -> Result<u64, ReadError> {
    let failed = |error: redb::DatabaseError| ReadError::Storage(Box::new(error.into()));
    let backend = FileBackend::new(file).map_err(failed)?;
    let to = Database::builder()
        .create_with_backend(backend)
        .map_err(failed)?;
    let mut filler = Filler { from, to, rows: 0 };
    tables::visit_all(&mut filler)?;
    tables::visit_old(&mut filler)?;
    // What was committed without waiting is on disk with this one.
    let mut last = filler.to.begin_write()?;
    last.set_quick_repair(true);
    last.commit()?;
    Ok(filler.rows)
}

struct Filler<'t> {
    from: &'t ReadTransaction,
    to: Database,
    rows: u64,
}

impl Visit for Filler<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), ReadError> {
        let source = match self.from.open_table(definition) {
            Ok(source) => source,
            // A store that an older version wrote, or a table of such a one; it is made when the copy is used.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut rows = source.iter()?.peekable();
        loop {
            let mut txn = self.to.begin_write()?;
            txn.set_durability(Durability::None)?;
            {
                let mut target = txn.open_table(definition)?;
                for row in rows.by_ref().take(GROUP) {
                    let (key, value) = row?;
                    target.insert(key.value(), value.value())?;
                    self.rows += 1;
                }
            }
            txn.commit()?;
            if rows.peek().is_none() {
                return Ok(());
            }
        }
    }
}
