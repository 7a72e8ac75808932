//! Nodes that are taken out of service: cordons, drains with a deadline, maintenance windows, by both doors.

use reqwest::Method;
use serde_json::{Value, json};
use tests::wait::until;
use trainyard_proto::v1;

use crate::{
    agent::{Agent, exited, hello, running},
    world::{World, command},
};

async fn node(world: &World, name: &str) -> Value {
    let (status, node) = world.get(&format!("/nodes/{name}")).await;
    assert_eq!(status, 200, "{node}");
    node
}

async fn act(world: &World, path: &str, body: Value) -> Value {
    let (status, answer) = world.post_json(path, &body).await;
    assert!(status == 200 || status == 201, "{status} {answer}");
    answer
}

/// A job that runs on a node.
async fn runs(world: &World, agent: &mut Agent) -> (u64, v1::TaskKey) {
    let id = world.submit(&command()).await;
    let task = agent.run().await.task.unwrap();
    world.until(id, "running").await;
    assert_eq!(task.job_id, id);
    (id, task)
}

/// It has gone as it was told.
fn gone(task: v1::TaskKey) -> v1::TaskReport {
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::Exited.into(),
        end: Some(v1::TaskEnd {
            signal: Some(15),
            stop_cause: v1::StopCause::Preempted.into(),
            ..v1::TaskEnd::default()
        }),
        ..v1::TaskReport::default()
    }
}

/// Told to go, it goes, and goes on at another node.
async fn moves(world: &World, from: &mut Agent, to: &mut Agent, (id, task): (u64, v1::TaskKey)) {
    let stop = from.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(task), v1::StopCause::Preempted)
    );
    from.report(gone(task)).await;
    assert_eq!(from.forget().await, task);
    let again = to.start().await.task.unwrap();
    assert_eq!((again.job_id, again.attempt), (id, 2));
    let request = v1::GetJobRequest { job_id: id };
    let shown = world.jobs().await.get_job(request).await.unwrap();
    let shown = shown.into_inner().job.unwrap();
    let outcome = shown.attempts[0].outcome.as_ref().unwrap();
    assert_eq!(outcome.failure_class(), v1::FailureClass::Infrastructure);
}

#[tokio::test]
async fn a_node_that_is_drained_with_a_deadline_gets_nothing_more_and_is_empty_after_it() {
    let world = World::start().await;
    let mut first = Agent::join(&world, "n1", 1).await;
    let (id, task) = runs(&world, &mut first).await;
    let body = json!({"deadline_seconds": 3_600, "reason": "new fan"});
    let shown = act(&world, "/nodes/n1/drain", body).await;
    assert_eq!(shown["duty"], "draining", "{shown}");
    assert_eq!(shown["at_deadline"], "preempt", "{shown}");
    assert!(shown["drain_deadline"].is_string(), "{shown}");
    assert_eq!(shown["job_ids"], json!([id]));
    let waits = world.submit(&command()).await;
    let mut second = Agent::join(&world, "n2", 1).await;
    let other = second.run().await.task.unwrap();
    assert_eq!(other.job_id, waits, "it does not go to n1");
    second.report(exited(other, 0, 0)).await;
    assert_eq!(second.forget().await, other);
    // The deadline is brought forward.
    let now = json!({"deadline_seconds": 0, "reason": "new fan"});
    act(&world, "/nodes/n1/drain", now).await;
    moves(&world, &mut first, &mut second, (id, task)).await;
    let shown = node(&world, "n1").await;
    assert_eq!(shown["duty"], "drained", "{shown}");
    assert_eq!(
        (&shown["drain_reason"], &shown["drained_by"]),
        (&json!("new fan"), &json!("admin@example.com"))
    );
    let shown = act(&world, "/nodes/n1/resume", Value::Null).await;
    assert_eq!(shown["duty"], "open", "{shown}");
    assert_eq!(shown["drain_deadline"], Value::Null, "{shown}");
    let back = world.submit(&command()).await;
    assert_eq!(first.start().await.task.unwrap().job_id, back);
}

#[tokio::test]
async fn a_drain_goes_on_over_a_restart_and_tells_who_is_left_to_go_at_its_deadline() {
    let world = World::start().await;
    let mut first = Agent::join(&world, "n1", 1).await;
    let (id, task) = runs(&world, &mut first).await;
    let soon = json!({"deadline_seconds": 1, "at_deadline": "wait"});
    act(&world, "/nodes/n1/drain", soon).await;
    let later = json!({"deadline_seconds": 1});
    act(&world, "/nodes/n1/drain", later).await;
    let world = World::on(world.stop().await).await;
    let back = v1::Hello {
        tasks: vec![running(task)],
        ..hello(&world, "n1", 1)
    };
    let mut first = Agent::connect(&world, back).await;
    let mut second = Agent::join(&world, "n2", 1).await;
    // Whether it was told before the restart or not: it is told.
    moves(&world, &mut first, &mut second, (id, task)).await;
    assert_eq!(node(&world, "n1").await["duty"], "drained");
}

#[tokio::test]
async fn a_cordon_lifts_a_deadline_and_a_drain_that_waits_tells_who_is_left() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let (id, task) = runs(&world, &mut agent).await;
    let waits = json!({"deadline_seconds": 0, "at_deadline": "wait"});
    let shown = act(&world, "/nodes/n1/drain", waits).await;
    assert_eq!(
        (&shown["duty"], &shown["at_deadline"]),
        (&json!("draining"), &json!("wait"))
    );
    let request = v1::GetNodeRequest { name: "n1".into() };
    let wire = world.nodes().await.get_node(request).await.unwrap();
    let wire = wire.into_inner().node.unwrap();
    assert_eq!(
        (wire.duty(), wire.at_deadline()),
        (v1::NodeDuty::Draining, v1::AtDeadline::Wait)
    );
    assert_eq!(wire.job_ids, [id]);
    let shown = act(&world, "/nodes/n1/cordon", json!({})).await;
    assert_eq!(
        (&shown["duty"], &shown["drain_deadline"]),
        (&json!("draining"), &Value::Null)
    );
    assert_eq!(shown["drain_reason"], "drained by admin@example.com");
    agent.report(exited(task, 0, 0)).await;
    // It was told nothing but this.
    assert_eq!(agent.forget().await, task);
    until("nobody is left", async || {
        (node(&world, "n1").await["duty"] == "drained").then_some(())
    })
    .await;
    let (status, refused) = world
        .post_json("/nodes/n1/drain", &json!({"at_deadline": "wait"}))
        .await;
    let words = "at_deadline: is given without a deadline; give one";
    assert_eq!((status, &refused["detail"]), (400, &json!(words)));
}

#[tokio::test]
async fn a_window_that_begins_now_empties_its_node_is_explained_and_is_over_when_it_is_taken_back()
{
    let world = World::start().await;
    let mut first = Agent::join(&world, "n1", 1).await;
    let (id, task) = runs(&world, &mut first).await;
    let body = json!({"nodes": ["n1"], "length_seconds": 3_600, "why": "new fan"});
    let window = act(&world, "/maintenance", body).await;
    assert_eq!((&window["state"], &window["id"]), (&json!("on"), &json!(1)));
    let stop = first.stop().await;
    assert_eq!(stop.cause(), v1::StopCause::Preempted);
    first.report(gone(task)).await;
    assert_eq!(first.forget().await, task);
    let request = v1::ExplainJobRequest { job_id: id };
    let why = world.jobs().await.explain_job(request).await.unwrap();
    let why = why.into_inner().explanation.unwrap();
    assert!(
        why.reason.contains("; maintenance of node n1 until "),
        "{}",
        why.reason
    );
    assert!(why.reason.ends_with(" UTC (new fan)"), "{}", why.reason);
    let world = World::on(world.stop().await).await;
    let mut first = Agent::join(&world, "n1", 1).await;
    let shown = node(&world, "n1").await;
    assert_eq!(
        (&shown["duty"], &shown["maintenance"]["id"]),
        (&json!("drained"), &json!(1))
    );
    a_longer_one_besides(&world).await;
    let (_, windows) = world.get("/maintenance").await;
    assert_eq!(windows[0]["why"], "new fan", "{windows}");
    let removed = (Method::DELETE, "/maintenance/1");
    let (status, answer) = world.call(&world.token, removed, Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(first.start().await.task.unwrap().job_id, id);
    let (status, _) = world
        .call(
            &world.token,
            (Method::DELETE, "/maintenance/1"),
            Value::Null,
        )
        .await;
    assert_eq!(status, 404);
    removals_are_told(&world).await;
}

/// It is the one that is named, and neither is undone by an operator.
async fn a_longer_one_besides(world: &World) {
    let longer = json!({"nodes": ["n1"], "length_seconds": 7_200, "why": "new switch"});
    let longer = act(world, "/maintenance", longer).await;
    let shown = act(world, "/nodes/n1/resume", Value::Null).await;
    let told = &shown["maintenance"];
    assert_eq!(
        (&shown["duty"], &told["id"], &told["others"]),
        (&json!("drained"), &json!(2), &json!([1])),
        "{shown}"
    );
    assert_eq!(told["closed_until"], longer["until"]);
    let drained = act(world, "/nodes/n1/cordon", json!({"reason": "bad disk"})).await;
    let both = drained["drain_reason"].as_str().unwrap();
    let words = "bad disk; maintenance of node n1 until ";
    assert!(
        both.starts_with(words) && both.ends_with("(new switch)"),
        "{both}"
    );
    act(world, "/nodes/n1/resume", Value::Null).await;
    let removed = (Method::DELETE, "/maintenance/2");
    let (status, _) = world.call(&world.token, removed, Value::Null).await;
    assert_eq!(status, 200);
}

/// By whom, too, and who had to go for it.
async fn removals_are_told(world: &World) {
    let (_, told) = world.get("/events?node=n1").await;
    let told = told["events"].as_array().unwrap().iter();
    let words = |kind: &str| {
        let told = told.clone().filter(|event| event["kind"] == kind);
        let words = told.map(|event| event["words"].as_str().unwrap().to_owned());
        words.collect::<Vec<_>>()
    };
    let planned = words("maintenance_planned");
    let by = "maintenance 1, admin@example.com";
    assert!(
        planned.len() == 2 && planned[0].starts_with(by),
        "{planned:?}"
    );
    let vacates = words("vacates");
    let why = vacates
        .first()
        .is_some_and(|words| words.contains("new fan"));
    assert!(vacates.len() == 1 && why, "{vacates:?}");
    let told = told.filter(|event| event["kind"] == "maintenance_removed");
    let told: Vec<_> = told.map(|event| event["words"].as_str().unwrap()).collect();
    let by = "maintenance 2, admin@example.com has taken back what admin@example.com planned: ";
    assert!(told.len() == 2 && told[0].starts_with(by), "{told:?}");
}

#[tokio::test]
async fn a_job_that_would_reach_into_a_window_is_told_which_and_by_which_limit_it_would_start() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let labelled = (Method::PATCH, "/nodes/n1/labels");
    let (status, _) = world
        .call(&world.token, labelled, json!({"set": {"rack": "1"}}))
        .await;
    assert_eq!(status, 200);
    let from = trainyard_coordinator::clock::now().plus(std::time::Duration::from_secs(5_400));
    let from = format!("{}Z", from.to_naive_iso());
    let body =
        json!({"labels": ["rack=1"], "from": from, "length_seconds": 600, "why": "new switch"});
    let window = act(&world, "/maintenance", body).await;
    assert_eq!(window["warnings"], json!([]), "{window}");
    let nowhere = json!({"labels": ["rack=9"], "from": from, "length_seconds": 600});
    let window = act(&world, "/maintenance", nowhere).await;
    let warning = window["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("no node has rack=9 now: "), "{window}");
    let mut long = command();
    long["config"]["time_limit_seconds"] = json!(7_200);
    let long = world.submit(&long).await;
    let request = v1::ExplainJobRequest { job_id: long };
    let why = world.jobs().await.explain_job(request).await.unwrap();
    let why = why.into_inner().explanation.unwrap();
    assert!(
        why.reason
            .starts_with("waits for the maintenance of node n1 from "),
        "{}",
        why.reason
    );
    assert!(
        why.short_nodes[0].lacks.starts_with("maintenance from "),
        "{why:?}"
    );
    let limit = why
        .changes
        .iter()
        .find(|change| change.field == "time_limit");
    assert_eq!(limit.unwrap().to, "5220 s");
    let mut short = command();
    short["config"]["time_limit_seconds"] = json!(5_220);
    let short = world.submit(&short).await;
    assert_eq!(agent.start().await.task.unwrap().job_id, short);
}
