//! Who may read, change and submit which job, through both doors.

use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;
use trainyard_proto::v1;

use crate::world::{World, command};

const READS: [&str; 8] = [
    "/training/jobs/{}",
    "/training/jobs/{}/status",
    "/training/jobs/{}/metrics",
    "/training/jobs/{}/metric-schema",
    "/training/jobs/{}/logs",
    "/training/jobs/{}/checkpoints",
    "/validation/jobs/{}/results",
    "/validation/jobs/{}/summary",
];
const CHANGES: [&str; 4] = [
    "/training/jobs/{}/cancel",
    "/training/jobs/{}/restart",
    "/training/jobs/{}/start",
    "/training/stop/{}",
];

/// A project with a viewer, a member and one who is in none, and a job of it.
struct Cast {
    world: World,
    project: i64,
    job: u64,
    viewer: String,
    member: String,
    stranger: String,
}

impl Cast {
    async fn new() -> Self {
        let world = World::start().await;
        let project = world.project("vision").await;
        let (viewer_id, viewer) = world.somebody("viewer", "standard_engineer").await;
        let (member_id, member) = world.somebody("member", "standard_engineer").await;
        let (_, stranger) = world.somebody("stranger", "advanced_engineer").await;
        world.member(project, viewer_id, "viewer").await;
        world.member(project, member_id, "member").await;
        let mut body = command();
        body["project_id"] = json!(project);
        let job = world.submit(&body).await;
        Self {
            world,
            project,
            job,
            viewer,
            member,
            stranger,
        }
    }

    async fn call(&self, method: Method, path: &str, token: &str) -> (u16, Value) {
        let path = path.replace("{}", &self.job.to_string());
        self.world.call(token, (method, &path), Value::Null).await
    }

    async fn submit(&self, token: &str, project: Option<i64>) -> (u16, Value) {
        let mut body = command();
        body["project_id"] = json!(project);
        let request = self.world.plain(Method::POST, "/training/jobs");
        self.world
            .send(request.bearer_auth(token).json(&body))
            .await
    }
}

fn no_job() -> (u16, Value) {
    (404, json!({"detail": "Training job not found"}))
}

#[tokio::test]
async fn who_is_not_in_the_project_sees_no_trace_of_its_jobs() {
    let cast = Cast::new().await;
    for path in READS {
        let answer = cast.call(Method::GET, path, &cast.stranger).await;
        assert_eq!(answer, no_job(), "{path}");
    }
    for path in CHANGES {
        let answer = cast.call(Method::POST, path, &cast.stranger).await;
        assert_eq!(answer, no_job(), "{path}");
    }
    let none = (404, json!({"detail": "Project not found"}));
    let experiments = format!("/projects/{}/experiments", cast.project);
    let answer = cast.call(Method::GET, &experiments, &cast.stranger).await;
    assert_eq!(answer, none);
    assert_eq!(cast.submit(&cast.stranger, Some(cast.project)).await, none);
    assert_eq!(cast.submit(&cast.stranger, Some(77)).await, none);
    let (_, listed) = cast
        .call(Method::GET, "/training/jobs", &cast.stranger)
        .await;
    assert_eq!(listed["jobs"], json!([]));
    let (status, own) = cast.submit(&cast.stranger, None).await;
    assert_eq!(status, 200);
    let (_, listed) = cast
        .call(Method::GET, "/training/jobs", &cast.stranger)
        .await;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(listed["jobs"][0]["id"], own["id"]);
    let path = format!("/training/jobs/{}", own["id"]);
    let answer = cast.call(Method::GET, &path, &cast.member).await;
    assert_eq!(answer, no_job());
}

#[tokio::test]
async fn a_viewer_reads_and_a_member_also_changes_and_submits() {
    let cast = Cast::new().await;
    for path in READS {
        for token in [&cast.viewer, &cast.member] {
            let (status, answer) = cast.call(Method::GET, path, token).await;
            assert_eq!(status, 200, "{path} {answer}");
        }
    }
    for path in CHANGES {
        let (status, answer) = cast.call(Method::POST, path, &cast.viewer).await;
        assert_eq!(status, 403, "{path}");
        let words = answer["detail"].as_str().unwrap();
        assert!(words.contains("may not change this job"), "{words}");
    }
    assert_eq!(cast.submit(&cast.viewer, Some(cast.project)).await.0, 403);
    let (status, job) = cast.submit(&cast.member, Some(cast.project)).await;
    assert_eq!((status, &job["project_name"]), (200, &json!("vision")));
    let (_, listed) = cast.call(Method::GET, "/training/jobs", &cast.viewer).await;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 2);
    let (status, job) = cast.call(Method::POST, CHANGES[0], &cast.member).await;
    assert_eq!((status, &job["status"]), (200, &json!("cancelled")));
}

#[tokio::test]
async fn the_grpc_door_lets_the_same_people_through() {
    let cast = Cast::new().await;
    let job_id = cast.job;
    let mut stranger = cast.world.jobs_of(&cast.stranger).await;
    let refused = [
        stranger.get_job(v1::GetJobRequest { job_id }).await.err(),
        stranger
            .cancel_job(v1::CancelJobRequest {
                job_id,
                ..Default::default()
            })
            .await
            .err(),
        stranger
            .watch_job(v1::WatchJobRequest { job_id })
            .await
            .err(),
        stranger
            .list_metrics(v1::ListMetricsRequest {
                job_id,
                ..v1::ListMetricsRequest::default()
            })
            .await
            .err(),
        stranger
            .stream_metrics(v1::StreamMetricsRequest {
                job_id,
                ..v1::StreamMetricsRequest::default()
            })
            .await
            .err(),
        stranger
            .list_logs(v1::ListLogsRequest {
                job_id,
                ..v1::ListLogsRequest::default()
            })
            .await
            .err(),
        stranger
            .stream_logs(v1::StreamLogsRequest {
                job_id,
                ..v1::StreamLogsRequest::default()
            })
            .await
            .err(),
    ];
    for (number, status) in refused.into_iter().enumerate() {
        assert_eq!(status.unwrap().code(), Code::NotFound, "call {number}");
    }
    let listed = stranger.list_jobs(v1::ListJobsRequest::default()).await;
    assert!(listed.unwrap().into_inner().jobs.is_empty());
    let mut viewer = cast.world.jobs_of(&cast.viewer).await;
    viewer.get_job(v1::GetJobRequest { job_id }).await.unwrap();
    let refused = viewer
        .cancel_job(v1::CancelJobRequest {
            job_id,
            ..Default::default()
        })
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_an_admin_takes_nodes_out_of_service() {
    let cast = Cast::new().await;
    let channel = cast.world.channel().await;
    let bearer = crate::world::Bearer(cast.member.clone());
    let mut nodes = v1::node_service_client::NodeServiceClient::with_interceptor(channel, bearer);
    nodes.list_nodes(v1::ListNodesRequest {}).await.unwrap();
    let drain = v1::DrainRequest {
        name: "n1".into(),
        ..Default::default()
    };
    let refused = nodes.drain(drain).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let resume = v1::ResumeRequest { name: "n1".into() };
    let refused = nodes.resume(resume).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
