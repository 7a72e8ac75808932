//! Which processes there are, as /proc and the folders of tasks say.
//!
//! Owns who a process is: by pid and start, so that none is taken for another. Sees only the run's own, since the run has
//! a namespace of processes of its own. Called by the world and the check.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

/// A job's number and an attempt's.
pub(crate) type Run = (u64, u32);

/// A process that no other can be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Ident {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

impl Ident {
    /// Whether it is there and no zombie.
    pub(crate) fn lives(self) -> bool {
        look(self.pid).is_some_and(|seen| seen.ident == self)
    }

    /// Signals it; says whether it lived.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.lives() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// A living process.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) ident: Ident,
    pub(crate) command: String,
    pub(crate) name: String,
    /// Of which attempt its environment says it is.
    pub(crate) of: Option<Run>,
    pub(crate) gpus: Vec<String>,
}

/// All that live.
pub(crate) fn all() -> Vec<Seen> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(look).collect()
}

fn look(pid: i32) -> Option<Seen> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let start_ticks = fields.nth(18)?.parse().ok()?;
    let read = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let environment = read("environ");
    let variable = |name: &str| {
        let mut pairs = environment
            .split('\0')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    let number = |name: &str| variable(name)?.parse::<u64>().ok();
    let of = number("TRAINYARD_JOB_ID").zip(number("TRAINYARD_ATTEMPT"));
    let gpus = variable("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let gpus = gpus.split(',').filter(|gpu| !gpu.is_empty());
    Some(Seen {
        ident: Ident { pid, start_ticks },
        name: read("comm"),
        command: read("cmdline").replace('\0', " ").trim().to_owned(),
        of: of.map(|(job, attempt)| (job, u32::try_from(attempt).unwrap_or(0))),
        gpus: gpus.map(str::to_owned).collect(),
    })
}

/// A trainer at work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trainer {
    pub(crate) of: Run,
    pub(crate) rank: u32,
    pub(crate) shim: Ident,
    pub(crate) trainer: Ident,
}

/// The trainers that run by what stands in an agent's folder.
pub(crate) fn trainers(agent: &Path) -> Vec<Trainer> {
    #[derive(Deserialize)]
    struct Processes {
        shim: Ident,
        trainer: Ident,
    }
    let folders = fs::read_dir(agent.join("tasks"))
        .into_iter()
        .flatten()
        .flatten();
    let trainer = |folder: fs::DirEntry| {
        let name = folder.file_name().into_string().ok()?;
        let mut numbers = name.split('-').map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        let (job, attempt, rank) = (number()?, number()?, number()?);
        let text = fs::read_to_string(folder.path().join("proc.json")).ok()?;
        let found: Processes = serde_json::from_str(&text).ok()?;
        found.trainer.lives().then_some(Trainer {
            of: (job, u32::try_from(attempt).ok()?),
            rank: u32::try_from(rank).ok()?,
            shim: found.shim,
            trainer: found.trainer,
        })
    };
    folders.filter_map(trainer).collect()
}

/// Says which GPU has processes of two attempts now.
pub(crate) fn gpu_held_twice(seen: &[Seen]) -> Option<String> {
    let mut holders: BTreeMap<&str, (Run, Ident)> = BTreeMap::new();
    for process in seen {
        let Some(of) = process.of else {
            continue;
        };
        for gpu in &process.gpus {
            let (first, ident) = *holders.entry(gpu).or_insert((of, process.ident));
            // The first may have ended before the second began.
            if first != of && ident.lives() && process.ident.lives() {
                return Some(format!(
                    "GPU {gpu} has process {} of attempt {first:?} and process {} of attempt {of:?} ({})",
                    ident.pid, process.ident.pid, process.command
                ));
            }
        }
    }
    None
}

/// Says which rank of an attempt has two trainers now.
pub(crate) fn rank_run_twice(trainers: &[Trainer]) -> Option<String> {
    let mut seen: BTreeMap<(Run, u32), Ident> = BTreeMap::new();
    for trainer in trainers {
        let first = *seen
            .entry((trainer.of, trainer.rank))
            .or_insert(trainer.trainer);
        if first != trainer.trainer && first.lives() && trainer.trainer.lives() {
            let (first, second) = (first.pid, trainer.trainer.pid);
            return Some(format!(
                "rank {} of attempt {:?} has processes {first} and {second}",
                trainer.rank, trainer.of
            ));
        }
    }
    None
}

/// Those that are neither the run's own nor the process that an agent's shims are forked from, which have its command
/// line and a name of their own.
pub(crate) fn orphans(own: &BTreeSet<i32>) -> Vec<Seen> {
    let mut left = all();
    left.retain(|seen| {
        let zygote = seen.command.ends_with("shim -") && !seen.name.starts_with("shim ");
        !own.contains(&seen.ident.pid) && !zygote
    });
    left
}
