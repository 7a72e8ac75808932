//! Agents that cannot read or write what they know of a task: it begins once they can, and its trainer goes on, unless
//! its order is lost for good.
//!
//! Owns these cases. Called by the cases' main.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use trainyard_proto::v1::{LogStream, StopCause, TaskPhase, TaskReport};

use crate::fake::Fake;
use crate::harness::{
    Agent, LIMIT, cluster, launch, options, said, shell, start_of, stop_of, task_folder, until,
};

/// A file in whose place there is a folder, which nobody can read as a file.
struct Hidden {
    path: PathBuf,
    aside: PathBuf,
}

impl Hidden {
    fn of(data: &TempDir, name: &str) -> Self {
        let path = task_folder(data, 1).join(name);
        let aside = data.path().join("aside");
        std::fs::rename(&path, &aside).expect("it is there");
        std::fs::create_dir(&path).expect("its place is free");
        Self { path, aside }
    }

    fn show(self) {
        std::fs::remove_dir(&self.path).expect("it is empty");
        std::fs::rename(&self.aside, &self.path).expect("it is back");
    }
}

/// A trainer whose agent has stopped, and the file that lets it end with 6.
async fn left_alone() -> (Fake, TempDir, PathBuf) {
    let (fake, agent, data) = cluster().await;
    let go = data.path().join("go");
    let script = format!(
        "trap 'exit 0' TERM; echo one; until [ -e {} ]; do sleep 0.01; done; echo two; exit 6",
        go.display()
    );
    fake.send(start_of(1, shell(&script))).await;
    said(&fake, 1, "one").await;
    agent.stop().await;
    fake.hang_up();
    (fake, data, go)
}

/// With what an agent begins that has failed with a task so often that it says so, where its trainer's shim has gone.
pub(crate) const ALONE: &str = "cannot go on with this task for now: ";
/// Where its trainer may be there.
const RUNS_ON: &str = "cannot go on with this task for now, and its trainer runs on: ";

/// The agent has said so.
pub(crate) async fn in_trouble(fake: &Fake, words: &str) {
    fake.until(|known| {
        let told = |detail: &String| detail.contains(words);
        known.details.iter().any(told).then_some(())
    })
    .await;
}

/// An agent in trouble with what is in its folder.
async fn launch_in_trouble(fake: &Fake, data: &Path) -> Agent {
    let agent = launch(options(fake, data));
    in_trouble(fake, RUNS_ON).await;
    agent
}

/// A disk that takes nothing for some seconds, as a full one, or a lack of descriptors or of memory.
pub(crate) async fn a_task_that_cannot_begin_for_a_while_begins_once_it_can() {
    let (fake, agent, data) = cluster().await;
    fake.hello(0).await;
    let in_the_way = task_folder(&data, 1).join("task.json.tmp");
    std::fs::create_dir_all(&in_the_way).expect("a folder in the way");
    fake.send(start_of(1, shell("exit 6"))).await;
    in_trouble(&fake, ALONE).await;
    std::fs::remove_dir(&in_the_way).expect("it is empty");
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.infrastructure), (Some(6), false));
    agent.stop().await;
}

pub(crate) async fn a_trainer_whose_processes_cannot_be_read_goes_on_until_they_can() {
    let (fake, data, go) = left_alone().await;
    let hidden = Hidden::of(&data, "proc.json");
    let agent = launch_in_trouble(&fake, data.path()).await;
    hidden.show();
    std::fs::write(&go, "").expect("the go is given");
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.infrastructure), (Some(6), false));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "two"]);
    let own = fake.lines(1, LogStream::System);
    let told = own
        .iter()
        .filter(|line| line.contains("its trainer runs on"));
    assert_eq!(told.count(), 1, "the job's log says so: {own:?}");
    agent.stop().await;
}

pub(crate) async fn a_trainer_whose_order_cannot_be_read_is_told_of_and_goes_on_until_it_can() {
    let (fake, data, go) = left_alone().await;
    let hidden = Hidden::of(&data, "task.json");
    let agent = launch_in_trouble(&fake, data.path()).await;
    let hello = fake.hello(1).await;
    let phases: Vec<TaskPhase> = hello.tasks.iter().map(TaskReport::phase).collect();
    assert_eq!(phases, [TaskPhase::Running], "nobody else runs it");
    hidden.show();
    std::fs::write(&go, "").expect("the go is given");
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.infrastructure), (Some(6), false));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one", "two"]);
    agent.stop().await;
}

pub(crate) async fn a_trainer_whose_order_cannot_be_read_is_stopped_when_it_is_to_stop() {
    let (fake, data, _go) = left_alone().await;
    let _hidden = Hidden::of(&data, "task.json");
    let agent = launch_in_trouble(&fake, data.path()).await;
    fake.send(stop_of(1, LIMIT)).await;
    let exit = task_folder(&data, 1).join("exit.json");
    until(|| exit.exists()).await;
    let end = fake.end(1).await.end.expect("it has ended");
    assert!(end.infrastructure, "nobody can say more: {end:?}");
    agent.stop().await;
}

pub(crate) async fn a_task_whose_order_is_damaged_is_ended_and_put_aside_before_the_first_word() {
    let (fake, data, _go) = left_alone().await;
    let record = std::fs::read(task_folder(&data, 1).join("proc.json")).expect("proc.json");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let trainer = record.pointer("/trainer/pid").expect("a pid").to_string();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{trainer}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(lives());
    std::fs::write(task_folder(&data, 1).join("task.json"), "{\"task\":").expect("half of it");
    let agent = launch(options(&fake, data.path()));
    assert_eq!(fake.hello(1).await.tasks, []);
    assert!(!lives(), "nothing of it is left when another may begin");
    assert!(!task_folder(&data, 1).exists());
    assert!(data.path().join("damaged/1-1-0/proc.json").exists());
    agent.stop().await;
}

/// The job's log says that the word of its checkpoints is lost, and it was put aside.
fn assert_lost(fake: &Fake, data: &TempDir) {
    let own = fake.lines(1, LogStream::System);
    let lost = |line: &&String| line.contains("called its checkpoints is lost");
    assert_eq!(own.iter().filter(lost).count(), 1, "{own:?}");
    let aside = task_folder(data, 1).join("checkpoints.json.damaged");
    assert!(aside.exists());
}

pub(crate) async fn a_trainer_that_has_ended_keeps_its_outcome_though_what_it_called_its_checkpoints_is_damaged()
 {
    let (fake, data, go) = left_alone().await;
    let file = task_folder(&data, 1).join("checkpoints.json");
    std::fs::write(&file, "{\"last\":").expect("half of it");
    std::fs::write(&go, "").expect("the go is given");
    let exit = task_folder(&data, 1).join("exit.json");
    until(|| exit.exists()).await;
    let agent = launch(options(&fake, data.path()));
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.infrastructure), (Some(6), false));
    assert_lost(&fake, &data);
    agent.stop().await;
}

pub(crate) async fn a_trainer_is_stopped_in_order_though_it_can_never_be_read_what_it_called_its_checkpoints()
 {
    let (fake, data, _go) = left_alone().await;
    let file = task_folder(&data, 1).join("checkpoints.json");
    std::fs::create_dir(&file).expect("a folder in its place");
    let agent = launch_in_trouble(&fake, data.path()).await;
    fake.send(stop_of(1, LIMIT)).await;
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.infrastructure), (Some(0), false));
    assert_eq!(end.stop_cause(), StopCause::Cancelled);
    assert_lost(&fake, &data);
    agent.stop().await;
}

/// A task that has ended with 6 and told so, of whose records the coordinator has acknowledged none; its agent has stopped.
/// The number of the last one.
async fn ended_undelivered() -> (Fake, TempDir, u64) {
    let (fake, agent, data) = cluster().await;
    fake.known().deaf = true;
    fake.send(start_of(1, shell("echo one; exit 6"))).await;
    let end = fake.end(1).await.end.expect("it has ended");
    agent.stop().await;
    fake.hang_up();
    (fake, data, end.last_seq)
}

pub(crate) async fn an_end_says_that_nothing_is_kept_of_a_task_whose_records_are_damaged() {
    let (fake, data, last_seq) = ended_undelivered().await;
    let spool = task_folder(&data, 1).join("spool");
    let mut bytes = std::fs::read(&spool).expect("the spool");
    let byte = bytes.get_mut(20).expect("a record, with more behind it");
    *byte ^= 1;
    std::fs::write(&spool, bytes).expect("it is damaged");
    let agent = launch(options(&fake, data.path()));
    let hello = fake.hello(1).await;
    let report = hello.tasks.first().expect("it is told of");
    let end = report.end.as_ref().expect("it has ended");
    assert_eq!((end.exit_code, end.last_seq), (Some(6), last_seq));
    assert_eq!(report.kept_from_seq, last_seq + 1);
    agent.stop().await;
}

/// From which record on the agent still has them.
async fn has_records_only_from(fake: &Fake, seq: u64) {
    fake.until(|known| {
        let kept = known.reports.get(&1).map(|report| report.kept_from_seq);
        (kept == Some(seq)).then_some(())
    })
    .await;
}

pub(crate) async fn an_end_says_that_its_last_record_is_lost_once_all_before_it_are_delivered() {
    let (fake, data, last_seq) = ended_undelivered().await;
    let spool = task_folder(&data, 1).join("spool");
    let mut bytes = std::fs::read(&spool).expect("the spool");
    let byte = bytes.last_mut().expect("the last record");
    *byte ^= 1;
    std::fs::write(&spool, bytes).expect("nobody can tell it from a torn end");
    {
        let mut known = fake.known();
        known.records.clear();
        known.deaf = false;
    }
    let agent = launch(options(&fake, data.path()));
    has_records_only_from(&fake, last_seq + 1).await;
    let there: Vec<u64> = fake
        .known()
        .records
        .remove(&1)
        .into_iter()
        .flatten()
        .map(|(seq, _)| seq)
        .collect();
    assert!(
        there.iter().copied().eq(1..last_seq),
        "{there:?} of {last_seq}"
    );
    agent.stop().await;
}

pub(crate) async fn an_end_says_that_all_records_are_lost_where_their_file_is_gone() {
    let (fake, data, last_seq) = ended_undelivered().await;
    std::fs::remove_file(task_folder(&data, 1).join("spool")).expect("the spool");
    let agent = launch(options(&fake, data.path()));
    has_records_only_from(&fake, last_seq + 1).await;
    let end = fake.end(1).await.end.expect("it has ended");
    assert_eq!((end.exit_code, end.last_seq), (Some(6), last_seq));
    agent.stop().await;
}

pub(crate) async fn an_end_waits_while_what_its_task_told_cannot_be_opened_and_loses_nothing() {
    let (fake, data, last_seq) = ended_undelivered().await;
    let hidden = Hidden::of(&data, "spool");
    let agent = launch(options(&fake, data.path()));
    in_trouble(&fake, "cannot open what this task has told for now").await;
    let hello = fake.hello(1).await;
    let phases: Vec<TaskPhase> = hello.tasks.iter().map(TaskReport::phase).collect();
    assert_eq!(phases, [TaskPhase::Running], "it stands as it was");
    fake.known().deaf = false;
    hidden.show();
    let end = fake.whole_end(1).await;
    assert_eq!((end.exit_code, end.last_seq), (Some(6), last_seq));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["one"]);
    agent.stop().await;
}
