//! The one error of this door, and how it is shown.
//!
//! Statuses come from the one table of `trainyard-proto`; words are the service's own or the
//! contract's. Used by every handler.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};
use trainyard_proto::{http::Problems, status::Kind};

use crate::api::ApiError;

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The service refused.
    Api(ApiError),
    /// These fields are wrong.
    Fields(Problems),
    /// The body is too large or broke off.
    Body(BytesRejection),
}

/// What most handlers answer.
pub(super) type Answer<T = Value> = Result<Json<T>, Refusal>;

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Problems> for Refusal {
    fn from(problems: Problems) -> Self {
        Self::Fields(problems)
    }
}

/// What was read in two places, or what is wrong in either: the contract wants every bad field at once, be
/// it in the path, the query, a header or the body.
pub(super) fn both<A, B>(
    one: Result<A, impl Into<Refusal>>,
    other: Result<B, impl Into<Refusal>>,
) -> Result<(A, B), Refusal> {
    match (one.map_err(Into::into), other.map_err(Into::into)) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(Refusal::Fields(mut found)), Err(Refusal::Fields(more))) => {
            found.extend(more);
            Err(Refusal::Fields(found))
        }
        (Err(refusal), _) | (Ok(_), Err(refusal)) => Err(refusal),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Self::Api(error) => return refused(&error),
            Self::Fields(problems) => (StatusCode::UNPROCESSABLE_ENTITY, Value::Array(problems)),
            Self::Body(rejection) => body(rejection.status()),
        };
        (status, Json(json!({"detail": detail}))).into_response()
    }
}

fn refused(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.kind.http());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = super::detail(status, &error.message).into_response();
    if error.kind == Kind::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn body(status: StatusCode) -> (StatusCode, Value) {
    let words = match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            "The body is larger than the coordinator takes (limits.request_mib; 4 MiB for reports of trainers)"
        }
        _ => "The body could not be read",
    };
    (status, json!(words))
}
