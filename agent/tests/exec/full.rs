//! A disk without room: how a trainer ended is written nonetheless.
//!
//! Owns the small disk, which is seen by one process of this binary and its children only. Called by the cases' main.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, ExitCode},
};

use trainyard_agent::exec::launch::{launch, read_exit};
use trainyard_agent::exec::shims::Shims;
use trainyard_agent::exec::watch::wait_exit;

use crate::{CRAMPED, support::*};

pub(crate) async fn an_exit_is_recorded_on_a_disk_that_is_full_to_the_end() {
    let task = folder();
    let may = Command::new("unshare").args(["-m", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        let words = "SKIPPED: this user may not mount a small disk of its own (unshare -m)";
        let must = std::env::var_os("TRAINYARD_SKIP_NOTHING").is_some();
        assert!(!must, "{words}");
        writeln!(std::io::stderr(), "{words}").ok();
        return;
    }
    let me = std::env::current_exe().expect("the path of this test");
    let mut cramped = tokio::process::Command::new("unshare");
    cramped.arg("-m").arg(me).arg(CRAMPED).arg(task.path());
    assert!(cramped.status().await.expect("it runs").success());
}

/// A process of its own: the disk is its alone.
pub(crate) fn cramped(task_dir: &Path) -> ExitCode {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=256k", "none"]);
    let mounted = mount.arg(task_dir).status().expect("mount runs");
    assert!(mounted.success(), "the small disk is mounted");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut spec = spec(&["sh", "-c", "cat /dev/zero > full; exit 7"]);
        spec.cwd = task_dir.to_owned();
        let shims = Shims::new(shim_command());
        let launched = launch(&shims, task_dir, &spec).await;
        let mut launched = launched.expect("the trainer starts");
        let record = wait_exit(task_dir, &launched.shim).await;
        assert_eq!(record.expect("the exit is recorded").code, Some(7));
        let shim = launched.child.as_mut().expect("a shim");
        assert!(shim.wait().await.expect("it is reaped").success());
    });
    let more = std::fs::write(task_dir.join("more"), [0; 8192]);
    assert!(more.is_err(), "there was no room");
    assert!(read_exit(task_dir).is_ok_and(|exit| exit.is_some()));
    ExitCode::SUCCESS
}
