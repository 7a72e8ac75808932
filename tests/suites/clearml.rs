//! A real cluster beside a ClearML API server that checks every request with the schemas of ClearML's
//! own package: all of a job is there, and nothing was sent that ClearML does not know.

use serde_json::{Value, json};
use tests::{
    clearml::{self, Clearml},
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, python, shell},
    wait::until,
};
use trainyard_proto::v1::JobState;

use crate::{TRAINYARD, text};

/// A trainer that reports twice within each epoch, and one metric that the server refuses.
const TRAINER: &str = r#"
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=2)
    for epoch in (1, 2):
        for step in (10, 20):
            metrics = {"loss": 1 / (epoch * step), "val/refused": 1.0, "val/mAP50": epoch / step}
            sdk.report_progress(epoch, 2, metrics, step=step, checkpoint_path="/c/last.pt")
    sdk.report_completed(final_metrics={"loss": 0.025}, best_metrics={"loss": 0.02}, best_epoch=2,
                         best_checkpoint_path="/c/best.pt", model_artifacts_path="s3://models/1")
"#;

/// A name that means something else as a regular expression.
const PROJECT: &str = "a.b (c)/d+1 [x]";

/// As `trainyard trackers --json` shows it.
fn shown(cluster: &Cluster) -> Value {
    let output = cluster.cli(&["trackers", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let all = said["trackers"].as_array().expect("a list");
    let clearml = all.iter().find(|tracker| tracker["name"] == "clearml");
    clearml.expect("clearml is shown").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_job_is_at_clearml_by_requests_that_its_own_package_allows() {
    let Some(program) = clearml::python() else {
        return;
    };
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Clearml::start(&program, folder.path()).await;
    let (key, secret) = Clearml::KEYS;
    let url = server.url();
    let settings = [
        ("URL", url.as_str()),
        ("ACCESS_KEY", key),
        ("SECRET_KEY", secret),
        ("PROJECT", PROJECT),
    ];
    let variables = settings.map(|(name, value)| {
        (
            format!("TRAINYARD__TRACKERS__CLEARML__{name}"),
            value.to_owned(),
        )
    });
    let setup = CoordinatorSetup {
        variables: variables.into(),
        ..CoordinatorSetup::default()
    };
    let mut cluster = Cluster::start_with(TRAINYARD, setup).await;
    cluster.agent("one", &["--slots", "2"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut spec = python(TRAINER);
    spec.name = "four reports".to_owned();
    spec.tags = vec!["nightly".to_owned()];
    spec.notes = "by night".to_owned();
    spec.advanced_config_json = r#"{"optimizer":{"momentum":0.9}}"#.to_owned();
    let id = jobs.submit(spec).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    let seen = until_it_has_everything(&cluster).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(4), &json!(1))
    );
    check(&server.told().await);
    assert_eq!(jobs.get(id).await.clearml_task_id, "t1");

    // What it remembered of projects is gone with the process.
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    let mut jobs = Jobs::of(&cluster).await;
    let failed = jobs.submit(shell("exit 3")).await;
    assert_eq!(jobs.ends(failed).await.state(), JobState::Failed);
    until_it_has_everything(&cluster).await;
    let cancelled = jobs.submit(shell("sleep 600")).await;
    jobs.reaches(cancelled, JobState::Running).await;
    jobs.cancel(cancelled).await.expect("it is cancelled");
    jobs.reaches(cancelled, JobState::Cancelled).await;
    until_it_has_everything(&cluster).await;
    let told = server.told().await;
    assert_eq!(told["projects"], json!([PROJECT]), "the project is found");
    let ends = ["t2", "t3"].map(|task| told["tasks"][task]["status"].as_str());
    assert_eq!(ends, [Some("failed"), Some("stopped")]);
    assert_eq!(told["tasks"]["t2"]["status_message"], "exit code 3");
}

async fn until_it_has_everything(cluster: &Cluster) -> Value {
    until("ClearML has everything", async || {
        let seen = shown(cluster);
        (seen["state"] == "idle" && seen["jobs_pending"] == 0).then_some(seen)
    })
    .await
}

fn check(told: &Value) {
    // Only the metric that is refused, by itself.
    let faults = told["faults"].as_array().expect("a list");
    let expected = |fault: &Value| {
        let words = fault.as_str().unwrap_or_default();
        words.starts_with("Events not added") && words.contains("Invalid event type")
    };
    assert!(faults.iter().all(expected), "{faults:?}");
    let task = &told["tasks"]["t1"];
    assert_eq!(told["tasks"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(
        (&task["status"], &task["type"]),
        (&json!("completed"), &json!("training"))
    );
    assert_eq!(task["comment"], "by night");
    let events = &task["events"];
    assert_eq!(events["val/refused"], Value::Null);
    let loss = json!({"10": 0.1, "20": 0.05, "30": 0.05, "40": 0.025});
    assert_eq!(
        events["loss/loss"], loss,
        "each report is there, also those within an epoch"
    );
    assert_eq!(
        events["val/mAP50"].as_object().map(serde_json::Map::len),
        Some(4)
    );
    for (name, value) in [
        ("General/epochs", "1"),
        ("General/advanced_config/optimizer/momentum", "0.9"),
        ("trainyard/node", "one"),
        ("trainyard/best_epoch", "2"),
        ("final_metrics/loss", "0.025"),
        ("best_metrics/loss", "0.02"),
    ] {
        assert_eq!(task["params"][name], value, "{name} of {}", task["params"]);
    }
    let artifacts = json!({"best_checkpoint": "/c/best.pt", "last_checkpoint": "/c/last.pt",
        "model_artifacts": "s3://models/1"});
    assert_eq!(task["artifacts"], artifacts);
}
