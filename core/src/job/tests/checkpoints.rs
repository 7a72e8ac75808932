//! What a job goes on from, and where its checkpoints are said to be.

use super::*;

#[test]
fn a_job_that_is_started_again_goes_on_from_its_checkpoint_when_that_is_wanted() {
    let named = |path: &str, whole| {
        let checkpoint = Some(path.to_owned());
        Event::StartRequested(Resume { checkpoint, whole })
    };
    let last = || {
        Event::StartRequested(Resume {
            checkpoint: None,
            whole: true,
        })
    };
    let mut ended = after(vec![Event::Prepared, placed(), exit(1, 0)]).job;
    assert_eq!(ended.state, JobState::Failed);
    ended.last_checkpoint = Some(Checkpoint {
        path: "/c/last.pt".into(),
        size_bytes: None,
    });
    let told = |job: &Job, event| {
        let job = job.step(T, event).unwrap().job;
        assert_eq!(job.state, JobState::Queued);
        (job.spec.resume_from, job.spec.resume)
    };
    let at = |path: &str| Some(path.to_owned());
    assert_eq!(told(&ended, last()), (at("/c/last.pt"), true));
    assert_eq!(told(&ended, named("/x.pt", false)), (at("/x.pt"), false));
    assert_eq!(told(&ended, Event::RestartRequested), (None, false));
    let waiting = ended.step(T, named("/x.pt", true)).unwrap().job;
    let plain = Event::StartRequested(Resume::default());
    assert_eq!(told(&waiting, plain), (at("/x.pt"), true));
    let runs = after(vec![Event::Prepared, placed(), Event::Started(t(A1), T)]).job;
    let refused = runs.step(T, last()).unwrap_err();
    assert_eq!(refused.to_string(), "a running job does not take 'start'");
}

#[test]
fn a_job_that_goes_on_from_its_own_checkpoint_keeps_the_best_one_until_there_is_a_better() {
    let place = |path: &str| {
        Some(Checkpoint {
            path: path.to_owned(),
            size_bytes: None,
        })
    };
    let mut ended = after(vec![Event::Prepared, placed(), exit(1, 0)]).job;
    ended.best_checkpoint = place("/c/best.pt");
    ended.last_checkpoint = place("/c/last.pt");
    let again = |checkpoint: Option<&str>, whole| {
        let checkpoint = checkpoint.map(str::to_owned);
        let event = Event::StartRequested(Resume { checkpoint, whole });
        let job = ended.step(T, event).unwrap().job;
        (job.best_checkpoint, job.last_checkpoint)
    };
    let both = (place("/c/best.pt"), place("/c/last.pt"));
    assert_eq!(again(None, true), both);
    assert_eq!(again(Some("/c/last.pt"), true), both);
    assert_eq!(again(Some("/c/best.pt"), true), both);
    // Anew, with its weights alone, or from elsewhere: another training.
    assert_eq!(again(None, false), (None, None));
    assert_eq!(again(Some("/c/last.pt"), false), (None, None));
    assert_eq!(again(Some("/x.pt"), true), (None, None));
}

#[test]
fn where_a_checkpoint_is_stored_replaces_its_path_and_not_the_epoch() {
    let place = |path: &str| {
        Some(Checkpoint {
            path: path.into(),
            size_bytes: Some(1),
        })
    };
    let progress = |epoch, path| Progress {
        at: T,
        epoch,
        total_epochs: 9,
        step: None,
        values: [].into(),
        has_metrics: epoch > 0,
        checkpoint: None,
        best_checkpoint: place(path),
    };
    let said = |seq, epoch, path| {
        Event::Stored(
            t(A1),
            Box::new(Told {
                seq,
                progress: Some(progress(epoch, path)),
                completion: None,
                first_epoch: None,
                kept: None,
            }),
        )
    };
    let job = after(vec![
        Event::Prepared,
        placed(),
        Event::Started(t(A1), T),
        said(1, 9, "/d/best.pt"),
        said(2, 0, "s3://b/best.pt"),
        exit(0, 2),
    ])
    .job;
    assert_eq!(job.best_checkpoint, place("s3://b/best.pt"));
    assert_eq!(job.progress.map(|progress| progress.epoch), Some(9));
}

/// The first attempt saves where only its own node can reach it, the second begins at the beginning and is cancelled.
#[test]
fn an_attempt_goes_on_from_the_one_that_has_saved_and_not_from_one_that_began_at_the_beginning_since()
 {
    let progress = Progress {
        at: T,
        epoch: 1,
        total_epochs: 9,
        step: None,
        values: [].into(),
        has_metrics: true,
        checkpoint: Some(Checkpoint {
            path: "/d/last.pt".into(),
            size_bytes: None,
        }),
        best_checkpoint: None,
    };
    let said = told(Told {
        seq: 1,
        progress: Some(progress),
        first_epoch: Some(1),
        ..Told::default()
    });
    let lost = |attempt| Event::NodeLost(attempt, n1(), "node n1 was silent".into());
    let whole = Event::StartRequested(Resume {
        checkpoint: None,
        whole: true,
    });
    let mut job = running(RetryPolicy::default());
    for event in [said, lost(A1), placed()] {
        job = job.step(T, event).unwrap().job;
    }
    assert!(job.attempts[1].anew && job.attempts[1].goes_on_from.is_none());
    for event in [Event::CancelRequested, lost(AttemptNo(2)), whole, placed()] {
        job = job.step(T, event).unwrap().job;
    }
    assert!(!job.attempts[2].anew);
    assert_eq!(job.attempts[2].goes_on_from, Some(A1));
    assert!(job.curve().has(A1, Rank(0), 1), "its epoch counts");
    assert!(!job.curve().has(AttemptNo(2), Rank(0), 1));
}
