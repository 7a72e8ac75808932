//! The REST door: the HTTP API that existing clients speak.

use axum::{Json, Router, response::IntoResponse};
use http::StatusCode;
use serde_json::json;

use super::Service;

/// All routes below `/api/v1`.
pub fn router(_service: &Service) -> Router {
    Router::new()
}

/// The contract's shape of an error.
pub(crate) fn detail(status: StatusCode, text: &str) -> impl IntoResponse {
    (status, Json(json!({"detail": text})))
}
