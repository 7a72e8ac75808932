//! The job machine, event by event and under random events.

mod again;
mod checkpoints;
mod gang;
mod lost;
mod properties;
mod served;

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
