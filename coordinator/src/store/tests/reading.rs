//! Points and lines are read back, page by page, after an id and from the end.

use super::*;

#[tokio::test]
async fn row_ids_ascend_over_jobs_and_across_a_restart() {
    let (folder, store) = fresh();
    let changes = vec![
        points(1, 0..3),
        points(2, 0..2),
        log(1, "a"),
        points(1, 3..3),
    ];
    let committed = store.commit_and_wait(changes).await.unwrap();
    assert_eq!(committed.first_rows, [1, 4, 1, 6]);
    drop(store);
    let store = open_at(&folder.path().join("trainyard.redb"));
    let committed = store.commit_and_wait(vec![points(1, 3..5)]).await.unwrap();
    assert_eq!(committed.first_rows, [6]);
    let all = store.points(JobId(1), 0, 99).unwrap();
    assert_eq!(ids(&all), [1, 2, 3, 6, 7]);
    assert_eq!(all[4].progress, progress(4));
}

#[tokio::test]
async fn points_are_read_after_an_id_inside_a_chunk_and_from_the_end() {
    let (_folder, store) = fresh();
    for start in [0, 4, 8] {
        let changes = vec![points(7, start..start + 4), points(8, 0..1)];
        store.commit_and_wait(changes).await.unwrap();
    }
    // Job 7 has 1-4, 6-9 and 11-14.
    let read = |after, limit| ids(&store.points(JobId(7), after, limit).unwrap());
    assert_eq!(read(2, 4), [3, 4, 6, 7]);
    assert_eq!(read(4, 2), [6, 7]);
    assert_eq!(read(5, 1), [6]);
    assert_eq!(read(13, 9), [14]);
    assert_eq!(read(14, 9), [0_u64; 0]);
    assert_eq!(read(0, 0), [0_u64; 0]);
    assert_eq!(
        ids(&store
            .newest_points(JobId(7), Most::rows(5), |_, _| true)
            .unwrap()),
        [9, 11, 12, 13, 14]
    );
    assert_eq!(store.count_points(JobId(7)).unwrap(), 12);
    assert_eq!(store.points(JobId(9), 0, 9).unwrap(), []);
}

#[tokio::test]
async fn a_page_of_rows_ends_by_their_text_and_the_next_one_goes_on() {
    let (_folder, store) = fresh();
    let long = || log(1, &"x".repeat(Most::BYTES / 3));
    store.commit_and_wait(vec![long(), long()]).await.unwrap();
    let larger = log(1, &"x".repeat(Most::BYTES + 1));
    let changes = vec![long(), larger, log(1, "short")];
    store.commit_and_wait(changes).await.unwrap();
    let ids = |rows: Vec<StoredLine>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let (mut after, mut pages) = (0, Vec::new());
    loop {
        let page = ids(store.logs(JobId(1), after, 100).unwrap());
        let Some(last) = page.last() else { break };
        after = *last;
        pages.push(page);
    }
    assert_eq!(pages, [vec![1, 2], vec![3], vec![4], vec![5]]);
    let newest = |bytes, kept: &'static str| {
        let most = Most { rows: 100, bytes };
        let rows = store.newest_logs(JobId(1), most, |line| line.text.contains(kept));
        ids(rows.unwrap())
    };
    assert_eq!(newest(Most::BYTES, ""), [5]);
    assert_eq!(newest(3 * Most::BYTES, ""), [1, 2, 3, 4, 5]);
    assert_eq!(newest(Most::BYTES, "x"), [4]);
}

#[tokio::test]
async fn metrics_that_json_cannot_hold_come_back_as_they_were() {
    let (_folder, store) = fresh();
    let mut with_nan = job(1);
    let mut report = progress(1);
    report.values.insert("nan".into(), f64::NAN);
    report.values.insert("low".into(), f64::NEG_INFINITY);
    with_nan.progress = Some(report);
    with_nan.final_metrics.insert("up".into(), f64::INFINITY);
    store.commit_and_wait(put(with_nan)).await.unwrap();
    let read = store.job(JobId(1)).unwrap().unwrap();
    let values = read.progress.unwrap().values;
    assert!(values["nan"].is_nan());
    assert!(values["low"].is_infinite() && values["low"] < 0.0);
    assert_eq!(values.len(), 3);
    let up = read.final_metrics["up"];
    assert!(up.is_infinite() && up > 0.0);
}

#[tokio::test]
async fn points_behind_an_id_are_counted_also_inside_a_chunk() {
    let (_folder, store) = fresh();
    for start in [0, 4] {
        let changes = vec![points(7, start..start + 4), points(8, 0..1)];
        store.commit_and_wait(changes).await.unwrap();
    }
    // Job 7 has 1-4 and 6-9.
    let count = |after| store.count_points_after(JobId(7), after).unwrap();
    assert_eq!([0, 2, 4, 5, 6, 9, 20].map(count), [8, 6, 4, 4, 3, 0, 0]);
}
