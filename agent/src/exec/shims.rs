//! One shim kept ready: it has started and waits to be told its task, so that a trainer's start does
//! not wait for a program to be loaded (some 3 ms).
//!
//! Owns the idle shim. It never tells it anything. An idle shim ends when the agent does, since what it
//! waits on is closed then. The launcher takes it and has the next one started.

use super::cgroup;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use tokio::process::{Child, Command};

/// What a shim is given instead of a task's folder when it is to be told later.
pub(crate) const LATER: &str = "-";
/// The program that runs here, whatever has become of its file.
const SELF: &str = "/proc/self/exe";

/// How shims are started, and the one that is ready.
#[derive(Debug)]
pub struct Shims {
    /// Program and leading arguments.
    command: Vec<String>,
    /// The program is this process's own.
    own: bool,
    /// The folder of the control group that they start in.
    group: Option<PathBuf>,
    idle: Mutex<Option<Child>>,
}

impl Shims {
    /// Shims that `command` (program and leading arguments) starts. None is ready yet.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        let me = std::env::current_exe().ok();
        let program = command.first().map(PathBuf::from);
        Self {
            own: me.is_some() && me == program,
            command,
            group: cgroup::own(),
            idle: Mutex::default(),
        }
    }

    /// Starts one to be ready, unless one is. A failure only shows in the log: the next launch starts
    /// its own, and tells its user.
    pub fn keep_ready(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_some() {
            return;
        }
        match self.start(LATER, Stdio::piped(), Stdio::null()) {
            Ok(child) => *idle = Some(child),
            Err(error) => tracing::warn!(%error, "no shim is kept ready"),
        }
    }

    /// The one that is ready, if it lives.
    pub(crate) fn take(&self) -> Option<Child> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = idle.take()?;
        matches!(child.try_wait(), Ok(None)).then_some(child)
    }

    /// The program that a shim is.
    pub(crate) fn program(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    /// Starts one with `argument`; it outlives this process.
    pub(crate) fn start(
        &self,
        argument: impl AsRef<std::ffi::OsStr>,
        stdin: Stdio,
        stderr: Stdio,
    ) -> io::Result<Child> {
        let empty = || io::Error::new(io::ErrorKind::InvalidInput, "its command is empty");
        let (program, arguments) = self.command.split_first().ok_or_else(empty)?;
        let group = self.group.iter().map(|group| (cgroup::OWN, group));
        // Its file may be another by now, or none: an upgrade replaces it while this one runs.
        let file = if self.own { SELF } else { program };
        Command::new(file)
            .arg0(program)
            .envs(group)
            .args(arguments)
            .arg(argument)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(false)
            .spawn()
    }
}
