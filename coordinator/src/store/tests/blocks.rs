//! Blocks: every reader sees the same rows before and after they are sealed.

use proptest::{collection::vec, option, prelude::*, test_runner::TestRunner};
use redb::ReadableDatabase as _;
use trainyard_core::{ids::TaskKey, record::Checkpoint};

use super::*;
use crate::store::{
    care::{Care, Part},
    series::Entry,
    tables::{COLUMNS, POINTS},
};

/// Seals all there is to seal.
pub(super) async fn seal(store: &Store) -> usize {
    let mut blocks = 0;
    for rows in Rows::ALL {
        while let Some(job) = store.sealable(rows, JobId(0)).unwrap() {
            let change = store.sealing(rows, job).unwrap();
            store.commit_and_wait(vec![change.unwrap()]).await.unwrap();
            blocks += 1;
        }
    }
    blocks
}

pub(super) fn ended(id: u64) -> Job {
    let mut job = job(id);
    job.state = JobState::Completed;
    job.ended_at = Some(Timestamp(id.try_into().unwrap()));
    job
}

/// To the last bit, NaN included.
fn bits<T: serde::Serialize>(row: &T) -> Vec<u8> {
    postcard::to_stdvec(row).unwrap()
}

/// Of a metric: id, attempt, epoch, step, bits.
type OfMetric = (u64, (u32, u32), u32, Option<u64>, u64);

/// All that readers can see of a job.
#[derive(Debug, PartialEq)]
struct Seen {
    points: Vec<(u64, (u32, u32), Vec<u8>)>,
    pages: Vec<Vec<u64>>,
    newest: Vec<u64>,
    newest_of_one: Vec<u64>,
    lines: Vec<StoredLine>,
    newest_lines: Vec<StoredLine>,
    counts: Vec<u64>,
    curves: Vec<Vec<OfMetric>>,
}

fn seen(store: &Store, id: u64) -> Seen {
    let id = JobId(id);
    let point = |point: StoredPoint| {
        (
            point.id,
            (point.attempt.0, point.rank.0),
            bits(&point.progress),
        )
    };
    let all = store.points(id, 0, usize::MAX).unwrap();
    let (mut after, mut pages) = (0, Vec::new());
    loop {
        let page = ids(&store.points(id, after, 7).unwrap());
        let Some(last) = page.last() else { break };
        after = *last;
        pages.push(page);
    }
    let newest = |most, of: Option<AttemptNo>| {
        let keep = |whose: Whose, _: &Progress| of.is_none_or(|of| of == whose.attempt);
        ids(&store.newest_points(id, Most::rows(most), keep).unwrap())
    };
    let last = store.totals().unwrap().0 + 2;
    let mut counts = vec![
        store.count_points(id).unwrap(),
        store.count_logs(id).unwrap(),
    ];
    counts.extend(
        (0..last)
            .step_by(13)
            .map(|after| store.count_points_after(id, after).unwrap()),
    );
    let curve = |name: &str| {
        let mut found = Vec::new();
        let take = |s: Sample| {
            found.push((
                s.id,
                (s.attempt.0, s.rank.0),
                s.epoch,
                s.step,
                s.value.to_bits(),
            ));
            found.len() < 90
        };
        store.each_value(id, name, take).unwrap();
        found
    };
    let odd = |line: &LogLine| line.text.len() % 2 == 1;
    Seen {
        points: all.into_iter().map(point).collect(),
        pages,
        newest: newest(4, None),
        newest_of_one: newest(9, Some(A1)),
        lines: store.logs(id, 0, usize::MAX).unwrap(),
        newest_lines: store.newest_logs(id, Most::rows(3), odd).unwrap(),
        counts,
        curves: ["loss", "map", "rare", "none"].map(curve).into(),
    }
}

fn exported(path: &Path) -> Vec<String> {
    let care = Care::open(path, false).unwrap();
    let mut text = Vec::new();
    care.export(&[Part::Points, Part::Logs], None, &mut text)
        .unwrap();
    let text = String::from_utf8(text).unwrap();
    text.lines().map(str::to_owned).collect()
}

pub(super) fn problems(path: &Path) -> Vec<String> {
    let report = Care::open(path, true).unwrap().check().unwrap();
    let text = |p: &crate::store::care::Problem| format!("{} {}: {}", p.table, p.key, p.problem);
    report.problems.iter().map(text).collect()
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        (0_u16..1_000).prop_map(|n| f64::from(f32::from(n) / 7.0)),
        Just(f64::NAN),
        Just(f64::from_bits(0xfff8_0000_0000_0001)),
        Just(-0.0),
    ]
}

fn place() -> impl Strategy<Value = Option<Checkpoint>> {
    let checkpoint = ("[a-z]{0,9}", option::of(any::<u64>()));
    option::weighted(
        0.1,
        checkpoint.prop_map(|(path, size_bytes)| Checkpoint { path, size_bytes }),
    )
}

fn report() -> impl Strategy<Value = Progress> {
    let values = (
        option::weighted(0.9, value()),
        option::weighted(0.6, value()),
        option::weighted(0.05, value()),
        option::weighted(0.02, ("[a-z]{0,2}", value())),
    );
    let numbers = (
        any::<i64>(),
        0_u32..500,
        any::<u32>(),
        option::of(any::<u64>()),
    );
    (numbers, values, place(), place(), any::<bool>()).prop_map(
        |((at, epoch, total_epochs, step), (loss, map, rare, other), checkpoint, best, has)| {
            let known = [("loss", loss), ("map", map), ("rare", rare)];
            let known = known
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)));
            Progress {
                at: Timestamp(at),
                epoch,
                total_epochs,
                step,
                values: known.chain(other).collect(),
                has_metrics: has,
                checkpoint,
                best_checkpoint: best,
            }
        },
    )
}

fn batch() -> impl Strategy<Value = Change> {
    let whose = || {
        (1_u64..4, 1_u32..3, 0_u32..3).prop_map(|(job, attempt, rank)| TaskKey {
            job: JobId(job),
            attempt: AttemptNo(attempt),
            rank: Rank(rank),
        })
    };
    let line = (any::<i64>(), 0_usize..4, "[A-Z]{0,5}", ".{0,40}").prop_map(
        |(at, stream, level, text)| LogLine {
            at: Timestamp(at),
            stream: [
                LogStream::Stdout,
                LogStream::Stderr,
                LogStream::System,
                LogStream::Callback,
            ][stream],
            level,
            text,
        },
    );
    prop_oneof![
        (whose(), vec(report(), 1..60))
            .prop_map(|(task, points)| Change::AppendPoints { task, points }),
        (whose(), vec(line, 1..30)).prop_map(|(task, lines)| Change::AppendLogs { task, lines }),
    ]
}

#[test]
fn every_reader_sees_the_same_rows_before_and_after_they_are_sealed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let rows = (vec(batch(), 1..14), vec(batch(), 0..6));
    let outcome = runner.run(&rows, |(before, behind)| {
        runtime.block_on(async {
            let (folder, store) = fresh();
            let path = folder.path().join("trainyard.redb");
            for id in 1..4 {
                store.commit_and_wait(put(ended(id))).await.unwrap();
            }
            store.commit_and_wait(before).await.unwrap();
            let raw: Vec<Seen> = (1..4).map(|id| seen(&store, id)).collect();
            drop(store);
            let mut raw_lines = exported(&path);
            let store = open_at(&path);
            prop_assert!(seal(&store).await > 0);
            let sealed: Vec<Seen> = (1..4).map(|id| seen(&store, id)).collect();
            prop_assert_eq!(&sealed, &raw);

            // Rows that come later stand behind them, sealed or not; and a copy has all.
            store.commit_and_wait(behind).await.unwrap();
            let mixed: Vec<Seen> = (1..4).map(|id| seen(&store, id)).collect();
            seal(&store).await;
            let copy = folder.path().join("copy.redb");
            store.copy(&copy).unwrap();
            drop(store);
            let copy = open_at(&copy);
            let copied: Vec<Seen> = (1..4).map(|id| seen(&copy, id)).collect();
            prop_assert_eq!(&copied, &mixed);
            prop_assert_eq!(problems(&path), Vec::<String>::new());
            let mut lines = exported(&path);
            raw_lines.sort_unstable();
            lines.sort_unstable();
            prop_assert!(
                raw_lines
                    .iter()
                    .all(|line| lines.binary_search(line).is_ok())
            );
            Ok(())
        })
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_job_that_goes_on_is_sealed_when_it_has_many_chunks_and_one_that_has_ended_wholly() {
    let (_folder, store) = fresh();
    store.commit_and_wait(put(job(1))).await.unwrap();
    let chunks = u32::try_from(UNSEALED).unwrap();
    for epoch in 0..chunks {
        store
            .try_commit(vec![points(1, epoch..epoch + 1)], Box::new(|_| {}))
            .unwrap();
    }
    store.commit_and_wait(Vec::new()).await.unwrap();
    assert_eq!(store.sealable(Rows::Points, JobId(0)).unwrap(), None);
    store
        .commit_and_wait(vec![points(1, chunks..chunks + 1)])
        .await
        .unwrap();
    assert_eq!(
        store.sealable(Rows::Points, JobId(0)).unwrap(),
        Some(JobId(1))
    );
    assert_eq!(store.sealable(Rows::Points, JobId(2)).unwrap(), None);
    assert_eq!(seal(&store).await, 1);
    store
        .commit_and_wait(vec![points(1, 200..201)])
        .await
        .unwrap();
    assert_eq!(seal(&store).await, 0);
    store.commit_and_wait(put(ended(1))).await.unwrap();
    assert_eq!(seal(&store).await, 1);
    assert_eq!(store.count_points(JobId(1)).unwrap(), UNSEALED + 2);
}

/// How many points each block of job 1 has.
fn blocks(path: &Path) -> Vec<u32> {
    let db = Database::open(path).unwrap();
    let txn = db.begin_read().unwrap();
    let index = txn.open_table(POINTS.by_job).unwrap();
    let entries = index.iter().unwrap();
    let entries = entries.map(|entry| Entry::of(entry.unwrap().1.value()));
    entries
        .filter(|entry| entry.sealed)
        .map(|e| e.rows)
        .collect()
}

#[tokio::test]
async fn blocks_of_a_slow_job_are_put_together_and_no_row_changes() {
    let (folder, store) = fresh();
    let path = folder.path().join("trainyard.redb");
    store.commit_and_wait(put(job(1))).await.unwrap();
    let chunk = u32::try_from(UNSEALED).unwrap() + 1;
    let mut next = 0;
    // A report at a time, as they come; sealed each time that there are many.
    for _ in 0..7 {
        for epoch in next..next + chunk {
            let one = vec![points(1, epoch..epoch + 1)];
            store.try_commit(one, Box::new(|_| {})).unwrap();
        }
        next += chunk;
        store.commit_and_wait(Vec::new()).await.unwrap();
        let raw = seen(&store, 1);
        assert_eq!(seal(&store).await, 1);
        assert_eq!(seen(&store, 1), raw);
    }
    drop(store);
    // By halves: none is packed anew for one that is smaller.
    assert_eq!(blocks(&path), [4 * chunk, 2 * chunk, chunk]);
    let store = open_at(&path);
    let raw = seen(&store, 1);
    let last = vec![points(1, next..next + 1)];
    store.commit_and_wait(last).await.unwrap();
    store.commit_and_wait(put(ended(1))).await.unwrap();
    assert_eq!(seal(&store).await, 1);
    let whole = seen(&store, 1);
    assert_eq!(whole.points.len(), raw.points.len() + 1);
    assert_eq!(whole.points[..raw.points.len()], raw.points);
    drop(store);
    assert_eq!(blocks(&path), [7 * chunk + 1]);
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[tokio::test]
async fn one_metric_is_read_without_the_others() {
    let (folder, store) = fresh();
    store.commit_and_wait(put(ended(1))).await.unwrap();
    let mut reports: Vec<Progress> = (0..50).map(progress).collect();
    for report in &mut reports {
        report.values.insert("map".into(), f64::from(report.epoch));
    }
    let change = Change::AppendPoints {
        task: trainyard_core::ids::TaskKey {
            job: JobId(1),
            attempt: A1,
            rank: trainyard_core::ids::Rank(0),
        },
        points: reports,
    };
    store.commit_and_wait(vec![change]).await.unwrap();
    seal(&store).await;
    drop(store);
    let path = folder.path().join("trainyard.redb");
    let db = Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(COLUMNS)
        .unwrap()
        .insert((1, "loss"), &[0_u8; 9][..])
        .unwrap();
    txn.commit().unwrap();
    drop(db);

    let store = open_at(&path);
    let mut sum = 0.0;
    let count = |sample: Sample| {
        sum += sample.value;
        true
    };
    store.each_value(JobId(1), "map", count).unwrap();
    assert!((sum - f64::from((0..50).sum::<i32>())).abs() < 1e-9);
    let error = store.points(JobId(1), 0, 9).unwrap_err().to_string();
    assert!(
        error.contains("row 1/loss of table point_columns"),
        "{error}"
    );
    drop(store);

    // Mending sets the block aside, with all that belongs to it.
    assert_ne!(problems(&path), Vec::<String>::new());
    let aside = folder.path().join("aside");
    let mut care = Care::open(&path, true).unwrap();
    assert_eq!(
        care.mend(&aside).unwrap().set_aside,
        3,
        "a spine and two columns"
    );
    drop(care);
    assert_eq!(problems(&path), Vec::<String>::new());
    assert_eq!(open_at(&path).count_points(JobId(1)).unwrap(), 0);
}

#[tokio::test]
async fn a_block_is_there_wholly_or_its_chunks_are_and_it_is_never_put_twice() {
    let (folder, store) = fresh();
    let path = folder.path().join("trainyard.redb");
    store.commit_and_wait(put(ended(1))).await.unwrap();
    let rows = vec![
        points(1, 0..40),
        points(1, 40..50),
        log(1, "a"),
        log(1, "b"),
    ];
    store.commit_and_wait(rows).await.unwrap();
    let before = seen(&store, 1);
    let change = store.sealing(Rows::Points, JobId(1)).unwrap().unwrap();
    // The transaction is begun and never ends: as at a crash.
    {
        let txn = store.inner.shared.db.begin_write().unwrap();
        let mut batch = apply::Batch::begin(&txn).unwrap();
        batch.apply(change.clone()).unwrap();
        batch.finish().unwrap();
        txn.abort().unwrap();
    }
    assert_eq!(seen(&store, 1), before);
    let twice = vec![change.clone(), change.clone()];
    store.commit_and_wait(twice).await.unwrap();
    store.commit_and_wait(vec![change]).await.unwrap();
    // As the disk has it, without closing it.
    let copy = folder.path().join("copy.redb");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(seen(&open_at(&copy), 1), before);
    assert_eq!(problems(&copy), Vec::<String>::new());
    assert_eq!(store.sealing(Rows::Points, JobId(1)).unwrap(), None);
}

#[tokio::test]
async fn a_reader_that_goes_on_behind_its_last_row_misses_nothing_while_blocks_are_made() {
    let (_folder, store) = fresh();
    store.commit_and_wait(put(ended(1))).await.unwrap();
    let (mut after, mut found) = (0, Vec::new());
    for round in 0..40 {
        // Three rows a round for twenty of them, and the next two for the reader always.
        if round < 20 {
            let rows = vec![points(1, round..round + 3), points(2, 0..1)];
            store.commit_and_wait(rows).await.unwrap();
        }
        let before = store.last_change().unwrap();
        if round % 3 == 0 {
            seal(&store).await;
        }
        assert_eq!(
            store.last_change().unwrap(),
            before,
            "no tracker looks again"
        );
        let page = ids(&store.points(JobId(1), after, 2).unwrap());
        after = page.last().copied().unwrap_or(after);
        found.extend(page);
    }
    assert_eq!(found, (1..81).filter(|id| id % 4 != 0).collect::<Vec<_>>());
}
