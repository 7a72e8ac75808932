//! Signals to everything that a trainer has started.
//!
//! Owns finding descendants and session members and signalling them. It never waits and never
//! reaps. The shim calls it.

use super::procfs;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;

/// The living descendants of `root`, without itself.
pub(crate) fn descendants(root: i32) -> BTreeSet<i32> {
    let mut seen = BTreeSet::new();
    let mut open = procfs::children(root);
    if open.is_empty() {
        // That none is left is what the caller relies on.
        open = procfs::children_by_search(root);
    }
    while let Some(pid) = open.pop() {
        if seen.insert(pid) {
            open.extend(procfs::children(pid));
        }
    }
    seen.retain(|&pid| procfs::stat(pid).is_some_and(|stat| stat.alive()));
    seen
}

/// Signals the session that `leader` leads: its own process group at one go, then those members
/// that have made groups of their own.
pub(crate) fn signal_session(leader: i32, signal: Signal) {
    // ESRCH: it has just ended, which is what the caller finds out by its wait.
    killpg(Pid::from_raw(leader), signal).ok();
    for pid in procfs::session_members(leader) {
        if procfs::stat(pid).is_some_and(|stat| stat.group != leader) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }
}

/// Sends SIGKILL to all of `pids`.
pub(crate) fn kill_all(pids: &BTreeSet<i32>) {
    for &pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}
