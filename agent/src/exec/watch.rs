//! Waiting for a task's end, and asking for it.
//!
//! Owns what the agent does with a shim that it launched or found again: both are the same here. It
//! never starts anything. The agent calls it.

use super::files::{self, ExitRecord, StopRecord};
use super::ident::{ProcIdent, adopt, wait_gone};
use super::{durable, remains};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How soon a task is looked at again that could not be.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a task is looked at whose shim has gone for sure, and whose end cannot be read.
const LOOKS: u32 = 10;

/// Why there is no record of a task's end.
#[derive(Debug, thiserror::Error)]
pub enum ShimVanished {
    /// The shim was killed; the trainer's session is gone.
    #[error(
        "the shim {pid} of {task_dir} ended without a record of the exit, and its trainer was killed ({killed} processes); the task may be started again"
    )]
    TrainerGone {
        /// The task's folder.
        task_dir: PathBuf,
        /// The shim.
        pid: i32,
        /// Processes of the trainer that were still there.
        killed: usize,
    },
    /// The shim was killed, and something of its trainer does not die.
    #[error(
        "the shim {pid} of {task_dir} ended without a record of the exit, and processes {stuck:?} of its trainer do not end; look at them before the machine is used again"
    )]
    TrainerRemains {
        /// The task's folder.
        task_dir: PathBuf,
        /// The shim.
        pid: i32,
        /// What is left.
        stuck: Vec<i32>,
    },
    /// The folder or the processes cannot be looked at.
    #[error("cannot tell how the task in {task_dir} ended: {source}")]
    Unreadable {
        /// The task's folder.
        task_dir: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// Whether a stop reached anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The shim was told.
    Asked,
    /// The shim has ended already.
    AlreadyGone,
}

/// Why a stop could not be asked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot signal the shim {pid} of {task_dir}: {source}; see that the agent runs as the user that started it"
)]
pub struct StopError {
    /// The task's folder.
    pub task_dir: PathBuf,
    /// The shim.
    pub pid: i32,
    /// What failed.
    pub source: io::Error,
}

/// Waits until the shim of `task_dir` has ended, and says how its trainer did. Works for a shim that
/// this process launched and for one that it found again, also when it has ended long ago. Can be
/// dropped and called again.
///
/// It does not reap a launched shim: see [`super::launch::Launched::child`].
pub async fn wait_exit(task_dir: &Path, shim: &ProcIdent) -> Result<ExitRecord, ShimVanished> {
    let mut looks = 0;
    loop {
        match try_wait_exit(task_dir, shim).await {
            Err(ShimVanished::Unreadable { source, .. })
                if is_looked_at_again(&source, shim, &mut looks) =>
            {
                tracing::error!(%source, task_dir = %task_dir.display(), "a task cannot be watched at present; trying on");
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

/// A trainer goes on, unseen for a while: it is not given up for that. Only one whose shim has gone for sure is, when
/// its end cannot be read time and again.
fn is_looked_at_again(error: &io::Error, shim: &ProcIdent, looks: &mut u32) -> bool {
    let is_gone = matches!(adopt(shim), Ok(None));
    *looks += u32::from(is_gone && !is_shortage(error));
    *looks < LOOKS
}

/// This process lacks something now that it may have later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let error = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

async fn try_wait_exit(task_dir: &Path, shim: &ProcIdent) -> Result<ExitRecord, ShimVanished> {
    let unreadable = |source| ShimVanished::Unreadable {
        task_dir: task_dir.to_path_buf(),
        source,
    };
    if let Some(pidfd) = adopt(shim).map_err(unreadable)? {
        wait_gone(pidfd).await.map_err(unreadable)?;
    }
    let record = durable::read_json(&task_dir.join(files::EXIT));
    if let Ok(Some(record)) = record {
        return Ok(record);
    }
    // Also of a task whose end cannot be read nothing is left.
    let fenced = remains::fence(task_dir).await;
    record.map_err(unreadable)?;
    let (killed, stuck) = fenced.map_err(unreadable)?;
    Err(if stuck.is_empty() {
        ShimVanished::TrainerGone {
            task_dir: task_dir.to_path_buf(),
            pid: shim.pid,
            killed,
        }
    } else {
        ShimVanished::TrainerRemains {
            task_dir: task_dir.to_path_buf(),
            pid: shim.pid,
            stuck,
        }
    })
}

/// Asks the shim of `task_dir` to stop its trainer: SIGTERM, and SIGKILL after `grace`. Further calls
/// can only shorten the grace. Blocks on the disk for a moment.
pub fn request_stop(task_dir: &Path, shim: &ProcIdent, grace: Duration) -> Result<Stop, StopError> {
    let failed = |source| StopError {
        task_dir: task_dir.to_path_buf(),
        pid: shim.pid,
        source,
    };
    let Some(pidfd) = adopt(shim).map_err(failed)? else {
        return Ok(Stop::AlreadyGone);
    };
    let stop = StopRecord {
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
    };
    if let Err(error) = durable::write_json(&task_dir.join(files::STOP), &stop) {
        // A full disk must not keep a trainer running: it gets the grace of its launch.
        tracing::warn!(%error, task_dir = %task_dir.display(), "cannot write the grace of a stop");
    }
    match pidfd_send_signal(&pidfd, Signal::TERM) {
        Ok(()) => Ok(Stop::Asked),
        Err(Errno::SRCH) => Ok(Stop::AlreadyGone),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn only_a_task_whose_shim_has_gone_is_given_up_when_it_cannot_be_looked_at() {
        let lasting = || io::Error::from_raw_os_error(Errno::IO.raw_os_error());
        let full = || io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        let me = ProcIdent::current().unwrap();
        let mut looks = 0;
        for _ in 0..10 * LOOKS {
            assert!(is_looked_at_again(&lasting(), &me, &mut looks));
            assert!(is_looked_at_again(&full(), &me, &mut looks));
        }
        let gone = ProcIdent {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        let shortage = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        for _ in 1..LOOKS {
            assert!(is_looked_at_again(&lasting(), &gone, &mut looks));
            assert!(is_looked_at_again(&shortage, &gone, &mut looks));
        }
        assert!(!is_looked_at_again(&lasting(), &gone, &mut looks));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_task_whose_end_cannot_be_read_no_process_is_left() {
        let task = tempfile::tempdir().unwrap();
        std::fs::create_dir(task.path().join(files::EXIT)).unwrap();
        let mark = "TRAINYARD_MARK";
        let drawn = format!("{:032x}", rand::random::<u128>());
        let launch = serde_json::json!({
            "argv": [], "cwd": "/", "env": { mark: drawn }, "grace_ms": 0,
        });
        std::fs::write(task.path().join(files::LAUNCH), launch.to_string()).unwrap();
        let mut left = std::process::Command::new("sleep");
        let mut left = left.arg("1000").env(mark, &drawn).spawn().unwrap();
        let me = ProcIdent::current().unwrap();
        let gone = ProcIdent {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        let end = wait_exit(task.path(), &gone).await.unwrap_err();
        assert!(matches!(end, ShimVanished::Unreadable { .. }), "{end}");
        let mut end = None;
        for _ in 0..500 {
            end = left.try_wait().unwrap();
            if end.is_some() {
                break;
            }
            nix::poll::poll(&mut [], 10_u16).unwrap();
        }
        // It would outlive a test that fails.
        left.kill().ok();
        assert_eq!(end.and_then(|end| end.signal()), Some(9));
    }
}
