//! Another version of the binary under jobs that run: of the agent, of the coordinator, and back again.
//!
//! The other version is a copy of the binary in which its version is another: a file of its own, and what it says of itself.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tests::{
    cluster::Cluster,
    jobs::{Jobs, python, shell},
    wait::until,
};
use trainyard_proto::v1::{self, JobSpec, JobState};

use crate::TRAINYARD;

/// How the version stands in a binary, and one of the same length that is none of ours.
const MARK: &str = "trainyard version ";
const LATER: &str = "9.8.7";

/// Reports an epoch and prints a line for each file `STEPS-n` that appears, and ends after the sixth.
fn trainer(steps: &Path) -> JobSpec {
    let script = format!(
        r#"
import os, time
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=6)
    for epoch in range(1, 7):
        while not os.path.exists({:?} + "-" + str(epoch)):
            time.sleep(0.01)
        print("epoch", epoch, flush=True)
        sdk.report_progress(epoch, 6, {{"loss": 1.0 / epoch}})
    sdk.report_completed(final_metrics={{"loss": 0.1}})
"#,
        steps.display().to_string()
    );
    let mut spec = python(&script);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (6, 1, 0.01);
    spec
}

/// The next epoch begins, and its report and its line arrive.
async fn steps_on(cluster: &Cluster, id: u64, epoch: usize) {
    fs::write(cluster.path(&format!("step-{epoch}")), "").expect("it may go on");
    until(&format!("epoch {epoch} has arrived"), async || {
        let mut jobs = Jobs::of(cluster).await;
        let points = jobs.points(id).await.len();
        (points == epoch && jobs.output(id).await.len() == epoch).then_some(())
    })
    .await;
}

/// A copy of the binary with another version in it.
fn of_another_version(binary: &Path) -> Vec<u8> {
    let mut bytes = fs::read(binary).expect("the binary is read");
    let (own, mark) = (env!("CARGO_PKG_VERSION"), MARK.as_bytes());
    assert_eq!(own.len(), LATER.len(), "a later version as long as {own}");
    let marked = [mark, own.as_bytes()].concat();
    let found = bytes.windows(marked.len()).enumerate();
    let found = found.filter(|(_, window)| *window == marked);
    let places: Vec<_> = found.map(|(at, _)| at + mark.len()).collect();
    assert!(!places.is_empty(), "the binary says its version nowhere");
    for at in places {
        let version = bytes.get_mut(at..at + LATER.len());
        version
            .expect("it was found there")
            .copy_from_slice(LATER.as_bytes());
    }
    bytes
}

/// Puts a program in place of another, as package managers do: under another name first. The one that runs has no file
/// any more.
fn install(bytes: &[u8], place: &Path) {
    let part = place.with_extension("part");
    fs::write(&part, bytes).expect("there is room for the program");
    fs::set_permissions(&part, PermissionsExt::from_mode(0o755)).expect("chmod");
    fs::rename(part, place).expect("it takes its place");
}

/// What agent and coordinator say of themselves.
async fn versions(cluster: &Cluster) -> (String, String) {
    let request = v1::ListNodesRequest::default();
    let nodes = cluster.nodes().await.list_nodes(request).await;
    let nodes = nodes.expect("nodes are listed").into_inner().nodes;
    let agent = nodes.first().expect("there is one").agent_version.clone();
    let health = reqwest::get(format!("{}/health", cluster.url())).await;
    let health: serde_json::Value = health.expect("an answer").json().await.expect("JSON");
    let version = health.get("version").and_then(serde_json::Value::as_str);
    (agent, version.unwrap_or_default().to_owned())
}

async fn restart_agent(cluster: &mut Cluster, binary: &Path) {
    cluster.agent_process("one").stop().await;
    cluster.kill_agent("one");
    cluster.uses(binary);
    cluster.agent("one", &["--slots", "2"]).await;
}

async fn restart_coordinator(cluster: &mut Cluster, binary: &Path) {
    cluster.coordinator().stop().await;
    cluster.kill_coordinator();
    cluster.uses(binary);
    cluster.start_coordinator().await;
}

/// A job that an agent starts now runs to its end.
async fn another_job_runs(cluster: &Cluster) {
    let mut jobs = Jobs::of(cluster).await;
    let id = jobs.submit(shell("echo here")).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    assert_eq!(ended.attempts.len(), 1, "{ended:?}");
    assert_eq!(jobs.output(id).await, ["here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_and_downgrade_with_jobs_running_lose_nothing() {
    let own = env!("CARGO_PKG_VERSION");
    let folder = tempfile::tempdir().expect("a folder for programs");
    let (of_agent, of_coordinator) = (
        folder.path().join("agent"),
        folder.path().join("coordinator"),
    );
    let earlier = fs::read(TRAINYARD).expect("the binary is read");
    let later = of_another_version(Path::new(TRAINYARD));
    install(&earlier, &of_agent);
    install(&earlier, &of_coordinator);
    let mut cluster = Cluster::start(&of_coordinator.display().to_string()).await;
    cluster.uses(&of_agent);
    cluster.agent("one", &["--slots", "2"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(trainer(&cluster.path("step"))).await;
    steps_on(&cluster, id, 1).await;
    assert_eq!(versions(&cluster).await, (own.into(), own.into()));

    // The file is gone while agent and shim run, and another is there before the agent is: launches go on.
    fs::remove_file(&of_agent).expect("it is removed");
    another_job_runs(&cluster).await;
    install(&later, &of_agent);
    another_job_runs(&cluster).await;
    restart_agent(&mut cluster, &of_agent).await;
    steps_on(&cluster, id, 2).await;
    assert_eq!(versions(&cluster).await, (LATER.into(), own.into()));
    another_job_runs(&cluster).await;

    install(&later, &of_coordinator);
    restart_coordinator(&mut cluster, &of_coordinator).await;
    steps_on(&cluster, id, 3).await;
    assert_eq!(versions(&cluster).await, (LATER.into(), LATER.into()));

    // And back, the agent first again, this time by surprise.
    install(&earlier, &of_agent);
    cluster.kill_agent("one");
    cluster.uses(&of_agent);
    cluster.agent("one", &["--slots", "2"]).await;
    steps_on(&cluster, id, 4).await;
    assert_eq!(versions(&cluster).await, (own.into(), LATER.into()));
    install(&earlier, &of_coordinator);
    restart_coordinator(&mut cluster, &of_coordinator).await;
    steps_on(&cluster, id, 5).await;
    assert_eq!(versions(&cluster).await, (own.into(), own.into()));
    another_job_runs(&cluster).await;

    steps_on(&cluster, id, 6).await;
    let mut jobs = Jobs::of(&cluster).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    assert_eq!(ended.attempts.len(), 1, "{ended:?}");
    let epochs = jobs.points(id).await.into_iter().map(|point| point.epoch);
    assert_eq!(epochs.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let lines = (1..=6).map(|epoch| format!("epoch {epoch}"));
    assert_eq!(jobs.output(id).await, lines.collect::<Vec<_>>());
}
