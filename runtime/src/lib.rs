//! Where work that blocks is done: on threads of its own, or in place when this process is a simulation.
//!
//! Owns the one switch between the two, and what a simulation does to disks, writes and frames where nothing else reaches. A simulated world has a single thread, or the order of things
//! would be the system's and not the seed's. Called by coordinator and agent; the switch is thrown by the
//! simulation alone, before anything else runs. docs/adr/0017 says why.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::task::JoinHandle;

mod writes;

pub use writes::{Fate, Fates, lasting, room, writes_end_as};

static SIMULATED: AtomicBool = AtomicBool::new(false);
/// Microseconds.
static STORE_TAKES: AtomicU64 = AtomicU64::new(0);
static SPOOLS_TAKE: AtomicU64 = AtomicU64::new(0);
/// Each frame of so many comes twice; 0 is none.
static TWICE: AtomicU64 = AtomicU64::new(0);
static FRAMES: AtomicU64 = AtomicU64::new(0);

/// A disk that a simulation can make slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// The coordinator's.
    Store,
    /// Those of all agents.
    Spools,
}

impl Disk {
    fn takes(self) -> &'static AtomicU64 {
        match self {
            Self::Store => &STORE_TAKES,
            Self::Spools => &SPOOLS_TAKE,
        }
    }

    /// From now on each sync of it takes so long, in a simulation.
    pub fn takes_for_each_sync(self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.takes().store(micros, Ordering::Relaxed);
    }

    /// Waits as long as a sync takes. Called only where [`is_simulated`].
    pub async fn is_waited_for(self) {
        let micros = self.takes().load(Ordering::Relaxed);
        if micros > 0 {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

/// From now on each frame of so many comes twice; 0 is none. For a simulation alone.
pub fn frames_come_twice(one_of: u64) {
    TWICE.store(one_of, Ordering::Relaxed);
}

/// Whether the frame at hand comes twice. Never outside of a simulation.
#[must_use]
pub fn comes_twice() -> bool {
    let one_of = TWICE.load(Ordering::Relaxed);
    one_of > 0
        && FRAMES
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(one_of)
}

/// From now on this process is a simulation.
pub fn simulate() {
    SIMULATED.store(true, Ordering::Relaxed);
}

/// Whether this process is a simulation: no threads, no files or sockets that the system watches.
#[must_use]
pub fn is_simulated() -> bool {
    SIMULATED.load(Ordering::Relaxed)
}

/// Does `work`, which may wait for a disk, where it holds up nobody.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if is_simulated() {
        return in_place(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Runs in a simulation what is a thread otherwise.
#[expect(
    clippy::disallowed_methods,
    reason = "in a simulation the host that it belongs to ends it, and nothing else can"
)]
pub fn in_place<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(work)
}
