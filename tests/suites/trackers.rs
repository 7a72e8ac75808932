//! A real MLflow server beside a real cluster: all of a job is there, once, whatever dies in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, python, shell},
    mlflow::{self, Mlflow},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use trainyard_proto::v1::{self, JobState};

use crate::{TRAINYARD, text};

/// A trainer of six epochs; the fourth waits until a file is there.
const TRAINER: &str = r#"
import os, time
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=6)
    for epoch in range(1, 7):
        while epoch == 4 and not os.path.exists(os.environ["GATE"]):
            time.sleep(0.02)
        path = os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").write(b"x")
        metrics = {"loss": 1 / epoch, "metrics/mAP50(B)": epoch / 10}
        sdk.report_progress(epoch, 6, metrics, checkpoint_path=path, best_checkpoint_path=path)
    sdk.report_completed(final_metrics={"loss": 1 / 6}, best_checkpoint_path=path, last_checkpoint_path=path)
"#;

fn installed_crypto() {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}

async fn cluster(url: &str) -> Cluster {
    let set = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let variables = [
        ("TRAINYARD__TRACKERS__MLFLOW__URL", url),
        ("TRAINYARD__TRACKERS__MLFLOW__EXPERIMENT", "suite"),
    ];
    let setup = CoordinatorSetup {
        variables: variables.map(set).into(),
        ..CoordinatorSetup::default()
    };
    let mut cluster = Cluster::start_with(TRAINYARD, setup).await;
    cluster.agent("one", &["--slots", "2"]).await;
    cluster
}

fn spec(cluster: &Cluster) -> v1::JobSpec {
    let mut spec = python(TRAINER);
    spec.name = "six epochs".to_owned();
    spec.epochs = 6;
    spec.batch_size = 4;
    spec.learning_rate = 0.01;
    spec.advanced_config_json = r#"{"optimizer":{"momentum":0.9},"mosaic":true}"#.to_owned();
    spec.tags = vec!["nightly".to_owned()];
    let gate = cluster.path("gate").display().to_string();
    spec.environment = [("GATE".to_owned(), gate)].into();
    spec
}

/// As `trainyard trackers --json` shows it.
fn shown(cluster: &Cluster) -> Value {
    let output = cluster.cli(&["trackers", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let all = said["trackers"].as_array().expect("a list");
    let mlflow = all.iter().find(|tracker| tracker["name"] == "mlflow");
    mlflow.expect("mlflow is shown").clone()
}

async fn until_it_has_everything(cluster: &Cluster) -> Value {
    until("MLflow has everything", async || {
        let seen = shown(cluster);
        (seen["state"] == "idle" && seen["jobs_pending"] == 0).then_some(seen)
    })
    .await
}

/// The run of the job, as REST shows it.
async fn run_of(cluster: &Cluster, id: u64) -> String {
    let url = format!("{}/api/v1/training/jobs/{id}", cluster.url());
    let request = reqwest::Client::new().get(url).bearer_auth(cluster.token());
    let answer = request.send().await.expect("REST answers");
    let job: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    let run = job["mlflow_run_id"].as_str();
    run.unwrap_or_else(|| panic!("no run: {job}")).to_owned()
}

/// Value by key of params or tags.
fn value<'a>(run: &'a Value, kind: &str, key: &str) -> &'a str {
    let all = run["data"][kind].as_array().expect("a list");
    let found = all.iter().find(|entry| entry["key"] == key);
    let found = found.and_then(|entry| entry["value"].as_str());
    found.unwrap_or_else(|| panic!("{key} is not in {all:?}"))
}

async fn complete(mlflow: &Mlflow, run: &str) {
    let loss = mlflow.history(run, "loss").await;
    let steps: Vec<_> = loss.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6], "each step exactly once");
    for (step, value) in &loss {
        assert!((value * (*step as f64) - 1.0).abs() < 1e-9, "{loss:?}");
    }
    assert_eq!(mlflow.history(run, "metrics/mAP50_B_").await.len(), 6);
    assert_eq!(mlflow.history(run, "final/loss").await.len(), 1);
    let run = mlflow.run(run).await;
    assert_eq!(run["info"]["status"], "FINISHED", "{run}");
    assert!(run["info"]["end_time"].as_i64() > run["info"]["start_time"].as_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_job_is_at_mlflow_once_although_it_was_away_in_the_middle() {
    let Some(program) = mlflow::program() else {
        return;
    };
    installed_crypto();
    let folder = tempfile::tempdir().expect("a folder");
    let mut mlflow = Mlflow::start(program, folder.path()).await;
    let cluster = cluster(&mlflow.url()).await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(spec(&cluster)).await;
    until("three points are at MLflow", async || {
        let seen = shown(&cluster);
        (seen["delivered"] == 3).then_some(())
    })
    .await;
    let run = run_of(&cluster, id).await;
    assert_eq!(mlflow.run(&run).await["info"]["status"], "RUNNING");

    mlflow.stop();
    std::fs::write(cluster.path("gate"), "").expect("the gate opens");
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    let away = until("it is missed", async || {
        let seen = shown(&cluster);
        (seen["state"] == "retrying").then_some(seen)
    })
    .await;
    assert_eq!(away["jobs_pending"], 1, "{away}");
    assert_eq!(away["points_pending"], 3, "{away}");

    mlflow.again().await;
    until_it_has_everything(&cluster).await;
    complete(&mlflow, &run).await;
    let run = mlflow.run(&run).await;
    for (key, expected) in [
        ("epochs", "6"),
        ("learning_rate", "0.01"),
        ("advanced_config.optimizer.momentum", "0.9"),
        ("advanced_config.mosaic", "true"),
    ] {
        assert_eq!(value(&run, "params", key), expected);
    }
    let tag = |key: &str| value(&run, "tags", key);
    assert_eq!(tag("trainyard.job_id"), id.to_string());
    assert_eq!(
        (tag("trainyard.attempt"), tag("trainyard.node")),
        ("1", "one")
    );
    assert_eq!(tag("mlflow.user"), tests::cluster::EMAIL);
    assert_eq!(tag("trainyard.tags"), "nightly");
    assert!(tag("trainyard.best_checkpoint").ends_with("last.pt"));
    assert_eq!(run["info"]["run_name"], format!("six epochs (job {id})"));
}

/// Between the coordinator and MLflow: carries everything, and when it is armed keeps back the answer
/// to the next points, which MLflow then has.
struct Between {
    port: u16,
    armed: Arc<AtomicBool>,
    kept_back: Arc<Notify>,
    _carrying: JoinSet<()>,
}

impl Between {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (armed, kept_back) = (Arc::new(AtomicBool::new(true)), Arc::new(Notify::new()));
        let signs = (Arc::clone(&armed), Arc::clone(&kept_back));
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, to, signs.clone()));
            }
        });
        Self {
            port,
            armed,
            kept_back,
            _carrying: carrying,
        }
    }
}

async fn carry(mut client: TcpStream, to: u16, (armed, kept_back): (Arc<AtomicBool>, Arc<Notify>)) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    let mut points = false;
    let (mut request, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Some(bytes) = read.ok().and_then(|n| request.get(..n)).filter(|b| !b.is_empty()) else { return };
                points |= String::from_utf8_lossy(bytes).contains("\"metrics\":[{");
                if server.write_all(bytes).await.is_err() { return }
            }
            read = server.read(&mut answer) => {
                let Some(bytes) = read.ok().and_then(|n| answer.get(..n)).filter(|b| !b.is_empty()) else { return };
                if points && armed.swap(false, Ordering::SeqCst) {
                    kept_back.notify_one();
                    // The coordinator never hears of it.
                    std::future::pending::<()>().await;
                }
                points = false;
                if client.write_all(bytes).await.is_err() { return }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_after_mlflow_took_points_and_before_it_was_noted_doubles_none() {
    let Some(program) = mlflow::program() else {
        return;
    };
    installed_crypto();
    let folder = tempfile::tempdir().expect("a folder");
    let mlflow = Mlflow::start(program, folder.path()).await;
    let between = Between::start(mlflow.port()).await;
    let mut cluster = cluster(&format!("http://127.0.0.1:{}", between.port)).await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(spec(&cluster)).await;
    let kept_back = between.kept_back.notified();
    let kept_back = tokio::time::timeout(Duration::from_secs(60), kept_back).await;
    kept_back.expect("MLflow took points");
    cluster.kill_coordinator();
    assert!(!between.armed.load(Ordering::SeqCst));
    cluster.start_coordinator().await;
    std::fs::write(cluster.path("gate"), "").expect("the gate opens");
    let jobs = Jobs::of(&cluster).await;
    assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
    until_it_has_everything(&cluster).await;
    let run = run_of(&cluster, id).await;
    complete(&mlflow, &run).await;
}

/// MLflow takes no metric and no parameter whose name has a vowel sign of Hindi, as its pattern of
/// names is Python's.
const STRANGE: &str = "\u{92e}\u{93e}\u{92a}";

#[tokio::test(flavor = "multi_thread")]
async fn what_mlflow_refuses_of_a_job_is_given_up_alone() {
    let Some(program) = mlflow::program() else {
        return;
    };
    installed_crypto();
    let folder = tempfile::tempdir().expect("a folder");
    let mlflow = Mlflow::start(program, folder.path()).await;
    let cluster = cluster(&mlflow.url()).await;
    let mut jobs = Jobs::of(&cluster).await;
    let script = format!(
        r#"
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=6)
    for epoch in range(1, 7):
        metrics = {{"loss": 1 / epoch, "metrics/mAP50(B)": epoch / 10, "{STRANGE}": 1.0}}
        sdk.report_progress(epoch, 6, metrics, checkpoint_path="/c/last.pt")
    sdk.report_completed(final_metrics={{"loss": 1 / 6}}, best_metrics={{"loss": 1 / 6}}, best_epoch=6,
                         model_artifacts_path="s3://models/1")
"#
    );
    let mut spec = python(&script);
    spec.epochs = 6;
    spec.batch_size = 4;
    spec.learning_rate = 0.01;
    spec.advanced_config_json = format!(r#"{{"{STRANGE}":1,"mosaic":true}}"#);
    let id = jobs.submit(spec).await;
    assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
    let seen = until_it_has_everything(&cluster).await;
    // The metric and the parameter.
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&6.into(), &2.into())
    );
    let run = run_of(&cluster, id).await;
    complete(&mlflow, &run).await;
    assert_eq!(mlflow.history(&run, "best/loss").await, [(6, 1.0 / 6.0)]);
    let run = mlflow.run(&run).await;
    for (key, expected) in [("epochs", "6"), ("advanced_config.mosaic", "true")] {
        assert_eq!(value(&run, "params", key), expected);
    }
    for (key, expected) in [
        ("trainyard.last_checkpoint", "/c/last.pt"),
        ("trainyard.model_artifacts", "s3://models/1"),
        ("trainyard.best_epoch", "6"),
    ] {
        assert_eq!(value(&run, "tags", key), expected);
    }
    let keys = ["params", "metrics"].map(|kind| run["data"][kind].as_array().expect("a list"));
    let named = |entry: &&Value| {
        entry["key"]
            .as_str()
            .is_some_and(|key| key.contains(STRANGE))
    };
    assert_eq!(keys.into_iter().flatten().find(named), None, "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflow_has_the_end_of_jobs_that_failed_or_were_cancelled_and_each_report_of_one_within_epochs()
 {
    let Some(program) = mlflow::program() else {
        return;
    };
    installed_crypto();
    let folder = tempfile::tempdir().expect("a folder");
    let mlflow = Mlflow::start(program, folder.path()).await;
    let cluster = cluster(&mlflow.url()).await;
    let mut jobs = Jobs::of(&cluster).await;
    let script = r#"
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=2)
    for epoch in (1, 2):
        for step in (10, 20):
            sdk.report_progress(epoch, 2, {"acc@1": epoch / step, "acc#1": step}, step=step)
    raise SystemExit(3)
"#;
    let failed = jobs.submit(python(script)).await;
    assert_eq!(jobs.ends(failed).await.state(), JobState::Failed);
    let cancelled = jobs.submit(shell("sleep 600")).await;
    jobs.reaches(cancelled, JobState::Running).await;
    jobs.cancel(cancelled).await.expect("it is cancelled");
    jobs.reaches(cancelled, JobState::Cancelled).await;
    let seen = until_it_has_everything(&cluster).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&4.into(), &0.into())
    );
    for (job, end) in [(failed, "FAILED"), (cancelled, "KILLED")] {
        let run = mlflow.run(&run_of(&cluster, job).await).await;
        assert_eq!(run["info"]["status"], end, "{run}");
    }
    let run = run_of(&cluster, failed).await;
    // Both names are `acc_1` to MLflow.
    let first = mlflow.history(&run, "acc_1").await;
    assert_eq!(first, [(10, 10.0), (20, 20.0), (30, 10.0), (40, 20.0)]);
    let second = mlflow.history(&run, "acc_1_2").await;
    assert_eq!(second, [(10, 0.1), (20, 0.05), (30, 0.2), (40, 0.1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trackers_that_are_not_configured_are_said_once_whatever_jobs_do() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "2"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    for script in ["true", "exit 3"] {
        let id = jobs.submit(shell(script)).await;
        jobs.ends(id).await;
    }
    let log = std::fs::read_to_string(cluster.path("coordinator.log")).expect("the log");
    for what in ["tracker mlflow is", "tracker clearml is", "webhooks are"] {
        let line = format!("{what} off: not configured");
        assert_eq!(log.matches(&line).count(), 1, "{line}: {log}");
    }
}
