//! The step between fork and exec that ties a trainer to its shim, and waiting on a pidfd.
//!
//! Owns the only unsafe code of the process side. It never allocates, locks or logs after a fork.
//! The shim calls it for the trainer's command, identities for a pidfd.
#![expect(
    unsafe_code,
    reason = "the parent death signal must be set between fork and exec; registering a file descriptor is unsafe in tokio"
)]

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::{Interest, unix::AsyncFd};

/// Makes `command` start in a session of its own, with no signal blocked, and die with `parent`; in
/// the control group behind `door` if it lets it in.
///
/// The parent death signal follows the thread that forks: call it from a single-threaded process.
pub(crate) fn tie_to_parent(command: &mut Command, parent: Pid, door: Option<OwnedFd>) {
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above took effect.
        if getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        setsid()?;
        if let Some(door) = &door {
            // Without the group the shim still finds its descendants.
            rustix::io::write(door, b"0").ok();
        }
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: the closure runs in the forked child before exec. It makes only the system calls
    // prctl, getppid, setsid, write and rt_sigprocmask, captures two plain integers (the descriptor
    // is not dropped in the child), and neither allocates nor takes a lock, so it is sound whatever state the parent's memory was copied in.
    unsafe {
        command.pre_exec(tie);
    }
}

/// Registers `pidfd` with the runtime: it becomes readable when its process ends.
pub(crate) fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the registration owns the descriptor, and an `OwnedFd` keeps the same one open until
    // it is dropped.
    unsafe { Ok(AsyncFd::register_with_interest(pidfd, Interest::READABLE)?) }
}
