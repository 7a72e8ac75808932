//! Submit → trainer process started: the process itself says when it runs.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};
use trainyard_proto::v1::{JobState, ResourceRequest};

use crate::{
    clock::wall_us,
    distribution,
    stalls::{Stall, Watch},
};

/// Jobs before the first one that counts: connections and page cache are warm then.
const WARM_UP: usize = 20;

/// The job: the clock at its first line of code.
pub(crate) fn stamp() -> Result<()> {
    let now = wall_us()?;
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
    let watch = Watch::begin()?;
    for number in 0..count + WARM_UP {
        let before = wall_us()?;
        let id = jobs.submit(command(&[&me, "stamp"])).await;
        let answered = wall_us()?;
        jobs.ends(id).await;
        let output = jobs.output(id).await;
        let stamp: u64 = output.first().context("the job said nothing")?.parse()?;
        if number >= WARM_UP {
            started.push((before, stamp));
            accepted.push(milliseconds(answered.saturating_sub(before)));
        }
    }
    let stalls = watch.end()?;
    let calm = started.iter().filter(|span| !is_hit(**span, &stalls));
    Ok(json!({
        "waiting": waiting,
        "submit_to_process_ms": distribution(started.iter().map(|span| of(*span)).collect()),
        "submit_to_answer_ms": distribution(accepted),
        // What the same jobs took while no processor of the machine stood still.
        "undisturbed_ms": distribution(calm.map(|span| of(*span)).collect()),
        "machine_stalls_ms": distribution(stalls.iter().map(|stall| of((stall.from_us, stall.to_us))).collect()),
    }))
}

/// Whether a processor stood still within these microseconds of the wall clock.
fn is_hit((from, to): (u64, u64), stalls: &[Stall]) -> bool {
    let overlaps = |stall: &Stall| stall.from_us < to && stall.to_us > from;
    stalls.iter().any(overlaps)
}

fn of((from, to): (u64, u64)) -> f64 {
    milliseconds(to.saturating_sub(from))
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
