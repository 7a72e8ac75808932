//! The API: reading one job over REST, and submitting over REST and gRPC, with 64 clients that keep
//! their connections.
//!
//! No agent takes part: only the two doors, the service and the store are measured. Each answer to a
//! submit is on disk.

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, command},
};
use tokio::task::JoinSet;

use crate::{
    clock::{milliseconds, now},
    distribution, machine,
    throughput::rate,
};

/// Clients at once, each with a connection of its own.
const CLIENTS: usize = 64;

/// Reads and submits, `count` of each.
pub(crate) async fn measure(binary: &str, count: usize) -> Result<Value> {
    let mut setup = CoordinatorSetup::default();
    let most = (count * 2 + 1_000).to_string();
    setup
        .variables
        .insert("TRAINYARD__LIMITS__OPEN_JOBS".to_owned(), most);
    let mut cluster = Cluster::start_with(binary, setup).await;
    let pid = cluster.coordinator().pid();
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(command(&["/bin/true"])).await;
    let job = format!("{}/api/v1/training/jobs/{id}", cluster.url());
    let all = format!("{}/api/v1/training/jobs", cluster.url());
    let body = json!({"config": {"framework": "command", "command": ["/bin/true"]}});
    let read = |client: reqwest::Client| client.get(&job);
    let submit = |client: reqwest::Client| client.post(&all).json(&body);
    Ok(json!({
        "clients": CLIENTS,
        "get_job_rest": costs(pid, rest(&cluster, count, read)).await?,
        "submit_rest": costs(pid, rest(&cluster, count, submit)).await?,
        "submit_grpc": costs(pid, grpc(&cluster, count)).await?,
    }))
}

/// What is measured, and what it took of the coordinator.
async fn costs(pid: Pid, measuring: impl Future<Output = Result<Value>>) -> Result<Value> {
    let (cpu, written) = (machine::cpu_seconds(pid)?, machine::written_bytes(pid)?);
    let mut measured = measuring.await?;
    let cpu = machine::cpu_seconds(pid)? - cpu;
    let written = machine::written_bytes(pid)?.saturating_sub(written);
    let count = measured.pointer("/ms/count").and_then(Value::as_u64);
    let count = count.unwrap_or(1);
    if let Some(fields) = measured.as_object_mut() {
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let each = cpu * 1e6 / count as f64;
        fields.insert("coordinator_us_each".to_owned(), each.into());
        fields.insert("written_bytes_each".to_owned(), (written / count).into());
    }
    Ok(measured)
}

/// Requests made by `make`, spread over the clients.
async fn rest(
    cluster: &Cluster,
    count: usize,
    make: impl Fn(reqwest::Client) -> reqwest::RequestBuilder,
) -> Result<Value> {
    let mut clients = JoinSet::new();
    let begun = now();
    for share in shares(count) {
        // A pool of its own, so that each client has one connection.
        let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
        let request = make(client.clone()).bearer_auth(cluster.token()).build()?;
        clients.spawn(async move {
            let mut taken = Vec::with_capacity(share);
            for _ in 0..share {
                let request = request.try_clone().expect("its body is in memory");
                let before = now();
                let answer = client.execute(request).await?;
                ensure!(answer.status().is_success(), "{}", answer.text().await?);
                answer.bytes().await?;
                taken.push(milliseconds(before.elapsed()));
            }
            Ok(taken)
        });
    }
    summary(clients, begun).await
}

async fn grpc(cluster: &Cluster, count: usize) -> Result<Value> {
    let mut clients = JoinSet::new();
    let mut connected = Vec::new();
    for share in shares(count) {
        connected.push((share, Jobs::of(cluster).await));
    }
    let begun = now();
    for (share, mut jobs) in connected {
        clients.spawn(async move {
            let mut taken = Vec::with_capacity(share);
            for _ in 0..share {
                let before = now();
                jobs.try_submit(command(&["/bin/true"])).await?;
                taken.push(milliseconds(before.elapsed()));
            }
            Ok(taken)
        });
    }
    summary(clients, begun).await
}

fn shares(count: usize) -> impl Iterator<Item = usize> {
    (0..CLIENTS).map(move |client| (client..count).step_by(CLIENTS).count())
}

async fn summary(mut clients: JoinSet<Result<Vec<f64>>>, begun: Instant) -> Result<Value> {
    let mut taken = Vec::new();
    while let Some(done) = clients.join_next().await {
        taken.extend(done??);
    }
    Ok(json!({
        "per_second": rate(taken.len(), begun.elapsed()),
        "ms": distribution(taken),
    }))
}
