//! How the trainers of a machine are launched, watched and stopped, as its agent sees it.
//!
//! Owns launches that are under way, which go on whatever becomes of the agent. Called by the agent (`Trainers`), and by
//! the yard when time has passed.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use trainyard_agent::exec::{
    ExitRecord, LaunchSpec, ProcIdent, ProcRecord,
    launch::{LaunchError, Launched},
    trainers::{Trainers, Waiting},
    watch::{ShimVanished, Stop, StopError},
};

use super::{Birth, Process, State, Yard, write};
use crate::script::Script;

/// How soon the end of a process is noticed.
const LOOK: Duration = Duration::from_millis(50);
/// What a small file takes of a disk, in bytes.
const PAGE: usize = 4_096;
/// How often a launch is looked at.
const TICK: Duration = Duration::from_millis(20);

impl Yard {
    fn is_free(&self, task: &Path) -> Result<(), LaunchError> {
        let state = self.state();
        let process = state.processes.get(task).map(|process| process.pid);
        let born = state.births.get(task).map(|_birth| 0);
        match process.or(born) {
            Some(pid) => Err(LaunchError::AlreadyRunning {
                task_dir: task.to_path_buf(),
                pid,
            }),
            None => Ok(()),
        }
    }

    fn begin(&self, task: &Path, spec: &LaunchSpec) -> Result<Launched, LaunchError> {
        self.is_free(task)?;
        self.state().begin(task, spec)
    }

    /// Begins a launch that goes on whoever waits for it.
    fn conceive(&self, task: &Path, spec: &LaunchSpec) {
        let mut state = self.state();
        let takes = u64::try_from(state.launch.0.as_micros()).unwrap_or(u64::MAX);
        let at = state.now.saturating_add(takes);
        let spec = spec.clone();
        state.births.insert(task.to_path_buf(), Birth { at, spec });
    }

    /// What came of it; none while it is under way.
    fn born(&self, task: &Path) -> Option<Result<Launched, LaunchError>> {
        if self.state().births.contains_key(task) {
            return None;
        }
        // Its trainer may have ended by now.
        let record = fs::read(task.join("proc.json")).ok();
        let record: Option<ProcRecord> = record.and_then(|text| serde_json::from_slice(&text).ok());
        let launched = record.map(|ProcRecord { shim, trainer, .. }| Launched {
            shim,
            trainer,
            child: None,
        });
        Some(launched.ok_or_else(|| failed("its shim has ended")))
    }

    /// None while it lives.
    fn exit(&self, task: &Path, shim: &ProcIdent) -> Option<Result<ExitRecord, ShimVanished>> {
        let state = self.state();
        let same = |process: &Process| process.pid == shim.pid && shim.boot_id == state.boot_id();
        if state.processes.get(task).is_some_and(same) {
            return None;
        }
        let unreadable = |source| ShimVanished::Unreadable {
            task_dir: task.to_path_buf(),
            source,
        };
        Some(match fs::read(task.join("exit.json")) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| unreadable(io::Error::other(error)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ShimVanished::TrainerGone {
                    task_dir: task.to_path_buf(),
                    pid: shim.pid,
                    killed: 0,
                })
            }
            Err(error) => Err(unreadable(error)),
        })
    }
}

fn failed(reason: &str) -> LaunchError {
    LaunchError::Failed {
        program: "simulated-trainer".to_owned(),
        reason: reason.to_owned(),
    }
}

impl State {
    /// Launches whose time has come.
    pub(super) fn bear(&mut self) {
        let now = self.now;
        let due = self.births.extract_if(.., |_, birth| birth.at <= now);
        let due: Vec<(PathBuf, Birth)> = due.collect();
        for (task, birth) in due {
            if let Err(error) = self.begin(&task, &birth.spec) {
                self.trace.note(format!("{}: {error}", self.node));
            }
        }
    }

    fn begin(&mut self, task: &Path, spec: &LaunchSpec) -> Result<Launched, LaunchError> {
        let script = Script::of(&spec.argv).ok_or_else(|| failed("its arguments are none"))?;
        let pid = self.next_pid;
        self.next_pid += 2;
        let process = self.process(pid, script, spec);
        let record = ProcRecord {
            shim: self.ident(pid),
            trainer: self.ident(pid + 1),
            cgroup: None,
        };
        let unwritten = |source| LaunchError::Folder {
            task_dir: task.to_path_buf(),
            source,
        };
        // With room for how it will have ended.
        self.machine.0.takes(2 * PAGE).map_err(unwritten)?;
        self.write(&task.join("proc.json"), &record)
            .map_err(unwritten)?;
        File::create(task.join("output.log")).map_err(unwritten)?;
        let ((job, attempt), began) = (process.of, process.began);
        let node = &self.node;
        let said = format!("{node}: trainer of {job}/{attempt} starts after epoch {began}");
        self.trace.note(said);
        self.began.insert(process.of, began);
        self.processes.insert(task.to_path_buf(), process);
        Ok(Launched {
            shim: record.shim,
            trainer: record.trainer,
            child: None,
        })
    }
}

impl Trainers for Yard {
    fn launch<'w>(
        &'w self,
        task_dir: &'w Path,
        spec: &'w LaunchSpec,
    ) -> Waiting<'w, Result<Launched, LaunchError>> {
        Box::pin(async move {
            self.is_free(task_dir)?;
            let launch = task_dir.join("launch.json");
            let files = self.state().machine.0.clone();
            let written = trainyard_runtime::lasting(&launch, &[], |_| {
                files.takes(PAGE)?;
                for name in ["exit.json", "proc.json"] {
                    fs::remove_file(task_dir.join(name)).ok();
                }
                write(&launch, spec)
            });
            written.map_err(|source| LaunchError::Folder {
                task_dir: task_dir.to_path_buf(),
                source,
            })?;
            let (takes, goes_on) = self.state().launch;
            if !goes_on {
                tokio::time::sleep(takes).await;
                return self.begin(task_dir, spec);
            }
            self.conceive(task_dir, spec);
            loop {
                tokio::time::sleep(TICK).await;
                if let Some(born) = self.born(task_dir) {
                    return born;
                }
            }
        })
    }

    fn wait_exit<'w>(
        &'w self,
        task_dir: &'w Path,
        shim: &'w ProcIdent,
    ) -> Waiting<'w, Result<ExitRecord, ShimVanished>> {
        Box::pin(async move {
            loop {
                if let Some(ended) = self.exit(task_dir, shim) {
                    return ended;
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn request_stop(
        &self,
        task_dir: &Path,
        _shim: &ProcIdent,
        grace: Duration,
    ) -> Result<Stop, StopError> {
        let mut state = self.state();
        let now = state.now;
        if state.machine.0.gone().is_some() {
            return Ok(Stop::AlreadyGone);
        }
        let Some(process) = state.processes.get_mut(task_dir) else {
            return Ok(Stop::AlreadyGone);
        };
        let grace = u64::try_from(grace.as_micros()).unwrap_or(u64::MAX);
        let takes = if process.script.stubborn {
            grace
        } else {
            100_000.min(grace)
        };
        let at = now.saturating_add(takes);
        process.ends_at = Some(process.ends_at.map_or(at, |before| before.min(at)));
        Ok(Stop::Asked)
    }

    fn keep_ready(&self) {}
}
