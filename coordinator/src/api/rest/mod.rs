//! The REST door: the HTTP API that existing clients speak.
//!
//! Parses requests into core types, calls the service and renders answers in the contract's shapes.
//! Never touches the store or an actor. Called by `listen`, which serves the routes.
//!
//! A module of calls offers `router()`: an [`OpenApiRouter`] with paths relative to `/api/v1`, whose
//! handlers carry `#[utoipa::path]`. Merged in [`calls`], it is served and described.

mod auth;
mod bounds;
mod callbacks;
mod create;
mod datasets;
mod error;
mod figures;
mod files;
mod form;
mod health;
mod jobs;
mod live;
mod machines;
mod maintenance;
mod models;
mod nodes;
mod openapi;
mod projects;
mod reports;
mod request;
mod series;
mod submission;
mod trackers;
mod users;
mod validation;
mod views;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use self::openapi::{Detail, Document};
use super::Service;

/// The largest report of a trainer, in bytes.
const REPORT: usize = 4 << 20;

/// All routes below `/api/v1`, their description, and those of trainers whose secret stands in the path.
pub fn router(service: &Service) -> Router {
    let (api, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", calls())
        .split_for_parts();
    let most = (service.page_rows(), service.series_rows());
    openapi::finish(&mut document, most);
    let (reports, _) = callbacks().split_for_parts();
    let docs = SwaggerUi::new("/docs").url("/api/v1/openapi.json", document);
    let routes = Router::new()
        .merge(api)
        .nest("/t/{secret}/api/v1", reports)
        .route("/api/v1/ws/training", get(live::training))
        .route("/health", get(health::health))
        .route("/metrics", get(figures::figures))
        .with_state(service.clone())
        .merge(docs)
        // Last, so that it is that of the pages of the document as well.
        .method_not_allowed_fallback(not_allowed);
    // Large files take their time: they have bounds of their own.
    let files = bounds::for_pages(files::router(service), service);
    bounds::around(routes, service).merge(files)
}

/// Every call that is described.
fn calls() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .merge(health::router())
        .merge(figures::router())
        .merge(models::router())
        .merge(auth::router())
        .merge(users::router())
        .merge(projects::router())
        .merge(trackers::router())
        .merge(machines::router())
        .merge(maintenance::router())
        .merge(nodes::router())
        .merge(jobs::router())
        .merge(datasets::router())
        .merge(series::router())
        .merge(validation::router())
        .merge(callbacks())
}

/// What needs the secret of the job's live attempt.
fn callbacks() -> OpenApiRouter<Service> {
    callbacks::router().layer(DefaultBodyLimit::max(REPORT))
}

async fn not_allowed() -> Response {
    detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed").into_response()
}

/// The contract's shape of an error.
pub(crate) fn detail(status: StatusCode, text: &str) -> impl IntoResponse {
    let detail = text.to_owned();
    (status, Json(Detail { detail }))
}
