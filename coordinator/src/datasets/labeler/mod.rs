//! The client of the Labeler, the service that owns datasets.
//!
//! Owns its time-outs, repetitions, the cache of metadata and the circuit breaker, and which answer means
//! what. A permission is asked for each time and never kept; whatever is answered to that call but a yes is a
//! denial. Called by `datasets`.

mod breaker;
mod token;

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use moka::future::Cache;
use reqwest::{Client, StatusCode, redirect::Policy};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use trainyard_proto::status::Kind;
use url::Url;

use self::{breaker::Breaker, token::Signer};
use super::document::Named;
use crate::{api::ApiError, clock, config::LabelerConfig};

const CONNECT: Duration = Duration::from_secs(5);
/// For a call with all its repetitions.
const TOTAL: Duration = Duration::from_secs(30);
/// For a question about its health.
const HEALTH: Duration = Duration::from_secs(2);
/// How long its word about its health is kept.
const HEALTH_KEPT: Duration = Duration::from_secs(5);
/// Repetitions after a failure.
const AGAIN: usize = 2;
/// The longest answer.
const ANSWER: usize = 8 << 20;
/// Datasets that are remembered.
const REMEMBERED: u64 = 1_000;

/// A dataset as the Labeler tells of it. What is not needed here is not read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Told {
    /// A text or a number.
    pub(super) id: Value,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) format: Option<String>,
    #[serde(default)]
    pub(super) storage_path: Option<String>,
    #[serde(default)]
    pub(super) annotation_path: Option<String>,
    #[serde(default)]
    pub(super) task_type: Option<String>,
    #[serde(default)]
    pub(super) owner_id: Option<Value>,
}

/// A page of datasets.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) datasets: Vec<Told>,
    pub(super) total: u64,
}

#[derive(Debug, Deserialize)]
struct Permission {
    has_access: bool,
    #[serde(default)]
    permission_level: Option<String>,
}

/// How the Labeler fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Healthy,
    /// It does not, or says that it is not well.
    Unreachable,
}

/// The client. A clone is cheap.
#[derive(Clone, Debug)]
pub(super) struct Labeler {
    http: Client,
    base: Url,
    signer: Signer,
    breaker: Breaker,
    /// By user and dataset: what one was told, or refused, decides nothing for another.
    cache: Cache<(u64, String), Arc<Told>>,
    storage_root: Arc<str>,
    health: Arc<Mutex<Option<(Health, Instant)>>>,
}

/// What a call came to.
#[derive(Clone, Debug)]
enum CallError {
    /// It cannot be reached: nothing of what was asked is known.
    Away(String),
    /// It answers that it fails.
    Down(String),
    /// It answered with this status.
    Said(StatusCode),
    /// It answered well, and what it says cannot be used: asked again it says the same, and to other questions
    /// it may answer better.
    Unread(String),
}

impl CallError {
    /// Whether the service itself is not well, so that a later call may be answered.
    fn is_of_the_service(&self) -> bool {
        match self {
            Self::Away(_) | Self::Down(_) => true,
            Self::Said(_) | Self::Unread(_) => false,
        }
    }
}

impl Labeler {
    pub(super) fn new(config: &LabelerConfig) -> Result<Self, ApiError> {
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .redirect(Policy::none())
            .build();
        let fault = |error: &dyn std::fmt::Display| {
            ApiError::new(
                Kind::Internal,
                format!("the Labeler's client cannot be made: {error}"),
            )
        };
        Ok(Self {
            http: http.map_err(|error| fault(&error))?,
            base: config.url.parse().map_err(|error| fault(&error))?,
            signer: Signer::new(config.secret.expose(), &config.kid),
            breaker: Breaker::new(
                config.failures,
                Duration::from_secs(config.open_seconds.into()),
            ),
            cache: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(Duration::from_secs(config.cache_seconds.into()))
                .build(),
            storage_root: config.storage_root.trim_end_matches('/').into(),
            health: Arc::default(),
        })
    }

    /// A dataset that `user` may read.
    ///
    /// # Errors
    /// 503 while the Labeler cannot be reached, 404 for an unknown dataset, 403 for a denial.
    pub(super) async fn dataset(&self, id: &str, user: u64) -> Result<Arc<Told>, ApiError> {
        if matches!(id, "." | "..") || id.len() > 200 || id.chars().any(char::is_control) {
            return Err(not_found(id));
        }
        if self.breaker.is_open(Instant::now()) {
            return Err(unreachable("it has failed again and again"));
        }
        let key = (user, id.to_owned());
        let fetched = self.cache.try_get_with(key, async {
            let told: Told = self.get(&["datasets", id], &[], user).await?;
            Ok::<_, CallError>(Arc::new(told))
        });
        let told = fetched.await.map_err(|error| match error.as_ref() {
            CallError::Said(StatusCode::NOT_FOUND) => not_found(id),
            CallError::Said(StatusCode::FORBIDDEN) => denied(id),
            error @ (CallError::Away(_)
            | CallError::Down(_)
            | CallError::Said(_)
            | CallError::Unread(_)) => explained(error, "dataset_id"),
        })?;
        self.permit(id, user).await?;
        Ok(told)
    }

    /// Whether `user` may read a dataset, of whose metadata nothing is needed.
    ///
    /// # Errors
    /// 403 for a denial, 503 while the Labeler is left alone.
    pub(super) async fn may_read(&self, id: &str, user: u64) -> Result<(), ApiError> {
        if self.breaker.is_open(Instant::now()) {
            return Err(unreachable("it has failed again and again"));
        }
        self.permit(id, user).await
    }

    /// Asked each time; whatever it answers but a plain yes is a denial. One that does not answer has said
    /// neither.
    async fn permit(&self, id: &str, user: u64) -> Result<(), ApiError> {
        let who = user.to_string();
        let path = ["datasets", id, "permissions", &who];
        match self.get::<Permission>(&path, &[], user).await {
            Ok(said) if said.has_access && said.permission_level.as_deref() != Some("none") => {
                Ok(())
            }
            Ok(_) => Err(denied(id)),
            Err(CallError::Away(why)) => Err(unreachable(&why)),
            Err(error) => {
                tracing::warn!(dataset = %id, ?error, "the Labeler did not say who may read; denied");
                Err(denied(id))
            }
        }
    }

    /// A page of what `user` may see, from 1.
    pub(super) async fn list(
        &self,
        (page, limit): (u64, usize),
        user: u64,
    ) -> Result<Listed, ApiError> {
        let query = [
            ("page", page.to_string()),
            ("limit", limit.to_string()),
            ("user_id", user.to_string()),
        ];
        self.get(&["datasets"], &query, user)
            .await
            .map_err(|error| explained(&error, "page_token"))
    }

    /// Where a dataset's annotation document lies, when one is named: below the store of a Labeler that names
    /// none, else in the bucket of the dataset's files.
    pub(super) fn document(&self, told: &Told) -> Option<Named> {
        let text = told.annotation_path.as_deref().unwrap_or_default();
        if !text.to_ascii_lowercase().ends_with(".json") {
            return None;
        }
        let root = match &*self.storage_root {
            "" => bucket_of(told.storage_path.as_deref().unwrap_or_default()),
            root => Some(root.to_owned()),
        };
        let full = match text.contains("://") || text.starts_with('/') {
            true => Some(text.to_owned()),
            false => root.map(|root| format!("{root}/{text}")),
        };
        Some(Named {
            text: text.to_owned(),
            full,
        })
    }

    /// Where a dataset's files lie.
    pub(super) fn storage_path(&self, told: &Told, id: &str) -> Result<String, ApiError> {
        let path = told.storage_path.as_deref().unwrap_or_default();
        if path.contains("://") || path.starts_with('/') {
            return Ok(path.to_owned());
        }
        if self.storage_root.is_empty() {
            let words = format!(
                "the Labeler says that dataset '{id}' lies at '{path}', which names no store; an administrator has to set labeler.storage_root"
            );
            return Err(ApiError::new(Kind::Unavailable, words));
        }
        let below = match path {
            "" => format!("datasets/{id}"),
            path => path.trim_end_matches('/').to_owned(),
        };
        Ok(format!("{}/{below}", self.storage_root))
    }

    /// How it fares, as of a few seconds ago at most: anyone may ask, and those who ask at once share one call.
    pub(super) async fn health(&self) -> Health {
        let mut last = self.health.lock().await;
        if let Some((said, at)) = *last
            && at.elapsed() < HEALTH_KEPT
        {
            return said;
        }
        let said = self.ask_health().await;
        *last = Some((said, Instant::now()));
        said
    }

    async fn ask_health(&self) -> Health {
        let Ok(url) = self.base.join("/health") else {
            return Health::Unreachable;
        };
        match self.http.get(url).timeout(HEALTH).send().await {
            Ok(answer) if answer.status().is_success() => Health::Healthy,
            Ok(_) | Err(_) => Health::Unreachable,
        }
    }

    /// One call with its repetitions, by the breaker's leave.
    async fn get<T: for<'de> Deserialize<'de>>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        user: u64,
    ) -> Result<T, CallError> {
        let Some(permit) = self.breaker.admit(Instant::now()) else {
            return Err(CallError::Away("it has failed again and again".to_owned()));
        };
        let url = self.url(path)?;
        let again = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_times(AGAIN)
            .with_jitter();
        let call = || self.once::<T>(&url, query, user);
        let calls = call.retry(again).when(CallError::is_of_the_service);
        let ended = tokio::time::timeout(TOTAL, calls).await;
        let late = || {
            let words = format!("it did not answer within {TOTAL:?}");
            Err(CallError::Away(words))
        };
        let answer = ended.unwrap_or_else(|_| late());
        let fails = answer.as_ref().is_err_and(CallError::is_of_the_service);
        permit.done(!fails, Instant::now());
        answer
    }

    fn url(&self, path: &[&str]) -> Result<Url, CallError> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments
                    .pop_if_empty()
                    .extend(["api", "v1", "platform"])
                    .extend(path);
            }
            Err(()) => return Err(CallError::Down("labeler.url is no address".to_owned())),
        }
        Ok(url)
    }

    async fn once<T: for<'de> Deserialize<'de>>(
        &self,
        url: &Url,
        query: &[(&str, String)],
        user: u64,
    ) -> Result<T, CallError> {
        let away = |error: reqwest::Error| CallError::Away(root(&error.without_url()));
        let token = self.signer.for_user(user, clock::now());
        let token = token.ok_or_else(|| CallError::Down("no token could be signed".to_owned()))?;
        let request = self.http.get(url.clone()).query(query).bearer_auth(token);
        let mut answer = request.send().await.map_err(away)?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(CallError::Down(format!("it answered {status}")));
        }
        if !status.is_success() {
            return Err(CallError::Said(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(away)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER {
                return Err(CallError::Unread("is longer than 8 MiB".to_owned()));
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| CallError::Unread(format!("cannot be read: {error}")))
    }
}

/// `s3://name` of a path in a bucket.
fn bucket_of(path: &str) -> Option<String> {
    let url = Url::parse(path).ok()?;
    let in_bucket = matches!(url.scheme(), "s3" | "s3a" | "gs" | "az" | "azure");
    let name = url.host_str().filter(|_| in_bucket)?;
    Some(format!("{}://{name}", url.scheme()))
}

fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What a failed call is to its caller; `field` is what was asked for.
fn explained(error: &CallError, field: &str) -> ApiError {
    match error {
        CallError::Away(why) | CallError::Down(why) => unreachable(why),
        CallError::Unread(why) => {
            let words = format!(
                "the Labeler's answer {why}; try again later, or tell who keeps the Labeler"
            );
            ApiError::new(Kind::Unavailable, words)
        }
        CallError::Said(status @ (StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)) => {
            ApiError::field(
                field,
                format!("is refused by the Labeler, which answered {status}; check it"),
            )
        }
        CallError::Said(StatusCode::UNAUTHORIZED) => {
            unreachable("it refuses the coordinator's service token (labeler.secret, labeler.kid)")
        }
        CallError::Said(status) => unreachable(&format!("it answered {status}")),
    }
}

fn unreachable(why: &str) -> ApiError {
    let words = format!("the Labeler cannot be reached: {why}; try again later");
    ApiError::new(Kind::Unavailable, words)
}

fn not_found(id: &str) -> ApiError {
    ApiError::new(
        Kind::NotFound,
        format!("Dataset '{id}' not found in Labeler"),
    )
}

fn denied(id: &str) -> ApiError {
    ApiError::new(Kind::Forbidden, format!("Access denied to dataset '{id}'"))
}

#[cfg(test)]
mod tests;
