//! The routes: find the task, read the body, append to its spool, answer when it is on disk. Never
//! answers 200 earlier. Called over HTTP by trainers.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use trainyard_core::record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record};
use trainyard_core::time::Timestamp;

use super::answers::Refusal;
use super::bodies::{self, ProgressBody};
use super::registry::{Registry, TaskEndpoint};

/// The largest body that is read.
pub const BODY_LIMIT: usize = 4 << 20;
/// How long a checkpoint's size is worth waiting for: a dead network disk must not hold a report.
const SIZE_PATIENCE: Duration = Duration::from_secs(2);

/// Lines that one report is split into; the rest stays in the last, so that a body full of line ends
/// does not become millions of records.
const MOST_LINES: usize = 10_000;

type Named = Path<BTreeMap<String, String>>;
type Body = Result<Bytes, BytesRejection>;
type Answer = Result<Json<Value>, Refusal>;

/// All that a trainer may call.
pub fn router(registry: Registry) -> Router {
    let api = Router::new()
        .route("/training/jobs/{id}/callback/progress", post(progress))
        .route("/training/jobs/{id}/callback/completion", post(completion))
        .route("/training/jobs/{id}/callback/logs", post(log))
        .route("/training/jobs/{id}/callback/log", post(log))
        .route("/validation/jobs/{id}/results", post(validation));
    Router::new()
        .nest("/t/{secret}/api/v1", api)
        .fallback(async || detail(StatusCode::NOT_FOUND, "Not Found"))
        .method_not_allowed_fallback(async || {
            detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(registry)
}

async fn progress(State(registry): State<Registry>, names: Named, body: Body) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = bodies::progress(&bytes).map_err(Refusal::BadBody)?;
    if body.total_epochs != task.total_epochs {
        tracing::warn!(job = %task.job, said = body.total_epochs, wanted = task.total_epochs, "the trainer runs another number of epochs");
    }
    let status = body.status.clone();
    let at = registry.now();
    let mut records = vec![progress_record(&task, &body, at).await];
    for (level, text) in &body.notes {
        records.extend(lines(at, level, text));
    }
    task.spool.append_once(records).await?;
    Ok(taken("Progress received", &json!(status)))
}

async fn completion(State(registry): State<Registry>, names: Named, body: Body) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = bodies::completion(&bytes).map_err(Refusal::BadBody)?;
    let root = &task.checkpoint_root;
    let status = if body.succeeded {
        "completed"
    } else {
        "failed"
    };
    let record = Record::Completion(Completion {
        succeeded: body.succeeded,
        exit_code: body.exit_code,
        error_message: body.error_message,
        traceback: body.traceback,
        final_metrics: body.final_metrics,
        best_checkpoint: checkpoint(root, body.best_checkpoint).await,
        last_checkpoint: checkpoint(root, body.last_checkpoint).await,
        epochs_completed: body.epochs_completed,
    });
    task.spool.append_once(vec![(record, None)]).await?;
    Ok(taken("Completion received", &json!(status)))
}

async fn log(State(registry): State<Registry>, names: Named, body: Body) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = bodies::log(&bytes).map_err(Refusal::BadBody)?;
    let records = lines(registry.now(), &body.level, &body.message).collect();
    task.spool.append(records).await?;
    Ok(taken("Log received", &Value::Null))
}

async fn validation(State(registry): State<Registry>, names: Named, body: Body) -> Answer {
    let (task, bytes) = open(&registry, &names, body)?;
    let body = bodies::validation(&bytes).map_err(Refusal::BadBody)?;
    let epoch = body.epoch;
    let record = Record::Validation {
        epoch,
        body: body.text,
    };
    let seq = task.spool.append(vec![(record, None)]).await?;
    Ok(Json(json!({
        "status": "success",
        "validation_result_id": seq,
        "job_id": task.job,
        "epoch": epoch,
    })))
}

/// The secret comes first: without it nothing is told, not even what is wrong with the call.
fn open(registry: &Registry, names: &Named, body: Body) -> Result<(TaskEndpoint, Bytes), Refusal> {
    let name = |key| names.get(key).map(String::as_str).unwrap_or_default();
    let task = registry.find(name("secret")).ok_or(Refusal::NoTask)?;
    let id = name("id");
    let number: i128 = id.parse().map_err(|_e| Refusal::BadJobId(id.to_owned()))?;
    if number != i128::from(task.job.0) {
        return Err(Refusal::NoTask);
    }
    let bytes = body.map_err(|rejection| Refusal::NoBody(rejection.status()))?;
    Ok((task, bytes))
}

async fn progress_record(
    task: &TaskEndpoint,
    body: &ProgressBody,
    at: Timestamp,
) -> (Record, Option<u64>) {
    let root = &task.checkpoint_root;
    let record = Record::Progress(Progress {
        at,
        epoch: body.epoch,
        total_epochs: body.total_epochs,
        step: body.step,
        values: body.metrics.clone().unwrap_or_default(),
        has_metrics: body.metrics.is_some(),
        checkpoint: checkpoint(root, body.checkpoint.clone()).await,
        best_checkpoint: checkpoint(root, body.best_checkpoint.clone()).await,
    });
    (record, None)
}

async fn checkpoint(root: &FilePath, path: Option<String>) -> Option<Checkpoint> {
    let path = path.filter(|path| !path.is_empty())?;
    let local = path.strip_prefix("file://").unwrap_or(&path);
    let mut size_bytes = None;
    if !local.contains("://") {
        let file = root.join(local);
        let asked = tokio::time::timeout(SIZE_PATIENCE, tokio::fs::metadata(file)).await;
        let seen = asked.ok().and_then(Result::ok);
        size_bytes = seen
            .filter(std::fs::Metadata::is_file)
            .map(|seen| seen.len());
    }
    Some(Checkpoint { path, size_bytes })
}

fn lines(at: Timestamp, level: &str, text: &str) -> impl Iterator<Item = (Record, Option<u64>)> {
    let text = text.trim_end_matches(['\n', '\r']);
    text.splitn(MOST_LINES, '\n').map(move |line| {
        let line = LogLine {
            at,
            stream: LogStream::Callback,
            level: level.to_owned(),
            text: line.trim_end_matches('\r').to_owned(),
        };
        (Record::Log(line), None)
    })
}

fn taken(message: &str, job_status: &Value) -> Json<Value> {
    Json(json!({"success": true, "message": message, "job_status": job_status}))
}

fn detail(status: StatusCode, text: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({"detail": text})))
}
