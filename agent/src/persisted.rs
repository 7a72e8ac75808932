//! What an agent leaves in a task's folder, as version 1 wrote it: whoever changes a form sees here that an agent which is
//! upgraded, or goes back, meets it with trainers that run.
//!
//! Owns no product code. A form that changes keeps its fixture, which must be read on, and gets another.

use std::{fs, path::Path};

use serde::Serialize;
use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, JobId, Rank, TaskKey},
    record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record},
    task::{Ended, Stop},
    time::Timestamp,
};

use crate::{
    exec::{ExitRecord, LaunchSpec, ProcIdent, ProcRecord, launch},
    folder::TaskFolder,
    spool::TaskSpool,
};

const TASK: &[u8] = include_bytes!("persisted/task.json");
const LAUNCH: &[u8] = include_bytes!("persisted/launch.json");
const PROC: &[u8] = include_bytes!("persisted/proc.json");
const EXIT: &[u8] = include_bytes!("persisted/exit.json");
const STOP_CAUSE: &[u8] = include_bytes!("persisted/stop-cause.json");
const END: &[u8] = include_bytes!("persisted/end.json");
const SPOOL: &[u8] = include_bytes!("persisted/spool");

const BEGUN: i64 = 1_700_000_000_000_000;

fn at(micros: i64) -> Timestamp {
    Timestamp(BEGUN + micros)
}

fn checkpoint(path: &str, size_bytes: Option<u64>) -> Option<Checkpoint> {
    let path = path.to_owned();
    Some(Checkpoint { path, size_bytes })
}

fn line(micros: i64, stream: LogStream, level: &str, text: &str) -> Record {
    Record::Log(LogLine {
        at: at(micros),
        stream,
        level: level.to_owned(),
        text: text.to_owned(),
    })
}

fn records() -> Vec<(Record, Option<u64>)> {
    let report = Progress {
        at: at(4),
        epoch: 1,
        total_epochs: 2,
        step: Some(10),
        values: [("accuracy".to_owned(), 0.25), ("loss".to_owned(), 0.5)].into(),
        has_metrics: true,
        checkpoint: checkpoint("/c/last.pt", Some(7)),
        best_checkpoint: checkpoint("s3://b/best.pt", None),
    };
    let stored = Progress {
        at: at(5),
        epoch: 0,
        total_epochs: 2,
        step: None,
        values: Default::default(),
        has_metrics: false,
        checkpoint: checkpoint("s3://b/last.pt", Some(7)),
        best_checkpoint: None,
    };
    let validation = Record::Validation {
        epoch: 1,
        body: r#"{"epoch":1}"#.to_owned(),
    };
    let last_word = Completion {
        succeeded: false,
        exit_code: Some(1),
        error_message: "[DatasetError] gone".to_owned(),
        traceback: "Traceback".to_owned(),
        final_metrics: [("loss".to_owned(), 0.5)].into(),
        best_metrics: [("loss".to_owned(), 0.25)].into(),
        best_epoch: Some(1),
        model_artifacts: Some("s3://b/model.pt".to_owned()),
        mlflow_run_id: Some("run".to_owned()),
        best_checkpoint: checkpoint("/c/best.pt", Some(9)),
        last_checkpoint: checkpoint("/c/last.pt", Some(7)),
        epochs_completed: 1,
    };
    let own = "trainer started as process 42";
    vec![
        (line(0, LogStream::System, "INFO", own), None),
        (line(1, LogStream::Stdout, "", "one"), Some(14)),
        (line(2, LogStream::Stderr, "", "two"), Some(28)),
        (line(3, LogStream::Callback, "WARNING", "three"), None),
        (Record::Progress(report), None),
        (validation, None),
        (Record::Stored(stored), None),
        (Record::Completion(last_word), None),
    ]
}

fn launched() -> LaunchSpec {
    let variables = [
        ("JOB_ID", "7"),
        ("TRAINYARD_MARK", "ec0f18cb408081d85d74ced7ebdc57fd"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    LaunchSpec {
        argv: ["sh", "-c", "echo one"].map(str::to_owned).into(),
        cwd: "/data/jobs/7/attempt-2".into(),
        env: variables.map(owned).into(),
        grace_ms: 10_000,
    }
}

fn processes() -> ProcRecord {
    let process = |pid, start_ticks| ProcIdent {
        pid,
        start_ticks,
        boot_id: "6eaaca51-8771-4542-ac69-3e6f3bdb6a79".to_owned(),
    };
    ProcRecord {
        shim: process(42, 1_503_008),
        trainer: process(43, 1_503_011),
        cgroup: Some("/sys/fs/cgroup/trainyard-42-1503008".into()),
    }
}

fn exited() -> ExitRecord {
    ExitRecord {
        code: None,
        signal: Some(9),
        max_rss_bytes: 1024,
        started_at_us: 1,
        ended_at_us: 2,
        killed_leftovers: 3,
        stuck_leftovers: 0,
        oom_killed: true,
        output_lost_bytes: 4,
        ended_by_machine: false,
        ran_us: None,
    }
}

fn stop() -> Stop {
    Stop {
        cause: StopCause::Cancelled,
        grace: std::time::Duration::from_secs(10),
    }
}

fn ended() -> Ended {
    Ended {
        started: Some(at(0)),
        at: at(6),
        end: TaskEnd {
            signal: Some(9),
            oom_killed: true,
            stop_cause: Some(StopCause::Cancelled),
            last_lines: vec!["one".to_owned(), "two".to_owned()],
            last_seq: 8,
            ..TaskEnd::default()
        },
    }
}

/// The folder as an agent of version 1 left it.
fn left(tasks: &Path) -> TaskFolder {
    let task = TaskKey {
        job: JobId(7),
        attempt: AttemptNo(2),
        rank: Rank(0),
    };
    let folder = TaskFolder::of(tasks, task);
    fs::create_dir(folder.path()).unwrap();
    for (name, bytes) in [
        ("task.json", TASK),
        ("launch.json", LAUNCH),
        ("proc.json", PROC),
        ("exit.json", EXIT),
        ("stop-cause.json", STOP_CAUSE),
        ("end.json", END),
        ("spool", SPOOL),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn the_folder_that_version_1_left_is_read() {
    let tasks = tempfile::tempdir().unwrap();
    let folder = left(tasks.path());
    let order = folder.order().unwrap().unwrap();
    assert_eq!(Some(order.task), folder.task());
    assert_eq!(order.secret.expose(), "s3cret");
    assert_eq!(
        (order.gpu_uuids, order.world_size),
        (vec!["GPU-1".to_owned()], 1)
    );
    assert_eq!(order.spec.command, launched().argv);
    assert_eq!(order.spec.environment["KEY"], "value");
    assert_eq!(order.spec.grace_period, stop().grace);
    let path = folder.path();
    assert_eq!(launch::read_spec(path).unwrap(), Some(launched()));
    assert_eq!(launch::read_processes(path).unwrap(), Some(processes()));
    assert_eq!(folder.exit().unwrap(), Some(exited()));
    assert_eq!(folder.stop().unwrap(), Some(stop()));
    assert_eq!(folder.end().unwrap(), Some(ended()));
    let mut spool = TaskSpool::open(&folder.spool()).unwrap();
    let kept = spool.unsent_after(0, 99, u64::MAX).unwrap();
    let kept = kept.into_iter().map(|one| (one.record, one.source_offset));
    assert_eq!(kept.collect::<Vec<_>>(), records());
}

/// So that a downgrade to version 1 goes well. Of task.json no more is asked than that it is read: what a job can ask for
/// grows, and version 1 does not mind what it does not know.
#[test]
fn what_is_written_now_is_what_version_1_wrote() {
    fn same<T: Serialize>(name: &str, value: &T, fixture: &[u8]) {
        let now = serde_json::to_string(value).unwrap();
        assert_eq!(now, String::from_utf8_lossy(fixture), "{name}");
    }
    same("launch.json", &launched(), LAUNCH);
    same("proc.json", &processes(), PROC);
    same("exit.json", &exited(), EXIT);
    same("stop-cause.json", &stop(), STOP_CAUSE);
    same("end.json", &ended(), END);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = TaskSpool::open(&path).unwrap();
    spool.append(&records()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), SPOOL);
}
