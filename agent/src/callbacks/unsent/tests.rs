//! What is taken in of what a trainer had not delivered. Owns no product code; called by the test runner.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use tempfile::TempDir;
use trainyard_core::ids::JobId;
use trainyard_core::record::Record;
use trainyard_core::time::Timestamp;

use super::*;
use crate::objects::TaskObjects;
use crate::spool::{Spool, TaskSpool};

const PROGRESS: &str = "training/jobs/7/callback/progress";
const COMPLETION: &str = "training/jobs/7/callback/completion";
const LOGS: &str = "training/jobs/7/callback/logs";
const VALIDATION: &str = "validation/jobs/7/results";

struct Scene {
    folder: TempDir,
    registry: Registry,
    spool: Spool,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path().join("spool"), u64::MAX).await;
        Self::over(folder, spool.unwrap())
    }

    fn over(folder: TempDir, spool: Spool) -> Self {
        let registry = Registry::new(Arc::new(|| Timestamp(1_000)));
        Self {
            folder,
            registry,
            spool,
        }
    }

    fn endpoint(&self) -> TaskEndpoint {
        let root = self.folder.path();
        TaskEndpoint {
            told: Default::default(),
            job: JobId(7),
            total_epochs: 3,
            spool: self.spool.clone(),
            checkpoint_root: root.to_owned(),
            objects: TaskObjects::new(JobId(7), None, root.join("view"), root),
        }
    }

    fn left(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    async fn take(&self) -> Unsent {
        take_unsent(&self.registry, self.endpoint(), self.folder.path()).await
    }

    /// What is on disk, in short.
    fn said(&self) -> Vec<String> {
        let copy = self.folder.path().join("copy");
        fs::copy(self.folder.path().join("spool"), &copy).unwrap();
        let mut spool = TaskSpool::open(&copy).unwrap();
        let all = spool.unsent_after(0, usize::MAX, u64::MAX).unwrap();
        all.into_iter()
            .map(|spooled| match spooled.record {
                Record::Progress(report) => format!("epoch {}", report.epoch),
                Record::Completion(_) => "end".to_owned(),
                Record::Log(line) => line.text,
                Record::Validation { epoch, .. } => format!("results {epoch}"),
                Record::Stored(_) => "stored".to_owned(),
            })
            .collect()
    }
}

fn epoch(number: u64, epoch: u32) -> String {
    format!(
        "\n+{number} {PROGRESS} {{\"job_id\":7,\"status\":\"running\",\"current_epoch\":{epoch},\"total_epochs\":3,\"metrics\":null}}\n"
    )
}

fn said(number: u64, text: &str) -> String {
    format!(
        "\n+{number} {LOGS} {{\"job_id\":7,\"event_type\":\"log\",\"message\":\"{text}\",\"level\":\"INFO\",\"timestamp\":\"2026-11-27T10:00:00.{number:06}\"}}\n"
    )
}

#[tokio::test]
async fn what_nobody_had_answered_is_taken_in_once_and_in_order() {
    let scene = Scene::new().await;
    let results = format!(
        "\n+4 {VALIDATION} {{\"job_id\":7,\"epoch\":2,\"task_type\":\"classification\"}}\n"
    );
    let end = format!(
        "\n+6 {COMPLETION} {{\"job_id\":7,\"status\":\"completed\",\"total_epochs_completed\":2,\"exit_code\":0}}\n"
    );
    // The first was answered; another stands there twice, since the file was emptied beside it.
    let all = [
        &epoch(1, 1),
        "\n-1\n",
        &epoch(2, 2),
        &said(3, "hello"),
        &epoch(2, 2),
        &results,
        &said(5, "hello"),
        &end,
    ];
    scene.left("kept-1-1", &all.concat());
    scene.left("kept-2-1", "");
    let unsent = scene.take().await;
    assert_eq!((unsent.taken, unsent.lost), (5, vec![]));
    let expected = ["epoch 2", "hello", "results 2", "hello", "end"];
    assert_eq!(scene.said(), expected);
    assert!(!scene.folder.path().join("kept-1-1").exists());
    assert_eq!(scene.take().await, Unsent::default());
    assert_eq!(scene.said(), expected);
}

#[tokio::test]
async fn a_run_that_goes_on_where_another_one_ended_takes_nothing_twice() {
    let mut scene = Scene::new().await;
    let path = scene.folder.path().join("kept-1-1");
    scene.left(
        "kept-1-1",
        &[said(1, "one"), said(2, "two"), said(3, "three")].concat(),
    );
    let door = router(scene.registry.alone(ALONE, scene.endpoint()));
    let mut journal = Journal::open(&path).unwrap();
    let calls = journal.next().unwrap();
    assert_eq!(calls.len(), 3);
    // It ends behind the mark of one, and then between the next one and its mark.
    send(&door, &calls[0], Instant::now()).await.unwrap();
    journal.mark(1).unwrap();
    send(&door, &calls[1], Instant::now()).await.unwrap();
    drop((journal, door));
    // In another life of the agent, which knows what the disk knows.
    let spool = scene.folder.path().join("spool");
    scene.spool = Spool::open(spool, u64::MAX).await.unwrap();
    assert!(scene.take().await.lost.is_empty());
    assert_eq!(scene.said(), ["one", "two", "three"]);
}

#[tokio::test]
async fn what_came_to_the_disk_in_part_or_is_refused_holds_up_nothing_else() {
    let scene = Scene::new().await;
    let whole = epoch(2, 2);
    let torn: String = epoch(1, 1).chars().take(60).collect();
    let other = epoch(3, 3).replace("jobs/7/", "jobs/8/");
    let long = format!("\n+9 {PROGRESS} {}\n", "x".repeat(BODY_LIMIT + 8_192));
    let odd = "\n+10 ../../x y {}\n\n+x y {}\n\n+11\n\0\u{1}\n";
    let all = [&torn, &whole, &other, &long, odd, &said(12, "last")];
    scene.left("kept-1-1", &all.concat());
    let unsent = scene.take().await;
    assert_eq!(unsent.taken, 2, "{unsent:?}");
    assert_eq!(scene.said(), ["epoch 2", "last"]);
    assert!(
        unsent.lost.iter().any(|words| words.contains("404")),
        "{unsent:?}"
    );
}

#[tokio::test]
async fn nothing_but_a_file_of_the_folder_is_read() {
    let scene = Scene::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("x"), said(1, "not here")).unwrap();
    symlink(
        elsewhere.path().join("x"),
        scene.folder.path().join("kept-1-1"),
    )
    .unwrap();
    symlink("/dev/zero", scene.folder.path().join("kept-1-2")).unwrap();
    fs::create_dir(scene.folder.path().join("kept-1-3")).unwrap();
    scene.left("other", &said(1, "not this"));
    assert_eq!(scene.take().await, Unsent::default());
    assert!(scene.said().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_is_waited_for_and_then_it_is_said_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = TaskSpool::open(&folder.path().join("spool")).unwrap();
    spool.writer = fs::File::options().write(true).open("/dev/full").unwrap();
    let scene = Scene::over(folder, Spool::on(spool));
    // However many files there are.
    scene.left("kept-1-1", &[epoch(1, 1), epoch(2, 2)].concat());
    scene.left("kept-2-1", &epoch(3, 3));
    let begun = Instant::now();
    let unsent = scene.take().await;
    let waited = begun.elapsed();
    assert!(PATIENCE <= waited && waited < PATIENCE * 2, "{waited:?}");
    assert_eq!((unsent.taken, unsent.losses), (0, 3), "{unsent:?}");
    assert_eq!(unsent.lost.len(), 1, "{unsent:?}");
    assert!(unsent.lost[0].contains("503"), "{unsent:?}");
}

#[tokio::test]
async fn a_spool_that_takes_nothing_any_more_costs_no_call() {
    let scene = Scene::new().await;
    scene.left("kept-1-1", &[epoch(1, 1), said(2, "one")].concat());
    scene.spool.close().await.unwrap();
    assert_eq!(scene.take().await, Unsent::default());
    let spool = Spool::open(scene.folder.path().join("spool"), u64::MAX).await;
    let next = Scene::over(scene.folder, spool.unwrap());
    assert_eq!(next.take().await.taken, 2);
    assert_eq!(next.said(), ["epoch 1", "one"]);
}

#[tokio::test]
async fn many_lines_stay_in_order_among_reports() {
    let scene = Scene::new().await;
    let (mut all, mut expected) = (String::new(), Vec::new());
    for number in 1..=200 {
        if number % 50 == 0 {
            let of = u32::try_from(number / 50).unwrap();
            all.push_str(&epoch(number, of));
            expected.push(format!("epoch {of}"));
        } else {
            all.push_str(&said(number, &format!("line {number}")));
            expected.push(format!("line {number}"));
        }
    }
    scene.left("kept-1-1", &all);
    assert_eq!(scene.take().await.taken, 200);
    assert_eq!(scene.said(), expected);
}

#[tokio::test]
async fn a_file_that_no_sdk_has_written_holds_up_nobody() {
    let scene = Scene::new().await;
    let huge = fs::File::create(scene.folder.path().join("kept-1-1")).unwrap();
    huge.set_len(1 << 40).unwrap();
    scene.left("kept-2-1", &epoch(1, 1));
    let unsent = scene.take().await;
    assert_eq!((unsent.taken, unsent.losses), (1, 1), "{unsent:?}");
    assert!(unsent.lost[0].contains("more than"), "{unsent:?}");
}
