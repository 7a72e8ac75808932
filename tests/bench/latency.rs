//! Submit → trainer process started: the process itself says when it runs. It is `date`, whose own start takes little: a
//! job that is a large program would be measured with what loading it takes.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};
use trainyard_proto::v1::{JobState, ResourceRequest};

use crate::{clock::wall_us, distribution, machine::stolen_ticks};

/// Jobs before the first one that counts: connections and page cache are warm then.
const WARM_UP: usize = 20;

/// The job: prints microseconds since 1970.
const STAMP: [&str; 2] = ["/bin/date", "+%s%6N"];

/// One job at a time, in milliseconds, while `waiting` others want more than is free.
pub(crate) async fn measure(binary: &str, count: usize, waiting: usize) -> Result<Value> {
    let mut cluster = Cluster::start(binary).await;
    cluster.agent("one", &["--slots", "3"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    if waiting > 0 {
        wait_in_line(&mut jobs, waiting).await;
    }
    let (mut started, mut accepted, mut calm) = (Vec::new(), Vec::new(), Vec::new());
    let mut stolen = 0;
    for number in 0..count + WARM_UP {
        let ticks = stolen_ticks()?;
        let before = wall_us()?;
        let id = jobs.submit(command(&STAMP)).await;
        let answered = wall_us()?;
        jobs.ends(id).await;
        let output = jobs.output(id).await;
        let stamp: u64 = output.first().context("the job said nothing")?.parse()?;
        if number < WARM_UP {
            continue;
        }
        let took = milliseconds(stamp.saturating_sub(before));
        started.push(took);
        accepted.push(milliseconds(answered.saturating_sub(before)));
        match stolen_ticks()?.saturating_sub(ticks) {
            0 => calm.push(took),
            ticks => stolen += ticks,
        }
    }
    Ok(json!({
        "waiting": waiting,
        "submit_to_process_ms": distribution(started),
        "submit_to_answer_ms": distribution(accepted),
        // What the jobs took during which the host of a virtual machine let its processors run all the time.
        "undisturbed_ms": distribution(calm),
        "stolen_ms": stolen * 10,
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
