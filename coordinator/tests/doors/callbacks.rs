//! Reports of trainers to the coordinator itself, and what old clients read of a run.

use reqwest::Method;
use serde_json::{Value, json};
use trainyard_core::record::LogStream;
use trainyard_proto::v1;

use crate::{
    agent::{Agent, epoch, exited, line},
    live::Watcher,
    world::{World, keys, yolo},
};

pub(crate) fn progress(epoch: u32, metrics: Value) -> Value {
    json!({"job_id": 1, "status": "running", "current_epoch": epoch, "total_epochs": 2,
        "metrics": metrics, "checkpoint_path": format!("/c/{epoch}.pt"), "best_checkpoint_path": "/c/1.pt"})
}

/// A running job, and how its trainer reports.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) agent: Agent,
    pub(crate) start: v1::StartTask,
    pub(crate) id: u64,
}

impl Run {
    pub(crate) async fn begin() -> Self {
        let world = World::start().await;
        let mut agent = Agent::join(&world, "n1", 4).await;
        let id = world.submit(&yolo()).await;
        let start = agent.run().await;
        world.until(id, "running").await;
        Self {
            world,
            agent,
            start,
            id,
        }
    }

    pub(crate) async fn says(&self, name: &str, body: &Value) -> (u16, Value) {
        let path = format!("/training/jobs/{}/callback/{name}", self.id);
        self.world.callback(&self.start.secret, &path, body).await
    }

    pub(crate) async fn read(&self, path: &str) -> Value {
        let path = format!("/training/jobs/{}{path}", self.id);
        let (status, answer) = self.world.get(&path).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(crate) async fn epochs(&self, query: &str) -> Vec<u64> {
        let rows = self.read(&format!("/metrics?{query}")).await;
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["epoch"].as_u64().unwrap()).collect()
    }

    /// A start, the first epoch twice, the second once.
    async fn two_epochs(&self) {
        let first = json!({"loss": 0.5, "accuracy": 0.25, "extra_metrics": {"mAP50": 0.1}});
        for body in [
            progress(0, Value::Null),
            progress(1, first.clone()),
            progress(1, first),
            progress(2, json!({"loss": 0.25})),
        ] {
            let expected = taken("Progress received");
            assert_eq!(self.says("progress", &body).await, expected);
        }
    }
}

fn taken(message: &str) -> (u16, Value) {
    let answer = json!({"success": true, "message": message, "job_status": "running"});
    (200, answer)
}

#[tokio::test]
async fn an_epoch_that_is_reported_twice_is_one_point() {
    let run = Run::begin().await;
    run.two_epochs().await;
    let rows = run.read("/metrics").await;
    let row = &rows[0];
    let expected = "id job_id epoch step loss accuracy learning_rate extra_metrics \
        checkpoint_path created_at";
    assert_eq!(keys(row), expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!((&row["epoch"], &row["loss"]), (&json!(1), &json!(0.5)));
    assert_eq!(row["learning_rate"], Value::Null);
    let all = json!({"accuracy": 0.25, "loss": 0.5, "mAP50": 0.1});
    assert_eq!(row["extra_metrics"], all);
    assert_eq!(run.epochs("").await, [1, 2]);
    assert_eq!(run.epochs("limit=1").await, [1]);
    assert_eq!(run.epochs("limit=1&order=desc").await, [2]);
    assert_eq!(run.epochs("order=desc").await, [2, 1]);
    assert_eq!(run.epochs("since_epoch=2").await, [2]);
    let status = run.read("/status").await;
    assert_eq!(status["latest_metrics"], rows);
}

#[tokio::test]
async fn what_was_reported_is_told_by_schema_and_checkpoints() {
    let run = Run::begin().await;
    run.two_epochs().await;
    let expected = json!({
        "job_id": run.id, "framework": "ultralytics", "task_type": "object_detection",
        "primary_metric": "mAP50", "primary_metric_mode": "max",
        "available_metrics": ["accuracy", "loss", "mAP50"], "metric_count": 2,
    });
    assert_eq!(run.read("/metric-schema").await, expected);
    let expected = json!({"checkpoints": [
        {"path": "/c/1.pt", "filename": "1.pt", "is_best": true, "epoch": 1},
        {"path": "/c/2.pt", "filename": "2.pt", "is_best": false, "epoch": 2},
    ]});
    assert_eq!(run.read("/checkpoints").await, expected);
    let job = run.read("").await;
    assert_eq!(job["best_checkpoint_path"], "/c/1.pt");
    assert_eq!(job["last_checkpoint_path"], "/c/2.pt");
}

#[tokio::test]
async fn a_late_report_changes_nothing() {
    let mut run = Run::begin().await;
    run.two_epochs().await;
    let said = json!({"job_id": 1, "event_type": "x", "message": "one\ntwo", "level": "error"});
    for name in ["log", "logs"] {
        assert_eq!(run.says(name, &said).await, taken("Log received"));
    }
    let last = json!({"job_id": 1, "status": "failed", "total_epochs_completed": 2,
        "final_metrics": {"accuracy": 0.75}, "exit_code": 0});
    for _ in 0..2 {
        let answer = run.says("completion", &last).await;
        assert_eq!(answer, taken("Completion received"));
    }
    let task = run.start.task.unwrap();
    run.agent.report(exited(task, 0, 0)).await;
    run.agent.forget().await;
    let job = run.read("").await;
    assert_eq!(job["status"], "completed");
    assert_eq!(job["final_accuracy"], 0.75);
    let none = (404, json!({"detail": "Training job not found"}));
    for (name, body) in [
        ("progress", progress(3, json!({"loss": 9.0}))),
        ("completion", last),
        ("logs", said),
    ] {
        assert_eq!(run.says(name, &body).await, none);
    }
    assert_eq!(run.read("").await, job);
    assert_eq!(run.epochs("").await, [1, 2]);
    let lines = run.read("/logs?log_type=stderr").await;
    assert_eq!(lines.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn what_a_trainer_says_at_its_end_is_kept_whole_and_told() {
    let mut run = Run::begin().await;
    run.two_epochs().await;
    let last = json!({"job_id": run.id, "status": "completed", "total_epochs_completed": 2,
        "final_metrics": {"loss": 0.25}, "best_metrics": {"loss": 0.125, "extra_metrics": {"mAP50": 0.9}},
        "best_epoch": 2, "model_artifacts_path": "s3://models/1", "mlflow_run_id": "its-own", "exit_code": 0});
    let answer = run.says("completion", &last).await;
    assert_eq!(answer, taken("Completion received"));
    let task = run.start.task.unwrap();
    run.agent.report(exited(task, 0, 0)).await;
    run.agent.forget().await;
    assert_eq!(run.read("").await["mlflow_run_id"], "its-own");
    let mut watcher = Watcher::on(&run.world, &format!("?job_id={}", run.id)).await;
    let told = watcher.until_the_end().await;
    let end = told.last().unwrap();
    assert_eq!(
        (&end["type"], &end["best_epoch"]),
        (&json!("training_complete"), &json!(2))
    );
    let best = &end["best_metrics"];
    assert_eq!(
        (&best["loss"], &best["extra_metrics"]),
        (&json!(0.125), &json!({"mAP50": 0.9}))
    );
    let request = v1::GetJobRequest { job_id: run.id };
    let answer = run.world.jobs().await.get_job(request).await.unwrap();
    let job = answer.into_inner().job.unwrap();
    assert_eq!(
        (job.mlflow_run_id.as_str(), job.best_epoch),
        ("its-own", Some(2))
    );
    assert_eq!(job.model_artifacts_path, "s3://models/1");
    let best = [("loss".to_owned(), 0.125), ("mAP50".to_owned(), 0.9)];
    assert_eq!(job.best_metrics, best.into());
    let (status, _) = run
        .world
        .post(&format!("/training/jobs/{}/restart", run.id))
        .await;
    assert_eq!(status, 200);
    assert_eq!(run.read("").await["mlflow_run_id"], Value::Null);
}

#[tokio::test]
async fn a_body_that_names_another_job_than_the_path_is_refused_and_changes_nothing() {
    let run = Run::begin().await;
    let other = run.id + 1;
    let mut wrong = progress(1, json!({"loss": 0.5}));
    wrong["job_id"] = json!(other);
    let line = json!({"job_id": other, "event_type": "x", "message": "x"});
    let last = json!({"job_id": other, "status": "completed", "total_epochs_completed": 1});
    for (name, body) in [("progress", wrong), ("logs", line), ("completion", last)] {
        let (status, answer) = run.says(name, &body).await;
        assert_eq!(status, 422, "{answer}");
        let problem = &answer["detail"][0];
        assert_eq!(problem["loc"], json!(["body", "job_id"]));
        let words = problem["msg"].as_str().unwrap();
        assert!(
            words.contains("the body names job") && words.contains("JOB_ID"),
            "{words}"
        );
    }
    assert_eq!(run.epochs("").await, [0; 0]);
    assert_eq!(run.read("/logs").await, json!([]));
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
    let one = path.replace("results", "summary?limit=1&since_epoch=2");
    let (_, one) = world.get(&one).await;
    assert_eq!(
        (&one["total_epochs"], &one["last_epoch"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(one["epochs"].as_array().unwrap().len(), 1);
    assert_eq!(one["epochs"][0]["epoch"], 2);
    let mut beyond = json!({"job_id": id, "epoch": 1_000_000, "task_type": "detection",
        "primary_metric_name": "x".repeat(201)});
    let (status, refused) = world.callback(&start.secret, &path, &beyond).await;
    let places = refused["detail"].as_array().unwrap().iter();
    let places: Vec<_> = places.map(|entry| &entry["loc"][1]).collect();
    assert_eq!(
        (status, places),
        (422, vec![&json!("primary_metric_name"), &json!("epoch")])
    );
    beyond["epoch"] = json!(999_999);
    beyond["primary_metric_name"] = json!("mAP50");
    let (status, last) = world.callback(&start.secret, &path, &beyond).await;
    assert_eq!(
        (status, &last["validation_result_id"]),
        (200, &json!(id * 1_000_000 + 999_999))
    );
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
