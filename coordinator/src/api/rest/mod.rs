//! The REST door: the HTTP API that existing clients speak.
//!
//! Parses requests into core types, calls the service and renders answers in the contract's shapes.
//! Never touches the store or an actor. Called by `listen`, which serves the routes.

mod auth;
mod callbacks;
mod create;
mod error;
mod health;
mod jobs;
mod nodes;
mod request;
mod validation;
mod views;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use serde_json::json;

use super::Service;

/// The largest report of a trainer, in bytes.
const REPORT: usize = 4 << 20;

/// All routes below `/api/v1`, and those of trainers whose secret stands in the path.
pub fn router(service: &Service) -> Router {
    let api = users()
        .merge(callbacks())
        .merge(open())
        .merge(nodes::router());
    Router::new()
        .nest("/api/v1", api)
        .nest("/t/{secret}/api/v1", callbacks())
        .route("/health", get(health::health))
        .method_not_allowed_fallback(not_allowed)
        .with_state(service.clone())
}

/// What anyone may call.
fn open() -> Router<Service> {
    Router::new()
        .route("/auth/login", post(auth::login))
        .route("/auth/refresh", post(auth::refresh))
        .route("/health", get(health::health))
}

/// What needs a user's token.
fn users() -> Router<Service> {
    Router::new()
        .route("/auth/me", get(auth::me))
        .route("/auth/logout", post(auth::logout))
        .route("/training/jobs", post(jobs::create).get(jobs::list))
        .route("/training/jobs/{id}", get(jobs::job))
        .route("/training/jobs/{id}/status", get(jobs::status))
        .route("/training/jobs/{id}/metrics", get(jobs::metrics))
        .route("/training/jobs/{id}/metric-schema", get(jobs::schema))
        .route("/training/jobs/{id}/logs", get(jobs::logs))
        .route("/training/jobs/{id}/checkpoints", get(jobs::checkpoints))
        .route("/training/jobs/{id}/cancel", post(jobs::cancel))
        .route("/training/jobs/{id}/restart", post(jobs::restart))
        .route("/training/jobs/{id}/start", post(jobs::start))
        .route("/training/stop/{id}", post(jobs::stop))
        .route("/projects/{id}/experiments", get(jobs::experiments))
        .route("/validation/jobs/{id}/results", get(validation::results))
        .route("/validation/jobs/{id}/summary", get(validation::summary))
}

/// What needs the secret of the job's live attempt.
fn callbacks() -> Router<Service> {
    Router::new()
        .route(
            "/training/jobs/{id}/callback/progress",
            post(callbacks::progress),
        )
        .route(
            "/training/jobs/{id}/callback/completion",
            post(callbacks::completion),
        )
        .route("/training/jobs/{id}/callback/logs", post(callbacks::log))
        .route("/training/jobs/{id}/callback/log", post(callbacks::log))
        .route("/validation/jobs/{id}/results", post(callbacks::validation))
        .layer(DefaultBodyLimit::max(REPORT))
}

async fn not_allowed() -> Response {
    detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed").into_response()
}

/// The contract's shape of an error.
pub(crate) fn detail(status: StatusCode, text: &str) -> impl IntoResponse {
    (status, Json(json!({"detail": text})))
}
