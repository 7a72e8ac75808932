//! The routes: find the task, read the body, append to its spool, answer when it is on disk. Never
//! answers 200 earlier, except for what the spool's bound leaves out. Called over HTTP by trainers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::Metadata;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Request, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::IntoResponse as _;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use trainyard_core::record::{Checkpoint, Record, validation_id};
use trainyard_proto::http;

use super::answers::Refusal;
use super::registry::{Registry, TaskEndpoint};
use crate::objects::{Objects, is_signed};

/// The largest body that is read.
pub const BODY_LIMIT: usize = 4 << 20;
/// How long a checkpoint's size is worth waiting for: a dead network disk must not hold a report.
const SIZE_PATIENCE: Duration = Duration::from_secs(2);

/// The header by which a trainer says how many calls it keeps behind this one.
const KEPT: &str = "x-trainyard-kept";

type Named = Path<BTreeMap<String, String>>;
type Body = Result<Bytes, BytesRejection>;
type Answer = Result<Json<Value>, Refusal>;

/// All that a trainer may call.
pub fn router(registry: Registry) -> Router {
    let objects = Objects::new(registry.clone());
    let api = Router::new()
        .route("/training/jobs/{id}/callback/progress", post(progress))
        .route("/training/jobs/{id}/callback/completion", post(completion))
        .route("/training/jobs/{id}/callback/logs", post(log))
        .route("/training/jobs/{id}/callback/log", post(log))
        .route("/validation/jobs/{id}/results", post(validation));
    Router::new()
        .nest("/t/{secret}/api/v1", api)
        .fallback(move |request: Request| {
            let objects = objects.clone();
            async move {
                if is_signed(&request) {
                    return objects.call(request).await;
                }
                detail(StatusCode::NOT_FOUND, "Not Found").into_response()
            }
        })
        .method_not_allowed_fallback(async || {
            detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(registry)
}

/// How many calls a trainer keeps behind this one; none where it does not say.
struct Kept(Option<u64>);

impl<S: Sync> FromRequestParts<S> for Kept {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let said = parts.headers.get(KEPT).and_then(|said| said.to_str().ok());
        Ok(Self(said.and_then(|said| said.parse().ok())))
    }
}

impl Kept {
    /// What is not taken now the trainer may say again later: until then its checkpoints wait.
    fn note<T>(&self, task: &TaskEndpoint, taken: Result<T, Refusal>) -> Result<T, Refusal> {
        let owing = task.told.owing();
        match &taken {
            Ok(_) => owing.heard(self.0),
            Err(_) => owing.refused(),
        }
        taken
    }
}

async fn progress(
    State(registry): State<Registry>,
    names: Named,
    kept: Kept,
    body: Body,
) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = http::progress(&bytes, task.job).map_err(Refusal::BadBody)?;
    if body.total_epochs != task.total_epochs {
        tracing::warn!(job = %task.job, said = body.total_epochs, wanted = task.total_epochs, "the trainer runs another number of epochs");
    }
    let status = known(&body.status);
    let mut records = body.records(registry.now());
    kept.note(&task, take_once(&task, &mut records).await)?;
    Ok(taken("Progress received", &json!(status)))
}

async fn completion(
    State(registry): State<Registry>,
    names: Named,
    kept: Kept,
    body: Body,
) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = http::completion(&bytes, task.job).map_err(Refusal::BadBody)?;
    let status = body.status();
    let mut records = vec![body.record()];
    kept.note(&task, take_once(&task, &mut records).await)?;
    Ok(taken("Completion received", &json!(status)))
}

async fn log(State(registry): State<Registry>, names: Named, kept: Kept, body: Body) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = http::log(&bytes, task.job).map_err(Refusal::BadBody)?;
    let records = plain(body.records(registry.now()));
    // Also what there is no room for is taken: a trainer neither waits for the coordinator nor fails without it.
    match body.identity {
        Some(identity) => task.spool.append_body(records, identity).await?,
        None => task.spool.append_sifted(records).await?,
    };
    // Lines are no reports: one that is refused holds up no checkpoint, and one that says nothing of the others tells nothing.
    if kept.0.is_some() {
        task.told.owing().heard(kept.0);
    }
    Ok(taken("Log received", &Value::Null))
}

async fn validation(
    State(registry): State<Registry>,
    names: Named,
    kept: Kept,
    body: Body,
) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = http::validation(&bytes, task.job).map_err(Refusal::BadBody)?;
    let epoch = body.epoch;
    let records = plain(vec![body.record()]);
    let kept_here = task.spool.append_sifted(records).await;
    kept.note(&task, kept_here.map_err(Refusal::from))?;
    Ok(Json(json!({
        "status": "success",
        "validation_result_id": validation_id(task.job, epoch),
        "job_id": task.job,
        "epoch": epoch,
    })))
}

/// The status of a job as clients know it, in the trainer's words where those are such a status.
fn known(said: &str) -> &'static str {
    let all = ["pending", "running", "completed", "failed", "cancelled"];
    let found = all.into_iter().find(|status| *status == said);
    found.unwrap_or("running")
}

/// The secret comes first: without it nothing is told, not even what is wrong with the call.
fn open(registry: &Registry, names: &Named, body: Body) -> Result<(TaskEndpoint, Bytes), Refusal> {
    let name = |key| names.get(key).map(String::as_str).unwrap_or_default();
    let task = registry.find(name("secret"))?;
    let id = name("id");
    let number: i128 = id.parse().map_err(|_e| Refusal::BadJobId(id.to_owned()))?;
    if number != i128::from(task.job.0) {
        return Err(Refusal::NoTask);
    }
    let bytes = body.map_err(|rejection| Refusal::NoBody(rejection.status()))?;
    Ok((task, bytes))
}

/// Keeps what counts once, with what is known here of the checkpoints that it names.
async fn take_once(task: &TaskEndpoint, records: &mut Vec<Record>) -> Result<(), Refusal> {
    measure(task, records).await?;
    task.spool
        .append_once(plain(std::mem::take(records)))
        .await?;
    Ok(())
}

/// Adds the sizes of the checkpoints that lie on this machine, and the path of those that were put into the
/// task's bucket: they lie on this machine too. Which they are is kept before the trainer is answered.
async fn measure(task: &TaskEndpoint, records: &mut [Record]) -> Result<(), Refusal> {
    for record in records {
        let (one, other) = match record {
            Record::Progress(report) => (&mut report.checkpoint, &mut report.best_checkpoint),
            Record::Completion(word) => (&mut word.last_checkpoint, &mut word.best_checkpoint),
            Record::Log(_) | Record::Validation { .. } | Record::Stored(_) => continue,
        };
        for (stem, named) in [("last", one), ("best", other)] {
            if let Some(checkpoint) = named {
                measure_one(task, stem, checkpoint).await?;
            }
        }
    }
    Ok(())
}

async fn measure_one(
    task: &TaskEndpoint,
    stem: &'static str,
    checkpoint: &mut Checkpoint,
) -> Result<(), Refusal> {
    let stored = task.objects.checkpoint_file(&checkpoint.path);
    let stored = stored.map(|file| file.display().to_string());
    if let Some(path) = stored {
        let here = Checkpoint {
            path,
            size_bytes: None,
        };
        // What was never put there keeps the name that the trainer told.
        if file(&task.checkpoint_root, &here).await.is_some() {
            *checkpoint = here;
        }
    }
    let seen = file(&task.checkpoint_root, checkpoint).await;
    checkpoint.size_bytes = seen.as_ref().map(|(_, about)| about.len());
    if let Some((path, about)) = seen {
        task.told.names(&about);
        let told = task.told.clone();
        let kept = trainyard_runtime::blocking(move || told.calls(stem, path)).await;
        let kept = kept.map_err(io::Error::other).and_then(|kept| kept);
        kept.map_err(Refusal::NotNoted)?;
    }
    Ok(())
}

/// The checkpoint's file on this machine.
async fn file(root: &FilePath, checkpoint: &Checkpoint) -> Option<(PathBuf, Metadata)> {
    let path = checkpoint.path.as_str();
    let local = path.strip_prefix("file://").unwrap_or(path);
    if local.contains("://") {
        return None;
    }
    let file = root.join(local);
    let asked = tokio::time::timeout(SIZE_PATIENCE, tokio::fs::metadata(&file)).await;
    let seen = asked.ok()?.ok()?;
    seen.is_file().then_some((file, seen))
}

/// Records that are not part of the trainer's output.
fn plain(records: Vec<Record>) -> Vec<(Record, Option<u64>)> {
    records.into_iter().map(|record| (record, None)).collect()
}

fn taken(message: &str, job_status: &Value) -> Json<Value> {
    Json(json!({"success": true, "message": message, "job_status": job_status}))
}

fn detail(status: StatusCode, text: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({"detail": text})))
}
