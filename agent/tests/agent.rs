//! A whole agent against a coordinator of the test: this very binary is the shim when it is asked to
//! be.
//!
//! Owns the cases that show the agent's promises to the coordinator. It never sleeps: it waits for
//! conditions, bounded. `cargo test` calls it.

mod fake;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use fake::{Fake, TOKEN, lines};
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use trainyard_agent::boot::{self, AgentOptions, BootError};
use trainyard_agent::exec::shim;
use trainyard_proto::convert::duration;
use trainyard_proto::v1::{
    ForgetTask, JobSpec, LogStream, ResourceRequest, StartTask, StopCause, StopTask, TaskKey,
    TaskPhase, connect_response::Frame, record::Body,
};

const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, task_dir] = arguments.as_slice()
        && command == "shim"
    {
        return ExitCode::from(u8::try_from(shim::main(Path::new(task_dir))).unwrap_or(u8::MAX));
    }
    libtest_mimic::run(&Arguments::from_args(), cases()).exit_code()
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        fn cases() -> Vec<Trial> {
            vec![$(Trial::test(stringify!($name), || run(stringify!($name), $name()))),*]
        }
    };
}

cases! {
    a_command_runs_and_all_it_says_arrives_once_and_in_order,
    a_repeated_start_runs_once,
    a_stop_ends_a_trainer_with_its_grace,
    a_stop_while_preparing_leaves_no_process,
    a_trainer_that_calls_back_is_heard,
    records_of_a_lost_data_stream_come_again_and_none_is_missing,
    a_new_agent_goes_on_with_the_trainers_of_the_last_one,
    an_end_that_was_not_heard_is_told_by_the_next_agent,
    a_time_limit_stops_a_trainer,
    a_missing_dataset_is_the_users_error_and_named,
    a_missing_program_is_the_users_error_and_named,
    an_unknown_framework_is_answered_with_the_known_ones,
    a_forgotten_task_leaves_its_checkpoints_only,
    a_wrong_token_ends_the_agent,
    a_coordinator_that_comes_later_is_found,
    a_data_folder_has_one_agent,
    a_data_folder_that_cannot_be_written_is_named,
}

fn run(name: &str, case: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, case).await })
        .map_err(|_late| Failed::from(format!("{name} took more than {LIMIT:?}")))
}

/// A running agent.
struct Agent {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), BootError>>,
}

impl Agent {
    async fn stop(self) {
        self.stop.send(()).expect("the agent runs");
        let outcome = self.ended.await.expect("the agent does not panic");
        outcome.expect("the agent stops in order");
    }
}

fn options(fake: &Fake, data: &Path) -> AgentOptions {
    let me = std::env::current_exe().expect("the path of this test");
    AgentOptions {
        coordinator: format!("http://{}", fake.address),
        token: TOKEN.to_owned(),
        name: Some("n1".to_owned()),
        data_dir: data.to_owned(),
        slots: Some(4),
        simulated_gpus: Some(Vec::new()),
        trainers_dir: Some(data.join("own-trainers")),
        labels: BTreeMap::from([("room".to_owned(), "7".to_owned())]),
        shim_command: vec![me.display().to_string(), "shim".to_owned()],
        ready_file: None,
    }
}

fn launch(options: AgentOptions) -> Agent {
    let (stop, stopped) = oneshot::channel();
    let wait = async {
        stopped.await.ok();
    };
    let ended = TaskTracker::new().spawn(boot::run(options, wait));
    Agent { stop, ended }
}

/// A coordinator, an agent with an empty data folder, and the folder.
async fn cluster() -> (Fake, Agent, TempDir) {
    let (fake, data) = (Fake::start().await, folder());
    let agent = launch(options(&fake, data.path()));
    (fake, agent, data)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a data folder")
}

fn task(job: u64) -> Option<TaskKey> {
    Some(TaskKey {
        job_id: job,
        attempt: 1,
        rank: 0,
    })
}

fn command(argv: &[&str]) -> JobSpec {
    JobSpec {
        framework: "command".to_owned(),
        command: argv.iter().map(|&word| word.to_owned()).collect(),
        resources: Some(ResourceRequest {
            cpus: 1,
            ..ResourceRequest::default()
        }),
        ..JobSpec::default()
    }
}

fn shell(script: &str) -> JobSpec {
    command(&["sh", "-c", script])
}

fn start_of(job: u64, spec: JobSpec) -> Frame {
    Frame::Start(StartTask {
        task: task(job),
        spec: Some(spec),
        gpu_uuids: Vec::new(),
        world_size: 1,
        secret: format!("secret-{job}"),
    })
}

fn stop_of(job: u64, grace: Duration) -> Frame {
    Frame::Stop(StopTask {
        task: task(job),
        cause: StopCause::Cancelled.into(),
        grace_period: Some(duration(grace)),
    })
}

fn task_folder(data: &TempDir, job: u64) -> PathBuf {
    data.path().join(format!("tasks/{job}-1-0"))
}

/// Waits until the trainer of `job` has said `text`.
async fn said(fake: &Fake, job: u64, text: &str) {
    fake.until(|known| {
        let all = lines(known, job, LogStream::Stdout);
        all.iter().any(|line| line == text).then_some(())
    })
    .await;
}

/// Waits until `condition` holds; the case's own limit bounds it.
async fn until(mut condition: impl FnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        tick.tick().await;
    }
}

async fn a_command_runs_and_all_it_says_arrives_once_and_in_order() {
    let (fake, agent, _data) = cluster().await;
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 3";
    fake.send(start_of(1, shell(script))).await;
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.signal), (Some(3), None));
    let expected: Vec<String> = (0..2000).map(|i| format!("line {i}")).collect();
    assert_eq!(fake.lines(1, LogStream::Stdout), expected);
    assert_eq!(end.last_lines, expected[1980..]);
    let own = fake.lines(1, LogStream::System);
    assert_eq!(
        own.last().map(String::as_str),
        Some("trainer ended: exit code 3")
    );
    assert_eq!(fake.known().doubled, 0);
    let report = fake.known().reports[&1].clone();
    assert_eq!(report.phase(), TaskPhase::Exited);
    assert!(report.started_at.is_some());
    let hello = fake.known().hellos[0].clone();
    assert_eq!(
        (hello.node_name.as_str(), hello.protocol_version),
        ("n1", 1)
    );
    assert_eq!(hello.capacity.expect("its capacity").cpus, 4);
    assert_eq!(hello.labels["room"], "7");
    agent.stop().await;
}

async fn a_repeated_start_runs_once() {
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

async fn a_stop_ends_a_trainer_with_its_grace() {
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

async fn a_stop_while_preparing_leaves_no_process() {
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

async fn a_trainer_that_calls_back_is_heard() {
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
    let known = fake.known();
    let kinds: Vec<&str> = known.records[&1]
        .values()
        .map(|record| match &record.body {
            Some(Body::Progress(progress)) => {
                assert_eq!((progress.epoch, progress.values["loss"]), (1, 0.5));
                "progress"
            }
            Some(Body::Completion(word)) => {
                assert!(word.succeeded);
                "completion"
            }
            Some(Body::Log(_)) => "line",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["line", "progress", "completion", "line"]);
    drop(known);
    agent.stop().await;
}

async fn records_of_a_lost_data_stream_come_again_and_none_is_missing() {
    let (fake, agent, data) = cluster().await;
    fake.known().deaf = true;
    let go = data.path().join("go");
    let script = format!(
        "echo one; echo two; until [ -e {} ]; do sleep 0.01; done; echo three",
        go.display()
    );
    fake.send(start_of(1, shell(&script))).await;
    said(&fake, 1, "two").await;
    fake.known().deaf = false;
    fake.break_data();
    fake.until(|known| (known.attached >= 2 && known.doubled >= 2).then_some(()))
        .await;
    std::fs::write(&go, "").expect("the go is given");
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "two", "three"]);
    assert!(fake.known().hellos.len() >= 2, "both streams end together");
    agent.stop().await;
}

async fn a_new_agent_goes_on_with_the_trainers_of_the_last_one() {
    let (fake, agent, data) = cluster().await;
    let go = data.path().join("go");
    let script = format!(
        "echo one; until [ -e {} ]; do sleep 0.01; done; echo two; exit 6",
        go.display()
    );
    fake.send(start_of(1, shell(&script))).await;
    said(&fake, 1, "one").await;
    agent.stop().await;
    fake.hang_up();
    let second = launch(options(&fake, data.path()));
    let hello = fake.until(|known| known.hellos.get(1).cloned()).await;
    assert_eq!(hello.tasks.len(), 1, "the first word tells of the trainer");
    assert_eq!(hello.tasks[0].phase(), TaskPhase::Running);
    std::fs::write(&go, "").expect("the go is given");
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(6));
    assert_eq!(end.last_lines, ["one", "two"]);
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "two"]);
    second.stop().await;
}

async fn an_end_that_was_not_heard_is_told_by_the_next_agent() {
    let (fake, agent, data) = cluster().await;
    fake.send(start_of(1, shell("echo one; exit 7"))).await;
    fake.whole_end(1).await;
    agent.stop().await;
    fake.hang_up();
    fake.known().reports.clear();
    let second = launch(options(&fake, data.path()));
    assert_eq!(
        fake.end(1).await.end.expect("it has ended").exit_code,
        Some(7)
    );
    second.stop().await;
}

async fn a_time_limit_stops_a_trainer() {
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

/// The error of a job that cannot be started, which must be the user's.
async fn user_error(spec: JobSpec) -> String {
    let (fake, agent, _data) = cluster().await;
    fake.send(start_of(1, spec)).await;
    let report = fake.end(1).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    let end = fake.whole_end(1).await;
    assert!(!end.infrastructure, "{}", end.error);
    assert_eq!(fake.lines(1, LogStream::System), [end.error.clone()]);
    agent.stop().await;
    end.error
}

async fn a_missing_dataset_is_the_users_error_and_named() {
    let spec = JobSpec {
        dataset_path: "/nowhere/set".to_owned(),
        ..shell("exit 0")
    };
    assert_eq!(
        user_error(spec).await,
        "dataset path '/nowhere/set' does not exist on node n1; give a path that every node sees"
    );
}

async fn a_missing_program_is_the_users_error_and_named() {
    let error = user_error(command(&["no-such-program"])).await;
    assert!(error.contains("no-such-program not found"), "{error}");
}

async fn an_unknown_framework_is_answered_with_the_known_ones() {
    let spec = JobSpec {
        framework: "pytorch".to_owned(),
        ..JobSpec::default()
    };
    assert_eq!(
        user_error(spec).await,
        "framework 'pytorch' has no trainer on node n1; it has command, sklearn, ultralytics"
    );
}

async fn a_forgotten_task_leaves_its_checkpoints_only() {
    let (fake, agent, data) = cluster().await;
    let forget = || Frame::Forget(ForgetTask { task: task(1) });
    let script = "touch $CHECKPOINT_DIR/best.pt; trap 'exit 0' TERM; echo ready; sleep 1000 & wait";
    fake.send(start_of(1, shell(script))).await;
    said(&fake, 1, "ready").await;
    fake.send(forget()).await;
    fake.send(stop_of(1, LIMIT)).await;
    fake.whole_end(1).await;
    let folder = task_folder(&data, 1);
    assert!(
        folder.join("end.json").exists(),
        "too early a word changes nothing"
    );
    fake.send(forget()).await;
    until(|| {
        std::fs::read_dir(data.path().join("tasks")).is_ok_and(|mut left| left.next().is_none())
    })
    .await;
    assert!(
        data.path()
            .join("jobs/1/attempt-1/checkpoints/best.pt")
            .exists()
    );
    // It is off the board: a new session does not hear of it.
    fake.break_data();
    let hello = fake.until(|known| known.hellos.get(1).cloned()).await;
    assert_eq!(hello.tasks, []);
    agent.stop().await;
}

/// Why an agent with these options does not go on.
async fn refusal(options: AgentOptions) -> String {
    let agent = launch(options);
    let outcome = agent.ended.await.expect("the agent does not panic");
    outcome.expect_err("it cannot go on").to_string()
}

async fn a_wrong_token_ends_the_agent() {
    let (fake, data) = (Fake::start().await, folder());
    let mut options = options(&fake, data.path());
    options.token = "wrong-token".to_owned();
    assert!(!format!("{options:?}").contains("wrong-token"));
    let error = refusal(options).await;
    assert!(
        error.contains("refused the join token: unknown join token"),
        "{error}"
    );
    assert!(error.contains("ready file"), "{error}");
    assert!(!error.contains("wrong-token"), "{error}");
}

async fn a_coordinator_that_comes_later_is_found() {
    let (gone, data) = (Fake::start().await, folder());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let mut options = options(&gone, data.path());
    options.coordinator = format!("http://{address}");
    options.ready_file = Some(data.path().join("ready.json"));
    let agent = launch(options);
    // It serves trainers already, and has found nobody yet.
    until(|| data.path().join("callback-port").exists()).await;
    assert!(!data.path().join("ready.json").exists());
    let fake = Fake::start_at(address).await;
    fake.send(start_of(1, shell("exit 0"))).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    until(|| data.path().join("ready.json").exists()).await;
    let ready = std::fs::read_to_string(data.path().join("ready.json")).expect("the ready file");
    assert!(
        ready.contains(r#""name":"n1""#) && ready.contains("127.0.0.1:"),
        "{ready}"
    );
    agent.stop().await;
}

async fn a_data_folder_has_one_agent() {
    let (fake, agent, data) = cluster().await;
    fake.until(|known| known.hellos.first().map(drop)).await;
    let error = refusal(options(&fake, data.path())).await;
    assert!(error.contains("is in use by another agent"), "{error}");
    agent.stop().await;
    launch(options(&fake, data.path())).stop().await;
}

async fn a_data_folder_that_cannot_be_written_is_named() {
    let (fake, data) = (Fake::start().await, folder());
    let file = data.path().join("file");
    std::fs::write(&file, "").expect("a file in the way");
    let error = refusal(options(&fake, &file)).await;
    assert!(error.contains(&file.display().to_string()), "{error}");
    assert!(error.contains("--data-dir"), "{error}");
}
