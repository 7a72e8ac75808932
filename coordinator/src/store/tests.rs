//! The store against real files: what is accepted stays, what is damaged is said.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{ReadableTable as _, StorageBackend, backends::InMemoryBackend};
use tempfile::TempDir;
use trainyard_core::{
    ids::{AttemptNo, NodeName, Rank, TaskKey},
    job::{Job, JobState},
    record::{LogLine, LogStream, Progress},
    resources::Capacity,
    spec::JobSpec,
    time::Timestamp,
};

use super::*;

mod blocks;
mod care;
mod damage;
mod digests;
mod disks;
mod events;
mod forms;
mod numbers;
mod older;
mod opening;
mod reading;
mod sizes;
mod trimming;

const A1: AttemptNo = AttemptNo(1);

fn no_fatal() -> Fatal {
    Box::new(|error| panic!("{error}"))
}

fn open_at(path: &Path) -> Store {
    Store::open(StoreOptions::new(path), no_fatal()).unwrap()
}

fn fresh() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = open_at(&folder.path().join("trainyard.redb"));
    (folder, store)
}

fn job(id: u64) -> Job {
    Job::accepted(JobId(id), JobSpec::default(), "ada".into(), Timestamp(1))
}

fn put(job: Job) -> Vec<Change> {
    vec![Change::PutJob(Box::new(job))]
}

fn progress(epoch: u32) -> Progress {
    Progress {
        at: Timestamp(5),
        epoch,
        total_epochs: 9,
        step: None,
        values: BTreeMap::from([("loss".to_owned(), 0.5)]),
        has_metrics: true,
        checkpoint: None,
        best_checkpoint: None,
    }
}

fn points(job: u64, epochs: std::ops::Range<u32>) -> Change {
    Change::AppendPoints {
        task: trainyard_core::ids::TaskKey {
            job: JobId(job),
            attempt: A1,
            rank: trainyard_core::ids::Rank(0),
        },
        points: epochs.map(progress).collect(),
    }
}

fn log(job: u64, text: &str) -> Change {
    Change::AppendLogs {
        task: trainyard_core::ids::TaskKey {
            job: JobId(job),
            attempt: A1,
            rank: trainyard_core::ids::Rank(0),
        },
        lines: vec![LogLine {
            at: Timestamp(1),
            stream: LogStream::Stdout,
            level: String::new(),
            text: text.to_owned(),
        }],
    }
}

fn ids(points: &[StoredPoint]) -> Vec<u64> {
    points.iter().map(|point| point.id).collect()
}

#[tokio::test]
async fn an_accepted_write_is_in_a_copy_of_the_file_taken_without_closing_it() {
    let (folder, store) = fresh();
    store.commit_and_wait(put(job(1))).await.unwrap();
    store.commit_and_wait(vec![log(1, "hello")]).await.unwrap();
    let copy = folder.path().join("copy.redb");
    fs::copy(folder.path().join("trainyard.redb"), &copy).unwrap();
    let copied = open_at(&copy);
    assert_eq!(copied.job(JobId(1)).unwrap(), Some(job(1)));
    assert_eq!(copied.logs(JobId(1), 0, 9).unwrap()[0].line.text, "hello");
    assert_eq!(copied.instance(), store.instance());
}

#[tokio::test]
async fn writes_that_wait_together_share_a_commit() {
    let (_folder, store) = fresh();
    let writes = (1..=400).map(|id| store.commit_and_wait(put(job(id))));
    let all = futures::future::join_all(writes).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(store.highest_job().unwrap(), JobId(400));
    assert!(store.commits() < 200, "{} commits", store.commits());
}

#[tokio::test]
async fn jobs_that_have_not_ended_are_counted_by_state() {
    let (_folder, store) = fresh();
    for id in 1..=3 {
        store.commit_and_wait(put(job(id))).await.unwrap();
    }
    let mut running = job(2);
    running.state = JobState::Running;
    store.commit_and_wait(put(running)).await.unwrap();
    let mut ended = job(3);
    ended.state = JobState::Failed;
    store.commit_and_wait(put(ended)).await.unwrap();
    assert_eq!(
        (store.open_jobs_known(), store.count_open().unwrap()),
        (2, 2)
    );
    let counts = store.count_states().unwrap();
    let some: Vec<_> = counts.iter().filter(|(_, count)| *count > 0).collect();
    let expected = [(job(1).state, 1), (JobState::Running, 1)];
    assert_eq!(some, expected.iter().collect::<Vec<_>>());
    assert!(counts.iter().all(|(state, _)| !state.is_terminal()));
    let path = store.inner.shared.path.clone();
    drop(store);
    assert_eq!(open_at(&path).open_jobs_known(), 2);
}

#[test]
fn what_a_job_has_not_takes_no_room_and_reads_as_before() {
    let place = codec::Place {
        table: "jobs",
        key: &1,
    };
    let row = codec::job_to_json(place, job(1)).unwrap();
    // Its checksum goes before it.
    let text = String::from_utf8_lossy(row.get(4..).unwrap());
    assert!(!text.contains("null"), "{text}");
    assert_eq!(codec::job_from_json(place, &row).unwrap(), job(1));
    let named = r#""snapshot_id":null,"outcome":null,"state":"#;
    let older = text.replacen(r#""state":"#, named, 1);
    let older = codec::seal(older.as_bytes());
    assert_eq!(codec::job_from_json(place, &older).unwrap(), job(1));
}

#[tokio::test]
async fn jobs_are_listed_newest_first_and_a_terminal_one_is_not_open() {
    let (_folder, store) = fresh();
    for id in 1..=5 {
        store.commit_and_wait(put(job(id))).await.unwrap();
    }
    let mut ended = job(2);
    ended.state = JobState::Completed;
    store.commit_and_wait(put(ended.clone())).await.unwrap();
    let numbers = |jobs: Vec<Job>| jobs.iter().map(|job| job.id.0).collect::<Vec<_>>();
    assert_eq!(numbers(store.open_jobs().unwrap()), [1, 3, 4, 5]);
    let within = |rows, bytes, looks| Bounds { rows, bytes, looks };
    let found = store.jobs(None, within(2, 1 << 20, 9), |_| true).unwrap();
    assert_eq!(
        (numbers(found.jobs), found.next),
        (vec![5, 4], Some(JobId(4)))
    );
    let plenty = within(9, 1 << 20, 9);
    let found = store.jobs(Some(JobId(4)), plenty, |job| job.id != JobId(1));
    let found = found.unwrap();
    assert_eq!((numbers(found.jobs), found.next), (vec![3, 2], None));
    // One is given however large it is; nothing is wanted, and the list says where it stopped looking.
    let found = store.jobs(None, within(9, 1, 9), |_| true).unwrap();
    assert_eq!((numbers(found.jobs), found.next), (vec![5], Some(JobId(5))));
    for found in [
        store.jobs(None, within(9, 1 << 20, 3), |_| false).unwrap(),
        store
            .jobs_open(None, within(9, 1 << 20, 3), |_| false)
            .unwrap(),
    ] {
        assert_eq!((numbers(found.jobs), found.next), (vec![], Some(JobId(3))));
    }
    ended.state = JobState::Queued;
    store.commit_and_wait(put(ended)).await.unwrap();
    assert_eq!(numbers(store.open_jobs().unwrap()), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn nodes_and_users_are_read_back_and_an_old_address_finds_nobody() {
    let (_folder, store) = fresh();
    let node = NodeRow {
        name: NodeName("n1".into()),
        capacity: Capacity::default(),
        labels: BTreeMap::new(),
        set_labels: BTreeMap::new(),
        agent_version: "1".into(),
        agent_id: "a".into(),
        registered_at: Timestamp(1),
        seen_at: Timestamp(2),
        drained: None,
        deadline: None,
        ordered_by: String::new(),
        address: String::new(),
        revoked: false,
    };
    let mut user = UserRow {
        id: 1,
        email: "old@x".into(),
        password_hash: "h".into(),
        full_name: String::new(),
        role: "admin".into(),
        active: true,
        created_at: Timestamp(1),
        ..UserRow::default()
    };
    let old = Change::PutUser(user.clone());
    user.email = "new@x".into();
    let new = Change::PutUser(user.clone());
    assert_eq!(store.next_user().unwrap(), 1);
    let changes = vec![Change::PutNode(node.clone()), old, new];
    store.commit_and_wait(changes).await.unwrap();
    assert_eq!(store.user_by_email("old@x").unwrap(), None);
    assert_eq!(store.user_by_email("new@x").unwrap(), Some(user.clone()));
    assert_eq!(store.user(1).unwrap(), Some(user));
    assert_eq!(store.next_user().unwrap(), 2);
    assert_eq!(store.users().unwrap().len(), 1);
    assert_eq!(store.nodes().unwrap().first(), Some(&node));
    let removed = vec![Change::RemoveNode(node.name)];
    store.commit_and_wait(removed).await.unwrap();
    assert_eq!(store.nodes().unwrap(), []);
}

#[tokio::test]
async fn the_small_tables_give_back_what_was_put() {
    let (_folder, store) = fresh();
    let job = JobId(3);
    let task = TaskKey {
        job,
        attempt: A1,
        rank: Rank(0),
    };
    let changes = vec![
        Change::PutMeta {
            key: "k".into(),
            value: "v".into(),
        },
        Change::PutRequestKey {
            key: "r".into(),
            job,
        },
        Change::PutCursor { task, seq: 8 },
        Change::PutValidation {
            job,
            epoch: 2,
            body: "{}".into(),
        },
    ];
    store.commit_and_wait(changes).await.unwrap();
    assert_eq!(store.meta("k").unwrap().as_deref(), Some("v"));
    assert_eq!(store.request_key("r").unwrap(), Some(job));
    assert_eq!(store.cursors(job).unwrap(), [(task, 8)]);
    assert_eq!(store.validations(job).unwrap(), [(2, "{}".to_owned())]);
}

#[tokio::test]
async fn a_changed_byte_is_reported_with_its_table_and_key() {
    let (_folder, store) = fresh();
    store.commit_and_wait(put(job(7))).await.unwrap();
    {
        let txn = store.inner.shared.db.begin_write().unwrap();
        let mut table = txn.open_table(tables::JOBS).unwrap();
        let mut bytes = {
            let guard = table.get(7).unwrap().unwrap();
            guard.value().to_vec()
        };
        bytes[20] ^= 1;
        table.insert(7, bytes.as_slice()).unwrap();
        drop(table);
        txn.commit().unwrap();
    }
    let error = store.job(JobId(7)).unwrap_err().to_string();
    assert!(
        error.starts_with("the checksum of row 7 of table jobs is wrong"),
        "{error}"
    );
}

#[tokio::test]
async fn a_watch_moves_after_a_commit_of_its_job_and_goes_with_its_watcher() {
    let (_folder, store) = fresh();
    let mut watched = store.changes(JobId(1));
    store.commit_and_wait(put(job(2))).await.unwrap();
    assert!(!watched.has_changed().unwrap());
    store.commit_and_wait(vec![log(1, "x")]).await.unwrap();
    watched.changed().await.unwrap();
    drop(watched);
    store.commit_and_wait(put(job(1))).await.unwrap();
    assert_eq!(store.inner.shared.watches.len(), 0);
    for id in 0..1_000 {
        drop(store.changes(JobId(id)));
    }
    assert!(store.inner.shared.watches.len() <= 64);
}

#[tokio::test]
async fn each_changed_job_is_listed_once_by_its_last_change_also_after_opening_again() {
    let (folder, store) = fresh();
    let mut heard = store.all_changes();
    store.commit_and_wait(put(job(1))).await.unwrap();
    store.commit_and_wait(put(job(2))).await.unwrap();
    assert_eq!(
        store.changed_jobs(0, 9).unwrap(),
        [(1, JobId(1)), (2, JobId(2))]
    );
    store.commit_and_wait(vec![points(1, 1..3)]).await.unwrap();
    store.commit_and_wait(vec![log(2, "x")]).await.unwrap();
    heard.changed().await.unwrap();
    drop(store);
    let store = open_at(&folder.path().join("trainyard.redb"));
    let all = store.changed_jobs(0, 9).unwrap();
    assert_eq!(all, [(2, JobId(2)), (3, JobId(1))]);
    assert_eq!(store.changed_jobs(2, 9).unwrap(), [(3, JobId(1))]);
    assert_eq!(store.changed_jobs(0, 1).unwrap(), [(2, JobId(2))]);
    assert_eq!(store.last_change().unwrap(), 3);
    let mut both = put(job(1));
    both.extend(put(job(2)));
    store.commit_and_wait(both).await.unwrap();
    let all = store.changed_jobs(3, 9).unwrap();
    assert_eq!(all, [(4, JobId(1)), (5, JobId(2))]);
}

/// A disk in memory that can be filled.
#[derive(Debug)]
struct Disk(InMemoryBackend, Arc<AtomicBool>);

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.1.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write(offset, data)
    }
}

#[tokio::test]
async fn a_full_disk_calls_fatal_once_and_answers_nobody_with_success() {
    let full = Arc::new(AtomicBool::new(false));
    let disk = Disk(InMemoryBackend::new(), Arc::clone(&full));
    let db = Database::builder().create_with_backend(disk).unwrap();
    let options = StoreOptions::new("/data/trainyard.redb");
    let opened = open::prepare(db, &options.path).unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&seen);
    let fatal: Fatal = Box::new(move |error| heard.lock().unwrap().push(error.to_string()));
    let store = Store::start(opened, options, fatal).unwrap();
    store.commit_and_wait(put(job(1))).await.unwrap();
    full.store(true, Ordering::SeqCst);
    let refused = store.commit_and_wait(put(job(2))).await;
    assert_eq!(refused, Err(StoreError::Stopped));
    let again = store.commit_and_wait(put(job(3))).await;
    assert_eq!(again, Err(StoreError::Stopped));
    drop(store);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].contains("/data/trainyard.redb is full"), "{seen:?}");
    assert!(seen[0].contains("free some space"), "{seen:?}");
}
