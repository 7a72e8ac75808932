//! The coordinator's own figures for Prometheus.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header::CONTENT_TYPE;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{error::Refusal, openapi::Plain};
use crate::api::Service;

/// The call.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(figures))
}

/// The coordinator's figures in the text format of Prometheus
///
/// Also at `/metrics`, where scrapers look for it.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "Figures", body = String, content_type = "text/plain"), Plain)
)]
pub(super) async fn figures(State(service): State<Service>) -> Result<Response, Refusal> {
    let text = service.figures().await?;
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}
