//! A small disk of a test's own: memory that is mounted where only some processes see it.
//!
//! Owns the mount, which is gone with it. Never touches a disk of the machine. Called by the suites that fill one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{needs::skipped, process::Process, wait::until};

/// The disk, and a process that keeps it mounted.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Process,
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts so many MiB at a folder that is made for it, in a mount namespace of its own. None where this user may not:
    /// then the test is [`skipped`].
    ///
    /// # Panics
    /// As [`skipped`] does, or when the folder is there already.
    pub async fn mount(at: &Path, mib: u32) -> Option<Self> {
        fs::create_dir(at).expect("a mount point");
        let probe = Command::new("unshare")
            .args(["-m", "mount", "-t", "tmpfs", "none"])
            .arg(at)
            .output();
        if !probe.is_ok_and(|output| output.status.success()) {
            skipped("this user may not mount a small disk of its own (unshare -m)");
            return None;
        }
        let ready = at.with_extension("mounted");
        let script = format!(
            "mount -t tmpfs -o size={mib}m none {at} && touch {ready} && exec sleep 100000",
            at = at.display(),
            ready = ready.display()
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]);
        let holder = Process::start(&mut command, &at.with_extension("log"));
        until("the disk is mounted", async || ready.exists().then_some(())).await;
        let at = at.to_owned();
        Some(Self { holder, at })
    }

    /// The beginning of a command that sees the disk.
    #[must_use]
    pub fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.holder.pid().to_string(), "--"]);
        command
    }

    /// Runs a script on it, whatever comes of that.
    ///
    /// # Panics
    /// When there is no shell.
    pub fn sh(&self, script: &str) {
        let script = format!("cd {} && {{ {script}; }}", self.at.display());
        let output = self.inside().args(["sh", "-c", &script]).output();
        drop(output.expect("it runs"));
    }
}
