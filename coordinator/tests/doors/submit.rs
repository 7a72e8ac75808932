//! Submissions over the REST door: what is accepted, and each refusal in the contract's words.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, command, keys, yolo};

/// Of a job, in the contract's order.
const JOB_KEYS: &str = "id session_id project_id project_name experiment_name tags notes \
    mlflow_run_id workflow_id dataset_snapshot_id framework model_name task_type num_classes \
    custom_docker_image dataset_path dataset_format output_dir epochs batch_size learning_rate \
    advanced_config status error_message process_id final_accuracy best_checkpoint_path \
    last_checkpoint_path primary_metric primary_metric_mode created_at started_at completed_at";

fn detail(text: &str) -> Value {
    json!({"detail": text})
}

#[tokio::test]
async fn the_quick_test_of_the_old_platform_passes() {
    let world = World::start().await;
    let mut body = yolo();
    body["experiment_name"] = json!("first");
    body["tags"] = json!(["a", "b"]);
    body["config"]["advanced_config"] = json!({"optimizer": {"type": "adam"}, "x": [1, null]});
    let (status, created) = world.post_json("/training/jobs", &body).await;
    assert_eq!((status, &created["status"]), (200, &json!("pending")));
    let id = created["id"].as_u64().unwrap();
    let (status, job) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(status, 200);
    assert_eq!(keys(&job), JOB_KEYS.split_whitespace().collect::<Vec<_>>());
    for (key, value) in [
        ("workflow_id", json!(format!("training-job-{id}"))),
        ("experiment_name", json!("first")),
        ("tags", json!(["a", "b"])),
        ("framework", json!("ultralytics")),
        ("epochs", json!(2)),
        ("batch_size", json!(8)),
        ("learning_rate", json!(0.01)),
        ("dataset_path", json!("/data/set")),
        ("dataset_snapshot_id", Value::Null),
        ("advanced_config", body["config"]["advanced_config"].clone()),
        ("primary_metric", json!("mAP50")),
        ("primary_metric_mode", json!("max")),
        ("started_at", Value::Null),
    ] {
        assert_eq!(job[key], value, "{key}");
    }
    let created_at = job["created_at"].as_str().unwrap();
    let naive = "2026-11-23T01:20:22.543843";
    assert_eq!(created_at.len(), naive.len(), "{created_at}");
    let (status, answer) = world.get(&format!("/training/jobs/{id}/status")).await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"job": job, "latest_metrics": []}));
}

const INTEGER: &str =
    "int_parsing: Input should be a valid integer, unable to parse string as an integer";
const STRING: &str = "string_type: Input should be a valid string";

/// Where each finding stands and what it says.
const FINDINGS: [(&str, &str); 17] = [
    ("body.session_id", INTEGER),
    (
        "body.experiment_name",
        r#"string_too_long: String should have at most 200 characters {"max_length":200}"#,
    ),
    ("body.tags.1", STRING),
    ("body.config.model_name", STRING),
    ("body.config.task_type", "missing: Field required"),
    (
        "body.config.num_classes",
        r#"greater_than_equal: Input should be greater than or equal to 2 {"ge":2}"#,
    ),
    ("body.config.dataset_format", STRING),
    (
        "body.config.split_strategy.method",
        r#"literal_error: Input should be 'use_dataset', 'auto' or 'custom' {"expected":"'use_dataset', 'auto' or 'custom'"}"#,
    ),
    (
        "body.config.epochs",
        r#"greater_than_equal: Input should be greater than or equal to 1 {"ge":1}"#,
    ),
    (
        "body.config.batch_size",
        r#"less_than_equal: Input should be less than or equal to 512 {"le":512}"#,
    ),
    (
        "body.config.learning_rate",
        r#"less_than: Input should be less than 1 {"lt":1.0}"#,
    ),
    (
        "body.config.advanced_config",
        "model_attributes_type: Input should be a valid dictionary or object to extract fields from",
    ),
    (
        "body.config.dataset_path",
        "value_error: Either dataset_id or dataset_path must be provided",
    ),
    ("body.config.environment.A", STRING),
    (
        "body.config.resources.cpus",
        r#"greater_than_equal: Input should be greater than or equal to 1 {"ge":1}"#,
    ),
    (
        "body.config.resources.memory",
        r#"value_error: Value error, memory size '-4GB' is negative; write for example 16GiB {"error":{}}"#,
    ),
    (
        "body.config.resources.gpu_memory",
        r#"value_error: Value error, memory size '-1' is negative; write for example 16GiB {"error":{}}"#,
    ),
];

/// An entry of a 422 on one line.
fn told(entry: &Value) -> (String, String) {
    let place = entry["loc"].as_array().unwrap().iter();
    let place: Vec<_> = place
        .map(|part| part.to_string().replace('"', ""))
        .collect();
    let text = |key: &str| entry[key].as_str().unwrap().to_owned();
    let context = entry.get("ctx").map_or(String::new(), |c| format!(" {c}"));
    let words = format!("{}: {}{context}", text("type"), text("msg"));
    (place.join("."), words)
}

#[tokio::test]
async fn every_bad_field_of_a_submission_is_named_at_once() {
    let world = World::start().await;
    let body = json!({
        "experiment_name": "n".repeat(201), "tags": ["a", 5], "session_id": "x",
        "config": {
            "model_name": null, "num_classes": 1, "epochs": 0, "batch_size": 513,
            "learning_rate": 1, "advanced_config": "fast", "dataset_format": 7,
            "split_strategy": {"method": "half"}, "environment": {"A": 1},
            "resources": {"memory": "-4GB", "gpu_memory": -1, "cpus": 0},
        },
    });
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 422);
    let found: Vec<_> = answer["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(told)
        .collect();
    for (place, words) in FINDINGS {
        let expected = (place.to_owned(), words.to_owned());
        assert!(
            found.contains(&expected),
            "{expected:?} is not in {found:#?}"
        );
    }
    assert_eq!(found.len(), FINDINGS.len(), "{found:#?}");
    let (status, answer) = world.post_json("/training/jobs", &json!({})).await;
    let expected = (
        "body.config".to_owned(),
        "missing: Field required".to_owned(),
    );
    assert_eq!((status, told(&answer["detail"][0])), (422, expected));
}

#[tokio::test]
async fn what_a_submission_lacks_is_told_in_the_words_of_the_contract() {
    let world = World::start().await;
    for (field, value, status, words) in [
        ("model_name", json!(""), 400, "model_name is required"),
        ("task_type", json!(""), 400, "task_type is required"),
        (
            "dataset_path",
            Value::Null,
            400,
            "Either dataset_id or dataset_path must be provided",
        ),
        (
            "dataset_id",
            json!("d1"),
            404,
            "Dataset 'd1' not found; register it with `trainyard dataset add`",
        ),
    ] {
        let mut body = yolo();
        body["config"][field] = value;
        let answer = world.post_json("/training/jobs", &body).await;
        assert_eq!(answer, (status, detail(words)), "{field}");
    }
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
}

#[tokio::test]
async fn what_a_submission_names_wrong_is_told_at_once_with_what_it_lacks() {
    let world = World::start().await;
    let body = json!({
        "notes": "n".repeat(65_537), "tags": vec!["t"; 101],
        "config": {
            "framework": "zz", "task_type": "yy", "model_name": "", "epochs": 0,
            "dataset_path": "/data\u{0}", "custom_docker_image": "i".repeat(1_001),
            "split_strategy": {"method": "auto", "ratio": [5, -1], "custom_splits": {"a": "foo"}},
            "primary_metric_mode": "up", "command": ["x"], "environment": {"1A": "b"},
        },
    });
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 422, "{answer}");
    let told = answer["detail"].as_array().unwrap().iter().map(told);
    let mut found: Vec<_> = told
        .map(|(place, _)| place.replacen("body.", "", 1))
        .collect();
    found.sort();
    let wanted = [
        "config.command",
        "config.custom_docker_image",
        "config.dataset_path",
        "config.environment",
        "config.epochs",
        "config.framework",
        "config.model_name",
        "config.primary_metric_mode",
        "config.split_strategy.custom_splits",
        "config.split_strategy.ratio",
        "config.task_type",
        "notes",
        "tags",
    ];
    assert_eq!(found, wanted);
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
}

#[tokio::test]
async fn a_wrong_word_is_422_at_its_field() {
    let world = World::start().await;
    for (field, value, words) in [
        (
            "task_type",
            json!("sing"),
            "unknown task 'sing'; known are classification, detection, segmentation, pose",
        ),
        (
            "framework",
            json!("pytorch"),
            "unknown framework 'pytorch'; known are command, sklearn, timm, ultralytics",
        ),
        (
            "command",
            json!(["x"]),
            "is only for framework 'command'; leave it out",
        ),
    ] {
        let mut body = yolo();
        body["config"][field] = value.clone();
        let entry = json!({
            "type": "value_error", "loc": ["body", "config", field], "msg": words, "input": value,
        });
        let answer = world.post_json("/training/jobs", &body).await;
        assert_eq!(answer, (422, json!({"detail": [entry]})), "{field}");
    }
}

#[tokio::test]
async fn the_framework_is_timm_when_none_is_named() {
    let world = World::start().await;
    let mut body = yolo();
    body["config"].as_object_mut().unwrap().remove("framework");
    body["config"]["task_type"] = json!("classification");
    let (status, job) = world.post_json("/training/jobs", &body).await;
    assert_eq!((status, &job["framework"]), (200, &json!("timm")));
}

#[tokio::test]
async fn our_own_fields_reach_the_specification() {
    let world = World::start().await;
    let mut body = yolo();
    for (field, value) in [
        ("imgsz", json!(320)),
        ("device", json!(0)),
        ("priority", json!(7)),
        ("time_limit_seconds", json!(60)),
        ("grace_period_seconds", json!(1.5)),
        ("environment", json!({"A": "b"})),
        (
            "resources",
            json!({"cpus": 2, "memory": "1GiB", "gpus": 1, "gpu_memory_bytes": 5}),
        ),
    ] {
        body["config"][field] = value;
    }
    let job_id = world.submit(&body).await;
    let mut jobs = world.jobs().await;
    let request = trainyard_proto::v1::GetJobRequest { job_id };
    let spec = jobs
        .get_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(
        (spec.image_size, spec.device.as_str(), spec.priority),
        (Some(320), "0", 7)
    );
    assert_eq!(spec.time_limit.unwrap().seconds, 60);
    let grace = spec.grace_period.unwrap();
    assert_eq!((grace.seconds, grace.nanos), (1, 500_000_000));
    assert_eq!(spec.environment["A"], "b");
    let resources = spec.resources.unwrap();
    assert_eq!(
        (
            resources.cpus,
            resources.memory_bytes,
            resources.gpu_memory_bytes
        ),
        (2, 1 << 30, 5)
    );
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_job_again() {
    let world = World::start().await;
    let submit = async |key: &str| {
        let request = world
            .plain(Method::POST, "/training/jobs")
            .bearer_auth(&world.token);
        let request = request.header("idempotency-key", key).json(&command());
        world.send(request).await.1["id"].clone()
    };
    let first = submit("k").await;
    assert_eq!(submit("k").await, first);
    assert_ne!(submit("other").await, first);
    let request = world.plain(Method::POST, "/training/jobs");
    let request = request.bearer_auth(&world.token).json(&command());
    let (status, answer) = world.send(request.header("idempotency-key", "a b")).await;
    let place = &answer["detail"][0]["loc"];
    assert_eq!(
        (status, place),
        (422, &json!(["header", "idempotency-key"]))
    );
}

#[tokio::test]
async fn an_idempotency_key_of_another_submission_is_409() {
    let world = World::start().await;
    let submit = async |body: &Value| {
        let request = world
            .plain(Method::POST, "/training/jobs")
            .bearer_auth(&world.token);
        world
            .send(request.header("idempotency-key", "k").json(body))
            .await
    };
    let (_, first) = submit(&command()).await;
    let mut other = command();
    other["config"]["priority"] = json!(1);
    let words = format!(
        "this Idempotency-Key has made job {} from another submission; send the same one again to get that job, or choose another key",
        first["id"]
    );
    assert_eq!(submit(&other).await, (409, detail(&words)));
    // The job may have changed meanwhile; what was asked for has not.
    world
        .post(&format!("/training/jobs/{}/cancel", first["id"]))
        .await;
    let (status, again) = submit(&command()).await;
    assert_eq!((status, &again["id"]), (200, &first["id"]));
    let (_, all) = world.get("/training/jobs").await;
    assert_eq!(all["jobs"].as_array().unwrap().len(), 1);
    let somebody = world.somebody("bob", "standard_engineer").await.1;
    let request = world
        .plain(Method::POST, "/training/jobs")
        .bearer_auth(somebody);
    let request = request.header("idempotency-key", "k").json(&other);
    assert_eq!(world.send(request).await.0, 200);
}

#[tokio::test]
async fn an_empty_dataset_id_is_none_and_the_path_is_shown() {
    let world = World::start().await;
    let mut body = yolo();
    body["config"]["dataset_id"] = json!("");
    let (status, job) = world.post_json("/training/jobs", &body).await;
    assert_eq!((status, &job["dataset_path"]), (200, &json!("/data/set")));
}

#[tokio::test]
async fn a_task_that_the_framework_cannot_train_is_422_at_the_task() {
    let world = World::start().await;
    for framework in ["timm", "sklearn"] {
        let mut body = yolo();
        body["config"]["framework"] = json!(framework);
        let (status, answer) = world.post_json("/training/jobs", &body).await;
        let words = format!(
            "'detection' cannot be trained by framework '{framework}', which trains classification; choose framework ultralytics"
        );
        let entry = json!({
            "type": "value_error", "loc": ["body", "config", "task_type"], "msg": words,
            "input": "object_detection",
        });
        assert_eq!((status, answer), (422, json!({"detail": [entry]})));
    }
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
}
