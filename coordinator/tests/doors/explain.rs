//! Why a job waits, as whoever asks is told; and what would become of one that is not submitted.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::wait::until;
use tonic::Code;
use trainyard_core::{ids::JobId, record::Record, spec::JobSpec, time::Timestamp};
use trainyard_proto::{
    convert::{time, timestamp},
    v1,
};

use crate::{
    agent::{Agent, epoch, exited, running},
    jobs::{all_jobs, job, program, submit},
    world::{World, command},
};

fn asks(cpus: u32) -> JobSpec {
    program(|spec| spec.resources.cpus = cpus)
}

async fn explain(world: &World, job_id: u64) -> v1::ExplainJobResponse {
    let request = v1::ExplainJobRequest { job_id };
    let answer = world.jobs().await.explain_job(request).await;
    answer.expect("it is there").into_inner()
}

async fn foresee(world: &World, spec: JobSpec) -> Result<v1::ForeseeJobResponse, tonic::Status> {
    let request = v1::ForeseeJobRequest {
        spec: Some(spec.into()),
    };
    let answer = world.jobs().await.foresee_job(request).await?;
    Ok(answer.into_inner())
}

/// When the trainer of a job started.
async fn started(world: &World, job_id: u64) -> Timestamp {
    until("its trainer runs", async || {
        let job = job(world, job_id).await;
        job.attempts.last()?.started_at.as_ref().map(time)
    })
    .await
}

#[tokio::test]
async fn who_waits_is_told_who_is_in_the_way_how_far_that_is_and_what_would_start_it_now() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let first = submit(&world, asks(3)).await;
    let task = agent.run().await.task.expect("a task");
    let mut data = agent.attach(&world).await;
    // The first of two epochs took a hundred seconds.
    let started = started(&world, first).await;
    let ended = started.plus(Duration::from_secs(100));
    let mut said = epoch(1, &[("loss", 0.5)]);
    if let Record::Progress(progress) = &mut said {
        progress.at = ended;
    }
    data.deliver(task, 1, &[said]).await;
    let waits = submit(&world, asks(4)).await;
    let answer = explain(&world, waits).await;
    let why = answer.explanation.expect("it waits");
    assert_eq!(
        why.reason,
        "waits for cpus: asks for 4, has 1 free on node n1"
    );
    let place = why.place.expect("it has a turn");
    assert_eq!((place.ahead, place.waiting), (0, 1));
    assert!(
        place.because.starts_with("nothing is known yet"),
        "{place:?}"
    );
    let [node] = why.short_nodes.as_slice() else {
        panic!("one node: {:?}", why.short_nodes);
    };
    assert_eq!(
        (node.node.as_str(), node.lacks.as_str()),
        ("n1", "cpus: asks for 4, has 1")
    );
    let [holder] = node.holders.as_slice() else {
        panic!("one job: {node:?}");
    };
    assert_eq!(
        (holder.job_id, holder.epoch, holder.total_epochs),
        (first, 1, 2)
    );
    let ends = ended.plus(Duration::from_secs(100));
    assert_eq!(holder.expected_end, Some(timestamp(ends)));
    let [change] = why.changes.as_slice() else {
        panic!("one change: {:?}", why.changes);
    };
    assert_eq!(
        (
            change.field.as_str(),
            change.from.as_str(),
            change.to.as_str()
        ),
        ("resources.cpus", "4", "1")
    );
    let seconds = |at: Option<prost_types::Timestamp>| at.expect("a moment").seconds;
    assert!(seconds(why.expected_late) >= seconds(why.expected_early));
    assert_eq!(explain(&world, first).await.explanation, None, "it runs");
}

#[tokio::test]
async fn the_same_is_told_over_rest_before_and_after_a_submission() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let asks = |cpus: u32| {
        let mut body = command();
        body["config"]["resources"] = json!({"cpus": cpus});
        body
    };
    let (status, foreseen) = world.post_json("/training/jobs/dry-run", &asks(3)).await;
    assert_eq!((status, &foreseen["nodes"]), (200, &json!(["n1"])));
    assert_eq!(foreseen["explanation"], Value::Null);
    let first = world.submit(&asks(3)).await;
    agent.run().await;
    let (_, foreseen) = world.post_json("/training/jobs/dry-run", &asks(4)).await;
    let words = "waits for cpus: asks for 4, has 1 free on node n1";
    assert_eq!(foreseen["explanation"]["reason"], words, "{foreseen}");
    let (status, refused) = world.post_json("/training/jobs/dry-run", &asks(5)).await;
    // As a submission of it is.
    assert_eq!(status, 400, "{refused}");
    let waits = world.submit(&asks(4)).await;
    let (status, answer) = world.get(&format!("/training/jobs/{waits}/explain")).await;
    assert_eq!((status, &answer["state"]), (200, &json!("queued")));
    let why = &answer["explanation"];
    assert_eq!(why["reason"], words);
    assert_eq!(why["short_nodes"][0]["holders"][0]["job_id"], first);
    let change = json!({"field": "resources.cpus", "from": "4", "to": "1"});
    assert_eq!(why["changes"], json!([change]));
    let (_, answer) = world.get(&format!("/training/jobs/{first}/explain")).await;
    assert_eq!(answer["explanation"], Value::Null, "it runs");
    let (_, list) = world.get("/training/jobs").await;
    assert_eq!(list["jobs"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn where_no_single_change_would_do_those_are_told_that_would_together() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let asks = |cpus: u32, gib: u64| {
        let mut body = command();
        body["config"]["resources"] = json!({"cpus": cpus, "memory": format!("{gib}GiB")});
        body
    };
    let first = world.submit(&asks(3, 5)).await;
    let task = agent.run().await.task.expect("a task");
    assert_eq!(task.job_id, first);
    let waits = world.submit(&asks(4, 8)).await;
    let (_, answer) = world.get(&format!("/training/jobs/{waits}/explain")).await;
    let why = &answer["explanation"];
    assert_eq!(why["changes"], json!([]), "{why}");
    let gib = |gib: u64| (gib << 30).to_string();
    let both = json!([
        {"field": "resources.cpus", "from": "4", "to": "1"},
        {"field": "resources.memory_bytes", "from": gib(8), "to": gib(3)},
    ]);
    assert_eq!(why["together"], both, "{why}");
    assert_eq!(why["more_short_nodes"], 0);
    let why = explain(&world, waits).await.explanation.expect("it waits");
    let fields = why.together.iter().map(|change| change.field.as_str());
    assert_eq!(
        fields.collect::<Vec<_>>(),
        ["resources.cpus", "resources.memory_bytes"]
    );
}

#[tokio::test]
async fn what_would_become_of_a_job_is_told_before_it_is_submitted() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    submit(&world, asks(3)).await;
    agent.run().await;
    let foreseen = foresee(&world, asks(1)).await.expect("it is told");
    assert_eq!(
        (foreseen.nodes, foreseen.explanation),
        (vec!["n1".to_owned()], None)
    );
    let foreseen = foresee(&world, asks(2)).await.expect("it is told");
    assert!(foreseen.nodes.is_empty());
    let before = foreseen.explanation.expect("it would wait");
    let never = foresee(&world, asks(5)).await.expect_err("nobody has five");
    assert_eq!(never.code(), Code::InvalidArgument);
    assert_eq!(all_jobs(&world).await.len(), 1, "nothing was submitted");
    // Submitted, it is told the same; when it is expected to start moves with the clock.
    let waits = submit(&world, asks(2)).await;
    let after = explain(&world, waits).await.explanation;
    let timeless = |mut why: v1::Explanation| {
        why.expected_early = None;
        why.expected_middle = None;
        why.expected_late = None;
        why
    };
    let after = after.expect("it waits");
    assert_eq!(timeless(after), timeless(before));
    let at_once = submit(&world, asks(1)).await;
    let placed = agent.start().await.task.expect("a task");
    assert_eq!(placed.job_id, at_once, "as was foreseen");
}

#[tokio::test]
async fn what_has_ended_is_not_waited_for_by_what_is_not_submitted() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let first = submit(&world, asks(1)).await;
    let after = || program(|spec| spec.after = vec![JobId(first)]);
    let task = agent.run().await.task.expect("a task");
    let foreseen = foresee(&world, after()).await.expect("it is told");
    let words = foreseen.explanation.expect("it waits").reason;
    assert!(words.starts_with("waits for job 1 to succeed"), "{words}");
    agent.report(exited(task, 0, 0)).await;
    assert_eq!(agent.forget().await, task);
    let foreseen = foresee(&world, after()).await.expect("it is told");
    assert_eq!(foreseen.nodes, ["n1"]);
}

#[tokio::test]
async fn to_whom_a_node_is_promised_is_told_to_those_alone_who_may_see_that_job() {
    let world = World::eager().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let asks = |cpus: u32, priority: i32| {
        let mut body = command();
        body["config"]["resources"] = json!({"cpus": cpus});
        body["config"]["preemptible"] = json!(true);
        body["config"]["priority"] = json!(priority);
        body
    };
    let low = world.submit(&asks(3, 0)).await;
    let task = agent.run().await.task.expect("a task");
    agent.report(running(task)).await;
    world.until(low, "running").await;
    let high = world.submit(&asks(4, 900)).await;
    agent.stop().await;
    // One CPU is free, and the urgent job's.
    let (_, ada) = world.somebody("ada", "standard_engineer").await;
    let call = (Method::POST, "/training/jobs");
    let (_, answer) = world.call(&ada, call, asks(1, 0)).await;
    let path = format!("/training/jobs/{}/explain", answer["id"]);
    let told = async |token: &str| {
        let (_, answer) = world.call(token, (Method::GET, &path), Value::Null).await;
        answer["explanation"]["short_nodes"][0].clone()
    };
    let lacks = "cpus: asks for 1, has 0; promised to";
    let node = told(&world.token).await;
    let all = format!("{lacks} job {high}, which waits for job {low} to go");
    assert_eq!((&node["lacks"], &node["others"]), (&json!(all), &json!(0)));
    let node = told(&ada).await;
    let hidden = format!("{lacks} another job, which waits for another job to go");
    let (lacks, others) = (&node["lacks"], &node["others"]);
    assert_eq!((lacks, others), (&json!(hidden), &json!(2)));
}
