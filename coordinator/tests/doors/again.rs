//! Jobs that are tried again by themselves: where they go on, whatever their trainers say.

use std::fs;

use serde_json::{Value, json};
use trainyard_core::record::{Checkpoint, Progress, Record};
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::{
    agent::{Agent, epoch},
    world::{World, command},
};

/// Puts a checkpoint into the artifact store; the answer is its location.
fn kept(world: &World, job: u64) -> String {
    let root = world.data().join("artifacts").canonicalize().unwrap();
    let folder = root.join(format!("checkpoints/{job}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("last.pt"), "weights").unwrap();
    folder.join("last.pt").display().to_string()
}

/// A report that says where the last checkpoint is, and nothing else.
fn names(path: &str) -> Progress {
    let Record::Progress(report) = epoch(0, &[]) else {
        panic!("a report of progress");
    };
    Progress {
        checkpoint: Some(Checkpoint {
            path: path.to_owned(),
            size_bytes: None,
        }),
        ..report
    }
}

/// A process of which the node does not know how it ended.
fn vanished(task: v1::TaskKey, last_seq: u64) -> v1::TaskReport {
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::Exited.into(),
        end: Some(v1::TaskEnd {
            error: "the shim is gone".to_owned(),
            infrastructure: true,
            last_seq,
            ..v1::TaskEnd::default()
        }),
        ..v1::TaskReport::default()
    }
}

/// A job that is tried again at once.
fn eager() -> Value {
    let mut body = command();
    body["config"]["retry"] = json!({"limit": 5, "backoff_seconds": 0});
    body
}

/// A running job, and somebody else's checkpoint.
struct Run {
    world: World,
    agent: Agent,
    foreign: String,
    start: v1::StartTask,
}

impl Run {
    async fn begin() -> Self {
        let world = World::start().await;
        let mut agent = Agent::join(&world, "n1", 4).await;
        world.submit(&eager()).await;
        let start = agent.run().await;
        let foreign = kept(&world, start.task.unwrap().job_id + 1);
        Self {
            world,
            agent,
            foreign,
            start,
        }
    }

    /// The attempt ends by its node's fault; the answer is what the next one goes on from.
    async fn goes_on_from(&mut self, last_seq: u64) -> String {
        let task = self.start.task.unwrap();
        self.agent.report(vanished(task, last_seq)).await;
        self.agent.forget().await;
        let next = self.agent.run().await;
        assert_eq!(next.task.unwrap().attempt, task.attempt + 1);
        let from = next.spec.clone().unwrap().resume_from;
        self.start = next;
        from
    }

    /// Records of the attempt, by its agent.
    async fn delivers(&self, record: Record) {
        let mut data = self.agent.attach(&self.world).await;
        let task = self.start.task.unwrap();
        data.deliver(task, 1, &[record]).await;
    }
}

#[tokio::test]
async fn what_a_trainer_calls_a_checkpoint_is_never_where_the_next_attempt_goes_on() {
    let mut run = Run::begin().await;
    // By way of its agent.
    for path in [run.foreign.clone(), "/local/last.pt".to_owned()] {
        run.delivers(Record::Progress(names(&path))).await;
        assert_eq!(run.goes_on_from(1).await, "", "{path}");
    }
    // To the coordinator itself.
    let job = run.start.task.unwrap().job_id;
    let said = json!({"job_id": job, "status": "running", "current_epoch": 0, "total_epochs": 3,
        "metrics": null, "checkpoint_path": run.foreign});
    let path = format!("/training/jobs/{job}/callback/progress");
    let (status, answer) = run.world.callback(&run.start.secret, &path, &said).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(run.goes_on_from(0).await, "");
    let mut client = AgentServiceClient::new(run.world.channel().await);
    let asked = run.world.of_agent(v1::SignDownloadRequest {
        task: run.start.task,
        secret: run.start.secret.clone(),
    });
    let way = client.sign_download(asked).await.unwrap().into_inner();
    assert_eq!(way, v1::SignDownloadResponse::default());
}

#[tokio::test]
async fn the_next_attempt_goes_on_from_what_its_agent_has_stored_of_this_very_job() {
    let mut run = Run::begin().await;
    let own = kept(&run.world, run.start.task.unwrap().job_id);
    run.delivers(Record::Stored(names(&own))).await;
    assert_eq!(run.goes_on_from(1).await, own);
    // An agent that names another job's is not believed.
    run.delivers(Record::Stored(names(&run.foreign))).await;
    assert_eq!(run.goes_on_from(1).await, own);
}
