//! Where work that blocks is done: on threads of its own, or in place when this process is a simulation.
//!
//! Owns the one switch between the two. A simulated world has a single thread, or the order of things
//! would be the system's and not the seed's. Called by coordinator and agent; the switch is thrown by the
//! simulation alone, before anything else runs. docs/adr/0017 says why.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

static SIMULATED: AtomicBool = AtomicBool::new(false);

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
