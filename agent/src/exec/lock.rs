//! Who runs a task: the shim's lock on a file of the task's folder, which ends with the shim.
//!
//! Owns taking it and asking for it. It tells of a shim that has not written `proc.json` yet, when the
//! agent that started it has died. The shim takes it; the launcher and the agent's runs ask.

use super::files::{self, Hello};
use nix::poll::{PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
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

/// Takes hold of the process `pid`, if it is the shim of the task in `task_dir`: it has the lock's file open. What the
/// file says may be nothing yet, or of an earlier shim, and 0 would be the whole group of whoever signals it.
pub(crate) fn hold(task_dir: &Path, pid: i32) -> Option<OwnedFd> {
    let own = i32::try_from(std::process::id()).ok();
    if pid <= 1 || Some(pid) == own {
        return None;
    }
    // Opened before the look: a process that takes over the pid in between is another one's.
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
    let which = |about: fs::Metadata| (about.dev(), about.ino());
    let lock = fs::metadata(task_dir.join(files::LOCK)).map(which).ok()?;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut open = open.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
    open.any(|about| which(about) == lock).then_some(pidfd)
}

/// The pid of the living shim of the task in `task_dir`, if there is one; 0 where it has not said it yet.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn only_a_process_that_has_the_lock_open_is_taken_for_its_shim() {
        let task = tempfile::tempdir().unwrap();
        let path = task.path().join(files::LOCK);
        // Held by a shim that has not said who it is.
        let lock = File::create(&path).unwrap();
        lock.try_lock().unwrap();
        assert_eq!(holder(task.path()).unwrap(), Some(0));
        let own = i32::try_from(std::process::id()).unwrap();
        for pid in [0, 1, -1, own, own.wrapping_neg()] {
            assert!(hold(task.path(), pid).is_none(), "{pid}");
        }
        let sleeper = |input: Stdio| {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(input).spawn().unwrap()
        };
        let mut shim = sleeper(lock.into());
        let mut other = sleeper(Stdio::null());
        let held = |pid: u32| hold(task.path(), i32::try_from(pid).unwrap()).is_some();
        let found = (held(shim.id()), held(other.id()));
        for child in [&mut shim, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, (true, false));
    }
}
