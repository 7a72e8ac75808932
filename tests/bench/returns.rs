//! How soon a failure is seen and is over: a node that falls silent, an agent and a coordinator that are killed.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, shell},
    wait::until,
};
use trainyard_proto::v1::{JobState, ListNodesRequest, Node, NodeState};

use crate::{
    clock::{milliseconds, now},
    distribution,
};

/// How long a coordinator stays away: agents wait for longer the longer they fail.
const AWAY: Duration = Duration::from_secs(20);
/// Agents of the cluster.
const AGENTS: usize = 4;
/// What the agent says in a job's log when it has it again.
const ADOPTED: &str = "the agent was restarted and goes on with this task";

/// All three, each `rounds` times.
pub(crate) async fn measure(binary: &str, rounds: usize) -> Result<Value> {
    let mut cluster = Cluster::start(binary).await;
    for number in 0..AGENTS {
        cluster.agent(&name(number), &["--slots", "2"]).await;
    }
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(shell("while :; do sleep 1; done")).await;
    jobs.reaches(id, JobState::Running).await;
    let holder = holder(&cluster, id).await?;
    let (mut silent, mut adopted, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        adopted.push(adopts(&mut cluster, (&holder, id), round + 1).await?);
    }
    for _ in 0..rounds {
        back.push(comes_back(&mut cluster).await?);
    }
    for _ in 0..rounds {
        silent.push(falls_silent(&mut cluster, &holder).await?);
    }
    Ok(json!({
        "agents": AGENTS,
        "coordinator_away_seconds": AWAY.as_secs_f64(),
        "silent_to_suspect_ms": distribution(silent),
        "agent_adopts_ms": distribution(adopted),
        "agents_back_ms": distribution(back),
    }))
}

fn name(number: usize) -> String {
    format!("node-{number}")
}

/// From SIGSTOP to a list of nodes that says so.
async fn falls_silent(cluster: &mut Cluster, node: &str) -> Result<f64> {
    let begun = now();
    cluster.agent_process(node).signal(Signal::SIGSTOP);
    let suspected = until("the node is suspect", async || {
        let is = states(cluster).await.ok()?;
        is.iter()
            .any(|(name, state)| name == node && *state == NodeState::Suspect)
            .then(|| begun.elapsed())
    })
    .await;
    cluster.agent_process(node).signal(Signal::SIGCONT);
    until("the node is ready again", async || {
        ready(cluster).await.then_some(())
    })
    .await;
    Ok(milliseconds(suspected))
}

/// From the start of an agent whose earlier life was killed, until the job's log has its word that it goes on.
async fn adopts(cluster: &mut Cluster, (node, job): (&str, u64), times: usize) -> Result<f64> {
    cluster.kill_agent(node);
    let begun = now();
    cluster.agent(node, &["--slots", "2"]).await;
    let jobs = Jobs::of(cluster).await;
    let said = until("the task is adopted", async || {
        let lines = jobs.clone().lines(job).await;
        let said = lines.iter().filter(|line| line.text == ADOPTED).count();
        (said >= times).then(|| begun.elapsed())
    });
    Ok(milliseconds(said.await))
}

/// From the start of a coordinator that was away until every node is ready again.
async fn comes_back(cluster: &mut Cluster) -> Result<f64> {
    cluster.kill_coordinator();
    tokio::time::sleep(AWAY).await;
    let begun = now();
    cluster.start_coordinator().await;
    let back = until("all agents are back", async || {
        ready(cluster).await.then(|| begun.elapsed())
    })
    .await;
    Ok(milliseconds(back))
}

async fn ready(cluster: &Cluster) -> bool {
    let states = states(cluster).await.unwrap_or_default();
    states.len() == AGENTS && states.iter().all(|(_, state)| *state == NodeState::Ready)
}

async fn nodes(cluster: &Cluster) -> Result<Vec<Node>> {
    let listed = cluster.nodes().await.list_nodes(ListNodesRequest {}).await;
    Ok(listed?.into_inner().nodes)
}

async fn states(cluster: &Cluster) -> Result<Vec<(String, NodeState)>> {
    Ok(nodes(cluster)
        .await?
        .into_iter()
        .map(|node| (node.name.clone(), node.state()))
        .collect())
}

async fn holder(cluster: &Cluster, job: u64) -> Result<String> {
    let mut nodes = nodes(cluster).await?.into_iter();
    let holder = nodes.find(|node| node.job_ids.contains(&job));
    Ok(holder.context("nobody runs the job")?.name)
}
