//! A task of its own for each case: launching a trainer by this very binary as its shim, and what it left.
//!
//! Owns no case. Called by the cases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use trainyard_agent::exec::launch::{LaunchError, Launched, launch};
use trainyard_agent::exec::output::{OutputLine, OutputReader};
use trainyard_agent::exec::shims::Shims;
use trainyard_agent::exec::watch::wait_exit;
use trainyard_agent::exec::{ExitRecord, LaunchSpec, ProcIdent, ident};

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for the task")
}

pub(crate) fn spec(argv: &[&str]) -> LaunchSpec {
    LaunchSpec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        cwd: PathBuf::from("/"),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        grace_ms: 10_000,
    }
}

pub(crate) fn shim_command() -> Vec<String> {
    let me = std::env::current_exe().expect("the path of this test");
    vec![me.display().to_string(), "shim".to_owned()]
}

pub(crate) async fn start(task: &TempDir, script: &str) -> Launched {
    let mut spec = spec(&["sh", "-c", script]);
    spec.env
        .insert("DIR".to_owned(), task.path().display().to_string());
    launch(&Shims::new(shim_command()), task.path(), &spec)
        .await
        .expect("the trainer starts")
}

pub(crate) async fn refusal(task: &TempDir, spec: &LaunchSpec) -> LaunchError {
    let launched = launch(&Shims::new(shim_command()), task.path(), spec).await;
    launched.expect_err("it cannot be started")
}

/// Runs `script` to its end.
pub(crate) async fn finish(task: &TempDir, script: &str) -> ExitRecord {
    let mut launched = start(task, script).await;
    end_of(task, &mut launched).await
}

pub(crate) async fn end_of(task: &TempDir, launched: &mut Launched) -> ExitRecord {
    let record = wait_exit(task.path(), &launched.shim)
        .await
        .expect("the exit is recorded");
    // Where it was forked, its zygote reaps it.
    if let Some(shim) = launched.child.as_mut() {
        let status = shim.wait().await.expect("the shim is reaped");
        assert!(status.success(), "the shim ended with {status}");
    }
    record
}

pub(crate) fn output(task: &TempDir) -> Vec<OutputLine> {
    OutputReader::open(&task.path().join("output.log"), 0)
        .and_then(|mut reader| reader.read_lines(usize::MAX))
        .expect("the output is read")
}

pub(crate) fn texts(task: &TempDir) -> Vec<String> {
    output(task).into_iter().map(|line| line.text).collect()
}

/// Waits until `condition` holds; the case's own limit bounds it.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        tick.tick().await;
    }
}

/// The pid that a script wrote to `name` in its task's folder.
pub(crate) async fn pid_in(task: &TempDir, name: &str) -> i32 {
    let mut pid = None;
    until(|| {
        pid = std::fs::read_to_string(task.path().join(name))
            .ok()
            .and_then(|text| text.strip_suffix('\n')?.parse().ok());
        pid.is_some()
    })
    .await;
    pid.expect("it was waited for")
}

/// Whether `pid` is there and no zombie.
pub(crate) fn alive(pid: i32) -> bool {
    ProcIdent::of(pid).is_ok_and(|ident| ident::adopt(&ident).is_ok_and(|held| held.is_some()))
}
