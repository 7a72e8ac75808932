//! A cancel reaches the job wherever it stands, and its whole process tree.

use std::{fs, os::unix::fs::PermissionsExt};

use nix::sys::signal::Signal;
use tests::{
    cluster::{Cluster, processes},
    jobs::{Jobs, outcome, shell, variables},
    wait::until,
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::TRAINYARD;

/// Processes whose command line starts with `mark`.
fn marked(mark: &str) -> usize {
    let found = processes().into_iter();
    found
        .filter(|(_, command)| command.starts_with(mark))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_job_is_cancelled_at_once() {
    let cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(shell("true")).await;
    let job = jobs.cancel(id).await.expect("it is cancelled");
    assert_eq!(job.state(), JobState::Cancelled);
    assert_eq!(outcome(&job).failure_class(), FailureClass::Cancelled);
    assert_eq!(
        outcome(&job).message,
        "cancelled by a user before it started"
    );
    let again = jobs.cancel(id).await.expect_err("it is over");
    assert_eq!(again.message(), "Cannot cancel job with status 'cancelled'");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_environment_is_being_built_is_cancelled_and_the_builder_ends() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let tools = cluster.path("tools");
    fs::create_dir(&tools).expect("a folder for tools");
    // A uv that never comes back.
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nexec sleep 31415.9\n";
    fs::write(tools.join("uv"), script).expect("uv is written");
    fs::set_permissions(tools.join("uv"), PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = format!(
        "{}:{}",
        tools.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    cluster
        .agent_with("one", &["--slots", "1"], &[("PATH", &path)])
        .await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut spec = shell("");
    spec.framework = "sklearn".to_owned();
    spec.command.clear();
    spec.model_name = "mlp".to_owned();
    spec.task_type = "classification".to_owned();
    spec.dataset_path = cluster.path("").display().to_string();
    (spec.epochs, spec.batch_size, spec.learning_rate) = (1, 8, 0.01);
    let id = jobs.submit(spec).await;
    until("uv runs", async || {
        (marked("sleep 31415.9") == 1).then_some(())
    })
    .await;
    let job = jobs.get(id).await;
    assert_eq!(job.state(), JobState::Starting);
    assert!(job.reason.contains("environment"), "{}", job.reason);
    jobs.cancel(id).await.expect("it is cancelled");
    let job = jobs.reaches(id, JobState::Cancelled).await;
    assert_eq!(outcome(&job).failure_class(), FailureClass::Cancelled);
    until("uv is gone", async || {
        (marked("sleep 31415.9") == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_trainer_is_asked_first_and_may_save() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let script = "trap 'echo saved; exit 0' TERM; echo up; sleep 2718.2 & wait";
    let id = jobs.submit(shell(script)).await;
    up(&jobs, id).await;
    jobs.cancel(id).await.expect("it is cancelled");
    let job = jobs.reaches(id, JobState::Cancelled).await;
    assert_eq!(outcome(&job).exit_code, Some(0));
    assert_eq!(jobs.output(id).await, ["up", "saved"]);
    assert_eq!(marked("sleep 2718.2"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_does_not_listen_is_killed_with_all_its_children_after_the_grace() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let script = "trap '' TERM; setsid sleep 1618.03 & sleep 1618.03 & echo up; sleep 1618.03; sleep 1618.03";
    let mut spec = shell(script);
    spec.grace_period = Some(prost_types::Duration {
        seconds: 0,
        nanos: 200_000_000,
    });
    let id = jobs.submit(spec).await;
    up(&jobs, id).await;
    assert!(marked("sleep 1618.03") >= 3);
    jobs.cancel(id).await.expect("it is cancelled");
    let job = jobs.reaches(id, JobState::Cancelled).await;
    assert_eq!(outcome(&job).signal, Some(9));
    assert_eq!(outcome(&job).failure_class(), FailureClass::Cancelled);
    // The state is told only when nothing is left.
    assert_eq!(marked("sleep 1618.03"), 0);
}

/// Waits until the trainer has said that it is up.
async fn up(jobs: &Jobs, id: u64) {
    until("the trainer is up", async || {
        let said = jobs.clone().output(id).await;
        said.contains(&"up".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_last_lines_are_under_way_is_cancelled_in_vain_and_keeps_them_all() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    // The state is short: whoever misses it tries again with another job.
    for round in 0..10 {
        let gate = cluster.path(&format!("go-{round}"));
        let script = "until [ -e $GATE ]; do sleep 0.02; done; seq 1 30000";
        let mut spec = shell(script);
        spec.environment = variables(&[("GATE", &gate.display().to_string())]);
        let id = jobs.submit(spec).await;
        jobs.reaches(id, JobState::Running).await;
        let watched = jobs.0.watch_job(v1::WatchJobRequest { job_id: id }).await;
        let mut states = watched.expect("it is watched").into_inner();
        // Nobody takes the lines until the trainer has ended.
        cluster.coordinator().signal(Signal::SIGSTOP);
        fs::write(&gate, "").expect("the gate opens");
        let end = cluster
            .agent_data("one")
            .join(format!("tasks/{id}-1-0/end.json"));
        until("the trainer has ended", async || end.exists().then_some(())).await;
        cluster.coordinator().signal(Signal::SIGCONT);
        let mut accepted = false;
        while let Some(seen) = states.message().await.expect("the stream goes on") {
            let job = seen.job.expect("a job");
            if job.state() == JobState::Finishing {
                accepted = jobs.cancel(id).await.is_ok();
                break;
            }
        }
        let job = jobs.reaches(id, JobState::Completed).await;
        assert_eq!(outcome(&job).exit_code, Some(0));
        assert_eq!(jobs.output(id).await.len(), 30_000);
        if accepted {
            return;
        }
    }
    panic!("ten jobs, and none was seen while its last lines were under way");
}
