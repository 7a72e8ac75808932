//! What the machine of a task does with what happens to it.

use super::*;

const GRACE: Duration = Duration::from_secs(3);
const CANCEL: Stop = Stop {
    cause: StopCause::Cancelled,
    grace: Duration::from_secs(1),
};

fn task() -> Task {
    Task::new(None, GRACE, None)
}

fn running(mut task: Task) -> Task {
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    assert_eq!(task.step(Input::Ready(None)), [Effect::Launch(None)]);
    let effects = task.step(Input::Started(Timestamp(7)));
    assert_eq!(effects[..2], [Effect::Report, Effect::Watch]);
    task
}

fn exited(code: i32) -> Input {
    Input::Gone(Gone::Exited {
        code: Some(code),
        signal: None,
        oom_killed: false,
        by_machine: false,
        ran: Duration::ZERO,
    })
}

fn drained(task: &mut Task) -> Box<Ended> {
    let effects = task.step(Input::Drained(Drained {
        last_lines: vec!["bye".into()],
        last_seq: 9,
        at: Timestamp(50),
    }));
    let [Effect::End(ended)] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(task.phase(), Phase::Ended(ended.clone()));
    ended.clone()
}

#[test]
fn a_task_that_exits_is_drained_and_then_ended() {
    let mut task = running(task());
    assert_eq!(task.step(exited(3)), [Effect::Drain]);
    assert_eq!(task.phase(), Phase::Running(Timestamp(7)));
    let ended = drained(&mut task);
    assert_eq!(ended.started, Some(Timestamp(7)));
    assert_eq!(ended.end.exit_code, Some(3));
    assert_eq!((ended.end.last_seq, ended.end.stop_cause), (9, None));
}

#[test]
fn what_its_machine_ended_is_the_infrastructures_unless_a_stop_was_asked_for() {
    let by_machine = || {
        Input::Gone(Gone::Exited {
            code: None,
            signal: Some(15),
            oom_killed: false,
            by_machine: true,
            ran: Duration::from_secs(5),
        })
    };
    let mut rebooted = running(task());
    assert_eq!(rebooted.step(by_machine()), [Effect::Drain]);
    let end = drained(&mut rebooted).end;
    assert_eq!((end.infrastructure, end.node_fault), (true, false));
    assert_eq!((end.signal, end.stop_cause), (Some(15), None));
    // A full disk takes no word of the stop: its cause is known nevertheless.
    let mut cancelled = running(task());
    assert!(
        cancelled
            .step(Input::Stop(CANCEL))
            .contains(&Effect::NoteStop(CANCEL))
    );
    assert_eq!(cancelled.step(by_machine()), [Effect::Drain]);
    let end = drained(&mut cancelled).end;
    assert_eq!(end.stop_cause, Some(StopCause::Cancelled));
}

#[test]
fn what_ended_as_a_stop_ends_it_after_its_limit_ran_too_long_though_nobody_says_why() {
    let ends = |signal, by_machine, ran| {
        let mut task = running(Task::new(Some(Duration::from_secs(20)), GRACE, None));
        let gone = Gone::Exited {
            code: None,
            signal: Some(signal),
            oom_killed: false,
            by_machine,
            ran: Duration::from_secs(ran),
        };
        assert_eq!(task.step(Input::Gone(gone)), [Effect::Drain]);
        drained(&mut task).end.stop_cause
    };
    let limit = Some(StopCause::TimeLimit);
    assert_eq!(ends(15, false, 20), limit);
    assert_eq!(ends(9, false, 25), limit);
    assert_eq!(ends(15, false, 19), None);
    assert_eq!(ends(15, true, 21), limit);
    assert_eq!(ends(15, true, 19), None, "a reboot");
    assert_eq!(ends(11, false, 25), None);
}

#[test]
fn a_stop_while_preparing_gives_up_and_leaves_no_process() {
    let mut task = task();
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    let effects = task.step(Input::Stop(CANCEL));
    assert_eq!(
        effects,
        [Effect::NoteStop(CANCEL), Effect::Abandon, Effect::Drain]
    );
    assert_eq!(task.step(Input::Ready(None)), [], "it comes too late");
    let ended = drained(&mut task);
    assert_eq!(ended.started, None);
    assert_eq!(ended.end.stop_cause, Some(StopCause::Cancelled));
}

#[test]
fn a_stop_during_the_launch_reaches_the_process_that_comes_of_it() {
    let mut task = task();
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    assert_eq!(task.step(Input::Ready(None)), [Effect::Launch(None)]);
    assert_eq!(task.step(Input::Stop(CANCEL)), [Effect::NoteStop(CANCEL)]);
    assert_eq!(
        task.step(Input::Started(Timestamp(7))),
        [Effect::Report, Effect::Watch, Effect::Signal(CANCEL.grace)]
    );
}

#[test]
fn the_first_cause_of_a_stop_stays_and_the_signal_is_repeated() {
    let mut task = running(task());
    let effects = task.step(Input::Stop(CANCEL));
    assert_eq!(
        effects,
        [Effect::NoteStop(CANCEL), Effect::Signal(CANCEL.grace)]
    );
    assert_eq!(task.step(Input::LimitReached), [Effect::Signal(GRACE)]);
    assert_eq!(task.step(exited(0)), [Effect::Drain]);
    assert_eq!(task.step(Input::Stop(CANCEL)), [], "it comes too late");
    let ended = drained(&mut task);
    assert_eq!(ended.end.stop_cause, Some(StopCause::Cancelled));
}

#[test]
fn a_time_limit_counts_from_the_start_and_stops_with_the_jobs_own_grace() {
    let limit = Duration::from_micros(10);
    let mut task = Task::new(Some(limit), GRACE, None);
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    let effects = task.step(Input::Started(Timestamp(7)));
    assert_eq!(effects.last(), Some(&Effect::WatchLimit(Timestamp(17))));
    let stop = Stop {
        cause: StopCause::TimeLimit,
        grace: GRACE,
    };
    assert_eq!(
        task.step(Input::LimitReached),
        [Effect::NoteStop(stop), Effect::Signal(GRACE)]
    );
}

#[test]
fn one_that_ends_by_itself_within_its_time_is_not_too_long_however_late_that_is_heard() {
    let ends = |code: Option<i32>, signal: Option<i32>, ran: u64| {
        let mut task = Task::new(Some(Duration::from_secs(20)), GRACE, None);
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        let effects = task.step(Input::Started(Timestamp(7)));
        assert_eq!(effects.len(), 3);
        // The clock is faster than the news.
        assert_eq!(task.step(Input::LimitReached).len(), 2);
        let gone = Gone::Exited {
            code,
            signal,
            oom_killed: false,
            by_machine: false,
            ran: Duration::from_secs(ran),
        };
        assert_eq!(task.step(Input::Gone(gone)), [Effect::Drain]);
        drained(&mut task).end.stop_cause
    };
    let limit = Some(StopCause::TimeLimit);
    assert_eq!(ends(Some(0), None, 19), None);
    assert_eq!(ends(Some(1), None, 19), None);
    assert_eq!(
        ends(Some(0), None, 20),
        limit,
        "it was stopped, and came to its end in order"
    );
    assert_eq!(ends(None, Some(15), 20), limit);
    assert_eq!(
        ends(Some(143), None, 19),
        limit,
        "two clocks are never quite the same"
    );
}

#[test]
fn a_failure_before_the_start_says_whose_fault_it_is() {
    let mut task = task();
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    let failure = Failure {
        error: "no such dataset".into(),
        fault: Fault::Job,
    };
    assert_eq!(task.step(Input::Failed(failure)), [Effect::Drain]);
    let ended = drained(&mut task);
    assert_eq!(ended.end.error.as_deref(), Some("no such dataset"));
    assert!(!ended.end.infrastructure && ended.started.is_none());
}

#[test]
fn a_fault_of_what_all_nodes_share_is_not_that_of_the_node() {
    for (fault, expected) in [
        (Fault::Job, (false, false)),
        (Fault::Shared, (true, false)),
        (Fault::Node, (true, true)),
    ] {
        let mut task = task();
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        let error = "it cannot be fetched".to_owned();
        let failure = Input::Failed(Failure { error, fault });
        assert_eq!(task.step(failure), [Effect::Drain]);
        let end = drained(&mut task).end;
        assert_eq!((end.infrastructure, end.node_fault), expected);
    }
}

#[test]
fn a_task_told_to_stop_in_an_earlier_life_is_not_prepared_again_but_stopped() {
    let mut never_started = Task::new(None, GRACE, Some(CANCEL));
    assert_eq!(never_started.step(Input::Begin), [Effect::Drain]);
    let mut found = Task::new(None, GRACE, Some(CANCEL));
    assert_eq!(
        found.step(Input::Started(Timestamp(7))),
        [Effect::Report, Effect::Watch, Effect::Signal(CANCEL.grace)]
    );
}

fn meeting() -> Meeting {
    Meeting {
        addresses: vec!["10.0.0.1".into(), "10.0.0.2".into()],
        port: 29_500,
    }
}

fn waiting() -> Task {
    let mut task = task().among(2);
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    assert_eq!(task.step(Input::Ready(Some(29_500))), [Effect::Report]);
    assert_eq!(task.phase(), Phase::Waiting(Some(29_500)));
    task
}

#[test]
fn one_of_a_gang_waits_with_its_port_and_launches_once_it_is_told() {
    let mut task = waiting();
    let launch = [Effect::Launch(Some(meeting()))];
    assert_eq!(task.step(Input::Launch(meeting())), launch);
    assert_eq!(task.step(Input::Launch(meeting())), [], "said again");
    assert_eq!(
        task.step(Input::Started(Timestamp(7))),
        [Effect::Report, Effect::Watch]
    );
    assert_eq!(task.step(Input::Launch(meeting())), [], "it runs");
    assert_eq!(task.step(exited(0)), [Effect::Drain]);
    assert_eq!(task.step(Input::Launch(meeting())), [], "it has gone");
    drained(&mut task);
    assert_eq!(task.step(Input::Launch(meeting())), [], "it has ended");
}

#[test]
fn a_stop_while_it_waits_gives_up_and_leaves_no_process() {
    let mut task = waiting();
    let failed = Stop {
        cause: StopCause::PeerFailed,
        ..CANCEL
    };
    let effects = task.step(Input::Stop(failed));
    assert_eq!(effects, [Effect::NoteStop(failed), Effect::Drain]);
    assert_eq!(task.step(Input::Launch(meeting())), [], "it comes too late");
    let ended = drained(&mut task);
    assert_eq!(ended.started, None);
    assert_eq!(ended.end.stop_cause, Some(StopCause::PeerFailed));
}

#[test]
fn a_word_that_comes_while_it_prepares_again_is_kept_and_the_newest_counts() {
    let mut task = task().among(2);
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    let older = Meeting {
        port: 1,
        ..meeting()
    };
    assert_eq!(task.step(Input::Launch(older)), []);
    assert_eq!(task.step(Input::Launch(meeting())), []);
    assert_eq!(task.phase(), Phase::Preparing);
    assert_eq!(
        task.step(Input::Ready(None)),
        [Effect::Launch(Some(meeting()))]
    );
}

#[test]
fn a_task_alone_neither_waits_nor_heeds_a_word() {
    let mut task = task().among(1);
    assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
    assert_eq!(task.step(Input::Launch(meeting())), []);
    assert_eq!(task.step(Input::Ready(None)), [Effect::Launch(None)]);
}

#[test]
fn a_process_that_vanished_is_the_nodes_fault() {
    let mut task = running(task());
    let gone = Input::Gone(Gone::Vanished("the shim is gone".into()));
    assert_eq!(task.step(gone), [Effect::Drain]);
    let ended = drained(&mut task);
    assert!(ended.end.infrastructure);
    assert_eq!(ended.started, Some(Timestamp(7)));
}

/// A rank whose machine has lost power hears, when it is back, that its peers have failed: of that very power cut.
#[test]
fn a_process_that_vanished_has_not_ended_since_its_peers_failed_but_may_have_since_it_was_cancelled()
 {
    for (cause, expected) in [
        (StopCause::PeerFailed, None),
        (StopCause::Cancelled, Some(StopCause::Cancelled)),
        (StopCause::Preempted, Some(StopCause::Preempted)),
    ] {
        let mut task = running(task());
        let stop = Stop {
            cause,
            grace: GRACE,
        };
        let told = task.step(Input::Stop(stop));
        assert!(told.contains(&Effect::Signal(GRACE)), "{told:?}");
        let gone = Input::Gone(Gone::Vanished("the shim is gone".into()));
        assert_eq!(task.step(gone), [Effect::Drain]);
        let end = drained(&mut task).end;
        assert_eq!(end.stop_cause, expected);
        assert!(end.infrastructure);
    }
}

/// Its last words may wait for the very coordinator that says so.
#[test]
fn who_hears_that_its_peers_have_failed_when_it_has_vanished_has_not_ended_by_that() {
    let stop = Stop {
        cause: StopCause::PeerFailed,
        grace: GRACE,
    };
    let mut vanished = running(task());
    let gone = Input::Gone(Gone::Vanished("the shim is gone".into()));
    assert_eq!(vanished.step(gone), [Effect::Drain]);
    assert_eq!(vanished.step(Input::Stop(stop)), [Effect::NoteStop(stop)]);
    assert_eq!(drained(&mut vanished).end.stop_cause, None);
    let mut failed = running(task());
    assert_eq!(failed.step(exited(1)), [Effect::Drain]);
    assert_eq!(failed.step(Input::Stop(stop)), [Effect::NoteStop(stop)]);
    let cause = drained(&mut failed).end.stop_cause;
    assert_eq!(cause, Some(StopCause::PeerFailed));
}

#[test]
fn a_stop_while_results_are_stored_is_noted_and_a_time_limit_is_not() {
    let mut task = running(task());
    assert_eq!(task.step(exited(0)), [Effect::Drain]);
    assert_eq!(task.step(Input::LimitReached), [], "it ran no longer");
    let effects = task.step(Input::Stop(CANCEL));
    assert_eq!(effects, [Effect::NoteStop(CANCEL)]);
    assert_eq!(task.step(Input::Stop(CANCEL)), [], "once");
    let end = drained(&mut task).end;
    assert_eq!(
        (end.exit_code, end.stop_cause),
        (Some(0), Some(StopCause::Cancelled))
    );
}

#[test]
fn a_task_whose_process_has_ended_by_itself_makes_no_room_any_more() {
    let mut task = running(task());
    assert_eq!(task.step(exited(0)), [Effect::Drain]);
    let room = Stop {
        cause: StopCause::Preempted,
        ..CANCEL
    };
    assert_eq!(task.step(Input::Stop(room)), []);
    let ended = drained(&mut task);
    assert_eq!((ended.end.exit_code, ended.end.stop_cause), (Some(0), None));
}
