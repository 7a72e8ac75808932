//! Who a process is, beyond its pid.
//!
//! Owns the identity that survives a restart of the agent, and holding on to a process by a pidfd.
//! It never signals. The launcher, the watcher and the shim call it.

use super::{procfs, unix};
use crate::clock;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use trainyard_core::time::Timestamp;

/// A process that no other can be taken for: pids are used again, this is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcIdent {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// The boot in which it runs.
    pub boot_id: String,
}

impl ProcIdent {
    /// The identity of the process that has `pid` now. Sound only for a process that cannot be
    /// reaped meanwhile: oneself, or one's own child that was not waited for.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = procfs::stat(pid).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("/proc/{pid}/stat cannot be read; is /proc mounted?"),
            )
        })?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: procfs::boot_id()?,
        })
    }

    /// When it started, by the clock as it is set now; none for a process of another boot.
    #[must_use]
    pub fn began(&self) -> Option<Timestamp> {
        // What is simulated has no process.
        if trainyard_runtime::is_simulated() || procfs::boot_id().ok()? != self.boot_id {
            return None;
        }
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up = Duration::try_from(up).ok()?;
        let started =
            self.start_ticks.saturating_mul(1_000) / rustix::param::clock_ticks_per_second().max(1);
        let age = up.saturating_sub(Duration::from_millis(started));
        let age = i64::try_from(age.as_micros()).ok()?;
        Some(Timestamp(clock::now().0.saturating_sub(age)))
    }

    /// The identity of the calling process.
    pub fn current() -> io::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }
}

/// Takes hold of a process, if it still lives. A zombie does not. An error says nothing about the
/// process: it could not be looked at, for want of file descriptors for example.
///
/// The pidfd is opened first and the start time compared after: a process that took over the pid in
/// between is told apart.
pub fn adopt(ident: &ProcIdent) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(ident.pid) else {
        return Ok(None);
    };
    if procfs::boot_id()? != ident.boot_id {
        return Ok(None);
    }
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        // None has this pid, or a thread has: its process is another one.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = procfs::look(ident.pid)?;
    let same = stat.is_some_and(|stat| stat.start_ticks == ident.start_ticks && stat.alive());
    Ok(same.then_some(pidfd))
}

/// Returns when the process behind `pidfd` has ended; needs no right to wait for it.
pub async fn wait_gone(pidfd: OwnedFd) -> io::Result<()> {
    let pidfd = unix::register(pidfd)?;
    pidfd.readable().await?.retain_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_adopted_by_its_own_identity_only() {
        let me = ProcIdent::current().unwrap();
        assert!(adopt(&me).unwrap().is_some());
        let earlier = ProcIdent {
            start_ticks: me.start_ticks - 1,
            ..me.clone()
        };
        assert!(adopt(&earlier).unwrap().is_none());
        let other_boot = ProcIdent {
            boot_id: "another".to_owned(),
            ..me
        };
        assert!(adopt(&other_boot).unwrap().is_none());
    }

    #[test]
    fn when_a_process_began_is_known_by_its_age_and_not_by_a_clock_of_that_time() {
        let before = clock::now();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let ident = ProcIdent::of(i32::try_from(child.id()).unwrap()).unwrap();
        let began = ident.began().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel tells it in hundredths of a second.
        let tick = Duration::from_millis(20);
        assert!(
            began.plus(tick) >= before && began <= clock::now().plus(tick),
            "{began:?} {before:?}"
        );
        let of_another_boot = ProcIdent {
            boot_id: "another".to_owned(),
            ..ident
        };
        assert_eq!(of_another_boot.began(), None);
    }

    #[test]
    fn a_zombie_is_not_adopted() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ident = ProcIdent::of(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_raw(ident.pid).unwrap()),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert!(adopt(&ident).unwrap().is_none());
        child.wait().unwrap();
    }
}
