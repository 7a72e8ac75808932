//! Resident memory of an idle coordinator and agent, fresh and after a little work.

use anyhow::Result;
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};

use crate::machine::resident_mib as resident;

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
