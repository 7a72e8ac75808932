//! Lost streams, and agents that follow each other.

use std::collections::BTreeMap;

use trainyard_agent::boot;
use trainyard_proto::v1::{
    ForgetTask, JobSpec, LogStream, StopCause, TaskPhase, TaskReport, connect_response::Frame,
};

use crate::fake::{self, Fake, lines};
use crate::harness::{
    LIMIT, cluster, command, folder, launch, options, said, shell, start_of, stop_of, task,
    task_folder, until,
};
use crate::trouble::{ALONE, in_trouble};

pub(crate) async fn records_of_a_lost_data_stream_come_again_and_none_is_missing() {
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

pub(crate) async fn a_new_agent_goes_on_with_the_trainers_of_the_last_one() {
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
    let hello = fake.hello(1).await;
    let phases: Vec<TaskPhase> = hello.tasks.iter().map(TaskReport::phase).collect();
    assert_eq!(phases, [TaskPhase::Running], "the first word tells of it");
    std::fs::write(&go, "").expect("the go is given");
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(6));
    assert_eq!(end.last_lines, ["one", "two"]);
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "two"]);
    second.stop().await;
}

pub(crate) async fn a_trainer_that_calls_while_the_agent_is_replaced_is_never_refused() {
    let (fake, agent, data) = cluster().await;
    let script = r#"
import datetime, json, os, time, urllib.error, urllib.request
url = f"{os.environ['CALLBACK_URL']}/training/jobs/{os.environ['JOB_ID']}/callback/log"
sent, body = 0, None
while body or not os.path.exists(os.environ["GO"]):
    if body is None:
        now = datetime.datetime.now().isoformat(timespec="microseconds")
        line = {"job_id": 1, "event_type": "x", "message": str(sent), "timestamp": now}
        body = json.dumps(line).encode()
    call = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(call).read()
        sent, body = sent + 1, None
    except urllib.error.HTTPError as refused:
        raise SystemExit(f"refused: {refused}")
    except OSError:
        time.sleep(0.001)
print(sent)
"#;
    let go = data.path().join("go").display().to_string();
    let spec = JobSpec {
        environment: BTreeMap::from([("GO".to_owned(), go.clone())]),
        ..command(&["python3", "-c", script])
    };
    fake.send(start_of(1, spec)).await;
    let heard = |known: &fake::Known| lines(known, 1, LogStream::Callback).len();
    let mut agent = agent;
    for life in 1..4 {
        let before = heard(&fake.known());
        fake.until(|known| (heard(known) > before || has_ended(known, 1)).then_some(()))
            .await;
        agent.stop().await;
        fake.hang_up();
        agent = launch(options(&fake, data.path()));
        fake.hello(life).await;
    }
    std::fs::write(&go, "").expect("the go is given");
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(0), "{:?}", end.last_lines);
    let sent = fake.lines(1, LogStream::Stdout).concat();
    let sent: usize = sent.parse().expect("a number");
    let all: Vec<String> = (0..sent).map(|number| number.to_string()).collect();
    assert_eq!(fake.lines(1, LogStream::Callback), all, "each once");
    agent.stop().await;
}

pub(crate) fn has_ended(known: &fake::Known, job: u64) -> bool {
    let report = known.reports.get(&job);
    report.is_some_and(|report| report.end.is_some())
}

pub(crate) async fn an_agent_that_died_is_followed_by_one_that_goes_on() {
    let (fake, data) = (Fake::start().await, folder());
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let life = threads.worker_threads(1).enable_all().build();
    let life = life.expect("a runtime of its own");
    let _never_stopped = life.spawn(boot::run(
        options(&fake, data.path()),
        std::future::pending(),
    ));
    let script = "echo one; trap 'echo two; exit 4' TERM; echo ready; sleep 1000 & wait";
    fake.send(start_of(1, shell(script))).await;
    said(&fake, 1, "ready").await;
    life.shutdown_background();
    fake.hang_up();
    // A dead process gives folder and port back at once; a dead runtime takes a moment.
    let lock = std::fs::File::open(data.path().join("lock")).expect("the lock");
    until(|| lock.try_lock().is_ok()).await;
    drop(lock);
    let port = std::fs::read_to_string(data.path().join("callback-port")).expect("the port");
    let address = format!("127.0.0.1:{}", port.trim());
    until(|| std::net::TcpListener::bind(&address).is_ok()).await;
    let second = launch(options(&fake, data.path()));
    fake.hello(1).await;
    fake.send(stop_of(1, LIMIT)).await;
    let end = fake.whole_end(1).await;
    assert_eq!(
        (end.exit_code, end.stop_cause()),
        (Some(4), StopCause::Cancelled)
    );
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "ready", "two"]);
    second.stop().await;
}

pub(crate) async fn a_task_whose_run_fails_again_and_again_is_given_up_soon_when_it_is_to_stop() {
    let (fake, agent, data) = cluster().await;
    fake.hello(0).await;
    std::fs::create_dir_all(task_folder(&data, 1).join("spool")).expect("a folder in the way");
    fake.send(start_of(1, shell("exit 0"))).await;
    in_trouble(&fake, ALONE).await;
    fake.send(stop_of(1, LIMIT)).await;
    let end = fake.end(1).await.end.expect("it has ended");
    assert!(end.infrastructure);
    assert!(
        end.error.contains("node n1 failed repeatedly"),
        "{}",
        end.error
    );
    assert!(end.error.contains("spool"), "{}", end.error);
    fake.send(start_of(2, shell("exit 0"))).await;
    assert_eq!(
        fake.whole_end(2).await.exit_code,
        Some(0),
        "the others go on"
    );
    agent.stop().await;
}

pub(crate) async fn an_end_that_was_not_heard_is_told_by_the_next_agent() {
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

pub(crate) async fn a_forgotten_task_leaves_its_checkpoints_only() {
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
    let hello = fake.hello(1).await;
    assert_eq!(hello.tasks, []);
    agent.stop().await;
}

pub(crate) async fn why_a_task_is_stopped_is_kept_once_the_disk_takes_it() {
    let (fake, agent, data) = cluster().await;
    let go = data.path().join("go");
    let script = format!(
        "trap '' TERM; echo ready; until [ -e {} ]; do sleep 0.01; done; exit 1",
        go.display()
    );
    fake.send(start_of(1, shell(&script))).await;
    said(&fake, 1, "ready").await;
    // Nothing can be written there, as on a full disk.
    let (draft, kept) = (
        task_folder(&data, 1).join("stop-cause.json.tmp"),
        task_folder(&data, 1).join("stop-cause.json"),
    );
    std::fs::create_dir(&draft).expect("it is in the way");
    fake.send(stop_of(1, LIMIT)).await;
    let stopping = |known: &fake::Known| {
        let own = lines(known, 1, LogStream::System);
        own.iter()
            .any(|line| line.starts_with("stopping: "))
            .then_some(())
    };
    fake.until(stopping).await;
    until(|| task_folder(&data, 1).join("stop.json").exists()).await;
    assert!(!kept.exists());
    std::fs::remove_dir(&draft).expect("it is empty");
    until(|| kept.exists()).await;
    agent.stop().await;
    fake.hang_up();
    let second = launch(options(&fake, data.path()));
    fake.hello(1).await;
    std::fs::write(&go, "").expect("the go is given");
    let end = fake.whole_end(1).await;
    assert_eq!(
        (end.exit_code, end.stop_cause()),
        (Some(1), StopCause::Cancelled)
    );
    second.stop().await;
}
