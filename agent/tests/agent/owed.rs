//! Reports that a trainer makes while its agent is away, and the checkpoints that it writes meanwhile.
//!
//! Owns these cases. The trainer speaks by the real SDK. Called by the cases' main.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use trainyard_proto::v1::record::Body;

use crate::fake::{Fake, Known};
use crate::harness::{Agent, command, folder, launch, options, said, start_of, until};
use crate::store::Store;

/// An epoch is reported before its checkpoint is there. What is kept is sent when the case says so, and not by itself.
const TRAINER: &str = r#"
import os, sys, time
from trainyard_sdk import TrainerSDK
gate, last = sys.argv[1], os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt")
sdk = TrainerSDK(retry_delays=())
sdk._outbox._every = 3600
def wait_for(number):
    while not os.path.exists(f"{gate}-{number}"):
        time.sleep(0.01)
def epoch(number):
    sdk.report_progress(number, 3, {"loss": 1 / number})
    with open(last + ".part", "w") as file:
        file.write(str(number))
    os.replace(last + ".part", last)
epoch(1)
wait_for(1)
epoch(2)
epoch(3)
print("trained", flush=True)
wait_for(2)
print("later", flush=True)
wait_for(3)
sdk.flush()
wait_for(4)
"#;

/// An agent that looks for checkpoints all the time, and what it is given.
struct Scene {
    fake: Fake,
    data: TempDir,
    store: Store,
}

impl Scene {
    /// The trainer has gone on alone up to its third epoch, and its next agent is there.
    async fn alone(trainer: &str) -> (Self, Agent) {
        let (fake, data, store) = (Fake::start().await, folder(), Store::start().await);
        fake.known().uploads = Some(store.clone());
        let scene = Self { fake, data, store };
        let agent = scene.launch();
        let gate = scene.gate().display().to_string();
        let start = start_of(1, command(&["python3", "-c", trainer, &gate]));
        scene.fake.send(start).await;
        // In the good order nothing waits.
        until(|| scene.fake.known().published == ["last.pt"]).await;
        assert!(has_epoch(&scene.fake.known(), 1));
        agent.stop().await;
        scene.fake.hang_up();
        scene.open(1);
        let last = scene
            .data
            .path()
            .join("jobs/1/attempt-1/checkpoints/last.pt");
        until(|| std::fs::read(&last).is_ok_and(|text| text == b"3")).await;
        let agent = scene.launch();
        (scene, agent)
    }

    fn launch(&self) -> Agent {
        let mut options = options(&self.fake, self.data.path());
        options.datasets.checkpoints_every = Some(Duration::from_millis(50));
        launch(options)
    }

    fn gate(&self) -> PathBuf {
        self.data.path().join("gate")
    }

    fn open(&self, number: u32) {
        let gate = format!("{}-{number}", self.gate().display());
        std::fs::write(gate, "").expect("a gate opens");
    }

    fn has_stored_the_third(&self) -> bool {
        let shelf = self.store.shelf();
        shelf
            .uploads
            .get("last.pt")
            .is_some_and(|text| text == b"3")
    }
}

fn has_epoch(known: &Known, wanted: u32) -> bool {
    let mut records = known.records.get(&1).into_iter().flatten();
    records.any(|(_, record)| {
        matches!(&record.body, Some(Body::Progress(report)) if report.epoch == wanted && !report.stored)
    })
}

/// The epochs have come, and the checkpoint has no name before that.
fn are_told_first(known: &Known) -> Option<()> {
    let told = has_epoch(known, 2) && has_epoch(known, 3);
    assert!(told || known.published.len() == 1, "a gap in the curve");
    told.then_some(())
}

pub(crate) async fn a_checkpoint_that_was_written_while_its_agent_was_away_has_no_name_before_the_report_of_its_epoch()
 {
    let (scene, agent) = Scene::alone(TRAINER).await;
    until(|| scene.has_stored_the_third()).await;
    scene.open(2);
    said(&scene.fake, 1, "later").await;
    assert_eq!(
        scene.fake.known().published.len(),
        1,
        "nobody has those epochs"
    );
    scene.open(3);
    scene.fake.until(are_told_first).await;
    until(|| scene.fake.known().published.len() == 2).await;
    scene.open(4);
    assert_eq!(scene.fake.whole_end(1).await.exit_code, Some(0));
    agent.stop().await;
}

pub(crate) async fn a_trainer_that_ends_holds_up_none_of_its_checkpoints_by_what_it_still_keeps() {
    let killed = TRAINER.replace("sdk.flush()", "os._exit(3)");
    let (scene, agent) = Scene::alone(&killed).await;
    (2..=3).for_each(|number| scene.open(number));
    assert_eq!(scene.fake.whole_end(1).await.exit_code, Some(3));
    assert!(scene.has_stored_the_third());
    agent.stop().await;
}
