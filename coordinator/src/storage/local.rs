//! A folder of this machine as storage.
//!
//! Owns that nothing outside the folder is ever opened: each file is opened relative to the folder's
//! handle with `RESOLVE_BENEATH`, so that neither `..` nor a symbolic link leads out, whatever changes
//! meanwhile. Writes are whole or not at all. All of it blocks: called by `storage` on blocking threads.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat2,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;
use trainyard_core::time::Timestamp;

use super::{Entry, StorageError, walk::walk};

/// Bytes read at once when a file is hashed.
const CHUNK: usize = 256 << 10;
/// How often a file is tried to be opened while its folder changes.
const TRIES: usize = 64;
/// Where files are written before they are whole.
pub(super) const DRAFTS: &str = ".drafts";

/// An open folder. A clone is cheap.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: Arc<Path>,
    handle: Arc<OwnedFd>,
}

/// What a file is recognised by when it is met again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    size: u64,
    stamp: String,
    written_at: Timestamp,
    changed_at: Timestamp,
}

impl Folder {
    /// Opens a folder by a path that has no symbolic links left in it.
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let handle = opened.map_err(|error| told(&path.display().to_string(), error))?;
        Ok(Self {
            path: path.into(),
            handle: Arc::new(handle),
        })
    }

    /// Opens a folder, made if it is missing, for the platform's own files.
    pub(super) fn create(path: &Path) -> Result<Self, StorageError> {
        let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let path = made.map_err(|error| failed(&path.display().to_string(), &error))?;
        Self::open(&path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn flags(
        &self,
        relative: &str,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // A mode without a file to be made is refused by the kernel.
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::RUSR | Mode::WUSR,
            false => Mode::empty(),
        };
        for _ in 0..TRIES {
            // A rename elsewhere in the tree makes the kernel unsure once in a while.
            match openat2(&*self.handle, relative, flags, mode, resolve) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// An ordinary file below the folder, and what it is recognised by.
    pub(super) fn file(&self, relative: &str) -> Result<(File, Seen), StorageError> {
        let opened = self.flags(relative, OFlags::RDONLY, ResolveFlags::empty());
        let handle = opened.map_err(|error| told(relative, error))?;
        let stat = fstat(&handle).map_err(|error| told(relative, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(not_a_file(relative));
        }
        Ok((File::from(handle), seen(&stat)))
    }

    /// An ordinary file to be read, and its size.
    pub(super) fn read(&self, relative: &str) -> Result<(File, u64), StorageError> {
        let (file, seen) = self.file(relative)?;
        Ok((file, seen.size))
    }

    /// Every file below `prefix`, sorted by path, at most `most`. Symbolic links to files below the folder
    /// are files; links out of it, links to folders, sockets and the like are refused by name.
    pub(super) fn list(&self, prefix: &str, most: usize) -> Result<Vec<Entry>, StorageError> {
        walk(self, prefix.trim_matches('/'), most)
    }

    /// The blake3 of a file that is still what the list said, and stays so while it is read.
    pub(super) fn digest(&self, listed: &Entry) -> Result<[u8; 32], StorageError> {
        let (mut file, before) = self.file(&listed.path)?;
        if listed.stamp.as_ref() != Some(&before.stamp) || listed.size != before.size {
            return Err(StorageError::Changed(listed.path.clone()));
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = file.read(&mut buffer);
            let read = read.map_err(|error| failed(&listed.path, &error))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            hasher.update(bytes);
        }
        let after = fstat(&file).map_err(|error| told(&listed.path, error))?;
        if seen(&after) != before {
            return Err(StorageError::Changed(listed.path.clone()));
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// A file that is not seen by anyone before [`Draft::keep`].
    pub(super) fn draft(&self) -> Result<Draft, StorageError> {
        self.folders(DRAFTS)?;
        let name = format!("{DRAFTS}/{:032x}", rand::random::<u128>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let opened = self.flags(&name, flags, ResolveFlags::NO_SYMLINKS);
        let handle = opened.map_err(|error| told(&name, error))?;
        Ok(Draft {
            folder: self.clone(),
            file: File::from(handle),
            name: Some(name),
        })
    }

    /// Writes a whole file.
    pub(super) fn write(&self, relative: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let mut draft = self.draft()?;
        draft
            .write(bytes)
            .map_err(|error| failed(relative, &error))?;
        draft.keep(relative)
    }

    /// Gives a file another name, on disk when this returns; what had it is replaced.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        super::check_key(from)?;
        super::check_key(to)?;
        let folder = match to.rsplit_once('/') {
            Some((folder, _)) => self.folders(folder)?,
            None => self.root()?,
        };
        let last = to.rsplit('/').next().unwrap_or(to);
        let (before, old) = from.rsplit_once('/').unwrap_or((".", from));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let renamed = self
            .flags(before, flags, ResolveFlags::NO_SYMLINKS)
            .and_then(|before| renameat(&before, old, &folder, last));
        renamed.map_err(|error| told(from, error))?;
        rustix::fs::fsync(&folder).map_err(|error| told(to, error))
    }

    /// Removes a file; one that is not there is no error.
    pub(super) fn remove(&self, relative: &str) -> Result<(), StorageError> {
        super::check_key(relative)?;
        let (folder, name) = relative.rsplit_once('/').unwrap_or((".", relative));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let removed = self
            .flags(folder, flags, ResolveFlags::NO_SYMLINKS)
            .and_then(|handle| unlinkat(&handle, name, AtFlags::empty()));
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(told(relative, error)),
        }
    }

    /// Removes drafts that were last written before a time; says how many.
    pub(super) fn remove_drafts(&self, before: Timestamp) -> Result<u64, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let handle = match self.flags(DRAFTS, flags, ResolveFlags::NO_SYMLINKS) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(0),
            Err(error) => return Err(told(DRAFTS, error)),
        };
        let mut removed = 0;
        for entry in Dir::read_from(&handle).map_err(|error| told(DRAFTS, error))? {
            let entry = entry.map_err(|error| told(DRAFTS, error))?;
            let name = entry.file_name();
            // One may be kept or dropped meanwhile.
            let Ok(stat) = statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if file && seen(&stat).written_at < before {
                unlinkat(&handle, name, AtFlags::empty()).map_err(|error| told(DRAFTS, error))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes folders in `below` that are empty and were last changed before a time.
    pub(super) fn remove_empty(&self, below: &str, before: Timestamp) -> Result<(), StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let handle = match self.flags(below, flags, ResolveFlags::NO_SYMLINKS) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(told(below, error)),
        };
        for entry in Dir::read_from(&handle).map_err(|error| told(below, error))? {
            let entry = entry.map_err(|error| told(below, error))?;
            let name = entry.file_name();
            let Ok(stat) = statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let up = matches!(name.to_bytes(), b"." | b"..");
            if !folder || up || seen(&stat).written_at >= before {
                continue;
            }
            match unlinkat(&handle, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                Err(error) => return Err(told(below, error)),
            }
        }
        Ok(())
    }

    /// Makes the folders of `relative` that are missing, each on disk when this returns.
    fn folders(&self, relative: &str) -> Result<OwnedFd, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut path = String::new();
        for name in relative.split('/') {
            let parent = if path.is_empty() { "." } else { &path };
            let parent = self.flags(parent, flags, ResolveFlags::NO_SYMLINKS);
            let made = parent.and_then(|parent| match mkdirat(&parent, name, Mode::RWXU) {
                // A file's own folder is flushed with the file; what leads there is here.
                Ok(()) => rustix::fs::fsync(&parent),
                Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error),
            });
            made.map_err(|error| told(relative, error))?;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
        }
        let opened = self.flags(&path, flags, ResolveFlags::NO_SYMLINKS);
        opened.map_err(|error| told(relative, error))
    }

    /// Removes a folder if nothing is in it.
    pub(super) fn remove_folder(&self, relative: &str) -> Result<(), StorageError> {
        super::check_key(relative)?;
        let (before, name) = relative.rsplit_once('/').unwrap_or((".", relative));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let removed = self
            .flags(before, flags, ResolveFlags::NO_SYMLINKS)
            .and_then(|before| unlinkat(&before, name, AtFlags::REMOVEDIR));
        match removed {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(error) => Err(told(relative, error)),
        }
    }
}

/// A file that is being written; removed again unless it is kept.
#[derive(Debug)]
pub(super) struct Draft {
    folder: Folder,
    file: File,
    name: Option<String>,
}

impl Draft {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Bytes that are free on its disk.
    pub(super) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Puts it on disk in its place; what was there is replaced.
    pub(super) fn keep(mut self, relative: &str) -> Result<(), StorageError> {
        super::check_key(relative)?;
        let name = self.name.take().unwrap_or_default();
        let kept = self
            .file
            .sync_all()
            .map_err(|error| failed(relative, &error));
        let kept = kept.and_then(|()| {
            let (folder, last) = relative.rsplit_once('/').unwrap_or((".", relative));
            let folder = match folder {
                "." => self
                    .folder
                    .folders(DRAFTS)
                    .and_then(|_| self.folder.root())?,
                folder => self.folder.folders(folder)?,
            };
            renameat(&*self.folder.handle, &name, &folder, last)
                .map_err(|error| told(relative, error))?;
            // The new name is on disk too.
            rustix::fs::fsync(&folder).map_err(|error| told(relative, error))
        });
        if kept.is_err() {
            self.name = Some(name);
        }
        kept
    }
}

impl Folder {
    fn root(&self) -> Result<OwnedFd, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.flags(".", flags, ResolveFlags::NO_SYMLINKS)
            .map_err(|error| told(".", error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = self.name.take()
            && let Err(error) = unlinkat(&*self.folder.handle, &name, AtFlags::empty())
        {
            tracing::warn!(%name, %error, "a draft could not be removed");
        }
    }
}

pub(super) fn seen(stat: &Stat) -> Seen {
    let nanos = |seconds: i64, nanos: i128| i128::from(seconds) * 1_000_000_000 + nanos;
    let written = nanos(stat.st_mtime, i128::from(stat.st_mtime_nsec));
    let changed = nanos(stat.st_ctime, i128::from(stat.st_ctime_nsec));
    let micros = |nanos: i128| Timestamp(i64::try_from(nanos / 1_000).unwrap_or(i64::MAX));
    Seen {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        stamp: format!("{written}.{changed}.{}", stat.st_ino),
        written_at: micros(written),
        changed_at: micros(written.max(changed)),
    }
}

pub(super) fn entry_of(path: String, seen: Seen) -> Entry {
    Entry {
        path,
        size: seen.size,
        stamp: Some(seen.stamp),
        written_at: Some(seen.written_at),
        changed_at: Some(seen.changed_at),
    }
}

pub(super) fn not_a_file(path: &str) -> StorageError {
    StorageError::Refused(format!(
        "'{path}' is neither a file nor a folder; a dataset holds only those"
    ))
}

/// What is wrong with a symbolic link, in words about links.
pub(super) fn link(path: &str, error: StorageError) -> StorageError {
    if matches!(error, StorageError::NotFound(_)) {
        return StorageError::Refused(format!(
            "'{path}' is a symbolic link to nothing; remove it or mend it"
        ));
    }
    if error == not_a_file(path) {
        return StorageError::Refused(format!(
            "'{path}' is a symbolic link to something that is no file; links to folders are not followed, put the files there"
        ));
    }
    error
}

pub(super) fn told(path: &str, error: Errno) -> StorageError {
    match error {
        Errno::NOENT => StorageError::NotFound(path.to_owned()),
        Errno::XDEV => StorageError::Refused(format!(
            "'{path}' leads out of its folder (a symbolic link that is absolute or climbs out, or '..'); put the file itself there"
        )),
        Errno::LOOP => StorageError::Refused(format!(
            "'{path}' leads over a symbolic link where none is followed"
        )),
        Errno::NOTDIR => StorageError::Refused(format!("'{path}' is no folder")),
        Errno::NOSYS => StorageError::Failed(
            "this system lacks openat2 (Linux 5.6 or newer), without which folders cannot be served safely".to_owned(),
        ),
        other => failed(path, &other.into()),
    }
}

fn failed(path: &str, error: &io::Error) -> StorageError {
    StorageError::Failed(format!("'{path}' cannot be used: {error}"))
}

/// A path of this machine without symbolic links.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, StorageError> {
    let found = path.canonicalize();
    found.map_err(|error| {
        let name = path.display().to_string();
        if error.kind() == io::ErrorKind::NotFound {
            StorageError::NotFound(name)
        } else {
            failed(&name, &error)
        }
    })
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
