//! Submit → trainer process started: the process itself says when it runs.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};
use trainyard_proto::v1::{JobState, ResourceRequest};

use crate::distribution;

/// Jobs before the first one that counts: connections and page cache are warm then.
const WARM_UP: usize = 20;

#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]
fn now_us() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_micros())?)
}

/// The job: the clock at its first line of code.
pub(crate) fn stamp() -> Result<()> {
    let now = now_us()?;
    writeln!(std::io::stdout(), "{now}")?;
    Ok(())
}

/// One job at a time, in milliseconds, while `waiting` others want more than is free.
pub(crate) async fn measure(binary: &str, count: usize, waiting: usize) -> Result<Value> {
    let mut cluster = Cluster::start(binary).await;
    cluster.agent("one", &["--slots", "3"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    if waiting > 0 {
        wait_in_line(&mut jobs, waiting).await;
    }
    let me = std::env::current_exe()?.display().to_string();
    let (mut started, mut accepted) = (Vec::new(), Vec::new());
    for number in 0..count + WARM_UP {
        let before = now_us()?;
        let id = jobs.submit(command(&[&me, "stamp"])).await;
        let answered = now_us()?;
        jobs.ends(id).await;
        let output = jobs.output(id).await;
        let stamp: u64 = output.first().context("the job said nothing")?.parse()?;
        if number >= WARM_UP {
            started.push(milliseconds(stamp.saturating_sub(before)));
            accepted.push(milliseconds(answered.saturating_sub(before)));
        }
    }
    Ok(json!({
        "waiting": waiting,
        "submit_to_process_ms": distribution(started),
        "submit_to_answer_ms": distribution(accepted),
    }))
}

/// Fills the queue: one job holds a slot, so that those behind it, which want all three, are looked at each time and
/// never fit.
async fn wait_in_line(jobs: &mut Jobs, count: usize) {
    let holder = jobs.submit(command(&["/bin/sleep", "86400"])).await;
    jobs.reaches(holder, JobState::Running).await;
    for _ in 0..count {
        let mut wide = command(&["/bin/true"]);
        wide.resources = Some(ResourceRequest {
            cpus: 3,
            ..ResourceRequest::default()
        });
        jobs.submit(wide).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a short span")]
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}
