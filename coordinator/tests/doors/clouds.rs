//! Checkpoints that are too large for one request, and the stores of Google and Azure.

use std::fs;

use serde_json::json;
use tonic::Code;
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::{
    agent::Agent,
    s3::{SECRET, Server},
    world::{World, command},
};

/// What goes in parts, and the start of the task that sends it.
async fn signed(world: &World, start: &v1::StartTask, size: u64) -> v1::SignUploadResponse {
    let request = world.of_agent(v1::SignUploadRequest {
        task: start.task,
        secret: start.secret.clone(),
        filename: "best.pt".to_owned(),
        size_bytes: size,
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
    });
    let mut client = AgentServiceClient::new(world.channel().await);
    client.complete_upload(request).await.map(drop)
}

/// Sends each part of `content` by its way; the tags that come back.
async fn send(world: &World, parts: &v1::UploadParts, content: &[u8]) -> Vec<String> {
    let (mut tags, mut rest) = (Vec::new(), content);
    for part in &parts.parts {
        let (bytes, more) = rest.split_at(usize::try_from(part.size_bytes).unwrap());
        rest = more;
        let put = world.http.put(&part.url).body(bytes.to_vec());
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
        server.settings(config);
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
    end(&world, &start, &parts, tags).await.unwrap();
    let (_, listed) = world
        .get(&format!("/training/jobs/{job}/checkpoints"))
        .await;
    assert_eq!(listed["checkpoints"][0]["filename"], json!("best.pt"));
    let stored = server.bucket("artifacts").join("train").join(&parts.key);
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
