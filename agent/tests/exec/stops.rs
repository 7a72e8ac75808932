//! How a trainer is ended, by itself or not.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use trainyard_agent::exec::watch::{Stop, request_stop};

use crate::{LIMIT, support::*};

pub(crate) async fn a_trainer_that_ignores_sigterm_is_killed_after_the_grace() {
    let task = folder();
    // A shell answers at once while it waits, and not before its child has ended when it runs one.
    let script =
        "trap 'echo asked' TERM; echo $$ > $DIR/ready; while :; do sleep 1000 & wait; done";
    let mut launched = start(&task, script).await;
    pid_in(&task, "ready").await;
    // Long enough for its word on a busy machine.
    let grace = Duration::from_secs(2);
    let stop = request_stop(task.path(), &launched.shim, grace).expect("it is signalled");
    assert_eq!(stop, Stop::Asked);
    let record = end_of(&task, &mut launched).await;
    assert_eq!(record.signal, Some(9));
    assert!(!record.oom_killed);
    assert!(texts(&task).contains(&"asked".to_owned()));
}

pub(crate) async fn a_trainer_that_heeds_sigterm_ends_by_itself() {
    let task = folder();
    let script = "trap 'echo saved; exit 3' TERM; echo $$ > $DIR/ready; sleep 1000 & wait";
    let mut launched = start(&task, script).await;
    pid_in(&task, "ready").await;
    request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
    let record = end_of(&task, &mut launched).await;
    assert_eq!(record.code, Some(3));
    assert_eq!(texts(&task), ["saved"]);
}

pub(crate) async fn a_second_stop_can_shorten_the_grace_and_a_late_one_reaches_nobody() {
    let task = folder();
    let mut launched = start(&task, "trap '' TERM; echo $$ > $DIR/ready; sleep 1000").await;
    pid_in(&task, "ready").await;
    request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
    request_stop(task.path(), &launched.shim, Duration::ZERO).expect("it is signalled");
    assert_eq!(end_of(&task, &mut launched).await.signal, Some(9));
    let late = request_stop(task.path(), &launched.shim, Duration::ZERO).expect("no error");
    assert_eq!(late, Stop::AlreadyGone);
}

/// As init does it when the machine goes down: all processes get it, and nobody has asked for it.
pub(crate) async fn a_sigterm_that_no_agent_asked_for_is_told_apart_from_a_stop() {
    let script = "trap 'exit 143' TERM; echo $$ > $DIR/ready; sleep 1000 & wait";
    for (asked, trainer_first) in [(false, false), (false, true), (true, false)] {
        let task = folder();
        let mut launched = start(&task, script).await;
        pid_in(&task, "ready").await;
        let term = |pid| kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it lives");
        if asked {
            request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
        } else if trainer_first {
            // It cannot see that its trainer has ended before it gets its own.
            kill(Pid::from_raw(launched.shim.pid), Signal::SIGSTOP).expect("it lives");
            term(launched.trainer.pid);
            let stat = format!("/proc/{}/stat", launched.trainer.pid);
            until(|| std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") Z "))).await;
            term(launched.shim.pid);
            kill(Pid::from_raw(launched.shim.pid), Signal::SIGCONT).expect("it lives");
        } else {
            term(launched.shim.pid);
        }
        let record = end_of(&task, &mut launched).await;
        assert_eq!(record.code, Some(143));
        assert_eq!(record.ended_by_machine, !asked);
    }
}

pub(crate) async fn leftovers_are_killed_even_in_a_session_of_their_own() {
    let task = folder();
    let script = "(setsid sh -c 'echo $$ > $DIR/far; exec sleep 1000' > /dev/null 2>&1 &)
        (sh -c 'echo $$ > $DIR/near; exec sleep 1000' &)
        until [ -s $DIR/far ] && [ -s $DIR/near ]; do :; done; exit 0";
    let record = finish(&task, script).await;
    let (far, near) = (pid_in(&task, "far").await, pid_in(&task, "near").await);
    assert_eq!((record.code, record.killed_leftovers), (Some(0), 2));
    assert!(!alive(far) && !alive(near));
}

pub(crate) async fn a_stopped_trainer_is_woken_to_be_ended() {
    let task = folder();
    let mut launched = start(
        &task,
        "trap 'exit 4' TERM; kill -STOP $$; while :; do :; done",
    )
    .await;
    let stat = format!("/proc/{}/stat", launched.trainer.pid);
    until(|| std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T "))).await;
    request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
    assert_eq!(end_of(&task, &mut launched).await.code, Some(4));
}
