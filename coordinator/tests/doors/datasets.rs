//! Datasets of the catalog in folders, and the snapshots that are made of them.

use std::{fs, path::Path};

use reqwest::Method;
use serde_json::{Value, json};
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::world::{World, yolo};

/// A class folder for each of two classes, with so many images each.
pub(crate) fn folders(root: &Path, each: usize) {
    for class in ["cat", "dog"] {
        let folder = root.join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..each {
            fs::write(
                folder.join(format!("{number:04}.png")),
                format!("{class} {number}"),
            )
            .unwrap();
        }
    }
}

/// Registers a dataset.
pub(crate) async fn add(world: &World, id: &str, path: &str) -> Value {
    let body = json!({"id": id, "storage_path": path});
    let (status, dataset) = world.post_json("/datasets", &body).await;
    assert_eq!(status, 200, "{dataset}");
    dataset
}

/// A submission with a dataset by its id.
pub(crate) fn snapshot_job(dataset: &str) -> Value {
    let mut body = yolo();
    body["config"]["task_type"] = json!("classification");
    body["config"]["dataset_path"] = Value::Null;
    body["config"]["dataset_id"] = json!(dataset);
    body
}

/// What `FetchManifest` tells of a started task.
pub(crate) async fn manifest(
    world: &World,
    start: &v1::StartTask,
    after: &str,
) -> Result<Vec<v1::SnapshotFile>, tonic::Status> {
    let pages = pages(world, start, after).await?;
    assert!(pages.iter().all(|page| page.changed.is_none()), "{pages:?}");
    Ok(pages.into_iter().flat_map(|page| page.files).collect())
}

/// What a node is told is another file now, and how; nothing else is told with it.
pub(crate) async fn changed(world: &World, start: &v1::StartTask) -> (String, String) {
    let pages = pages(world, start, "").await.unwrap();
    let [page] = &pages[..] else {
        panic!("{pages:?}");
    };
    assert!(page.files.is_empty());
    let changed = page.changed.clone().expect("a file");
    (changed.path, changed.how)
}

async fn pages(
    world: &World,
    start: &v1::StartTask,
    after: &str,
) -> Result<Vec<v1::FetchManifestResponse>, tonic::Status> {
    let request = world.of_agent(v1::FetchManifestRequest {
        task: start.task,
        secret: start.secret.clone(),
        after_path: after.to_owned(),
    });
    let mut client = AgentServiceClient::new(world.channel().await);
    let mut pages = client.fetch_manifest(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(page) = pages.message().await? {
        all.push(page);
    }
    Ok(all)
}

async fn delete(world: &World, path: &str) -> (u16, Value) {
    let request = world.plain(Method::DELETE, path).bearer_auth(&world.token);
    world.send(request).await
}

/// Submits and tells the snapshot.
pub(crate) async fn snapshot_of(world: &World, body: &Value) -> String {
    let (status, job) = world.post_json("/training/jobs", body).await;
    assert_eq!(status, 200, "{job}");
    job["dataset_snapshot_id"].as_str().unwrap().to_owned()
}

pub(crate) fn detail(answer: &Value) -> &str {
    answer["detail"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_snapshot_is_small_and_lies_in_the_artifact_store_before_the_job_is_answered() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 10);
    let added = add(&world, "pets", set.path().to_str().unwrap()).await;
    assert_eq!(
        (&added["format"], &added["owner"]),
        (&json!("imagefolder"), &json!("admin@example.com"))
    );
    let (_, job) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    let id = job["dataset_snapshot_id"].as_str().unwrap();
    let digits = id.strip_prefix("snap_").unwrap();
    assert!(
        digits.len() == 12 && u64::from_str_radix(digits, 16).is_ok(),
        "{id}"
    );
    assert_eq!(digits, digits.to_lowercase());
    assert_eq!(
        (&job["dataset_path"], &job["dataset_format"]),
        (&json!("pets"), &json!("imagefolder"))
    );
    let (_, snapshot) = world.get(&format!("/snapshots/{id}")).await;
    assert_eq!(
        (&snapshot["files"], &snapshot["dataset_id"]),
        (&json!(20), &json!("pets"))
    );
    assert_eq!(snapshot["split_config"]["source"], "auto");
    assert_eq!(
        snapshot["split_config"]["counts"],
        json!({"train": 16, "val": 4})
    );
    assert!(snapshot.to_string().len() <= 1_024, "{snapshot}");
    let kept = world.data().join("artifacts/snapshots").join(id);
    let metadata: Value =
        serde_json::from_slice(&fs::read(kept.join("metadata.json")).unwrap()).unwrap();
    for key in [
        "snapshot_id",
        "dataset_id",
        "dataset_path",
        "split_config",
        "dataset_version_hash",
        "created_by_user_id",
        "created_at",
        "notes",
    ] {
        assert!(metadata.get(key).is_some(), "{key} in {metadata}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_snapshot_and_a_job_with_a_path_has_none() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 10);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let (_, job) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    let id = job["dataset_snapshot_id"].as_str().unwrap();
    let (_, plain) = world.post_json("/training/jobs", &yolo()).await;
    assert_eq!(plain["dataset_snapshot_id"], Value::Null);
    let number = job["id"].as_u64().unwrap();
    world.post(&format!("/training/jobs/{number}/cancel")).await;
    fs::write(set.path().join("cat/0000.png"), "changed").unwrap();
    let (status, again) = world
        .post(&format!("/training/jobs/{number}/restart"))
        .await;
    assert_eq!(
        (status, &again["dataset_snapshot_id"]),
        (200, &json!(id)),
        "{again}"
    );
}

#[tokio::test]
async fn an_unchanged_dataset_keeps_its_snapshot_and_any_change_makes_another() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 10);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let body = snapshot_job("pets");
    let first = snapshot_of(&world, &body).await;
    assert_eq!(snapshot_of(&world, &body).await, first);
    let mut other = body.clone();
    other["config"]["split_strategy"] = json!({"method": "auto", "ratio": [0.5, 0.5]});
    let split = snapshot_of(&world, &other).await;
    assert_ne!(split, first, "another split is another snapshot");
    // The same length and the same name: only the content tells.
    fs::write(set.path().join("dog/0003.png"), "DOG 3").unwrap();
    let changed = snapshot_of(&world, &body).await;
    assert!(changed != first && changed != split);
    fs::rename(
        set.path().join("dog/0003.png"),
        set.path().join("dog/x.png"),
    )
    .unwrap();
    let renamed = snapshot_of(&world, &body).await;
    assert!(renamed != first && renamed != changed);
    let (_, all) = world.get("/snapshots?dataset_id=pets").await;
    assert_eq!(all["snapshots"].as_array().unwrap().len(), 4);
    let hash = |id: &str| {
        let rows = all["snapshots"].as_array().unwrap();
        let row = rows.iter().find(|row| row["snapshot_id"] == id).unwrap();
        row["dataset_version_hash"].clone()
    };
    assert_eq!(hash(&first), hash(&split));
    assert_ne!(hash(&first), hash(&changed));
}

#[tokio::test]
async fn every_one_of_1500_files_counts() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 750);
    add(&world, "many", set.path().to_str().unwrap()).await;
    let body = snapshot_job("many");
    let first = snapshot_of(&world, &body).await;
    fs::write(set.path().join("dog/0749.png"), "dog !!!").unwrap();
    let second = snapshot_of(&world, &body).await;
    assert_ne!(first, second, "the last of 1,500 files counts too");
    let (_, row) = world.get(&format!("/snapshots/{second}")).await;
    assert_eq!(row["files"], 1_500);
}

#[tokio::test]
async fn concurrent_submits_of_one_dataset_make_one_snapshot() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 50);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let body = snapshot_job("pets");
    let submits = (0..8).map(|_| snapshot_of(&world, &body));
    let made = futures::future::join_all(submits).await;
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    let (_, all) = world.get("/snapshots").await;
    assert_eq!(all["snapshots"].as_array().unwrap().len(), 1);
    let kept = fs::read_dir(world.data().join("artifacts/snapshots")).unwrap();
    assert_eq!(kept.count(), 1);
}

#[tokio::test]
async fn an_idempotency_key_makes_one_job_with_one_snapshot() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 5);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let submit = async || {
        let request = world
            .plain(Method::POST, "/training/jobs")
            .bearer_auth(&world.token);
        let request = request
            .header("idempotency-key", "k")
            .json(&snapshot_job("pets"));
        world.send(request).await.1
    };
    let first = submit().await;
    fs::write(set.path().join("cat/new.png"), "new").unwrap();
    let second = submit().await;
    assert_eq!(
        (&first["id"], &first["dataset_snapshot_id"]),
        (&second["id"], &second["dataset_snapshot_id"])
    );
    assert!(first["dataset_snapshot_id"].is_string());
}

#[tokio::test]
async fn a_split_that_the_dataset_does_not_allow_names_the_field() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 5);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    for (strategy, words) in [
        (
            json!({"method": "use_dataset"}),
            "split_strategy.method: is 'use_dataset', but the dataset declares no parts",
        ),
        (
            json!({"method": "custom", "custom_splits": {"nowhere.png": "train"}}),
            "split_strategy.custom_splits",
        ),
        (
            json!({"method": "auto", "exclude_images": ["nowhere.png"]}),
            "split_strategy.exclude_images",
        ),
    ] {
        let mut body = snapshot_job("pets");
        body["config"]["split_strategy"] = strategy;
        let (status, answer) = world.post_json("/training/jobs", &body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(detail(&answer).starts_with(words), "{answer}");
    }
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
    let mut body = snapshot_job("pets");
    body["config"]["split_strategy"] = json!({
        "method": "custom", "custom_splits": {"cat/0000.png": "val", "dog/0000.png": "val"},
        "exclude_images": ["cat/0001.png"],
    });
    let id = snapshot_of(&world, &body).await;
    let parts = world
        .data()
        .join("artifacts/snapshots")
        .join(&id)
        .join("parts.json");
    let parts: Value = serde_json::from_slice(&fs::read(parts).unwrap()).unwrap();
    assert_eq!(parts["cat/0000.png"], "val");
    assert_eq!(parts["cat/0001.png"], "excluded");
}

#[tokio::test]
async fn deleting_a_snapshot_leaves_the_dataset_and_waits_for_its_jobs() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 3);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let (_, job) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    let id = job["dataset_snapshot_id"].as_str().unwrap();
    let (status, answer) = delete(&world, &format!("/snapshots/{id}")).await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        detail(&answer).contains(&format!("job {}", job["id"])),
        "{answer}"
    );
    world
        .post(&format!("/training/jobs/{}/cancel", job["id"]))
        .await;
    assert_eq!(delete(&world, &format!("/snapshots/{id}")).await.0, 200);
    assert_eq!(delete(&world, &format!("/snapshots/{id}")).await.0, 404);
    assert!(
        !world
            .data()
            .join("artifacts/snapshots")
            .join(id)
            .join("metadata.json")
            .exists()
    );
    assert_eq!(fs::read(set.path().join("cat/0000.png")).unwrap(), b"cat 0");
    let (status, answer) = world
        .post(&format!("/training/jobs/{}/restart", job["id"]))
        .await;
    assert_eq!(status, 400);
    assert!(detail(&answer).contains("was deleted"), "{answer}");
    assert_eq!(delete(&world, "/datasets/pets").await.0, 200);
    assert_eq!(delete(&world, "/datasets/pets").await.0, 404);
    assert!(set.path().join("dog/0002.png").exists());
}

#[tokio::test]
async fn the_catalog_lists_in_pages_and_refuses_names_twice() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 2);
    for id in ["b", "a", "c"] {
        add(&world, id, set.path().to_str().unwrap()).await;
    }
    let body = json!({"id": "a", "storage_path": set.path()});
    let (status, answer) = world.post_json("/datasets", &body).await;
    assert_eq!(status, 400, "{answer}");
    assert!(detail(&answer).contains("registered already"), "{answer}");
    let (_, page) = world.get("/datasets?limit=2").await;
    let ids = |page: &Value| -> Vec<String> {
        let rows = page["datasets"].as_array().unwrap().iter();
        rows.map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (ids(&page), &page["next_cursor"]),
        (vec!["a".into(), "b".into()], &json!("b"))
    );
    let (_, page) = world.get("/datasets?limit=2&cursor=b").await;
    assert_eq!(
        (ids(&page), &page["next_cursor"]),
        (vec!["c".to_owned()], &Value::Null)
    );
    for (body, status) in [
        (json!({"id": "../x", "storage_path": set.path()}), 422),
        (
            json!({"id": "x", "storage_path": set.path(), "format": "zip"}),
            422,
        ),
        (json!({"storage_path": 5}), 422),
    ] {
        let answer = world.post_json("/datasets", &body).await;
        assert_eq!(answer.0, status, "{}", answer.1);
    }
}

/// A dataset of four pictures whose only object has a box and nothing else.
fn boxes(root: &Path) {
    fs::create_dir(root.join("images")).unwrap();
    for number in 0..4 {
        fs::write(
            root.join(format!("images/{number}.png")),
            number.to_string(),
        )
        .unwrap();
    }
    let image = |number| json!({"id": number, "file_name": format!("{number}.png")});
    let document = json!({
        "categories": [{"id": 1, "name": "dog"}], "images": [image(0), image(1), image(2), image(3)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
    });
    fs::write(root.join("annotations.json"), document.to_string()).unwrap();
}

#[tokio::test]
async fn a_dataset_that_lacks_what_the_task_needs_is_422_at_the_field_and_leaves_nothing() {
    let world = World::start().await;
    let sets = tempfile::tempdir().unwrap();
    for name in ["pets", "boxes"] {
        let set = sets.path().join(name);
        fs::create_dir(&set).unwrap();
        match name {
            "pets" => folders(&set, 3),
            _ => boxes(&set),
        }
        add(&world, name, set.to_str().unwrap()).await;
    }
    let ask = |dataset: &str, framework: &str, task: &str| {
        let mut body = snapshot_job(dataset);
        body["config"]["framework"] = json!(framework);
        body["config"]["task_type"] = json!(task);
        body["config"]["command"] = json!((framework == "command").then_some(["true"]));
        body
    };
    let lacking = "dataset 'boxes': annotations.json: annotations have no 'segmentation'";
    for (dataset, task, field, words) in [
        (
            "pets",
            "object_detection",
            "dataset_format",
            "has the format 'imagefolder'",
        ),
        ("pets", "pose", "dataset_format", "needs keypoints"),
        ("boxes", "segmentation", "task_type", lacking),
    ] {
        let body = ask(dataset, "ultralytics", task);
        let (status, answer) = world.post_json("/training/jobs", &body).await;
        let entry = &answer["detail"][0];
        let place = json!(["body", "config", field]);
        assert_eq!((status, &entry["loc"]), (422, &place), "{answer}");
        assert!(entry["msg"].as_str().unwrap().contains(words), "{answer}");
    }
    let listed = world.get("/snapshots").await.1;
    assert_eq!(listed["snapshots"], json!([]), "{listed}");
    // The same datasets are good for what they hold, and for a program, which knows best.
    for (dataset, framework, task) in [
        ("pets", "timm", "classification"),
        ("boxes", "ultralytics", "detection"),
        ("boxes", "command", "segmentation"),
    ] {
        let body = ask(dataset, framework, task);
        let (status, answer) = world.post_json("/training/jobs", &body).await;
        assert_eq!(status, 200, "{answer}");
    }
}
