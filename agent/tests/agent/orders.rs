//! Orders that take long to write, and orders whose number another task has.
//!
//! Owns these cases. Called by the cases' main.

use std::{fs::File, os::unix::fs::OpenOptionsExt as _, path::PathBuf, process::Command};

use nix::libc::O_NONBLOCK;
use tempfile::TempDir;
use trainyard_proto::v1::{
    ForgetTask, JobSpec, LogStream, StopCause, TaskEnd, TaskPhase, TaskReport,
    connect_response::Frame,
};

use crate::{
    fake::{Fake, Known},
    harness::{
        Agent, LIMIT, cluster, launch, options, said, shell, start_of, stop_of, task, task_folder,
        until,
    },
    trouble::in_trouble,
};

/// Whoever writes to this file waits, as on a disk that is very slow, until it is dropped: then what was written is lost,
/// and the next try is taken.
struct Slow(PathBuf);

impl Slow {
    fn at(file: PathBuf) -> Self {
        std::fs::create_dir_all(file.parent().expect("its folder")).expect("its folder");
        let made = Command::new("mkfifo").arg(&file).status();
        assert!(made.expect("mkfifo runs").success());
        Self(file)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let mut reading = File::options();
        reading.read(true).custom_flags(O_NONBLOCK);
        let reader = reading.open(&self.0);
        std::fs::remove_file(&self.0).ok();
        drop(reader);
    }
}

pub(crate) async fn a_task_whose_order_is_still_being_written_is_in_the_next_hello() {
    let (fake, agent, data) = cluster().await;
    fake.hello(0).await;
    let slow = Slow::at(task_folder(&data, 1).join("task.json.tmp"));
    fake.send(start_of(1, shell("exit 6"))).await;
    fake.until(|known| known.reports.get(&1).map(drop)).await;
    fake.hang_up();
    let hello = fake.hello(1).await;
    let phases: Vec<TaskPhase> = hello.tasks.iter().map(TaskReport::phase).collect();
    assert_eq!(phases, [TaskPhase::Preparing]);
    assert!(!task_folder(&data, 1).join("task.json").exists());
    drop(slow);
    assert_eq!(fake.whole_end(1).await.exit_code, Some(6));
    agent.stop().await;
}

pub(crate) async fn a_stop_that_a_failing_run_takes_with_it_reaches_the_next_one() {
    let (fake, agent, data) = cluster().await;
    fake.hello(0).await;
    let slow = Slow::at(task_folder(&data, 1).join("task.json.tmp"));
    fake.send(start_of(1, shell("exec sleep 1000"))).await;
    fake.until(|known| known.reports.get(&1).map(drop)).await;
    fake.send(stop_of(1, LIMIT)).await;
    // What is sent behind it has come: the run has it, and is about to fail.
    fake.send(start_of(2, shell("exit 6"))).await;
    fake.until(|known| known.reports.get(&2).map(drop)).await;
    drop(slow);
    let end = fake.whole_end(1).await;
    assert_eq!(end.stop_cause(), StopCause::Cancelled);
    assert_eq!((end.exit_code, end.infrastructure), (None, false));
    assert_eq!(fake.whole_end(2).await.exit_code, Some(6));
    agent.stop().await;
}

/// The order of another job that has the same number.
fn another(spec: JobSpec) -> Frame {
    let Frame::Start(mut start) = start_of(1, spec) else {
        panic!("not a start");
    };
    start.secret = "another".to_owned();
    Frame::Start(start)
}

/// What the coordinator knows of the task of that number goes with its store.
fn forget(fake: &Fake) {
    let mut known = fake.known();
    known.records.clear();
    known.reports.clear();
}

async fn ends_with(fake: &Fake, code: i32) {
    ends(fake, |end| end.exit_code == Some(code)).await;
}

async fn ends(fake: &Fake, how: impl Fn(&TaskEnd) -> bool) {
    let with = |known: &Known| {
        let end = known.reports.get(&1)?.end.as_ref()?;
        how(end).then_some(())
    };
    fake.until(with).await;
}

pub(crate) async fn an_order_of_a_number_that_another_task_has_is_begun_once_that_has_ended() {
    let (fake, agent, _data) = cluster().await;
    fake.send(start_of(1, shell("echo ready; exec sleep 1000")))
        .await;
    said(&fake, 1, "ready").await;
    fake.send(another(shell("exit 6"))).await;
    // The coordinator takes that for a reason to begin another attempt.
    let end = fake.whole_end(1).await;
    assert_eq!(end.stop_cause(), StopCause::Fenced);
    forget(&fake);
    // One that has ended gives way.
    fake.send(another(shell("echo second; exit 6"))).await;
    ends_with(&fake, 6).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(6));
    // The same secret is the same order, whatever it says.
    fake.send(another(shell("exit 7"))).await;
    forget(&fake);
    fake.send(start_of(1, shell("exit 8"))).await;
    ends_with(&fake, 8).await;
    agent.stop().await;
}

/// Another order of the number of a task that was forgotten, whose folder cannot be removed as long as this file is there.
async fn waits_for_its_folder() -> (Fake, Agent, TempDir, PathBuf) {
    let (fake, agent, data) = cluster().await;
    fake.send(start_of(1, shell("echo first; exit 5"))).await;
    fake.whole_end(1).await;
    let in_the_way = data.path().join("tasks/.gone-1-1-0");
    std::fs::write(&in_the_way, "").expect("a file in the way");
    let gone = ForgetTask { task: task(1) };
    fake.send(Frame::Forget(gone)).await;
    forget(&fake);
    fake.send(another(shell("echo second; exit 6"))).await;
    in_trouble(&fake, "an earlier task of this number cannot be removed").await;
    (fake, agent, data, in_the_way)
}

pub(crate) async fn an_order_begins_in_no_folder_that_another_task_has_left_and_waits_until_that_has_gone()
 {
    let (fake, agent, _data, in_the_way) = waits_for_its_folder().await;
    std::fs::remove_file(&in_the_way).expect("it is there");
    ends_with(&fake, 6).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(6));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["second"]);
    agent.stop().await;
}

pub(crate) async fn a_restarted_agent_tells_no_end_of_a_task_that_was_forgotten_and_could_not_be_removed()
 {
    let (fake, agent, data, _in_the_way) = waits_for_its_folder().await;
    // As long as it is told of as preparing it has come so far.
    until(|| !task_folder(&data, 1).join("task.json").exists()).await;
    agent.stop().await;
    fake.hang_up();
    let agent = launch(options(&fake, data.path()));
    assert_eq!(fake.hello(1).await.tasks, [], "it is nobody's");
    fake.send(another(shell("echo second; exit 6"))).await;
    ends_with(&fake, 6).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(6));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["second"]);
    agent.stop().await;
}

pub(crate) async fn an_order_that_waits_for_a_folder_to_go_is_cancelled_at_once() {
    let (fake, agent, data, in_the_way) = waits_for_its_folder().await;
    fake.send(stop_of(1, LIMIT)).await;
    ends(&fake, |end| end.stop_cause() == StopCause::Cancelled).await;
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.infrastructure), (None, false));
    std::fs::remove_file(&in_the_way).expect("it is there");
    until(|| !task_folder(&data, 1).exists()).await;
    agent.stop().await;
}
