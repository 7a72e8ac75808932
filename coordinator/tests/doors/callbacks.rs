//! Reports of trainers to the coordinator itself, and what old clients read of a run.

use reqwest::Method;
use serde_json::{Value, json};
use trainyard_core::record::LogStream;

use crate::{
    agent::{Agent, epoch, exited, line},
    world::{World, keys, yolo},
};

fn progress(epoch: u32, metrics: Value) -> Value {
    json!({"job_id": 1, "status": "running", "current_epoch": epoch, "total_epochs": 2,
        "metrics": metrics, "checkpoint_path": format!("/c/{epoch}.pt"), "best_checkpoint_path": "/c/1.pt"})
}

#[tokio::test]
async fn a_trainer_reports_to_the_coordinator_itself_and_each_epoch_counts_once() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let start = agent.run().await;
    world.until(id, "running").await;
    let path = |name: &str| format!("/training/jobs/{id}/callback/{name}");
    let report =
        async |name: &str, body: Value| world.callback(&start.secret, &path(name), &body).await;

    let taken = |message| {
        (
            200,
            json!({"success": true, "message": message, "job_status": "running"}),
        )
    };
    assert_eq!(
        report("progress", progress(0, Value::Null)).await,
        taken("Progress received")
    );
    for _ in 0..2 {
        let first = json!({"loss": 0.5, "accuracy": 0.25, "extra_metrics": {"mAP50": 0.1}});
        assert_eq!(
            report("progress", progress(1, first)).await,
            taken("Progress received")
        );
    }
    assert_eq!(
        report("progress", progress(2, json!({"loss": 0.25}))).await,
        taken("Progress received")
    );
    let said = json!({"job_id": id, "event_type": "x", "message": "one\ntwo", "level": "error"});
    assert_eq!(report("log", said.clone()).await, taken("Log received"));
    assert_eq!(report("logs", said).await, taken("Log received"));

    let (_, rows) = world.get(&format!("/training/jobs/{id}/metrics")).await;
    let row = &rows[0];
    let expected =
        "id job_id epoch step loss accuracy learning_rate extra_metrics checkpoint_path created_at";
    assert_eq!(keys(row), expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        (&row["epoch"], &row["loss"], &row["learning_rate"]),
        (&json!(1), &json!(0.5), &Value::Null)
    );
    assert_eq!(
        row["extra_metrics"],
        json!({"accuracy": 0.25, "loss": 0.5, "mAP50": 0.1})
    );
    let epochs = async |query: &str| {
        let (_, rows) = world
            .get(&format!("/training/jobs/{id}/metrics?{query}"))
            .await;
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["epoch"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(epochs("").await, [1, 2]);
    assert_eq!(epochs("limit=1").await, [1]);
    assert_eq!(epochs("limit=1&order=desc").await, [2]);
    assert_eq!(epochs("order=desc").await, [2, 1]);
    assert_eq!(epochs("since_epoch=2").await, [2]);
    let (_, schema) = world
        .get(&format!("/training/jobs/{id}/metric-schema"))
        .await;
    assert_eq!(
        schema,
        json!({"job_id": id, "framework": "ultralytics", "task_type": "object_detection",
        "primary_metric": "mAP50", "primary_metric_mode": "max",
        "available_metrics": ["accuracy", "loss", "mAP50"], "metric_count": 2})
    );
    let (_, found) = world.get(&format!("/training/jobs/{id}/checkpoints")).await;
    assert_eq!(
        found,
        json!({"checkpoints": [
            {"path": "/c/1.pt", "filename": "1.pt", "is_best": true, "epoch": 1},
            {"path": "/c/2.pt", "filename": "2.pt", "is_best": false, "epoch": 2},
        ]})
    );
    let (_, job) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(
        (&job["best_checkpoint_path"], &job["last_checkpoint_path"]),
        (&json!("/c/1.pt"), &json!("/c/2.pt"))
    );

    let last = json!({"job_id": id, "status": "completed", "total_epochs_completed": 2,
        "final_metrics": {"accuracy": 0.75}, "exit_code": 0});
    assert_eq!(
        report("completion", last).await,
        taken("Completion received")
    );
    agent.report(exited(start.task.unwrap(), 0, 0)).await;
    agent.forget().await;
    let (_, job) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(
        (&job["status"], &job["final_accuracy"]),
        (&json!("completed"), &json!(0.75))
    );
    let after = report("progress", progress(3, json!({"loss": 9.0}))).await;
    assert_eq!(after, (404, json!({"detail": "Training job not found"})));
    assert_eq!(world.get(&format!("/training/jobs/{id}")).await.1, job);
    assert_eq!(epochs("").await, [1, 2]);
}

#[tokio::test]
async fn without_the_secret_of_the_attempt_nothing_is_told() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let start = agent.run().await;
    let path = format!("/training/jobs/{id}/callback/progress");
    let body = progress(1, json!({"loss": 1.0}));
    let none = (404, json!({"detail": "Training job not found"}));
    for (secret, path, body) in [
        ("wrong", path.clone(), &body),
        ("wrong", path.clone(), &json!({})),
        (&start.secret, path.replace(&id.to_string(), "77"), &body),
    ] {
        assert_eq!(world.callback(secret, &path, body).await, none);
    }
    let request = || world.plain(Method::POST, &path).json(&body);
    assert_eq!(world.send(request()).await, none);
    assert_eq!(world.send(request().bearer_auth(&world.token)).await, none);
    let (status, _) = world.send(request().bearer_auth(&start.secret)).await;
    assert_eq!(status, 200);
    let (status, answer) = world
        .callback(&start.secret, &path, &json!({"job_id": "x"}))
        .await;
    assert_eq!(status, 422);
    let places: Vec<_> = answer["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["loc"][1].clone())
        .collect();
    assert_eq!(
        places,
        ["job_id", "status", "current_epoch", "total_epochs"]
    );
    let large = json!({"job_id": 1, "event_type": "x", "message": "x".repeat(5 << 20)});
    let path = path.replace("progress", "logs");
    assert_eq!(world.callback(&start.secret, &path, &large).await.0, 413);
}

#[tokio::test]
async fn validation_results_are_kept_one_row_an_epoch() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let start = agent.run().await;
    let path = format!("/validation/jobs/{id}/results");
    let mut rows = Vec::new();
    for (epoch, value) in [(1, 0.1), (2, 0.2), (2, 0.3)] {
        let body = json!({"job_id": id, "epoch": epoch, "task_type": "detection",
            "primary_metric_name": "mAP50", "primary_metric_value": value, "metrics": {"b": 1, "a": [2]}});
        let (status, answer) = world.callback(&start.secret, &path, &body).await;
        assert_eq!(status, 200);
        assert_eq!(
            keys(&answer),
            ["status", "validation_result_id", "job_id", "epoch"]
        );
        rows.push(answer["validation_result_id"].clone());
    }
    assert_eq!(rows[1], rows[2]);
    let (status, answer) = world.get(&path).await;
    assert_eq!((status, &answer["total_count"]), (200, &json!(2)));
    let newest = &answer["results"][1];
    assert_eq!(
        (&newest["id"], &newest["primary_metric_value"]),
        (&rows[2], &json!(0.3))
    );
    assert_eq!(newest["metrics"], json!({"b": 1, "a": [2]}));
    assert_eq!(newest["confusion_matrix"], Value::Null);
    let (_, summary) = world.get(&path.replace("results", "summary")).await;
    assert_eq!(
        (&summary["total_epochs"], &summary["last_epoch"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(summary["epochs"][0]["primary_metric_value"], 0.1);
}

#[tokio::test]
async fn lines_of_every_stream_are_stdout_or_stderr_for_old_clients() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let start = agent.run().await;
    let records = [
        line(LogStream::System, "INFO", "building"),
        line(LogStream::Stdout, "", "out"),
        line(LogStream::Stderr, "", "err"),
        line(LogStream::Callback, "INFO", "said"),
        line(LogStream::Callback, "ERROR", "bad"),
        epoch(1, &[("loss", f64::NAN), ("accuracy", 0.5)]),
    ];
    let mut data = agent.attach(&world).await;
    data.deliver(start.task.unwrap(), 1, &records).await;
    let texts = async |query: &str| {
        let (_, rows) = world
            .get(&format!("/training/jobs/{id}/logs?{query}"))
            .await;
        let rows = rows.as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["content"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(texts("").await, ["building", "out", "err", "said", "bad"]);
    assert_eq!(texts("limit=2").await, ["said", "bad"]);
    assert_eq!(texts("log_type=stdout").await, ["building", "out", "said"]);
    assert_eq!(texts("log_type=stderr&limit=1").await, ["bad"]);
    let (_, rows) = world.get(&format!("/training/jobs/{id}/logs")).await;
    assert_eq!(
        keys(&rows[0]),
        ["id", "job_id", "log_type", "content", "created_at"]
    );
    assert_eq!(rows[0]["created_at"], "2026-11-23T01:20:22.543843");
    let (_, rows) = world.get(&format!("/training/jobs/{id}/metrics")).await;
    assert_eq!(
        (&rows[0]["loss"], &rows[0]["accuracy"]),
        (&Value::Null, &json!(0.5))
    );
    agent.report(exited(start.task.unwrap(), 3, 6)).await;
    agent.forget().await;
    let (_, job) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(
        (&job["status"], &job["error_message"]),
        (&json!("failed"), &json!("exit code 3"))
    );
}
