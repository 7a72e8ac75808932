//! Datasets of many small files: how long a submit reads one that nobody knows, and one that is known.
//!
//! All of it is in the page cache: what is measured is the coordinator, not the disk.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::cluster::Cluster;

use crate::clock::now;

/// Files in one folder.
const FOLDER: usize = 100;
/// How often each is measured.
const ROUNDS: usize = 5;

/// Submits with a dataset of `count` files.
pub(crate) async fn measure(binary: &str, count: usize) -> Result<Value> {
    let cluster = Cluster::start(binary).await;
    let set = cluster.path("set");
    fill(&set, count)?;
    // Digests of files that were changed just now are not kept.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let client = reqwest::Client::new();
    let add = json!({"id": "many", "storage_path": set, "format": "imagefolder"});
    send(&cluster, (&client, "datasets"), &add).await?;
    let job = json!({"config": {
        "framework": "timm", "model_name": "resnet18", "task_type": "classification", "dataset_id": "many",
        "epochs": 1, "batch_size": 8, "learning_rate": 0.01,
    }});
    let first = send(&cluster, (&client, "training/jobs"), &job).await?;
    let mut known = Vec::new();
    for _ in 0..ROUNDS {
        known.push(send(&cluster, (&client, "training/jobs"), &job).await?);
    }
    // Finding out the format lists, and does nothing else.
    let mut listing = Vec::new();
    for number in 0..ROUNDS {
        let add = json!({"id": format!("again-{number}"), "storage_path": set});
        listing.push(send(&cluster, (&client, "datasets"), &add).await?);
    }
    Ok(
        json!({"files": count, "first_submit_ms": first, "submits_when_known_ms": known, "listing_ms": listing}),
    )
}

fn fill(set: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let folder = set.join(format!("class-{:04}", number / FOLDER));
        if number % FOLDER == 0 {
            fs::create_dir_all(&folder)?;
        }
        let mut content = number.to_string().into_bytes();
        content.resize(1_024, b'.');
        fs::write(folder.join(format!("{number:06}.png")), content)?;
    }
    Ok(())
}

/// Milliseconds until it is answered.
async fn send(
    cluster: &Cluster,
    (client, path): (&reqwest::Client, &str),
    body: &Value,
) -> Result<f64> {
    let url = format!("{}/api/v1/{path}", cluster.url());
    let request = client.post(url).bearer_auth(cluster.token()).json(body);
    let before = now();
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{status}: {text}");
    Ok(before.elapsed().as_secs_f64() * 1_000.0)
}
