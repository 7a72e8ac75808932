//! Many agents connected and nothing to do: what they cost a coordinator, and how soon all are back after it was away.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tests::cluster::{Cluster, CoordinatorSetup};

use crate::{
    clock::milliseconds,
    fleet::{Fleet, Offer},
    machine,
};

/// How long the coordinator is away then.
const AWAY: Duration = Duration::from_secs(20);
/// Until connecting itself is over and done with.
const SETTLE: Duration = Duration::from_secs(5);

/// `count` agents, each with its heartbeats and its inventory; watched for `span`. With both streams those that would run
/// something; real ones have one as long as they do not.
pub(crate) async fn measure(
    binary: &str,
    (count, both): (usize, bool),
    span: Duration,
) -> Result<Value> {
    let mut setup = CoordinatorSetup::default();
    // Two connections each, and some for us.
    let most = (count * 2 + 100).to_string();
    setup
        .variables
        .insert("TRAINYARD__SERVER__CONNECTIONS".to_owned(), most);
    let mut cluster = Cluster::start_with(binary, setup).await;
    let pid = cluster.coordinator().pid();
    let alone = machine::resident_mib(pid)?;
    let begun = tokio::time::Instant::now();
    let offer = Offer {
        attaches: both,
        comes_back: true,
        ..Offer::of(64, 8)
    };
    let mut fleet = Fleet::connect(&cluster, count, offer).await?;
    let connecting = begun.elapsed();
    let connect_cpu = machine::cpu_seconds(pid)?;
    tokio::time::sleep(SETTLE).await;
    let before = machine::cpu_seconds(pid)?;
    tokio::time::sleep(span).await;
    let cpu = machine::cpu_seconds(pid)? - before;
    fleet.check()?;
    let mib = machine::resident_mib(pid)?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands of agents")]
    let each = (mib - alone) * 1024.0 / count as f64;
    let back = comes_back(&mut cluster, &mut fleet, count).await?;
    Ok(json!({
        "agents": count,
        "connections": count * if both { 2 } else { 1 },
        "connect_seconds": connecting.as_secs_f64(),
        "connect_cpu_seconds": connect_cpu,
        "watched_seconds": span.as_secs_f64(),
        "core_percent": cpu / span.as_secs_f64() * 100.0,
        "coordinator_mib": mib,
        "kib_an_agent": each,
        "coordinator_away_seconds": AWAY.as_secs_f64(),
        "all_back_ms": milliseconds(back),
    }))
}

/// From the start of a coordinator that was away until every agent is welcome again.
async fn comes_back(cluster: &mut Cluster, fleet: &mut Fleet, count: usize) -> Result<Duration> {
    cluster.kill_coordinator();
    tokio::time::sleep(AWAY).await;
    let begun = tokio::time::Instant::now();
    cluster.start_coordinator().await;
    fleet.is_whole(count).await?;
    Ok(begun.elapsed())
}
