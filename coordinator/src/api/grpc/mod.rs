//! The gRPC door: services of `trainyard.v1`, reflection and health.
//!
//! Parses requests into core types, calls the service, renders answers. Called by `boot`, which
//! serves the routes.

mod agents;
mod auth;
mod bounds;
mod data;
mod datasets;
mod jobs;
mod nodes;
mod pages;
mod projects;
mod reports;
mod store;
mod trackers;
mod users;

use axum::Router;
use tonic::{Request, Status, service::Routes};
use tonic_health::ServingStatus;
use trainyard_proto::{
    DESCRIPTORS,
    v1::{
        agent_service_server::AgentServiceServer, auth_service_server::AuthServiceServer,
        dataset_service_server::DatasetServiceServer, job_service_server::JobServiceServer,
        node_service_server::NodeServiceServer, project_service_server::ProjectServiceServer,
        report_service_server::ReportServiceServer, store_service_server::StoreServiceServer,
        tracker_service_server::TrackerServiceServer, user_service_server::UserServiceServer,
    },
};

use super::{
    Caller, Service,
    peer::{Peer, bearer},
};

/// The largest request of a user that is read, in bytes: as at the REST door.
const REQUEST: usize = 1 << 20;
/// The largest message of an agent that is read, in bytes.
const MESSAGE: usize = 16 << 20;

/// Every service of the coordinator, ready to be merged with other routes.
///
/// # Errors
/// When the embedded descriptors cannot be served: a bug of the build.
pub async fn router(service: &Service) -> Result<Router, tonic_reflection::server::Error> {
    let reflect = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("trainyard.v1.JobService", ServingStatus::Serving)
        .await;
    let jobs = JobServiceServer::new(jobs::JobDoor(service.clone()));
    let nodes = NodeServiceServer::new(nodes::NodeDoor(service.clone()));
    let auth = AuthServiceServer::new(auth::AuthDoor(service.clone()));
    let users = UserServiceServer::new(users::UserDoor(service.clone()));
    let projects = ProjectServiceServer::new(projects::ProjectDoor(service.clone()));
    let datasets = DatasetServiceServer::new(datasets::DatasetDoor(service.clone()));
    let agents = AgentServiceServer::new(agents::AgentDoor::new(service.clone()));
    let trackers = TrackerServiceServer::new(trackers::TrackerDoor(service.clone()));
    let reports = ReportServiceServer::new(reports::ReportDoor(service.clone()));
    let store = StoreServiceServer::new(store::StoreDoor(service.clone()));
    let routes = Routes::new(health_service)
        .add_service(reflect().build_v1()?)
        .add_service(reflect().build_v1alpha()?)
        .add_service(jobs.max_decoding_message_size(REQUEST))
        .add_service(nodes.max_decoding_message_size(REQUEST))
        .add_service(auth.max_decoding_message_size(bounds::STRANGER))
        .add_service(users.max_decoding_message_size(REQUEST))
        .add_service(datasets.max_decoding_message_size(REQUEST))
        .add_service(projects.max_decoding_message_size(REQUEST))
        .add_service(trackers.max_decoding_message_size(REQUEST))
        .add_service(reports.max_decoding_message_size(REQUEST))
        .add_service(store.max_decoding_message_size(REQUEST))
        .add_service(agents.max_decoding_message_size(MESSAGE));
    let routes = routes.into_axum_router().reset_fallback();
    Ok(bounds::around(routes, service))
}

/// The user who calls, as the bounds have found before the message was read.
fn caller<T>(service: &Service, request: &Request<T>) -> Result<Caller, Status> {
    match request.extensions().get::<Caller>() {
        Some(caller) => Ok(caller.clone()),
        None => Ok(service.caller(token(request))?),
    }
}

/// The token that the call carries.
fn token<T>(request: &Request<T>) -> Option<&str> {
    bearer(request.metadata().as_ref())
}

/// Where the call comes from.
fn peer<T>(request: &Request<T>) -> Peer {
    request.extensions().get().copied().unwrap_or_default()
}
