//! A Labeler for tests: a real HTTP server that keeps to the contract and verifies service tokens.
//!
//! Owns its datasets, who may read them, and how it fares: well, slow, failing, or gone. Counts what it is
//! asked. Never part of a product. Called by the suites, and by the doors of the coordinator.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// How the server fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Well,
    /// It answers after so long.
    Slow(Duration),
    /// It answers everything with this status.
    Failing(u16),
    /// Only permissions are answered with this status.
    NoPermissions(u16),
    /// It answers well, with something that is no JSON.
    Babbling,
}

/// The server. It ends with this.
#[derive(Debug)]
pub struct Labeler {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// Verification keys by `kid`; two may be good at once.
    keys: BTreeMap<String, String>,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    mood: Mood,
    datasets: BTreeMap<String, Value>,
    readers: BTreeSet<(String, String)>,
    /// Datasets of which a user is not even told.
    hidden: BTreeSet<(String, String)>,
    asked: BTreeMap<&'static str, u32>,
    refused: Vec<String>,
    /// The last service token.
    token: String,
}

type Refusal = (StatusCode, Json<Value>);

fn refusal(status: StatusCode, words: &str) -> Refusal {
    (status, Json(json!({"detail": words})))
}

impl Labeler {
    /// Serves on a free port of loopback, with these keys by `kid`.
    pub async fn start(keys: &[(&str, &str)]) -> Self {
        let keys = keys
            .iter()
            .map(|(kid, key)| ((*kid).to_owned(), (*key).to_owned()));
        let shared = Arc::new(Shared {
            keys: keys.collect(),
            told: Mutex::new(Told {
                mood: Mood::Well,
                datasets: BTreeMap::new(),
                readers: BTreeSet::new(),
                hidden: BTreeSet::new(),
                asked: BTreeMap::new(),
                refused: Vec::new(),
                token: String::new(),
            }),
        });
        let mut labeler = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            shared,
            serving: JoinSet::new(),
        };
        labeler.up().await;
        labeler
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops listening: nobody reaches it.
    pub async fn down(&mut self) {
        self.serving.shutdown().await;
    }

    /// Listens again, where it did before.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await;
        let listener = listener.expect("loopback has a free port");
        self.address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let router = router(Arc::clone(&self.shared));
        self.serving.spawn(async move {
            axum::serve(listener, router).await.ok();
        });
    }

    /// From now on it fares so.
    pub fn fares(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// A dataset that these users may read.
    pub fn dataset(&self, id: &str, format: &str, storage_path: &str, readers: &[&str]) {
        self.dataset_with(
            id,
            json!({"format": format, "storage_path": storage_path}),
            readers,
        );
    }

    /// As [`Labeler::dataset`], with any of its fields: `annotation_path`, `task_type` and so on.
    pub fn dataset_with(&self, id: &str, fields: Value, readers: &[&str]) {
        let mut dataset = json!({
            "id": id, "name": format!("set {id}"), "description": null, "format": "imagefolder",
            "labeled": true, "storage_type": "local", "storage_path": "", "annotation_path": null, "num_classes": 2, "num_images": 10, "class_names": ["a", "b"],
            "tags": [], "visibility": "private", "owner_id": 1, "created_at": "2026-01-01T00:00:00",
            "updated_at": "2026-01-01T00:00:00", "version": 1, "content_hash": null,
        });
        if let (Some(all), Value::Object(fields)) = (dataset.as_object_mut(), fields) {
            all.extend(fields);
        }
        let mut told = self.lock();
        told.datasets.insert(id.to_owned(), dataset);
        for reader in readers {
            told.readers.insert((id.to_owned(), (*reader).to_owned()));
        }
    }

    /// Nobody but its owner may read it any more.
    pub fn forbid(&self, id: &str) {
        self.lock().readers.retain(|(dataset, _)| dataset != id);
    }

    /// Answers this user with 403 when asked for this dataset.
    pub fn hide(&self, id: &str, user: &str) {
        self.lock().hidden.insert((id.to_owned(), user.to_owned()));
    }

    /// How often it was asked for `dataset`, `permission`, `list` or `health`.
    pub fn asked(&self, what: &str) -> u32 {
        self.lock().asked.get(what).copied().unwrap_or(0)
    }

    /// The last service token that it was shown.
    pub fn shown(&self) -> String {
        self.lock().token.clone()
    }

    /// Why it has refused tokens.
    pub fn refused(&self) -> Vec<String> {
        self.lock().refused.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        lock(&self.shared)
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Told> {
    shared.told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/datasets", get(list))
        .route("/datasets/{id}", get(dataset))
        .route("/datasets/{id}/permissions/{user}", get(permission))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), verify));
    Router::new()
        .route("/health", get(health))
        .nest("/api/v1/platform", api)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), fare))
        .with_state(shared)
}

async fn fare(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let what = match path.as_str() {
        "/health" => "health",
        path if path.ends_with("/datasets") => "list",
        path if path.contains("/permissions/") => "permission",
        _ => "dataset",
    };
    let mood = {
        let mut told = lock(&shared);
        *told.asked.entry(what).or_default() += 1;
        told.mood
    };
    let status = |number| StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match mood {
        Mood::Failing(number) => refusal(status(number), "as the test wants it").into_response(),
        Mood::NoPermissions(number) if what == "permission" => {
            refusal(status(number), "as the test wants it").into_response()
        }
        Mood::Slow(span) => {
            tokio::time::sleep(span).await;
            next.run(request).await
        }
        Mood::Babbling => "<html>as the test wants it</html>".into_response(),
        Mood::Well | Mood::NoPermissions(_) => next.run(request).await,
    }
}

/// For whom a service token asks.
#[derive(Clone)]
struct Asker(String);

async fn verify(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let token = header
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Bearer "));
    token
        .unwrap_or_default()
        .clone_into(&mut lock(&shared).token);
    match claims(&shared, token.unwrap_or_default()) {
        Ok(user) => {
            request.extensions_mut().insert(Asker(user));
            next.run(request).await
        }
        Err((status, words)) => {
            lock(&shared).refused.push(words.to_owned());
            refusal(status, words).into_response()
        }
    }
}

/// The contract's check of a service token.
fn claims(shared: &Shared, token: &str) -> Result<String, (StatusCode, &'static str)> {
    let invalid = (StatusCode::UNAUTHORIZED, "Invalid service token");
    let header = decode_header(token).map_err(|_bad| invalid)?;
    let key = header
        .kid
        .and_then(|kid| shared.keys.get(&kid))
        .ok_or(invalid)?;
    let mut checks = Validation::new(Algorithm::HS256);
    checks.validate_exp = false;
    checks.required_spec_claims.clear();
    let key = DecodingKey::from_secret(key.as_bytes());
    let claims = decode::<Value>(token, &key, &checks)
        .map_err(|_bad| invalid)?
        .claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| claims.get(name).and_then(Value::as_u64);
    let fits = match text("type") {
        "service" => text("service") == "platform" && text("sub").parse::<u64>().is_ok(),
        "background" => {
            text("sub") == "platform-training" && text("service") == "platform-training"
        }
        _ => false,
    };
    let bare = claims.get("iss").is_none() && claims.get("aud").is_none();
    let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let (Some(exp), Some(nbf), Some(iat)) = (number("exp"), number("nbf"), number("iat")) else {
        return Err(invalid);
    };
    if !fits || !bare || nbf > now + 1 || exp.saturating_sub(iat) > 3_600 {
        return Err(invalid);
    }
    if exp <= now {
        return Err((StatusCode::UNAUTHORIZED, "Service token expired"));
    }
    let scopes = claims.get("scopes").and_then(Value::as_array);
    match scopes.is_some_and(|scopes| scopes.contains(&json!("labeler:read"))) {
        true => Ok(text("sub").to_owned()),
        false => Err((
            StatusCode::FORBIDDEN,
            "Insufficient scope: labeler:read is needed",
        )),
    }
}

async fn health() -> Json<Value> {
    Json(json!({"status": "healthy"}))
}

async fn dataset(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Extension(Asker(user)): Extension<Asker>,
) -> Result<Json<Value>, Refusal> {
    if lock(&shared).hidden.contains(&(id.clone(), user)) {
        return Err(refusal(StatusCode::FORBIDDEN, "Access denied"));
    }
    let found = lock(&shared).datasets.get(&id).cloned();
    found
        .map(Json)
        .ok_or_else(|| refusal(StatusCode::NOT_FOUND, "Dataset not found"))
}

async fn permission(
    State(shared): State<Arc<Shared>>,
    Path((id, user)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let told = lock(&shared);
    if !told.datasets.contains_key(&id) {
        return Err(refusal(StatusCode::NOT_FOUND, "Dataset not found"));
    }
    let may = told.readers.contains(&(id, user));
    let level = if may { "read" } else { "none" };
    Ok(Json(
        json!({"has_access": may, "is_owner": false, "permission_level": level}),
    ))
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Json<Value> {
    let number = |name: &str, default: usize| {
        asked
            .get(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (page, limit) = (number("page", 1), number("limit", 20));
    let user = asked.get("user_id").cloned().unwrap_or_default();
    let told = lock(&shared);
    let may = |id: &String| user.is_empty() || told.readers.contains(&(id.clone(), user.clone()));
    let all = told.datasets.iter().filter(|(id, _)| may(id));
    let all: Vec<&Value> = all.map(|(_, dataset)| dataset).collect();
    let first = page.saturating_sub(1).saturating_mul(limit);
    let rows: Vec<&&Value> = all.iter().skip(first).take(limit).collect();
    Json(json!({"datasets": rows, "total": all.len(), "page": page, "limit": limit}))
}
