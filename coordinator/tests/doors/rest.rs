//! The REST door without an agent: login, submissions and their refusals, lists, health.

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

#[tokio::test]
async fn a_user_logs_in_refreshes_and_is_told_who_it_is() {
    let world = World::start().await;
    let (status, tokens) = world.login("admin@example.com", "admin123").await;
    assert_eq!(status, 200);
    assert_eq!(
        keys(&tokens),
        ["access_token", "refresh_token", "token_type"]
    );
    assert_eq!(tokens["token_type"], "bearer");
    for (user, password) in [("admin@example.com", "wrong"), ("nobody@example.com", "x")] {
        let answer = world.login(user, password).await;
        assert_eq!(answer, (401, detail("Incorrect email or password")));
    }
    let json_body = world
        .plain(Method::POST, "/auth/login")
        .json(&json!({"username": "a"}));
    let missing = |name| json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": null});
    let expected = json!({"detail": [missing("username"), missing("password")]});
    assert_eq!(world.send(json_body).await, (422, expected));

    let refresh = |token: &str| {
        let query = [("refresh_token", token.to_owned())];
        world.plain(Method::POST, "/auth/refresh").query(&query)
    };
    let (status, newer) = world
        .send(refresh(tokens["refresh_token"].as_str().unwrap()))
        .await;
    assert_eq!((status, keys(&newer)), (200, keys(&tokens)));
    let (status, refused) = world.send(refresh("x")).await;
    assert_eq!(status, 401);
    let words = refused["detail"].as_str().unwrap();
    assert!(words.starts_with("Invalid refresh token: "), "{words}");
    let without = world.plain(Method::POST, "/auth/refresh");
    assert_eq!(world.send(without).await.0, 422);

    let (status, me) = world.get("/auth/me").await;
    assert_eq!(status, 200);
    let expected = "email full_name company company_custom division division_custom department \
        phone_number bio id system_role is_active badge_color avatar_name organization_id created_at";
    assert_eq!(keys(&me), expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        (&me["email"], &me["system_role"]),
        (&json!("admin@example.com"), &json!("admin"))
    );
    let (status, bye) = world.post("/auth/logout").await;
    assert_eq!((status, keys(&bye)), (200, vec!["message"]));
}

#[tokio::test]
async fn every_route_of_users_asks_for_a_token_and_says_which_scheme() {
    let world = World::start().await;
    let routes = [
        (Method::GET, "/auth/me"),
        (Method::POST, "/auth/logout"),
        (Method::POST, "/training/jobs"),
        (Method::GET, "/training/jobs"),
        (Method::GET, "/training/jobs/1"),
        (Method::GET, "/training/jobs/1/status"),
        (Method::GET, "/training/jobs/1/metrics"),
        (Method::GET, "/training/jobs/1/metric-schema"),
        (Method::GET, "/training/jobs/1/logs"),
        (Method::GET, "/training/jobs/1/checkpoints"),
        (Method::POST, "/training/jobs/1/cancel"),
        (Method::POST, "/training/jobs/1/restart"),
        (Method::POST, "/training/jobs/1/start"),
        (Method::POST, "/training/stop/1"),
        (Method::GET, "/projects/1/experiments"),
        (Method::GET, "/validation/jobs/1/results"),
        (Method::GET, "/validation/jobs/1/summary"),
    ];
    for (method, path) in routes {
        for (token, words) in [
            (None, "Not authenticated"),
            (Some("x.y.z"), "Could not validate credentials"),
        ] {
            let mut request = world.plain(method.clone(), path);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{path}");
            assert_eq!(
                answer.json::<Value>().await.unwrap(),
                detail(words),
                "{path}"
            );
        }
    }
}

const INTEGER: &str =
    "int_parsing: Input should be a valid integer, unable to parse string as an integer";
const STRING: &str = "string_type: Input should be a valid string";

/// Where each finding stands and what it says.
const FINDINGS: [(&str, &str); 16] = [
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
            "task_type",
            json!("sing"),
            400,
            "task_type: unknown task 'sing'; known are classification, detection, segmentation, pose",
        ),
        (
            "framework",
            json!("timm"),
            400,
            "framework: unknown framework 'timm'; known are command, sklearn, ultralytics",
        ),
        (
            "command",
            json!(["x"]),
            400,
            "command: is only for framework 'command'; leave it out",
        ),
        (
            "dataset_id",
            json!("d1"),
            503,
            "Labeler is not configured, so dataset 'd1' cannot be looked up; give dataset_path instead",
        ),
    ] {
        let mut body = yolo();
        body["config"][field] = value;
        let answer = world.post_json("/training/jobs", &body).await;
        assert_eq!(answer, (status, detail(words)), "{field}");
    }
    let mut body = yolo();
    body["config"].as_object_mut().unwrap().remove("framework");
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(
        (status, answer),
        (
            400,
            detail("framework: unknown framework 'timm'; known are command, sklearn, ultralytics")
        )
    );
    let mut both = yolo();
    both["config"]["epochs"] = json!(0);
    both["config"]["model_name"] = json!("");
    assert_eq!(world.post_json("/training/jobs", &both).await.0, 422);
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
}

#[tokio::test]
async fn unknown_paths_methods_and_numbers_are_answered_as_the_contract_says() {
    let world = World::start().await;
    assert_eq!(world.get("/nothing").await, (404, detail("Not Found")));
    let no_job = (404, detail("Training job not found"));
    for path in [
        "",
        "/status",
        "/metrics",
        "/metric-schema",
        "/logs",
        "/checkpoints",
    ] {
        assert_eq!(
            world.get(&format!("/training/jobs/77{path}")).await,
            no_job,
            "{path}"
        );
        let far = format!("/training/jobs/99999999999999999999{path}");
        assert_eq!(world.get(&far).await, no_job, "{path}");
    }
    for path in [
        "jobs/77/cancel",
        "jobs/77/restart",
        "jobs/77/start",
        "stop/77",
    ] {
        assert_eq!(
            world.post(&format!("/training/{path}")).await,
            no_job,
            "{path}"
        );
    }
    for path in ["/training/jobs/1", "/auth/me", "/training/jobs/1/logs"] {
        let answer = world.post(path).await;
        assert_eq!(answer, (405, detail("Method Not Allowed")), "{path}");
    }
    let integer = "Input should be a valid integer, unable to parse string as an integer";
    let entry = |place: Value, input: &str| json!({"detail": [{"type": "int_parsing", "loc": place, "msg": integer, "input": input}]});
    let expected = entry(json!(["path", "job_id"]), "abc");
    assert_eq!(world.get("/training/jobs/abc").await, (422, expected));
    let expected = entry(json!(["path", "project_id"]), "x");
    assert_eq!(world.get("/projects/x/experiments").await, (422, expected));
    let id = world.submit(&command()).await;
    let expected = entry(json!(["query", "limit"]), "many");
    let path = format!("/training/jobs/{id}/metrics?limit=many");
    assert_eq!(world.get(&path).await, (422, expected));
    let (status, answer) = world
        .get(&format!("/training/jobs/{id}/logs?limit=0&log_type=x"))
        .await;
    assert_eq!(status, 422);
    let kinds: Vec<_> = answer["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["type"])
        .collect();
    assert_eq!(kinds, ["greater_than_equal", "literal_error"]);
    assert_eq!(world.get("/training/jobs?status=lost").await.0, 422);
}

#[tokio::test]
async fn jobs_are_listed_by_page_status_and_project() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let mut body = command();
        body["project_id"] = json!(number % 2);
        ids.push(world.submit(&body).await);
    }
    let listed = async |path: &str| {
        let (status, answer) = world.get(path).await;
        assert_eq!(status, 200, "{answer}");
        let jobs = answer["jobs"].as_array().unwrap().iter();
        let ids: Vec<u64> = jobs.map(|job| job["id"].as_u64().unwrap()).collect();
        (ids, answer["next_cursor"].clone())
    };
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let (page, next) = listed(&format!("/training/jobs?limit=2{cursor}")).await;
        assert!(page.len() <= 2);
        seen.extend(page);
        let Some(next) = next.as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ids.reverse();
    assert_eq!(seen, ids);
    world
        .post(&format!("/training/jobs/{}/cancel", ids[0]))
        .await;
    assert_eq!(
        listed("/training/jobs?status=cancelled").await,
        (vec![ids[0]], Value::Null)
    );
    assert_eq!(
        listed("/training/jobs?status=pending").await,
        (ids[1..].to_vec(), Value::Null)
    );
    assert!(listed("/training/jobs?status=running").await.0.is_empty());
    let of_one = vec![ids[1], ids[3]];
    assert_eq!(listed("/training/jobs?project_id=1").await.0, of_one);
    let (status, experiments) = world.get("/projects/1/experiments").await;
    assert_eq!(status, 200);
    let found: Vec<_> = experiments
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].clone())
        .collect();
    assert_eq!(found, of_one.iter().map(|id| json!(id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_queued_job_is_cancelled_started_again_and_stopped() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    let path = |verb: &str| format!("/training/jobs/{id}/{verb}");
    let refused = world.post(&path("restart")).await;
    assert_eq!(
        refused,
        (400, detail("Cannot restart job with status 'pending'"))
    );
    let (status, job) = world.post(&path("start")).await;
    assert_eq!((status, &job["status"]), (200, &json!("pending")));
    let (status, job) = world.post(&path("cancel")).await;
    assert_eq!((status, &job["status"]), (200, &json!("cancelled")));
    assert_eq!(
        job["error_message"],
        "cancelled by a user before it started"
    );
    assert!(job["completed_at"].is_string());
    let refused = world.post(&path("cancel")).await;
    assert_eq!(
        refused,
        (400, detail("Cannot cancel job with status 'cancelled'"))
    );
    let (status, job) = world.post(&path("restart")).await;
    assert_eq!((status, &job["status"]), (200, &json!("pending")));
    let (status, answer) = world.post(&format!("/training/stop/{id}")).await;
    assert_eq!(status, 200);
    assert_eq!(keys(&answer), ["job_id", "status", "message"]);
    assert_eq!(
        (&answer["job_id"], &answer["status"]),
        (&json!(id), &json!("stopped"))
    );
    let (_, job) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(job["status"], "cancelled");
    let (status, job) = world.post(&path("start?resume=true")).await;
    assert_eq!((status, &job["status"]), (200, &json!("pending")));
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
            json!({"cpus": 2, "memory": "1GiB", "gpu_memory_bytes": 5}),
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
}

#[tokio::test]
async fn health_tells_what_it_has_looked_up() {
    let world = World::start().await;
    world.submit(&command()).await;
    for url in ["health", "api/v1/health"] {
        let url = format!("http://{}/{url}", world.address);
        let (status, health) = world.send(world.http.get(url)).await;
        assert_eq!(status, 200);
        assert_eq!(health["status"], "healthy");
        assert_eq!(health["database"], "connected");
        assert_eq!(
            (&health["open_jobs"], &health["nodes"]),
            (&json!(1), &json!(0))
        );
    }
}
