//! Folders of forgotten tasks, emptied and kept for the next ones, with their files.
//!
//! Why: whoever makes a file on ext4 looks for a free inode past each that was freed within the last minute, one by one.
//! With a dozen files a task and many short tasks that took more time than all else that the agent did. A folder that is
//! used again makes and frees none. Owns which folders wait. Never takes in one in which anything is that it does not
//! know, or whose shim may live. Blocks on the disk. Called by [`crate::folder`].

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use trainyard_runtime::lasting;

use crate::{
    dataset::remove_tree,
    exec::{durable, lock},
    folder::private_folder,
};

/// Folders that wait at most; more than tasks run at once are of no use.
const MOST: usize = 128;
/// Files that say nothing while they are empty.
const EMPTIED: [&str; 7] = [
    "spool",
    "spool.ack",
    "spool.mark",
    "spool.left",
    "output.log",
    "shim.err",
    "shim.lock",
];
/// Files that say something by being there: they wait under the name of a draft.
const DRAFTED: [&str; 8] = [
    "task.json",
    "launch.json",
    "proc.json",
    "exit.json",
    "end.json",
    "stop.json",
    "stop-cause.json",
    "checkpoints.json",
];

/// The folders that wait.
#[derive(Debug)]
pub struct Spares {
    /// Holds them.
    place: PathBuf,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    folders: Vec<PathBuf>,
    last: u64,
}

impl Spares {
    /// None yet; those of an earlier life of the agent are removed. They will lie below `data_dir`. Where the folder that
    /// holds them cannot be made, as on a full disk, there will be none: only speed depends on them.
    pub fn below(data_dir: &Path) -> Self {
        let place = data_dir.join("spares");
        let made = remove_tree(&place).and_then(|()| private_folder(&place));
        if let Err(error) = made {
            tracing::warn!(place = %place.display(), %error, "folders of tasks are not used again until the next start");
        }
        Self {
            place,
            waiting: Mutex::default(),
        }
    }

    /// Makes one that waits the folder `path`; false where there is none.
    pub(crate) fn give(&self, path: &Path) -> bool {
        let spare = self.lock().folders.pop();
        spare.is_some_and(|spare| match fs::rename(&spare, path) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(spare = %spare.display(), %error, "a spare folder is of no use");
                false
            }
        })
    }

    /// Takes in the folder `gone`, which nobody knows by this name; false where it is to be removed instead.
    pub(crate) fn take_in(&self, gone: &Path) -> io::Result<bool> {
        if self.lock().folders.len() >= MOST || lock::holder(gone)?.is_some() || !empty(gone)? {
            return Ok(false);
        }
        let mut waiting = self.lock();
        waiting.last += 1;
        let spare = self.place.join(waiting.last.to_string());
        lasting(gone, &[], |_| fs::rename(gone, &spare))?;
        waiting.folders.push(spare);
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves nothing in the folder but empty files; false where something else is in it.
fn empty(folder: &Path) -> io::Result<bool> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            return Ok(false);
        };
        let known = EMPTIED.contains(&name.as_str()) || drafted(&name).is_some();
        if !known || !entry.file_type()?.is_file() {
            return Ok(false);
        }
        names.push(name);
    }
    for name in names {
        let path = folder.join(&name);
        // What stood in it is nobody's any more, secrets among it.
        lasting(&path, &[], |_| {
            let emptied = File::options().write(true).truncate(true).open(&path);
            emptied.map(drop)
        })?;
        if DRAFTED.contains(&name.as_str()) {
            lasting(&path, &[], |_| fs::rename(&path, durable::draft(&path)))?;
        }
    }
    Ok(true)
}

/// The name of the file that this one is, or is a draft of.
fn drafted(name: &str) -> Option<&'static str> {
    let draft = |known: &&&str| durable::draft(Path::new(known)).as_os_str() == name;
    let mut known = DRAFTED.iter();
    known.find(|known| **known == name || draft(known)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(tasks: &Path, name: &str) -> PathBuf {
        let folder = tasks.join(name);
        fs::create_dir(&folder).unwrap();
        let files = [
            "task.json",
            "end.json",
            "checkpoints.json",
            "spool",
            "spool.ack",
            "spool.mark",
            "spool.left",
            "output.log",
        ];
        for file in files {
            fs::write(folder.join(file), "secret").unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_that_is_used_again_says_nothing_of_its_last_task() {
        let tasks = tempfile::tempdir().unwrap();
        let (spares, next) = (Spares::below(tasks.path()), tasks.path().join("8-1-0"));
        assert!(!spares.give(&next), "none waits");
        assert!(spares.take_in(&made(tasks.path(), ".gone-7-1-0")).unwrap());
        assert!(spares.give(&next));
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(fs::read_to_string(&path).unwrap(), "", "{path:?}");
            assert_ne!(path.extension().unwrap_or_default(), "json", "{path:?}");
        }
        // And its files are used again.
        let inodes = |folder: &Path| {
            use std::os::unix::fs::MetadataExt as _;
            let all = fs::read_dir(folder).unwrap();
            let mut all: Vec<u64> = all
                .map(|one| one.unwrap().metadata().unwrap().ino())
                .collect();
            all.sort_unstable();
            all
        };
        let before = inodes(&next);
        durable::write_json(&next.join("task.json"), &7).unwrap();
        durable::write_json_for_now(&next.join("end.json"), &7).unwrap();
        assert_eq!(inodes(&next), before);
        assert!(!spares.give(&tasks.path().join("9-1-0")), "it was one");
    }

    #[test]
    fn without_a_place_for_them_there_are_none_and_folders_are_removed() {
        let tasks = tempfile::tempdir().unwrap();
        let no_folder = tasks.path().join("file");
        fs::write(&no_folder, "").unwrap();
        let spares = Spares::below(&no_folder);
        assert!(!spares.give(&tasks.path().join("7-1-0")));
        let gone = made(tasks.path(), ".gone-7-1-0");
        assert!(spares.take_in(&gone).is_err());
        assert!(!spares.give(&tasks.path().join("7-1-0")), "it is none");
    }

    #[test]
    fn a_folder_with_anything_else_in_it_or_a_living_shim_is_not_used_again() {
        let tasks = tempfile::tempdir().unwrap();
        let spares = Spares::below(tasks.path());
        let with_dataset = made(tasks.path(), ".gone-1-1-0");
        fs::create_dir(with_dataset.join("dataset")).unwrap();
        assert!(!spares.take_in(&with_dataset).unwrap());
        let with_link = made(tasks.path(), ".gone-2-1-0");
        std::os::unix::fs::symlink("/etc/passwd", with_link.join("exit.json")).unwrap();
        assert!(!spares.take_in(&with_link).unwrap());
        let held = made(tasks.path(), ".gone-3-1-0");
        let Ok(_shim) = lock::take(&held) else {
            panic!("it is free");
        };
        assert!(!spares.take_in(&held).unwrap());
        assert_eq!(
            fs::read_to_string(held.join("task.json")).unwrap(),
            "secret"
        );
    }
}
