//! A copy of a store as of one moment, without its unused space: what a backup is.
//!
//! Owns the order: a file beside the wanted one, all rows, on disk, renamed. Never writes into the store
//! that it copies and never over a file that is there. Rows are copied as they are, not understood; those that are not what
//! was written are copied too, and counted.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{
    AccessGuard, Database, Durability, Key, ReadTransaction, ReadableDatabase as _,
    ReadableTable as _, StorageError, Table, TableDefinition, TableHandle as _, Value,
    backends::FileBackend,
};
use thiserror::Error;

use super::Care;
use crate::store::{
    Store, codec,
    error::ReadError,
    numbers, open,
    tables::{self, Checked, Visit},
    writer::guarded,
};

/// Rows of one transaction.
const GROUP: usize = 20_000;
/// Damaged rows that are told by their names.
const TOLD: usize = 10;

/// What a copy holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of all tables.
    pub rows: u64,
    /// Of the file.
    pub bytes: u64,
    /// Rows whose checksum is wrong, in the store and so in the copy.
    pub damaged: u64,
    /// The first of them, table and key.
    pub named: Vec<String>,
    /// Tables of which the store could not be read to the end; none in a backup, which is not made then.
    pub unread: Vec<String>,
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
        copy(&txn, to, false)
    }

    /// Copies what can be read of the store to a new file.
    pub(super) fn copy_what_is_left(&self, to: &Path) -> Result<Copied, CopyError> {
        let txn = self.db.begin_read().map_err(|error| failed(to, error))?;
        copy(&txn, to, true)
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
        copy(&txn.map_err(|error| failed(to, error))?, to, false)
    }
}

fn copy(txn: &ReadTransaction, to: &Path, spare: bool) -> Result<Copied, CopyError> {
    let target = |source| CopyError::Target {
        path: to.to_path_buf(),
        source,
    };
    if to.exists() {
        return Err(target(io::ErrorKind::AlreadyExists.into()));
    }
    let (draft, file) = Draft::begin(to).map_err(target)?;
    let copied = fill(txn, file, spare).map_err(|source| CopyError::Rows {
        path: to.to_path_buf(),
        source,
    })?;
    draft.keep(to).map_err(target)?;
    let bytes = fs::metadata(to).map_err(target)?.len();
    Ok(Copied { bytes, ..copied })
}

fn failed(to: &Path, error: impl Into<ReadError>) -> CopyError {
    CopyError::Rows {
        path: to.to_path_buf(),
        source: error.into(),
    }
}

/// A file until it is whole; goes when it is dropped.
#[derive(Debug)]
pub struct Draft(pub(super) PathBuf);

impl Draft {
    /// A new file beside the wanted one, under a name that nothing has. Its owner's alone, since stores hold secrets.
    ///
    /// # Errors
    /// When the folder is not to be written.
    pub fn begin(to: &Path) -> io::Result<(Self, File)> {
        let draft = Self(beside(to));
        let file = create(&draft.0)?;
        Ok((draft, file))
    }

    /// Gives the whole file, which is on disk, its name, and sees that the name is on disk.
    ///
    /// # Errors
    /// When there is such a file by now, or the folder is not to be written.
    pub fn keep(self, to: &Path) -> io::Result<()> {
        settle((&self.0, to), |from, to| fs::hard_link(from, to))
    }
}

/// A link, not a rename: it fails where somebody has made the file meanwhile.
fn settle(
    (from, to): (&Path, &Path),
    link: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    match link(from, to) {
        Err(error) if allows_one_name(&error) && !to.exists() => fs::rename(from, to)?,
        linked => linked?,
    }
    File::open(open::folder(to))?.sync_all()
}

/// Whether a link was refused because a file cannot have two names there: where that cannot be, Linux says that it is not
/// permitted, and some file systems that they cannot do it. Whatever else is refused may be refused to a rename too, or not:
/// then it would replace what somebody has made meanwhile.
pub(super) fn allows_one_name(error: &io::Error) -> bool {
    let not_permitted = Some(rustix::io::Errno::PERM.raw_os_error());
    error.raw_os_error() == not_permitted || error.kind() == io::ErrorKind::Unsupported
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a draft of a backup could not be removed");
        }
    }
}

/// A name in the same folder that nothing has.
pub(super) fn beside(to: &Path) -> PathBuf {
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

fn fill(from: &ReadTransaction, file: File, spare: bool) -> Result<Copied, ReadError> {
    let failed = |error: redb::DatabaseError| ReadError::Storage(Box::new(error.into()));
    let backend = FileBackend::new(file).map_err(failed)?;
    let to = Database::builder()
        .create_with_backend(backend)
        .map_err(failed)?;
    let mut filler = Filler {
        from,
        to,
        spare,
        copied: Copied::default(),
    };
    tables::visit_all(&mut filler)?;
    tables::visit_old(&mut filler)?;
    // What was committed without waiting is on disk with this one.
    let mut last = filler.to.begin_write()?;
    last.set_quick_repair(true);
    last.commit()?;
    Ok(filler.copied)
}

struct Filler<'t> {
    from: &'t ReadTransaction,
    to: Database,
    /// A table that cannot be read to the end is copied as far as it can.
    spare: bool,
    copied: Copied,
}

/// A row as redb reads it.
type Row<'a, K, V> = Result<(AccessGuard<'a, K>, AccessGuard<'a, V>), StorageError>;

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
        let forth = guarded(|| Ok(source.iter()?)).and_then(|rows| self.rows(definition, rows));
        let Err(error) = forth else { return Ok(()) };
        if !self.spare {
            return Err(error);
        }
        tracing::warn!(table = definition.name(), %error, "this table cannot be read to the end");
        self.copied.unread.push(definition.name().to_owned());
        // What is behind the pages that cannot be read, from its end.
        let back = guarded(|| Ok(source.iter()?.rev()));
        if let Err(error) = back.and_then(|rows| self.rows(definition, rows)) {
            tracing::warn!(table = definition.name(), %error, "this table cannot be read from its end either");
        }
        Ok(())
    }
}

impl Filler<'_> {
    /// Copies rows until there are no more, or one that is there already.
    fn rows<'a, K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
        mut rows: impl Iterator<Item = Row<'a, K, V>>,
    ) -> Result<(), ReadError> {
        loop {
            let mut txn = self.to.begin_write()?;
            txn.set_durability(Durability::None)?;
            let copied = &mut self.copied;
            let more = {
                let mut target = txn.open_table(definition)?;
                guarded(|| group(&mut target, &mut rows, copied))
            };
            // Also when a row cannot be read: those before it are copied.
            txn.commit()?;
            if !more? {
                return Ok(());
            }
        }
    }
}

/// Copies some rows; false when there are no more.
fn group<'a, K: Key + 'static, V: Value + 'static>(
    target: &mut Table<'_, K, V>,
    rows: &mut impl Iterator<Item = Row<'a, K, V>>,
    copied: &mut Copied,
) -> Result<bool, ReadError> {
    for _ in 0..GROUP {
        let Some(row) = rows.next() else {
            return Ok(false);
        };
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        if target.insert(&key, &value)?.is_some() {
            return Ok(false);
        }
        copied.rows += 1;
        if is_damaged::<K, V>(&key, &value) {
            copied.damaged += 1;
            if copied.named.len() < TOLD {
                let name = format!("{} {}", target.name(), key_text::<K>(&key));
                copied.named.push(name);
            }
        }
    }
    Ok(true)
}

/// Whether a value has a checksum of ours, and it is wrong.
fn is_damaged<K: Key + 'static, V: Value + 'static>(
    key: &K::SelfType<'_>,
    value: &V::SelfType<'_>,
) -> bool {
    let bytes = V::as_bytes(value);
    if V::type_name() == <&[u8] as Value>::type_name() {
        return !codec::is_sealed(bytes.as_ref());
    }
    if V::type_name() == Checked::type_name() {
        let row = Checked::from_bytes(bytes.as_ref());
        return numbers::seal::<K>(key, row.0) != row;
    }
    false
}

fn key_text<K: Key + 'static>(key: &K::SelfType<'_>) -> String {
    if K::type_name() == <&[u8] as Value>::type_name() {
        return String::from_utf8_lossy(K::as_bytes(key).as_ref()).into_owned();
    }
    format!("{key:?}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_draft_touches_no_file_of_anybody_and_gets_its_name_also_where_files_have_but_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("x.part"), "somebody's").unwrap();
        let (draft, _file) = Draft::begin(&path("x")).unwrap();
        let mode = fs::metadata(&draft.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let vfat = io::Error::from_raw_os_error(1);
        assert!(allows_one_name(&vfat), "as Linux says it: {vfat}");
        let none = |_: &Path, _: &Path| Err(io::ErrorKind::Unsupported.into());
        settle((&draft.0, &path("x")), none).unwrap();
        drop(draft);
        // Somebody was faster.
        let (second, _file) = Draft::begin(&path("x")).unwrap();
        settle((&second.0, &path("x")), none).unwrap_err();
        let full = |_: &Path, _: &Path| Err(io::ErrorKind::StorageFull.into());
        let failed = settle((&second.0, &path("z")), full).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        let taken = second.keep(&path("x")).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        let (third, _file) = Draft::begin(&path("y")).unwrap();
        third.keep(&path("y")).unwrap();
        let left = fs::read_dir(folder.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["x", "x.part", "y"]);
        assert_eq!(fs::read_to_string(path("x.part")).unwrap(), "somebody's");
    }
}
