//! Starting a trainer through a shim.
//!
//! Owns writing `launch.json`, starting the shim and waiting until it has started the trainer. It
//! never retries and never cleans a folder of anything but an earlier run's records. The agent calls
//! it.

use super::durable;
use super::files::{self, ExitRecord, Hello, LaunchSpec, ProcRecord};
use super::ident::ProcIdent;
use super::shims::{Begun, Shims};
use super::{lock, remains};
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout};

/// How long a shim may take from its start to the trainer's.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The longest line that a shim may say.
const MAX_HELLO: u64 = 16 * 1024;

/// A trainer that runs.
#[derive(Debug)]
pub struct Launched {
    /// The shim; what [`super::watch`] takes.
    pub shim: ProcIdent,
    /// The trainer's main process.
    pub trainer: ProcIdent,
    /// The shim as a child of this process, for reaping only: await [`Child::wait`] beside or after
    /// [`super::watch::wait_exit`], or drop it, upon which the runtime reaps it at some later
    /// SIGCHLD. If neither happens the shim stays a zombie until this process ends. Never call
    /// `kill` or set `kill_on_drop`: the shim is meant to outlive the agent.
    ///
    /// None where the process that it was forked from does that, and in a simulation.
    pub child: Option<Child>,
}

/// Why a trainer was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The folder holds a task that runs.
    #[error("the task in {task_dir} runs already, as process {pid}; stop it first")]
    AlreadyRunning {
        /// The task's folder.
        task_dir: PathBuf,
        /// Its shim.
        pid: i32,
    },
    /// The folder cannot be used.
    #[error(
        "cannot prepare the task folder {task_dir}: {source}; see that it exists, is writable and has space"
    )]
    Folder {
        /// The task's folder.
        task_dir: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// No shim.
    #[error(
        "cannot start the shim {program}: {source}; see that the trainyard binary is still where the agent was started from"
    )]
    Shim {
        /// The shim's program.
        program: String,
        /// What failed.
        source: io::Error,
    },
    /// The trainer's program is missing.
    #[error(
        "program {program} not found: neither a file of that name nor one in PATH, or the interpreter in its first line is missing"
    )]
    NotFound {
        /// The trainer's program.
        program: String,
    },
    /// The trainer's program cannot be executed.
    #[error(
        "program {program} is not executable: {reason}; set its x bit or name an interpreter before it"
    )]
    NotExecutable {
        /// The trainer's program.
        program: String,
        /// Why.
        reason: String,
    },
    /// The start folder is missing.
    #[error(
        "working folder {cwd} of program {program} is not a folder; create it or choose another"
    )]
    NoFolder {
        /// The trainer's program.
        program: String,
        /// The folder it was to start in.
        cwd: PathBuf,
    },
    /// What the job asks for cannot be started anywhere.
    #[error("program {program} cannot be started: {reason}")]
    Refused {
        /// The trainer's program.
        program: String,
        /// Why, and the way out.
        reason: String,
    },
    /// The program's file is being written.
    #[error(
        "program {program} was not started: its file is open for writing; see that nothing writes it while jobs start"
    )]
    Busy {
        /// The trainer's program.
        program: String,
    },
    /// The shim gave up for another reason.
    #[error("program {program} was not started: {reason}")]
    Failed {
        /// The trainer's program.
        program: String,
        /// What the shim said.
        reason: String,
    },
    /// The shim said nothing.
    #[error("the shim for program {program} {what} before the program started; see {log}")]
    Silent {
        /// The trainer's program.
        program: String,
        /// What it did instead.
        what: &'static str,
        /// Where it may have said why.
        log: PathBuf,
    },
}

/// Starts `spec` in `task_dir`, which must exist, through a shim of `shims`. Returns when the trainer runs and `proc.json` says so durably.
///
/// A dropped call leaves a task that may run: [`read_processes`] finds it.
pub async fn launch(
    shims: &Shims,
    task_dir: &Path,
    spec: &LaunchSpec,
) -> Result<Launched, LaunchError> {
    make_ready(task_dir, spec).await?;
    let absolute = std::path::absolute(task_dir).map_err(|source| in_folder(task_dir, source))?;
    let (begun, mut child) = match shims.begin(&absolute, START_LIMIT).await {
        None => start_alone(shims, &absolute).await?,
        Some(Begun::Lost) => {
            tracing::warn!(task_dir = %task_dir.display(), "the process that shims are forked from has ended; this one is started by itself");
            make_ready(task_dir, spec).await?;
            start_alone(shims, &absolute).await?
        }
        Some(begun) => (begun, None),
    };
    let program = spec.argv.first().cloned().unwrap_or_default();
    let silent = |what| LaunchError::Silent {
        program: program.clone(),
        what,
        log: task_dir.join(files::SHIM_ERR),
    };
    let refusal = match begun {
        Begun::Said(Hello::Started(ProcRecord { shim, trainer, .. })) => {
            return Ok(Launched {
                shim,
                trainer,
                child,
            });
        }
        Begun::Said(refusal) => refused(task_dir, spec, program, refusal),
        Begun::Ended | Begun::Lost => silent("ended"),
        Begun::Late => {
            end_holder(task_dir);
            silent("did not answer")
        }
    };
    // The trainer, if there is one, dies with its shim; what it has started already does not.
    if let Some(child) = &mut child {
        drop(child.kill().await);
    }
    fence(task_dir).await;
    Err(refusal)
}

/// Kills a shim that is stuck, where its zygote could not.
fn end_holder(task_dir: &Path) {
    if let Ok(Some(pid)) = lock::holder(task_dir)
        && let Some(shim) = lock::hold(task_dir, pid)
    {
        // It may have ended meanwhile.
        pidfd_send_signal(&shim, Signal::KILL).ok();
    }
}

async fn fence(task_dir: &Path) {
    if let Err(error) = remains::fence(task_dir).await {
        tracing::warn!(%error, task_dir = %task_dir.display(), "what a failed launch left behind cannot be found");
    }
}

fn in_folder(task_dir: &Path, source: io::Error) -> LaunchError {
    LaunchError::Folder {
        task_dir: task_dir.to_path_buf(),
        source,
    }
}

/// The processes of the task in `task_dir`, if it was ever started.
pub fn read_processes(task_dir: &Path) -> io::Result<Option<ProcRecord>> {
    durable::read_json(&task_dir.join(files::PROC))
}

/// How the trainer of `task_dir` ended, if it has.
pub fn read_exit(task_dir: &Path) -> io::Result<Option<ExitRecord>> {
    durable::read_json(&task_dir.join(files::EXIT))
}

/// The launch that `task_dir` was given, if any.
pub fn read_spec(task_dir: &Path) -> io::Result<Option<LaunchSpec>> {
    durable::read_json(&task_dir.join(files::LAUNCH))
}

/// How a task's folder is found.
enum Found {
    /// Ready for a shim.
    Ready,
    /// An earlier launch has been there, and its shim is not any more.
    Left,
    /// A shim with this pid is there.
    Held(i32),
}

/// A shim that was killed before it said who it is may have left something of its trainer: that ends first.
async fn make_ready(task_dir: &Path, spec: &LaunchSpec) -> Result<(), LaunchError> {
    let found = match prepare(task_dir, spec, false).await? {
        Found::Left => {
            let fenced = remains::fence(task_dir).await;
            let (killed, stuck) = fenced.map_err(|source| in_folder(task_dir, source))?;
            if killed > 0 {
                tracing::warn!(killed, ?stuck, task_dir = %task_dir.display(), "an earlier launch had left processes behind");
            }
            prepare(task_dir, spec, true).await?
        }
        found @ (Found::Ready | Found::Held(_)) => found,
    };
    match found {
        Found::Ready | Found::Left => Ok(()),
        Found::Held(pid) => Err(LaunchError::AlreadyRunning {
            task_dir: task_dir.to_path_buf(),
            pid,
        }),
    }
}

async fn prepare(task_dir: &Path, spec: &LaunchSpec, fenced: bool) -> Result<Found, LaunchError> {
    let (folder, mut spec) = (task_dir.to_path_buf(), spec.clone());
    let done = trainyard_runtime::blocking(move || {
        // Also one that has not got as far as writing proc.json.
        if let Some(pid) = lock::holder(&folder)? {
            return Ok(Found::Held(pid));
        }
        if !fenced && folder.join(files::LAUNCH).try_exists()? {
            return Ok(Found::Left);
        }
        remains::mark(&mut spec);
        for name in [files::EXIT, files::STOP, files::PROC] {
            durable::remove_if_there(&folder.join(name))?;
        }
        // The shim reads it now. After a power cut there is no shim, and the launch is begun again.
        durable::write_json_for_now(&folder.join(files::LAUNCH), &spec)?;
        Ok(Found::Ready)
    });
    let done = done.await.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|source| in_folder(task_dir, source))
}

/// A shim of its own, where there is none that it could be forked from.
async fn start_alone(
    shims: &Shims,
    task_dir: &Path,
) -> Result<(Begun, Option<Child>), LaunchError> {
    let log = std::fs::File::create(task_dir.join(files::SHIM_ERR));
    let log = log.map_err(|source| in_folder(task_dir, source))?;
    let started = shims.start(task_dir, Stdio::null(), log.into());
    let mut child = started.map_err(|source| LaunchError::Shim {
        program: shims.program(),
        source,
    })?;
    let begun = match child.stdout.take() {
        Some(stdout) => match tokio::time::timeout(START_LIMIT, read_hello(stdout)).await {
            Ok(Some(hello)) => Begun::Said(hello),
            Ok(None) => Begun::Ended,
            Err(_) => Begun::Late,
        },
        None => Begun::Ended,
    };
    Ok((begun, Some(child)))
}

async fn read_hello(stdout: ChildStdout) -> Option<Hello> {
    let mut line = String::new();
    BufReader::new(stdout.take(MAX_HELLO))
        .read_line(&mut line)
        .await
        .ok()?;
    serde_json::from_str(&line).ok()
}

fn refused(task_dir: &Path, spec: &LaunchSpec, program: String, hello: Hello) -> LaunchError {
    match hello {
        Hello::RunsAlready(pid) => LaunchError::AlreadyRunning {
            task_dir: task_dir.to_path_buf(),
            pid,
        },
        Hello::NotFound => LaunchError::NotFound { program },
        Hello::NotExecutable(reason) => LaunchError::NotExecutable { program, reason },
        Hello::NoFolder => LaunchError::NoFolder {
            program,
            cwd: spec.cwd.clone(),
        },
        Hello::Refused(reason) => LaunchError::Refused { program, reason },
        Hello::Busy => LaunchError::Busy { program },
        Hello::Failed(reason) => LaunchError::Failed { program, reason },
        Hello::Started(_) => LaunchError::Failed {
            program,
            reason: "the shim contradicts itself".to_owned(),
        },
    }
}
