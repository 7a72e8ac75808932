//! When the machine itself stood still: a virtual one is held up by its host, and no figure of a program is better than
//! the processors it runs on.
//!
//! Owns one thread for each processor, which sleeps a millisecond at a time, before all others where the system allows
//! it, and notes when it was woken late. Judges no job. Called by the latency measurement.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use crate::clock;

/// How long a watcher sleeps.
const NAP: Duration = Duration::from_millis(1);
/// Later than this it was held up. A tick of the kernel is 4 ms at most, and nothing goes before a watcher.
const LATE: Duration = Duration::from_millis(4);

/// A moment in which a processor did nothing for anybody, in microseconds of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
}

/// Watchers at work.
#[derive(Debug)]
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Stall>>>,
}

impl Watch {
    pub(crate) fn begin() -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism()?.get();
        let watcher = |processor| {
            let over = over.clone();
            thread::spawn(move || watch(processor, &over))
        };
        Ok(Self {
            threads: (0..processors).map(watcher).collect(),
            over,
        })
    }

    /// All stalls since the beginning, of any processor.
    pub(crate) fn end(self) -> Result<Vec<Stall>> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let seen = thread.join();
            all.extend(seen.map_err(|_panic| anyhow!("a watcher of stalls has panicked"))?);
        }
        Ok(all)
    }
}

fn watch(processor: usize, over: &AtomicBool) -> Vec<Stall> {
    let mut own = CpuSet::new();
    own.set(processor);
    // Where it fails two may watch the same one.
    sched_setaffinity(None, &own).ok();
    go_first();
    let mut stalls = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let before = clock::now();
        thread::park_timeout(NAP);
        let late = before.elapsed().saturating_sub(NAP);
        if late >= LATE
            && let Ok(to_us) = clock::wall_us()
        {
            let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
            let from_us = to_us.saturating_sub(late);
            stalls.push(Stall { from_us, to_us });
        }
    }
    stalls
}

/// Before all that is not of the kernel; that takes root, and util-linux. Without it a busy machine looks like one that
/// stands still.
fn go_first() {
    let thread = gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "50", &thread]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(command.status());
}
