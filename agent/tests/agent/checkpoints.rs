//! Checkpoints on their way to the store.
#![expect(
    clippy::indexing_slicing,
    reason = "a case that looks where nothing is has failed"
)]

use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trainyard_proto::v1::{
    Checkpoint, LogStream, StopCause, connect_response::Frame, record::Body,
};

use crate::fake::Fake;
use crate::harness::{
    Agent, cluster, command, folder, launch, options, said, shell, start_of, stop_of, task_folder,
    until,
};
use crate::store::Store;

const TRAINER: &str = r#"
import json, os, urllib.request
folder = os.environ["CHECKPOINT_DIR"]
for name in ("best.pt", "last.pt"):
    open(os.path.join(folder, name), "w").write(name)
url = f"{os.environ['CALLBACK_URL']}/training/jobs/{os.environ['JOB_ID']}/callback/completion"
body = {"job_id": 1, "status": "completed", "exit_code": 0, "total_epochs_completed": 1,
        "best_checkpoint_path": os.path.join(folder, "best.pt")}
call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
urllib.request.urlopen(call).read()
"#;

pub(crate) async fn checkpoints_are_stored_and_their_place_is_told() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    store.shelf().refuse_uploads = 1;
    fake.known().uploads = Some(store.clone());
    fake.send(start_of(1, command(&["python3", "-c", TRAINER])))
        .await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(store.shelf().uploads["best.pt"], b"best.pt");
    assert_eq!(fake.known().published, ["best.pt", "last.pt"]);
    let records = fake.records(1);
    let told = records
        .iter()
        .position(|record| matches!(&record.body, Some(Body::Completion(_))));
    let after = &records[told.expect("the trainer's word") + 1..];
    let stored = after.iter().find_map(|record| match &record.body {
        Some(Body::Progress(progress)) => Some(progress.clone()),
        _ => None,
    });
    let stored = stored.expect("a word about the checkpoints, after the trainer's");
    assert!(stored.stored, "it is the agent's own");
    let place = |checkpoint: Option<Checkpoint>| {
        let checkpoint = checkpoint.expect("it is stored");
        (checkpoint.path, checkpoint.size_bytes)
    };
    let location = |name: &str| format!("s3://training-checkpoints/checkpoints/1/{name}");
    assert_eq!(
        place(stored.best_checkpoint),
        (location("best.pt"), Some(7))
    );
    assert_eq!(place(stored.checkpoint), (location("last.pt"), Some(7)));
    agent.stop().await;
}

pub(crate) async fn a_store_that_takes_no_checkpoint_fails_no_job() {
    let (fake, agent, _data) = cluster().await;
    said_nothing(&fake).await;
    let own = fake.lines(1, LogStream::System);
    let note = own
        .iter()
        .find(|line| line.contains("could not be stored and stays at"));
    assert!(
        note.is_some_and(|note| note.ends_with("best.pt: no store")),
        "{own:?}"
    );
    agent.stop().await;
}

pub(crate) async fn a_large_checkpoint_goes_in_parts_and_a_part_that_is_there_is_not_sent_again() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    store.shelf().refuse_uploads = 1;
    fake.known().uploads = Some(store.clone());
    fake.known().part_bytes = Some(4);
    said_nothing(&fake).await;
    let own = fake.lines(1, LogStream::System);
    assert!(
        own.iter()
            .any(|line| line.contains("stored as s3://training-checkpoints/checkpoints/1/best.pt")),
        "{own:?}"
    );
    assert_eq!(store.shelf().uploads["best.pt"], b"0123456789");
    // The first was refused once; the last is shorter.
    let came = ["best.pt.0", "best.pt.0", "best.pt.1", "best.pt.2"];
    assert_eq!(store.shelf().came, came);
    assert_eq!(store.shelf().ended, [("best.pt".to_owned(), 3)]);
    agent.stop().await;
}

pub(crate) async fn what_the_store_will_say_again_is_asked_once_and_its_words_are_told() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    store.shelf().refuse_uploads = 1;
    store.shelf().refuse_with = Some(axum::http::StatusCode::BAD_REQUEST);
    fake.known().uploads = Some(store.clone());
    fake.known().part_bytes = Some(4);
    said_nothing(&fake).await;
    let own = fake.lines(1, LogStream::System);
    let words = "the store answers 400 Bad Request: as the case wants it";
    assert!(own.iter().any(|line| line.ends_with(words)), "{own:?}");
    assert_eq!(store.shelf().came, ["best.pt.0"]);
    let given_up = [("best.pt".to_owned(), 0)];
    assert_eq!(store.shelf().ended, given_up);
    agent.stop().await;
}

async fn said_nothing(fake: &Fake) {
    fake.send(start_of(
        1,
        shell("printf 0123456789 > $CHECKPOINT_DIR/best.pt; echo done"),
    ))
    .await;
    said(fake, 1, "done").await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
}

pub(crate) async fn what_is_not_published_is_not_told() {
    let (fake, agent, _data) = cluster().await;
    fake.known().uploads = Some(Store::start().await);
    fake.known().refuse_publication = true;
    said_nothing(&fake).await;
    let told = fake.records(1);
    let told = told
        .iter()
        .any(|record| matches!(&record.body, Some(Body::Progress(_))));
    assert!(
        !told,
        "the store has another attempt's file under that name"
    );
    let own = fake.lines(1, LogStream::System);
    assert!(own.iter().any(|line| line.contains("stays at")), "{own:?}");
    agent.stop().await;
}

const PARTS: [&str; 3] = ["best.pt.0", "best.pt.1", "best.pt.2"];

pub(crate) async fn an_answer_that_is_lost_is_asked_for_again_and_no_byte_is_sent_for_it() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    fake.known().uploads = Some(store.clone());
    fake.known().part_bytes = Some(4);
    fake.known().lost = (2, 2);
    said_nothing(&fake).await;
    assert_eq!(store.shelf().came, PARTS);
    assert_eq!(store.shelf().ended, [("best.pt".to_owned(), 3)]);
    assert_eq!(fake.known().published, ["best.pt"; 3]);
    let own = fake.lines(1, LogStream::System);
    assert!(own.iter().any(|line| line.contains("stored as")), "{own:?}");
    agent.stop().await;
}

pub(crate) async fn parts_whose_attempt_is_over_when_they_are_there_are_not_told_and_not_sent_again()
 {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    fake.known().uploads = Some(store.clone());
    fake.known().part_bytes = Some(4);
    fake.known().refuse_publication = true;
    said_nothing(&fake).await;
    assert_eq!(store.shelf().came, PARTS);
    let told = fake.records(1);
    let told = told
        .iter()
        .any(|record| matches!(&record.body, Some(Body::Progress(_))));
    assert!(!told, "it is not published");
    let own = fake.lines(1, LogStream::System);
    let words = "Training job not found";
    assert!(own.iter().any(|line| line.ends_with(words)), "{own:?}");
    agent.stop().await;
}

const LOCATION: &str = "s3://training-checkpoints/checkpoints/7/last.pt";

/// A place at which nobody answers; how often it was tried.
struct Nobody {
    address: SocketAddr,
    tries: Arc<AtomicUsize>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Nobody {
    async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let (tries, end) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (counted, until) = (Arc::clone(&tries), end.clone());
        Self {
            address: listener.local_addr().expect("its address"),
            task: TaskTracker::new().spawn(async move {
                while let Some(Ok(came)) = until.run_until_cancelled(listener.accept()).await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    drop(came);
                }
            }),
            tries,
            end,
        }
    }

    /// Some more times, and the task has no end for it.
    async fn is_tried_in_vain(&self, data: &TempDir) {
        let tries = || self.tries.load(Ordering::Relaxed);
        let before = tries();
        until(|| tries() > before + 1).await;
        assert!(!task_folder(data, 1).join("end.json").exists());
    }

    async fn go(self) -> SocketAddr {
        self.end.cancel();
        self.task.await.expect("it does not panic");
        self.address
    }
}

/// An agent whose coordinator is away. It has no patience with a store, and all of it for the coordinator.
fn away(fake: &Fake, data: &TempDir, nobody: &Nobody) -> Agent {
    let mut options = options(fake, data.path());
    options.coordinator = format!("http://{}", nobody.address);
    options.datasets.checkpoints_patience = Duration::ZERO;
    launch(options)
}

/// A trainer with a checkpoint, which ends when its agent finds nobody any more.
async fn ends_unheard(nobody: &Nobody) -> (Fake, Agent, TempDir) {
    let (fake, agent, data) = cluster().await;
    let go = data.path().join("go");
    let script = format!(
        "printf 0123456789 > $CHECKPOINT_DIR/best.pt; echo up; until [ -e {} ]; do sleep 0.01; done",
        go.display()
    );
    fake.send(start_of(1, shell(&script))).await;
    said(&fake, 1, "up").await;
    agent.stop().await;
    let agent = away(&fake, &data, nobody);
    std::fs::write(go, "").expect("the go is given");
    until(|| task_folder(&data, 1).join("exit.json").exists()).await;
    (fake, agent, data)
}

pub(crate) async fn checkpoints_of_a_trainer_that_ended_while_the_coordinator_was_away_are_stored_when_it_is_back()
 {
    let nobody = Nobody::at(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let (fake, agent, data) = ends_unheard(&nobody).await;
    nobody.is_tried_in_vain(&data).await;
    agent.stop().await;
    // A further life finds that it has ended.
    let agent = away(&fake, &data, &nobody);
    nobody.is_tried_in_vain(&data).await;
    let store = Store::start().await;
    let back = Fake::start_at(nobody.go().await).await;
    back.known().uploads = Some(store.clone());
    let end = back.end(1).await.end.expect("it has ended");
    assert_eq!(end.exit_code, Some(0));
    assert_eq!(store.shelf().uploads["best.pt"], b"0123456789");
    assert_eq!(back.known().published, ["best.pt"]);
    agent.stop().await;
}

/// A job that says what it finds where it is to begin.
fn resumed(from: &str) -> Frame {
    let mut spec = shell("echo \"$RESUME $RESUME_FROM\"; cat \"$RESUME_FROM\"");
    spec.resume_from = from.to_owned();
    spec.resume = true;
    start_of(1, spec)
}

pub(crate) async fn a_stored_checkpoint_is_a_file_of_the_task_when_its_trainer_begins() {
    let (fake, agent, data) = cluster().await;
    let store = Store::start().await;
    let weights = "weights\n".repeat(1_000);
    let path = "checkpoints/7/last.pt".to_owned();
    store
        .shelf()
        .files
        .insert(path.clone(), weights.clone().into());
    store.shelf().broken = 2;
    fake.known().beginning = Some((store, path));
    fake.known().busy = 1;
    fake.send(resumed(LOCATION)).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    let said = fake.lines(1, LogStream::Stdout);
    let file = data.path().join("tasks/1-1-0/resume/last.pt");
    assert_eq!(said[0], format!("true {}", file.display()));
    assert_eq!(said[1..].join("\n") + "\n", weights, "whole, and once");
    agent.stop().await;
}

pub(crate) async fn a_stored_checkpoint_that_is_gone_fails_the_job_in_words() {
    let (fake, agent, _data) = cluster().await;
    fake.known().beginning = Some((Store::start().await, "gone".to_owned()));
    fake.send(resumed(LOCATION)).await;
    let end = fake.whole_end(1).await;
    assert_eq!(end.error, "checkpoint 'x' is not in the store");
    assert!(!end.infrastructure, "another node would not find it either");
    agent.stop().await;
}

pub(crate) async fn a_checkpoint_that_the_node_knows_by_its_path_is_left_as_it_is() {
    let (fake, agent, data) = cluster().await;
    let own = data.path().join("own.pt");
    std::fs::write(&own, "mine\n").expect("a file is written");
    let own = own.display().to_string();
    fake.send(resumed(&own)).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    let said = fake.lines(1, LogStream::Stdout);
    assert_eq!(said, [format!("true {own}"), "mine".to_owned()]);
    agent.stop().await;
}

/// An agent that looks for checkpoints all the time while a trainer works, and gives their upload up soon after a stop.
async fn eager() -> (Fake, Agent, TempDir, Store) {
    let (fake, data, store) = (Fake::start().await, folder(), Store::start().await);
    let mut options = options(&fake, data.path());
    options.datasets.checkpoints_every = Some(Duration::from_millis(50));
    options.datasets.checkpoints_after_stop = Duration::from_millis(100);
    fake.known().uploads = Some(store.clone());
    let agent = launch(options);
    (fake, agent, data, store)
}

pub(crate) async fn a_checkpoint_gets_its_name_once_what_was_told_before_it_is_delivered() {
    let (fake, agent, data, store) = eager().await;
    fake.known().deaf = true;
    let gate = data.path().join("gate");
    let script = format!(
        "wait_for() {{ while [ ! -e {0}-$1 ]; do sleep 0.05; done; }}
        printf weights > $CHECKPOINT_DIR/last.pt; echo saved
        wait_for 1; echo later; wait_for 2; echo heard; wait_for 3",
        gate.display()
    );
    let open = |number: u32| {
        std::fs::write(format!("{}-{number}", gate.display()), "").expect("a gate opens");
    };
    fake.send(start_of(1, shell(&script))).await;
    said(&fake, 1, "saved").await;
    until(|| store.shelf().uploads.contains_key("last.pt")).await;
    open(1);
    said(&fake, 1, "later").await;
    assert_eq!(fake.known().published, [""; 0], "nobody has those lines");
    fake.known().deaf = false;
    open(2);
    said(&fake, 1, "heard").await;
    until(|| fake.known().published == ["last.pt"]).await;
    open(3);
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    agent.stop().await;
}

const EPOCHS: &str = r#"
import json, os, sys, time, urllib.request
folder = os.environ["CHECKPOINT_DIR"]
own = os.path.join(folder, "run", "epoch_1.pt")
os.makedirs(os.path.dirname(own))
open(own, "w").write("epoch 1")
open(sys.argv[1] + "-outside.pt", "w").write("not of this job")
url = f"{os.environ['CALLBACK_URL']}/training/jobs/{os.environ['JOB_ID']}/callback/progress"
body = {"job_id": 1, "status": "running", "current_epoch": 1, "total_epochs": 2, "progress_percent": 50, "metrics": {"loss": 0.5},
        "checkpoint_path": own, "best_checkpoint_path": sys.argv[1] + "-outside.pt"}
call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
urllib.request.urlopen(call).read()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"#;

pub(crate) async fn a_file_below_the_folder_that_its_trainer_calls_its_checkpoint_is_stored_as_the_last_one()
 {
    let (fake, agent, data, store) = eager().await;
    let gate = data.path().join("gate").display().to_string();
    fake.send(start_of(1, command(&["python3", "-c", EPOCHS, &gate])))
        .await;
    until(|| fake.known().published == ["last.pt"]).await;
    assert_eq!(store.shelf().uploads["last.pt"], b"epoch 1");
    std::fs::write(gate, "").expect("the gate opens");
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(
        fake.known().published,
        ["last.pt"],
        "once, and nothing else"
    );
    agent.stop().await;
}

pub(crate) async fn a_trainer_that_has_ended_is_cancelled_while_its_checkpoint_is_on_its_way() {
    for part_bytes in [None, Some(4)] {
        let (fake, agent, _data, store) = eager().await;
        fake.known().part_bytes = part_bytes;
        let held = store.full.lock().await;
        let script = "printf 0123456789 > $CHECKPOINT_DIR/best.pt";
        fake.send(start_of(1, shell(script))).await;
        until(|| !store.shelf().came.is_empty()).await;
        fake.send(stop_of(1, Duration::from_secs(5))).await;
        is_given_up(&fake, &store).await;
        let end = fake.whole_end(1).await;
        assert_eq!(end.exit_code, Some(0));
        assert_eq!(end.stop_cause(), StopCause::Cancelled);
        drop(held);
        agent.stop().await;
    }
}

pub(crate) async fn a_job_that_is_cancelled_while_it_trains_ends_though_its_store_takes_nothing() {
    for part_bytes in [None, Some(4)] {
        let (fake, agent, _data, store) = eager().await;
        fake.known().part_bytes = part_bytes;
        let held = store.full.lock().await;
        let script = "printf 0123456789 > $CHECKPOINT_DIR/best.pt; echo saved; exec sleep 1000";
        fake.send(start_of(1, shell(script))).await;
        until(|| !store.shelf().came.is_empty()).await;
        fake.send(stop_of(1, Duration::from_secs(5))).await;
        is_given_up(&fake, &store).await;
        let left = store.shelf().left;
        assert!(
            (1..=2).contains(&left),
            "{left}: that of the round, and the last one if its time came"
        );
        let end = fake.whole_end(1).await;
        assert_eq!(end.stop_cause(), StopCause::Cancelled);
        drop(held);
        agent.stop().await;
    }
}

/// The job ends, its uploads have been hung up on, and the store has nothing of them.
async fn is_given_up(fake: &Fake, store: &Store) {
    fake.whole_end(1).await;
    until(|| {
        let shelf = store.shelf();
        u32::try_from(shelf.came.len()) == Ok(shelf.left)
    })
    .await;
    let shelf = store.shelf();
    assert!(shelf.uploads.is_empty());
    let parts = shelf.ended.iter().all(|(_, parts)| *parts == 0);
    let given_up = shelf.ended.len() == shelf.came.len() || fake.known().part_bytes.is_none();
    assert!(parts && given_up, "{:?}", shelf.ended);
    drop(shelf);
    assert_eq!(fake.known().published, [""; 0]);
    let own = fake.lines(1, LogStream::System);
    let words = "longer than checkpoints.after_stop_seconds";
    assert!(own.iter().any(|line| line.ends_with(words)), "{own:?}");
}
