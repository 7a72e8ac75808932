//! What trainers do, and what the job says of it: fail, hang, fork, die, call back.

use std::fs;

use tests::{
    cluster::{Cluster, processes},
    jobs::{Jobs, outcome, python, shell, variables},
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::TRAINYARD;

async fn one_agent() -> (Cluster, Jobs) {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster
        .agent_with("one", &["--slots", "4"], &[("AGENT_SECRET", "hush")])
        .await;
    let jobs = Jobs::of(&cluster).await;
    (cluster, jobs)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_unsuccessful_end_says_why_with_code_or_signal_class_and_last_lines() {
    let (_cluster, mut jobs) = one_agent().await;
    let failed = jobs
        .submit(shell("echo nearly; echo no disk >&2; exit 3"))
        .await;
    let crashed = jobs.submit(shell("echo last words; kill -SEGV $$")).await;
    let memory = jobs
        .submit(shell("echo 'MemoryError: 8 GiB' >&2; exit 1"))
        .await;
    let missing = jobs
        .submit(tests::jobs::command(&["no-such-program"]))
        .await;

    let job = jobs.ends(failed).await;
    let end = outcome(&job);
    assert_eq!((job.state(), end.exit_code), (JobState::Failed, Some(3)));
    assert_eq!(end.failure_class(), FailureClass::User);
    assert_eq!(end.message, "exit code 3");
    assert_eq!(end.last_lines, ["nearly", "no disk"]);

    let job = jobs.ends(crashed).await;
    let end = outcome(&job);
    assert_eq!(
        (end.signal, end.failure_class()),
        (Some(11), FailureClass::User)
    );
    assert_eq!(end.message, "killed by signal 11 (SIGSEGV)");
    assert_eq!(end.last_lines, ["last words"]);

    let job = jobs.ends(memory).await;
    assert_eq!(outcome(&job).failure_class(), FailureClass::OutOfMemory);

    let job = jobs.ends(missing).await;
    let end = outcome(&job);
    assert_eq!(end.failure_class(), FailureClass::User);
    assert!(
        end.message.contains("program no-such-program not found"),
        "{}",
        end.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_hangs_is_stopped_at_its_time_limit() {
    let (_cluster, mut jobs) = one_agent().await;
    let mut spec = shell("trap '' TERM; while :; do sleep 0.05; done");
    let span = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
    (spec.time_limit, spec.grace_period) = (span(300_000_000), span(100_000_000));
    let id = jobs.submit(spec).await;
    let job = jobs.ends(id).await;
    let end = outcome(&job);
    assert_eq!(
        (job.state(), end.failure_class()),
        (JobState::Failed, FailureClass::Timeout)
    );
    assert_eq!((end.signal, end.exit_code), (Some(9), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_forks_away_leaves_nothing_behind() {
    let (_cluster, mut jobs) = one_agent().await;
    let script = "(setsid sh -c 'echo $$ > far; exec sleep 1414.21' > /dev/null 2>&1 &)
        until [ -s far ]; do sleep 0.01; done; exit 0";
    let id = jobs.submit(shell(script)).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    let left: Vec<_> = processes()
        .into_iter()
        .filter(|(_, command)| command.starts_with("sleep 1414.21"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

const TRAINER: &str = r#"
import os, sys
from trainyard_sdk import TrainerSDK
with TrainerSDK() as sdk:
    sdk.report_started(total_epochs=3)
    folder = os.environ["CHECKPOINT_DIR"]
    os.makedirs(folder, exist_ok=True)
    paths = {name: os.path.join(folder, name + ".pt") for name in ("best", "last")}
    for epoch in (1, 2, 3):
        for path in paths.values():
            open(path, "wb").write(b"x" * 1000 * epoch)
        print("epoch", epoch, flush=True)
        metrics = {"loss": 1 / epoch, "accuracy": epoch / 4, "learning_rate": 0.01, "recall": 0.5}
        sdk.report_progress(epoch, 3, metrics, checkpoint_path=paths["last"], best_checkpoint_path=paths["best"])
    sdk.report_completed(final_metrics=metrics, best_checkpoint_path=paths["best"], last_checkpoint_path=paths["last"])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_calls_back_leaves_points_checkpoints_and_final_metrics_on_the_job() {
    let (_cluster, mut jobs) = one_agent().await;
    let mut spec = python(TRAINER);
    spec.epochs = 3;
    spec.batch_size = 1;
    spec.learning_rate = 0.01;
    let id = jobs.submit(spec).await;
    let job = jobs.ends(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    let points = jobs.points(id).await;
    let epochs: Vec<_> = points.iter().map(|point| point.epoch).collect();
    assert_eq!(epochs, [1, 2, 3]);
    let names: Vec<_> = points[2].values.keys().map(String::as_str).collect();
    assert_eq!(names, ["accuracy", "learning_rate", "loss", "recall"]);
    assert!((job.final_metrics["accuracy"] - 0.75).abs() < 1e-9);
    for checkpoint in [&job.best_checkpoint, &job.last_checkpoint] {
        let checkpoint = checkpoint.as_ref().expect("a checkpoint");
        assert_eq!(checkpoint.size_bytes, Some(3000));
        // It stays when the agent has forgotten the task.
        let size = fs::metadata(&checkpoint.path)
            .expect("the file is there")
            .len();
        assert_eq!(size, 3000);
    }
    assert_eq!(jobs.output(id).await, ["epoch 1", "epoch 2", "epoch 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_the_trainer_reports_is_the_reason_of_the_job() {
    let (_cluster, mut jobs) = one_agent().await;
    let script = "from trainyard_sdk import TrainerSDK, DatasetError\n\
        with TrainerSDK() as sdk:\n    sdk.report_started(total_epochs=2)\n    raise DatasetError('no images')\n";
    let id = jobs.submit(python(script)).await;
    let job = jobs.ends(id).await;
    let end = outcome(&job);
    assert_eq!(job.state(), JobState::Failed);
    assert_eq!(end.message, "[DatasetError] no images (exit code 1)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_sees_the_variables_of_the_contract_and_nothing_of_the_agents_own() {
    let (_cluster, mut jobs) = one_agent().await;
    let mut spec = shell("env");
    spec.environment = variables(&[("MY_OWN", "42"), ("JOB_ID", "7")]);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (4, 2, 0.25);
    spec.advanced_config_json = r#"{"optimizer":{"momentum":0.9},"nbs":64}"#.to_owned();
    let id = jobs.submit(spec).await;
    assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
    let seen = jobs.output(id).await;
    let value = |name: &str| {
        let found = seen
            .iter()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        found
            .unwrap_or_else(|| panic!("{name} is not in {seen:?}"))
            .to_owned()
    };
    assert_eq!(value("JOB_ID"), id.to_string());
    assert_eq!(value("MY_OWN"), "42");
    assert_eq!(
        (value("EPOCHS"), value("BATCH_SIZE")),
        ("4".into(), "2".into())
    );
    assert_eq!(value("LEARNING_RATE"), "0.25");
    let url = value("CALLBACK_URL");
    assert!(
        url.starts_with("http://127.0.0.1:") && url.ends_with("/api/v1"),
        "{url}"
    );
    let config: serde_json::Value = serde_json::from_str(&value("CONFIG")).expect("JSON");
    assert_eq!(config["epochs"], 4);
    assert_eq!(config["nbs"], 64);
    assert_eq!(config["advanced_config"]["optimizer"]["momentum"], 0.9);
    let leaked = |line: &&String| line.contains("hush") || line.starts_with("TRAINYARD_TOKEN");
    assert_eq!(seen.iter().find(leaked), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_outputs_become_lines_in_order() {
    let (_cluster, mut jobs) = one_agent().await;
    let id = jobs.submit(shell("seq 1 5000; seq 1 10 >&2")).await;
    jobs.ends(id).await;
    let lines = jobs.lines(id).await;
    let of = |stream: v1::LogStream| -> Vec<String> {
        let own = lines.iter().filter(|line| line.stream() == stream);
        own.map(|line| line.text.clone()).collect()
    };
    let numbers = |last: u32| (1..=last).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(of(v1::LogStream::Stdout), numbers(5000));
    assert_eq!(of(v1::LogStream::Stderr), numbers(10));
}
