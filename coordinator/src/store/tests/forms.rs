//! Whole files as the last programs of versions 2, 3 and 4 wrote them.
//!
//! Each is of the commit before its version gave way to the next one (8c44570, dfb095b and 67a67f3), written by the store of
//! that commit and packed with zstd. They never change. In each: two nodes, a user and a document; job 1, which ran and has
//! completed, its rows sealed; job 2, a gang that runs; job 3, which waits. In that of version 4 also three decisions.

use trainyard_core::{decision::Kind, job::Event};

use super::*;
use crate::store::care::Care;

const FORMS: [(u32, &[u8]); 3] = [
    (2, include_bytes!("forms/2.zst")),
    (3, include_bytes!("forms/3.zst")),
    (4, include_bytes!("forms/4.zst")),
];

/// So many seconds after the beginning of what is told in them, in microseconds.
fn at(seconds: i64) -> Timestamp {
    Timestamp(1_760_000_000_000_000 + seconds * 1_000_000)
}

fn unpacked(packed: &[u8], path: &Path) {
    fs::write(path, zstd::decode_all(packed).unwrap()).unwrap();
}

fn is_sound(path: &Path, version: u32) {
    let report = Care::open(path, true).unwrap().check().unwrap();
    assert_eq!(
        (report.schema, report.problem_count),
        (version, 0),
        "{:?}",
        report.problems
    );
}

fn task(job: u64, rank: u32) -> TaskKey {
    TaskKey {
        job: JobId(job),
        attempt: A1,
        rank: Rank(rank),
    }
}

/// What the reports of an epoch were, to the last bit: one of them is no number.
fn reported(epoch: u32) -> BTreeMap<String, u64> {
    let loss = 1.0 / f64::from(epoch + 1);
    let odd = (epoch == 7).then(|| ("odd".to_owned(), f64::NAN.to_bits()));
    let values = [
        ("loss".to_owned(), loss.to_bits()),
        ("lr".to_owned(), 0.001_f64.to_bits()),
    ];
    values.into_iter().chain(odd).collect()
}

fn has_the_points(store: &Store) {
    let points = store.points(JobId(1), 0, 99).unwrap();
    assert_eq!(ids(&points), (1..=40).collect::<Vec<_>>());
    for (point, epoch) in points.iter().zip(0..) {
        let told = &point.progress;
        let values = told.values.iter();
        let values: BTreeMap<_, _> = values
            .map(|(name, v)| (name.clone(), v.to_bits()))
            .collect();
        assert_eq!(values, reported(epoch), "{epoch}");
        assert_eq!(
            (told.at, told.epoch, told.total_epochs, told.step),
            (
                at(10 + i64::from(epoch)),
                epoch,
                50,
                (epoch == 3).then_some(12)
            )
        );
        assert_eq!((point.attempt, point.rank), (A1, Rank(0)));
    }
    let open = store.points(JobId(2), 0, 99).unwrap();
    assert_eq!(ids(&open), [41, 42, 43]);
}

fn has_the_lines(store: &Store) {
    let texts = |job| {
        let lines = store.logs(JobId(job), 0, 99).unwrap().into_iter();
        let lines = lines.map(|row| (row.rank.0, row.line.text));
        lines.collect::<Vec<_>>()
    };
    let told = (0..4).map(|number| (0, format!("line {number}")));
    assert_eq!(texts(1), told.collect::<Vec<_>>());
    assert_eq!(texts(2), [(1, "of rank 1".to_owned())]);
    assert_eq!(
        store.validations(JobId(1)).unwrap(),
        [(3, "{\"top1\":0.5}".to_owned())]
    );
}

fn has_the_jobs(store: &Store, version: u32) {
    let job = |id| store.job(JobId(id)).unwrap().unwrap();
    assert_eq!(store.last_job().unwrap(), JobId(3));
    let open: Vec<_> = store
        .open_jobs()
        .unwrap()
        .iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(open, [JobId(2), JobId(3)]);

    let ended = job(1);
    assert_eq!(
        (ended.state, ended.ended_at),
        (JobState::Completed, Some(at(61)))
    );
    let outcome = ended.outcome.unwrap();
    assert_eq!((outcome.exit_code, outcome.class), (Some(0), None));
    assert_eq!(ended.final_metrics["loss"].to_bits(), 0.025_f64.to_bits());
    assert_eq!(ended.progress.unwrap().epoch, 39);

    let runs = job(2);
    let places = runs.allocations().into_iter();
    let places: Vec<_> = places.map(|at| (at.node.0.as_str(), &at.gpus)).collect();
    assert_eq!(
        places,
        [
            ("n1", &vec!["GPU-1".to_owned()]),
            ("n2", &vec!["GPU-2".to_owned()])
        ]
    );
    let live = runs.live().unwrap();
    assert_eq!(
        (runs.state, live.let_go_at, live.port),
        (JobState::Running, Some(at(7)), Some(29_500))
    );

    let waits = job(3);
    let spec = waits.spec;
    assert_eq!((waits.state, spec.priority), (JobState::Queued, 3));
    let after = if version > 3 { vec![JobId(2)] } else { vec![] };
    assert_eq!((spec.preemptible, spec.after_any), (version > 3, after));
}

fn has_the_rest(store: &Store, version: u32) {
    assert_eq!(
        store.cursors(JobId(2)).unwrap(),
        [(task(2, 0), 7), (task(2, 1), 5)]
    );
    let meta = |key| store.meta(key).unwrap();
    assert_eq!(meta("sessions").as_deref(), Some("4"));
    assert_eq!(meta("secret").as_deref(), Some("kept"));
    let nodes = store.nodes().unwrap().into_iter();
    let nodes: Vec<_> = nodes
        .map(|node| (node.name.0, node.capacity.cpus, node.drained))
        .collect();
    assert_eq!(
        nodes,
        [
            ("n1".to_owned(), 8, None),
            ("n2".to_owned(), 8, Some("by hand".to_owned()))
        ]
    );
    let user = store.user_by_email("ada@example.com").unwrap().unwrap();
    assert_eq!((user.id, user.role.as_str()), (1, "admin"));
    assert_eq!(store.request_key("again").unwrap(), Some(JobId(1)));
    let noted = store.events(&EventsOf::default(), (0, Timestamp(0)), 9);
    let noted = noted.unwrap().into_iter();
    let noted: Vec<_> = noted
        .map(|row| (row.id, row.decision.kind, row.decision.job))
        .collect();
    let there = [
        (1, Kind::Drained, None),
        (2, Kind::Waits, Some(JobId(3))),
        (3, Kind::Completed, Some(JobId(1))),
    ];
    let there = if version > 3 { &there[..] } else { &[] };
    assert_eq!(noted, there);
}

fn has_all(store: &Store, version: u32) {
    has_the_points(store);
    has_the_lines(store);
    has_the_jobs(store, version);
    has_the_rest(store, version);
}

/// Numbers go on where the older program has left them, and what runs is cancelled.
async fn goes_on(store: &Store) {
    let more = vec![points(2, 3..4), log(2, "more")];
    let more = store.commit_and_wait(more).await.unwrap();
    assert_eq!(more.first_rows, [44, 6]);
    let runs = store.job(JobId(2)).unwrap().unwrap();
    let next = runs.step(at(90), Event::CancelRequested).unwrap().job;
    assert!(next.cancel_requested);
    let seq = Change::PutCursor {
        task: task(2, 0),
        seq: 8,
    };
    let changes = [put(next), put(job(4)), vec![seq]].concat();
    store.commit_and_wait(changes).await.unwrap();
    assert_eq!(store.last_job().unwrap(), JobId(4));
    assert_eq!(store.cursors(JobId(2)).unwrap()[0], (task(2, 0), 8));
}

#[tokio::test]
async fn a_file_of_each_older_version_has_the_same_rows_and_goes_on() {
    for (version, packed) in FORMS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trainyard.redb");
        unpacked(packed, &path);
        // Looked at without being changed.
        is_sound(&path, version);
        is_sound(&path, version);
        let store = open_at(&path);
        has_all(&store, version);
        drop(store);
        is_sound(&path, tables::SCHEMA);
        let store = open_at(&path);
        has_all(&store, version);
        goes_on(&store).await;
        drop(store);
        is_sound(&path, tables::SCHEMA);
    }
}
