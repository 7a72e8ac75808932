//! The job machine, event by event and under random events.

mod again;
mod checkpoints;
mod gang;
mod properties;

use super::*;
use crate::{
    failure::FailureClass,
    retry::{OnLost, OnMemory, RetryPolicy, Tried},
};

const T: Timestamp = Timestamp(1_000);
const A1: AttemptNo = AttemptNo(1);

/// Rank 0 of an attempt.
fn t(attempt: AttemptNo) -> TaskKey {
    accepted().task(attempt, Rank(0))
}

fn n1() -> NodeName {
    NodeName("n1".into())
}

fn accepted() -> Job {
    Job::accepted(JobId(7), JobSpec::default(), "ada".into(), T)
}

fn allocation() -> Allocation {
    Allocation {
        node: NodeName("n1".into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: vec![],
        address: String::new(),
    }
}

fn placed() -> Event {
    Event::Placed {
        queued_at: T,
        allocations: vec![allocation()],
        secret: "s".to_owned().into(),
    }
}

fn exit(code: i32, last_seq: u64) -> Event {
    let end = TaskEnd {
        exit_code: Some(code),
        last_seq,
        ..TaskEnd::default()
    };
    Event::Ended(t(A1), end)
}

fn told(told: Told) -> Event {
    Event::Stored(t(A1), Box::new(told))
}

fn stored(seq: u64) -> Event {
    told(Told {
        seq,
        ..Told::default()
    })
}

/// Applies all events; the effects are those of the last.
fn after(events: Vec<Event>) -> Step {
    let mut step = Step {
        job: accepted(),
        effects: vec![],
    };
    for event in events {
        step = step.job.step(T, event).unwrap();
    }
    step
}

#[test]
fn a_job_goes_from_accepted_to_completed_and_says_each_effect_once() {
    let node = NodeName("n1".into());
    let step = after(vec![Event::Prepared]);
    assert_eq!(step.effects, [Effect::Enqueue]);
    let step = step.job.step(T, placed()).unwrap();
    assert_eq!(step.effects, [Effect::Start(node.clone(), t(A1))]);
    let step = step.job.step(T, Event::Started(t(A1), T)).unwrap();
    assert_eq!(step.job.state, JobState::Running);
    assert_eq!(step.effects, []);
    let step = step.job.step(T, exit(0, 0)).unwrap();
    assert_eq!(step.job.state, JobState::Completed);
    assert_eq!(step.effects, [Effect::Release, Effect::Forget(node, t(A1))]);
    assert_eq!(step.job.outcome.unwrap().class, None);
}

#[test]
fn a_job_finishes_only_when_its_last_record_is_stored() {
    let step = after(vec![
        Event::Prepared,
        placed(),
        Event::Started(t(A1), T),
        exit(0, 5),
    ]);
    assert_eq!(step.job.state, JobState::Finishing);
    let step = step.job.step(T, stored(4)).unwrap();
    assert_eq!(step.job.state, JobState::Finishing);
    assert_eq!(step.effects, []);
    let step = step.job.step(T, stored(5)).unwrap();
    assert_eq!(step.job.state, JobState::Completed);
}

#[test]
fn a_job_waits_for_no_record_that_its_node_says_later_it_does_not_have() {
    let step = after(vec![
        Event::Prepared,
        placed(),
        Event::Started(t(A1), T),
        exit(0, 9),
        stored(4),
    ]);
    assert_eq!(step.job.state, JobState::Finishing);
    let end = |last_seq| TaskEnd {
        last_seq,
        ..TaskEnd::default()
    };
    let missing = |job: &Job, last| job.attempts[0].lead.missing(&end(last));
    assert_eq!(missing(&step.job, 9), None);
    assert_eq!(missing(&step.job, 6), Some(7..=9));
    assert_eq!(
        missing(&step.job, 0),
        Some(5..=9),
        "the first four are stored"
    );
    // It says the same again, and then less: what is left of it is waited for.
    let step = step.job.step(T, exit(0, 9)).unwrap();
    let step = step.job.step(T, exit(1, 6)).unwrap();
    assert_eq!(step.job.state, JobState::Finishing);
    let again = step.job.step(T, exit(0, 9)).unwrap();
    assert_eq!(again.job, step.job, "an older word");
    let step = step.job.step(T, stored(6)).unwrap();
    assert_eq!(step.job.state, JobState::Completed, "as it ended first");
    // None of it can be read.
    let step = after(vec![Event::Prepared, placed(), exit(0, 9), stored(4)]);
    let step = step.job.step(T, exit(0, 0)).unwrap();
    assert_eq!(step.job.state, JobState::Completed);
    assert!(step.effects.contains(&Effect::Forget(n1(), t(A1))));
}

#[test]
fn a_waiting_job_is_cancelled_at_once_and_a_running_one_through_its_node() {
    let step = after(vec![Event::Prepared, Event::CancelRequested]);
    assert_eq!(step.job.state, JobState::Cancelled);
    assert_eq!(step.effects, [Effect::Dequeue]);
    let step = after(vec![Event::Prepared, placed(), Event::CancelRequested]);
    assert_eq!(step.job.state, JobState::Starting);
    let node = NodeName("n1".into());
    assert_eq!(
        step.effects,
        [Effect::Stop(node, t(A1), StopCause::Cancelled)]
    );
    let end = TaskEnd {
        signal: Some(15),
        stop_cause: Some(StopCause::Cancelled),
        ..TaskEnd::default()
    };
    let step = step.job.step(T, Event::Ended(t(A1), end)).unwrap();
    assert_eq!(step.job.state, JobState::Cancelled);
}

#[test]
fn a_late_report_never_revives_a_finished_job() {
    let done = after(vec![Event::Prepared, placed(), exit(1, 0)]).job;
    assert_eq!(done.state, JobState::Failed);
    for late in [Event::Started(t(A1), T), exit(0, 0), stored(9)] {
        let refused = done.step(T, late).unwrap_err();
        assert_eq!(
            refused,
            Illegal::Fenced {
                seen: A1,
                live: None
            }
        );
    }
    let refused = done.step(T, Event::CancelRequested).unwrap_err();
    assert_eq!(refused.to_string(), "a failed job does not take 'cancel'");
}

#[test]
fn a_restart_is_a_new_attempt_that_fences_the_old_one() {
    let step = after(vec![
        Event::Prepared,
        placed(),
        exit(1, 0),
        Event::RestartRequested,
        placed(),
    ]);
    assert_eq!(step.job.attempt().unwrap().number, AttemptNo(2));
    assert!(matches!(
        step.job.step(T, Event::Started(t(A1), T)),
        Err(Illegal::Fenced { .. })
    ));
}

#[test]
fn a_restarted_job_shows_nothing_of_its_earlier_run() {
    let checkpoint = Checkpoint {
        path: "/c/best.pt".into(),
        size_bytes: Some(1),
    };
    let word = Completion {
        succeeded: true,
        final_metrics: [("loss".to_owned(), 0.5)].into(),
        best_checkpoint: Some(checkpoint.clone()),
        last_checkpoint: Some(checkpoint),
        ..Completion::default()
    };
    let said = Event::Stored(
        t(A1),
        Box::new(Told {
            seq: 1,
            progress: None,
            completion: Some(word),
            first_epoch: None,
            kept: None,
        }),
    );
    let ended = after(vec![
        Event::Prepared,
        placed(),
        Event::Started(t(A1), T),
        said,
        exit(0, 1),
    ])
    .job;
    assert!(ended.best_checkpoint.is_some() && !ended.final_metrics.is_empty());
    let again = ended.step(T, Event::RestartRequested).unwrap().job;
    assert_eq!(
        (&again.best_checkpoint, &again.last_checkpoint),
        (&None, &None)
    );
    assert!(again.final_metrics.is_empty() && again.progress.is_none());
    assert_eq!(
        (again.started_at, again.ended_at, again.outcome),
        (None, None, None)
    );
}

/// A job with these wishes, running as its first attempt.
fn running(retry: RetryPolicy) -> Job {
    let mut job = accepted();
    job.spec.retry = retry;
    for event in [Event::Prepared, placed(), Event::Started(t(A1), T)] {
        job = job.step(T, event).unwrap().job;
    }
    job
}

#[test]
fn a_lost_attempt_gives_its_place_back_and_the_job_waits_for_another_node() {
    let node = NodeName("n1".into());
    let mut job = running(RetryPolicy::default());
    let kept = Checkpoint {
        path: "s3://b/last.pt".into(),
        size_bytes: Some(1),
    };
    let said = told(Told {
        seq: 3,
        first_epoch: Some(1),
        kept: Some(kept),
        ..Told::default()
    });
    job = job.step(T, said).unwrap().job;
    let lost = Event::NodeLost(A1, n1(), "node n1 was silent for 5 minutes".into());
    let step = job.step(T, lost).unwrap();
    let gone = Effect::Forget(node.clone(), t(A1));
    assert_eq!(step.effects, [Effect::Release, gone, Effect::Enqueue]);
    let job = step.job;
    assert_eq!((job.state, &job.outcome), (JobState::Queued, &None));
    assert_eq!(
        job.reason,
        "is tried again (1 of 3): node n1 was silent for 5 minutes"
    );
    assert_eq!(
        job.not_before,
        Some(T.plus(std::time::Duration::from_secs(10)))
    );
    assert!(job.failed_on.contains(&node));
    assert_eq!(job.spec.resume_from.as_deref(), Some("s3://b/last.pt"));
    assert!(job.spec.resume);
    // What the old attempt says from now on changes nothing.
    assert!(job.step(T, exit(0, 3)).is_err());
    let second = job.step(T, placed()).unwrap().job;
    assert_eq!(second.attempt().unwrap().number, AttemptNo(2));
    assert!(second.step(T, stored(4)).is_err());
}

#[test]
fn a_job_that_has_no_try_left_has_failed_and_says_why() {
    let once = RetryPolicy {
        limit: 1,
        ..RetryPolicy::default()
    };
    let lost = |attempt| Event::NodeLost(attempt, n1(), "node n1 was silent".into());
    let mut job = running(once).step(T, lost(A1)).unwrap().job;
    assert_eq!(job.state, JobState::Queued);
    job = job.step(T, placed()).unwrap().job;
    let step = job.step(T, lost(AttemptNo(2))).unwrap();
    assert_eq!(step.job.state, JobState::Failed);
    let outcome = step.job.outcome.clone().unwrap();
    assert_eq!(outcome.class, Some(FailureClass::Lost));
    assert_eq!(outcome.message, "node n1 was silent");
    // A user's restart begins to count anew, and waits for nothing that was to be waited for before.
    let mut ended = step.job;
    ended.not_before = Some(T.plus(std::time::Duration::from_secs(600)));
    let again = ended.step(T, Event::RestartRequested).unwrap().job;
    assert_eq!((again.tried, again.failed_on.len()), (Tried::default(), 0));
    assert_eq!(again.not_before, None);
}

#[test]
fn a_job_that_waits_for_a_lost_node_goes_on_when_it_speaks_again_and_ends_when_it_is_cancelled() {
    let patient = RetryPolicy {
        on_lost: OnLost::Wait,
        ..RetryPolicy::default()
    };
    let lost = Event::NodeLost(A1, n1(), "node n1 is silent".into());
    let job = running(patient).step(T, lost.clone()).unwrap().job;
    assert_eq!(job.state, JobState::Running);
    assert!(job.reason.contains("it is waited for"), "{}", job.reason);
    assert_eq!(job.step(T, lost.clone()).unwrap().job, job, "said once");
    let heard = job.step(T, Event::Heard(t(A1))).unwrap().job;
    assert_eq!(
        (heard.state, heard.reason.as_str()),
        (JobState::Running, "")
    );
    let cancelled = job.step(T, Event::CancelRequested).unwrap().job;
    let step = cancelled.step(T, lost).unwrap();
    assert_eq!(step.job.state, JobState::Cancelled);
    // Without a trace of it there is nothing to wait for.
    let gone = Event::AttemptLost(t(A1), "node n1 came back without a trace".into());
    assert_eq!(job.step(T, gone).unwrap().job.state, JobState::Queued);
}

#[test]
fn a_job_that_ran_out_of_memory_is_tried_once_more_with_half_its_batch() {
    let asks = RetryPolicy {
        out_of_memory: OnMemory::HalveBatch,
        ..RetryPolicy::default()
    };
    let killed = |attempt| {
        let end = TaskEnd {
            signal: Some(9),
            oom_killed: true,
            ..TaskEnd::default()
        };
        Event::Ended(t(attempt), end)
    };
    let job = running(asks).step(T, killed(A1)).unwrap().job;
    assert_eq!((job.state, job.spec.batch_size), (JobState::Queued, 16));
    assert_eq!(job.not_before, None);
    let second = job.step(T, placed()).unwrap().job;
    let step = second.step(T, killed(AttemptNo(2))).unwrap();
    assert_eq!(step.job.state, JobState::Failed);
    let plain = running(RetryPolicy::default()).step(T, killed(A1)).unwrap();
    assert_eq!(plain.job.state, JobState::Failed);
}

#[test]
fn an_end_that_is_reported_twice_counts_once() {
    let step = after(vec![Event::Prepared, placed(), exit(3, 2), exit(0, 2)]);
    assert_eq!(step.job.state, JobState::Finishing);
    let step = step.job.step(T, stored(2)).unwrap();
    assert_eq!(step.job.outcome.unwrap().exit_code, Some(3));
}

#[test]
fn a_place_found_before_the_job_was_queued_anew_is_refused() {
    let later = Timestamp(T.0 + 1);
    let queued = after(vec![Event::Prepared, Event::CancelRequested]).job;
    let queued = queued.step(later, Event::RestartRequested).unwrap().job;
    let refused = queued.step(later, placed()).unwrap_err();
    assert_eq!(refused.to_string(), "a queued job does not take 'placed'");
}

#[test]
fn an_attempt_that_is_lost_while_it_is_being_cancelled_is_cancelled() {
    let step = after(vec![
        Event::Prepared,
        placed(),
        Event::CancelRequested,
        Event::AttemptLost(t(A1), "node n1 came back without a trace".into()),
    ]);
    assert_eq!(step.job.state, JobState::Cancelled);
    assert_eq!(step.job.outcome.unwrap().message, "cancelled by a user");
}

#[test]
fn a_trainer_that_ends_as_a_stop_ends_it_after_a_cancel_is_cancelled_though_nobody_says_why() {
    let ends = |signal, exit_code, oom_killed| {
        let end = TaskEnd {
            signal,
            exit_code,
            oom_killed,
            ..TaskEnd::default()
        };
        Event::Ended(t(A1), end)
    };
    let cancelled = running(RetryPolicy::default())
        .step(T, Event::CancelRequested)
        .unwrap()
        .job;
    for (end, state) in [
        (ends(Some(15), None, false), JobState::Cancelled),
        (ends(Some(9), None, false), JobState::Cancelled),
        (ends(None, Some(143), false), JobState::Cancelled),
        (ends(Some(9), None, true), JobState::Failed),
        (ends(Some(11), None, false), JobState::Failed),
        (ends(None, Some(1), false), JobState::Failed),
        (ends(None, Some(0), false), JobState::Completed),
    ] {
        assert_eq!(
            cancelled.step(T, end.clone()).unwrap().job.state,
            state,
            "{end:?}"
        );
    }
    // Killed before the cancel: it was not that.
    let killed = Event::Ended(
        t(A1),
        TaskEnd {
            signal: Some(9),
            last_seq: 5,
            ..TaskEnd::default()
        },
    );
    let ended = running(RetryPolicy::default()).step(T, killed).unwrap().job;
    let late = ended.step(T, Event::CancelRequested).unwrap().job;
    assert_eq!(late.step(T, stored(5)).unwrap().job.state, JobState::Failed);
}

#[test]
fn a_job_that_the_platform_fails_while_it_is_being_cancelled_is_cancelled_and_not_tried_again() {
    let vanished = Event::Ended(
        t(A1),
        TaskEnd {
            error: Some("the shim was killed".into()),
            infrastructure: true,
            last_seq: 5,
            ..TaskEnd::default()
        },
    );
    // Before its end is known, and while its last records are under way.
    for order in [
        [Event::CancelRequested, vanished.clone()],
        [vanished, Event::CancelRequested],
    ] {
        let mut events = vec![Event::Prepared, placed(), Event::Started(t(A1), T)];
        events.extend(order);
        events.push(stored(5));
        let job = after(events).job;
        assert_eq!(job.state, JobState::Cancelled);
        let said = job.outcome.unwrap().message;
        assert_eq!(said, "cancelled by a user (the shim was killed)");
    }
}

#[test]
fn a_cancel_while_the_last_records_are_under_way_changes_nothing_of_the_end() {
    let step = after(vec![
        Event::Prepared,
        placed(),
        Event::Started(t(A1), T),
        exit(0, 5),
        Event::CancelRequested,
    ]);
    assert_eq!(step.job.state, JobState::Finishing);
    assert_eq!(step.effects, []);
    let step = step.job.step(T, stored(5)).unwrap();
    assert_eq!(step.job.state, JobState::Completed);
}

#[test]
fn a_run_at_a_tracker_is_noted_also_after_the_end_and_forgotten_at_a_restart() {
    let ended = after(vec![Event::Prepared, placed(), exit(0, 0)]).job;
    let tracked = Event::Tracked(A1, Tracker::Mlflow, "r1".into());
    let step = ended.step(T, tracked.clone()).unwrap();
    assert_eq!(step.job.mlflow_run_id.as_deref(), Some("r1"));
    assert_eq!(
        (step.job.state, step.effects),
        (JobState::Completed, vec![])
    );
    let both = Event::Tracked(A1, Tracker::Clearml, "t1".into());
    let both = step.job.step(T, both).unwrap().job;
    assert_eq!(both.clearml_task_id.as_deref(), Some("t1"));
    let again = both.step(T, Event::RestartRequested).unwrap().job;
    assert_eq!(
        (&again.mlflow_run_id, &again.clearml_task_id),
        (&None, &None)
    );
    assert!(again.step(T, tracked.clone()).is_err());
    let second = again.step(T, placed()).unwrap().job;
    assert!(second.step(T, tracked).is_err());
}

#[test]
fn a_step_that_breaks_an_invariant_is_named_and_those_of_the_machine_break_none() {
    use crate::invariants::{Invariant, broken_by};
    let ended = after(vec![Event::Prepared, placed(), exit(0, 0)]).job;
    let later = Timestamp(T.0 + 1);
    let again = ended.step(later, Event::RestartRequested).unwrap().job;
    assert_eq!(broken_by(&ended, &again), []);
    let place = Event::Placed {
        queued_at: later,
        allocations: vec![allocation()],
        secret: "s".to_owned().into(),
    };
    let second = again.step(later, place).unwrap().job;
    assert_eq!(broken_by(&again, &second), []);
    let mut left = ended.clone();
    left.state = JobState::Running;
    assert!(broken_by(&ended, &left).contains(&Invariant::Final));
    let mut rewritten = second.clone();
    rewritten.attempts[0].first_epoch = Some(7);
    assert_eq!(broken_by(&second, &rewritten), [Invariant::Fenced]);
    let mut half = second.clone();
    half.spec.nodes = 2;
    assert_eq!(broken_by(&again, &half), [Invariant::Whole]);
    let mut early = second.clone();
    early.state = JobState::Running;
    assert_eq!(broken_by(&second, &early), [Invariant::Whole]);
    assert_eq!(
        Invariant::named_in("INV-02: a gives"),
        Some(Invariant::Capacity)
    );
    assert_eq!(Invariant::named_in("it stopped"), None);
}
