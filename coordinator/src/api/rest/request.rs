//! What handlers take out of a request: the caller, the job's number, the query, the body, how the caller
//! reaches us, and a trainer's report with its secret.
//!
//! Each is refused here in the contract's words, so that a handler sees only what is in order.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{header::HOST, request::Parts, uri::Authority};
use serde_json::{Map, Value, json};
use trainyard_core::ids::JobId;
use trainyard_proto::http::{Fields, bad_number};

use super::error::Refusal;
pub(super) use crate::api::peer::bearer;
use crate::api::{Caller, Service};

/// The user who calls.
pub(super) struct User(pub(super) Caller);

impl FromRequestParts<Service> for User {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Refusal> {
        Ok(Self(service.caller(bearer(&parts.headers))?))
    }
}

/// Who reads jobs: the user who calls, or anyone where `auth.open_reads` says so.
pub(super) struct Reader(pub(super) Caller);

impl FromRequestParts<Service> for Reader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Refusal> {
        Ok(Self(service.reader_of(bearer(&parts.headers))?))
    }
}

/// The job that the path names; a number that no job can have is that of no job.
pub(super) struct Id(pub(super) JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let number = number(parts, state, ("id", "job_id")).await?;
        Ok(Self(JobId(u64::try_from(number).unwrap_or(0))))
    }
}

/// The project that the path names.
pub(super) struct ProjectId(pub(super) i64);

impl<S: Send + Sync> FromRequestParts<S> for ProjectId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let number = number(parts, state, ("id", "project_id")).await?;
        Ok(Self(i64::try_from(number).unwrap_or(i64::MIN)))
    }
}

/// The user that the path names; a number that no user can have is that of no user.
pub(super) struct UserId(pub(super) u64);

impl<S: Send + Sync> FromRequestParts<S> for UserId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let beside = names(parts, state).await.contains_key("user_id");
        let key = if beside { "user_id" } else { "id" };
        let number = number(parts, state, (key, "user_id")).await?;
        Ok(Self(u64::try_from(number).unwrap_or(0)))
    }
}

/// The maintenance window that the path names; a number that none can have is that of none.
pub(super) struct MaintenanceId(pub(super) u64);

impl<S: Send + Sync> FromRequestParts<S> for MaintenanceId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let number = number(parts, state, ("id", "id")).await?;
        Ok(Self(u64::try_from(number).unwrap_or(0)))
    }
}

/// What the path names, whatever it is called; what cannot be read is the name of nothing.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let names = names(parts, state).await;
        Ok(Self(names.into_values().next().unwrap_or_default()))
    }
}

/// The model that the path names: its framework and its name.
pub(super) struct ModelName(pub(super) String, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ModelName {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let mut names = names(parts, state).await;
        let mut name = |key| names.remove(key).unwrap_or_default();
        Ok(Self(name("framework"), name("model")))
    }
}

/// The number at `key` of the path, which clients know as `name`.
async fn number<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    (key, name): (&str, &str),
) -> Result<i128, Refusal> {
    let names = names(parts, state).await;
    let text = names.get(key).map(String::as_str).unwrap_or_default();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let far = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // One beyond all bounds is a number too, only that of nothing.
    let number = text.parse().ok().or_else(|| far.then_some(-1));
    number.ok_or_else(|| Refusal::Fields(vec![bad_number(&json!(["path", name]), text)]))
}

async fn names<S: Send + Sync>(parts: &mut Parts, state: &S) -> BTreeMap<String, String> {
    let names = Path::<BTreeMap<String, String>>::from_request_parts(parts, state).await;
    names.map(|Path(names)| names).unwrap_or_default()
}

/// The query's parameters; of several with one name the last one counts.
pub(super) struct Asked(Map<String, Value>);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(pairs) = pairs.unwrap_or_default();
        Ok(Self(parameters(pairs)))
    }
}

impl Asked {
    /// Reads the parameters with `make`.
    pub(super) fn read<T>(&self, make: impl FnOnce(&mut Fields<'_>) -> T) -> Result<T, Refusal> {
        read(&self.0, "query", make)
    }
}

/// A form or a query as fields.
pub(super) fn parameters(pairs: Vec<(String, String)>) -> Map<String, Value> {
    let value = |(name, text)| (name, Value::String(text));
    pairs.into_iter().map(value).collect()
}

/// Reads fields that stand at `place` one by one.
pub(super) fn read<T>(
    parameters: &Map<String, Value>,
    place: &str,
    make: impl FnOnce(&mut Fields<'_>) -> T,
) -> Result<T, Refusal> {
    let mut fields = Fields::parameters(parameters, place);
    let made = make(&mut fields);
    if fields.errors.is_empty() {
        Ok(made)
    } else {
        Err(Refusal::Fields(fields.errors))
    }
}

/// How the caller reaches this coordinator: as the settings say, else as the request was addressed. What
/// comes in encrypted is never answered with a link in plain text: whoever has the link may use it.
pub(super) struct Base(pub(super) String);

impl FromRequestParts<Service> for Base {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Infallible> {
        if let Some(url) = service.public_url() {
            return Ok(Self(url.trim_end_matches('/').to_owned()));
        }
        let header = |name: &str| parts.headers.get(name)?.to_str().ok();
        let encrypted = service.encrypts() || header("x-forwarded-proto") == Some("https");
        let scheme = if encrypted { "https" } else { "http" };
        // HTTP/2 has no `Host`: there the request's target names the place.
        let target = parts.uri.authority().map(Authority::as_str);
        let host = target.or_else(|| header(HOST.as_str()));
        Ok(Self(format!("{scheme}://{}", host.unwrap_or("localhost"))))
    }
}

/// The whole body.
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await;
        bytes.map(Self).map_err(Refusal::Body)
    }
}

/// A call of a trainer whose secret is that of the job's live attempt.
pub(super) struct Report {
    pub(super) job: JobId,
    pub(super) secret: String,
    pub(super) body: Bytes,
}

impl FromRequest<Service> for Report {
    type Rejection = Refusal;

    /// The secret comes before the body: without it nothing is read and nothing is told.
    async fn from_request(request: Request, service: &Service) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let Id(job) = Id::from_request_parts(&mut parts, service).await?;
        let mut names = names(&mut parts, service).await;
        let secret = names.remove("secret");
        let secret = secret.or_else(|| bearer(&parts.headers).map(str::to_owned));
        let secret = secret.unwrap_or_default();
        service.may_report(job, &secret)?;
        let request = Request::from_parts(parts, body);
        let Body(body) = Body::from_request(request, service).await?;
        Ok(Self { job, secret, body })
    }
}
