//! Who runs a task: the shim's lock on a file of the task's folder, which ends with the shim.
//!
//! Owns taking it and asking for it. It tells of a shim that has not written `proc.json` yet, when the
//! agent that started it has died. The shim takes it; the launcher and the agent's runs ask.

use super::files::{self, Hello};
use nix::poll::{PollTimeout, poll};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

/// How often the lock is tried for, 10 ms apart: whoever only asks holds it for a moment, and so does a
/// process that whoever asked was just starting.
const ATTEMPTS: u32 = 100;

/// Takes the lock for this process, for as long as the file is open.
pub(crate) fn take(task_dir: &Path) -> Result<File, Hello> {
    let failed = |error: io::Error| Hello::Failed(format!("locking the task failed: {error}"));
    let path = task_dir.join(files::LOCK);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => {
                let pid = format!("{}\n", std::process::id());
                // An earlier one may have had a longer pid.
                file.set_len(0).map_err(failed)?;
                file.write_all(pid.as_bytes()).map_err(failed)?;
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => {
                // A failure to wait only makes the tries come sooner.
                poll(&mut [], PollTimeout::from(10_u16)).ok();
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let holder = std::fs::read_to_string(&path).unwrap_or_default();
    Err(Hello::RunsAlready(holder.trim().parse().unwrap_or(0)))
}

/// The pid of the living shim of the task in `task_dir`, if there is one.
pub(crate) fn holder(task_dir: &Path) -> io::Result<Option<i32>> {
    let path = task_dir.join(files::LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let said = std::fs::read_to_string(&path)?;
            Ok(Some(said.trim().parse().unwrap_or(0)))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
