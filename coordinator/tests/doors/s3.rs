//! Datasets and checkpoints that lie in a real S3 server.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use reqwest::Method;
use serde_json::json;
use tests::s3::{SECRET, Server};
use trainyard_coordinator::config::{Config, Secret};

use crate::{
    agent::Agent,
    datasets::{self, manifest, snapshot_job},
    world::{World, command},
};

/// Settings by which a coordinator speaks to this server.
pub(crate) fn settings(server: &Server, config: &mut Config) {
    let options = Secret::new(server.options());
    config.storage_options = BTreeMap::from([("s3".to_owned(), options)]);
}

/// A class folder for each of two classes, with so many images together.
fn images(root: &Path, count: usize) {
    for number in 0..count {
        let class = if number % 2 == 0 { "cat" } else { "dog" };
        let folder = root.join(class);
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join(format!("{number:05}.png")),
            format!("image {number}"),
        )
        .unwrap();
    }
}

#[tokio::test]
async fn a_dataset_of_1500_objects_is_listed_whole_and_each_is_fetched_by_a_signed_url() {
    let server = Server::start().await;
    images(&server.bucket("sets").join("pets/v1"), 1_500);
    images(&server.bucket("sets").join("pets/v10"), 2);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        settings(&server, config)
    })
    .await;
    let added = datasets::add(&world, "pets", "s3://sets/pets/v1").await;
    assert_eq!(added["format"], "imagefolder");
    let mut agent = Agent::join(&world, "n1", 4).await;
    let (_, job) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    let id = job["dataset_snapshot_id"]
        .as_str()
        .expect("a snapshot")
        .to_owned();
    let (_, snapshot) = world.get(&format!("/snapshots/{id}")).await;
    assert_eq!(snapshot["files"], 1_500);
    let start = agent.start().await;
    let files = manifest(&world, &start, "").await.unwrap();
    assert_eq!(files.len(), 1_500);
    assert!(
        files.windows(2).all(|pair| pair[0].path < pair[1].path),
        "in order"
    );
    for file in [&files[0], &files[1_200], &files[1_499]] {
        assert!(
            !file.url.contains(SECRET) && file.url.contains("X-Amz-Signature"),
            "{}",
            file.url
        );
        let answer = world.http.get(&file.url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(
            blake3::hash(&bytes).as_bytes().as_slice(),
            file.digest,
            "{}",
            file.path
        );
    }
    let forged = files[0].url.replace("cat/00000", "cat/00002");
    assert_eq!(world.http.get(forged).send().await.unwrap().status(), 403);
    let rest = manifest(&world, &start, &files[1_399].path).await.unwrap();
    assert_eq!(rest.len(), 100);
}

#[tokio::test]
async fn a_changed_object_makes_another_snapshot_and_artifacts_lie_in_the_bucket() {
    let server = Server::start().await;
    images(&server.bucket("sets"), 10);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        settings(&server, config);
        config.storage.artifacts = "s3://artifacts/train".to_owned();
    });
    let world = world.await;
    datasets::add(&world, "pets", "s3://sets").await;
    let submit = async || {
        let (status, job) = world
            .post_json("/training/jobs", &snapshot_job("pets"))
            .await;
        assert_eq!(status, 200, "{job}");
        (
            job["id"].clone(),
            job["dataset_snapshot_id"].as_str().unwrap().to_owned(),
        )
    };
    let (job, first) = submit().await;
    assert_eq!(server.fetched(), 10);
    assert_eq!(
        submit().await.1,
        first,
        "an unchanged dataset keeps its snapshot"
    );
    assert_eq!(
        server.fetched(),
        11,
        "of what is known only the snapshot's list is read again"
    );
    let kept = server
        .bucket("artifacts")
        .join("train/snapshots")
        .join(&first);
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(kept.join("metadata.json")).unwrap()).unwrap();
    assert_eq!(metadata["snapshot_id"], first);
    fs::write(server.bucket("sets").join("cat/00000.png"), "another image").unwrap();
    let (_, second) = submit().await;
    assert_ne!(second, first);
    assert_eq!(server.fetched(), 12, "only what has changed is read");
    let kept = server.bucket("artifacts").join("train/snapshots");
    let deleted = world.plain(Method::DELETE, &format!("/snapshots/{first}"));
    assert_eq!(
        world.send(deleted.bearer_auth(&world.token)).await.0,
        400,
        "an open job needs it"
    );
    world.post(&format!("/training/jobs/{job}/cancel")).await;
    assert!(kept.join(&first).join("manifest.jsonl").exists());
}

#[tokio::test]
async fn a_checkpoint_is_put_into_the_bucket_by_a_signed_url_without_the_platforms_keys() {
    let server = Server::start().await;
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        settings(&server, config);
        config.storage.artifacts = "s3://artifacts/train".to_owned();
    });
    let world = world.await;
    let job = world.submit(&command()).await;
    let path = format!("/training/jobs/{job}/checkpoints/upload-url");
    let body =
        json!({"checkpoint_filename": "best.pt", "content_type": "application/octet-stream"});
    let (status, upload) = world.post_json(&path, &body).await;
    assert_eq!(
        (status, &upload["expires_in"]),
        (200, &json!(3_600)),
        "{upload}"
    );
    assert_eq!(upload["object_key"], format!("checkpoints/{job}/best.pt"));
    let url = upload["upload_url"].as_str().unwrap();
    assert!(!url.contains(SECRET));
    let put = world.http.put(url).body("weights").send().await.unwrap();
    assert_eq!(put.status(), 200);
    let stored = server
        .bucket("artifacts")
        .join(format!("train/checkpoints/{job}/best.pt"));
    assert_eq!(fs::read(stored).unwrap(), b"weights");
    let (_, listed) = world
        .get(&format!("/training/jobs/{job}/checkpoints"))
        .await;
    assert_eq!(
        listed["checkpoints"],
        json!([{"path": format!("s3://artifacts/train/checkpoints/{job}/best.pt"), "filename": "best.pt", "is_best": false, "epoch": null}])
    );
}

#[tokio::test]
async fn a_dataset_that_takes_too_long_says_so_and_the_next_submit_goes_on_from_there() {
    let server = Server::start().await;
    images(&server.bucket("sets"), 12);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        settings(&server, config);
        config.datasets.snapshot_seconds = 1;
        config.datasets.parallel = 1;
    });
    let world = world.await;
    datasets::add(&world, "pets", "s3://sets").await;
    server.takes(Duration::from_millis(200));
    let (status, answer) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    assert_eq!(status, 503, "{answer}");
    let words = answer["detail"].as_str().unwrap();
    assert!(
        words.contains("of 12 files were read within 1 s"),
        "{words}"
    );
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
    let mut left = 12;
    while world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await
        .0
        != 200
    {
        left -= 1;
        assert!(left > 0, "each submit goes on where the one before ended");
    }
    // Each once, and what was under way when time was up once more.
    let most = 12 + (12 - left) + 1;
    assert!(server.fetched() <= most, "{} fetches", server.fetched());
}

#[tokio::test]
async fn submits_that_read_one_dataset_at_the_same_time_make_one_snapshot() {
    let server = Server::start().await;
    images(&server.bucket("sets"), 4);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        settings(&server, config);
    })
    .await;
    datasets::add(&world, "pets", "s3://sets").await;
    // All of them are there before the first has read anything.
    server.takes(Duration::from_millis(500));
    let body = snapshot_job("pets");
    let submits = (0..6).map(|_| datasets::snapshot_of(&world, &body));
    let made = futures::future::join_all(submits).await;
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    assert_eq!(server.fetched(), 4, "one read it, the others waited");
    let (_, all) = world.get("/snapshots").await;
    assert_eq!(all["snapshots"].as_array().unwrap().len(), 1);
}
