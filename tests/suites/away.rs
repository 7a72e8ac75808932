//! A coordinator that is away for long, and a trainer that has much to tell meanwhile.

use std::{fs, path::Path};

use tests::{
    cluster::Cluster,
    jobs::{Jobs, python, variables},
    wait::until,
};
use trainyard_proto::v1::{JobState, LogStream};

use crate::TRAINYARD;

const STEPS: usize = 1_500;

/// Reports some two kilobytes a step, and a line each ten steps, once it may.
const TRAINER: &str = r#"
import os, time
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=3)
    sdk.report_progress(1, 3, {"loss": 1.0})
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.01)
    wide = {f"metric/number-{n:03}": 1 / (n + 1) for n in range(60)}
    for step in range(1, 1501):
        sdk.report_progress(2, 3, wide, step=step)
        if step % 10 == 0:
            print("step", step, flush=True)
    sdk.report_progress(3, 3, {"loss": 0.5})
    sdk.report_completed(final_metrics={"loss": 0.5})
"#;

/// Whether the only task of an agent has written this.
fn has_written(data: &Path, words: &str) -> bool {
    let tasks = fs::read_dir(data.join("tasks")).into_iter().flatten();
    let outputs = tasks.flatten().map(|task| task.path().join("output.log"));
    outputs
        .filter_map(|output| fs::read(output).ok())
        .any(|bytes| String::from_utf8_lossy(&bytes).contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_for_long_gets_every_line_and_a_coarser_curve_and_the_job_says_so()
 {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let room = [("TRAINYARD_AGENT__NODE__SPOOL_MIB", "1")];
    cluster.agent_with("one", &["--slots", "1"], &room).await;
    let mut jobs = Jobs::of(&cluster).await;
    let go = cluster.path("go");
    let mut spec = python(TRAINER);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (3, 1, 0.01);
    spec.environment
        .extend(variables(&[("GO", go.to_str().expect("UTF-8"))]));
    let id = jobs.submit(spec).await;
    until("the first epoch is stored", async || {
        (jobs.clone().points(id).await.len() == 1).then_some(())
    })
    .await;
    cluster.kill_coordinator();
    fs::write(&go, "").expect("it may go");
    let data = cluster.agent_data("one");
    until("it has told everything", async || {
        has_written(&data, "step 1500").then_some(())
    })
    .await;
    cluster.start_coordinator().await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let lines: Vec<_> = (1..=STEPS / 10)
        .map(|ten| format!("step {}", ten * 10))
        .collect();
    assert_eq!(jobs.output(id).await, lines);

    let points = jobs.points(id).await;
    let steps = points.iter().filter(|point| point.epoch == 2).count();
    assert!((300..STEPS).contains(&steps), "{steps}");
    assert!(
        [1, 3]
            .iter()
            .all(|epoch| points.iter().any(|point| point.epoch == *epoch))
    );
    let said = jobs.lines(id).await.into_iter();
    let said = said.filter(|line| line.stream() == LogStream::System && line.level == "WARNING");
    let said: Vec<_> = said.map(|line| line.text).collect();
    let first = said.first().expect("it is said");
    assert!(first.contains("node.spool_mib"), "{said:?}");
    let last = said.last().expect("it is said");
    let left_out = format!("{} reports of metrics were left out so far", STEPS - steps);
    assert!(last.contains(&left_out), "{steps} {said:?}");
}
