//! Jobs per second: many of /bin/true over one agent with many slots.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};
use tokio::task::JoinSet;
use trainyard_proto::v1::{JobState, ListJobsRequest};

use crate::machine;

/// Clients that submit at once.
const CLIENTS: usize = 16;

/// From the first submit to the last end.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]
pub(crate) async fn measure(
    binary: &str,
    (count, slots): (usize, u32),
    spawn: &Value,
) -> Result<Value> {
    let mut cluster = Cluster::start(binary).await;
    cluster.agent("one", &["--slots", &slots.to_string()]).await;
    let jobs = Jobs::of(&cluster).await;
    let pids = (
        cluster.coordinator().pid(),
        cluster.agent_process("one").pid(),
    );
    let cpu = |pid| machine::cpu_seconds(pid);
    let before = (cpu(pids.0)?, cpu(pids.1)?);
    let written = machine::written_bytes(pids.0)?;
    let begun = Instant::now();
    submit_all(&jobs, count).await?;
    let submitted = begun.elapsed();
    let completed = all_ended(jobs, count).await?;
    let ended = begun.elapsed();
    let (coordinator, agent) = (cpu(pids.0)? - before.0, cpu(pids.1)? - before.1);
    let written = machine::written_bytes(pids.0)?.saturating_sub(written);
    ensure!(completed == count, "{completed} of {count} jobs completed");
    let (jobs, alone) = (rate(count, ended), spawn.pointer("/per_second"));
    let a_job = |seconds: f64| seconds * 1e3 / rate(count, Duration::from_secs(1));
    Ok(json!({
        "jobs": count,
        "slots": slots,
        "submit_seconds": submitted.as_secs_f64(),
        "seconds": ended.as_secs_f64(),
        "jobs_per_second": jobs,
        "of_spawn_limit": alone.and_then(Value::as_f64).map(|alone| jobs / alone),
        "coordinator_cpu_ms_a_job": a_job(coordinator),
        "agent_cpu_ms_a_job": a_job(agent),
        "coordinator_written_bytes_a_job": written / u64::try_from(count)?,
    }))
}

/// Submits so many, with several clients on one connection.
pub(crate) async fn submit_all(jobs: &Jobs, count: usize) -> Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let mut jobs = jobs.clone();
        let share = (client..count).step_by(CLIENTS).count();
        clients.spawn(async move {
            for _ in 0..share {
                jobs.submit(command(&["/bin/true"])).await;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done?;
    }
    Ok(())
}

/// Waits until no job is open; how many have completed.
async fn all_ended(mut jobs: Jobs, count: usize) -> Result<usize> {
    use JobState::{Finishing, Pending, Queued, Running, Starting};
    let open = [Pending, Queued, Starting, Running, Finishing].map(i32::from);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        let request = ListJobsRequest {
            page_size: 1,
            states: open.to_vec(),
            ..ListJobsRequest::default()
        };
        if jobs
            .0
            .list_jobs(request)
            .await?
            .into_inner()
            .jobs
            .is_empty()
        {
            break;
        }
    }
    let mut completed = 0;
    let mut page_token = String::new();
    loop {
        let request = ListJobsRequest {
            page_size: 1_000,
            page_token,
            states: vec![JobState::Completed.into()],
            ..ListJobsRequest::default()
        };
        let page = jobs.0.list_jobs(request).await?.into_inner();
        completed += page.jobs.len();
        page_token = page.next_page_token;
        if page_token.is_empty() || completed >= count {
            return Ok(completed);
        }
    }
}

/// So many a second.
#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
pub(crate) fn rate(count: usize, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}
