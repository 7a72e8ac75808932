//! Starting the trainer's main process.
//!
//! Owns its command, and what a failed start means to the user. It never waits for it. The shim
//! calls it once.

use super::files::{Hello, LaunchSpec};
use super::{cgroup, unix};
use nix::errno::Errno;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts the trainer of `spec`, tied to this process, in the control group `cgroup` if there is one.
pub(crate) fn spawn_trainer(spec: &LaunchSpec, cgroup: Option<&Path>) -> Result<Child, Hello> {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Err(Hello::Failed("the command is empty".to_owned()));
    };
    if !spec.cwd.is_dir() {
        return Err(Hello::NoFolder);
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&spec.cwd)
        .env_clear()
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    unix::tie_to_parent(
        &mut command,
        rustix::process::getpid(),
        cgroup.and_then(cgroup::door),
    );
    command.spawn().map_err(|error| refusal(&error))
}

/// What an error of exec means to the one who named the program.
fn refusal(error: &io::Error) -> Hello {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => Hello::NotFound,
        Some(Errno::EACCES | Errno::EPERM) => Hello::NotExecutable("permission denied".to_owned()),
        Some(Errno::ENOEXEC) => {
            Hello::NotExecutable("neither a binary nor a script with a #! line".to_owned())
        }
        Some(_) | None => Hello::Failed(format!("starting it failed: {error}")),
    }
}
