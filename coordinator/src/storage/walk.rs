//! Every file below a folder, found by several threads at once.
//!
//! Owns how the work is handed out, the bound on what is found, and that the outcome is the same however
//! the threads run: of all that is wrong, the first by path is told. Folders are opened by the handle of
//! [`Folder`] and nothing else. Blocks. Called by `local`.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    fs::{AtFlags, Dir, DirEntry, FileType, OFlags, ResolveFlags, statat},
    io::Errno,
};

use super::{
    Entry, StorageError,
    local::{DRAFTS, Folder, entry_of, link, not_a_file, seen, told},
};

/// Threads that look at once. A disk of this machine needs few; one behind a network answers each of
/// them while it lets the others wait.
const WALKERS: usize = 8;
/// Names of one folder that are looked at in one go, so that a folder with many is shared too.
const NAMES: usize = 512;

/// What is to be done next.
enum Work {
    /// Read the names in this folder.
    Folder(String),
    /// Look at these names in this folder.
    Names(Arc<OwnedFd>, Arc<str>, Vec<String>),
}

#[derive(Default)]
struct Shared {
    waiting: Vec<Work>,
    /// Threads that may still bring more work.
    busy: usize,
    found: Vec<Entry>,
    /// Names of files, and of folders, that were read.
    names: usize,
    folders: usize,
    /// The first by its path.
    wrong: Option<(String, StorageError)>,
    too_many: bool,
}

struct Walk<'a> {
    folder: &'a Folder,
    prefix: &'a str,
    most: usize,
    shared: Mutex<Shared>,
    changed: Condvar,
}

/// Every file below `prefix`, sorted by path, at most `most`.
pub(super) fn walk(folder: &Folder, prefix: &str, most: usize) -> Result<Vec<Entry>, StorageError> {
    let walk = Walk {
        folder,
        prefix,
        most,
        shared: Mutex::default(),
        changed: Condvar::new(),
    };
    walk.lock().waiting.push(Work::Folder(prefix.to_owned()));
    walk.step();
    if walk.is_worth_sharing() {
        thread::scope(|scope| {
            for _ in 1..WALKERS {
                let helper = thread::Builder::new().name("walk".to_owned());
                // Without a helper it only takes longer.
                if let Err(error) = helper.spawn_scoped(scope, || while walk.step() {}) {
                    tracing::debug!(%error, "no thread to list a folder with");
                }
            }
            while walk.step() {}
        });
    } else {
        while walk.step() {}
    }
    let shared = walk.shared.into_inner();
    let shared = shared.unwrap_or_else(PoisonError::into_inner);
    if shared.too_many {
        return Err(super::too_many(&folder.path().display().to_string(), most));
    }
    if let Some((_, error)) = shared.wrong {
        return Err(error);
    }
    let mut found = shared.found;
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Counts a thread as no longer busy, whatever has happened to it.
struct Busy<'a>(&'a Walk<'a>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.busy -= 1;
        if shared.busy == 0 {
            self.0.changed.notify_all();
        }
    }
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more waits than the names of a small folder.
    fn is_worth_sharing(&self) -> bool {
        let shared = self.lock();
        let folder = |work: &Work| matches!(work, Work::Folder(_));
        shared.waiting.len() > 1 || shared.waiting.iter().any(folder)
    }

    /// Does one piece of work; false when there is none and none will come.
    fn step(&self) -> bool {
        let mut shared = self.lock();
        let work = loop {
            if shared.too_many {
                return false;
            }
            match shared.waiting.pop() {
                Some(work) => break work,
                None if shared.busy == 0 => return false,
                None => {
                    let woken = self.changed.wait(shared);
                    shared = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        shared.busy += 1;
        drop(shared);
        let _busy = Busy(self);
        match work {
            Work::Folder(path) => {
                if let Err(error) = self.read(&path) {
                    self.wrong(path, error);
                }
            }
            Work::Names(handle, path, names) => self.look(&handle, &path, names),
        }
        true
    }

    /// Reads the names in a folder and hands them on.
    fn read(&self, path: &str) -> Result<(), StorageError> {
        if self.is_moot(path) {
            return Ok(());
        }
        let place = if path.is_empty() { "." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = self.folder.flags(place, flags, ResolveFlags::NO_SYMLINKS);
        let handle = match opened {
            Ok(handle) => Arc::new(handle),
            Err(Errno::NOENT) if path == self.prefix => return Ok(()),
            Err(error) => return Err(told(place, error)),
        };
        let entries = Dir::read_from(&*handle).map_err(|error| told(place, error))?;
        let (shelf, mut names): (Arc<str>, _) = (path.into(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(|error| told(place, error))?;
            let Some(name) = self.name(path, &entry) else {
                continue;
            };
            // What the folder says is only a hint: it is opened without following links.
            if entry.file_type() == FileType::Directory {
                self.hand_on(Work::Folder(below(path, name)));
            } else {
                names.push(name.to_owned());
            }
            if names.len() == NAMES {
                let names = std::mem::take(&mut names);
                self.hand_on(Work::Names(Arc::clone(&handle), Arc::clone(&shelf), names));
            }
            if self.lock().too_many {
                return Ok(());
            }
        }
        if !names.is_empty() {
            self.hand_on(Work::Names(handle, shelf, names));
        }
        Ok(())
    }

    /// The name, unless it is none of the folder's files.
    fn name<'e>(&self, path: &str, entry: &'e DirEntry) -> Option<&'e str> {
        let Ok(name) = entry.file_name().to_str() else {
            let name = entry.file_name().to_string_lossy();
            let name = below(path, &name);
            let words = format!("the file name '{name}' is not UTF-8; rename it");
            self.wrong(name, StorageError::Refused(words));
            return None;
        };
        let own = path.is_empty() && name == DRAFTS;
        (!matches!(name, "." | "..") && !own).then_some(name)
    }

    fn hand_on(&self, work: Work) {
        let mut shared = self.lock();
        match &work {
            Work::Folder(_) => shared.folders += 1,
            Work::Names(_, _, names) => shared.names += names.len(),
        }
        shared.too_many |= shared.names.max(shared.folders) > self.most;
        shared.waiting.push(work);
        if shared.too_many {
            self.changed.notify_all();
        } else {
            self.changed.notify_one();
        }
    }

    /// What each of these names is.
    fn look(&self, handle: &OwnedFd, path: &str, names: Vec<String>) {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let path = below(path, &name);
            match self.entry((handle, &name), &path) {
                Ok(Some(entry)) => found.push(entry),
                Ok(None) => {
                    self.lock().names -= 1;
                    self.hand_on(Work::Folder(path));
                }
                Err(error) => self.wrong(path, error),
            }
        }
        self.lock().found.append(&mut found);
    }

    /// A file, or none for a folder.
    fn entry(
        &self,
        (handle, name): (&OwnedFd, &str),
        path: &str,
    ) -> Result<Option<Entry>, StorageError> {
        let stat = statat(handle, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| told(path, error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Ok(None);
        }
        let seen = if kind == FileType::RegularFile {
            seen(&stat)
        } else if kind == FileType::Symlink {
            let followed = self.folder.file(path);
            followed.map_err(|error| link(path, error))?.1
        } else {
            return Err(not_a_file(path));
        };
        Ok(Some(entry_of(path.to_owned(), seen)))
    }

    /// Keeps the first by its path of all that is wrong.
    fn wrong(&self, path: String, error: StorageError) {
        let mut shared = self.lock();
        let first = shared.wrong.as_ref();
        if first.is_none_or(|(known, _)| path < *known) {
            shared.wrong = Some((path, error));
        }
    }

    /// Whether nothing in this folder can be the first that is wrong.
    fn is_moot(&self, folder: &str) -> bool {
        let shared = self.lock();
        let wrong = shared.wrong.as_ref();
        wrong.is_some_and(|(known, _)| known.as_str() < folder)
    }
}

fn below(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}
