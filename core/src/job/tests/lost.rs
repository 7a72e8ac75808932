//! Attempts that are lost, fail or are cancelled: what of it is tried again, and what it costs.

use super::*;

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
fn a_limit_that_was_over_when_a_trainer_ended_is_not_why_where_it_was_told_before_to_make_room_or_cancelled()
 {
    let ends = TaskEnd {
        signal: Some(15),
        stop_cause: Some(StopCause::TimeLimit),
        ..TaskEnd::default()
    };
    let limited = |minutes: u64| {
        let mut job = running(RetryPolicy::default());
        job.spec.time_limit = Some(std::time::Duration::from_secs(60 * minutes));
        job
    };
    let later = |job: &Job, minutes: i64| {
        let began = job.live().unwrap().started_at().unwrap();
        Timestamp(began.0 + minutes * 60_000_000)
    };
    let ended = |job: Job, before: Option<Event>, ends: &TaskEnd| {
        let told = later(&job, 10);
        let after = match before {
            Some(event) => job.step(told, event).unwrap().job,
            None => job,
        };
        let at = later(&after, 30);
        after
            .step(at, Event::Ended(t(A1), ends.clone()))
            .unwrap()
            .job
    };
    let room = || Some(Event::MakeRoom(A1, JobId(9)));
    assert_eq!(ended(limited(20), None, &ends).state, JobState::Failed);
    let goes = ended(limited(20), room(), &ends);
    assert_eq!(goes.state, JobState::Queued, "{:?}", goes.outcome);
    // It was to be stopped already when it was told to go.
    assert_eq!(ended(limited(5), room(), &ends).state, JobState::Failed);
    let cancelled = ended(limited(20), Some(Event::CancelRequested), &ends);
    assert_eq!(cancelled.state, JobState::Cancelled);
}

#[test]
fn one_that_was_told_to_go_has_gone_for_that_whatever_the_clock_of_its_node_shows() {
    let killed = TaskEnd {
        signal: Some(9),
        ..TaskEnd::default()
    };
    let by_limit = TaskEnd {
        stop_cause: Some(StopCause::TimeLimit),
        ..killed.clone()
    };
    let later = |minutes: i64| Timestamp(T.0 + minutes * 60_000_000);
    for hours in [-2, 0, 2] {
        let began = Event::Started(t(A1), later(60 * hours));
        let mut job = after(vec![Event::Prepared, placed(), began]).job;
        job.spec.time_limit = Some(std::time::Duration::from_secs(60 * 20));
        let going = job.step(later(10), Event::MakeRoom(A1, JobId(9)));
        let going = going.unwrap().job;
        for end in [&killed, &by_limit] {
            let gone = going.step(later(15), Event::Ended(t(A1), end.clone()));
            let gone = gone.unwrap().job;
            assert_eq!(
                gone.state,
                JobState::Queued,
                "{hours} h, {:?}",
                gone.outcome
            );
        }
    }
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
