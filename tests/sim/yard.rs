//! A machine with GPUs and the trainers that run on it, which outlive its agent.
//!
//! Owns the processes of one node: when they write, report and end is a function of their arguments and of time. Says
//! it where shims do, in the files of the task's folder. Called by the agent (`Trainers`) and by the world, which lets
//! time pass.

mod launches;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;
use trainyard_agent::exec::{ExitRecord, LaunchSpec, ProcIdent};

use trainyard_core::resources::Capacity;

use crate::{
    files::Files,
    nature,
    script::{Finish, Script},
    trace::Trace,
};

/// A rank whose gang is broken fails so many microseconds later, with this exit code.
const NOTICE: u64 = 5_000_000;
pub(crate) const ALONE: i32 = 1;

/// A process that lives.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pid: i32,
    pub(crate) gpus: Vec<String>,
    /// Job and attempt.
    pub(crate) of: (u64, u32),
    /// Of a gang of so many.
    pub(crate) rank: (u32, u32),
    script: Script,
    /// Microseconds since the beginning of the simulation.
    started: u64,
    wall: u64,
    /// Epochs that were done before it.
    began: u32,
    written: u32,
    reported: u32,
    /// The newest epoch whose checkpoint was told of.
    kept: u32,
    ends_at: Option<u64>,
    /// Another rank of its gang is gone, and it will notice then.
    fails_at: Option<u64>,
    /// `/t/{secret}/api/v1`.
    door: String,
}

/// A report that a trainer makes now.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    task: PathBuf,
    epoch: u32,
    /// It tells where the checkpoint is, not how far the training is.
    of_checkpoint: bool,
    pub(crate) path: String,
    pub(crate) body: String,
}

/// A shim that is about to start its trainer.
#[derive(Debug)]
struct Birth {
    at: u64,
    spec: LaunchSpec,
}

/// A machine: its disk, and what it has when it is asked.
pub(crate) type Machine = (Files, Arc<Mutex<Capacity>>);

#[derive(Debug)]
struct State {
    node: String,
    machine: Machine,
    /// How long a launch takes, and whether it goes on without its agent.
    launch: (Duration, bool),
    births: BTreeMap<PathBuf, Birth>,
    now: u64,
    boot: u32,
    next_pid: i32,
    processes: BTreeMap<PathBuf, Process>,
    /// The epochs that were done before the trainer of each job and attempt.
    began: BTreeMap<(u64, u32), u32>,
    /// Jobs and attempts of which a rank here has not ended well.
    broken: BTreeSet<(u64, u32)>,
    /// Jobs and attempts of which a trainer here was killed from outside, and its shim was not.
    killed: BTreeSet<(u64, u32)>,
    /// For how many microseconds the longest lived trainer of each job and attempt has lived, once it has ended.
    lived: BTreeMap<(u64, u32), u64>,
    trace: Trace,
}

/// A machine. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Yard(Arc<Mutex<State>>);

impl Yard {
    pub(crate) fn new(
        node: &str,
        (machine, launch): (Machine, (Duration, bool)),
        trace: Trace,
    ) -> Self {
        Self(Arc::new(Mutex::new(State {
            node: node.to_owned(),
            machine,
            launch,
            births: BTreeMap::new(),
            now: 0,
            boot: 1,
            next_pid: 100,
            processes: BTreeMap::new(),
            began: BTreeMap::new(),
            broken: BTreeSet::new(),
            killed: BTreeSet::new(),
            lived: BTreeMap::new(),
            trace,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn boot_id(&self) -> String {
        self.state().boot_id()
    }

    /// The machine starts anew: no process of before is left, and none has said how it ended.
    pub(crate) fn reboot(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.births.clear();
        let gone = std::mem::take(&mut state.processes);
        state.lived_until_now(gone.values());
        state.broken.extend(gone.values().map(|process| process.of));
    }

    /// Grows with each trainer that begins.
    pub(crate) fn begun(&self) -> i64 {
        self.state().next_pid.into()
    }

    pub(crate) fn name(&self) -> String {
        self.state().node.clone()
    }

    /// The epochs that were done before the trainers that began here, by job and attempt.
    pub(crate) fn beginnings(&self) -> BTreeMap<(u64, u32), u32> {
        self.state().began.clone()
    }

    /// Jobs and attempts of which a rank here has not ended well.
    pub(crate) fn broken(&self) -> BTreeSet<(u64, u32)> {
        self.state().broken.clone()
    }

    /// Jobs and attempts of which a trainer here was killed from outside, and its shim was not.
    pub(crate) fn killed(&self) -> BTreeSet<(u64, u32)> {
        self.state().killed.clone()
    }

    /// For how long the longest lived trainer here of this job and attempt has lived that has ended.
    pub(crate) fn lived(&self, of: (u64, u32)) -> Duration {
        let micros = self.state().lived.get(&of).copied();
        Duration::from_micros(micros.unwrap_or(0))
    }

    /// Ranks of gangs that are broken elsewhere notice it: what they send to the others is not answered.
    pub(crate) fn notice(&self, broken: &BTreeSet<(u64, u32)>) {
        let mut state = self.state();
        let at = state.now.saturating_add(NOTICE);
        for process in state.processes.values_mut() {
            if process.rank.1 > 1 && broken.contains(&process.of) {
                process.fails_at.get_or_insert(at);
            }
        }
    }

    /// What it has now.
    pub(crate) fn has(&self) -> Capacity {
        let state = self.state();
        let capacity = &state.machine.1;
        capacity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks at what lives.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &Process>) -> T) -> T {
        look(&mut self.state().processes.values())
    }

    /// Kills one of the living, as the kernel does for memory or an operator by mistake; with its shim nobody says how
    /// it ended.
    pub(crate) fn kill(&self, which: usize, shim_too: bool) {
        let mut state = self.state();
        let Some(task) = state.processes.keys().nth(which).cloned() else {
            return;
        };
        if shim_too {
            let gone = state.processes.remove(&task);
            state.lived_until_now(gone.iter());
            state.broken.extend(gone.map(|process| process.of));
        } else {
            let of = state.processes.get(&task).map(|process| process.of);
            state.killed.extend(of);
            state.end(&task, (None, Some(9)));
        }
    }

    /// One of the living is there twice, as it may never be.
    pub(crate) fn double(&self) {
        let mut state = self.state();
        let one = state.processes.iter().next();
        let other = one.map(|(task, process)| (task.join("double"), process.clone()));
        if state.processes.len() == 1 {
            state.processes.extend(other);
        }
    }

    /// Its clock was set by so many seconds. Since when a trainer runs is told by the age of its process on a machine; here
    /// by the time of a file, which goes with the clock.
    pub(crate) fn clock_was_set(&self, seconds: i64) {
        let by = Duration::from_secs(seconds.unsigned_abs());
        for task in self.state().processes.keys() {
            let moved = || -> io::Result<()> {
                let file = File::options().write(true).open(task.join("proc.json"))?;
                let then = file.metadata()?.modified()?;
                file.set_modified(if seconds < 0 { then - by } else { then + by })
            };
            // A folder may be gone.
            drop(moved());
        }
    }

    /// Time has passed: trainers write and end.
    pub(crate) fn advance(&self, now: Duration) {
        let mut state = self.state();
        state.now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        state.machine.0.at(state.now);
        state.bear();
        let tasks: Vec<PathBuf> = state.processes.keys().cloned().collect();
        for task in tasks {
            state.advance(&task);
        }
    }

    /// What trainers have to report and have no answer for.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let state = self.state();
        let all = state.processes.iter();
        all.filter_map(|(task, one)| one.call(task)).collect()
    }

    /// A report was answered.
    pub(crate) fn answered(&self, call: &Call) {
        if let Some(process) = self.state().processes.get_mut(&call.task) {
            let told = if call.of_checkpoint {
                &mut process.kept
            } else {
                &mut process.reported
            };
            *told = call.epoch.max(*told);
        }
    }
}

impl Process {
    /// For how long it has lived by now.
    pub(crate) fn lives_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_micros(self.started))
    }

    /// What it says next, if there is anything.
    fn call(&self, task: &Path) -> Option<Call> {
        let (job, epochs) = (self.of.0, self.script.epochs);
        let call = |epoch, of_checkpoint, body| Call {
            task: task.to_path_buf(),
            epoch,
            of_checkpoint,
            path: format!("{}/training/jobs/{job}/callback/progress", self.door),
            body,
        };
        if !self.has_told() {
            let epoch = self.reported;
            let path = Script::checkpoint(job, epoch);
            let body = format!(
                r#"{{"job_id":{job},"status":"running","current_epoch":0,"total_epochs":{epochs},"checkpoint_path":"{path}"}}"#
            );
            return Some(call(epoch, true, body));
        }
        let epoch = self.reported + 1;
        let loss = 1.0 / f64::from(epoch);
        let body = format!(
            r#"{{"job_id":{job},"status":"running","current_epoch":{epoch},"total_epochs":{epochs},"metrics":{{"loss":{loss}}}}}"#
        );
        (self.reported < self.written).then(|| call(epoch, false, body))
    }

    /// Whether the checkpoint of the newest epoch is known, if there is one.
    fn has_told(&self) -> bool {
        let due = self.rank.0 == 0
            && self.reported > self.began
            && self.script.saves_after(self.reported);
        !due || self.kept == self.reported
    }
}

impl State {
    /// A file that the shim writes.
    fn write(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let (files, _capacity) = &self.machine;
        files.of_shim(path, || write(path, value))
    }

    fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.node, self.boot)
    }

    fn ident(&self, pid: i32) -> ProcIdent {
        ProcIdent {
            pid,
            start_ticks: self.now,
            boot_id: self.boot_id(),
        }
    }

    fn process(&self, pid: i32, script: Script, spec: &LaunchSpec) -> Process {
        let text = |name: &str| spec.env.get(name).map(String::as_str).unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or_default();
        let rank = |name: &str, plain: u32| text(name).parse().unwrap_or(plain);
        let attempt = text("TRAINYARD_ATTEMPT").parse().unwrap_or_default();
        let gpus = text("CUDA_VISIBLE_DEVICES").split(',');
        let door = text("CALLBACK_URL").split_once("/t/").unwrap_or_default().1;
        let whole = text("RESUME") == "true";
        let began = Script::epoch_of(text("RESUME_FROM")).filter(|_| whole);
        let began = began.unwrap_or(0);
        Process {
            pid,
            gpus: gpus
                .filter(|gpu| !gpu.is_empty())
                .map(str::to_owned)
                .collect(),
            of: (number("TRAINYARD_JOB_ID"), attempt),
            rank: (rank("RANK", 0), rank("WORLD_SIZE", 1)),
            script,
            started: self.now,
            wall: nature::wall_us(),
            began,
            written: began,
            reported: began,
            kept: began,
            ends_at: None,
            fails_at: None,
            door: format!("/t/{door}"),
        }
    }

    fn advance(&mut self, task: &Path) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(task) else {
            return;
        };
        let epoch = process.script.millis * 1_000;
        let due = (now - process.started) / epoch.max(1);
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        let due = due.saturating_add(process.began).min(process.script.epochs);
        // A trainer waits for the answer to its report before it goes on.
        while process.written < due && process.written == process.reported && process.has_told() {
            process.written += 1;
            output(task, nature::wall_us(), &Script::line(process.written));
        }
        let alone = process.fails_at.is_some_and(|at| now >= at);
        let stopped = process.ends_at.is_some_and(|at| now >= at);
        let left = process.script.epochs.saturating_sub(process.began);
        let (lacks, ends) = match process.script.finish {
            Finish::Done => (false, true),
            Finish::Never => (false, false),
            Finish::NoMemory => (true, true),
        };
        let lacks = lacks && now >= process.started + epoch;
        let done = ends
            && process.reported >= process.script.epochs
            && process.has_told()
            && now >= process.started + epoch * u64::from(left);
        if stopped {
            let signal = if process.script.stubborn { 9 } else { 15 };
            self.end(task, (None, Some(signal)));
        } else if alone {
            self.end(task, (Some(ALONE), None));
        } else if lacks {
            self.end_for_memory(task);
        } else if done {
            let code = process.script.code;
            self.end(task, (Some(code), None));
        }
    }

    fn end_for_memory(&mut self, task: &Path) {
        self.end_by(task, (None, Some(9)), true);
    }

    /// However they have ended: their agent may have told some before that their time was over.
    fn lived_until_now<'p>(&mut self, gone: impl Iterator<Item = &'p Process>) {
        for process in gone {
            let ran = self.now.saturating_sub(process.started);
            let lived = self.lived.entry(process.of).or_default();
            *lived = (*lived).max(ran);
        }
    }

    fn end(&mut self, task: &Path, told: (Option<i32>, Option<i32>)) {
        self.end_by(task, told, false);
    }

    fn end_by(
        &mut self,
        task: &Path,
        (code, signal): (Option<i32>, Option<i32>),
        oom_killed: bool,
    ) {
        let Some(process) = self.processes.remove(task) else {
            return;
        };
        let ran = self.now.saturating_sub(process.started);
        self.lived_until_now([&process].into_iter());
        let record = ExitRecord {
            code,
            signal,
            max_rss_bytes: 0,
            started_at_us: process.wall,
            ended_at_us: nature::wall_us(),
            killed_leftovers: 0,
            stuck_leftovers: 0,
            oom_killed,
            output_lost_bytes: 0,
            ended_by_machine: false,
            ran_us: Some(ran),
        };
        let (job, attempt) = process.of;
        if code != Some(0) {
            self.broken.insert(process.of);
        }
        let written = self.write(&task.join("exit.json"), &record);
        self.trace.note(format!(
            "{}: trainer of {job}/{attempt} ends code={code:?} signal={signal:?} written={}",
            self.node,
            written.is_ok()
        ));
    }
}

/// With the time of the simulation on it.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.set_modified(UNIX_EPOCH + Duration::from_micros(nature::wall_us()))
}

/// A line of standard output. A folder that is gone takes none.
fn output(task: &Path, at: u64, text: &str) {
    let file = File::options().append(true).open(task.join("output.log"));
    let record = format!("{at} o {}\n{text}\n", text.len());
    drop(file.and_then(|mut file| file.write_all(record.as_bytes())));
}
