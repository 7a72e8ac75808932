//! The gRPC door: refusals with details, pages, reflection, health.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;
use trainyard_proto::{
    convert::duration,
    v1::{
        self, connect_request::Frame, job_service_client::JobServiceClient,
        node_service_client::NodeServiceClient, user_service_client::UserServiceClient,
    },
};

use crate::{
    agent::{Agent, Stream, hello},
    world::{Bearer, World, command, yolo},
};

fn submission(spec: v1::JobSpec, key: &str) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        spec: Some(spec),
        idempotency_key: key.to_owned(),
    }
}

fn spec() -> v1::JobSpec {
    let core = trainyard_core::spec::JobSpec {
        framework: "command".into(),
        command: vec!["/bin/true".into()],
        ..trainyard_core::spec::JobSpec::default()
    };
    core.into()
}

#[tokio::test]
async fn every_bad_field_is_a_violation_of_the_request() {
    let world = World::start().await;
    let bad = v1::JobSpec {
        framework: "pytorch".into(),
        epochs: 0,
        batch_size: 1,
        learning_rate: f64::NAN,
        time_limit: Some(duration(Duration::ZERO)),
        ..v1::JobSpec::default()
    };
    let mut jobs = world.jobs().await;
    let status = jobs.submit_job(submission(bad, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_details_bad_request().unwrap();
    let violations = details.field_violations.iter();
    let fields: Vec<_> = violations.map(|found| found.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.framework",
            "spec.model_name",
            "spec.task_type",
            "spec.dataset_path",
            "spec.epochs",
            "spec.learning_rate",
            "spec.time_limit",
        ]
    );
}

#[tokio::test]
async fn a_call_without_a_good_token_is_refused() {
    let world = World::start().await;
    let channel = world.channel().await;
    let request = || v1::GetJobRequest { job_id: 1 };
    let mut nobody = JobServiceClient::new(channel.clone());
    let status = nobody.get_job(request()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "Not authenticated")
    );
    let bearer = Bearer("x.y.z".into());
    let mut forger = JobServiceClient::with_interceptor(channel.clone(), bearer);
    let status = forger.get_job(request()).await.unwrap_err();
    let words = "Could not validate credentials";
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, words)
    );
    let mut nodes = NodeServiceClient::new(channel);
    let status = nodes.list_nodes(v1::ListNodesRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_agent_with_a_wrong_token_or_name_is_refused_with_the_way_out() {
    let world = World::start().await;
    let refused = async |change: fn(&mut v1::Hello)| {
        let mut hello = hello(&world, "n1", 1);
        change(&mut hello);
        let stream = Stream::open(&world, Frame::Hello(hello)).await;
        stream.err().expect("a refusal")
    };
    let status = refused(|hello| hello.token = "wrong".into()).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(
        status.message().contains("trainyard node token"),
        "{status}"
    );
    assert!(status.message().contains("file join-token"), "{status}");
    let status = refused(|hello| hello.node_name = "a b".into()).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = refused(|hello| hello.protocol_version = 9).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let _first = Agent::join(&world, "n1", 1).await;
    let status = refused(|hello| hello.agent_id = "of-another".into()).await;
    assert_eq!(status.code(), Code::AlreadyExists);
    let attach = v1::Attach {
        node_name: "n1".into(),
        session: 99,
        token: world.join_token.clone(),
    };
    let stale = Stream::open(&world, Frame::Attach(attach)).await.err();
    assert_eq!(stale.unwrap().code(), Code::Aborted);
}

#[tokio::test]
async fn a_job_larger_than_any_node_is_refused_with_the_reason_and_the_largest() {
    let world = World::start().await;
    let _small = Agent::join(&world, "small", 2).await;
    let _large = Agent::join(&world, "large", 4).await;
    let mut large = spec();
    large.resources = Some(v1::ResourceRequest {
        cpus: 5,
        ..v1::ResourceRequest::default()
    });
    let status = world
        .jobs()
        .await
        .submit_job(submission(large, ""))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let words = "no node could ever hold the job: cpus: asks for 5, has 4; the nearest is large with 4 CPUs, 8 GiB, no GPU";
    assert!(status.message().ends_with(words), "{status}");
    let mut body = command();
    body["config"]["resources"] = serde_json::json!({"cpus": 5});
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(
        (status, &answer["detail"]),
        (400, &serde_json::json!(format!("resources: {words}")))
    );
}

#[tokio::test]
async fn reflection_lists_every_service_and_health_says_serving() {
    let world = World::start().await;
    let channel = world.channel().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let answers = reflection
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in ["AgentService", "AuthService", "JobService", "NodeService"] {
        let name = format!("trainyard.v1.{name}");
        assert!(names.contains(&name.as_str()), "{name} is not in {names:?}");
    }
    let mut health = HealthClient::new(channel);
    for service in ["", "trainyard.v1.JobService"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1);
    }
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_job_again() {
    let world = World::start().await;
    let mut jobs = world.jobs().await;
    let mut submit = async |key| {
        let answer = jobs.submit_job(submission(spec(), key)).await.unwrap();
        answer.into_inner().job.unwrap().job_id
    };
    let first = submit("k").await;
    assert_eq!(submit("k").await, first);
    assert_ne!(submit("other").await, first);
    assert_ne!(submit("").await, first);
    let mut other = spec();
    other.priority = 1;
    let refused = jobs.submit_job(submission(other, "k")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused:?}");
}

#[tokio::test]
async fn jobs_are_listed_with_page_tokens_newest_first() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.submit(&yolo()).await);
    }
    ids.reverse();
    let mut jobs = world.jobs().await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListJobsRequest {
            page_size: 2,
            page_token,
            ..v1::ListJobsRequest::default()
        };
        let page = jobs.list_jobs(request).await.unwrap().into_inner();
        assert!(page.jobs.len() <= 2);
        seen.extend(page.jobs.iter().map(|job| job.job_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let bad = v1::ListJobsRequest {
        page_token: "x".into(),
        ..v1::ListJobsRequest::default()
    };
    let status = jobs.list_jobs(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_drained_node_takes_no_job_until_it_is_resumed() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let mut nodes = world.nodes().await;
    let drain = v1::DrainRequest {
        name: "n1".into(),
        reason: "new disk".into(),
        ..Default::default()
    };
    let node = nodes.drain(drain).await.unwrap().into_inner().node.unwrap();
    assert_eq!(
        (node.draining, node.drain_reason.as_str()),
        (true, "new disk")
    );
    let job_id = world.submit(&command()).await;
    let request = v1::GetJobRequest { job_id };
    let job = world
        .jobs()
        .await
        .get_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    assert_eq!(job.state(), v1::JobState::Queued);
    assert_eq!(job.reason, "1 nodes could hold it, but none is ready");
    let resume = v1::ResumeRequest { name: "n1".into() };
    let node = nodes
        .resume(resume)
        .await
        .unwrap()
        .into_inner()
        .node
        .unwrap();
    assert!(!node.draining);
    assert_eq!(agent.start().await.task.unwrap().job_id, job_id);
    let unknown = v1::ResumeRequest { name: "n2".into() };
    let status = nodes.resume(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("known are n1"), "{status}");
}

#[tokio::test]
async fn a_gpu_that_its_agent_blocks_is_shown_with_the_reason_and_given_to_nobody_until_it_is_free()
{
    let world = World::start().await;
    let blocked = |reason: &str| v1::BlockedGpu {
        uuid: "GPU-1".into(),
        reason: reason.into(),
    };
    let mut hello = hello(&world, "n1", 4);
    let capacity = hello.capacity.as_mut().unwrap();
    capacity.gpus.push(v1::Gpu {
        uuid: "GPU-1".into(),
        model: "H100".into(),
        memory_bytes: 80 << 30,
    });
    hello.blocked_gpus = vec![blocked("3 GiB are in use")];
    let mut agent = Agent::connect(&world, hello).await;
    let list = async || {
        let request = v1::ListNodesRequest {};
        let nodes = world.nodes().await.list_nodes(request).await.unwrap();
        nodes.into_inner().nodes.remove(0)
    };
    let node = list().await;
    assert_eq!(node.blocked_gpus, [blocked("3 GiB are in use")]);
    assert_eq!(node.capacity.unwrap().gpus.len(), 1);
    assert_eq!(node.free.unwrap().gpus, []);
    // It waits: the node is no smaller for it.
    let mut body = command();
    body["config"]["resources"] = serde_json::json!({"gpus": 1});
    let job_id = world.submit(&body).await;
    let request = v1::GetJobRequest { job_id };
    let job = world.jobs().await.get_job(request).await.unwrap();
    let job = job.into_inner().job.unwrap();
    assert_eq!(job.state(), v1::JobState::Queued, "{job:?}");
    let beat = v1::Heartbeat::default();
    agent
        .control
        .send(v1::connect_request::Frame::Heartbeat(beat))
        .await;
    assert_eq!(agent.start().await.task.unwrap().job_id, job_id);
    assert_eq!(list().await.blocked_gpus, []);
}

/// Names of the fields that a call is refused for.
fn fields(refused: &tonic::Status) -> Vec<String> {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let details = refused.get_details_bad_request().unwrap();
    let violations = details.field_violations.into_iter();
    violations.map(|found| found.field).collect()
}

#[tokio::test]
async fn what_cannot_be_read_of_a_job_is_named_with_all_else_that_is_wrong() {
    let world = World::start().await;
    let spec = v1::JobSpec {
        framework: "timm".into(),
        model_name: "resnet18".into(),
        task_type: "classification".into(),
        dataset_path: "/data/set".into(),
        epochs: 0,
        batch_size: 8,
        learning_rate: 0.01,
        advanced_config_json: "{".into(),
        split_strategy_json: "x".into(),
        time_limit: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        grace_period: Some(prost_types::Duration {
            seconds: 0,
            nanos: -1,
        }),
        ..v1::JobSpec::default()
    };
    let mut jobs = world.jobs().await;
    let refused = jobs.submit_job(submission(spec, "")).await.unwrap_err();
    let wanted = [
        "spec.advanced_config_json",
        "spec.split_strategy_json",
        "spec.time_limit",
        "spec.grace_period",
        "spec.epochs",
    ];
    assert_eq!(fields(&refused), wanted);
}

#[tokio::test]
async fn every_bad_field_of_an_account_is_named_at_once() {
    let world = World::start().await;
    let bearer = Bearer(world.token.clone());
    let mut users = UserServiceClient::with_interceptor(world.channel().await, bearer);
    let user = v1::CreateUserRequest {
        email: "nobody".into(),
        password: "x".into(),
        role: "king".into(),
        full_name: "x".repeat(201),
    };
    let refused = users.create_user(user).await.unwrap_err();
    let wanted = ["role", "email", "password", "full_name"];
    assert_eq!(fields(&refused), wanted);
    let account = v1::CreateServiceAccountRequest {
        name: "A B".into(),
        role: "king".into(),
        project_id: 1,
        project_role: "boss".into(),
    };
    let refused = users.create_service_account(account).await.unwrap_err();
    assert_eq!(fields(&refused), ["role", "project_role", "name"]);
}
