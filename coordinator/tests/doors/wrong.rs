//! Bad input to the REST door beside submissions: every bad field at once, in the contract's shape, and
//! nothing in another.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    datasets::{add, folders, manifest, snapshot_job, snapshot_of},
    world::{World, command},
};

/// Places of the entries of a 422.
fn places((status, answer): (u16, Value)) -> Vec<String> {
    assert_eq!(status, 422, "{answer}");
    let entries = answer["detail"].as_array().unwrap().iter();
    let place = |entry: &Value| {
        let parts = entry["loc"].as_array().unwrap().iter();
        let parts: Vec<_> = parts.map(|part| part.as_str().unwrap()).collect();
        parts.join(".")
    };
    entries.map(place).collect()
}

#[tokio::test]
async fn every_bad_parameter_of_a_query_is_named_at_once() {
    let world = World::start().await;
    let job = world.submit(&command()).await;
    let metrics = format!("/training/jobs/{job}/metrics");
    let bad = "order=up&since_epoch=-1";
    for (query, wanted) in [
        (
            "limit=abc",
            vec!["query.limit", "query.order", "query.since_epoch"],
        ),
        ("after_id=1038", vec!["query.order", "query.since_epoch"]),
        (
            "after_id=x&limit=0",
            vec![
                "query.limit",
                "query.order",
                "query.since_epoch",
                "query.after_id",
            ],
        ),
    ] {
        let answer = world.get(&format!("{metrics}?{query}&{bad}")).await;
        assert_eq!(places(answer), wanted, "{query}");
    }
    let answer = world
        .get(&format!("{metrics}?after_id=0&order=desc&since_epoch=3"))
        .await;
    assert_eq!(answer, (200, json!([])));
}

#[tokio::test]
async fn every_bad_field_of_a_dataset_or_an_account_is_named_at_once() {
    let world = World::start().await;
    let body = json!({"id": "a b", "storage_path": "", "format": "zip", "task_type": "sing", "description": 5});
    let found = places(world.post_json("/datasets", &body).await);
    let wanted = ["description", "id", "storage_path", "format", "task_type"];
    assert_eq!(found, wanted.map(|name| format!("body.{name}")));

    let body =
        json!({"name": "A B", "system_role": "king", "project_id": "x", "project_role": "boss"});
    let mut found = places(world.post_json("/service-accounts", &body).await);
    found.sort();
    let wanted = ["name", "project_id", "project_role", "system_role"];
    assert_eq!(found, wanted.map(|name| format!("body.{name}")));

    let long = "x".repeat(2_001);
    for (path, body, wanted) in [
        (
            "/api-keys",
            json!({"name": "A B", "user_id": "x", "expires_in_seconds": 0}),
            &["expires_in_seconds", "name", "user_id"][..],
        ),
        (
            "/projects",
            json!({"name": " x", "description": long}),
            &["description", "name"],
        ),
        (
            "/projects",
            json!({"description": 7}),
            &["description", "name"],
        ),
        (
            "/nodes/tokens",
            json!({"node_name": "a b", "uses": 0, "ttl_seconds": 0}),
            &["node_name", "ttl_seconds", "uses"],
        ),
    ] {
        let mut found = places(world.post_json(path, &body).await);
        found.sort();
        let wanted = wanted.iter().map(|name| format!("body.{name}"));
        assert_eq!(found, wanted.collect::<Vec<_>>(), "{path}");
    }
    let project = world.project("vision").await;
    let body = json!({"name": "x ", "description": long});
    for method in [Method::PUT, Method::PATCH] {
        let change = (method, &*format!("/projects/{project}"));
        let found = places(world.call(&world.token, change, body.clone()).await);
        assert_eq!(found, ["body.name", "body.description"]);
    }
}

/// Calls with something wrong in several places: method, path, body, and what is named.
const PLACES: [[&str; 4]; 12] = [
    [
        "GET",
        "/training/jobs/abc/metrics?limit=x",
        "",
        "path.job_id query.limit",
    ],
    [
        "GET",
        "/training/jobs/abc/logs?log_type=x",
        "",
        "path.job_id query.log_type",
    ],
    [
        "GET",
        "/validation/jobs/abc/results?limit=x",
        "",
        "path.job_id query.limit",
    ],
    [
        "GET",
        "/validation/jobs/abc/summary?limit=x",
        "",
        "path.job_id query.limit",
    ],
    [
        "POST",
        "/training/jobs/abc/start?checkpoint_path=%00&resume=x",
        "",
        "path.job_id query.checkpoint_path query.resume",
    ],
    [
        "POST",
        "/training/jobs/abc/checkpoints/upload-url",
        r#"{"checkpoint_filename": "a/b", "content_type": 5}"#,
        "path.job_id body.content_type body.checkpoint_filename",
    ],
    [
        "PATCH",
        "/users/abc",
        r#"{"system_role": "king"}"#,
        "path.user_id body.system_role",
    ],
    [
        "PUT",
        "/users/abc/password",
        r#"{"password": "x"}"#,
        "path.user_id body.password",
    ],
    [
        "PUT",
        "/projects/abc",
        r#"{"name": ""}"#,
        "path.project_id body.name",
    ],
    [
        "POST",
        "/projects/abc/members",
        r#"{"role": "boss"}"#,
        "path.project_id body.email body.role",
    ],
    [
        "PUT",
        "/projects/abc/members/def",
        r#"{"role": "boss"}"#,
        "path.project_id path.user_id body.role",
    ],
    [
        "DELETE",
        "/projects/abc/members/def",
        "",
        "path.project_id path.user_id",
    ],
];

#[tokio::test]
async fn what_is_wrong_in_path_query_header_and_body_is_named_at_once() {
    let world = World::start().await;
    for [method, path, body, wanted] in PLACES {
        let method = method.parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or_default();
        let answer = world.call(&world.token, (method, path), body).await;
        assert_eq!(places(answer).join(" "), wanted, "{path}");
    }
    let mut body = command();
    body["config"]["priority"] = json!("x");
    let submit = world.plain(Method::POST, "/training/jobs").json(&body);
    let submit = submit.bearer_auth(&world.token);
    let answer = world.send(submit.header("idempotency-key", "a b")).await;
    let wanted = ["header.idempotency-key", "body.config.priority"];
    assert_eq!(places(answer), wanted);
}

#[tokio::test]
async fn a_wrong_method_is_told_so_also_at_the_pages_of_the_document() {
    let world = World::start().await;
    for path in [
        "docs",
        "docs/",
        "api/v1/openapi.json",
        "api/v1/models/list",
        "health",
    ] {
        let url = format!("http://{}/{path}", world.address);
        let answer = world.send(world.http.post(url)).await;
        let wanted = (405, json!({"detail": "Method Not Allowed"}));
        assert_eq!(answer, wanted, "{path}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_no_trainer_can_be_given_is_refused_at_a_start() {
    let world = World::start().await;
    let job = world.submit(&command()).await;
    world.post(&format!("/training/jobs/{job}/cancel")).await;
    let long = "x".repeat(4_097);
    for (path, words) in [("a%00", "NUL"), (long.as_str(), "4096 characters")] {
        let call = format!("/training/jobs/{job}/start?checkpoint_path={path}");
        let (status, answer) = world.post(&call).await;
        assert_eq!(status, 422, "{answer}");
        let entry = &answer["detail"][0];
        assert_eq!(entry["loc"], json!(["query", "checkpoint_path"]));
        assert!(entry["msg"].as_str().unwrap().contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_text_is_the_name_of_nothing() {
    let world = World::start().await;
    for (method, path) in [
        (Method::GET, "/models/timm/%ff"),
        (Method::GET, "/models/%ff/resnet18"),
        (Method::GET, "/models/capabilities/%ff"),
        (Method::DELETE, "/nodes/tokens/%ff"),
        (Method::POST, "/nodes/%ff/revoke"),
        (Method::GET, "/datasets/%ff"),
        (Method::GET, "/snapshots/%ff"),
    ] {
        let request = world.plain(method, path).bearer_auth(&world.token);
        // It is JSON, or this fails.
        let (status, answer) = world.send(request).await;
        assert_eq!(status, 404, "{path}: {answer}");
        assert!(answer["detail"].is_string(), "{path}: {answer}");
    }
}

/// With one entry, `../escaped.txt`.
const ARCHIVE: &[u8] = b"PK\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00!\x00\x99m\xea\xb9\x03\x00\x00\x00\x03\x00\x00\x00\x0e\x00\x00\x00../escaped.txtoutPK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00\x00\x00!\x00\x99m\xea\xb9\x03\x00\x00\x00\x03\x00\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00../escaped.txtPK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00<\x00\x00\x00/\x00\x00\x00\x00\x00";

/// All files below a folder.
fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found
}

#[tokio::test]
async fn an_archive_is_a_file_and_is_never_unpacked() {
    let world = World::start().await;
    let outer = tempfile::tempdir().unwrap();
    let set = outer.path().join("set");
    folders(&set, 3);
    fs::write(set.join("evil.zip"), ARCHIVE).unwrap();
    add(&world, "pets", set.to_str().unwrap()).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    snapshot_of(&world, &snapshot_job("pets")).await;
    let start = agent.start().await;
    let listed = manifest(&world, &start, "").await.unwrap();
    let archive = listed.iter().find(|file| file.path == "evil.zip").unwrap();
    let url = format!("http://{}{}", world.address, archive.url);
    let bytes = world
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(bytes, ARCHIVE);

    // An archive is no dataset either: a folder or a URL's prefix is.
    let body = json!({"id": "packed", "storage_path": set.join("evil.zip")});
    let (status, answer) = world.post_json("/datasets", &body).await;
    assert_eq!(status, 400, "{answer}");

    let job = world.submit(&command()).await;
    let path = format!("/training/jobs/{job}/checkpoints/upload-url");
    let body = json!({"checkpoint_filename": "evil.zip", "content_type": "application/zip"});
    let (_, told) = world.post_json(&path, &body).await;
    let put = world.http.put(told["upload_url"].as_str().unwrap());
    assert_eq!(put.body(ARCHIVE).send().await.unwrap().status(), 200);

    let mut all = files(outer.path());
    all.extend(files(&world.data()));
    let of = |name: &str| all.iter().filter(|path| path.ends_with(name)).count();
    assert_eq!((of("escaped.txt"), of("evil.zip")), (0, 2), "{all:#?}");
    let stored = all
        .iter()
        .find(|path| path.ends_with(&format!("{job}/evil.zip")));
    assert_eq!(fs::read(stored.unwrap()).unwrap(), ARCHIVE);
}
