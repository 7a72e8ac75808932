//! Checkpoints that are too large for one request, and the stores of Google and Azure.

use std::fs;

use serde_json::json;
use tests::s3::{SECRET, Server};
use tonic::Code;
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::{
    agent::{Agent, exited},
    datasets::{add, manifest, snapshot_job, snapshot_of},
    emulators::{self, Emulator},
    s3::settings,
    world::{World, command},
};

/// What agents say for Azure.
const BLOB: (&str, &str) = ("x-ms-blob-type", "BlockBlob");

/// What goes in parts, and the start of the task that sends it.
async fn signed(world: &World, start: &v1::StartTask, size: u64) -> v1::SignUploadResponse {
    let request = world.of_agent(v1::SignUploadRequest {
        task: start.task,
        secret: start.secret.clone(),
        filename: "best.pt".to_owned(),
        size_bytes: size,
        upload: 0,
    });
    let mut client = AgentServiceClient::new(world.channel().await);
    client.sign_upload(request).await.unwrap().into_inner()
}

async fn end(
    world: &World,
    start: &v1::StartTask,
    parts: &v1::UploadParts,
    tags: Vec<String>,
) -> Result<(), tonic::Status> {
    let request = world.of_agent(v1::CompleteUploadRequest {
        task: start.task,
        secret: start.secret.clone(),
        upload_id: parts.upload_id.clone(),
        key: parts.key.clone(),
        tags,
        size_bytes: parts.parts.iter().map(|part| part.size_bytes).sum(),
    });
    let mut client = AgentServiceClient::new(world.channel().await);
    client.complete_upload(request).await.map(drop)
}

/// What was sent becomes the checkpoint.
async fn published(world: &World, start: &v1::StartTask) {
    publish(world, start).await.unwrap();
}

async fn publish(world: &World, start: &v1::StartTask) -> Result<(), tonic::Status> {
    let request = world.of_agent(v1::PublishUploadRequest {
        task: start.task,
        secret: start.secret.clone(),
        filename: "best.pt".to_owned(),
        upload: 0,
    });
    let mut client = AgentServiceClient::new(world.channel().await);
    client.publish_upload(request).await.map(drop)
}

/// Sends each part of `content` by its way; the tags that come back.
async fn send(world: &World, parts: &v1::UploadParts, content: &[u8]) -> Vec<String> {
    let (mut tags, mut rest) = (Vec::new(), content);
    for part in &parts.parts {
        let (bytes, more) = rest.split_at(usize::try_from(part.size_bytes).unwrap());
        rest = more;
        let put = world.http.put(&part.url).header(BLOB.0, BLOB.1);
        let put = put.body(bytes.to_vec());
        let answer = put.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let tag = answer.headers().get("etag");
        tags.push(tag.map_or("", |tag| tag.to_str().unwrap()).to_owned());
    }
    assert!(rest.is_empty());
    tags
}

/// 11 MiB that are nowhere the same.
fn content() -> Vec<u8> {
    (0..11_u32 << 18).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn a_checkpoint_beyond_one_request_goes_to_s3_in_parts_that_are_signed_one_by_one() {
    let server = Server::start().await;
    let world = World::with(|config| {
        settings(&server, config);
        config.storage.artifacts = "s3://artifacts/train".to_owned();
        config.storage.part_mib = 5;
    });
    let world = world.await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&command()).await;
    let start = agent.run().await;
    assert_eq!(signed(&world, &start, 5 << 20).await.parts, None);
    let content = content();
    let upload = signed(&world, &start, content.len() as u64).await;
    let parts = upload.parts.expect("it is too large for one request");
    let sizes: Vec<u64> = parts.parts.iter().map(|part| part.size_bytes).collect();
    assert_eq!(sizes, [5 << 20, 5 << 20, 1 << 20]);
    assert!(parts.parts.iter().all(|part| !part.url.contains(SECRET)));
    // The signature is of this part and no other.
    let forged = parts.parts[0].url.replace("partNumber=1", "partNumber=2");
    assert_ne!(forged, parts.parts[0].url);
    let put = world.http.put(forged).body("x").send().await.unwrap();
    assert_eq!(put.status(), 403);
    let tags = send(&world, &parts, &content).await;
    let mut stranger = parts.clone();
    stranger.key = format!("checkpoints/{}/best.pt", job + 1);
    let refused = end(&world, &start, &stranger, tags.clone()).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    ended_twice(&world, &start, &parts, tags.clone()).await;
    let mut longer = parts.clone();
    longer.parts[0].size_bytes += 1;
    let refused = end(&world, &start, &longer, tags).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    let (_, listed) = world
        .get(&format!("/training/jobs/{job}/checkpoints"))
        .await;
    assert_eq!(listed["checkpoints"], json!([]), "nobody sees it yet");
    published(&world, &start).await;
    // As one does who has not heard the answer.
    published(&world, &start).await;
    let (_, listed) = world
        .get(&format!("/training/jobs/{job}/checkpoints"))
        .await;
    assert_eq!(listed["checkpoints"][0]["filename"], json!("best.pt"));
    let stored = server.bucket("artifacts").join("train");
    let stored = stored.join(format!("checkpoints/{job}/best.pt"));
    assert!(
        fs::read(&stored).unwrap() == content,
        "each part is in its place"
    );

    // One that is given up leaves what was there.
    let again = signed(&world, &start, content.len() as u64).await.parts;
    let again = again.unwrap();
    end(&world, &start, &again, Vec::new()).await.unwrap();
    let put = world.http.put(&again.parts[0].url).body("x").send().await;
    assert!(!put.unwrap().status().is_success());
    assert!(fs::read(&stored).unwrap() == content);
}

#[tokio::test]
async fn parts_of_an_attempt_that_is_over_and_those_that_are_too_many_are_refused() {
    let server = Server::start().await;
    let world = World::with(|config| {
        settings(&server, config);
        config.storage.artifacts = "s3://artifacts/train".to_owned();
        config.storage.part_mib = 5;
        config.storage.upload_mib = 7;
    });
    let world = world.await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&command()).await;
    let first = agent.run().await;
    let most = 7 << 20;
    let large = world.of_agent(v1::SignUploadRequest {
        task: first.task,
        secret: first.secret.clone(),
        filename: "best.pt".to_owned(),
        size_bytes: most + 1,
        upload: 0,
    });
    let mut client = AgentServiceClient::new(world.channel().await);
    let refused = client.sign_upload(large).await.unwrap_err();
    assert!(refused.message().contains("storage.upload_mib"));
    let parts = signed(&world, &first, most).await.parts.unwrap();
    let sent = send(&world, &parts, &content()[..7 << 20]).await;

    // A way bounds no size: what is longer than was said is refused when it is to be published.
    let mut longer = signed(&world, &first, most).await.parts.unwrap();
    longer.parts[1].size_bytes = 6 << 20;
    let tags = send(&world, &longer, &content()).await;
    end(&world, &first, &longer, tags).await.unwrap();
    let refused = publish(&world, &first).await.unwrap_err();
    assert!(
        refused.message().contains("storage.upload_mib"),
        "{refused}"
    );
    let gone = publish(&world, &first).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    agent.report(exited(first.task.unwrap(), 0, 0)).await;
    agent.forget().await;
    let path = format!("/training/jobs/{job}/start");
    assert_eq!(world.post(&path).await.0, 200);
    let second = agent.run().await;
    let late = end(&world, &first, &parts, sent.clone()).await;
    assert_eq!(late.unwrap_err().code(), Code::NotFound);
    let stolen = end(&world, &second, &parts, sent).await;
    assert_eq!(stolen.unwrap_err().code(), Code::InvalidArgument);
    let folder = server.bucket("artifacts").join("train");
    for below in ["uploads", "checkpoints"] {
        let file = fs::read_dir(folder.join(format!("{below}/{job}")));
        assert_eq!(file.into_iter().flatten().count(), 0, "{below}");
    }
}

/// A dataset of 21 images, and one beside it.
async fn fill(emulator: &Emulator) {
    for number in 0..20 {
        let class = if number % 2 == 0 { "cat" } else { "dog" };
        let key = format!("pets/v1/{class}/{number:02}.png");
        emulator.fill(&key, &format!("image {number}")).await;
    }
    emulator.fill("pets/v1/cat/odd name+ü.png", "odd").await;
    emulator.fill("pets/v10/cat/other.png", "other").await;
}

/// Lists, reads, hashes, writes and signs.
async fn whole_story(emulator: &Emulator) {
    fill(emulator).await;
    let world = World::with(|config| emulator.settings(config)).await;
    let set = format!("{}://sets/pets/v1", emulator.scheme);
    let added = add(&world, "pets", &set).await;
    assert_eq!(added["format"], "imagefolder");
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = snapshot_of(&world, &snapshot_job("pets")).await;
    let start = agent.start().await;
    let (_, snapshot) = world.get(&format!("/snapshots/{id}")).await;
    assert_eq!(snapshot["files"], 21, "each page, nothing of its neighbour");
    fetched(&world, &start).await;
    stored(&world, &start).await;
}

async fn status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// Azure's client signs no odd name: that file comes through the coordinator.
fn url_of(world: &World, file: &v1::SnapshotFile) -> String {
    match file.url.strip_prefix('/') {
        Some(path) if file.path.contains(' ') => format!("http://{}/{path}", world.address),
        _ => file.url.clone(),
    }
}

/// Each file comes by its way, and no other.
async fn fetched(world: &World, start: &v1::StartTask) {
    let files = manifest(world, start, "").await.unwrap();
    assert_eq!(files.len(), 21);
    for file in &files {
        assert!(!file.url.contains(emulators::SECRET), "{}", file.url);
        let url = url_of(world, file);
        let answer = world.http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", file.path);
        let digest = blake3::hash(&answer.bytes().await.unwrap());
        assert_eq!(digest.as_bytes().as_slice(), file.digest, "{}", file.path);
    }
    let url = &files[0].url;
    let forged = url.replace("/cat/00.png", "/cat/02.png");
    assert_ne!(forged, *url);
    assert_eq!(status(world.http.get(forged)).await, 403);
    let write = world.http.put(url).header(BLOB.0, BLOB.1).body("x");
    assert_eq!(status(write).await, 403, "a way to read is none to write");
}

/// The second time as one does who has not heard the answer.
async fn ended_twice(
    world: &World,
    start: &v1::StartTask,
    parts: &v1::UploadParts,
    tags: Vec<String>,
) {
    end(world, start, parts, tags.clone()).await.unwrap();
    let repeated = end(world, start, parts, tags).await;
    repeated.expect("it is there: only the answer was lost");
}

async fn sent_in_parts(
    world: &World,
    start: &v1::StartTask,
    parts: &v1::UploadParts,
    content: &[u8],
) {
    let tags = send(world, parts, content).await;
    ended_twice(world, start, parts, tags).await;
}

/// A small checkpoint, then a large one in its place.
async fn stored(world: &World, start: &v1::StartTask) {
    let put = |url: &str| world.http.put(url).header(BLOB.0, BLOB.1);
    let small = signed(world, start, 7).await;
    let taken = status(put(&small.url).body("weights")).await;
    assert!(matches!(taken, 200 | 201), "{taken}");
    published(world, start).await;
    let content = content();
    let large = signed(world, start, content.len() as u64).await;
    assert_eq!(small.location, large.location);
    match large.parts {
        Some(parts) => sent_in_parts(world, start, &parts, &content).await,
        None => assert_eq!(status(put(&large.url).body(content.clone())).await, 200),
    }
    published(world, start).await;
    let job = start.task.unwrap().job_id;
    let path = format!("/training/jobs/{job}/checkpoints");
    let (_, listed) = world.get(&path).await;
    let found = &listed["checkpoints"][0]["path"];
    assert_eq!(*found, json!(large.location), "{listed}");
}

#[tokio::test]
async fn azures_store_is_listed_read_written_and_signed_for() {
    if let Some(emulator) = Emulator::azure().await {
        whole_story(&emulator).await;
    }
}

#[tokio::test]
async fn googles_store_is_listed_read_written_and_signed_for() {
    if let Some(emulator) = Emulator::google().await {
        whole_story(&emulator).await;
    }
}
