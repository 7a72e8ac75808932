//! Whether this machine can hold a run, and what is made of it outside of the run's namespaces: a control group.
//!
//! Never starts a part of the cluster. Called by the shells.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Starts a program in namespaces of its own, which end with whoever started it.
pub(crate) const APART: [&str; 12] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--propagation",
    "private",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// Says why there can be no run here.
pub(crate) fn look() -> Result<(), String> {
    // Who this process is owns its folder.
    if fs::metadata("/proc/self").map_or(1, |own| own.uid()) != 0 {
        return Err("needs root, for namespaces of networks".to_owned());
    }
    let tries: [&[&str]; 3] = [
        &["ip", "-Version"],
        &[&APART[..], &["true"]].concat(),
        &[
            "unshare",
            "--net",
            "ip",
            "rule",
            "add",
            "pref",
            "7",
            "iif",
            "lo",
            "blackhole",
        ],
    ];
    for words in tries {
        let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
        let mut command = Command::new(program);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let done = output.as_ref().is_ok_and(|output| output.status.success());
        if !done {
            let said = match &output {
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(format!(
                "`{}` does not work here ({said}); Debian has it in iproute2 and util-linux",
                words.join(" ")
            ));
        }
    }
    Ok(())
}

/// Mounts an empty file system in memory, of so many MiB.
pub(crate) fn mount(at: &Path, mebibytes: Option<u32>) -> Result<()> {
    fs::create_dir_all(at).ok();
    let options = mebibytes.map_or_else(
        || "mode=755".to_owned(),
        |size| format!("mode=755,size={size}m"),
    );
    run(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        &options,
        "chaos",
        &at.display().to_string(),
    ])
}

/// Runs a command of the system.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.with_context(|| format!("{program} could not be started"))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A control group for the run, so that those of its trainers go with it. Where none can be made there is none.
#[derive(Debug)]
pub(crate) struct Group(Option<PathBuf>);

impl Group {
    /// Below this process's own.
    pub(crate) fn make(unwanted: bool) -> Self {
        let make = || {
            let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
            let own = groups
                .lines()
                .find_map(|line| line.strip_prefix("0::/"))?
                .to_owned();
            let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
            let mount = mounts.lines().find_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                right
                    .starts_with("cgroup2 ")
                    .then_some(left.split(' ').nth(4)?)
            })?;
            let above = Path::new(mount).join(own);
            remove_old(&above);
            let folder = above.join(format!("chaos-{}", std::process::id()));
            fs::create_dir(&folder).ok().map(|()| folder)
        };
        Self(if unwanted { None } else { make() })
    }

    /// The same command, run in it.
    pub(crate) fn enter(&self, command: &mut Command) -> Command {
        let Some(folder) = &self.0 else {
            let mut same = Command::new(command.get_program());
            same.args(command.get_args());
            return same;
        };
        let mut within = Command::new("sh");
        within
            .args(["-c", "echo 0 > \"$0\"/cgroup.procs; exec \"$@\""])
            .arg(folder);
        within.arg(command.get_program()).args(command.get_args());
        within
    }
}

impl Drop for Group {
    /// Nothing lives in it any more.
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            remove(folder);
        }
    }
}

/// Removes a run's group and those of its trainers; one in which something lives stays.
fn remove(folder: &Path) {
    for inner in fs::read_dir(folder).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            fs::remove_dir(inner.path()).ok();
        }
    }
    fs::remove_dir(folder).ok();
}

/// Removes the groups of runs that were killed, whole.
fn remove_old(above: &Path) {
    for other in fs::read_dir(above).into_iter().flatten().flatten() {
        let name = other.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("chaos-"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&other.path());
        }
    }
}
