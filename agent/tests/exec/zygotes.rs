//! Shims that are forked from one process, and what becomes of them when that is gone.

use std::time::Duration;

use nix::sys::signal::Signal;
use trainyard_agent::exec::{
    LaunchSpec, ProcIdent,
    launch::{LaunchError, launch},
    shims::Shims,
};

use crate::support::*;

pub(crate) async fn shims_are_forked_from_one_process_that_ends_with_whoever_kept_it() {
    let shims = Shims::new(shim_command());
    shims.keep_ready();
    let zygote = shims.zygote().expect("it is there");
    shims.keep_ready();
    for code in [3, 4] {
        let task = folder();
        let script = format!("echo {code}; no-such-word; exit {code}");
        let spec = spec(&["sh", "-c", &script]);
        let mut launched = launch(&shims, task.path(), &spec).await.expect("it starts");
        assert!(launched.child.is_none(), "it was forked");
        let record = end_of(&task, &mut launched).await;
        assert_eq!(record.code, Some(code));
        assert_eq!(texts(&task).first().cloned(), Some(code.to_string()));
        assert!(task.path().join("shim.err").exists());
        let gone = || ProcIdent::of(launched.shim.pid).is_err();
        until(gone).await;
    }
    assert_eq!(shims.zygote(), Some(zygote));
    drop(shims);
    until(|| ProcIdent::of(zygote).is_err()).await;
}

pub(crate) async fn what_a_forked_shim_cannot_start_is_named() {
    let shims = Shims::new(shim_command());
    shims.keep_ready();
    let task = folder();
    let refused = launch(&shims, task.path(), &spec(&["/no/such/program"])).await;
    let error = refused.expect_err("it cannot be started");
    assert!(matches!(error, LaunchError::NotFound { .. }), "{error}");
    let launched = launch(&shims, folder().path(), &spec(&["true"])).await;
    assert!(launched.expect("another is not harmed").child.is_none());
}

pub(crate) async fn a_killed_zygote_takes_no_task_with_it_and_is_replaced() {
    let shims = Shims::new(shim_command());
    shims.keep_ready();
    let task = folder();
    let running = spec(&["sh", "-c", "read line < go; exit 5"]);
    let cwd = task.path().to_owned();
    let running = LaunchSpec { cwd, ..running };
    nix::unistd::mkfifo(&task.path().join("go"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut launched = launch(&shims, task.path(), &running)
        .await
        .expect("it starts");
    let zygote = shims.zygote().expect("it is there");
    kill(zygote);
    // Whatever it has heard of its death by now, the next task is started.
    let other = folder();
    let mut next = launch(&shims, other.path(), &spec(&["sh", "-c", "exit 6"]))
        .await
        .expect("it starts without it");
    assert_eq!(end_of(&other, &mut next).await.code, Some(6));
    until(|| {
        shims.keep_ready();
        shims.zygote().is_some_and(|new| new != zygote)
    })
    .await;
    assert!(alive(launched.trainer.pid) && alive(launched.shim.pid));
    std::fs::write(task.path().join("go"), "on\n").expect("the trainer reads");
    assert_eq!(end_of(&task, &mut launched).await.code, Some(5));
}

pub(crate) async fn tasks_begun_while_zygotes_are_killed_again_and_again_all_run_once() {
    let shims = std::sync::Arc::new(Shims::new(shim_command()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24 {
        let shims = std::sync::Arc::clone(&shims);
        shims.keep_ready();
        if number % 3 == 2 {
            // It may be dying already.
            if let Some(zygote) = shims.zygote() {
                kill(zygote);
            }
        }
        tasks.spawn(async move {
            let task = folder();
            let script = format!("mkdir $DIR/ran && exit {number}");
            let mut spec = spec(&["sh", "-c", &script]);
            let dir = task.path().display().to_string();
            spec.env.insert("DIR".to_owned(), dir);
            let mut launched = launch(&shims, task.path(), &spec).await.expect("it starts");
            assert_eq!(end_of(&task, &mut launched).await.code, Some(number));
        });
        tokio::task::yield_now().await;
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("it ran");
    }
}

pub(crate) async fn an_order_that_a_stopped_zygote_reads_late_does_not_run_a_task_again_that_has_ended()
 {
    for record in ["exit.json", "end.json"] {
        let shims = Shims::new(shim_command());
        shims.keep_ready();
        let zygote = shims.zygote().expect("it is there");
        signal(zygote, Signal::SIGSTOP);
        let task = folder();
        let mut spec = spec(&["sh", "-c", "echo run >> $DIR/runs"]);
        let dir = task.path().display().to_string();
        spec.env.insert("DIR".to_owned(), dir);
        {
            // It has not got further than that when its agent dies.
            let launching = launch(&shims, task.path(), &spec);
            let mut launching = std::pin::pin!(launching);
            let ordered = Duration::from_millis(200);
            let begun = tokio::time::timeout(ordered, &mut launching).await;
            assert!(begun.is_err(), "nobody answers");
            assert!(task.path().join("launch.json").exists());
        }
        drop(shims);
        // The next agent has begun it anew, and it has ended.
        assert_eq!(finish(&task, "echo run >> $DIR/runs").await.code, Some(0));
        if record == "end.json" {
            let (exit, end) = (task.path().join("exit.json"), task.path().join(record));
            std::fs::rename(exit, end).expect("another word of the same");
        }
        signal(zygote, Signal::SIGCONT);
        // It ends when it has done what it was told and its shims have said their word.
        until(|| ProcIdent::of(zygote).is_err()).await;
        until(|| !held(&task)).await;
        let runs = std::fs::read_to_string(task.path().join("runs"));
        assert_eq!(runs.expect("it ran"), "run\n", "with {record}");
    }
}

/// Whether a shim lives that has the task.
fn held(task: &tempfile::TempDir) -> bool {
    let lock = std::fs::File::open(task.path().join("shim.lock")).expect("there was a shim");
    lock.try_lock_shared().is_err()
}

fn signal(pid: i32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, signal).expect("it is signalled");
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, Signal::SIGKILL).ok();
}
