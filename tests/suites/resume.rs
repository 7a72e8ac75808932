//! A job that goes on where it stopped, on a node that has never seen its files.

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use tests::{
    cluster::Cluster,
    jobs::{Jobs, outcome, python},
    wait::until,
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::{TRAINYARD, text};

/// Four epochs; after the second it waits to be stopped, unless it goes on from a checkpoint. That
/// holds the epoch and bytes that are no text.
const TRAINER: &str = r#"
import os, time
from trainyard_sdk import TrainerSDK
weights = bytes(range(256)) * 4096
first = 1
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=4)
    found = os.environ.get("RESUME_FROM")
    if found:
        state = open(found, "rb").read()
        assert state[1:] == weights, len(state)
        first = state[0] + 1
        print(os.environ["TRAINYARD_NODE"], "goes on", os.environ["RESUME"], os.path.basename(found), flush=True)
    last = os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt")
    for epoch in range(first, 5):
        open(last + ".part", "wb").write(bytes([epoch]) + weights)
        os.replace(last + ".part", last)
        sdk.report_progress(epoch, 4, {"loss": 1.0 / epoch}, checkpoint_path=last)
        while epoch == 2 and not found:
            time.sleep(0.01)
    sdk.report_completed(final_metrics={"loss": 0.25}, last_checkpoint_path=last)
"#;

pub(crate) fn job() -> v1::JobSpec {
    let mut spec = python(TRAINER);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (4, 1, 0.01);
    spec
}

/// Starts an ended job by the HTTP API.
async fn start(cluster: &Cluster, id: u64, query: &[(&str, &str)]) -> (u16, Value) {
    let mut url = reqwest::Url::parse(&cluster.url()).expect("a URL");
    url.set_path(&format!("/api/v1/training/jobs/{id}/start"));
    url.query_pairs_mut().extend_pairs(query);
    let request = reqwest::Client::new().post(url);
    let answer = request.bearer_auth(cluster.token()).send().await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

/// Runs the job on node `one` to its second epoch and stops it; the node and its files are gone then.
/// The answer is where its checkpoint is stored.
async fn stopped(cluster: &mut Cluster, jobs: &mut Jobs) -> (u64, String) {
    cluster.agent("one", &["--slots", "1"]).await;
    let id = jobs.submit(job()).await;
    until("the second epoch is stored", async || {
        let points = jobs.clone().points(id).await;
        (points.len() == 2).then_some(())
    })
    .await;
    jobs.cancel(id).await.expect("it is stopped");
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Cancelled, "{ended:?}");
    let drained = cluster.cli(&["drain", "one", "--reason", "it goes away"]);
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    cluster.kill_agent("one");
    fs::remove_dir_all(cluster.agent_data("one")).expect("its files go too");
    let last = ended.last_checkpoint.expect("a checkpoint is named");
    (id, last.path)
}

/// The epochs of each attempt.
pub(crate) async fn epochs(jobs: &mut Jobs, id: u64) -> BTreeMap<u32, Vec<u32>> {
    let mut found = BTreeMap::<u32, Vec<u32>>::new();
    for point in jobs.points(id).await {
        found.entry(point.attempt).or_default().push(point.epoch);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_from_its_stored_checkpoint_on_a_node_that_never_had_it() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    let (id, location) = stopped(&mut cluster, &mut jobs).await;
    let stored = cluster.path("coordinator/artifacts/checkpoints");
    assert!(stored.join(format!("{id}/last.pt")).is_file(), "{location}");
    cluster.agent("two", &["--slots", "1"]).await;
    let (status, shown) = start(&cluster, id, &[("resume", "true")]).await;
    assert_eq!(status, 200, "{shown}");
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let said = jobs.output(id).await;
    assert_eq!(said, ["two goes on true last.pt"]);
    let all = epochs(&mut jobs, id).await;
    assert_eq!(all, BTreeMap::from([(1, vec![1, 2]), (2, vec![3, 4])]));
    let kept = fs::read(stored.join(format!("{id}/last.pt"))).expect("it is stored");
    assert_eq!(kept.first(), Some(&4), "the newest attempt's is the last");

    // Another job may begin with it too, if its owner may read it.
    let mut other = job();
    (other.resume_from, other.resume) = (location, true);
    let other = jobs.submit(other).await;
    let ended = jobs.ends(other).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    assert_eq!(jobs.output(other).await, ["two goes on true last.pt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_the_store_has_lost_fails_the_job_by_its_name() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    let (id, location) = stopped(&mut cluster, &mut jobs).await;
    let stored = cluster.path("coordinator/artifacts/checkpoints");
    fs::remove_dir_all(stored).expect("it is lost");
    cluster.agent("two", &["--slots", "1"]).await;
    let query = [("checkpoint_path", &*location), ("resume", "true")];
    let (status, shown) = start(&cluster, id, &query).await;
    assert_eq!(status, 200, "{shown}");
    let ended = jobs.ends(id).await;
    let end = outcome(&ended);
    assert_eq!(ended.state(), JobState::Failed, "{ended:?}");
    assert_eq!(end.failure_class(), FailureClass::User, "{end:?}");
    let words = format!("checkpoint '{location}' is not in the artifact store");
    assert!(end.message.contains(&words), "{}", end.message);
}
