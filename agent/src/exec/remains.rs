//! What is left of a trainer whose shim has died: finding it, and its end.
//!
//! Owns the mark that each trainer is given in its environment. A process of the trainer is known by its control group
//! and those below it, by its session and by that mark; out of reach is only what has left the session and dropped its
//! environment where there is no control group. Decides nothing about the task. The launcher and the watcher call it.

use super::files::{LaunchSpec, ProcRecord};
use super::{cgroup, ident::wait_gone, launch, procfs};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// The variable that holds the mark.
const MARK: &str = "TRAINYARD_MARK";
/// How long they may take to die of SIGKILL.
const FENCE_LIMIT: Duration = Duration::from_secs(20);

/// Gives the trainer of `spec` a mark that no other process has.
pub(super) fn mark(spec: &mut LaunchSpec) {
    let drawn = format!("{:032x}", rand::random::<u128>());
    spec.env.insert(MARK.to_owned(), drawn);
}

/// By what the processes of one task are known.
#[derive(Debug, Default)]
struct Known {
    processes: Option<ProcRecord>,
    /// As it stands in an environment, with its end.
    mark: Option<Vec<u8>>,
}

impl Known {
    fn of(task_dir: &Path) -> io::Result<Self> {
        let mark = Self::by_mark(task_dir).mark;
        let processes = launch::read_processes(task_dir)?;
        let known = Self { processes, mark };
        let boot = procfs::boot_id()?;
        let earlier = |processes: &ProcRecord| processes.trainer.boot_id != boot;
        // Nothing outlives a boot.
        let over = known.processes.as_ref().is_some_and(earlier);
        Ok(if over { Self::default() } else { known })
    }

    /// By the mark alone, which only those do not have any more that have dropped their environment.
    fn by_mark(task_dir: &Path) -> Self {
        // A power cut may have left half of it: then nothing of that boot lives.
        let spec = launch::read_spec(task_dir).unwrap_or_default();
        let mark = spec.and_then(|spec| spec.env.get(MARK).cloned());
        Self {
            processes: None,
            mark: mark.map(|mark| format!("{MARK}={mark}\0").into_bytes()),
        }
    }

    fn cgroup(&self) -> Option<&Path> {
        self.processes.as_ref()?.cgroup.as_deref()
    }

    /// The living processes of the trainer.
    ///
    /// A session's id is the pid of its leader, and the kernel does not give that pid away while a
    /// member is left; so the members of a session whose leader is another process than the trainer are
    /// none of ours. The group's name holds the shim's identity and is no other's; the mark is random.
    fn remains(&self) -> BTreeSet<i32> {
        let mut pids = cgroup::members(self.cgroup());
        if let Some(ProcRecord { trainer, .. }) = &self.processes {
            let stat = procfs::stat(trainer.pid);
            if stat.is_none_or(|stat| stat.start_ticks == trainer.start_ticks) {
                pids.extend(procfs::session_members(trainer.pid));
            }
        }
        if let Some(mark) = &self.mark {
            pids.extend(marked(mark));
        }
        pids
    }

    /// Takes hold of them. They are looked for once more with the pidfds open, so that none is a process
    /// that took over a pid in between.
    fn hold(&self) -> Vec<OwnedFd> {
        let open = |pid: i32| {
            let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
            Some((pid, pidfd))
        };
        let opened: Vec<(i32, OwnedFd)> = self.remains().into_iter().filter_map(open).collect();
        if opened.is_empty() {
            return Vec::new();
        }
        let still = self.remains();
        let ours = opened.into_iter().filter(|(pid, _)| still.contains(pid));
        ours.map(|(_, pidfd)| pidfd).collect()
    }
}

/// Processes that began with `mark` in their environment. Those that may not be looked at are no trainers of ours.
fn marked(mark: &[u8]) -> Vec<i32> {
    let has = |&pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // Most have none of ours: compared at the starts of variables only.
        let mut variables = environment.split_inclusive(|byte| *byte == 0);
        variables.any(|variable| variable == mark)
    };
    let mut found = procfs::all_pids();
    found.retain(|pid| has(pid) && procfs::stat(*pid).is_some_and(|stat| stat.alive()));
    found
}

/// What lives of the trainer of `task_dir`.
pub fn remains(task_dir: &Path) -> io::Result<BTreeSet<i32>> {
    Ok(Known::of(task_dir)?.remains())
}

/// Kills what is left of the trainer of `task_dir`, whose shim is gone. Returns how many were killed and which did not
/// end. Where it cannot be read who they are, those are killed that have the trainer's mark, and the error comes after.
pub(crate) async fn fence(task_dir: &Path) -> io::Result<(usize, Vec<i32>)> {
    match Known::of(task_dir) {
        Ok(known) => end(known).await,
        Err(error) => {
            end(Known::by_mark(task_dir)).await?;
            Err(error)
        }
    }
}

async fn end(known: Known) -> io::Result<(usize, Vec<i32>)> {
    let mut killed = 0;
    let round = async {
        loop {
            let held = known.hold();
            // Also where nobody was seen in it: it ends what has come into it since, or into one below it.
            cgroup::kill(known.cgroup());
            if held.is_empty() {
                return io::Result::Ok(());
            }
            killed += held.len();
            for pidfd in &held {
                // It may have ended meanwhile; the wait below tells.
                pidfd_send_signal(pidfd, Signal::KILL).ok();
            }
            for pidfd in held {
                wait_gone(pidfd).await?;
            }
        }
    };
    match tokio::time::timeout(FENCE_LIMIT, round).await {
        Ok(done) => {
            done?;
            cgroup::remove(known.cgroup());
            Ok((killed, Vec::new()))
        }
        Err(_) => Ok((killed, known.remains().into_iter().collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::ProcIdent;

    #[tokio::test]
    async fn a_group_is_killed_as_a_whole_also_where_nobody_is_seen_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut gone = ProcIdent::current().unwrap();
        gone.start_ticks += 1;
        let known = Known {
            processes: Some(ProcRecord {
                shim: gone.clone(),
                trainer: gone,
                cgroup: Some(folder.path().to_owned()),
            }),
            mark: None,
        };
        assert_eq!(end(known).await.unwrap(), (0, Vec::new()));
        let killed = fs::read_to_string(folder.path().join("cgroup.kill"));
        assert_eq!(killed.unwrap(), "1");
    }
}
