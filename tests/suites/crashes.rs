//! `kill -9` of the coordinator and of an agent: the run goes on, and nothing is lost or doubled.

use tests::{
    cluster::Cluster,
    jobs::{Jobs, python, shell},
    wait::until,
};
use trainyard_proto::v1::{JobSpec, JobState, LogStream};

use crate::TRAINYARD;

/// Epochs of the trainer below.
const EPOCHS: u32 = 60;

/// Reports 60 epochs and a line each; from epoch 20 on it waits for the gate, so that whatever the
/// test does happens in the middle of the run.
fn trainer(gate: &str) -> JobSpec {
    let script = format!(
        r#"
import os, time
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs={EPOCHS})
    for epoch in range(1, {EPOCHS} + 1):
        print("line", epoch, flush=True)
        sdk.report_progress(epoch, {EPOCHS}, {{"loss": 1.0 / epoch}})
        while epoch == 20 and not os.path.exists({gate:?}):
            time.sleep(0.01)
    sdk.report_completed(final_metrics={{"loss": 1.0 / {EPOCHS}}})
"#
    );
    let mut spec = python(&script);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (EPOCHS, 1, 0.01);
    spec
}

async fn has_points(jobs: &Jobs, id: u64, count: usize) {
    until("the first points are there", async || {
        let points = jobs.clone().points(id).await;
        (points.len() >= count).then_some(())
    })
    .await;
}

/// Every epoch and every line once, in order.
async fn is_whole(jobs: &mut Jobs, id: u64) {
    let points = jobs.points(id).await;
    let epochs: Vec<u32> = points.iter().map(|point| point.epoch).collect();
    assert_eq!(epochs, (1..=EPOCHS).collect::<Vec<_>>());
    let lines = jobs.lines(id).await;
    let own = lines
        .iter()
        .filter(|line| line.stream() == LogStream::Stdout);
    let texts: Vec<_> = own.map(|line| line.text.clone()).collect();
    let all: Vec<_> = (1..=EPOCHS).map(|epoch| format!("line {epoch}")).collect();
    assert_eq!(texts, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_accepted_before_a_crash_of_the_coordinator_run_after_it() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(jobs.submit(shell(&format!("echo {number}"))).await);
    }
    let before = jobs.get(ids[1]).await;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    let mut jobs = Jobs::of(&cluster).await;
    assert_eq!(jobs.get(ids[1]).await, before);
    cluster.agent("one", &["--slots", "1"]).await;
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
        assert_eq!(jobs.output(id).await, [number.to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_crashes_of_the_coordinator_with_every_point_and_line_once() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("go").display().to_string();
    let id = jobs.submit(trainer(&gate)).await;
    has_points(&jobs, id, 5).await;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    let jobs = Jobs::of(&cluster).await;
    has_points(&jobs, id, 20).await;
    cluster.kill_coordinator();
    // The trainer runs to its end while nobody listens.
    std::fs::write(&gate, "").expect("the gate opens");
    cluster.start_coordinator().await;
    let mut jobs = Jobs::of(&cluster).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    assert_eq!(job.attempts.len(), 1);
    is_whole(&mut jobs, id).await;
    let mut door = cluster.nodes().await;
    let nodes = door.list_nodes(trainyard_proto::v1::ListNodesRequest {});
    let nodes = nodes.await.expect("nodes are listed").into_inner().nodes;
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].name, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_a_crash_of_its_agent_with_every_point_and_line_once() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("go").display().to_string();
    let id = jobs.submit(trainer(&gate)).await;
    has_points(&jobs, id, 5).await;
    cluster.kill_agent("one");
    cluster.agent("one", &["--slots", "1"]).await;
    has_points(&jobs, id, 20).await;
    cluster.kill_agent("one");
    std::fs::write(&gate, "").expect("the gate opens");
    cluster.agent("one", &["--slots", "1"]).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    assert_eq!(job.attempts.len(), 1);
    is_whole(&mut jobs, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trainer_said_before_it_died_while_its_agent_was_away_is_there_once() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let (gate, said) = (cluster.path("go"), cluster.path("said"));
    let script = format!(
        r#"
import os, signal, time
from trainyard_sdk import TrainerSDK
sdk = TrainerSDK(retry_delays=(0.01,))
for epoch in range(1, {EPOCHS} + 1):
    print("line", epoch, flush=True)
    sdk.log(f"said {{epoch}}")
    sdk.report_progress(epoch, {EPOCHS}, {{"loss": 1.0 / epoch}})
    while epoch == 20 and not os.path.exists({gate:?}):
        time.sleep(0.01)
open({said:?}, "w").close()
os.kill(os.getpid(), signal.SIGSEGV)
"#
    );
    let mut spec = python(&script);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (EPOCHS, 1, 0.01);
    let id = jobs.submit(spec).await;
    has_points(&jobs, id, 20).await;
    cluster.kill_agent("one");
    std::fs::write(&gate, "").expect("the gate opens");
    until("all is said to nobody", async || {
        said.exists().then_some(())
    })
    .await;
    cluster.agent("one", &["--slots", "1"]).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Failed, "{job:?}");
    assert_eq!(job.attempts.len(), 1);
    is_whole(&mut jobs, id).await;
    let lines = jobs.lines(id).await;
    let told = lines
        .iter()
        .filter(|line| line.stream() == LogStream::Callback);
    let told: Vec<_> = told.map(|line| line.text.clone()).collect();
    let all: Vec<_> = (1..=EPOCHS).map(|epoch| format!("said {epoch}")).collect();
    assert_eq!(told, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_a_crash_of_coordinator_and_agent_at_once_with_every_point_and_line_once() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("go").display().to_string();
    let id = jobs.clone().submit(trainer(&gate)).await;
    has_points(&jobs, id, 20).await;
    cluster.kill_coordinator();
    cluster.kill_agent("one");
    // The trainer goes on while neither is there.
    std::fs::write(&gate, "").expect("the gate opens");
    cluster.start_coordinator().await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    assert_eq!(job.attempts.len(), 1);
    is_whole(&mut jobs, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_again_and_again_loses_no_job_and_runs_none_twice() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "4"]).await;
    let mark = cluster.path("runs");
    std::fs::create_dir(&mark).expect("a folder");
    let mut ids = Vec::new();
    for round in 0..4 {
        let mut jobs = Jobs::of(&cluster).await;
        for number in 0..6 {
            // A second run of the same job fails on its own mark.
            let script = format!("mkdir {}/{round}-{number} && echo done", mark.display());
            ids.push(jobs.submit(shell(&script)).await);
        }
        cluster.kill_coordinator();
        cluster.start_coordinator().await;
    }
    let mut jobs = Jobs::of(&cluster).await;
    for id in ids {
        let job = jobs.ends(id).await;
        assert_eq!(job.state(), JobState::Completed, "{job:?}");
        assert_eq!(jobs.output(id).await, ["done"]);
    }
}
