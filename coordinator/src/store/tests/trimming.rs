//! What has been kept for long enough is taken out, of jobs that have ended alone.

use super::*;
use crate::store::care::Care;

fn trimming(job: u64, rows: Rows) -> Trimming {
    Trimming {
        job: JobId(job),
        rows,
        attempt: A1,
        line: Some(LogLine {
            at: Timestamp(9),
            stream: LogStream::System,
            level: "INFO".into(),
            text: format!("{rows:?} are gone"),
        }),
    }
}

fn texts(store: &Store, job: u64) -> Vec<String> {
    let lines = store.logs(JobId(job), 0, 9_999).unwrap();
    lines.into_iter().map(|row| row.line.text).collect()
}

async fn with_rows() -> (TempDir, Store) {
    let (folder, store) = fresh();
    for id in [1, 2] {
        store.commit_and_wait(put(job(id))).await.unwrap();
        let rows = vec![
            points(id, 0..40),
            log(id, "one"),
            points(id, 40..50),
            log(id, "two"),
        ];
        store.commit_and_wait(rows).await.unwrap();
    }
    (folder, store)
}

async fn end(store: &Store, id: u64) {
    let mut ended = job(id);
    ended.state = JobState::Failed;
    ended.ended_at = Some(Timestamp(7));
    store.commit_and_wait(put(ended)).await.unwrap();
}

async fn seal(store: &Store, id: u64) {
    for rows in Rows::ALL {
        while let Some(change) = store.sealing(rows, JobId(id)).unwrap() {
            store.commit_and_wait(vec![change]).await.unwrap();
        }
    }
}

fn assert_sound(folder: &TempDir) {
    let report = Care::open(folder.path(), true).unwrap().check().unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
}

#[tokio::test]
async fn rows_of_an_open_job_are_never_touched() {
    let (folder, store) = with_rows().await;
    for rows in Rows::ALL {
        assert!(!store.trim(trimming(1, rows)).await.unwrap());
        // Also when whoever asks does not know yet that it is open again.
        let change = Change::Trim(Box::new(trimming(1, rows)));
        store.commit_and_wait(vec![change]).await.unwrap();
    }
    assert_eq!(store.count_points(JobId(1)).unwrap(), 50);
    assert_eq!(texts(&store, 1), ["one", "two"]);
    assert_eq!(store.holdings().unwrap().1, []);
    drop(store);
    assert_sound(&folder);
}

#[tokio::test]
async fn what_is_gone_is_told_in_the_log_and_the_rest_is_answered_as_before() {
    let (folder, store) = with_rows().await;
    end(&store, 1).await;
    seal(&store, 1).await;
    let (total, held) = store.holdings().unwrap();
    assert_eq!((held[0].job, held[0].ended_at), (JobId(1), Timestamp(7)));
    assert!(
        held[0].points + held[0].lines < total,
        "the other job has some, too"
    );

    assert!(store.trim(trimming(1, Rows::Lines)).await.unwrap());
    assert_eq!(texts(&store, 1), ["Lines are gone"]);
    assert_eq!(
        store.count_points(JobId(1)).unwrap(),
        50,
        "points have their own time"
    );
    assert!(store.trim(trimming(1, Rows::Points)).await.unwrap());
    assert_eq!(store.points(JobId(1), 3, 9).unwrap(), []);
    assert_eq!(store.count_points_after(JobId(1), 3).unwrap(), 0);
    // What says so stays, and is no reason to begin anew.
    let told = ["Lines are gone", "Points are gone"];
    seal(&store, 1).await;
    for rows in Rows::ALL {
        assert!(!store.trim(trimming(1, rows)).await.unwrap());
    }
    assert_eq!(texts(&store, 1), told);
    assert_eq!(store.holdings().unwrap().1, []);
    // A reader that knows a line of before goes on behind it.
    let behind = store.logs(JobId(1), 3, 9).unwrap();
    assert_eq!(behind.len(), 2);
    assert_eq!(store.count_points(JobId(2)).unwrap(), 50);
    assert_eq!(texts(&store, 2), ["one", "two"]);
    drop(store);
    assert_sound(&folder);
}

#[tokio::test]
async fn many_chunks_go_in_bounded_commits_and_a_job_that_runs_again_keeps_its_new_rows() {
    let (folder, store) = fresh();
    store.commit_and_wait(put(job(1))).await.unwrap();
    for epoch in 0..1_100 {
        store
            .try_commit(vec![points(1, epoch..epoch + 1)], Box::new(|_| {}))
            .unwrap();
    }
    end(&store, 1).await;
    let change = || vec![Change::Trim(Box::new(trimming(1, Rows::Points)))];
    store.commit_and_wait(change()).await.unwrap();
    assert_eq!(store.count_points(JobId(1)).unwrap(), 1_100 - 512);
    // It runs again before the rest is gone: nothing goes meanwhile, and no block holds old and new rows.
    store.commit_and_wait(put(job(1))).await.unwrap();
    store.commit_and_wait(vec![points(1, 7..10)]).await.unwrap();
    store.commit_and_wait(change()).await.unwrap();
    assert_eq!(store.count_points(JobId(1)).unwrap(), 1_100 - 512 + 3);
    seal(&store, 1).await;
    end(&store, 1).await;
    let one = |count| {
        let store = store.clone();
        async move {
            store.commit_and_wait(change()).await.unwrap();
            assert_eq!(store.count_points(JobId(1)).unwrap(), count);
        }
    };
    one(3).await;
    assert_eq!(store.points(JobId(1), 0, 9).unwrap().len(), 3);
    // Asked once more, they go as well, and that is told anew.
    assert!(store.trim(trimming(1, Rows::Points)).await.unwrap());
    assert_eq!(texts(&store, 1), ["Points are gone", "Points are gone"]);
    drop(store);
    assert_sound(&folder);
}

#[tokio::test]
async fn a_block_that_cannot_be_read_stays_and_ends_nobody_when_its_job_is_trimmed() {
    let (_folder, store) = with_rows().await;
    end(&store, 1).await;
    assert!(store.trim(trimming(1, Rows::Lines)).await.unwrap());
    seal(&store, 1).await;
    let txn = store.inner.shared.db.begin_write().unwrap();
    {
        let index = txn.open_table(tables::LOGS.by_job).unwrap();
        let told = index.range((1, 0)..(2, 0)).unwrap().next_back();
        let (_, first) = told.unwrap().unwrap().0.value();
        let mut blocks = txn.open_table(tables::LOGS.chunks).unwrap();
        blocks.insert(first, b"nothing".as_slice()).unwrap();
    }
    txn.commit().unwrap();
    let change = Change::Trim(Box::new(trimming(1, Rows::Lines)));
    store.commit_and_wait(vec![change]).await.unwrap();
    assert!(!store.trim(trimming(1, Rows::Lines)).await.unwrap());
    assert_eq!(store.holdings().unwrap().1.len(), 1, "its points");
    assert!(store.trim(trimming(1, Rows::Points)).await.unwrap());
    assert_eq!(store.count_points(JobId(1)).unwrap(), 0);
}

#[tokio::test]
async fn what_was_begun_before_a_crash_is_finished_and_no_more_goes_by_it() {
    let (folder, store) = fresh();
    for id in [1, 2] {
        store.commit_and_wait(put(job(id))).await.unwrap();
    }
    for epoch in 0..600 {
        store
            .try_commit(vec![points(1, epoch..epoch + 1)], Box::new(|_| {}))
            .unwrap();
    }
    store.commit_and_wait(vec![points(2, 0..9)]).await.unwrap();
    end(&store, 1).await;
    end(&store, 2).await;
    assert_eq!(store.trims_begun().unwrap(), []);
    let change = Change::Trim(Box::new(trimming(1, Rows::Points)));
    store.commit_and_wait(vec![change]).await.unwrap();
    drop(store);

    let store = open_at(&folder.path().join("trainyard.redb"));
    assert_eq!(store.count_points(JobId(1)).unwrap(), 600 - 512);
    assert_eq!(store.trims_begun().unwrap(), [(JobId(1), Rows::Points)]);
    // It ran again since, and is not touched meanwhile; what it has told then stays.
    store.commit_and_wait(put(job(1))).await.unwrap();
    assert_eq!(store.trims_begun().unwrap(), []);
    store.commit_and_wait(vec![points(1, 7..10)]).await.unwrap();
    end(&store, 1).await;
    let rest = |id| Trimming {
        line: None,
        ..trimming(id, Rows::Points)
    };
    assert!(store.trim(rest(1)).await.unwrap());
    assert!(!store.trim(rest(2)).await.unwrap(), "nothing was begun");
    assert_eq!(store.trims_begun().unwrap(), []);
    let left = [1, 2].map(|id| store.count_points(JobId(id)).unwrap());
    assert_eq!(left, [3, 9]);
    assert_eq!(texts(&store, 1), ["Points are gone"]);
    drop(store);
    assert_sound(&folder);
}
