//! The folder of a task: its files' names, and reading and writing those that are the agent's own.
//!
//! Never decides what follows from a file. Blocks on the disk. Called by the actors `Runs` and `Run`;
//! docs/adr/0005 has the order of a task's life in files.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use trainyard_config::Secret;
use trainyard_core::{
    ids::{AttemptNo, JobId, Rank, TaskKey},
    snapshot::Snapshot,
    spec::JobSpec,
    task::{Ended, Stop},
    time::Timestamp,
};
use trainyard_runtime::lasting;

use crate::{
    clock,
    dataset::{Told, remove_tree},
    exec::{ExitRecord, ProcRecord, durable, files::END, launch, lock},
    spares::Spares,
};

const TASK: &str = "task.json";
const STOP_CAUSE: &str = "stop-cause.json";
const PORT: &str = "port.json";
const CHECKPOINTS: &str = "checkpoints.json";
/// What a folder's name starts with while it is being removed.
const GONE: &str = ".gone-";

/// What the coordinator wants to be run.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Which task.
    pub task: TaskKey,
    /// What the user asked for.
    pub spec: JobSpec,
    /// The GPUs that the task holds.
    pub gpu_uuids: Vec<String>,
    /// Tasks of the attempt.
    pub world_size: u32,
    /// Part of the callback URL.
    pub secret: Secret,
    /// What it trains on, when the job names a dataset by its id.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
}

/// Shows neither variables nor the secret.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("task", &self.task)
            .field("framework", &self.spec.framework)
            .finish_non_exhaustive()
    }
}

/// The folder of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFolder {
    path: PathBuf,
}

impl TaskFolder {
    /// The folder of `task` below `tasks`.
    #[must_use]
    pub fn of(tasks: &Path, task: TaskKey) -> Self {
        let name = format!("{}-{}-{}", task.job.0, task.attempt.0, task.rank.0);
        Self {
            path: tasks.join(name),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The spool's file.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// What the trainer wrote.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.path.join("output.log")
    }

    /// What the trainer is shown of its dataset.
    #[must_use]
    pub fn view(&self) -> PathBuf {
        self.path.join("dataset")
    }

    /// Where the checkpoint that the trainer begins with is brought.
    #[must_use]
    pub fn beginning(&self) -> PathBuf {
        self.path.join("resume")
    }

    /// What its trainer has called its checkpoints.
    #[must_use]
    pub fn told(&self) -> Told {
        Told::kept_in(self.path.join(CHECKPOINTS))
    }

    /// Creates the folder with the order in it, durably; of a spare one where there is one.
    pub fn create(&self, order: &Order, spares: &Spares) -> io::Result<()> {
        lasting(&self.path, &[], |_| {
            if self.path.try_exists()? || !spares.give(&self.path) {
                private_folder(&self.path)?;
            }
            Ok(())
        })?;
        durable::write_json(&self.path.join(TASK), order)
    }

    /// Which task it is of, by its name.
    #[must_use]
    pub fn task(&self) -> Option<TaskKey> {
        let name = self.path.file_name()?.to_str()?;
        let mut parts = name.split('-');
        let task = TaskKey {
            job: JobId(parts.next()?.parse().ok()?),
            attempt: AttemptNo(parts.next()?.parse().ok()?),
            rank: Rank(parts.next()?.parse().ok()?),
        };
        let tasks = self.path.parent()?;
        (Self::of(tasks, task).path == self.path).then_some(task)
    }

    /// The order, if it is there.
    pub fn order(&self) -> io::Result<Option<Order>> {
        durable::read_json(&self.path.join(TASK))
    }

    /// Whether the order stands in it.
    pub fn created(&self) -> io::Result<bool> {
        self.path.join(TASK).try_exists()
    }

    /// Keeps why the task is being stopped.
    pub fn note_stop(&self, stop: &Stop) -> io::Result<()> {
        durable::write_json(&self.path.join(STOP_CAUSE), stop)
    }

    /// Why it is being stopped, if it is.
    pub fn stop(&self) -> io::Result<Option<Stop>> {
        durable::read_json(&self.path.join(STOP_CAUSE))
    }

    /// Keeps how the task ended.
    pub fn note_end(&self, ended: &Ended) -> io::Result<()> {
        durable::write_json(&self.path.join(END), ended)
    }

    /// How it ended, if it has.
    pub fn end(&self) -> io::Result<Option<Ended>> {
        durable::read_json(&self.path.join(END))
    }

    /// Keeps the port where the gang of this rank 0 meets.
    pub fn note_port(&self, port: u16) -> io::Result<()> {
        durable::write_json(&self.path.join(PORT), &port)
    }

    /// That port, if it has one.
    pub fn port(&self) -> io::Result<Option<u16>> {
        durable::read_json(&self.path.join(PORT))
    }

    /// The port that is this task's until it has ended. Where that cannot be seen, it has not.
    pub fn lent_port(&self) -> Option<u16> {
        let port = self.port().ok().flatten();
        port.filter(|_| !matches!(self.end(), Ok(Some(_))))
    }

    /// Makes it a folder of no task, for a start that comes before it can be removed. It does not matter if it has gone.
    pub fn void(&self) -> io::Result<()> {
        let order = self.path.join(TASK);
        let voided = lasting(&order, &[], |_| {
            fs::remove_file(&order)?;
            fs::File::open(&self.path)?.sync_all()
        });
        match voided {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            voided => voided,
        }
    }

    /// Whether a launch was begun.
    pub fn launched(&self) -> io::Result<bool> {
        self.path.join("launch.json").try_exists()
    }

    /// Whether a trainer may run: a launch was begun, and no end is known. Where that cannot be seen, one may.
    pub fn may_run(&self) -> bool {
        let launched = self.launched().unwrap_or(true);
        launched && !matches!(self.end(), Ok(Some(_)))
    }

    /// Whether a shim lives that runs the task, also before it has written who it is.
    pub fn has_shim(&self) -> io::Result<bool> {
        Ok(lock::holder(&self.path)?.is_some())
    }

    /// The processes, and since when they run.
    pub fn processes(&self) -> io::Result<Option<(ProcRecord, Timestamp)>> {
        let Some(processes) = launch::read_processes(&self.path)? else {
            return Ok(None);
        };
        let written = fs::metadata(self.path.join("proc.json"))?.modified()?;
        // The clock may have been set since.
        let began = processes
            .trainer
            .began()
            .unwrap_or_else(|| clock::of(written));
        Ok(Some((processes, began)))
    }

    /// How the trainer ended, if it has.
    pub fn exit(&self) -> io::Result<Option<ExitRecord>> {
        launch::read_exit(&self.path)
    }

    /// Puts it below `place`, where no task is looked for, under its own name.
    pub fn put_aside(&self, place: &Path) -> io::Result<PathBuf> {
        private_folder(place)?;
        let aside = place.join(self.path.file_name().unwrap_or_default());
        lasting(&self.path, &[], |_| fs::rename(&self.path, &aside))?;
        Ok(aside)
    }

    /// Removes the folder, or keeps it for another task where there are `spares`. Its name goes first: what still writes
    /// into it finds nothing.
    pub fn remove(&self, spares: Option<&Spares>) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let gone = self.path.with_file_name(format!("{GONE}{name}"));
        let rename = || lasting(&self.path, &[], |_| fs::rename(&self.path, &gone));
        let renamed = match rename() {
            // What could not be removed of an earlier one of this name. Which of the two it is, is up to the file system.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                lasting(&gone, &[], |_| remove_tree(&gone))?;
                rename()
            }
            renamed => renamed,
        };
        match renamed {
            // An earlier try may have come so far and no further.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                lasting(&gone, &[], |_| remove_tree(&gone))
            }
            Err(error) => Err(error),
            Ok(()) => match spares.map(|spares| spares.take_in(&gone)) {
                Some(Ok(true)) => Ok(()),
                Some(Ok(false) | Err(_)) | None => lasting(&gone, &[], |_| remove_tree(&gone)),
            },
        }
    }
}

/// Makes a folder that only this user can enter; it holds secrets.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The folder of a task of an earlier life.
#[derive(Debug)]
pub struct Found {
    /// The folder.
    pub folder: TaskFolder,
    /// Which task.
    pub task: TaskKey,
    /// What was ordered, or why that cannot be read.
    pub order: io::Result<Order>,
}

impl Found {
    /// Whether what was ordered is lost for good.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.order.as_ref().is_err_and(durable::is_damage)
    }
}

/// All tasks whose folders are below `tasks`, also those whose order cannot be read: their processes may live. What is no
/// whole folder is cleared away: nobody was told of it, or it was forgotten. Where that cannot be, it lies there until the
/// next start; if it has the name of a task, no other one may begin in it, and that task is among the second ones.
pub fn find(tasks: &Path) -> io::Result<(Vec<Found>, Vec<TaskKey>)> {
    find_and(tasks, remove)
}

fn find_and(
    tasks: &Path,
    remove: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<(Vec<Found>, Vec<TaskKey>)> {
    let clear = |path: &Path| {
        tracing::info!(path = %path.display(), "what is left of a task is removed");
        let removed = remove(path);
        if let Err(error) = &removed {
            tracing::warn!(path = %path.display(), %error, "it cannot be removed; look at it");
        }
        removed.is_ok()
    };
    let (mut found, mut left) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(tasks)? {
        let path = entry?.path();
        let folder = TaskFolder { path };
        let Some(task) = folder.task() else {
            clear(&folder.path);
            continue;
        };
        let order = match folder.order() {
            Ok(Some(order)) if order.task == task => Ok(order),
            Ok(_) => {
                if !clear(&folder.path) {
                    left.push(task);
                }
                continue;
            }
            Err(error) => Err(error),
        };
        found.push(Found {
            folder,
            task,
            order,
        });
    }
    Ok((found, left))
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        remove_tree(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests;
