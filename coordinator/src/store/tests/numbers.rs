//! Numbers of jobs: none is given twice, whatever became of the row of the job that had it. And how long it is kept up to
//! where records are stored.

use super::{
    care::{behind, problems},
    *,
};
use crate::store::{
    care::Care,
    numbers::{self, NEAR, count},
    tables::{CHANGED, CHANGED_OF, COUNTERS, CURSORS, JOBS, LAST_JOB},
};

/// A closed store with three jobs, of which the last has said something.
async fn three() -> (TempDir, std::path::PathBuf) {
    let (folder, store) = fresh();
    for id in 1..=3 {
        store.commit_and_wait(put(job(id))).await.unwrap();
    }
    store.commit_and_wait(vec![log(3, "x")]).await.unwrap();
    drop(store);
    let path = folder.path().join("trainyard.redb");
    (folder, path)
}

fn last_job(path: &Path) -> u64 {
    open_at(path).last_job().unwrap().0
}

fn mend(path: &Path, aside: &Path) {
    let mut care = Care::open(path, true).unwrap();
    assert!(care.mend(aside).unwrap().set_aside > 0);
}

#[tokio::test]
async fn the_number_of_a_job_that_mending_takes_out_is_not_given_again() {
    let (folder, path) = three().await;
    behind(&path, |txn| {
        let mut jobs = txn.open_table(JOBS).unwrap();
        jobs.insert(3, &[0u8; 20][..]).unwrap();
    });
    mend(&path, &folder.path().join("first"));
    assert_eq!(problems(&path), Vec::<String>::new());
    assert_eq!(open_at(&path).highest_job().unwrap(), JobId(2));
    assert_eq!(last_job(&path), 3);
    // Where no number was noted, and nothing else is left of it.
    behind(&path, |txn| {
        let mut counters = txn.open_table(COUNTERS).unwrap();
        counters.remove(LAST_JOB.as_bytes()).unwrap();
        let mut jobs = txn.open_table(JOBS).unwrap();
        jobs.insert(7, &[0u8; 20][..]).unwrap();
    });
    mend(&path, &folder.path().join("second"));
    assert_eq!(last_job(&path), 7);
}

fn ended(id: u64) -> Job {
    let mut ended = job(id);
    ended.state = JobState::Completed;
    ended
}

#[tokio::test]
async fn a_number_that_was_given_is_known_though_nothing_is_left_of_its_job() {
    let (_folder, path) = three().await;
    let store = open_at(&path);
    store.commit_and_wait(put(ended(3))).await.unwrap();
    drop(store);
    behind(&path, |txn| {
        txn.open_table(JOBS).unwrap().remove(3).unwrap();
        txn.open_table(CHANGED_OF).unwrap().remove(3).unwrap();
        let mut changed = txn.open_table(CHANGED).unwrap();
        changed.retain(|_, job| job != 3).unwrap();
    });
    assert_eq!(last_job(&path), 3);
}

/// Up to where records of these jobs are stored: of two ranks of each.
fn stored(jobs: &[u64]) -> Vec<Change> {
    let of = |job: &u64, rank| Change::PutCursor {
        task: TaskKey {
            job: JobId(*job),
            attempt: A1,
            rank: Rank(rank),
        },
        seq: 9,
    };
    let both = jobs.iter().map(|job| [of(job, 0), of(job, 1)]);
    both.flatten().collect()
}

fn with_cursors(store: &Store) -> Vec<u64> {
    let has = |job: &u64| !store.cursors(JobId(*job)).unwrap().is_empty();
    (1..=3).filter(has).collect()
}

#[tokio::test]
async fn up_to_where_records_are_stored_is_forgotten_when_their_job_ends() {
    let (_folder, path) = three().await;
    let store = open_at(&path);
    store.commit_and_wait(stored(&[1, 2, 3])).await.unwrap();
    assert_eq!(with_cursors(&store), [1, 2, 3]);
    store.commit_and_wait(put(ended(2))).await.unwrap();
    assert_eq!(with_cursors(&store), [1, 3]);
    // The last records and the end of a job are one commit.
    let last = [stored(&[1]), put(ended(1))].concat();
    store.commit_and_wait(last).await.unwrap();
    assert_eq!(with_cursors(&store), [3]);
    drop(store);
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[tokio::test]
async fn a_start_forgets_up_to_where_records_of_jobs_were_stored_that_ended_before_that_was_done() {
    let (_folder, path) = three().await;
    let store = open_at(&path);
    store.commit_and_wait(put(ended(2))).await.unwrap();
    drop(store);
    behind(&path, |txn| {
        let mut cursors = txn.open_table(CURSORS).unwrap();
        for key in [(1, 1, 0), (2, 1, 0), (2, 1, 1), (2, 4, 0), (3, 1, 0)] {
            let row = numbers::seal::<numbers::Cursor>(&key, 9);
            cursors.insert(key, row).unwrap();
        }
    });
    assert_eq!(with_cursors(&open_at(&path)), [1, 3]);
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[tokio::test]
async fn mending_a_store_that_has_not_noted_its_numbers_finds_them_and_believes_no_row_of_a_number_far_ahead()
 {
    let (folder, path) = three().await;
    behind(&path, |txn| {
        let mut counters = txn.open_table(COUNTERS).unwrap();
        counters.remove(LAST_JOB.as_bytes()).unwrap();
        let mut jobs = txn.open_table(JOBS).unwrap();
        // One is gone without a row, another one is damaged, and of one the number itself.
        jobs.remove(3).unwrap();
        jobs.insert(2, &[0u8; 20][..]).unwrap();
        jobs.insert(NEAR + 9, &[0u8; 20][..]).unwrap();
        let mut changed = txn.open_table(CHANGED_OF).unwrap();
        changed.remove(3).unwrap();
    });
    mend(&path, &folder.path().join("aside"));
    assert_eq!(last_job(&path), 3, "its line named it");
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[tokio::test]
async fn a_store_of_a_program_that_noted_no_number_of_jobs_opens_as_before() {
    let (_folder, path) = three().await;
    behind(&path, |txn| {
        let mut counters = txn.open_table(COUNTERS).unwrap();
        counters.remove(LAST_JOB.as_bytes()).unwrap();
    });
    assert_eq!(problems(&path), Vec::<String>::new());
    assert_eq!(last_job(&path), 3);
    // Such a program may have written on it since: the rows count where they say more.
    let store = open_at(&path);
    store.commit_and_wait(put(job(5))).await.unwrap();
    behind_numbers(&store, 4);
    assert_eq!(store.last_job().unwrap(), JobId(5));
}

fn behind_numbers(store: &Store, number: u64) {
    let txn = store.inner.shared.db.begin_write().unwrap();
    let mut counters = txn.open_table(COUNTERS).unwrap();
    count(&mut counters, LAST_JOB, number).unwrap();
    drop(counters);
    txn.commit().unwrap();
}
