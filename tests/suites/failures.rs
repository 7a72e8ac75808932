//! Failures that users of other schedulers have met, each a story that would have caught it. Named as they are listed; those that
//! need no processes of their own stand beside what they test.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command, outcome, shell},
    wait::until,
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::TRAINYARD;

/// Says that it runs, waits for a file, and ends with this code.
fn gated(gate: &Path, code: i32) -> v1::JobSpec {
    let gate = gate.display();
    shell(&format!(
        "echo runs; while [ ! -e {gate} ]; do sleep 0.05; done; echo ends; exit {code}"
    ))
}

async fn runs(jobs: &Jobs, id: u64) {
    until(&format!("job {id} has said that it runs"), async || {
        let said = jobs.clone().output(id).await;
        said.contains(&"runs".to_owned()).then_some(())
    })
    .await;
}

/// Waits until the shim of the only task of an agent has written how its trainer ended.
async fn has_ended(agent: &Path) {
    let tasks = agent.join("tasks");
    until("the trainer has ended", async || {
        let task = fs::read_dir(&tasks).ok()?.flatten().next()?;
        task.path().join("exit.json").exists().then_some(())
    })
    .await;
}

fn with_gpus(mut spec: v1::JobSpec, gpus: u32) -> v1::JobSpec {
    spec.resources = Some(v1::ResourceRequest {
        cpus: 1,
        gpus,
        ..v1::ResourceRequest::default()
    });
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_agent_adopts_its_running_trainer_and_keeps_the_exit_code() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("gate");
    let id = jobs.submit(gated(&gate, 37)).await;
    runs(&jobs, id).await;
    cluster.kill_agent("one");
    // It ends while nobody looks.
    fs::write(&gate, "").expect("the gate opens");
    cluster.agent("one", &["--slots", "1"]).await;
    let ended = jobs.ends(id).await;
    let end = outcome(&ended);
    assert_eq!((ended.state(), end.exit_code), (JobState::Failed, Some(37)));
    assert_eq!(end.failure_class(), FailureClass::User);
    assert_eq!(ended.attempts.len(), 1);
    assert_eq!(jobs.output(id).await, ["runs", "ends"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trainer_that_dies_of_a_signal_while_its_agent_is_away_has_ended_by_that_signal() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("gate");
    let script = format!(
        "echo runs; while [ ! -e {} ]; do sleep 0.05; done; echo ends; printf 'last words'; kill -SEGV $$",
        gate.display()
    );
    let id = jobs.submit(shell(&script)).await;
    runs(&jobs, id).await;
    cluster.kill_agent("one");
    fs::write(&gate, "").expect("the gate opens");
    has_ended(&cluster.agent_data("one")).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let ended = jobs.ends(id).await;
    let end = outcome(&ended);
    assert_eq!((ended.state(), end.signal), (JobState::Failed, Some(11)));
    assert_eq!(end.exit_code, None);
    assert_eq!(end.failure_class(), FailureClass::User);
    assert_eq!(ended.attempts.len(), 1);
    assert_eq!(jobs.output(id).await, ["runs", "ends", "last words"]);
}

/// The coordinator's side of it alone is `node_that_fails_every_launch_is_cordoned_after_a_few`.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_agent_can_launch_nothing_is_cordoned_with_its_words_and_the_job_runs_elsewhere()
 {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    // Nothing can be written where its first attempts are to be launched from.
    let tasks = cluster.agent_data("one").join("tasks");
    for attempt in 1..=6 {
        let draft = format!("1-{attempt}-0/launch.json.tmp");
        fs::create_dir_all(tasks.join(draft)).expect("it is in the way");
    }
    let mut spec = shell("echo $TRAINYARD_NODE");
    spec.retry = Some(v1::RetryPolicy {
        limit: Some(5),
        backoff: Some(prost_types::Duration::default()),
        ..v1::RetryPolicy::default()
    });
    let id = jobs.submit(spec).await;
    assert_eq!(id, 1);
    let node = until("the node is cordoned", async || {
        let request = v1::ListNodesRequest::default();
        let listed = cluster.nodes().await.list_nodes(request).await;
        let listed = listed.expect("the nodes").into_inner().nodes;
        listed.into_iter().find(|node| node.draining)
    })
    .await;
    let begin = "3 launches in a row failed, the last one: cannot prepare the task folder ";
    let reason = &node.drain_reason;
    assert!(reason.starts_with(begin), "{reason}");
    cluster.agent("two", &["--slots", "1"]).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    assert_eq!(jobs.output(id).await, ["two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_report_lost_in_a_short_outage_is_delivered_later_and_frees_the_gpu() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let gpu = ["--slots", "4", "--simulate-gpus", "1xH100-80GB"];
    cluster.agent("one", &gpu).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("gate");
    let first = jobs.submit(with_gpus(gated(&gate, 0), 1)).await;
    let second = jobs
        .submit(with_gpus(shell("echo $CUDA_VISIBLE_DEVICES"), 1))
        .await;
    runs(&jobs, first).await;
    assert_eq!(jobs.get(second).await.state(), JobState::Queued);
    cluster.kill_coordinator();
    fs::write(&gate, "").expect("the gate opens");
    has_ended(&cluster.agent_data("one")).await;
    cluster.start_coordinator().await;
    for id in [first, second] {
        let ended = jobs.ends(id).await;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    }
    assert_eq!(jobs.output(second).await, ["GPU-SIM-one-0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_vanishes_after_submit_leaves_no_stuck_job_and_a_retry_with_the_same_key_makes_one_job()
 {
    use std::io::Write as _;
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "2"]).await;
    let body =
        r#"{"experiment_name": "once", "config": {"framework": "command", "command": ["true"]}}"#;
    let request = format!(
        "POST /api/v1/training/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nIdempotency-Key: once\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        cluster.token(),
        body.len()
    );
    // It sends all, and is gone before there is an answer.
    for _ in 0..3 {
        let mut client = std::net::TcpStream::connect(&cluster.address).expect("a connection");
        client.write_all(request.as_bytes()).expect("it is sent");
        drop(client);
    }
    let again = reqwest::Client::new()
        .post(format!("{}/api/v1/training/jobs", cluster.url()))
        .bearer_auth(cluster.token())
        .header("Idempotency-Key", "once")
        .header("Content-Type", "application/json")
        .body(body);
    let answer = again.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    let shown: serde_json::Value = answer.json().await.expect("JSON");
    let id = shown
        .get("id")
        .and_then(serde_json::Value::as_u64)
        .expect("a number");
    let mut jobs = Jobs::of(&cluster).await;
    assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
    // The next one has the next number: there was one job, whoever vanished.
    let next = jobs.submit(command(&["true"])).await;
    assert_eq!(next, id + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_concurrent_submits_are_accepted_or_plainly_refused() {
    let mut setup = tests::cluster::CoordinatorSetup::default();
    let limit = ("TRAINYARD__LIMITS__OPEN_JOBS".to_owned(), "60".to_owned());
    setup.variables.extend([limit]);
    let mut cluster = Cluster::start_with(TRAINYARD, setup).await;
    let jobs = Jobs::of(&cluster).await;
    let submits = (0..100).map(|_| {
        let mut jobs = jobs.clone();
        async move { jobs.try_submit(command(&["true"])).await }
    });
    let answers = futures::future::join_all(submits).await;
    let plain = |status: &tonic::Status| {
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("limits.open_jobs"), "{status:?}");
    };
    let mut taken = Vec::new();
    for answer in answers {
        match answer {
            Ok(job) => taken.push(job),
            Err(status) => plain(&status),
        }
    }
    assert!((1..=60).contains(&taken.len()), "{}", taken.len());
    // Who tries again gets what room is left, and no more.
    loop {
        match jobs.clone().try_submit(command(&["true"])).await {
            Ok(job) => taken.push(job),
            Err(status) => break plain(&status),
        }
    }
    assert_eq!(taken.len(), 60);
    cluster.agent("one", &["--slots", "8"]).await;
    for job in taken {
        let ended = jobs.ends(job.job_id).await;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_works_during_launch_upload_and_partition() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    // Launch and upload have stories of their own (suites `cancel` and `resume`). A node that does not answer:
    let id = jobs.submit(gated(&cluster.path("never"), 0)).await;
    runs(&jobs, id).await;
    cluster.agent_process("one").signal(Signal::SIGSTOP);
    let told = jobs.cancel(id).await.expect("it is taken");
    assert_eq!(told.state(), JobState::Running, "{told:?}");
    cluster.agent_process("one").signal(Signal::SIGCONT);
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Cancelled, "{ended:?}");
    // One that died is followed by one that hears of it.
    let id = jobs.submit(gated(&cluster.path("never"), 0)).await;
    runs(&jobs, id).await;
    cluster.kill_agent("one");
    jobs.cancel(id).await.expect("it is taken");
    cluster.agent("one", &["--slots", "1"]).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Cancelled, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn last_bytes_before_a_crash_are_in_the_log() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let script = "seq 1 5000; printf 'the last words'; kill -SEGV $$";
    let id = jobs.submit(shell(script)).await;
    let ended = jobs.ends(id).await;
    assert_eq!(outcome(&ended).signal, Some(11), "{ended:?}");
    let said = jobs.output(id).await;
    assert_eq!(said.len(), 5_001);
    assert_eq!(said.last().map(String::as_str), Some("the last words"));
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_returns_with_fewer_gpus_never_gets_more_than_it_has() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let gpus = |text: &'static str| ["--slots", "8", "--simulate-gpus", text];
    cluster.agent("one", &gpus("4xH100-80GB")).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("gate");
    let held = jobs.submit(with_gpus(gated(&gate, 0), 1)).await;
    runs(&jobs, held).await;
    cluster.kill_agent("one");
    cluster.agent("one", &gpus("2xH100-80GB")).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(jobs.submit(with_gpus(gated(&gate, 0), 1)).await);
    }
    let Some((next, others)) = waiting.split_first() else {
        panic!("three were submitted");
    };
    runs(&jobs, *next).await;
    for id in others {
        assert_eq!(jobs.get(*id).await.state(), JobState::Queued);
    }
    fs::write(&gate, "").expect("the gate opens");
    for id in std::iter::once(held).chain(waiting) {
        let ended = jobs.ends(id).await;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
        for uuid in &ended.attempts.first().expect("one").gpu_uuids {
            assert!(["GPU-SIM-one-0", "GPU-SIM-one-1"].contains(&uuid.as_str()) || id == held);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_stopped_in_order_is_not_a_completed_job_and_a_failed_job_never_shows_exit_code_0() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("gate");
    let id = jobs.submit(gated(&gate, 3)).await;
    runs(&jobs, id).await;
    let stopped = cluster.agent_process("one").stop().await;
    assert!(stopped.success(), "{stopped:?}");
    cluster.kill_agent("one");
    assert_eq!(jobs.get(id).await.state(), JobState::Running);
    fs::write(&gate, "").expect("the gate opens");
    cluster.agent("one", &["--slots", "1"]).await;
    let ended = jobs.ends(id).await;
    assert_eq!(
        (ended.state(), outcome(&ended).exit_code),
        (JobState::Failed, Some(3))
    );
}
