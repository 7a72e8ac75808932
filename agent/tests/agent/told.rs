//! What trainers have called their checkpoints, across the lives of their agent.
//!
//! Owns these cases. Called by the cases' main.
#![expect(
    clippy::indexing_slicing,
    reason = "a case that looks where nothing is has failed"
)]

use std::path::Path;

use trainyard_proto::v1::{self, record::Body};

use crate::{
    fake::Fake,
    harness::{cluster, command, launch, options, said, start_of, task_folder, until},
    store::Store,
};

/// An old `last.pt` lies where a checkpoint of that name is looked for; the last one is another, below a folder of its own.
const EPOCHS: &str = r#"
import json, os, sys, time, urllib.error, urllib.request
folder = os.environ["CHECKPOINT_DIR"]
old = os.path.join(folder, "last.pt")
open(old, "w").write("of long ago")
os.utime(old, (1, 1))
own = os.path.join(folder, "run", "epoch_9.pt")
os.makedirs(os.path.dirname(own))
open(own, "w").write("epoch 9")
url = f"{os.environ['CALLBACK_URL']}/training/jobs/{os.environ['JOB_ID']}/callback/progress"
body = {"job_id": 1, "status": "running", "current_epoch": 9, "total_epochs": 9, "progress_percent": 100, "metrics": {"loss": 0.5},
        "checkpoint_path": own}
call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
for _ in range(1000):
    try:
        urllib.request.urlopen(call).read()
        break
    except urllib.error.HTTPError as refused:
        open(sys.argv[1] + "-refused", "w").write(str(refused.code))
        time.sleep(0.02)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"#;

async fn has_reported(fake: &Fake) {
    fake.until(|known| {
        let mut records = known.records.get(&1)?.values();
        let is_progress = |body: &Option<Body>| matches!(body, Some(Body::Progress(_)));
        records
            .any(|record| is_progress(&record.body))
            .then_some(())
    })
    .await;
}

pub(crate) async fn what_a_trainer_has_called_its_last_checkpoint_is_stored_by_the_next_life_of_its_agent()
 {
    let (fake, agent, data) = cluster().await;
    let gate = data.path().join("gate").display().to_string();
    fake.send(start_of(1, command(&["python3", "-c", EPOCHS, &gate])))
        .await;
    has_reported(&fake).await;
    agent.stop().await;
    fake.hang_up();
    // It ends while nobody looks: all that is left of its word is in the task's folder.
    std::fs::write(&gate, "").expect("the gate opens");
    until(|| task_folder(&data, 1).join("exit.json").exists()).await;
    let store = Store::start().await;
    fake.known().uploads = Some(store.clone());
    let agent = launch(options(&fake, data.path()));
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(store.shelf().uploads["last.pt"], b"epoch 9");
    assert_eq!(fake.known().published, ["last.pt"]);
    agent.stop().await;
}

/// Of a trainer with our SDK that is killed while its agent is away.
const UNSENT: &str = r#"
import json, os, sys, time
print("runs", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
body = {"job_id": 1, "status": "running", "current_epoch": 9, "total_epochs": 9, "progress_percent": 100, "metrics": {"loss": 0.5}}
with open(os.path.join(os.environ["TRAINYARD_KEPT_DIR"], "kept-7-x"), "w") as kept:
    kept.write(f"\n+1 training/jobs/1/callback/progress {json.dumps(body)}\n")
os.makedirs(os.environ["CHECKPOINT_DIR"], exist_ok=True)
open(os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt"), "w").write("epoch 9")
os.kill(os.getpid(), 9)
"#;

pub(crate) async fn the_last_checkpoint_comes_behind_what_a_killed_trainer_had_said_to_nobody() {
    let (fake, agent, data) = cluster().await;
    let gate = data.path().join("gate").display().to_string();
    fake.send(start_of(1, command(&["python3", "-c", UNSENT, &gate])))
        .await;
    said(&fake, 1, "runs").await;
    agent.stop().await;
    fake.hang_up();
    std::fs::write(&gate, "").expect("the gate opens");
    until(|| task_folder(&data, 1).join("exit.json").exists()).await;
    // A copy that an agent was taking when it was killed.
    let copy = task_folder(&data, 1).join("on-its-way-left");
    std::fs::write(&copy, "half of it").expect("a copy");
    let store = Store::start().await;
    fake.known().uploads = Some(store.clone());
    let agent = launch(options(&fake, data.path()));
    assert_eq!(fake.whole_end(1).await.signal, Some(9));
    assert!(!copy.exists());
    assert_eq!(fake.known().published, ["last.pt"]);
    let told: Vec<&str> = {
        let known = fake.known();
        let records = known.records[&1].values();
        let word = |record: &v1::Record| match &record.body {
            Some(Body::Progress(report)) if report.stored => Some("stored"),
            Some(Body::Progress(_)) => Some("report"),
            _ => None,
        };
        records.filter_map(word).collect()
    };
    assert_eq!(told, ["report", "stored"]);
    agent.stop().await;
}

/// In the way of what is to be written, as a full disk is.
fn block(file: &Path) {
    std::fs::create_dir_all(file).expect("a folder in the way");
}

pub(crate) async fn what_a_trainer_calls_its_checkpoint_is_on_the_disk_before_it_is_answered() {
    let (fake, agent, data) = cluster().await;
    fake.hello(0).await;
    let draft = task_folder(&data, 1).join("checkpoints.json.tmp");
    block(&draft);
    let gate = data.path().join("gate").display().to_string();
    fake.send(start_of(1, command(&["python3", "-c", EPOCHS, &gate])))
        .await;
    let refused = data.path().join("gate-refused");
    until(|| std::fs::read_to_string(&refused).is_ok_and(|code| code == "503")).await;
    std::fs::remove_dir(&draft).expect("it is empty");
    has_reported(&fake).await;
    assert!(task_folder(&data, 1).join("checkpoints.json").exists());
    std::fs::write(&gate, "").expect("the gate opens");
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    agent.stop().await;
}
