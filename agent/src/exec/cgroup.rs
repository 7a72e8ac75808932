//! A control group of its own for each trainer, where the machine allows it.
//!
//! Owns making, reading, killing and removing a cgroup v2 folder below the one that the shim runs
//! in. It sets no limits, and that it cannot be made is no error: the shim has other means, which
//! lose only what left the trainer's session when the shim itself is killed. The shim and the
//! watcher call it.

use super::{ProcIdent, procfs};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The variable by which an agent tells its shims the folder of the group that it runs in, and they with it: to find
/// it takes as long as to start a small program.
pub(crate) const OWN: &str = "TRAINYARD_SHIM_CGROUP";

/// The folder of the group that this process runs in.
pub(crate) fn own() -> Option<PathBuf> {
    own_folder(
        &fs::read_to_string("/proc/self/mountinfo").ok()?,
        &fs::read_to_string("/proc/self/cgroup").ok()?,
    )
}

/// Makes a folder for the trainer of `shim`, if this process may and the kernel can kill by it.
pub(crate) fn make(shim: &ProcIdent) -> Option<PathBuf> {
    let told = std::env::var_os(OWN).map(PathBuf::from);
    let own = told.or_else(own)?;
    let folder = own.join(format!("trainyard-{}-{}", shim.pid, shim.start_ticks));
    fs::create_dir(&folder).ok()?;
    if folder.join("cgroup.kill").exists() {
        return Some(folder);
    }
    remove(Some(&folder));
    None
}

/// The folder itself, for a process to be born in.
pub(crate) fn open(folder: &Path) -> Option<OwnedFd> {
    File::open(folder).ok().map(File::into)
}

/// Moves this process into `folder`. Takes some 15 ms; that it fails shows in the members.
pub(crate) fn join(folder: Option<&Path>) {
    if let Some(folder) = folder {
        fs::write(folder.join("cgroup.procs"), "0").ok();
    }
}

/// The living processes in `folder` and in the groups below it, which a trainer may make.
pub(crate) fn members(folder: Option<&Path>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = folder.map(Path::to_owned).into_iter().collect();
    while let Some(folder) = folders.pop() {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let pids = listed.lines().filter_map(|line| line.parse().ok());
        found.extend(pids.filter(|&pid| procfs::stat(pid).is_some_and(|stat| stat.alive())));
        folders.extend(below(&folder));
    }
    found
}

/// The groups directly below `folder`.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| entry.path()).collect()
}

/// How many of `folder` the kernel has killed for want of memory; none where it does not count them by group.
pub(crate) fn oom_kills(folder: Option<&Path>) -> Option<u64> {
    let events = fs::read_to_string(folder?.join("memory.events")).ok()?;
    let count = |line: &str| line.strip_prefix("oom_kill ")?.parse().ok();
    events.lines().find_map(count)
}

/// Kills all in `folder` and below it at one go; none can escape by forking.
pub(crate) fn kill(folder: Option<&Path>) {
    if let Some(folder) = folder {
        // Who calls this looks at the members afterwards.
        drop(fs::write(folder.join("cgroup.kill"), "1"));
    }
}

/// Removes `folder` and those below it, in which nothing may live any more. An empty one that stays does no harm.
pub(crate) fn remove(folder: Option<&Path>) {
    if let Some(folder) = folder {
        for group in below(folder) {
            remove(Some(&group));
        }
        drop(fs::remove_dir(folder));
    }
}

/// The folder of this process's own group, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, mount) = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let found = (fields.next()?, fields.next()?);
        right.starts_with("cgroup2 ").then_some(found)
    })?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new(mount).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_for_want_of_memory_are_those_of_the_group_where_it_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(oom_kills(Some(folder.path())), None);
        let events = "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n";
        fs::write(folder.path().join("memory.events"), events).unwrap();
        assert_eq!(oom_kills(Some(folder.path())), Some(2));
        assert_eq!(oom_kills(None), None);
    }

    #[test]
    fn a_process_in_a_group_below_is_a_member_and_empty_groups_go_from_the_last_on() {
        let folder = tempfile::tempdir().unwrap();
        let (group, below) = (folder.path().join("g"), folder.path().join("g/a/b"));
        fs::create_dir_all(&below).unwrap();
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let procs = below.join("cgroup.procs");
        fs::write(&procs, format!("{me}\n")).unwrap();
        assert_eq!(members(Some(&group)), BTreeSet::from([me]));
        fs::remove_file(procs).unwrap();
        assert_eq!(members(Some(&group)), BTreeSet::new());
        remove(Some(&group));
        assert!(!group.exists());
    }

    #[test]
    fn the_own_folder_lies_below_the_mount_by_what_the_mount_shows() {
        let mounts = "30 1 0:5 / /proc rw - proc proc rw\n41 31 0:38 /pod /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup rw\n";
        assert_eq!(
            own_folder(mounts, "1:cpu:/x\n0::/pod/agent\n"),
            Some(PathBuf::from("/sys/fs/cgroup/agent"))
        );
        assert_eq!(own_folder(mounts, "0::/../elsewhere\n"), None);
        assert_eq!(own_folder(mounts, "1:cpu:/x\n"), None);
    }
}
