//! Very many jobs: what they take of the coordinator's memory while they wait, and how soon one that has them serves
//! again after a crash.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::Jobs,
    wait::until,
};
use trainyard_proto::v1::{JobState, ListJobsRequest};

use crate::{
    clock::{milliseconds, now},
    fleet::{Fleet, Offer},
    machine,
    throughput::{rate, submit_all},
};

/// Slots of each agent that holds active jobs.
const SLOTS: usize = 100;
/// Restarts that are measured.
const ROUNDS: usize = 5;

async fn cluster(binary: &str, jobs: usize) -> Cluster {
    let mut setup = CoordinatorSetup::default();
    let most = (jobs + 1_000).to_string();
    setup
        .variables
        .insert("TRAINYARD__LIMITS__OPEN_JOBS".to_owned(), most);
    Cluster::start_with(binary, setup).await
}

/// Memory with `count` jobs queued, fresh and after a restart.
pub(crate) async fn memory(binary: &str, count: usize) -> Result<Value> {
    let mut cluster = cluster(binary, count).await;
    let alone = machine::resident_mib(cluster.coordinator().pid())?;
    let begun = now();
    submit_all(&Jobs::of(&cluster).await, count).await?;
    let span = begun.elapsed();
    let queued = machine::resident_mib(cluster.coordinator().pid())?;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    answers(&cluster, count).await?;
    has_looked(&cluster).await;
    let restarted = machine::resident_mib(cluster.coordinator().pid())?;
    Ok(json!({
        "jobs": count,
        "submits_per_second": rate(count, span),
        "idle_mib": alone,
        "coordinator_mib": queued,
        "restarted_mib": restarted,
        "store_mib": store_mib(&cluster)?,
    }))
}

/// `kill -9` of a coordinator with `count` jobs, of which `active` run, until it answers over its port again.
pub(crate) async fn restart(binary: &str, count: usize, active: usize) -> Result<Value> {
    let mut cluster = cluster(binary, count).await;
    let offer = Offer::of(u32::try_from(SLOTS)?, 0);
    let mut fleet = Fleet::connect(&cluster, active.div_ceil(SLOTS), offer).await?;
    let jobs = Jobs::of(&cluster).await;
    submit_all(&jobs, count).await?;
    for _ in 0..active {
        fleet.started().await?;
    }
    until("the last active job runs", async || {
        let mut jobs = jobs.clone();
        starting(&mut jobs).await.ok().filter(|&waits| !waits)
    })
    .await;
    drop(fleet);
    let (mut ready, mut serving) = (Vec::new(), Vec::new());
    let (mut looked, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        cluster.kill_coordinator();
        let begun = now();
        cluster.start_coordinator().await;
        ready.push(milliseconds(begun.elapsed()));
        answers(&cluster, count).await?;
        serving.push(milliseconds(begun.elapsed()));
        has_looked(&cluster).await;
        looked.push(milliseconds(begun.elapsed()));
        cpu.push(machine::cpu_seconds(cluster.coordinator().pid())? * 1_000.0);
    }
    let worst = serving.iter().copied().fold(0.0, f64::max);
    Ok(json!({
        "jobs": count,
        "active": active,
        "serving_ms": worst,
        "each_serving_ms": serving,
        "ready_ms": ready,
        "looked_ms": looked.iter().copied().fold(0.0, f64::max),
        "each_looked_ms": looked,
        "cpu_ms": cpu,
        "coordinator_mib": machine::resident_mib(cluster.coordinator().pid())?,
        "store_mib": store_mib(&cluster)?,
    }))
}

/// A call that reads the newest jobs.
async fn answers(cluster: &Cluster, count: usize) -> Result<()> {
    let mut jobs = Jobs::of(cluster).await;
    let request = ListJobsRequest {
        page_size: 10,
        ..ListJobsRequest::default()
    };
    let newest = jobs.0.list_jobs(request).await?.into_inner().jobs;
    let newest = newest.first().map_or(0, |job| job.job_id);
    ensure!(
        newest >= u64::try_from(count)?,
        "job {newest} is the newest of {count}"
    );
    Ok(())
}

/// Until the scheduler has looked at all jobs that waited when it was started: lists tell then why they wait.
async fn has_looked(cluster: &Cluster) {
    let jobs = Jobs::of(cluster).await;
    until("the scheduler has looked at the queue", async || {
        let request = ListJobsRequest {
            page_size: 1,
            ..ListJobsRequest::default()
        };
        let mut jobs = jobs.clone();
        let newest = jobs.0.list_jobs(request).await.ok()?.into_inner().jobs;
        let reason = &newest.first()?.reason;
        (!reason.is_empty() && !reason.contains("has not looked at the queue")).then_some(())
    })
    .await;
}

/// Whether a job was placed and has not begun.
async fn starting(jobs: &mut Jobs) -> Result<bool> {
    let request = ListJobsRequest {
        page_size: 1,
        states: vec![JobState::Starting.into()],
        ..ListJobsRequest::default()
    };
    Ok(!jobs
        .0
        .list_jobs(request)
        .await?
        .into_inner()
        .jobs
        .is_empty())
}

#[expect(clippy::cast_precision_loss, reason = "the size of a file")]
fn store_mib(cluster: &Cluster) -> Result<f64> {
    let file = cluster.path("coordinator").join("trainyard.redb");
    Ok(std::fs::metadata(file)?.len() as f64 / f64::from(1 << 20))
}
