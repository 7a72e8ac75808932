//! Jobs that go on by themselves when their node dies: elsewhere, from the checkpoint that was stored while they trained.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, python},
    wait::until,
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::TRAINYARD;

/// Four epochs. A first run writes its checkpoint after the second one, reports the third, and then trains on without an
/// end; one that goes on ends.
pub(crate) const TRAINER: &str = r#"
import os, time
from trainyard_sdk import TrainerSDK
first = 1
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=4)
    found = os.environ.get("RESUME_FROM")
    if found:
        first = int(open(found).read()) + 1
        print(os.environ["TRAINYARD_NODE"], "goes on from", first, flush=True)
    last = os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt")
    for epoch in range(first, 5):
        if epoch == 2:
            open(last + ".part", "w").write(str(epoch))
            os.replace(last + ".part", last)
        sdk.report_progress(epoch, 4, {"loss": 1.0 / epoch})
        while epoch == 3 and not found:
            time.sleep(0.01)
    sdk.report_completed(final_metrics={"loss": 0.25})
"#;

/// With it a trainer that is told to stop reports one more epoch, and says by a file that its agent has taken it.
fn with_a_last_word(said: &Path) -> String {
    let begins = "    sdk.report_started(total_epochs=4)\n";
    let word = format!(
        r#"
    import signal
    def stopped(*_):
        sdk.report_progress(4, 4, {{"loss": 9.0}})
        open({:?}, "w").close()
        os._exit(0)
    signal.signal(signal.SIGTERM, stopped)
"#,
        said.display().to_string()
    );
    assert!(TRAINER.contains(begins));
    TRAINER.replace(begins, &format!("{begins}{word}"))
}

fn job(trainer: &str) -> v1::JobSpec {
    let mut spec = python(trainer);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (4, 1, 0.01);
    spec.retry = Some(v1::RetryPolicy {
        backoff: Some(prost_types::Duration::default()),
        ..v1::RetryPolicy::default()
    });
    spec
}

/// Takes 32 MiB a picture of its batch, and may have 256.
const GREEDY: &str = r#"
import os, resource
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
pictures = int(os.environ["BATCH_SIZE"])
batch = bytearray(pictures << 25)
print("a batch of", pictures)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_runs_out_of_memory_runs_once_more_with_half_its_batch_where_its_job_asks() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    let trainers = cluster.path("trainers");
    // In the place of the one that is embedded, and with the system's Python.
    std::fs::create_dir_all(trainers.join("sklearn")).expect("a folder");
    std::fs::write(trainers.join("sklearn/train.py"), GREEDY).expect("it is written");
    let own = trainers.display().to_string();
    let arguments = ["--slots", "4", "--trainers-dir", &own];
    cluster.agent("one", &arguments).await;
    // Asked for and enough, asked for and not enough, not asked for.
    let cases = [
        (8, v1::OnMemory::HalveBatch, JobState::Completed, 2),
        (32, v1::OnMemory::HalveBatch, JobState::Failed, 2),
        (8, v1::OnMemory::Fail, JobState::Failed, 1),
    ];
    let mut ids = Vec::new();
    for (batch, asked, ..) in cases {
        let spec = v1::JobSpec {
            framework: "sklearn".to_owned(),
            model_name: "mlp".to_owned(),
            task_type: "classification".to_owned(),
            dataset_path: "/".to_owned(),
            epochs: 1,
            batch_size: batch,
            learning_rate: 0.1,
            retry: Some(v1::RetryPolicy {
                out_of_memory: asked.into(),
                ..v1::RetryPolicy::default()
            }),
            ..v1::JobSpec::default()
        };
        ids.push(jobs.submit(spec).await);
    }
    for (id, (batch, _, state, attempts)) in ids.iter().zip(cases) {
        let ended = jobs.ends(*id).await;
        assert_eq!(
            (ended.state(), ended.attempts.len()),
            (state, attempts),
            "{ended:?}"
        );
        let first = ended.attempts.first().expect("there is one");
        let why = first.outcome.clone().expect("it has ended");
        assert_eq!(why.failure_class(), FailureClass::OutOfMemory, "{why:?}");
        let halved = batch / u32::try_from(attempts).expect("few");
        let spec = ended.spec.expect("it has one");
        assert_eq!(spec.batch_size, halved);
    }
    let first = ids.first().expect("there are three");
    let said = jobs.output(*first).await;
    assert_eq!(said.last().map(String::as_str), Some("a batch of 4"));
}

/// Nodes are believed for three seconds, so that no test waits for minutes.
pub(crate) async fn cluster() -> Cluster {
    let lease = [
        ("TRAINYARD__LEASES__SUSPECT_AFTER_SECONDS", "1"),
        ("TRAINYARD__LEASES__LOST_AFTER_SECONDS", "3"),
    ];
    let variables = lease.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let setup = CoordinatorSetup {
        variables: BTreeMap::from(variables),
        ..CoordinatorSetup::default()
    };
    Cluster::start_with(TRAINYARD, setup).await
}

pub(crate) const OFTEN: [(&str, &str); 1] = [("TRAINYARD_AGENT__CHECKPOINTS__EVERY_SECONDS", "1")];

/// What the HTTP API shows of the job's curve: attempt by attempt, the epochs.
async fn curve(cluster: &Cluster, id: u64) -> Vec<u64> {
    let url = format!("{}/api/v1/training/jobs/{id}/metrics", cluster.url());
    let request = reqwest::Client::new().get(url);
    let answer = request.bearer_auth(cluster.token()).send().await;
    let rows: Vec<Value> = answer.expect("an answer").json().await.expect("JSON");
    let epoch = |row: &Value| row.get("epoch").and_then(Value::as_u64);
    let mut epochs: Vec<_> = rows.iter().filter_map(epoch).collect();
    epochs.sort_unstable();
    epochs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_node_dies_goes_on_elsewhere_from_the_checkpoint_stored_while_it_trained() {
    let mut cluster = cluster().await;
    let mut jobs = Jobs::of(&cluster).await;
    cluster.agent_with("one", &["--slots", "1"], &OFTEN).await;
    let said = cluster.path("said");
    let id = jobs.submit(job(&with_a_last_word(&said))).await;
    until("the third epoch is reported", async || {
        let points = jobs.clone().points(id).await;
        (points.len() == 3).then_some(())
    })
    .await;
    let stored = cluster.path(&format!("coordinator/artifacts/checkpoints/{id}/last.pt"));
    until("its checkpoint is known to be stored", async || {
        let job = jobs.clone().get(id).await;
        let known = job
            .last_checkpoint
            .is_some_and(|last| last.size_bytes == Some(1));
        (known && stored.is_file()).then_some(())
    })
    .await;
    // The node dies; its trainer does not notice. Another node is there.
    cluster.kill_agent("one");
    cluster.agent_with("two", &["--slots", "1"], &OFTEN).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    assert_eq!(jobs.output(id).await, ["two goes on from 3"]);
    let first = ended.attempts.first().expect("there are two");
    let why = first.outcome.clone().expect("it has ended");
    assert_eq!(why.failure_class(), FailureClass::Lost, "{why:?}");
    assert_eq!(ended.attempts.len(), 2);
    // Every epoch once, though the third was reported twice.
    assert_eq!(jobs.points(id).await.len(), 5);
    assert_eq!(curve(&cluster, id).await, [1, 2, 3, 4]);
    assert!(!said.exists());
    // The old node comes back: its trainer is ended, and nothing that it says counts, though its agent has taken it.
    cluster.agent_with("one", &["--slots", "1"], &OFTEN).await;
    until("the old trainer is gone and forgotten", async || {
        let tasks = std::fs::read_dir(cluster.agent_data("one").join("tasks"));
        tasks
            .is_ok_and(|mut tasks| tasks.next().is_none())
            .then_some(())
    })
    .await;
    assert!(
        said.exists(),
        "the old trainer has told of its fourth epoch"
    );
    assert_eq!(jobs.points(id).await.len(), 5, "and it is not stored");
    assert_eq!(curve(&cluster, id).await, [1, 2, 3, 4]);
    let still = jobs.get(id).await;
    assert_eq!(
        (still.state(), still.attempts.len()),
        (JobState::Completed, 2)
    );
}
