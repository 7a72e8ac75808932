//! Reports that come again, and reports of many MiB: what is stored of them, and how it is read back.

use serde_json::{Value, json};
use trainyard_proto::v1;

use crate::{
    agent::exited,
    callbacks::{Run, progress},
};

#[tokio::test]
async fn of_two_reports_of_an_epoch_the_first_stands_whatever_the_second_says() {
    let run = Run::begin().await;
    let mut second = progress(1, json!({"loss": 0.1, "accuracy": 0.9}));
    second["checkpoint_path"] = json!("/c/other.pt");
    second["logs"] = json!("said again");
    // An epoch 0 with metrics is no start.
    let first = progress(1, json!({"loss": 0.5}));
    for body in [
        progress(0, Value::Null),
        progress(0, json!({"loss": 0.75})),
        first,
        second,
    ] {
        assert_eq!(run.says("progress", &body).await.0, 200);
    }
    let rows = run.read("/metrics").await;
    let losses: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["loss"])
        .collect();
    assert_eq!(losses, [&json!(0.75), &json!(0.5)]);
    assert_eq!(rows[1]["checkpoint_path"], "/c/1.pt");
    assert_eq!(run.read("").await["last_checkpoint_path"], "/c/1.pt");
    assert_eq!(run.read("/logs").await, json!([]));
}

#[tokio::test]
async fn lines_that_are_sent_again_because_the_answer_was_lost_are_there_once() {
    let run = Run::begin().await;
    let body = |message: &str, time: &str| json!({"job_id": run.id, "event_type": "log", "message": message, "timestamp": time});
    let (exact, coarse) = ("2026-11-23T01:20:22.543843", "2026-11-23T01:20:22");
    for (message, time) in [
        ("a", exact),
        ("a", exact),
        ("b", exact),
        ("a", exact),
        ("c", coarse),
        ("c", coarse),
    ] {
        let (status, answer) = run.says("logs", &body(message, time)).await;
        assert_eq!(status, 200, "{answer}");
    }
    let rows = run.read("/logs").await;
    let texts: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["content"])
        .collect();
    assert_eq!(texts, ["a", "b", "a", "c", "c"]);
}

#[tokio::test]
async fn an_answer_of_lines_ends_by_their_text_and_whoever_goes_on_gets_every_line() {
    let mut run = Run::begin().await;
    let long = "x".repeat(3 << 20);
    for _ in 0..7 {
        let body = json!({"job_id": run.id, "event_type": "log", "message": long});
        assert_eq!(run.says("logs", &body).await.0, 200);
    }
    let size = |rows: &Value| -> usize {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["content"].as_str().unwrap().len()).sum()
    };
    let newest = run.read("/logs?limit=10000").await;
    assert!((15 << 20..=16 << 20).contains(&size(&newest)));
    let (mut after, mut total, mut pages) = (0, 0, 0);
    loop {
        let page = run
            .read(&format!("/logs?after_id={after}&limit=10000"))
            .await;
        let Some(last) = page.as_array().unwrap().last() else {
            break;
        };
        after = last["id"].as_u64().unwrap();
        assert!(size(&page) <= 16 << 20);
        (total, pages) = (total + size(&page), pages + 1);
    }
    assert_eq!((total, pages), (7 * long.len(), 2));
    // A message of gRPC is one that clients take, and a stream loses nothing either.
    let task = run.start.task.unwrap();
    run.agent.report(exited(task, 0, 0)).await;
    run.agent.forget().await;
    let mut jobs = run.world.jobs().await;
    let request = v1::StreamLogsRequest {
        job_id: run.id,
        after_line_id: 0,
        follow: true,
    };
    let mut stream = jobs.stream_logs(request).await.unwrap().into_inner();
    let mut streamed = 0;
    while let Some(message) = stream.message().await.unwrap() {
        streamed += message
            .lines
            .iter()
            .map(|line| line.text.len())
            .sum::<usize>();
    }
    assert_eq!(streamed, total);
}

#[tokio::test]
async fn points_with_many_metrics_end_an_answer_early_and_none_is_lost() {
    let run = Run::begin().await;
    let name = "m".repeat(1_000);
    let many: serde_json::Map<_, _> = (0..3_000)
        .map(|number| (format!("{name}{number}"), json!(0.5)))
        .collect();
    for epoch in 1..=7 {
        let metrics = json!({"loss": 0.5, "extra_metrics": many});
        let (status, answer) = run.says("progress", &progress(epoch, metrics)).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(run.epochs("limit=100").await, [1, 2, 3, 4, 5]);
    assert_eq!(run.epochs("limit=100&order=desc").await, [7, 6, 5, 4, 3]);
    assert_eq!(run.epochs("limit=100&since_epoch=6").await, [6, 7]);
    let page = run.read("/metrics?after_id=0&limit=100").await;
    let last = page.as_array().unwrap().last().unwrap();
    assert_eq!(last["epoch"], 5);
    let rest = run.epochs(&format!("after_id={}", last["id"])).await;
    assert_eq!(rest, [6, 7]);
    let schema = run.read("/metric-schema").await;
    let names = schema["available_metrics"].as_array().unwrap();
    assert!((1_000..1_100).contains(&names.len()), "{}", names.len());
    assert_eq!(schema["metric_count"], 7);
}
