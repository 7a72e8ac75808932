//! What trainers are answered, over a real socket. Owns no product code; called by the test runner.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::future::{Either, select};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trainyard_core::ids::JobId;
use trainyard_core::record::{LogStream, Record};
use trainyard_core::time::Timestamp;

use super::*;
use crate::objects::TaskObjects;
use crate::spool::{Spool, TaskSpool};

const PROGRESS: &str = "/t/s3cret/api/v1/training/jobs/7/callback/progress";
const COMPLETION: &str = "/t/s3cret/api/v1/training/jobs/7/callback/completion";
const LOGS: &str = "/t/s3cret/api/v1/training/jobs/7/callback/logs";
const VALIDATION: &str = "/t/s3cret/api/v1/validation/jobs/7/results";

fn registry(spool: Spool, root: &Path) -> Registry {
    let registry = Registry::new(Arc::new(|| Timestamp(1_000)));
    let task = TaskEndpoint {
        told: Default::default(),
        job: JobId(7),
        total_epochs: 3,
        spool,
        checkpoint_root: root.to_owned(),
        objects: TaskObjects::new(JobId(7), None, root.join("view"), root),
    };
    registry.register("s3cret", task);
    registry
}

/// Runs the calls of `talk` against a server whose task keeps its records in `folder`.
async fn with_server<T>(folder: &TempDir, talk: impl AsyncFnOnce(u16) -> T) -> T {
    let spool = Spool::open(folder.path().join("spool"), u64::MAX)
        .await
        .unwrap();
    serve(folder, spool, talk).await
}

async fn serve<T>(folder: &TempDir, spool: Spool, talk: impl AsyncFnOnce(u16) -> T) -> T {
    let server = bind(folder.path(), registry(spool, folder.path()))
        .await
        .unwrap();
    let port = server.address().port();
    let running = Box::pin(server.run(std::future::pending()));
    match select(running, Box::pin(talk(port))).await {
        Either::Left((ended, _)) => panic!("the server ended: {ended:?}"),
        Either::Right((answer, _)) => answer,
    }
}

async fn call(port: u16, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

async fn post(port: u16, path: &str, body: &str) -> (u16, Value) {
    call(port, "POST", path, body.as_bytes()).await
}

/// What is on disk now, read from a copy as another process would.
fn on_disk(folder: &TempDir) -> Vec<Record> {
    let copy = folder.path().join("copy");
    fs::copy(folder.path().join("spool"), &copy).unwrap();
    let mut spool = TaskSpool::open(&copy).unwrap();
    let all = spool.unsent_after(0, usize::MAX, u64::MAX).unwrap();
    all.into_iter().map(|spooled| spooled.record).collect()
}

fn epoch(number: u32, metrics: &str) -> String {
    format!(
        r#"{{"job_id":7,"status":"running","current_epoch":{number},"total_epochs":3,"metrics":{metrics},
        "checkpoint_path":"last.pt","best_checkpoint_path":"s3://b/best.pt"}}"#
    )
}

#[tokio::test]
async fn a_progress_is_on_disk_when_it_is_answered_and_nan_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("last.pt"), b"12345").unwrap();
    with_server(&folder, async |port| {
        let metrics = r#"{"loss": NaN, "accuracy": 0.5, "learning_rate": null,
            "extra_metrics": {"mAP50-95": 0.25, "up": Infinity, "down": -Infinity, "note": "NaN \" NaN", "loss": 9}}"#;
        let answer = post(port, PROGRESS, &epoch(1, metrics)).await;
        let expected =
            json!({"success": true, "message": "Progress received", "job_status": "running"});
        assert_eq!(answer, (200, expected));
        let records = on_disk(&folder);
        let [Record::Progress(progress)] = records.as_slice() else {
            panic!("{records:?}");
        };
        assert!(progress.values["loss"].is_nan());
        assert_eq!(progress.values["up"].to_string(), "inf");
        assert_eq!(progress.values["down"].to_string(), "-inf");
        assert_eq!(progress.values["mAP50-95"].to_string(), "0.25");
        assert_eq!(progress.values.len(), 5, "{:?}", progress.values);
        assert!(progress.has_metrics && progress.at == Timestamp(1_000));
        let sizes = [&progress.checkpoint, &progress.best_checkpoint]
            .map(|checkpoint| checkpoint.as_ref().unwrap().size_bytes);
        assert_eq!(sizes, [Some(5), None]);
    })
    .await;
}

#[tokio::test]
async fn of_two_reports_of_an_epoch_the_first_stands_and_a_start_is_none() {
    let folder = tempfile::tempdir().unwrap();
    with_server(&folder, async |port| {
        let (one, other) = (r#"{"loss": 1}"#, r#"{"loss": 2, "accuracy": 0.5}"#);
        for metrics in ["null", "null", one, one, other] {
            let (status, body) = post(port, PROGRESS, &epoch(0, metrics)).await;
            assert_eq!((status, &body["success"]), (200, &json!(true)));
        }
        let with_step = epoch(0, "null").replace("\"metrics\"", "\"step\":5,\"metrics\"");
        assert_eq!(post(port, PROGRESS, &with_step).await.0, 200);
    })
    .await;
    let records = on_disk(&folder);
    let [
        Record::Progress(start),
        Record::Progress(first),
        Record::Progress(stepped),
    ] = records.as_slice()
    else {
        panic!("{records:?}");
    };
    assert!(!start.has_metrics && stepped.step == Some(5));
    assert_eq!(first.values, [("loss".to_owned(), 1.0)].into());
}

#[tokio::test]
async fn lines_that_are_sent_again_because_the_answer_was_lost_are_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let body = |message: &str, time: &str| {
        format!(r#"{{"job_id":7,"event_type":"log","message":"{message}","timestamp":"{time}"}}"#)
    };
    let (exact, coarse) = ("2026-11-23T01:20:22.543843", "2026-11-23T01:20:22");
    with_server(&folder, async |port| {
        for (message, time) in [
            ("a", exact),
            ("a", exact),
            ("b", exact),
            ("a", exact),
            // Two lines of one second may well be the same.
            ("c", coarse),
            ("c", coarse),
        ] {
            assert_eq!(post(port, LOGS, &body(message, time)).await.0, 200);
        }
    })
    .await;
    let texts = on_disk(&folder).into_iter().map(|record| {
        let Record::Log(line) = record else {
            panic!("{record:?}");
        };
        line.text
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["a", "b", "c", "c"]);
}

#[tokio::test]
async fn the_exit_code_of_a_completion_overrides_its_status() {
    for (exit_code, status) in [("0", "completed"), ("1", "failed"), ("null", "failed")] {
        let folder = tempfile::tempdir().unwrap();
        with_server(&folder, async |port| {
            let said = if exit_code == "0" { "failed" } else { "completed" };
            let said = if exit_code == "null" { "failed" } else { said };
            let body = format!(
                r#"{{"job_id":7,"status":"{said}","total_epochs_completed":3,"exit_code":{exit_code},
                "final_metrics":{{"accuracy":0.75}},"error_message":"[ConfigError] x","last_checkpoint_path":"s3://b/l"}}"#
            );
            let expected =
                json!({"success": true, "message": "Completion received", "job_status": status});
            assert_eq!(post(port, COMPLETION, &body).await, (200, expected));
            assert_eq!(post(port, COMPLETION, &body).await.0, 200);
        })
        .await;
        let records = on_disk(&folder);
        let [Record::Completion(end)] = records.as_slice() else {
            panic!("{records:?}");
        };
        assert_eq!(end.succeeded, status == "completed");
        assert_eq!(end.error_message.is_empty(), end.succeeded);
        assert_eq!(end.epochs_completed, 3);
        assert!(end.final_metrics.contains_key("accuracy"));
    }
}

#[tokio::test]
async fn log_lines_come_by_either_name_and_end_where_the_line_ends() {
    let folder = tempfile::tempdir().unwrap();
    with_server(&folder, async |port| {
        let body = r#"{"job_id":7,"event_type":"log","message":"a\r\nb\n","level":"warning"}"#;
        let expected = json!({"success": true, "message": "Log received", "job_status": null});
        assert_eq!(post(port, LOGS, body).await, (200, expected));
        let older = LOGS.trim_end_matches('s');
        let body = r#"{"job_id":7,"event_type":"x","message":"c","data":{"k":NaN}}"#;
        assert_eq!(post(port, older, body).await.0, 200);
    })
    .await;
    let seen: Vec<_> = on_disk(&folder)
        .into_iter()
        .map(|record| {
            let Record::Log(line) = record else {
                panic!("{record:?}");
            };
            assert_eq!(line.stream, LogStream::Callback);
            (line.level, line.text)
        })
        .collect();
    let expected = [
        ("WARNING", "a"),
        ("WARNING", "b"),
        ("INFO", "c {\"k\":null}"),
    ];
    assert_eq!(seen, expected.map(|(l, t)| (l.to_owned(), t.to_owned())));
}

#[tokio::test]
async fn validation_results_are_kept_as_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let body = r#"{"job_id":7, "epoch":2, "task_type":"detection", "metrics":{"b":1,"a":2}}"#;
    with_server(&folder, async |port| {
        // The number under which the coordinator shows them.
        let id = trainyard_core::record::validation_id(JobId(7), 2);
        let expected =
            json!({"status": "success", "validation_result_id": id, "job_id": 7, "epoch": 2});
        assert_eq!(post(port, VALIDATION, body).await, (200, expected));
    })
    .await;
    let body = body.to_owned();
    assert_eq!(on_disk(&folder), [Record::Validation { epoch: 2, body }]);
}

#[tokio::test]
async fn lines_and_results_beyond_the_bound_are_taken_and_left_out_and_the_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path().join("spool"), 20_000)
        .await
        .unwrap();
    let text = "x".repeat(3_000);
    serve(&folder, spool, async |port| {
        for number in 0..20 {
            let line = format!(r#"{{"job_id":7,"event_type":"log","message":"{number} {text}"}}"#);
            assert_eq!(post(port, LOGS, &line).await.0, 200);
            let result = format!(
                r#"{{"job_id":7,"epoch":{number},"task_type":"detection","metrics":{{"{text}":1}}}}"#
            );
            assert_eq!(post(port, VALIDATION, &result).await.0, 200);
        }
        // The last word is kept, and how much is lacking is said with it.
        let end = r#"{"job_id":7,"status":"completed","total_epochs_completed":3,"exit_code":0}"#;
        assert_eq!(post(port, COMPLETION, end).await.0, 200);
    })
    .await;
    let size = fs::metadata(folder.path().join("spool")).unwrap().len();
    assert!((20_000..28_000).contains(&size), "{size}");
    let records = on_disk(&folder);
    let kept = |record: &&Record| match record {
        Record::Log(line) => line.stream == LogStream::Callback,
        Record::Validation { .. } => true,
        Record::Progress(_) | Record::Completion(_) | Record::Stored(_) => false,
    };
    let lacking = 40 - records.iter().filter(kept).count();
    let Some([Record::Completion(_), Record::Log(said)]) = records.last_chunk() else {
        panic!("{:?}", records.last());
    };
    let words = format!("and {lacking} lines and validation results that it sent");
    assert!(said.text.ends_with(&words), "{}", said.text);
}

#[tokio::test]
async fn a_forged_secret_or_foreign_job_is_answered_like_a_job_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    with_server(&folder, async |port| {
        let none = (404, json!({"detail": "Training job not found"}));
        for path in [
            PROGRESS.replace("s3cret", "s3creT"),
            PROGRESS.replace("/7/", "/8/"),
            PROGRESS.replace("s3cret", "x").replace("/7/", "/abc/"),
        ] {
            assert_eq!(post(port, &path, &epoch(1, "null")).await, none, "{path}");
        }
        let not_found = (404, json!({"detail": "Not Found"}));
        assert_eq!(post(port, "/t/s3cret/api/v1/x", "{}").await, not_found);
        let wrong_method = (405, json!({"detail": "Method Not Allowed"}));
        assert_eq!(call(port, "GET", PROGRESS, b"").await, wrong_method);
    })
    .await;
    assert!(on_disk(&folder).is_empty());
}

#[tokio::test]
async fn every_bad_field_is_named_as_clients_know_it() {
    let folder = tempfile::tempdir().unwrap();
    with_server(&folder, async |port| {
        let body = r#"{"job_id":"x","status":5,"current_epoch":-1,"total_epochs":0,"metrics":{"loss":"high"}}"#;
        let (status, answer) = post(port, PROGRESS, body).await;
        assert_eq!(status, 422);
        let integer = "Input should be a valid integer, unable to parse string as an integer";
        let number = "Input should be a valid number, unable to parse string as a number";
        assert_eq!(answer, json!({"detail": [
            {"type": "int_parsing", "loc": ["body", "job_id"], "msg": integer, "input": "x"},
            {"type": "string_type", "loc": ["body", "status"], "msg": "Input should be a valid string", "input": 5},
            {"type": "greater_than_equal", "loc": ["body", "current_epoch"],
             "msg": "Input should be greater than or equal to 0", "input": -1, "ctx": {"ge": 0}},
            {"type": "greater_than", "loc": ["body", "total_epochs"],
             "msg": "Input should be greater than 0", "input": 0, "ctx": {"gt": 0}},
            {"type": "float_parsing", "loc": ["body", "metrics", "loss"], "msg": number, "input": "high"},
        ]}));
        let (_, answer) = post(port, LOGS, r#"{"job_id":7}"#).await;
        let missing = |name| json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": {"job_id": 7}});
        assert_eq!(answer, json!({"detail": [missing("event_type"), missing("message")]}));
        let (status, answer) = post(port, LOGS, "{").await;
        assert_eq!((status, &answer["detail"][0]["type"]), (422, &json!("json_invalid")));
        let (status, answer) = post(port, &LOGS.replace("/7/", "/abc/"), "{}").await;
        let entry = json!({"type": "int_parsing", "loc": ["path", "job_id"], "msg": integer, "input": "abc"});
        assert_eq!((status, answer), (422, json!({"detail": [entry]})));
    })
    .await;
    assert!(on_disk(&folder).is_empty());
}

#[tokio::test]
async fn a_full_disk_is_answered_so_that_the_trainer_tries_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = TaskSpool::open(&folder.path().join("spool")).unwrap();
    spool.writer = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    serve(&folder, Spool::on(spool), async |port| {
        let (status, answer) = post(port, PROGRESS, &epoch(1, "null")).await;
        assert_eq!(status, 503);
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains("no space left"), "{detail}");
    })
    .await;
    assert!(on_disk(&folder).is_empty());
}

#[tokio::test]
async fn a_restarted_agent_listens_on_the_same_port_or_says_who_must_go() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path().join("spool"), u64::MAX)
        .await
        .unwrap();
    let registry = registry(spool, folder.path());
    let first = bind(folder.path(), registry.clone()).await.unwrap();
    let address = first.address();
    let expected = format!("http://{address}/t/s3cret/api/v1");
    assert_eq!(first.callback_url("s3cret"), expected);
    let taken = bind(folder.path(), registry.clone()).await.unwrap_err();
    assert!(matches!(taken, BindError::PortTaken { port, .. } if port == address.port()));
    drop(first);
    assert_eq!(
        bind(folder.path(), registry.clone())
            .await
            .unwrap()
            .address(),
        address
    );
    fs::write(folder.path().join("callback-port"), "x").unwrap();
    let unreadable = bind(folder.path(), registry).await.unwrap_err();
    assert!(matches!(unreadable, BindError::NotAPort { .. }));
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused() {
    let registry = {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path().join("spool"), u64::MAX)
            .await
            .unwrap();
        registry(spool, folder.path())
    };
    let request = axum::http::Request::post(LOGS)
        .body(axum::body::Body::from(vec![b' '; BODY_LIMIT + 1]))
        .unwrap();
    let answer = tower::ServiceExt::oneshot(router(registry.clone()), request).await;
    assert_eq!(answer.unwrap().status(), 413);
    assert!(registry.unregister("s3cret") && !registry.unregister("s3cret"));
}

#[tokio::test]
async fn a_trainer_found_again_is_told_to_wait_until_its_task_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::new(Arc::new(|| Timestamp(1_000)));
    let router = router(registry.clone());
    let path = "/t/later/api/v1/training/jobs/7/callback/progress";
    let status = async || {
        let request =
            axum::http::Request::post(path).body(axum::body::Body::from(epoch(1, "null")));
        let answer = tower::ServiceExt::oneshot(router.clone(), request.unwrap()).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status().await, 404);
    // Some task's secret cannot be read, and it may be this one.
    registry.doubt(true);
    assert_eq!(status().await, 503);
    registry.doubt(false);
    assert_eq!(status().await, 404);
    registry.expect("later");
    assert_eq!(status().await, 503);
    let spool = Spool::open(folder.path().join("spool"), u64::MAX)
        .await
        .unwrap();
    let task = TaskEndpoint {
        told: Default::default(),
        job: JobId(7),
        total_epochs: 3,
        spool,
        checkpoint_root: folder.path().to_owned(),
        objects: TaskObjects::new(JobId(7), None, folder.path().join("view"), folder.path()),
    };
    registry.register("later", task);
    // What is expected late changes nothing.
    registry.expect("later");
    assert_eq!(status().await, 200);
}
