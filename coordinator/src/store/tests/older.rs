//! A file that an older version wrote becomes one of this version.

use redb::{Database, Key, TableDefinition, Value, WriteTransaction};
use serde::Serialize;
use trainyard_core::job::Event;

use super::{
    disks::{Short, quiet},
    *,
};
use crate::store::care::Care;

#[derive(Serialize)]
struct Chunk<T> {
    attempt: AttemptNo,
    rows: Vec<T>,
}

fn sealed(body: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(body).to_le_bytes();
    [&crc[..], body].concat()
}

fn table<K: Key + 'static, V: Value + 'static>(txn: &WriteTransaction, name: &str) {
    txn.open_table(TableDefinition::<'_, K, V>::new(name))
        .unwrap();
}

/// The tables of version 1 but those of points and lines.
fn tables_of_version_1(txn: &WriteTransaction) {
    table::<u64, &[u8]>(txn, "users");
    table::<&[u8], &[u8]>(txn, "nodes");
    table::<&[u8], u64>(txn, "users_by_email");
    table::<&[u8], u64>(txn, "request_keys");
    table::<u64, u64>(txn, "changed");
    table::<u64, u64>(txn, "changed_of");
    table::<(u64, u32), &[u8]>(txn, "validations");
    let cursors: TableDefinition<'_, (u64, u32, u32), u64> = TableDefinition::new("cursors");
    let mut cursors = txn.open_table(cursors).unwrap();
    cursors.insert((2, 1, 0), 7).unwrap();
    table::<(&str, &str), &[u8]>(txn, "documents");
}

/// Appends as version 1 did.
fn append<T: Serialize>(
    txn: &WriteTransaction,
    name: &str,
    (job, first, rows): (u64, u64, Vec<T>),
) {
    let count = u32::try_from(rows.len()).unwrap();
    let body = postcard::to_extend(&Chunk { attempt: A1, rows }, vec![1]).unwrap();
    let chunks: TableDefinition<'_, u64, &[u8]> = TableDefinition::new(name);
    let mut chunks = txn.open_table(chunks).unwrap();
    chunks.insert(first, sealed(&body).as_slice()).unwrap();
    let by_job = format!("{name}_by_job");
    let by_job: TableDefinition<'_, (u64, u64), u32> = TableDefinition::new(&by_job);
    let mut by_job = txn.open_table(by_job).unwrap();
    by_job.insert((job, first), count).unwrap();
    let counters: TableDefinition<'_, &[u8], u64> = TableDefinition::new("counters");
    let mut counters = txn.open_table(counters).unwrap();
    counters
        .insert(name.as_bytes(), first + u64::from(count))
        .unwrap();
}

/// Job 1 has ended, job 2 is open.
fn jobs_of_version_1(txn: &WriteTransaction) {
    let jobs: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
    let mut jobs = txn.open_table(jobs).unwrap();
    let mut ended = job(1);
    ended.state = JobState::Completed;
    for job in [ended, job(2)] {
        let row = serde_json::to_vec(&serde_json::json!({"job": job})).unwrap();
        jobs.insert(job.id.0, sealed(&row).as_slice()).unwrap();
    }
    let open: TableDefinition<'_, u64, ()> = TableDefinition::new("open_jobs");
    txn.open_table(open).unwrap().insert(2, ()).unwrap();
}

/// A store as version 1 wrote it: its tables, its chunks, its codec. It never changes.
fn version_1(path: &Path) {
    let db = Database::create(path).unwrap();
    let txn = db.begin_write().unwrap();
    tables_of_version_1(&txn);
    jobs_of_version_1(&txn);
    {
        let meta: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
        let mut meta = txn.open_table(meta).unwrap();
        for (key, value) in [("store.schema", "1"), ("store.instance", "abc")] {
            let value = sealed(value.as_bytes());
            meta.insert(key.as_bytes(), value.as_slice()).unwrap();
        }
    }
    append(&txn, "points", (1, 1, (0..40).map(progress).collect()));
    append(&txn, "points", (2, 41, vec![progress(1)]));
    append(&txn, "points", (1, 42, (40..50).map(progress).collect()));
    let line = |text: &str| LogLine {
        at: Timestamp(1),
        stream: LogStream::Stdout,
        level: String::new(),
        text: text.to_owned(),
    };
    append(&txn, "logs", (1, 1, vec![line("first"), line("second")]));
    append(&txn, "logs", (1, 3, vec![line("third")]));
    txn.commit().unwrap();
}

fn rows(store: &Store) -> (Vec<StoredPoint>, Vec<StoredPoint>, Vec<String>) {
    let points = |job| store.points(JobId(job), 0, 99).unwrap();
    let lines = store.logs(JobId(1), 0, 99).unwrap();
    let texts = lines.into_iter().map(|row| row.line.text).collect();
    (points(1), points(2), texts)
}

#[tokio::test]
async fn a_store_of_version_1_has_the_same_rows_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    version_1(&path);
    // Looked at without being changed; and it is sound.
    let report = Care::open(&path, true).unwrap().check().unwrap();
    assert_eq!(
        (report.schema, report.problem_count),
        (1, 0),
        "{:?}",
        report.problems
    );

    let store = open_at(&path);
    assert_eq!(store.instance(), "abc");
    let before = rows(&store);
    let (first, second, lines) = &before;
    let found = ids(first);
    assert_eq!(found, (1..41).chain(42..52).collect::<Vec<_>>());
    assert_eq!((ids(second), lines.len()), (vec![41], 3));
    assert_eq!(first[49].progress, progress(49));
    for kind in Rows::ALL {
        assert_eq!(
            store.sealable(kind, JobId(0)).unwrap(),
            Some(JobId(1)),
            "{kind:?}"
        );
        let change = store.sealing(kind, JobId(1)).unwrap().unwrap();
        store.commit_and_wait(vec![change]).await.unwrap();
    }
    assert_eq!(rows(&store), before);
    let more = store.commit_and_wait(vec![points(2, 2..3)]).await.unwrap();
    assert_eq!(more.first_rows, [52]);
    drop(store);
    let report = Care::open(&path, true).unwrap().check().unwrap();
    assert_eq!(
        (report.schema, report.problem_count),
        (tables::SCHEMA, 0),
        "{:?}",
        report.problems
    );
    assert_eq!(rows(&open_at(&path)).0, before.0);
}

/// The power goes behind each write and each flush of the first start, one after the other.
#[test]
fn a_migration_that_is_cut_off_at_any_write_leaves_the_old_file_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    version_1(&path);
    let old = fs::read(&path).unwrap();
    let mut found = BTreeMap::new();
    for moment in 0.. {
        let disk = Short {
            memory: Arc::new(Mutex::new(old.clone())),
            left: Arc::new(Mutex::new(moment)),
        };
        let make = |builder: &Builder| builder.create_with_backend(disk.clone());
        let opened = Store::open_on(make, StoreOptions::new(&path), quiet()).map(drop);
        fs::write(&path, &*disk.memory.lock().unwrap()).unwrap();
        let report = Care::open(&path, false).unwrap().check().unwrap();
        assert_eq!(report.problem_count, 0, "{moment}: {:?}", report.problems);
        *found.entry(report.schema).or_insert(0) += 1;
        let store = open_at(&path);
        assert_eq!(rows(&store).0.len(), 50, "{moment}");
        let cursors = store.cursors(JobId(2)).unwrap();
        assert_eq!(cursors.first().map(|(_, seq)| *seq), Some(7), "{moment}");
        if opened.is_ok() {
            break;
        }
    }
    let versions: Vec<_> = found.keys().copied().collect();
    assert_eq!(versions, [1, tables::SCHEMA], "{found:?}");
    assert!(found[&1] > 5, "{found:?}");
}

#[test]
fn an_old_file_is_mended_and_is_of_this_version_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    version_1(&path);
    let mut care = Care::open(&path, true).unwrap();
    let mended = care.mend(&folder.path().join("aside")).unwrap();
    assert_eq!(mended.set_aside, 0);
    drop(care);
    let report = Care::open(&path, true).unwrap().check().unwrap();
    assert_eq!((report.schema, report.problem_count), (tables::SCHEMA, 0));
    assert_eq!(rows(&open_at(&path)).0.len(), 50);
}

/// Rows of jobs as programs of versions 2 and 3 wrote them, a job that waits and one that runs; of version 3 on two nodes.
const OLD_JOBS: [(u32, &str, &str); 2] = [
    (
        2,
        include_str!("rows/2-queued.json"),
        include_str!("rows/2-running.json"),
    ),
    (
        3,
        include_str!("rows/3-queued.json"),
        include_str!("rows/3-running.json"),
    ),
];

/// A file that says it is of that version, with these rows.
fn with_old_jobs(path: &Path, version: u32, rows: [(u64, &str); 2]) {
    drop(open_at(path));
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let jobs: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
        let mut jobs = txn.open_table(jobs).unwrap();
        let open: TableDefinition<'_, u64, ()> = TableDefinition::new("open_jobs");
        let mut open = txn.open_table(open).unwrap();
        for (id, row) in rows {
            let row = row.trim().replace("\"id\":7", &format!("\"id\":{id}"));
            jobs.insert(id, sealed(row.as_bytes()).as_slice()).unwrap();
            open.insert(id, ()).unwrap();
        }
        let meta: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
        let mut meta = txn.open_table(meta).unwrap();
        let version = sealed(version.to_string().as_bytes());
        meta.insert("store.schema".as_bytes(), version.as_slice())
            .unwrap();
    }
    txn.commit().unwrap();
}

#[test]
fn jobs_that_older_versions_wrote_wait_and_run_on_as_they_did() {
    for (version, queued, running) in OLD_JOBS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trainyard.redb");
        with_old_jobs(&path, version, [(1, queued), (2, running)]);
        let report = Care::open(&path, true).unwrap().check().unwrap();
        assert_eq!((report.schema, report.problem_count), (version, 0));
        let store = open_at(&path);
        let job = |id| store.job(JobId(id)).unwrap().unwrap();
        assert_eq!(job(1).state, JobState::Queued);
        assert!(job(1).live().is_none());
        assert!(!job(1).spec.preemptible && job(1).spec.after.is_empty());
        let runs = job(2);
        let nodes = runs.allocations().len();
        assert_eq!(
            (runs.state, nodes),
            (JobState::Running, version as usize - 1)
        );
        // What it has done since goes into the same row.
        let next = runs
            .step(Timestamp(2_000_000_000_000_000), Event::CancelRequested)
            .unwrap();
        assert!(next.job.cancel_requested);
        drop(store);
        let report = Care::open(&path, true).unwrap().check().unwrap();
        assert_eq!((report.schema, report.problem_count), (tables::SCHEMA, 0));
    }
}
