//! Starting the trainer's main process.
//!
//! Owns its command, and what a failed start means to the user. It never waits for it. The shim
//! calls it once.

use super::cgroup;
use super::files::{Hello, LaunchSpec};
use super::unix::{self, Forked};
use nix::errno::Errno;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The exit code of a child that could not become the trainer; nobody reads it.
const NOT_STARTED: i32 = 127;

/// A trainer that runs.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// The main process.
    pub(crate) pid: i32,
    /// What it writes to standard output.
    pub(crate) stdout: PipeReader,
    /// What it writes to standard error.
    pub(crate) stderr: PipeReader,
}

/// Starts the trainer of `spec`, tied to this process, in the control group `cgroup` if there is one.
pub(crate) fn spawn_trainer(spec: &LaunchSpec, cgroup: Option<&Path>) -> Result<Spawned, Hello> {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Err(Hello::Refused("the command is empty".to_owned()));
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
        .stdin(Stdio::null());
    match start(command, cgroup) {
        Ok(begun) => begun.map_err(|error| refusal(&error)),
        Err(error) => Err(not_begun(&error)),
    }
}

/// The trainer, or what the kernel said to its program. The outer error is of what comes before it, which is this machine's.
fn start(mut command: Command, cgroup: Option<&Path>) -> io::Result<io::Result<Spawned>> {
    let (stdout, out) = io::pipe()?;
    let (stderr, err) = io::pipe()?;
    let (failure, mut fail) = io::pipe()?;
    command.stdout(out).stderr(err);
    let shim = rustix::process::getpid();
    let group = cgroup.and_then(cgroup::open);
    match unix::fork_into(group.as_ref())? {
        Forked::Child { grouped } => {
            if !grouped {
                // Without the group the shim still finds its descendants.
                cgroup::join(cgroup);
            }
            let error = match unix::tie_to(shim) {
                Ok(()) => command.exec(),
                Err(error) => error,
            };
            tell(&mut fail, &error);
            unix::leave(NOT_STARTED)
        }
        Forked::Parent(pid) => {
            // Their other ends are the child's alone from here on.
            drop((command, fail));
            Ok(heard(failure)?.map(|()| Spawned {
                pid,
                stdout,
                stderr,
            }))
        }
    }
}

/// Says why there is no trainer. If that fails too, the parent sees a trainer that ended at once.
fn tell(fail: &mut PipeWriter, error: &io::Error) {
    // A NUL is found before the system is asked.
    let plain = if error.kind() == io::ErrorKind::InvalidInput {
        Errno::EINVAL
    } else {
        Errno::EIO
    };
    let code = error.raw_os_error().unwrap_or(plain as i32);
    fail.write_all(&code.to_le_bytes()).ok();
}

/// Waits until the child has become the trainer, which closes the pipe, or says why not.
fn heard(mut failure: PipeReader) -> io::Result<io::Result<()>> {
    let mut said = Vec::new();
    failure.read_to_end(&mut said)?;
    Ok(match said.first_chunk::<4>() {
        Some(code) => Err(io::Error::from_raw_os_error(i32::from_le_bytes(*code))),
        None => Ok(()),
    })
}

fn not_begun(error: &io::Error) -> Hello {
    Hello::Failed(format!("starting it failed: {error}"))
}

/// What an error of exec means to the one who named the program. What is left is a lack or a fault of this machine.
fn refusal(error: &io::Error) -> Hello {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => Hello::NotFound,
        Some(Errno::EACCES | Errno::EPERM) => Hello::NotExecutable("permission denied".to_owned()),
        Some(Errno::ENOEXEC) => {
            Hello::NotExecutable("neither a binary nor a script with a #! line".to_owned())
        }
        Some(Errno::ELIBBAD | Errno::EISDIR) => Hello::NotExecutable(
            "it, or the interpreter it names, is not of a kind that this machine runs".to_owned(),
        ),
        Some(Errno::ENAMETOOLONG) => Hello::Refused(
            "its name is longer than Linux takes: 255 bytes, and 4095 for a path; give the command as a list of words, the program alone as the first".to_owned(),
        ),
        Some(Errno::ELOOP) => Hello::Refused(
            "its path leads through too many symbolic links, or round in a ring of them; name the file itself".to_owned(),
        ),
        Some(Errno::ETXTBSY) => Hello::Busy,
        Some(Errno::E2BIG) => Hello::Refused(
            "its arguments and variables are more than Linux hands to a process: at most 128 KiB in one of them (CONFIG, which holds advanced_config twice, is one) and about 2 MiB in all; put large values into a file".to_owned(),
        ),
        Some(Errno::EINVAL) => Hello::Refused(
            "an argument or a variable has a NUL character, or the name of a variable is none; mend the command or the environment".to_owned(),
        ),
        Some(_) | None => not_begun(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(argument: &str, variable: &str) -> String {
        let spec = LaunchSpec {
            argv: vec!["/bin/true".to_owned(), argument.to_owned()],
            cwd: "/".into(),
            env: [("A".to_owned(), variable.to_owned())].into(),
            grace_ms: 0,
        };
        match spawn_trainer(&spec, None) {
            Err(Hello::Refused(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_process_cannot_be_given_is_said_in_words() {
        let long = "x".repeat(200_000);
        assert!(words("", &long).contains("128 KiB"));
        assert!(words(&long, "").contains("128 KiB"));
        assert!(words("\0", "").contains("NUL"));
        assert!(words("", "\0").contains("NUL"));
    }
}
