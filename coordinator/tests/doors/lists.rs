//! Lists of jobs: how much one answer holds and looks at, and that what is bounded goes on.

use reqwest::Method;
use serde_json::{Value, json};
use trainyard_proto::v1;

use crate::{
    agent::Agent,
    world::{World, command, yolo},
};

/// Numbers of the jobs of an answer.
fn ids(jobs: &Value) -> Vec<u64> {
    let jobs = jobs.as_array().unwrap().iter();
    jobs.map(|job| job["id"].as_u64().unwrap()).collect()
}

/// Every page of a list: how many jobs each has, and all of them.
async fn pages(world: &World, token: &str, query: &str) -> (Vec<usize>, Vec<u64>) {
    let (mut sizes, mut all) = (Vec::new(), Vec::new());
    let mut cursor = String::new();
    loop {
        let path = format!("/training/jobs?{query}{cursor}");
        let (status, page) = world.call(token, (Method::GET, &path), Value::Null).await;
        assert_eq!(status, 200, "{page}");
        let found = ids(&page["jobs"]);
        sizes.push(found.len());
        all.extend(found);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (sizes, all),
        }
    }
}

#[tokio::test]
async fn whoever_may_read_few_jobs_has_few_looked_at_and_goes_on_through_empty_pages() {
    let world = World::with(|config| config.limits.page_rows = 2).await;
    let (_, guest) = world.somebody("guest", "guest").await;
    let (_, ada) = world.somebody("ada", "standard_engineer").await;
    let path = (Method::POST, "/training/jobs");
    let (_, first) = world.call(&ada, path, command()).await;
    for _ in 0..44 {
        world.submit(&command()).await;
    }
    assert_eq!(pages(&world, &guest, "").await, (vec![0, 0, 0], vec![]));
    let own = vec![first["id"].as_u64().unwrap()];
    assert_eq!(pages(&world, &ada, "").await, (vec![0, 0, 1], own.clone()));
    let (_, all) = pages(&world, &world.token, "limit=2").await;
    assert_eq!(all.len(), 45);

    let mut jobs = world.jobs_of(&ada).await;
    let mut token = String::new();
    let mut found = Vec::new();
    loop {
        let request = v1::ListJobsRequest {
            page_token: token,
            ..v1::ListJobsRequest::default()
        };
        let page = jobs.list_jobs(request).await.unwrap().into_inner();
        found.extend(page.jobs.iter().map(|job| job.job_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, own);
}

#[tokio::test]
async fn a_page_of_jobs_ends_by_their_text_and_a_projects_jobs_are_sent_as_they_are_read() {
    let world = World::start().await;
    let project = world.project("notes").await;
    let mut body = command();
    body["project_id"] = json!(project);
    // Whatever holds much text.
    let much: Vec<_> = (0..5)
        .map(|n| (format!("K{n}"), "x".repeat(90_000)))
        .collect();
    body["config"]["environment"] = Value::Object(
        much.into_iter()
            .map(|(key, text)| (key, json!(text)))
            .collect(),
    );
    let mut expected = Vec::new();
    for _ in 0..24 {
        expected.push(world.submit(&body).await);
    }
    expected.reverse();
    let (sizes, all) = pages(&world, &world.token, "limit=100").await;
    assert_eq!(all, expected);
    assert!(sizes.len() > 1 && sizes[0] > 1, "{sizes:?}");

    let path = format!("/projects/{project}/experiments");
    let (status, listed) = world.get(&path).await;
    assert_eq!((status, ids(&listed)), (200, expected.clone()));
    let head = world.plain(Method::GET, &path).bearer_auth(&world.token);
    let answer = head.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(answer.content_length().is_none(), "it is sent in parts");

    // A message of gRPC is one that clients take.
    let mut jobs = world.jobs().await;
    let page = jobs.list_jobs(v1::ListJobsRequest::default()).await;
    let page = page.unwrap().into_inner();
    assert!(page.jobs.len() < expected.len() && !page.next_page_token.is_empty());
}

#[tokio::test]
async fn a_project_without_jobs_has_an_empty_list() {
    let world = World::start().await;
    let project = world.project("empty").await;
    let listed = world.get(&format!("/projects/{project}/experiments")).await;
    assert_eq!(listed, (200, json!([])));
    assert_eq!(world.get("/projects/77/experiments").await.0, 404);
}

#[tokio::test]
async fn a_stop_that_takes_long_does_not_say_that_the_job_has_stopped() {
    let world = World::start().await;
    // One that waits ends at once.
    let waits = world.submit(&command()).await;
    let (_, answer) = world.post(&format!("/training/stop/{waits}")).await;
    let words = format!("Training job {waits} stopped");
    assert_eq!(answer["message"], json!(words));
    let mut agent = Agent::join(&world, "n1", 4).await;
    let mut body = yolo();
    body["config"]["grace_period_seconds"] = json!(1);
    let job = world.submit(&body).await;
    agent.run().await;
    let (status, answer) = world.post(&format!("/training/stop/{job}")).await;
    assert_eq!((status, &answer["status"]), (200, &json!("stopped")));
    let words = answer["message"].as_str().unwrap();
    assert!(words.contains("is being stopped and is still"), "{words}");
}
