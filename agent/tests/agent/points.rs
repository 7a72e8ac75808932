//! An agent that dies at each point of a task's life, as the files of docs/adr/0005 tell it.

use std::{fs, time::Duration};

use tempfile::TempDir;
use trainyard_proto::convert::duration;
use trainyard_proto::v1::{JobSpec, LogStream, StopCause, TaskEnd};

use crate::fake::Fake;
use crate::harness::{
    Agent, LIMIT, cluster, launch, options, said, shell, start_of, stop_of, task_folder, until,
};

/// In the order in which they are written.
const WRITTEN: [&str; 5] = ["task.json", "spool", "launch.json", "exit.json", "end.json"];

/// As if the agent had died when `last` was the newest file of the task.
fn rewind(data: &TempDir, last: &str) {
    let folder = task_folder(data, 1);
    let kept = WRITTEN.iter().position(|name| *name == last);
    let kept = kept.expect("a known file");
    let at_least = |name: &str| WRITTEN.iter().take(kept + 1).any(|kept| *kept == name);
    for entry in fs::read_dir(&folder).expect("the task's folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        let stays = match name.as_ref() {
            "proc.json" | "output.log" => at_least("exit.json"),
            "spool.ack" => at_least("spool"),
            name => at_least(name),
        };
        if !stays {
            fs::remove_file(&path).expect("it can be removed");
        }
    }
}

/// A task that has ended as `spec` does, and its agent stopped.
async fn ended(spec: JobSpec) -> (Fake, TempDir, TaskEnd) {
    let (fake, agent, data) = cluster().await;
    fake.send(start_of(1, spec)).await;
    let end = fake.whole_end(1).await;
    settled(&data, &end).await;
    agent.stop().await;
    (fake, data, end)
}

/// Waits until the last acknowledgement is noted: from then on nobody writes into the task's folder.
async fn settled(data: &TempDir, end: &TaskEnd) {
    let noted = task_folder(data, 1).join("spool.ack");
    let last = end.last_seq.to_string();
    until(|| fs::read_to_string(&noted).is_ok_and(|text| text.trim() == last)).await;
}

async fn next_agent(fake: &Fake, data: &TempDir) -> Agent {
    fake.hang_up();
    fake.known().reports.clear();
    let agent = launch(options(fake, data.path()));
    fake.hello(1).await;
    agent
}

pub(crate) async fn a_process_that_has_gone_is_told_once_by_the_next_agent() {
    for last in ["exit.json", "end.json"] {
        let (fake, data, first) = ended(shell("echo one; echo two; exit 7")).await;
        rewind(&data, last);
        let agent = next_agent(&fake, &data).await;
        let end = fake.whole_end(1).await;
        assert_eq!(
            (end.exit_code, &end.error),
            (Some(7), &first.error),
            "{last}"
        );
        assert_eq!(end.last_lines, ["one", "two"], "{last}");
        assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "two"], "{last}");
        agent.stop().await;
    }
}

pub(crate) async fn a_task_that_had_no_process_yet_is_run_by_the_next_agent() {
    for last in ["task.json", "spool", "launch.json"] {
        let (fake, data, _) = ended(shell("echo one; exit 7")).await;
        rewind(&data, last);
        fake.known().records.clear();
        let agent = next_agent(&fake, &data).await;
        let end = fake.end(1).await.end.expect("it has ended");
        assert_eq!(
            (end.exit_code, end.infrastructure),
            (Some(7), false),
            "{last}"
        );
        assert_eq!(end.last_lines, ["one"], "{last}");
        agent.stop().await;
    }
}

pub(crate) async fn a_stop_reaches_a_task_that_is_found_at_any_point() {
    let script = "trap 'exit 4' TERM; echo ready; sleep 1000 & wait";
    for last in ["task.json", "spool", "launch.json"] {
        let (fake, agent, data) = cluster().await;
        fake.send(start_of(1, shell(script))).await;
        said(&fake, 1, "ready").await;
        fake.send(stop_of(1, LIMIT)).await;
        let end = fake.whole_end(1).await;
        settled(&data, &end).await;
        agent.stop().await;
        rewind(&data, last);
        fake.known().records.clear();
        let agent = next_agent(&fake, &data).await;
        fake.send(stop_of(1, LIMIT)).await;
        let end = fake.end(1).await.end.expect("it has ended");
        assert_eq!(end.stop_cause(), StopCause::Cancelled, "{last}");
        agent.stop().await;
    }
}

pub(crate) async fn a_time_limit_that_is_over_when_the_agent_comes_back_changes_no_end() {
    let spec = JobSpec {
        time_limit: Some(duration(Duration::from_secs(3_000))),
        ..shell("exit 0")
    };
    let (fake, data, _) = ended(spec).await;
    rewind(&data, "exit.json");
    let started = fs::File::open(task_folder(&data, 1).join("proc.json")).expect("proc.json");
    started
        .set_modified(std::time::UNIX_EPOCH)
        .expect("long ago");
    let agent = next_agent(&fake, &data).await;
    let end = fake.end(1).await.end.expect("it has ended");
    assert_eq!(
        (end.exit_code, end.stop_cause()),
        (Some(0), StopCause::Unspecified)
    );
    agent.stop().await;
}

pub(crate) async fn after_a_new_start_of_the_machine_nobody_else_is_taken_for_the_trainer() {
    let (fake, data, _) = ended(shell("echo one")).await;
    rewind(&data, "exit.json");
    let folder = task_folder(&data, 1);
    fs::remove_file(folder.join("exit.json")).expect("it is there");
    let path = folder.join("proc.json");
    let text = fs::read(&path).expect("proc.json");
    let mut record: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    // Both pids are somebody else's now.
    let mut bystander = tokio::process::Command::new("sleep");
    let mut bystander = bystander.arg("1000").spawn().expect("it runs");
    for process in ["shim", "trainer"] {
        let mut put = |name: &str, value: serde_json::Value| {
            let place = record.pointer_mut(&format!("/{process}/{name}"));
            *place.expect("it names its processes") = value;
        };
        put("pid", bystander.id().into());
        put("boot_id", "an earlier one".into());
    }
    fs::write(&path, record.to_string()).expect("it is written");
    let agent = next_agent(&fake, &data).await;
    let end = fake.whole_end(1).await;
    assert!(end.infrastructure, "{end:?}");
    assert!(end.error.contains("without a record"), "{}", end.error);
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one"]);
    assert_eq!(bystander.try_wait().expect("a child"), None, "it lives");
    bystander.kill().await.expect("it is ours");
    agent.stop().await;
}
