//! A row of the table as a request of either door, and the answer's status.

use prost::Message;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};
use trainyard_proto::v1;

use super::{
    stage::{Stage, Target},
    table::Row,
};
use crate::world::{World, command};

/// The gRPC code of the same kind as an HTTP status.
pub(super) fn code(status: u16) -> Code {
    match status {
        200 | 201 => Code::Ok,
        400 => Code::FailedPrecondition,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        other => panic!("the table has {other}, which has no code here"),
    }
}

/// Method and path of a row's route, filled in.
pub(super) fn route(row: &Row, target: &Target) -> (Method, String) {
    let (method, path) = row.rest.split_once(':').unwrap();
    let mut path = path.split('#').next().unwrap().to_owned();
    for (word, name) in &target.names {
        path = path.replace(&format!("{{{word}}}"), name);
    }
    (method.parse().unwrap(), path)
}

/// The REST call; none where the row has no route.
pub(super) async fn rest_answer(
    stage: &Stage,
    row: &Row,
    target: &Target,
    token: Option<&str>,
) -> Option<Response> {
    row.route()?;
    let (method, path) = route(row, target);
    let world = &stage.world;
    let request = match path.as_str() {
        "/auth/login" => {
            let form = [
                ("username", "a-guest@example.com"),
                ("password", "correct horse"),
            ];
            world.plain(method, &path).form(&form)
        }
        "/auth/refresh" => {
            let token = stage.refresh_token().await;
            world
                .plain(method, &path)
                .query(&[("refresh_token", token)])
        }
        _ if method == Method::GET => at(world, method, &path),
        _ => at(world, method, &path).json(&body(stage, row, target)),
    };
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Some(request.send().await.unwrap())
}

fn at(world: &World, method: Method, path: &str) -> RequestBuilder {
    match path.strip_prefix("//") {
        Some(outside) => {
            let url = format!("http://{}/{outside}", world.address);
            world.http.request(method, url)
        }
        None => world.plain(method, path),
    }
}

/// Fields for every call at once: unknown ones are ignored.
fn body(stage: &Stage, row: &Row, target: &Target) -> Value {
    let number = target.number;
    let mut body = command();
    let more = json!({
        "project_id": target.project,
        "email": format!("new{number}@example.com"),
        "password": "correct horse",
        "current_password": "wrong horse",
        "new_password": "another horse",
        "full_name": "Ada",
        "name": format!("new{number}"),
        "id": format!("new{number}"),
        "checkpoint_filename": "best.pt",
        "all_nodes": true,
        "length_seconds": 1,
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    match row.rest.split('#').next().unwrap() {
        "POST:/datasets" => body["storage_path"] = json!(stage.folder(number)),
        "POST:/api-keys" => body["user_id"] = json!(target.name("account").parse::<u64>().unwrap()),
        "POST:/projects/{project}/members" => {
            body["email"] = json!(target.email);
            body["role"] = json!("viewer");
        }
        path if path.contains("/members/") => body["role"] = json!("viewer"),
        path if path.contains(":/users/") => body["system_role"] = json!("manager"),
        path if path.starts_with("PUT:/projects/") || path.starts_with("PATCH:/projects/") => {
            body["name"] = json!("ours");
        }
        _ => {}
    }
    body
}

/// The gRPC call; a stream is only begun.
pub(super) async fn grpc(
    channel: &Channel,
    method: &str,
    message: Vec<u8>,
    token: Option<&str>,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let path = format!("/trainyard.v1.{method}").parse().unwrap();
    grpc.server_streaming(request, path, Bytes).await?;
    Ok(())
}

/// The message of a row's method.
pub(super) async fn message(stage: &Stage, row: &Row, target: &Target) -> Vec<u8> {
    let (service, _) = row.grpc.split_once('/').unwrap();
    match service {
        "AuthService" => of_login(stage, row.grpc).await,
        "UserService" => of_users(row.grpc, target),
        "ProjectService" => of_projects(row.grpc, target),
        "JobService" => of_jobs(row.grpc, target),
        "DatasetService" => of_datasets(stage, row.grpc, target),
        "NodeService" | "TrackerService" | "StoreService" => of_nodes(row.grpc, target),
        _ => panic!("{}", row.grpc),
    }
}

async fn of_login(stage: &Stage, method: &str) -> Vec<u8> {
    match method {
        "AuthService/Login" => v1::LoginRequest {
            email: "a-guest@example.com".into(),
            password: "correct horse".into(),
        }
        .encode_to_vec(),
        "AuthService/Refresh" => v1::RefreshRequest {
            refresh_token: stage.refresh_token().await,
        }
        .encode_to_vec(),
        "AuthService/Me" => Vec::new(),
        _ => panic!("{method}"),
    }
}

fn of_users(method: &str, target: &Target) -> Vec<u8> {
    let (email, number) = (target.email.clone(), target.number);
    match method {
        "UserService/CreateUser" => v1::CreateUserRequest {
            email: format!("new{number}@example.com"),
            password: "correct horse".into(),
            ..v1::CreateUserRequest::default()
        }
        .encode_to_vec(),
        "UserService/UpdateUser" => v1::UpdateUserRequest {
            email,
            role: Some("manager".into()),
            is_active: None,
        }
        .encode_to_vec(),
        "UserService/SetPassword" => v1::SetPasswordRequest {
            email,
            password: "another horse".into(),
        }
        .encode_to_vec(),
        "UserService/SetMyPassword" => v1::SetMyPasswordRequest {
            current_password: "wrong horse".into(),
            new_password: "another horse".into(),
        }
        .encode_to_vec(),
        "UserService/CreateServiceAccount" => v1::CreateServiceAccountRequest {
            name: format!("new{number}"),
            ..v1::CreateServiceAccountRequest::default()
        }
        .encode_to_vec(),
        "UserService/CreateApiKey" => v1::CreateApiKeyRequest {
            account: email,
            name: "second".into(),
            expires_in: None,
        }
        .encode_to_vec(),
        "UserService/RevokeApiKey" => v1::RevokeApiKeyRequest {
            key_id: target.name("key"),
        }
        .encode_to_vec(),
        "UserService/ListUsers"
        | "UserService/Logout"
        | "UserService/ListApiKeys"
        | "UserService/RotateKeys" => Vec::new(),
        _ => panic!("{method}"),
    }
}

fn of_projects(method: &str, target: &Target) -> Vec<u8> {
    let project_id = target.project.unwrap_or_default();
    let email = target.email.clone();
    match method {
        "ProjectService/ListProjects" => Vec::new(),
        "ProjectService/CreateProject" => v1::CreateProjectRequest {
            name: format!("new{}", target.number),
            description: String::new(),
        }
        .encode_to_vec(),
        "ProjectService/GetProject" => v1::GetProjectRequest { project_id }.encode_to_vec(),
        "ProjectService/UpdateProject" => v1::UpdateProjectRequest {
            project_id,
            name: Some("ours".into()),
            description: None,
        }
        .encode_to_vec(),
        "ProjectService/SetMember" => v1::SetMemberRequest {
            project_id,
            email,
            role: "viewer".into(),
        }
        .encode_to_vec(),
        "ProjectService/RemoveMember" => {
            v1::RemoveMemberRequest { project_id, email }.encode_to_vec()
        }
        _ => panic!("{method}"),
    }
}

fn of_jobs(method: &str, target: &Target) -> Vec<u8> {
    let job_id = target.job();
    match method {
        "JobService/SubmitJob" | "JobService/ForeseeJob" => {
            let spec = trainyard_core::spec::JobSpec {
                framework: "command".into(),
                command: vec!["/bin/true".into()],
                project_id: target.project,
                ..trainyard_core::spec::JobSpec::default()
            };
            match method {
                "JobService/ForeseeJob" => v1::ForeseeJobRequest {
                    spec: Some(spec.into()),
                }
                .encode_to_vec(),
                _ => v1::SubmitJobRequest {
                    spec: Some(spec.into()),
                    idempotency_key: String::new(),
                }
                .encode_to_vec(),
            }
        }
        "JobService/ListJobs" => v1::ListJobsRequest {
            project_id: target.project,
            ..v1::ListJobsRequest::default()
        }
        .encode_to_vec(),
        "JobService/GetJob" => v1::GetJobRequest { job_id }.encode_to_vec(),
        "JobService/CancelJob" => v1::CancelJobRequest {
            job_id,
            ..Default::default()
        }
        .encode_to_vec(),
        "JobService/WatchJob" => v1::WatchJobRequest { job_id }.encode_to_vec(),
        // The number of the job is the first field of each.
        "JobService/ExplainJob"
        | "JobService/ListMetrics"
        | "JobService/StreamMetrics"
        | "JobService/ListLogs"
        | "JobService/StreamLogs" => v1::GetJobRequest { job_id }.encode_to_vec(),
        _ => panic!("{method}"),
    }
}

fn of_datasets(stage: &Stage, method: &str, target: &Target) -> Vec<u8> {
    let (dataset_id, snapshot_id) = (target.name("dataset"), target.name("snapshot"));
    match method {
        "DatasetService/ListDatasets" | "DatasetService/ListSnapshots" => Vec::new(),
        "DatasetService/AddDataset" => v1::AddDatasetRequest {
            dataset: Some(v1::Dataset {
                dataset_id: format!("new{}", target.number),
                storage_path: stage.folder(target.number),
                ..v1::Dataset::default()
            }),
        }
        .encode_to_vec(),
        "DatasetService/GetDataset" => v1::GetDatasetRequest { dataset_id }.encode_to_vec(),
        "DatasetService/RemoveDataset" => v1::RemoveDatasetRequest { dataset_id }.encode_to_vec(),
        "DatasetService/GetSnapshot" => v1::GetSnapshotRequest { snapshot_id }.encode_to_vec(),
        "DatasetService/DeleteSnapshot" => {
            v1::DeleteSnapshotRequest { snapshot_id }.encode_to_vec()
        }
        _ => panic!("{method}"),
    }
}

fn of_nodes(method: &str, target: &Target) -> Vec<u8> {
    let (name, id) = (target.name("node"), target.name("token"));
    match method {
        "NodeService/ListNodes"
        | "NodeService/CreateJoinToken"
        | "NodeService/ListJoinTokens"
        | "NodeService/ListMaintenance"
        | "TrackerService/ListTrackers"
        | "StoreService/Backup" => Vec::new(),
        "NodeService/AddMaintenance" => v1::AddMaintenanceRequest {
            all_nodes: true,
            length: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..v1::AddMaintenanceRequest::default()
        }
        .encode_to_vec(),
        "NodeService/RemoveMaintenance" => v1::RemoveMaintenanceRequest {
            id: target.name("window").parse().unwrap(),
        }
        .encode_to_vec(),
        "NodeService/RevokeJoinToken" => v1::RevokeJoinTokenRequest { id }.encode_to_vec(),
        // The name is the first field of each.
        "NodeService/GetNode"
        | "NodeService/Drain"
        | "NodeService/Cordon"
        | "NodeService/Resume"
        | "NodeService/SetLabels"
        | "NodeService/RevokeNode" => v1::GetNodeRequest { name }.encode_to_vec(),
        _ => panic!("{method}"),
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use tokio_util::bytes::BufMut as _;
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use tokio_util::bytes::Buf as _;
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

/// Method and path of every REST call that needs a user, about what is there; every gRPC method with its
/// message.
pub(super) async fn guarded(world: World) -> (Stage, Vec<(Row, Target, Vec<u8>)>) {
    let stage = Stage::set(world).await;
    let mut calls = Vec::new();
    for row in super::table::rows() {
        if !row.needs_user() {
            continue;
        }
        let target = stage.target(row.rest).await;
        let message = match row.grpc {
            "-" => Vec::new(),
            _ => message(&stage, &row, &target).await,
        };
        calls.push((row, target, message));
    }
    (stage, calls)
}
