//! The files of a task's folder: their names and what stands in them.
//!
//! Owns the shapes that the agent and the shim exchange through the folder. It never reads or
//! writes. Everything else in the process side uses it.

use super::ident::ProcIdent;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What is to be run: a [`LaunchSpec`], written by the launcher.
pub(crate) const LAUNCH: &str = "launch.json";
/// Which processes run: a [`ProcRecord`], written by the shim.
pub(crate) const PROC: &str = "proc.json";
/// Locked by the shim for as long as it lives, with its pid in it: there is never a second one.
pub(crate) const LOCK: &str = "shim.lock";
/// How long the trainer may take to stop: a [`StopRecord`], written by the watcher.
pub(crate) const STOP: &str = "stop.json";
/// How the trainer ended: an [`ExitRecord`], written by the shim as its last act.
pub(crate) const EXIT: &str = "exit.json";
/// How the task ended, written by the agent as its last word on it; here it only counts that it is there.
pub(crate) const END: &str = "end.json";
/// What the trainer wrote, see [`super::output`].
pub(crate) const OUTPUT: &str = "output.log";
/// What the shim itself had to say: panics and troubles.
pub(crate) const SHIM_ERR: &str = "shim.err";

/// What a shim is to run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The program and its arguments; the program is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// The folder that it starts in.
    pub cwd: PathBuf,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Milliseconds between SIGTERM and SIGKILL when a stop names no other.
    pub grace_ms: u64,
}

/// Without the values of variables: the callback URL and the user's own hold secrets.
impl fmt::Debug for LaunchSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchSpec")
            .field("argv", &self.argv)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys())
            .field("grace_ms", &self.grace_ms)
            .finish()
    }
}

/// The two processes of a launched task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcRecord {
    /// The shim.
    pub shim: ProcIdent,
    /// The trainer's main process; its pid is also its session and process group.
    pub trainer: ProcIdent,
    /// The trainer's control group, where one could be made.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

/// How a stop was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopRecord {
    /// Milliseconds between SIGTERM and SIGKILL.
    pub(crate) grace_ms: u64,
}

/// How a trainer ended. Exactly one of `code` and `signal` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if it died of one.
    pub signal: Option<i32>,
    /// The largest resident set of any one of its processes.
    pub max_rss_bytes: u64,
    /// Wall time of the start, microseconds since 1970.
    pub started_at_us: u64,
    /// Wall time of the main process's end, microseconds since 1970.
    pub ended_at_us: u64,
    /// Processes that outlived the main process and were killed.
    pub killed_leftovers: u32,
    /// Processes that did not die of SIGKILL in time (stuck in the kernel): the machine's devices
    /// may still be held.
    pub stuck_leftovers: u32,
    /// Died of a SIGKILL that the shim did not send, while the kernel's count of out-of-memory kills rose: that of its
    /// control group, or of the whole machine where there is none.
    pub oom_killed: bool,
    /// Bytes of output that could not be written to `output.log`.
    pub output_lost_bytes: u64,
    /// SIGTERM came, and no agent had written `stop.json`: the machine ends all of its processes, as at a reboot, or
    /// somebody did so by hand. An agent whose disk is full stops a trainer so too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended_by_machine: bool,
    /// For how long the main process ran, in microseconds, whatever was done to the clock meanwhile; missing in records of
    /// older shims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_us: Option<u64>,
}

impl ExitRecord {
    /// For how long the main process ran.
    #[must_use]
    pub fn ran(&self) -> Duration {
        let by_the_wall = self.ended_at_us.saturating_sub(self.started_at_us);
        Duration::from_micros(self.ran_us.unwrap_or(by_the_wall))
    }
}

/// The one line that the shim says to its launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// The trainer runs and `proc.json` says so.
    Started(ProcRecord),
    /// The program is not there, or the interpreter of its first line is not.
    NotFound,
    /// The program may not be executed, or is not an executable format.
    NotExecutable(String),
    /// The start folder is not a folder.
    NoFolder,
    /// What the job asks for cannot be started, on this machine or another.
    Refused(String),
    /// The program is being written at this moment.
    Busy,
    /// Another shim, with this pid, runs the task.
    RunsAlready(i32),
    /// Anything else.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_variables_are_not_shown() {
        let spec = LaunchSpec {
            argv: vec!["train".into()],
            cwd: "/".into(),
            env: BTreeMap::from([("API_KEY".into(), "hunter2".into())]),
            grace_ms: 1,
        };
        let shown = format!("{spec:?}");
        assert!(
            shown.contains("API_KEY") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
