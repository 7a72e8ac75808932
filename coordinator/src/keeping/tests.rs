//! Sealing and removing, as the two tasks do it.

use std::path::Path;

use tempfile::TempDir;
use trainyard_core::{
    decision::{Decision, Kind},
    job::{Job, JobState},
    record::Progress,
    spec::JobSpec,
    time::Timestamp,
};

use super::*;
use crate::{
    actors::jobs::RequestKey,
    store::{Change, EventsOf, StoreOptions, for_tests::damage_job},
    trackers::status_for_tests as status,
};

const DAY: Duration = Duration::from_secs(86_400);

fn open(path: &Path) -> Store {
    let fatal = Box::new(|error| panic!("{error}"));
    Store::open(StoreOptions::new(path), fatal).unwrap()
}

fn job(id: u64, ended_at: Option<Timestamp>) -> Change {
    let mut job = Job::accepted(JobId(id), JobSpec::default(), "ada".into(), Timestamp(1));
    if ended_at.is_some() {
        job.state = JobState::Completed;
    }
    job.ended_at = ended_at;
    Change::PutJob(Box::new(job))
}

fn points(id: u64) -> Change {
    let point = |epoch| Progress {
        at: Timestamp(5),
        epoch,
        total_epochs: 9,
        step: None,
        values: [("loss".to_owned(), 0.5)].into(),
        has_metrics: true,
        checkpoint: None,
        best_checkpoint: None,
    };
    Change::AppendPoints {
        task: trainyard_core::ids::TaskKey {
            job: JobId(id),
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
        },
        points: (1..50).map(point).collect(),
    }
}

/// Jobs 1 and 2 have ended long ago and now, job 3 is open.
async fn world() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("trainyard.redb"));
    let ends = [Some(Timestamp(1)), Some(clock::now()), None];
    for (id, end) in (1..).zip(ends) {
        let rows = vec![points(id), job(id, end)];
        store.commit_and_wait(rows).await.unwrap();
    }
    (folder, store)
}

fn counts(store: &Store) -> [u64; 3] {
    [1, 2, 3].map(|id| store.count_points(JobId(id)).unwrap())
}

fn lines_of(store: &Store, id: u64) -> Vec<String> {
    let lines = store.logs(JobId(id), 0, 99).unwrap();
    lines.into_iter().map(|row| row.line.text).collect()
}

#[tokio::test]
async fn what_is_old_goes_and_the_job_says_why() {
    let (_folder, store) = world().await;
    let asked = Retention {
        points: Some(30 * DAY),
        lines: Some(30 * DAY),
        ..Retention::default()
    };
    for _ in 0..2 {
        trim(&store, &asked, &Board::default()).await.unwrap();
        assert_eq!(counts(&store), [0, 49, 49]);
    }
    let told = "the points of this job were removed: it ended more than 30 days ago (retention.points_days)";
    assert_eq!(lines_of(&store, 1), [told]);
    assert_eq!(lines_of(&store, 2), Vec::<String>::new());
}

#[tokio::test]
async fn a_log_that_goes_later_than_the_points_says_that_they_are_gone_too() {
    let (_folder, store) = world().await;
    let line = line(Rows::Lines, Why::Age(DAY), false);
    let lines = Change::AppendLogs {
        task: trainyard_core::ids::TaskKey {
            job: JobId(1),
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
        },
        lines: vec![line],
    };
    store.commit_and_wait(vec![lines]).await.unwrap();
    let asked = |points, lines| Retention {
        points,
        lines,
        ..Retention::default()
    };
    for asked in [asked(Some(DAY), None), asked(Some(DAY), Some(DAY))] {
        for _ in 0..2 {
            trim(&store, &asked, &Board::default()).await.unwrap();
        }
    }
    let told = "the lines of this job up to here were removed, its points before: it ended more than 1 days ago (retention.logs_days)";
    assert_eq!(lines_of(&store, 1), [told]);
}

#[tokio::test]
async fn what_is_too_much_goes_by_the_oldest_and_open_jobs_keep_theirs() {
    let (_folder, store) = world().await;
    let asked = Retention {
        bytes: Some(1),
        ..Retention::default()
    };
    trim(&store, &asked, &Board::default()).await.unwrap();
    assert_eq!(counts(&store), [0, 0, 49]);
    assert!(lines_of(&store, 1)[0].contains("retention.max_gib"));
}

#[tokio::test]
async fn a_job_of_which_a_tracker_lacks_something_keeps_all_of_it() {
    let (_folder, store) = world().await;
    let asked = Retention {
        points: Some(DAY),
        ..Retention::default()
    };
    let board = status::board("ops");
    trim(&store, &asked, &board).await.unwrap();
    assert_eq!(counts(&store), [49, 49, 49]);
    // It has the job's last change, and was parked on the way.
    let change = store.last_change_of(JobId(1)).unwrap();
    let parked = vec![
        status::cursor("ops", change),
        status::parked("ops", JobId(1)),
    ];
    store.commit_and_wait(parked).await.unwrap();
    trim(&store, &asked, &board).await.unwrap();
    assert_eq!(counts(&store), [49, 49, 49]);
    let taken = vec![status::unparked("ops", JobId(1))];
    store.commit_and_wait(taken).await.unwrap();
    trim(&store, &asked, &board).await.unwrap();
    assert_eq!(counts(&store), [0, 49, 49]);
}

/// A submission of such a job, with a key.
fn keyed(id: u64, accepted_at: Timestamp, ended: bool) -> Vec<Change> {
    let mut job = Job::accepted(JobId(id), JobSpec::default(), "ada".into(), accepted_at);
    if ended {
        job.state = JobState::Completed;
        job.ended_at = Some(clock::now());
    }
    let asked = RequestKey {
        key: format!("key-{id}"),
        fingerprint: "as it was asked for".to_owned(),
    };
    let key = asked.key.clone();
    vec![
        Change::put(&asked),
        Change::PutRequestKey {
            key,
            job: JobId(id),
        },
        Change::PutJob(Box::new(job)),
    ]
}

#[tokio::test]
async fn a_key_of_a_submission_goes_when_its_job_is_old_and_has_ended_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("trainyard.redb"));
    let now = clock::now();
    let ago = |days| now.minus(days * DAY);
    for (id, accepted_at, ended) in [
        (1, ago(9), true),
        (2, ago(9), false),
        (3, ago(8), true),
        (4, ago(6), true),
        (5, now, false),
    ] {
        let rows = keyed(id, accepted_at, ended);
        store.commit_and_wait(rows).await.unwrap();
    }
    let left = || {
        let known = |id: &u64| {
            let key = format!("key-{id}");
            let job = store.request_key(&key).unwrap();
            let asked = store.document::<RequestKey>(&key).unwrap();
            assert_eq!(job.is_some(), asked.is_some(), "both or none");
            job.is_some()
        };
        (1..=5).filter(known).collect::<Vec<_>>()
    };
    let asked = |keys| Retention {
        keys,
        ..Retention::default()
    };
    trim(&store, &asked(None), &Board::default()).await.unwrap();
    assert_eq!(left(), [1, 2, 3, 4, 5]);
    for _ in 0..2 {
        let week = asked(Some(7 * DAY));
        trim(&store, &week, &Board::default()).await.unwrap();
        assert_eq!(left(), [2, 4, 5]);
    }
    // A key that was given to another job meanwhile is that one's.
    store.commit_and_wait(keyed(6, now, true)).await.unwrap();
    let taken = Change::PutRequestKey {
        key: "key-6".to_owned(),
        job: JobId(5),
    };
    let late = Change::DropRequestKey {
        key: "key-6".to_owned(),
        job: JobId(6),
        document: RequestKey::KIND,
    };
    store.commit_and_wait(vec![taken, late]).await.unwrap();
    assert_eq!(store.request_key("key-6").unwrap(), Some(JobId(5)));
}

#[tokio::test]
async fn a_key_stays_while_its_own_job_is_young_whatever_a_clock_that_was_set_says_of_newer_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("trainyard.redb"));
    let now = clock::now();
    // The clock was set back after the second one.
    for (id, days) in [(1, 9), (2, 0), (3, 8), (4, 8), (5, 8)] {
        let rows = keyed(id, now.minus(days * DAY), true);
        store.commit_and_wait(rows).await.unwrap();
    }
    let asked = Retention {
        keys: Some(7 * DAY),
        ..Retention::default()
    };
    trim(&store, &asked, &Board::default()).await.unwrap();
    for id in 1..=5 {
        let key = store.request_key(&format!("key-{id}")).unwrap();
        assert_eq!(key.is_some(), id == 2, "{id}");
    }
}

#[tokio::test]
async fn a_pass_seals_what_has_ended_and_every_row_stays() {
    let (_folder, store) = world().await;
    let before = store.points(JobId(1), 0, 99).unwrap();
    let mut sealer = Sealer::new(store.clone());
    sealer.pass().await;
    for rows in Rows::ALL {
        assert_eq!(store.sealable(rows, JobId(0)).unwrap(), None);
    }
    assert_eq!(store.points(JobId(1), 0, 99).unwrap(), before);
    assert_eq!(counts(&store), [49, 49, 49]);
}

#[tokio::test]
async fn both_tasks_end_when_they_are_closed_and_give_the_store_back() {
    let (folder, store) = world().await;
    let asked = Retention {
        points: Some(DAY),
        ..Retention::default()
    };
    let keeping = Keeping::start(&store, asked, Board::default());
    keeping.close().await;
    drop(store);
    assert_eq!(
        counts(&open(&folder.path().join("trainyard.redb")))[1..],
        [49, 49]
    );
}

#[tokio::test]
async fn a_damaged_row_of_one_job_keeps_nothing_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("trainyard.redb"));
    for id in 1..=3 {
        let mut rows = keyed(id, Timestamp(1), true);
        let note = Decision::of_job(Timestamp(1), Kind::Placed, JobId(id), "");
        rows.extend([
            job(id, Some(Timestamp(1))),
            points(id),
            Change::Note(vec![note]),
        ]);
        store.commit_and_wait(rows).await.unwrap();
    }
    // The one in the middle: whoever looks by halves meets it first.
    damage_job(&store, JobId(2));
    let asked = Retention {
        points: Some(30 * DAY),
        keys: Some(30 * DAY),
        events: Some(30 * DAY),
        ..Retention::default()
    };
    trim(&store, &asked, &Board::default()).await.unwrap();
    assert_eq!(counts(&store), [0, 49, 0]);
    let key = |id| store.request_key(&format!("key-{id}")).unwrap();
    assert_eq!([key(1), key(3)], [None, None]);
    let left = store.events(&EventsOf::default(), (0, Timestamp(0)), 9);
    assert_eq!(left.unwrap().len(), 1, "the last one stays");
}

#[tokio::test]
async fn what_a_crash_has_left_of_a_removal_goes_though_all_is_small_by_now() {
    let (_folder, store) = world().await;
    for _ in 0..600 {
        store
            .commit(vec![points(2)], Box::new(|_| {}))
            .await
            .unwrap();
    }
    let line = Some(line(Rows::Points, Why::Size(1), false));
    let begun = Trimming {
        job: JobId(2),
        rows: Rows::Points,
        attempt: AttemptNo(1),
        line,
    };
    let begun = vec![Change::Trim(Box::new(begun))];
    store.commit_and_wait(begun).await.unwrap();
    assert_ne!(counts(&store)[1], 0, "it was cut off");
    let asked = Retention {
        bytes: Some(u64::MAX),
        ..Retention::default()
    };
    trim(&store, &asked, &Board::default()).await.unwrap();
    assert_eq!(counts(&store), [49, 0, 49]);
    assert_eq!(lines_of(&store, 2).len(), 1);
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_of_what_is_stored_removes_nothing_by_age() {
    let (folder, store) = world().await;
    let note = Decision::of_job(clock::now(), Kind::Placed, JobId(3), "");
    let noted = vec![Change::Note(vec![note])];
    store.commit_and_wait(noted).await.unwrap();
    drop(store);
    let store = open(&folder.path().join("trainyard.redb"));
    let asked = Retention {
        points: Some(30 * DAY),
        keys: Some(DAY),
        bytes: Some(u64::MAX),
        ..Retention::default()
    };
    let mut right = Belief::from(known(&store), clock::now());
    assert_eq!(believed(&store, &asked, &mut right).await, asked);
    clock::ahead::pass(900 * DAY);
    let mut wrong = Belief::from(known(&store), clock::now());
    let going = believed(&store, &asked, &mut wrong).await;
    assert_eq!((going.points, going.keys), (None, None));
    assert_eq!(going.bytes, asked.bytes);
    trim(&store, &going, &Board::default()).await.unwrap();
    assert_eq!(counts(&store), [49, 49, 49]);
    // It goes on as clocks do: so it is late, and the coordinator was stopped for long.
    for _ in 0..60 {
        clock::ahead::pass(LOOK_EVERY);
        wrong.look(clock::now());
    }
    assert_eq!(believed(&store, &asked, &mut wrong).await, asked);
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_is_not_believed_by_the_next_start_for_what_it_has_stored_itself()
 {
    let (folder, store) = world().await;
    let path = folder.path().join("trainyard.redb");
    let asked = Retention {
        points: Some(30 * DAY),
        bytes: Some(u64::MAX),
        ..Retention::default()
    };
    let note = || async {
        let note = Decision::of_job(clock::now(), Kind::Placed, JobId(3), "");
        let store = open(&path);
        let noted = vec![Change::Note(vec![note])];
        store.commit_and_wait(noted).await.unwrap();
    };
    let begins = || async {
        let store = open(&path);
        let mut clock = Belief::from(known(&store), clock::now());
        believed(&store, &asked, &mut clock).await
    };
    drop(store);
    note().await;
    assert_eq!(begins().await, asked);
    clock::ahead::pass(900 * DAY);
    for _ in 0..2 {
        assert_eq!(begins().await, asked.by_size());
        note().await;
    }
    // It is set right, and goes on from where it was believed.
    clock::ahead::back(900 * DAY);
    clock::ahead::pass(DAY / 2);
    assert_eq!(begins().await, asked);
}
