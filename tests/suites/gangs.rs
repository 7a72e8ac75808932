//! Gangs whose nodes die: what is left of them is stopped, and they go on when there are nodes enough again.

use tests::{
    cluster::Cluster,
    jobs::{Jobs, python},
    wait::until,
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::retries::{OFTEN, TRAINER, cluster};

/// Before the trainer of rank 0, which a first run does not end, as one whose peer does not answer: the other rank of a
/// first run hears nothing of anybody.
const OTHERS: &str = r#"
import os, time
if os.environ["RANK"] != "0":
    while os.environ["TRAINYARD_ATTEMPT"] == "1":
        time.sleep(0.05)
    print("rank 1 is with", os.path.basename(os.environ["RESUME_FROM"]), flush=True)
    raise SystemExit(0)
"#;

async fn node(cluster: &mut Cluster, name: &str, address: &str) {
    let mut settings = OFTEN.to_vec();
    settings.push(("TRAINYARD_AGENT__NODE__ADDRESS", address));
    cluster.agent_with(name, &["--slots", "1"], &settings).await;
}

/// Epoch 3 is reported, and the checkpoint after epoch 2 is known to be stored.
async fn trained(cluster: &Cluster, (jobs, id): (&Jobs, u64)) {
    let stored = cluster.path(&format!("coordinator/artifacts/checkpoints/{id}/last.pt"));
    until("its checkpoint is known to be stored", async || {
        let points = jobs.clone().points(id).await;
        let last = jobs.clone().get(id).await.last_checkpoint;
        let known = last.is_some_and(|last| last.size_bytes == Some(1));
        (known && points.len() == 3 && stored.is_file()).then_some(())
    })
    .await;
}

async fn has_no_task(cluster: &Cluster, name: &str) {
    until("the old rank is gone and forgotten", async || {
        let tasks = std::fs::read_dir(cluster.agent_data(name).join("tasks"));
        tasks
            .is_ok_and(|mut tasks| tasks.next().is_none())
            .then_some(())
    })
    .await;
}

/// Failure 14 of the list in docs/reliability.md.
#[tokio::test(flavor = "multi_thread")]
async fn gang_with_one_dead_rank_stops_whole_in_bounded_time_and_resumes_when_the_node_is_replaced()
{
    let mut cluster = cluster().await;
    let mut jobs = Jobs::of(&cluster).await;
    node(&mut cluster, "one", "127.0.0.1").await;
    node(&mut cluster, "two", "127.0.0.2").await;
    let mut spec = python(&format!("{OTHERS}{TRAINER}"));
    (spec.epochs, spec.batch_size, spec.learning_rate) = (4, 1, 0.01);
    spec.nodes = 2;
    spec.retry = Some(v1::RetryPolicy {
        backoff: Some(prost_types::Duration::default()),
        ..v1::RetryPolicy::default()
    });
    let id = jobs.submit(spec).await;
    trained(&cluster, (&jobs, id)).await;
    cluster.kill_agent("two");
    // Rank 0, which would have waited for ever, is stopped; one node is too few for another attempt.
    has_no_task(&cluster, "one").await;
    let waits = jobs.get(id).await;
    assert_eq!(waits.state(), JobState::Queued, "{waits:?}");
    let why = waits.attempts[0].outcome.clone().expect("it has ended");
    assert_eq!(why.failure_class(), FailureClass::Lost, "{why:?}");
    assert!(why.message.starts_with("rank 1 on two: "), "{why:?}");
    node(&mut cluster, "three", "127.0.0.3").await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let tasks = &ended.attempts[1].tasks;
    let nodes: Vec<_> = tasks.iter().map(|task| task.node.as_str()).collect();
    assert_eq!(nodes, ["one", "three"]);
    let mut said = jobs.output(id).await;
    said.sort();
    assert_eq!(said, ["one goes on from 3", "rank 1 is with last.pt"]);
    let mut counts: Vec<_> = jobs.points(id).await;
    counts.retain(|point| point.attempt == 2);
    let epochs: Vec<u32> = counts.iter().map(|point| point.epoch).collect();
    assert_eq!(epochs, [3, 4], "from the checkpoint on");
    // The dead node comes back: what is left of its rank is ended.
    node(&mut cluster, "two", "127.0.0.2").await;
    has_no_task(&cluster, "two").await;
    assert_eq!(jobs.get(id).await.attempts.len(), 2);
}

/// Rank 0 hears no stop, and says that it is deaf; rank 1 then fails.
const DEAF: &str = r#"
import os, signal, socket, time
meeting = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if os.environ["RANK"] == "0":
    signal.signal(signal.SIGTERM, lambda *_: print("rank 0 is told to stop", flush=True))
    door = socket.create_server(meeting)
    door.accept()
    while True:
        time.sleep(0.05)
while True:
    try:
        socket.create_connection(meeting).close()
        break
    except OSError:
        time.sleep(0.05)
raise SystemExit(3)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_fails_ends_another_that_hears_no_stop_within_its_grace_and_the_job_says_which_failed()
 {
    let mut cluster = cluster().await;
    let mut jobs = Jobs::of(&cluster).await;
    node(&mut cluster, "one", "127.0.0.1").await;
    node(&mut cluster, "two", "127.0.0.2").await;
    let mut spec = python(DEAF);
    spec.nodes = 2;
    spec.grace_period = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let id = jobs.submit(spec).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Failed, "{ended:?}");
    let why = ended.outcome.expect("it has ended");
    assert_eq!(
        (why.failure_class(), why.exit_code),
        (FailureClass::User, Some(3)),
        "{why:?}"
    );
    assert!(why.message.starts_with("rank 1 on two: "), "{why:?}");
    assert_eq!(jobs.output(id).await, ["rank 0 is told to stop"]);
    assert_eq!(ended.attempts.len(), 1);
    has_no_task(&cluster, "one").await;
}
