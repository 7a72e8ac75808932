//! Numbers of jobs: none is given twice, whatever became of the row of the job that had it.

use super::{
    care::{behind, problems},
    *,
};
use crate::store::{
    care::Care,
    numbers::{NEAR, count},
    tables::{CHANGED_OF, COUNTERS, JOBS, LAST_JOB},
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
