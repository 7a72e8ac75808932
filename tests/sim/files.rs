//! The disks of agents: real folders, and what a crash leaves in them.
//!
//! Owns at which write that is to last a machine's agent is gone, alone or with the whole machine, what a power cut
//! takes from its files: what nobody has waited for, and what a full disk does not take. A program that is gone writes
//! nothing more. Never decides when.
//! Called by whoever writes there, by way of `trainyard_runtime::lasting`, by shims, and by the world.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, SeedableRng as _, rngs::StdRng};
use trainyard_runtime::{Fate, Fates};

use crate::disk::Moment;

/// A system has written down by itself what was done so many microseconds ago.
const WRITTEN_BACK: u64 = 30_000_000;
const SPOOL: &str = "spool";

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Gone {
    /// The agent; what it has written is there, and its trainers go on.
    Program,
    /// The machine.
    Power,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Agent,
    /// Lives on without its agent.
    Shim,
}

/// The disk of one machine. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Files(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    root: PathBuf,
    rng: StdRng,
    now: u64,
    /// After so many further writes.
    fails: Option<(u32, Moment, Gone)>,
    /// What comes when that has.
    then: VecDeque<(u32, Moment, Gone)>,
    /// How often that has come.
    ends: usize,
    /// Writes so far: those of agents, and all.
    writes: (u32, u32),
    gone: Option<Gone>,
    /// How long spools were before what is not synced.
    unsynced: BTreeMap<PathBuf, u64>,
    /// When folders of tasks were removed; copies of them are kept.
    removed: BTreeMap<String, u64>,
    /// A power cut takes what was not synced.
    honest: bool,
    /// It is full after so many further writes that take room.
    fills: Option<u32>,
    /// Writes for which there was no room.
    refused: usize,
}

impl Files {
    pub(crate) fn new(root: PathBuf, seed: u64, honest: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            root,
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            fails: None,
            then: VecDeque::new(),
            ends: 0,
            writes: (0, 0),
            gone: None,
            unsynced: BTreeMap::new(),
            removed: BTreeMap::new(),
            honest,
            fills: None,
            refused: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn at(&self, now: u64) {
        self.state().now = now;
    }

    /// What is gone, until it starts again.
    pub(crate) fn gone(&self) -> Option<Gone> {
        self.state().gone
    }

    /// It is gone with a write, after so many further ones.
    pub(crate) fn fail_after(&self, writes: u32, moment: Moment, gone: Gone) {
        self.state().fails = Some((writes, moment, gone));
    }

    /// The same, once what was to happen before has.
    pub(crate) fn fails_next(&self, writes: u32, moment: Moment, gone: Gone) {
        let mut state = self.state();
        let next = (writes, moment, gone);
        if state.fails.is_some() {
            state.then.push_back(next);
        } else {
            state.fails = Some(next);
        }
    }

    /// How often somebody was gone with a write.
    pub(crate) fn ends(&self) -> usize {
        self.state().ends
    }

    /// Writes so far: those of agents, and all.
    pub(crate) fn writes(&self) -> (u32, u32) {
        self.state().writes
    }

    /// It is full after so many further writes; none says that it has room.
    pub(crate) fn fill_after(&self, writes: Option<u32>) {
        self.state().fills = writes;
    }

    /// Writes for which there was no room so far.
    pub(crate) fn refused(&self) -> usize {
        self.state().refused
    }

    /// As a write of so many bytes that has to have room.
    pub(crate) fn takes(&self, bytes: usize) -> io::Result<()> {
        match self.state().fits(bytes) {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    /// What was to happen and has not will not.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        state.fails = None;
        state.then.clear();
    }

    /// The next program.
    pub(crate) fn boot(&self) {
        self.state().gone = None;
    }

    /// Does a write of a shim, as [`trainyard_runtime::lasting`] does one of an agent.
    pub(crate) fn of_shim(
        &self,
        path: &Path,
        write: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let fate = self.state().fate((path, 0), Writer::Shim);
        match fate {
            Fate::Done => return write(),
            Fate::Before | Fate::Amid(_) => {}
            Fate::After => write()?,
            Fate::Full(_) => return Err(io::ErrorKind::StorageFull.into()),
        }
        Err(io::Error::other("the power is off"))
    }

    /// The power has failed.
    pub(crate) fn cut(&self) {
        let mut state = self.state();
        if state.honest {
            // A folder that cannot be changed is none of an agent's.
            drop(state.lose());
        }
    }
}

impl State {
    fn fate(&mut self, (path, bytes): (&Path, usize), writer: Writer) -> Fate {
        match (self.gone, writer) {
            (Some(Gone::Power), _) | (Some(Gone::Program), Writer::Agent) => return Fate::Before,
            (Some(Gone::Program), Writer::Shim) | (None, _) => {}
        }
        self.writes.0 += u32::from(writer == Writer::Agent);
        self.writes.1 += 1;
        self.remember(path, bytes);
        // An acknowledgement is written over the one before.
        if (bytes > 0 && !is_note(path))
            && let Some(fits) = self.fits(bytes)
        {
            return Fate::Full(fits);
        }
        let Some((left, moment, gone)) = self.fails.as_mut() else {
            return Fate::Done;
        };
        // The end of an agent is no shim's.
        if *gone == Gone::Program && writer == Writer::Shim {
            return Fate::Done;
        }
        if *left > 0 {
            *left -= 1;
            return Fate::Done;
        }
        let (moment, gone) = (*moment, *gone);
        self.fails = self.then.pop_front();
        self.ends += 1;
        self.gone = Some(gone);
        // An acknowledgement lies in one sector: all of it is there, or nothing.
        let torn = bytes > 0 && !is_note(path);
        match moment {
            Moment::Before => Fate::Before,
            Moment::Amid if torn => Fate::Amid(self.rng.random_range(0..bytes)),
            Moment::Amid if self.rng.random_bool(0.5) => Fate::Before,
            Moment::Amid | Moment::After => Fate::After,
        }
    }

    /// How many of so many bytes there is room for; none where there is for all. Of the write that fills it, for some.
    fn fits(&mut self, bytes: usize) -> Option<usize> {
        let left = self.fills?;
        if left > 1 {
            self.fills = Some(left - 1);
            return None;
        }
        self.fills = Some(0);
        self.refused += 1;
        let fits = left > 0 && bytes > 0;
        Some(if fits {
            self.rng.random_range(0..bytes)
        } else {
            0
        })
    }

    /// What a power cut would take with it.
    fn remember(&mut self, path: &Path, bytes: usize) {
        if !self.honest {
            return;
        }
        let name = path.file_name().unwrap_or_default();
        if name == SPOOL && bytes > 0 {
            let length = fs::metadata(path).map_or(0, |file| file.len());
            self.unsynced.entry(path.to_owned()).or_insert(length);
        } else if name == SPOOL && self.fails.is_none_or(|(left, ..)| left > 0) {
            self.unsynced.remove(path);
        } else if path.parent() == Some(&self.tasks()) && path.is_dir() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with('.') && copy(path, &self.before(&name)).is_ok() {
                self.removed.insert(name, self.now);
            }
        }
    }

    fn tasks(&self) -> PathBuf {
        self.root.join("tasks")
    }

    fn before(&self, name: &str) -> PathBuf {
        self.root.with_extension("before").join(name)
    }

    fn lose(&mut self) -> io::Result<()> {
        for (spool, length) in std::mem::take(&mut self.unsynced) {
            if self.rng.random_bool(0.5) {
                self.shorten(&spool, length)?;
            }
        }
        let mut tasks: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(self.tasks())? {
            tasks.push(entry?.path());
        }
        tasks.sort();
        for task in tasks {
            self.lose_of(&task)?;
        }
        for (name, at) in std::mem::take(&mut self.removed) {
            let (before, task) = (self.before(&name), self.tasks().join(&name));
            let young = self.now.saturating_sub(at) < WRITTEN_BACK;
            if young && !task.exists() && self.rng.random_bool(0.5) {
                fs::rename(before, task)?;
            } else {
                fs::remove_dir_all(before)?;
            }
        }
        Ok(())
    }

    /// What is not waited for: the order of a launch, what was acknowledged, output before its end.
    fn lose_of(&mut self, task: &Path) -> io::Result<()> {
        let (launch, output) = (task.join("launch.json"), task.join("output.log"));
        if launch.exists() && !task.join("proc.json").exists() {
            match self.rng.random_range(0..3) {
                0 => fs::remove_file(&launch)?,
                1 => drop(File::create(&launch)?),
                _ => {}
            }
        }
        if output.exists() && !task.join("exit.json").exists() && self.rng.random_bool(0.5) {
            self.shorten(&output, 0)?;
        }
        let ack = task.join("spool.ack");
        let noted = fs::read_to_string(&ack).unwrap_or_default();
        if let Ok(seq) = noted.trim().parse::<u64>()
            && self.rng.random_bool(0.5)
        {
            let seq = self.rng.random_range(0..=seq);
            fs::write(&ack, format!("{seq:<20}\n"))?;
        }
        Ok(())
    }

    /// To some length that is not below `least`.
    fn shorten(&mut self, path: &Path, least: u64) -> io::Result<()> {
        let Ok(file) = File::options().write(true).open(path) else {
            return Ok(());
        };
        let length = file.metadata()?.len();
        file.set_len(self.rng.random_range(least.min(length)..=length))
    }
}

/// Whether it is how far a spool is acknowledged.
fn is_note(path: &Path) -> bool {
    path.extension().is_some_and(|name| name == "ack")
}

/// A folder of files, anew.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            fs::copy(&from, &to)?;
            File::options()
                .write(true)
                .open(&to)?
                .set_modified(fs::metadata(&from)?.modified()?)?;
        }
    }
    Ok(())
}

/// All machines, by their folders.
#[derive(Debug)]
pub(crate) struct Machines(pub(crate) Vec<Files>);

impl Fates for Machines {
    fn of(&self, path: &Path, bytes: usize) -> Fate {
        for files in &self.0 {
            let mut state = files.state();
            if path.starts_with(&state.root) {
                return state.fate((path, bytes), Writer::Agent);
            }
        }
        Fate::Done
    }

    fn room(&self, path: &Path) -> Option<u64> {
        let mut all = self.0.iter().map(Files::state);
        let state = all.find(|state| path.starts_with(&state.root))?;
        state.fills.filter(|left| *left == 0).map(u64::from)
    }
}
