//! How long a job has run that was not in vain, and how often it went in vain.

use std::time::Duration;

use super::*;

const MINUTE: i64 = 60_000_000;

/// One more attempt of so many minutes that makes room for another at its end, after it has saved this.
fn made_room(job: &Job, minutes: i64, saves: Option<&str>) -> Job {
    let begins = Timestamp(job.state_since.0 + MINUTE);
    let ends = Timestamp(begins.0 + minutes * MINUTE);
    let number = AttemptNo(u32::try_from(job.attempts.len() + 1).unwrap());
    let place = Event::Placed {
        queued_at: job.state_since,
        allocations: vec![allocation()],
        secret: "s".to_owned().into(),
    };
    let kept = saves.map(|path| Checkpoint {
        path: path.into(),
        size_bytes: None,
    });
    let told = Told {
        seq: 1,
        kept,
        ..Told::default()
    };
    let end = TaskEnd {
        signal: Some(15),
        stop_cause: Some(StopCause::Preempted),
        last_seq: 1,
        ..TaskEnd::default()
    };
    let events = [
        (begins, place),
        (begins, Event::Started(t(number), begins)),
        (ends, Event::Stored(t(number), Box::new(told))),
        (ends, Event::MakeRoom(number, JobId(9))),
        (ends, Event::Ended(t(number), end)),
    ];
    let mut job = job.clone();
    for (now, event) in events {
        job = job.step(now, event).unwrap().job;
    }
    assert_eq!(job.state, JobState::Queued);
    job
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn come_to(job: &Job) -> (Duration, u32) {
    let queued = job.queued();
    (queued.has_run, queued.in_vain)
}

#[test]
fn an_attempt_that_has_saved_nothing_was_in_vain_whatever_those_before_it_have_saved() {
    let job = after(vec![Event::Prepared]).job;
    let first = made_room(&job, 10, None);
    assert_eq!(come_to(&first), (Duration::ZERO, 1));
    // Checkpoints of a job stand under one name.
    let saved = made_room(&first, 20, Some("s3://b/last.pt"));
    assert_eq!(come_to(&saved), (minutes(20), 0));
    let vain = made_room(&made_room(&saved, 30, None), 40, None);
    assert_eq!(come_to(&vain), (minutes(20), 2));
    let again = made_room(&vain, 5, Some("s3://b/last.pt"));
    assert_eq!(
        come_to(&again),
        (minutes(25), 0),
        "those between are left out"
    );
    let elsewhere = made_room(&again, 7, Some("s3://b/other.pt"));
    assert_eq!(come_to(&elsewhere), (minutes(32), 0));
}

#[test]
fn while_it_runs_and_has_saved_only_what_that_stands_on_counts() {
    let job = after(vec![Event::Prepared]).job;
    let vain = made_room(&job, 10, None);
    let mut runs = made_room(&vain, 20, Some("s3://b/last.pt"));
    let live = runs.attempts.last_mut().unwrap();
    (live.tried_again, live.makes_room_for) = (false, None);
    assert_eq!(come_to(&runs), (Duration::ZERO, 0));
}

#[test]
fn where_a_row_does_not_say_who_has_saved_all_that_ran_counts() {
    let job = after(vec![Event::Prepared]).job;
    let saved = made_room(&job, 20, Some("s3://b/last.pt"));
    let mut old = made_room(&saved, 10, None);
    old.saved_in.clear();
    assert_eq!(come_to(&old), (minutes(30), 0));
}

#[test]
fn what_was_in_vain_before_its_user_asked_for_it_again_does_not_count() {
    let job = after(vec![Event::Prepared]).job;
    let vain = made_room(&job, 10, None);
    let later = |minutes: i64| Timestamp(vain.state_since.0 + minutes * MINUTE);
    let cancelled = vain.step(later(1), Event::CancelRequested).unwrap().job;
    let again = cancelled.step(later(2), Event::RestartRequested).unwrap();
    assert_eq!(come_to(&again.job), (Duration::ZERO, 0));
    assert_eq!(come_to(&made_room(&again.job, 10, None)).1, 1);
}
