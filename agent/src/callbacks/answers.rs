//! What a trainer is answered when its report is not taken. Never holds a reason that another task
//! could learn from. Called by `routes`.

use std::io;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use trainyard_proto::http::{Problems, bad_number};

use crate::spool::SpoolError;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no task has this secret and job")]
    NoTask,
    #[error("the agent was started again and has not got to this task yet")]
    Starting,
    #[error("the job's number is not a number")]
    BadJobId(String),
    #[error("the body is not as agreed")]
    BadBody(Problems),
    #[error("the body is too large or broke off")]
    NoBody(StatusCode),
    #[error(transparent)]
    NotKept(#[from] SpoolError),
    #[error("where its checkpoints are cannot be kept")]
    NotNoted(#[source] io::Error),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Self::NoTask => (StatusCode::NOT_FOUND, json!("Training job not found")),
            Self::Starting => (
                StatusCode::SERVICE_UNAVAILABLE,
                json!("The agent is starting; try again"),
            ),
            Self::BadJobId(text) => {
                let entry = bad_number(&json!(["path", "job_id"]), &text);
                (StatusCode::UNPROCESSABLE_ENTITY, json!([entry]))
            }
            Self::BadBody(problems) => (StatusCode::UNPROCESSABLE_ENTITY, json!(problems)),
            Self::NoBody(StatusCode::PAYLOAD_TOO_LARGE) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                json!("The body is larger than 4 MiB"),
            ),
            Self::NoBody(status) => (status, json!("The body could not be read")),
            Self::NotKept(SpoolError::TooLarge { .. }) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                json!("The report is too large to be kept"),
            ),
            Self::NotKept(error) => not_kept(&error),
            Self::NotNoted(error) => not_kept(&error),
        };
        (status, Json(json!({"detail": detail}))).into_response()
    }
}

/// Its disk takes it later, perhaps: the trainer says it again.
fn not_kept(error: &dyn std::error::Error) -> (StatusCode, Value) {
    tracing::error!(%error, "a report of a trainer could not be kept");
    let text = format!("The report could not be kept: {error}");
    (StatusCode::SERVICE_UNAVAILABLE, json!(text))
}
