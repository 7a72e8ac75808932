//! Resident memory of an idle coordinator and agent, fresh and after a little work.

use anyhow::{Context, Result};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};

/// Jobs between the two readings.
const JOBS: usize = 100;

pub(crate) async fn measure(binary: &str) -> Result<Value> {
    let mut cluster = Cluster::start(binary).await;
    cluster.agent("one", &["--slots", "4"]).await;
    let pids = (
        cluster.coordinator().pid(),
        cluster.agent_process("one").pid(),
    );
    let fresh = (resident(pids.0)?, resident(pids.1)?);
    let mut jobs = Jobs::of(&cluster).await;
    for _ in 0..JOBS {
        let id = jobs.submit(command(&["/bin/true"])).await;
        jobs.ends(id).await;
    }
    let after = (resident(pids.0)?, resident(pids.1)?);
    Ok(json!({
        "coordinator_mib": fresh.0, "agent_mib": fresh.1,
        "after_jobs": JOBS,
        "coordinator_after_mib": after.0, "agent_after_mib": after.1,
    }))
}

/// VmRSS in MiB.
fn resident(pid: Pid) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.context("the process has no VmRSS")?;
    let kib = words.split_whitespace().next().context("no number")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
