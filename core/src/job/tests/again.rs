//! What becomes of a job between two of its attempts: who ends a wait, and what a user's wish does to it.

use super::*;

/// The first attempt ended by its node's fault; records up to this number belong to it.
fn broke(last_seq: u64) -> Event {
    let end = TaskEnd {
        error: Some("no space left".into()),
        infrastructure: true,
        last_seq,
        ..TaskEnd::default()
    };
    Event::Ended(t(A1), end)
}

#[test]
fn a_node_that_is_lost_for_good_ends_the_wait_for_records_also_of_a_job_that_waits_for_its_node() {
    let patient = RetryPolicy {
        on_lost: OnLost::Wait,
        ..RetryPolicy::default()
    };
    let lost = || Event::NodeLost(A1, n1(), "node n1 was silent".into());
    let ended = running(patient.clone()).step(T, exit(0, 900)).unwrap().job;
    let ended = ended.step(T, stored(850)).unwrap().job;
    assert_eq!(ended.state, JobState::Finishing);
    let step = ended.step(T, lost()).unwrap();
    assert_eq!(step.job.state, JobState::Completed);
    assert!(step.effects.contains(&Effect::Release));
    // By its node's fault: then there is another attempt.
    let broken = running(patient).step(T, broke(9)).unwrap().job;
    assert_eq!(broken.step(T, lost()).unwrap().job.state, JobState::Queued);
}

#[test]
fn a_cancel_while_the_last_records_are_under_way_is_the_end_of_trying_again() {
    let ended = running(RetryPolicy::default()).step(T, broke(5)).unwrap();
    let step = ended.job.step(T, Event::CancelRequested).unwrap();
    assert_eq!(
        (step.job.state, step.effects),
        (JobState::Finishing, vec![])
    );
    let step = step.job.step(T, stored(5)).unwrap();
    assert_eq!(step.job.state, JobState::Cancelled);
    let class = step.job.outcome.as_ref().and_then(|outcome| outcome.class);
    assert_eq!(class, Some(FailureClass::Cancelled));
    assert!(!step.effects.contains(&Effect::Enqueue));
    // A user's start is a new wish.
    let again = step.job.step(T, Event::RestartRequested).unwrap().job;
    assert!(!again.cancel_requested);
}

fn killed(attempt: AttemptNo) -> Event {
    let end = TaskEnd {
        signal: Some(9),
        oom_killed: true,
        ..TaskEnd::default()
    };
    Event::Ended(t(attempt), end)
}

#[test]
fn a_user_that_starts_the_job_again_gets_the_batch_that_was_asked_for() {
    let asks = RetryPolicy {
        out_of_memory: OnMemory::HalveBatch,
        ..RetryPolicy::default()
    };
    let asked = running(asks).spec.batch_size;
    let again = |event: Event| {
        let asks = RetryPolicy {
            out_of_memory: OnMemory::HalveBatch,
            ..RetryPolicy::default()
        };
        let halved = running(asks).step(T, killed(A1)).unwrap().job;
        assert_eq!(halved.spec.batch_size, asked / 2);
        let second = halved.step(T, placed()).unwrap().job;
        let failed = second.step(T, killed(AttemptNo(2))).unwrap().job;
        assert_eq!(
            (failed.state, failed.spec.batch_size),
            (JobState::Failed, asked / 2)
        );
        failed.step(T, event).unwrap().job.spec.batch_size
    };
    assert_eq!(again(Event::RestartRequested), asked);
    assert_eq!(again(Event::StartRequested(Resume::default())), asked);
}

/// Running, and its agent has stored this checkpoint.
fn with_kept(path: &str) -> Job {
    let kept = Checkpoint {
        path: path.into(),
        size_bytes: None,
    };
    let said = told(Told {
        seq: 3,
        kept: Some(kept),
        ..Told::default()
    });
    running(RetryPolicy::default()).step(T, said).unwrap().job
}

#[test]
fn where_a_user_starts_a_job_that_waits_to_be_tried_again_is_where_it_stays() {
    let waits = with_kept("s3://b/last.pt").step(T, broke(3)).unwrap().job;
    assert_eq!(waits.spec.resume_from.as_deref(), Some("s3://b/last.pt"));
    let wish = Resume {
        checkpoint: Some("/x.pt".into()),
        whole: true,
    };
    let started = waits.step(T, Event::StartRequested(wish)).unwrap().job;
    let second = started.step(T, placed()).unwrap().job;
    let lost = Event::NodeLost(AttemptNo(2), n1(), "node n1 was silent".into());
    let third = second.step(T, lost).unwrap().job;
    assert_eq!(third.spec.resume_from.as_deref(), Some("/x.pt"));
}

#[test]
fn a_job_that_is_cancelled_while_it_waits_says_what_it_waited_for() {
    let words = |job: &Job| {
        let cancelled = job.step(T, Event::CancelRequested).unwrap().job;
        cancelled.outcome.unwrap().message
    };
    let first = after(vec![Event::Prepared]).job;
    assert_eq!(words(&first), "cancelled by a user before it started");
    let waits = running(RetryPolicy::default())
        .step(T, broke(0))
        .unwrap()
        .job;
    assert_eq!(
        words(&waits),
        "cancelled by a user before it was tried again"
    );
    assert!(waits.attempt().unwrap().tried_again);
    let restarted = after(vec![
        Event::Prepared,
        placed(),
        exit(1, 0),
        Event::RestartRequested,
    ]);
    assert_eq!(
        words(&restarted.job),
        "cancelled by a user before it started"
    );
}

#[test]
fn a_job_stands_where_its_user_put_it_however_often_it_is_tried_again() {
    let later = Timestamp(T.0 + 1_000);
    let latest = Timestamp(T.0 + 2_000);
    let waits = running(RetryPolicy::default())
        .step(later, broke(0))
        .unwrap()
        .job;
    assert_eq!((waits.asked_at, waits.state_since), (Some(T), later));
    let ended = after(vec![Event::Prepared, placed(), exit(1, 0)]).job;
    let mut again = ended.step(later, Event::RestartRequested).unwrap().job;
    again = again
        .step(
            later,
            Event::Placed {
                queued_at: later,
                allocations: vec![allocation()],
                secret: "s".to_owned().into(),
            },
        )
        .unwrap()
        .job;
    let lost = Event::NodeLost(AttemptNo(2), n1(), "node n1 was silent".into());
    let again = again.step(latest, lost).unwrap().job;
    assert_eq!(
        (again.state, again.asked_at),
        (JobState::Queued, Some(later))
    );
}

#[test]
fn an_attempt_before_a_users_last_wish_is_none_since_then_also_where_the_clock_was_set_back_meanwhile()
 {
    let late = Timestamp(T.0 + 400_000_000);
    let place = |queued_at| Event::Placed {
        queued_at,
        allocations: vec![allocation()],
        secret: "s".to_owned().into(),
    };
    let waits = accepted().step(late, Event::Prepared).unwrap().job;
    let places = waits.step(late, place(late)).unwrap().job;
    let ended = places.step(late, exit(1, 0)).unwrap().job;
    let again = ended.step(T, Event::RestartRequested).unwrap().job;
    assert_eq!(again.queued().passed, None, "its gates hold it again");
    assert_eq!(again.ran(), None);
    // By a clock that was set back once more.
    let earlier = Timestamp(T.0 - 1_000);
    let placed = again.step(earlier, place(T)).unwrap().job;
    assert_eq!(placed.queued().passed, Some(earlier));
    // A row of an older version is judged by the moments.
    let older = Job {
        asked_after: None,
        ..again
    };
    assert_eq!(older.queued().passed, Some(late));
}

#[test]
fn two_wishes_at_the_same_moment_are_two() {
    let wish = |job: &Job| job.step(T, Event::RestartRequested).unwrap().job;
    let never = |job: &Job| {
        let event = Event::Hopeless("job 1 was cancelled".to_owned());
        job.step(T, event).unwrap().job
    };
    let first = wish(&never(&after(vec![Event::Prepared]).job));
    let over = never(&first);
    let second = wish(&over);
    assert_ne!(first.asked_at, second.asked_at);
    assert_eq!(crate::invariants::broken_by(&over, &second), []);
}

fn goes() -> Event {
    Event::MakeRoom(A1, JobId(9))
}

fn told_to_go(code: Option<i32>) -> Event {
    let end = TaskEnd {
        exit_code: code,
        signal: code.is_none().then_some(15),
        stop_cause: Some(StopCause::Preempted),
        ..TaskEnd::default()
    };
    Event::Ended(t(A1), end)
}

#[test]
fn a_job_that_makes_room_waits_again_at_no_cost_and_says_for_whom() {
    let started = Event::Started(t(A1), T);
    let step = after(vec![Event::Prepared, placed(), started, goes()]);
    let stop = Effect::Stop(n1(), t(A1), StopCause::Preempted);
    assert_eq!(step.effects, [stop]);
    assert_eq!(step.job.state, JobState::Running);
    assert!(step.job.step(T, goes()).is_err(), "once is enough");
    let gone = step.job.step(T, told_to_go(None)).unwrap().job;
    assert_eq!((gone.state, gone.tried.again), (JobState::Queued, 0));
    assert_eq!(gone.not_before, None);
    assert!(gone.failed_on.is_empty(), "it is nobody's fault");
    assert_eq!(
        gone.reason,
        "made room for job 9, and goes on when there is room"
    );
    // An agent that does not know the cause takes it for another.
    let fenced = TaskEnd {
        stop_cause: Some(StopCause::Fenced),
        ..TaskEnd::default()
    };
    let gone = step.job.step(T, Event::Ended(t(A1), fenced)).unwrap().job;
    assert_eq!((gone.state, gone.tried.again), (JobState::Queued, 0));
    // Its node dies meanwhile.
    let lost = Event::NodeLost(A1, n1(), "it was silent".into());
    let gone = step.job.step(T, lost).unwrap().job;
    assert_eq!((gone.state, gone.tried.again), (JobState::Queued, 0));
}

#[test]
fn a_job_that_ends_for_another_reason_does_not_make_room() {
    let started = Event::Started(t(A1), T);
    let running = after(vec![Event::Prepared, placed(), started]).job;
    let cancelled = running.step(T, Event::CancelRequested).unwrap().job;
    assert!(cancelled.step(T, goes()).is_err());
    let going = running.step(T, goes()).unwrap().job;
    let both = going.step(T, Event::CancelRequested).unwrap().job;
    let ended = both.step(T, told_to_go(None)).unwrap().job;
    assert_eq!(ended.state, JobState::Cancelled);
}

fn vacates() -> Event {
    Event::Vacate(A1, "node n1 is drained: new fan".into())
}

#[test]
fn a_job_whose_node_is_drained_goes_on_elsewhere_at_no_cost_whether_it_is_preemptible_or_not() {
    let started = Event::Started(t(A1), T);
    for (preemptible, class) in [
        (true, FailureClass::Preempted),
        (false, FailureClass::Infrastructure),
    ] {
        let mut job = after(vec![Event::Prepared, placed(), started.clone()]).job;
        job.spec.preemptible = preemptible;
        job.spec.retry.limit = 0;
        let step = job.step(T, vacates()).unwrap();
        let stop = Effect::Stop(n1(), t(A1), StopCause::Preempted);
        assert_eq!(step.effects, [stop]);
        let words = "node n1 is drained: new fan; saves its work, and goes on elsewhere";
        assert_eq!(step.job.reason, words);
        assert!(step.job.step(T, vacates()).is_err(), "once is enough");
        assert!(step.job.step(T, goes()).is_err(), "it goes already");
        let gone = step.job.step(T, told_to_go(None)).unwrap().job;
        assert_eq!((gone.state, gone.tried.again), (JobState::Queued, 0));
        assert_eq!((gone.not_before, gone.failed_on.len()), (None, 0));
        let outcome = gone.attempt().unwrap().outcome().unwrap();
        assert_eq!(outcome.class, Some(class));
        assert_eq!(outcome.message, "stopped: node n1 is drained: new fan");
        // It saves its work and ends well, which beside a failure would say that all was well.
        let saved = step.job.step(T, told_to_go(Some(0))).unwrap().job;
        let outcome = saved.attempt().unwrap().outcome().unwrap();
        let code = Some(0).filter(|_| class == FailureClass::Preempted);
        assert_eq!((outcome.class, outcome.exit_code), (Some(class), code));
        // Its operator switches it off before it has gone.
        let lost = Event::NodeLost(A1, n1(), "it was silent".into());
        let gone = step.job.step(T, lost).unwrap().job;
        assert_eq!((gone.state, gone.tried.again), (JobState::Queued, 0));
    }
}

#[test]
fn a_job_that_fails_of_itself_while_its_node_is_drained_has_failed() {
    let started = Event::Started(t(A1), T);
    let running = after(vec![Event::Prepared, placed(), started]).job;
    let going = running.step(T, vacates()).unwrap().job;
    let failed = going.step(T, exit(1, 0)).unwrap().job;
    assert_eq!(failed.state, JobState::Failed);
    let cancelled = going.step(T, Event::CancelRequested).unwrap().job;
    let ended = cancelled.step(T, told_to_go(None)).unwrap().job;
    assert_eq!(ended.state, JobState::Cancelled);
}
