//! What was decided, read back at both doors, also after a restart and as it happens.

use reqwest::Method;
use serde_json::{Value, json};
use tests::wait::until;
use tonic::{service::interceptor::InterceptedService, transport::Channel};
use trainyard_core::{resources::ResourceRequest, spec::JobSpec};
use trainyard_proto::v1::{
    self, job_service_client::JobServiceClient, report_service_client::ReportServiceClient,
};

use crate::{
    agent::{Agent, exited, running},
    world::{Bearer, World, command},
};

/// Each with its kind, what it is about and its words.
async fn events(world: &World, token: &str, query: &str) -> Vec<Value> {
    let path = format!("/events?limit=1000&{query}");
    let call = (Method::GET, path.as_str());
    let (status, answer) = world.call(token, call, Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["next_cursor"], Value::Null);
    answer["events"].as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["kind"].as_str().unwrap());
    kinds.collect()
}

async fn of_job(world: &World, job: u64, kinds_wanted: &[&str]) -> Vec<Value> {
    as_seen(world, &world.token, (job, kinds_wanted)).await
}

async fn as_seen(world: &World, token: &str, (job, kinds_wanted): (u64, &[&str])) -> Vec<Value> {
    let query = format!("job_id={job}");
    until(&format!("job {job} has {kinds_wanted:?}"), async || {
        let found = events(world, token, &query).await;
        (kinds(&found) == kinds_wanted).then_some(found)
    })
    .await
}

fn asks(cpus: u32, more: &Value) -> Value {
    let mut body = command();
    let config = body["config"].as_object_mut().unwrap();
    config.insert("resources".to_owned(), json!({"cpus": cpus}));
    config.extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_job_that_waits_is_noted_with_its_reason_its_place_and_its_end_and_they_outlive_a_restart()
 {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let first = world.submit(&asks(3, &json!({}))).await;
    let task = agent.run().await.task.unwrap();
    let second = world.submit(&asks(4, &json!({}))).await;
    let third = world.submit(&asks(4, &json!({"after": [first]}))).await;
    of_job(&world, second, &["accepted", "waits"]).await;
    of_job(&world, third, &["accepted", "waits"]).await;
    agent.report(running(task)).await;
    agent.report(exited(task, 0, 0)).await;
    world.until(first, "completed").await;
    let told = of_job(&world, first, &["accepted", "placed", "completed"]).await;
    assert_eq!(told[0]["words"], "submitted by admin@example.com");
    let placed = &told[1];
    assert_eq!(placed["nodes"], json!(["n1"]));
    assert_eq!(placed["words"], "the first in the order that fitted");
    assert_eq!(
        (&placed["job_id"], &placed["attempt"]),
        (&json!(first), &json!(1))
    );
    of_job(&world, second, &["accepted", "waits", "placed"]).await;
    let told = of_job(
        &world,
        third,
        &["accepted", "waits", "let_through", "waits"],
    )
    .await;
    assert_eq!(
        told[1]["words"],
        format!("waits for job {first} to succeed")
    );
    let world = World::on(world.stop().await).await;
    let told = events(&world, &world.token, &format!("job_id={second}")).await;
    assert_eq!(kinds(&told), ["accepted", "waits", "placed"]);
    let words = told[1]["words"].as_str().unwrap();
    assert!(words.starts_with("waits for cpus: asks for 4"), "{words}");
    // Numbers go on where they were.
    let ids: Vec<_> = events(&world, &world.token, "").await;
    let ids: Vec<_> = ids.iter().map(|event| event["id"].as_u64()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

/// Why a job waits, as somebody reads it by itself and in a list.
async fn reason(world: &World, token: &str, job_id: u64) -> String {
    let bearer = Bearer(token.to_owned());
    let mut jobs = JobServiceClient::with_interceptor(world.channel().await, bearer);
    let request = v1::GetJobRequest { job_id };
    let one = jobs.get_job(request).await.unwrap().into_inner().job;
    let request = v1::ListJobsRequest::default();
    let all = jobs.list_jobs(request).await.unwrap().into_inner().jobs;
    let listed = all.into_iter().find(|job| job.job_id == job_id).unwrap();
    assert_eq!(one.unwrap().reason, listed.reason);
    listed.reason
}

#[tokio::test]
async fn who_makes_room_and_for_whom_is_noted_at_both() {
    let world = World::eager().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let (_, ada) = world.somebody("ada", "standard_engineer").await;
    let call = (Method::POST, "/training/jobs");
    let body = asks(4, &json!({"preemptible": true}));
    let (_, answer) = world.call(&ada, call, body).await;
    let low = answer["id"].as_u64().unwrap();
    let task = agent.run().await.task.unwrap();
    agent.report(running(task)).await;
    world.until(low, "running").await;
    let high = world.submit(&asks(4, &json!({"priority": 900}))).await;
    agent.stop().await;
    let told = of_job(&world, low, &["accepted", "placed", "makes_room"]).await;
    assert_eq!(told[2]["for_job_id"], json!(high));
    assert_eq!(told[2]["words"], format!("job {high} needs its place"));
    // Of another one's job no more is told than that there is one.
    let reasons = async |token: &str| reason(&world, token, low).await;
    let leaves = "saves its work, and goes on later";
    let told = reasons(&ada).await;
    assert_eq!(told, format!("makes room for another job: {leaves}"));
    let told = reasons(&world.token).await;
    assert_eq!(told, format!("makes room for job {high}: {leaves}"));
    let told = events(&world, &ada, &format!("job_id={low}")).await;
    assert_eq!(kinds(&told), ["accepted", "placed", "makes_room"]);
    assert_eq!(
        (&told[2]["for_job_id"], &told[2]["words"]),
        (&Value::Null, &json!("another job needs its place"))
    );
    // It is about the one who gets the place, too.
    let told = events(&world, &world.token, &format!("job_id={high}")).await;
    assert!(kinds(&told).contains(&"makes_room"), "{told:?}");
    agent.report(exited(task, 143, 0)).await;
    of_job(
        &world,
        low,
        &["accepted", "placed", "makes_room", "preempted", "waits"],
    )
    .await;
    let placed = until("it has its place", async || {
        let told = events(&world, &world.token, &format!("job_id={high}")).await;
        told.into_iter().find(|event| event["kind"] == "placed")
    })
    .await;
    assert_eq!(placed["words"], "other jobs have made room for it");
    let told = reasons(&ada).await;
    let before = "made room for another job, and goes on when there is room; waits for ";
    assert!(told.starts_with(before), "{told}");
    let told = reasons(&world.token).await;
    assert!(
        told.starts_with(&format!("made room for job {high}, ")),
        "{told}"
    );
}

#[tokio::test]
async fn where_everybody_reads_jobs_everybody_reads_what_was_decided_about_them() {
    let world = World::with(|config| config.auth.open_reads = true).await;
    let job = world.submit(&asks(1, &json!({}))).await;
    let (_, eve) = world.somebody("eve", "guest").await;
    as_seen(&world, &eve, (job, &["accepted", "waits"])).await;
}

#[tokio::test]
async fn a_node_that_is_drained_is_noted_once_and_shown_to_whoever_sees_nodes() {
    let world = World::start().await;
    let _agent = Agent::join(&world, "n1", 4).await;
    let mut nodes = world.nodes().await;
    for reason in ["new disk", "new disk"] {
        let request = v1::DrainRequest {
            name: "n1".into(),
            reason: reason.into(),
            ..v1::DrainRequest::default()
        };
        nodes.drain(request).await.unwrap();
    }
    let request = v1::ResumeRequest { name: "n1".into() };
    nodes.resume(request).await.unwrap();
    let told = events(&world, &world.token, "node=n1").await;
    assert_eq!(kinds(&told), ["drained", "resumed"]);
    assert_eq!(told[0]["words"], "admin@example.com: new disk");
    let resumed = "admin@example.com wants it to get jobs again";
    assert_eq!(told[1]["words"], resumed);
    let (_, ada) = world.somebody("ada", "standard_engineer").await;
    assert_eq!(events(&world, &ada, "").await.len(), 2);
    let (_, guest) = world.somebody("guest", "guest").await;
    assert_eq!(events(&world, &guest, "").await.len(), 0);
    assert_eq!(events(&world, &world.token, "node=n2").await.len(), 0);
    // A submission that nothing could ever hold is noted for those who operate the cluster.
    let (status, _) = world
        .post_json("/training/jobs", &asks(99, &json!({})))
        .await;
    assert_eq!(status, 400);
    let told = until("the refusal is noted", async || {
        let told = events(&world, &world.token, "").await;
        (told.len() == 3).then_some(told)
    })
    .await;
    assert_eq!(
        (&told[2]["kind"], &told[2]["job_id"]),
        (&json!("refused"), &Value::Null)
    );
    assert_eq!(events(&world, &ada, "").await.len(), 2);
    let later = events(&world, &world.token, "since=2999-01-01T00:00:00Z").await;
    assert_eq!(later.len(), 0);
}

#[tokio::test]
async fn a_submission_for_which_a_limit_leaves_no_room_is_noted_once_for_each_limit() {
    let world = World::with(|config| {
        let limited = trainyard_coordinator::config::ProjectConfig {
            queued: Some(1),
            ..Default::default()
        };
        for project in ["1", "2"] {
            config.scheduling.projects.insert(project.into(), limited);
        }
        config.limits.open_jobs = 3;
    })
    .await;
    let (vision, speech) = (world.project("vision").await, world.project("speech").await);
    let of = |project: i64| {
        let mut body = asks(1, &json!({}));
        body["project_id"] = json!(project);
        body
    };
    let (of_vision, of_speech) = (of(vision), of(speech));
    let plain = asks(1, &json!({}));
    let (mut accepted, mut refused) = (0, 0);
    for body in [
        &of_vision, &of_vision, &of_vision, &of_speech, &of_speech, &plain, &plain, &plain,
    ] {
        match world.post_json("/training/jobs", body).await {
            (429, _) => refused += 1,
            (status, answer) => {
                assert_eq!(status, 200, "{answer}");
                accepted += 1;
            }
        }
    }
    assert_eq!((accepted, refused), (3, 5));
    let told = until("each limit is noted", async || {
        let mut told = events(&world, &world.token, "").await;
        told.retain(|event| event["kind"] == "refused");
        (told.len() == 3).then_some(told)
    })
    .await;
    let limits = [
        "scheduling.projects.1.queued",
        "scheduling.projects.2.queued",
        "limits.open_jobs",
    ];
    for (event, limit) in told.iter().zip(limits) {
        let words = event["words"].as_str().unwrap();
        assert!(
            words.starts_with("admin@example.com asked in vain: "),
            "{words}"
        );
        assert!(words.contains(limit), "{words}");
    }
}

#[tokio::test]
async fn what_is_decided_is_followed_as_it_is_stored_and_pages_go_on() {
    let world = World::start().await;
    let bearer = Bearer(world.token.clone());
    let mut reports = ReportServiceClient::with_interceptor(world.channel().await, bearer);
    let request = v1::StreamEventsRequest::default();
    let mut stream = reports.stream_events(request).await.unwrap().into_inner();
    let spec = JobSpec {
        framework: "command".into(),
        command: vec!["train".into()],
        resources: ResourceRequest {
            cpus: 1,
            ..ResourceRequest::default()
        },
        ..JobSpec::default()
    };
    for _ in 0..3 {
        let request = v1::SubmitJobRequest {
            spec: Some(spec.clone().into()),
            ..v1::SubmitJobRequest::default()
        };
        world.jobs().await.submit_job(request).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = tokio::time::timeout(crate::world::PATIENCE, stream.message());
        let message = message.await.unwrap().unwrap().unwrap();
        seen.extend(message.events.into_iter().map(|event| event.event_id));
    }
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(paged(&mut reports, (0, 2)).await, [1, 2, 3]);
    // Of a job its acceptance comes first, and once, however small the pages are.
    assert_eq!(paged(&mut reports, (1, 1)).await, [0, 1]);
    let request = v1::StreamEventsRequest {
        job_id: 1,
        after_event_id: Some(0),
        ..v1::StreamEventsRequest::default()
    };
    let mut stream = reports.stream_events(request).await.unwrap().into_inner();
    let message = tokio::time::timeout(crate::world::PATIENCE, stream.message());
    let message = message.await.unwrap().unwrap().unwrap();
    assert_eq!(
        message.events[0].event_id, 1,
        "it goes on behind the acceptance"
    );
}

type Reports = ReportServiceClient<InterceptedService<Channel, Bearer>>;

async fn paged(reports: &mut Reports, (job_id, page_size): (u64, u32)) -> Vec<u64> {
    let mut page_token = String::new();
    let mut paged = Vec::new();
    loop {
        let request = v1::ListEventsRequest {
            job_id,
            page_size,
            page_token,
            ..v1::ListEventsRequest::default()
        };
        let page = reports.list_events(request).await.unwrap().into_inner();
        assert!(page.events.len() <= usize::try_from(page_size).unwrap());
        paged.extend(page.events.into_iter().map(|event| event.event_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return paged;
        }
    }
}
