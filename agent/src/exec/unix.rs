//! Forking the trainer's main process, tied to its shim, and waiting on a pidfd.
//!
//! Owns the only unsafe code of the process side. The shim calls it for the trainer, identities for a
//! pidfd.
#![expect(
    unsafe_code,
    reason = "a process is forked straight into its control group, which std cannot; registering a file descriptor is unsafe in tokio"
)]

use nix::{
    libc,
    sys::signal::SigSet,
    unistd::{ForkResult, fork},
};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The new process.
    Child {
        /// It was born in the control group.
        grouped: bool,
    },
    /// The process that forked, with the pid of the new one.
    Parent(i32),
}

/// Forks into the control group whose folder is open as `group`. Born there, the child does not have
/// to be moved: a move waits for all of the machine's processors (some 15 ms), and moves of many
/// tasks wait for each other. Where the kernel does not do it, the child is born beside its parent.
///
/// Must be called by a process with a single thread: the child goes on with a copy of it.
pub(crate) fn fork_into(group: Option<&OwnedFd>) -> io::Result<Forked> {
    if let Some(group) = group {
        match clone_into(group)? {
            Some(forked) => return Ok(forked),
            None => { /* an old kernel, or one that is told not to */ }
        }
    }
    // SAFETY: the process has a single thread (see above), so no lock is held and no memory is half
    // changed by another one: the child may do what the parent may.
    match unsafe { fork()? } {
        ForkResult::Child => Ok(Forked::Child { grouped: false }),
        ForkResult::Parent { child } => Ok(Forked::Parent(child.as_raw())),
    }
}

/// `CLONE_INTO_CGROUP` of the kernel's <linux/sched.h>; libc's constant is too narrow for it.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// `None` where the kernel does not do it.
fn clone_into(group: &OwnedFd) -> io::Result<Option<Forked>> {
    let number = |n: i32| u64::try_from(n).map_err(io::Error::other);
    let arguments = libc::clone_args {
        flags: INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: number(libc::SIGCHLD)?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: number(group.as_raw_fd())?,
    };
    // SAFETY: no memory is shared and no stack is given, so this is fork(2) with a control group; the
    // argument lives until the call returns. As for fork, the process has a single thread.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => Ok(Some(Forked::Child { grouped: true })),
        1.. => Ok(Some(Forked::Parent(
            i32::try_from(pid).map_err(io::Error::other)?,
        ))),
        _ => Ok(None),
    }
}

/// Gives this process a session of its own, with no signal blocked, and has it die with `parent`.
pub(crate) fn tie_to(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above took effect.
    if getppid() != Some(parent) {
        return Err(io::Error::from(rustix::io::Errno::SRCH));
    }
    setsid()?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Ends this process at once, without what a Rust program does at its end: for a child that could not
/// become another program.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) only ends the process.
    unsafe { libc::_exit(code) }
}

/// Registers `pidfd` with the runtime: it becomes readable when its process ends.
pub(crate) fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the registration owns the descriptor, and an `OwnedFd` keeps the same one open until
    // it is dropped.
    unsafe { Ok(AsyncFd::register_with_interest(pidfd, Interest::READABLE)?) }
}
