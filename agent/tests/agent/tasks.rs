//! Tasks from start to end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use trainyard_agent::exec::{
    ExitRecord, LaunchSpec, ProcIdent,
    launch::{LaunchError, Launched},
    shims::Shims,
    trainers::{Trainers, Waiting},
    watch::{ShimVanished, Stop, StopError},
};
use trainyard_proto::convert::duration;
use trainyard_proto::v1::{JobSpec, LogStream, Record, StopCause, TaskPhase, record::Body};

use crate::fake::Fake;
use crate::harness::{
    LIMIT, cluster, command, folder, launch, options, said, shell, start_of, stop_of, task_folder,
};

pub(crate) async fn a_command_runs_and_all_it_says_arrives_once_and_in_order() {
    let (fake, agent, _data) = cluster().await;
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 3";
    fake.send(start_of(1, shell(script))).await;
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.signal), (Some(3), None));
    let expected: Vec<String> = (0..2000).map(|i| format!("line {i}")).collect();
    assert_eq!(fake.lines(1, LogStream::Stdout), expected);
    assert!(expected.ends_with(&end.last_lines) && end.last_lines.len() == 20);
    let own = fake.lines(1, LogStream::System);
    assert_eq!(
        own.last().map(String::as_str),
        Some("trainer ended: exit code 3")
    );
    assert_eq!(fake.known().doubled, 0);
    agent.stop().await;
}

pub(crate) async fn a_node_says_who_it_is_and_when_its_trainer_ran() {
    let (fake, agent, _data) = cluster().await;
    fake.send(start_of(1, shell("exit 0"))).await;
    let report = fake.end(1).await;
    assert_eq!(report.phase(), TaskPhase::Exited);
    assert!(report.started_at.is_some());
    let hello = fake.hello(0).await;
    assert_eq!(
        (hello.node_name.as_str(), hello.protocol_version),
        ("n1", 1)
    );
    assert_eq!(hello.capacity.expect("its capacity").cpus, 4);
    assert_eq!(hello.labels.get("room").map(String::as_str), Some("7"));
    agent.stop().await;
}

pub(crate) async fn a_repeated_start_runs_once() {
    let (fake, agent, data) = cluster().await;
    let again = data.path().join("runs");
    let script = format!("echo run >> {}", again.display());
    for _ in 0..3 {
        fake.send(start_of(1, shell(&script))).await;
    }
    fake.whole_end(1).await;
    fake.send(start_of(1, shell(&script))).await;
    fake.send(start_of(2, shell("exit 0"))).await;
    assert_eq!(fake.whole_end(2).await.exit_code, Some(0));
    let runs = std::fs::read_to_string(&again).expect("it ran");
    assert_eq!(runs, "run\n");
    agent.stop().await;
}

pub(crate) async fn a_stop_ends_a_trainer_with_its_grace() {
    let (fake, agent, data) = cluster().await;
    let heeds = "trap 'echo saved; exit 5' TERM; echo ready; sleep 1000 & wait";
    let ignores = "trap '' TERM; echo ready; sleep 1000";
    fake.send(start_of(1, shell(heeds))).await;
    fake.send(start_of(2, shell(ignores))).await;
    said(&fake, 1, "ready").await;
    said(&fake, 2, "ready").await;
    fake.send(stop_of(1, LIMIT)).await;
    fake.send(stop_of(2, Duration::from_millis(100))).await;
    let end = fake.whole_end(1).await;
    assert_eq!(
        (end.exit_code, end.stop_cause()),
        (Some(5), StopCause::Cancelled)
    );
    assert_eq!(fake.lines(1, LogStream::Stdout), ["ready", "saved"]);
    let end = fake.whole_end(2).await;
    assert_eq!(
        (end.signal, end.stop_cause()),
        (Some(9), StopCause::Cancelled)
    );
    assert!(task_folder(&data, 1).join("stop-cause.json").exists());
    agent.stop().await;
}

pub(crate) async fn a_stop_while_preparing_leaves_no_process() {
    let (fake, agent, data) = cluster().await;
    let trainer = data.path().join("own-trainers/slow");
    std::fs::create_dir_all(&trainer).expect("the trainer's folder");
    // Reading this file waits for a writer: the preparation stands.
    let pipe = trainer.join("pyproject.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let spec = JobSpec {
        framework: "slow".to_owned(),
        epochs: 1,
        batch_size: 1,
        learning_rate: 0.1,
        ..JobSpec::default()
    };
    fake.send(start_of(1, spec)).await;
    let preparing = fake
        .until(|known| {
            let report = known.reports.get(&1)?;
            report.detail.contains("slow").then(|| report.clone())
        })
        .await;
    assert_eq!(preparing.phase(), TaskPhase::Preparing);
    fake.send(stop_of(1, LIMIT)).await;
    let report = fake.end(1).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    assert_eq!(
        report.end.expect("it has ended").stop_cause(),
        StopCause::Cancelled
    );
    assert!(!task_folder(&data, 1).join("launch.json").exists());
    agent.stop().await;
    // Lets the reader go, which the runtime waits for.
    std::fs::write(&pipe, "").expect("the pipe is closed");
}

pub(crate) async fn a_trainer_that_calls_back_is_heard() {
    let (fake, agent, _data) = cluster().await;
    let script = r#"
import json, os, urllib.request
def tell(what, body):
    url = f"{os.environ['CALLBACK_URL']}/training/jobs/{os.environ['JOB_ID']}/callback/{what}"
    call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(call) as answer:
        assert answer.status == 200
tell("progress", {"job_id": 1, "status": "running", "current_epoch": 1, "total_epochs": 1,
     "progress_percent": 100.0, "metrics": {"loss": 0.5}})
tell("completion", {"job_id": 1, "status": "completed", "exit_code": 0, "total_epochs_completed": 1,
     "final_metrics": {"loss": 0.5}})
"#;
    fake.send(start_of(1, command(&["python3", "-c", script])))
        .await;
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(0), "{:?}", end.last_lines);
    let kinds: Vec<&str> = fake.records(1).iter().map(kind).collect();
    assert_eq!(kinds, ["line", "progress", "completion", "line"]);
    agent.stop().await;
}

pub(crate) fn kind(record: &Record) -> &'static str {
    match &record.body {
        Some(Body::Progress(progress)) => {
            assert_eq!(progress.epoch, 1);
            assert_eq!(progress.values, BTreeMap::from([("loss".to_owned(), 0.5)]));
            "progress"
        }
        Some(Body::Completion(word)) => {
            assert!(word.succeeded);
            "completion"
        }
        Some(Body::Log(_)) => "line",
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_time_limit_stops_a_trainer() {
    let (fake, agent, _data) = cluster().await;
    let spec = JobSpec {
        time_limit: Some(duration(Duration::from_millis(100))),
        ..shell("sleep 1000")
    };
    fake.send(start_of(1, spec)).await;
    let end = fake.whole_end(1).await;
    assert_eq!(
        (end.signal, end.stop_cause()),
        (Some(15), StopCause::TimeLimit)
    );
    agent.stop().await;
}

/// Shims that cannot be signalled the first time, as for want of file descriptors.
#[derive(Debug)]
struct Deaf(Shims, AtomicBool);

impl Trainers for Deaf {
    fn launch<'w>(
        &'w self,
        task_dir: &'w Path,
        spec: &'w LaunchSpec,
    ) -> Waiting<'w, Result<Launched, LaunchError>> {
        Trainers::launch(&self.0, task_dir, spec)
    }

    fn wait_exit<'w>(
        &'w self,
        task_dir: &'w Path,
        shim: &'w ProcIdent,
    ) -> Waiting<'w, Result<ExitRecord, ShimVanished>> {
        Trainers::wait_exit(&self.0, task_dir, shim)
    }

    fn request_stop(
        &self,
        task_dir: &Path,
        shim: &ProcIdent,
        grace: Duration,
    ) -> Result<Stop, StopError> {
        if self.1.swap(true, Ordering::Relaxed) {
            return Trainers::request_stop(&self.0, task_dir, shim, grace);
        }
        Err(StopError {
            task_dir: task_dir.to_owned(),
            pid: shim.pid,
            source: std::io::Error::other("too many open files"),
        })
    }

    fn keep_ready(&self) {
        Trainers::keep_ready(&self.0);
    }
}

pub(crate) async fn a_time_limit_whose_signal_fails_once_is_enforced_nevertheless() {
    let (fake, data) = (Fake::start().await, folder());
    let mut options = options(&fake, data.path());
    let shims = Shims::new(options.shim_command.clone());
    let deaf = Arc::new(Deaf(shims, AtomicBool::new(false)));
    options.trainers = Some(Arc::clone(&deaf) as Arc<dyn Trainers>);
    let agent = launch(options);
    let spec = JobSpec {
        time_limit: Some(duration(Duration::from_millis(100))),
        ..shell("sleep 1000")
    };
    fake.send(start_of(1, spec)).await;
    let end = fake.whole_end(1).await;
    assert!(deaf.1.load(Ordering::Relaxed), "it was asked");
    assert_eq!(end.stop_cause(), StopCause::TimeLimit);
    agent.stop().await;
}

/// The error of a job that cannot be started, which must be the user's.
pub(crate) async fn user_error(spec: JobSpec) -> String {
    let (fake, agent, _data) = cluster().await;
    fake.send(start_of(1, spec)).await;
    let report = fake.end(1).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    let end = fake.whole_end(1).await;
    assert!(!end.infrastructure, "{}", end.error);
    assert_eq!(
        fake.lines(1, LogStream::System),
        std::slice::from_ref(&end.error)
    );
    agent.stop().await;
    end.error
}

pub(crate) async fn a_missing_dataset_is_the_users_error_and_named() {
    let spec = JobSpec {
        dataset_path: "/nowhere/set".to_owned(),
        ..shell("exit 0")
    };
    assert_eq!(
        user_error(spec).await,
        "dataset path '/nowhere/set' does not exist on node n1; give a path that every node sees"
    );
}

pub(crate) async fn a_dataset_without_its_snapshot_is_not_taken_for_a_path() {
    let (fake, agent, data) = cluster().await;
    let ran = data.path().join("ran");
    let spec = JobSpec {
        dataset_id: "pets".to_owned(),
        ..shell(&format!("touch {}", ran.display()))
    };
    fake.send(start_of(1, spec)).await;
    assert_eq!(fake.end(1).await.phase(), TaskPhase::NotStarted);
    let end = fake.whole_end(1).await;
    assert_eq!(
        end.error,
        "the coordinator has sent no snapshot of dataset 'pets'; submit the job anew"
    );
    assert!(end.infrastructure && !ran.exists());
    agent.stop().await;
}

pub(crate) async fn a_missing_program_is_the_users_error_and_named() {
    let error = user_error(command(&["no-such-program"])).await;
    assert!(error.contains("no-such-program not found"), "{error}");
}

pub(crate) async fn an_unknown_framework_is_answered_with_the_known_ones() {
    let spec = JobSpec {
        framework: "pytorch".to_owned(),
        ..JobSpec::default()
    };
    assert_eq!(
        user_error(spec).await,
        "framework 'pytorch' has no trainer on node n1; it has command, sklearn, timm, ultralytics"
    );
}
