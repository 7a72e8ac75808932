//! What can go wrong with the store, in words that name the path and the way out.
//!
//! Owns the error types, one per operation. Never handles any. Returned by the store to its callers.

use std::{io, path::PathBuf};

use thiserror::Error;
use trainyard_core::resources::format_bytes;

/// Why the store could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder or the file cannot be written.
    #[error(
        "cannot write the store {}: {source}; give the coordinator a data folder that it may write to (store.data_dir)",
        .path.display()
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No space left: also a start writes a little.
    #[error(
        "the disk under {} is full; free some space, then start the coordinator again: nothing that was acknowledged is lost",
        .path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error(
        "the store {} is in use by another coordinator; stop that one, or give this one its own data folder (store.data_dir)",
        .path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer version.
    #[error(
        "the store {} has schema version {found}, this coordinator knows up to {known}; run the version that wrote it, or a newer one",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that is understood.
        known: u32,
    },
    /// Cannot be read as a store.
    #[error(
        "the store {} is damaged ({reason}); `trainyard store check` names all of the damage: restore the file from a backup, have `trainyard store mend` set the damaged rows aside, or move it away to start with an empty store",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The committing thread could not be started.
    #[error(
        "cannot start the committing thread of the store {}: {source}; raise the limit of threads of this user (ulimit -u)",
        .path.display()
    )]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a store cannot be cared for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CareError {
    /// There is no such file.
    #[error("there is no store {}: {source}; name a coordinator's data folder, or the file in it", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A coordinator holds it, or somebody else who cares for it.
    #[error("the store {} is in use by a coordinator that runs, or by another command; stop that one first, or name a backup: `trainyard store backup FILE` makes one while the coordinator runs", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be opened as a store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is damaged is not a row: nothing can be read.
    #[error("nothing can be read from the store {} ({reason}); restore it from a backup, or move it away to start with an empty store", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It could not be made small.
    #[error("cannot compact the store {}: {reason}; free some space and try again, nothing in it is lost", .path.display())]
    Compact {
        /// The file.
        path: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// Something else was damaged than rows.
    #[error("cannot read the store {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: ReadError,
    },
}

impl CareError {
    /// In the words of a tool that looks at a store: it is not to be told to look for damage, and is no coordinator that could
    /// have another data folder.
    pub(super) fn of_opening(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { path, reason } => Self::Unreadable { path, reason },
            OpenError::InUse { path } => Self::InUse { path },
            error @ (OpenError::NotWritable { .. }
            | OpenError::DiskFull { .. }
            | OpenError::Newer { .. }
            | OpenError::Thread { .. }) => Self::Open(error),
        }
    }
}

/// Why a write was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A commit failed before; the process is about to end.
    #[error(
        "the store has stopped after a failed commit; the coordinator is ending, try again once it is back"
    )]
    Stopped,
    /// Too much waits.
    #[error("the store is busy: {waiting} writes wait to be committed; try again in a moment")]
    Busy {
        /// How many.
        waiting: usize,
    },
}

/// Why a commit failed. By design it ends the process: redb refuses every write after it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FatalStoreError {
    /// No space left.
    #[error(
        "the disk under {} is full and the last writes were not accepted; free some space, then start the coordinator again: nothing that was acknowledged is lost",
        .path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Any other failure.
    #[error(
        "cannot commit to the store {}: {source}; check the disk and its messages (dmesg), then start the coordinator again: nothing that was acknowledged is lost",
        .path.display()
    )]
    Commit {
        /// The file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// A row could not be written or read back.
    #[error("cannot write a row of the store {}: {source}", .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Which row and why.
        source: ReadError,
    },
    /// A bug on the committing thread.
    #[error(
        "the committing thread of the store {} panicked: {reason}; start the coordinator again and report this",
        .path.display()
    )]
    Panicked {
        /// The file.
        path: PathBuf,
        /// The text of the panic.
        reason: String,
    },
}

/// Why a row could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The bytes are not those that were written.
    #[error("the checksum of row {key} of table {table} is wrong: the store is damaged there")]
    Checksum {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
    /// The bytes are right and cannot be understood.
    #[error(
        "row {key} of table {table} cannot be decoded: {reason}; run the version that wrote it, or a newer one"
    )]
    Decode {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Tables do not agree.
    #[error("row {key} of table {table} {reason}: the store is damaged there")]
    Contradiction {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// redb could not read.
    #[error("cannot read the store: {0}; check the disk, then start the coordinator again")]
    Storage(#[source] Box<redb::Error>),
}

impl ReadError {
    /// Whether it is this row that is damaged, and not the disk that fails.
    pub(super) fn is_of_a_row(&self) -> bool {
        match self {
            Self::Checksum { .. } | Self::Decode { .. } | Self::Contradiction { .. } => true,
            Self::Storage(_) => false,
        }
    }
}

/// A row, unless it is damaged: then it is left out, and the log says which. For whoever can do without.
pub(super) fn spared<T>(row: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match row {
        Err(error) if error.is_of_a_row() => {
            tracing::error!(%error, "this row is left out; `trainyard store check` names all of the damage");
            Ok(None)
        }
        row => row.map(Some),
    }
}

/// Why no more work is accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoRoom {
    /// The disk of the data folder is nearly full.
    #[error(
        "the coordinator's disk is nearly full: {} has {} free, less than the reserve of {}; free some space, or lower store.reserve_mib",
        .path.display(), format_bytes(*.free), format_bytes(*.reserve)
    )]
    Full {
        /// The data folder.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
    /// The data folder has gone: what is written now would be lost at the next start.
    #[error(
        "the coordinator's data folder {} cannot be looked at: {source}; put it back, then start the coordinator again",
        .path.display()
    )]
    Unseen {
        /// The data folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

macro_rules! from_redb {
    ($($source:ty),+) => {$(
        impl From<$source> for ReadError {
            fn from(source: $source) -> Self {
                Self::Storage(Box::new(source.into()))
            }
        }
    )+};
}

from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);
