//! Caring for a store: what a check finds, what a copy holds, what an export leaves out.

use redb::Database;
use trainyard_core::decision::{Decision, Kind};

use super::*;
use crate::store::{
    CareError, Profile,
    care::{Care, Part},
    tables::{LOGS, OPEN_JOBS, POINTS, USERS_BY_EMAIL},
};

pub(super) fn user() -> UserRow {
    UserRow {
        id: 1,
        email: "ada@example.com".into(),
        password_hash: "$argon2id$secret".into(),
        profile: Profile::default(),
        ..UserRow::default()
    }
}

/// A closed store with a bit of everything.
pub(super) async fn filled() -> (TempDir, std::path::PathBuf) {
    let (folder, store) = fresh();
    store.commit_and_wait(put(job(1))).await.unwrap();
    let rows = vec![
        points(1, 0..3),
        log(1, "first"),
        log(1, "second"),
        Change::PutUser(user()),
        Change::PutValidation {
            job: JobId(1),
            epoch: 2,
            body: r#"{"x":1}"#.into(),
        },
        Change::PutCursor {
            task: TaskKey {
                job: JobId(1),
                attempt: A1,
                rank: Rank(0),
            },
            seq: 3,
        },
        Change::Note(vec![Decision {
            nodes: vec![NodeName("n1".into())],
            ..Decision::of_job(Timestamp(1), Kind::Placed, JobId(1), "")
        }]),
    ];
    store.commit_and_wait(rows).await.unwrap();
    drop(store);
    let path = folder.path().join("trainyard.redb");
    (folder, path)
}

/// A node, with the number of its session, as they are stored together.
pub(super) async fn with_node(path: &Path) {
    let store = open_at(path);
    let number = Change::PutMeta {
        key: "sessions".into(),
        value: "7".into(),
    };
    let node = Change::PutNode(NodeRow::named("n1"));
    store.commit_and_wait(vec![number, node]).await.unwrap();
}

/// Changes rows behind the store's back.
pub(super) fn behind(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

pub(super) fn problems(path: &Path) -> Vec<String> {
    let report = Care::open(path, true).unwrap().check().unwrap();
    assert_eq!(report.problem_count, report.problems.len() as u64);
    assert_eq!(report.is_sound(), report.problems.is_empty());
    let text = |p: &crate::store::care::Problem| format!("{} {}: {}", p.table, p.key, p.problem);
    report.problems.iter().map(text).collect()
}

#[tokio::test]
async fn a_store_that_was_written_by_a_coordinator_is_sound() {
    let (folder, path) = filled().await;
    assert_eq!(problems(&path), Vec::<String>::new());
    // The folder is as good a name as the file.
    let report = Care::open(folder.path(), false).unwrap().check().unwrap();
    let points = report.tables.iter().find(|table| table.name == "points");
    assert_eq!(points.unwrap().rows, 1);
}

#[tokio::test]
async fn tables_that_contradict_each_other_are_found() {
    let (_folder, path) = filled().await;
    behind(&path, |txn| {
        txn.open_table(OPEN_JOBS).unwrap().remove(1).unwrap();
        txn.open_table(OPEN_JOBS).unwrap().insert(77, ()).unwrap();
        let mut index = txn.open_table(POINTS.by_job).unwrap();
        index.insert((1, 1), 9).unwrap();
        txn.open_table(LOGS.chunks).unwrap().remove(2).unwrap();
        let mut emails = txn.open_table(USERS_BY_EMAIL).unwrap();
        emails.remove("ada@example.com".as_bytes()).unwrap();
    });
    let found = problems(&path).join("\n");
    for words in [
        "jobs 1: open_jobs does not agree",
        "open_jobs 77: names a job that is not there",
        "points 1: has 3 rows, the index says 9",
        "logs 2: the index names a chunk that is not there",
        "users 1: ada@example.com is not in users_by_email",
    ] {
        assert!(found.contains(words), "{words}:\n{found}");
    }
}

#[tokio::test]
async fn a_copy_is_the_store_as_it_was_while_it_is_written_on() {
    let (folder, store) = fresh();
    let rows = vec![points(1, 0..5), log(1, "before"), Change::PutUser(user())];
    store.commit_and_wait(put(job(1))).await.unwrap();
    store.commit_and_wait(rows).await.unwrap();
    let to = folder.path().join("copy.redb");
    let copied = store.copy(&to).unwrap();
    assert!(copied.rows > 5 && copied.bytes > 0, "{copied:?}");
    store.commit_and_wait(vec![log(1, "after")]).await.unwrap();

    let copy = open_at(&to);
    assert_eq!(copy.instance(), store.instance());
    assert_eq!(copy.points(JobId(1), 0, 9).unwrap().len(), 5);
    assert_eq!(copy.count_logs(JobId(1)).unwrap(), 1);
    assert_eq!(copy.user_by_email("ada@example.com").unwrap(), Some(user()));
    // It is a store like any other: ids go on where they were.
    let more = copy.commit_and_wait(vec![points(1, 5..6)]).await.unwrap();
    assert_eq!(more.first_rows, [6]);
    drop(copy);
    assert_eq!(problems(&to), Vec::<String>::new());
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "nothing else stays: {names:?}");
}

#[tokio::test]
async fn a_copy_never_replaces_a_file() {
    let (folder, path) = filled().await;
    let to = folder.path().join("there");
    fs::write(&to, "mine").unwrap();
    let error = Care::open(&path, false).unwrap().copy(&to).unwrap_err();
    assert!(error.to_string().contains("not there yet"), "{error}");
    assert_eq!(fs::read(&to).unwrap(), b"mine");
}

#[tokio::test]
async fn compacting_keeps_every_row_and_gives_back_what_trimmed_rows_have_taken() {
    let (folder, store) = fresh();
    let long =
        |job| (0..100).map(move |round| log(job, &format!("{round} {}", "x".repeat(50_000))));
    store.commit_and_wait(long(1).collect()).await.unwrap();
    let mut kept = long(2).take(20).collect::<Vec<_>>();
    let mut ended = job(1);
    ended.state = JobState::Completed;
    kept.extend(put(ended).into_iter().chain(put(job(2))));
    store.commit_and_wait(kept).await.unwrap();
    let trimming = Trimming {
        job: JobId(1),
        rows: Rows::Lines,
        attempt: A1,
        line: Some(LogLine {
            at: Timestamp(1),
            stream: LogStream::System,
            level: String::new(),
            text: "the lines were removed".to_owned(),
        }),
    };
    assert!(store.trim(trimming).await.unwrap());
    drop(store);
    let mut care = Care::open(folder.path(), false).unwrap();
    let (before, after) = care.compact().unwrap();
    // A sixth of it is left.
    assert!(before > 5_000_000 && after < before / 2, "{before} {after}");
    drop(care);
    assert_eq!(problems(folder.path()), Vec::<String>::new());
    let store = open_at(&folder.path().join("trainyard.redb"));
    let counts = [1, 2].map(|job| store.count_logs(JobId(job)).unwrap());
    assert_eq!(counts, [1, 20]);
}

#[tokio::test]
async fn an_export_has_each_row_on_a_line_and_no_secret() {
    let (_folder, path) = filled().await;
    let care = Care::open(&path, false).unwrap();
    let all = [
        Part::Jobs,
        Part::Points,
        Part::Logs,
        Part::Validations,
        Part::Nodes,
    ];
    let mut text = Vec::new();
    let done = care.export(&all, None, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((done.lines, done.damaged), (lines.len() as u64, 0));
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str()).collect();
    let of = |kind| kinds.iter().filter(|found| **found == Some(kind)).count();
    assert_eq!(
        [of("job"), of("point"), of("log"), of("validation")],
        [1, 3, 2, 1]
    );
    assert!(!text.contains("argon2id"), "{text}");

    let mut of_another = Vec::new();
    let done = care.export(&all, Some(2), &mut of_another).unwrap();
    assert_eq!(done.lines, 0);
}

#[tokio::test]
async fn mending_makes_the_indexes_anew() {
    let (folder, path) = filled().await;
    behind(&path, |txn| {
        txn.open_table(OPEN_JOBS).unwrap().remove(1).unwrap();
        txn.open_table(OPEN_JOBS).unwrap().insert(77, ()).unwrap();
        txn.open_table(USERS_BY_EMAIL)
            .unwrap()
            .retain(|_, _| false)
            .unwrap();
        txn.open_table(POINTS.by_job)
            .unwrap()
            .insert((1, 1), 9)
            .unwrap();
        txn.open_table(crate::store::tables::CHANGED)
            .unwrap()
            .retain(|_, _| false)
            .unwrap();
    });
    assert_ne!(problems(&path), Vec::<String>::new());
    let mut care = Care::open(&path, true).unwrap();
    care.mend(&folder.path().join("aside")).unwrap();
    drop(care);
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_store_or_in_use_is_not_touched() {
    let (folder, store) = fresh();
    let error = Care::open(folder.path(), false).unwrap_err();
    assert!(matches!(error, CareError::InUse { .. }), "{error}");
    let words = error.to_string();
    assert!(words.contains("`trainyard store backup FILE`"), "{words}");
    assert!(!words.contains("data folder"), "{words}");
    drop(store);
    let error = Care::open(&folder.path().join("none"), false).unwrap_err();
    assert!(matches!(error, CareError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("data folder"), "{error}");
    let other = folder.path().join("other.redb");
    drop(Database::create(&other).unwrap());
    let error = Care::open(&other, false).unwrap_err();
    assert!(error.to_string().contains("no store of"), "{error}");
}
