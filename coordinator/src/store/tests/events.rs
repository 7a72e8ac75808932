//! What was decided: in the transaction of what it is about, under numbers that ascend, bounded, and cared for.

use redb::{ReadableDatabase as _, ReadableTableMetadata as _};
use trainyard_core::decision::{Decision, Kind};

use super::*;
use crate::store::care::{Care, Part};

fn note(at: i64, job: u64, nodes: &[&str]) -> Decision {
    let nodes = nodes.iter().map(|name| NodeName((*name).into()));
    Decision {
        nodes: nodes.collect(),
        ..Decision::of_job(Timestamp(at), Kind::Placed, JobId(job), "why")
    }
}

fn found(store: &Store, of: &EventsOf, since: i64) -> Vec<u64> {
    let rows = store.events(of, (0, Timestamp(since)), 1_000).unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

fn of(job: Option<u64>, node: Option<&str>) -> EventsOf {
    EventsOf {
        job: job.map(JobId),
        node: node.map(|name| NodeName(name.into())),
    }
}

fn node(name: &str, drained: Option<&str>) -> Change {
    node_by(name, drained, "")
}

fn node_by(name: &str, drained: Option<&str>, by: &str) -> Change {
    Change::PutNode(NodeRow {
        drained: drained.map(str::to_owned),
        ordered_by: by.to_owned(),
        ..NodeRow::named(name)
    })
}

#[tokio::test]
async fn decisions_are_found_by_job_by_node_and_by_time_and_by_whom_they_are_for() {
    let (_folder, store) = fresh();
    let mut noted = store.noted();
    let mut for_another = note(20, 1, &["n2"]);
    for_another.for_job = Some(JobId(2));
    let some = vec![note(10, 1, &["n1"]), for_another];
    let changes = vec![Change::PutJob(Box::new(job(1))), Change::Note(some)];
    store.commit_and_wait(changes).await.unwrap();
    noted.changed().await.unwrap();
    assert_eq!(*noted.borrow_and_update(), 2);
    let more = Change::Note(vec![note(30, 3, &["n1", "n2"])]);
    store.commit_and_wait(vec![more]).await.unwrap();
    for (of, since, ids) in [
        (of(None, None), i64::MIN, vec![1, 2, 3]),
        (of(None, None), 20, vec![2, 3]),
        (of(None, None), 31, vec![]),
        (of(Some(1), None), i64::MIN, vec![1, 2]),
        (of(Some(2), None), i64::MIN, vec![2]),
        (of(None, Some("n1")), i64::MIN, vec![1, 3]),
        (of(None, Some("n2")), 25, vec![3]),
        (of(Some(1), Some("n2")), i64::MIN, vec![2]),
        (of(Some(9), None), i64::MIN, vec![]),
    ] {
        assert_eq!(found(&store, &of, since), ids, "{of:?} since {since}");
    }
    let page = store.events(&of(None, None), (1, Timestamp(0)), 1).unwrap();
    assert_eq!(page.iter().map(|row| row.id).collect::<Vec<_>>(), [2]);
    let last = store.last_event(JobId(2)).unwrap();
    assert_eq!(last, None, "what another one does for it is not its own");
    assert_eq!(
        store.last_event(JobId(1)).unwrap().unwrap().at,
        Timestamp(20)
    );
}

#[tokio::test]
async fn what_is_old_or_too_much_is_forgotten_and_numbers_are_never_given_twice() {
    let (folder, store) = fresh();
    let many = (1..=3_000).map(|at| note(at, 1, &["n1"])).collect();
    store
        .commit_and_wait(vec![Change::Note(many)])
        .await
        .unwrap();
    assert!(!store.trim_events(None, None).await.unwrap());
    assert!(
        store
            .trim_events(Some(Timestamp(1_501)), None)
            .await
            .unwrap()
    );
    assert_eq!(found(&store, &of(Some(1), None), 0).first(), Some(&1_501));
    assert_eq!(store.count_events().unwrap(), 1_500);
    assert!(store.trim_events(None, Some(100)).await.unwrap());
    assert_eq!(store.count_events().unwrap(), 100);
    assert!(
        !store
            .trim_events(Some(Timestamp(5)), Some(100))
            .await
            .unwrap()
    );
    // All of it is old: the last one stays.
    assert!(
        store
            .trim_events(Some(Timestamp(9_999)), None)
            .await
            .unwrap()
    );
    assert_eq!(found(&store, &of(None, Some("n1")), 0), [3_000]);
    drop(store);
    let store = open_at(&folder.path().join("trainyard.redb"));
    let next = Change::Note(vec![note(9_999, 1, &[])]);
    store.commit_and_wait(vec![next]).await.unwrap();
    assert_eq!(found(&store, &of(None, None), 0), [3_000, 3_001]);
}

#[tokio::test]
async fn a_node_that_is_drained_or_resumed_is_noted_whoever_writes_its_row() {
    let (_folder, store) = fresh();
    for drained in [None, None, Some("disk"), Some("disk"), Some("gpu"), None] {
        store
            .commit_and_wait(vec![node("n1", drained)])
            .await
            .unwrap();
    }
    let rows = store
        .events(&of(None, Some("n1")), (0, Timestamp(0)), 99)
        .unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.decision.kind, row.decision.words.as_str()))
        .collect();
    let resumed = "an operator wants it to get jobs again";
    let wanted = [
        (Kind::Drained, "disk"),
        (Kind::Drained, "gpu"),
        (Kind::Resumed, resumed),
    ];
    assert_eq!(told, wanted);
    let some = Some("drained by ada@x");
    for (drained, by) in [
        (Some("disk"), "ada@x"),
        (Some("disk"), "bob@x"),
        (None, "ada@x"),
        (some, "ada@x"),
    ] {
        let row = node_by("n2", drained, by);
        store.commit_and_wait(vec![row]).await.unwrap();
    }
    let rows = store.events(&of(None, Some("n2")), (0, Timestamp(0)), 99);
    let told: Vec<_> = rows
        .unwrap()
        .into_iter()
        .map(|row| row.decision.words)
        .collect();
    let resumed = "ada@x wants it to get jobs again";
    let wanted = ["ada@x: disk", "bob@x: disk", resumed, "drained by ada@x"];
    assert_eq!(told, wanted, "the reason and who");
}

#[tokio::test]
async fn a_damaged_decision_is_found_left_out_of_an_export_and_set_aside() {
    let (folder, store) = fresh();
    let notes = vec![note(1, 1, &["n1"]), note(2, 1, &["n1"])];
    let changes = vec![Change::PutJob(Box::new(job(1))), Change::Note(notes)];
    store.commit_and_wait(changes).await.unwrap();
    drop(store);
    let path = folder.path().join("trainyard.redb");
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::EVENTS)
        .unwrap()
        .insert(1, b"nothing".as_slice())
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let mut care = Care::open(&path, true).unwrap();
    let report = care.check().unwrap();
    assert_eq!(report.problem_count, 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].table, "events");
    let mut lines = Vec::new();
    let done = care.export(&[Part::Events], Some(1), &mut lines).unwrap();
    assert_eq!((done.lines, done.damaged), (1, 1));
    let aside = folder.path().join("aside.jsonl");
    assert_eq!(care.mend(&aside).unwrap().set_aside, 1);
    assert!(care.check().unwrap().is_sound());
    drop(care);
    // Its entries are gone from the indexes, and those of the others are there.
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_read().unwrap();
    let by_job = txn.open_table(tables::EVENTS_OF_JOB).unwrap();
    assert_eq!(by_job.len().unwrap(), 1);
    assert!(by_job.get((1, 2)).unwrap().is_some());
    let by_node = txn.open_table(tables::EVENTS_OF_NODE).unwrap();
    assert_eq!(by_node.len().unwrap(), 1);
    drop((txn, by_job, by_node, db));
    let store = open_at(&path);
    assert_eq!(found(&store, &of(Some(1), None), 0), [2]);
}

#[tokio::test]
async fn a_decision_that_cannot_be_read_is_left_out_and_the_others_are_told() {
    let (_folder, store) = fresh();
    let notes = (1..=5).map(|at| note(at, 1, &["n1"])).collect();
    let changes = vec![Change::PutJob(Box::new(job(1))), Change::Note(notes)];
    store.commit_and_wait(changes).await.unwrap();
    let txn = store.inner.shared.db.begin_write().unwrap();
    for id in [3, 5] {
        let mut events = txn.open_table(tables::EVENTS).unwrap();
        events.insert(id, b"nothing".as_slice()).unwrap();
    }
    txn.commit().unwrap();
    for of in [of(None, None), of(Some(1), None), of(None, Some("n1"))] {
        assert_eq!(found(&store, &of, 0), [1, 2, 4], "{of:?}");
        assert_eq!(found(&store, &of, 4), [4], "{of:?}");
    }
    let last = store.last_event(JobId(1)).unwrap().unwrap();
    assert_eq!(last.at, Timestamp(4));
}
