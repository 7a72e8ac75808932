//! Jobs: submitting, looking at, stopping.

use std::time::Duration;

use axum::{Json, extract::State};
use http::HeaderMap;
use serde_json::{Value, json};
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
};
use trainyard_proto::{http::Bound, status::Kind};

use super::{
    create,
    error::{Answer, Refusal},
    request::{Asked, Body, Id, ProjectId, User},
    views::{LogRow, MetricRow, TrainingJob, log_type},
};
use crate::api::{ApiError, Jobs, Points, Service};

/// How long after its grace a job may take to end before a cancel is answered without its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same key again answers with the first job.
const KEY: &str = "idempotency-key";
/// The contract's words for where a job stands.
const STATUSES: [&str; 6] = [
    "pending",
    "running",
    "completed",
    "failed",
    "cancelled",
    "stopped",
];

pub(super) async fn create(
    State(service): State<Service>,
    User(caller): User,
    headers: HeaderMap,
    Body(body): Body,
) -> Answer<TrainingJob> {
    let spec = create::spec(&body)?;
    let key = headers.get(KEY).and_then(|value| value.to_str().ok());
    let key = key.filter(|key| !key.is_empty()).map(str::to_owned);
    let job = service.submit(&caller, spec, key).await?;
    Ok(Json(job.into()))
}

pub(super) async fn list(State(service): State<Service>, _: User, asked: Asked) -> Answer {
    let wanted = asked.read(|fields| Jobs {
        states: fields
            .one_of("status", &STATUSES)
            .map_or_else(Vec::new, states),
        project_id: fields.whole_within("project_id", &[]),
        limit: count(fields.whole_or("limit", 50, &[Bound::Ge(1)])),
        before: fields
            .whole_within("cursor", &[Bound::Ge(0)])
            .and_then(|id| u64::try_from(id).ok())
            .map(JobId),
    })?;
    let page = service.jobs(wanted).await?;
    let last = page.rows.last().filter(|_| page.more);
    let next = last.map(|job| job.id.to_string());
    let jobs: Vec<TrainingJob> = page.rows.into_iter().map(Into::into).collect();
    Ok(Json(json!({"jobs": jobs, "next_cursor": next})))
}

/// All jobs of a project, newest first.
pub(super) async fn experiments(
    State(service): State<Service>,
    _: User,
    ProjectId(project): ProjectId,
) -> Answer<Vec<TrainingJob>> {
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = service.jobs(Jobs {
            before,
            project_id: Some(project),
            limit: usize::MAX,
            ..Jobs::default()
        });
        let page = page.await?;
        before = page.rows.last().map(|job| job.id);
        found.extend(page.rows.into_iter().map(TrainingJob::from));
        if !page.more {
            return Ok(Json(found));
        }
    }
}

pub(super) async fn job(
    State(service): State<Service>,
    _: User,
    Id(id): Id,
) -> Answer<TrainingJob> {
    Ok(Json(service.job(id).await?.into()))
}

pub(super) async fn status(State(service): State<Service>, _: User, Id(id): Id) -> Answer {
    let job = TrainingJob::from(service.job(id).await?);
    let points = service.latest_points(id, 10)?.into_iter();
    let latest: Vec<_> = points.map(|point| MetricRow::of(id, point)).collect();
    Ok(Json(json!({"job": job, "latest_metrics": latest})))
}

pub(super) async fn metrics(
    State(service): State<Service>,
    _: User,
    Id(id): Id,
    asked: Asked,
) -> Answer<Vec<MetricRow>> {
    if let Some((after, limit)) = resumed(&asked, 100)? {
        let points = service.points(id, after, limit)?.rows.into_iter();
        return Ok(Json(points.map(|point| MetricRow::of(id, point)).collect()));
    }
    let wanted = asked.read(|fields| Points {
        limit: count(fields.whole_or("limit", 100, &[Bound::Ge(1)])),
        newest: fields.one_of("order", &["asc", "desc"]) == Some("desc"),
        since_epoch: fields
            .whole_within("since_epoch", &[Bound::Ge(0)])
            .map_or(0, |epoch| u32::try_from(epoch).unwrap_or(u32::MAX)),
    })?;
    let points = service.points_from(id, wanted).await?.into_iter();
    Ok(Json(points.map(|point| MetricRow::of(id, point)).collect()))
}

pub(super) async fn schema(State(service): State<Service>, _: User, Id(id): Id) -> Answer {
    let job = service.job(id).await?;
    let (names, count) = service.metric_names(id).await?;
    let (metric, mode) = job.spec.primary();
    Ok(Json(json!({
        "job_id": id,
        "framework": job.spec.framework,
        "task_type": job.spec.task_type,
        "primary_metric": metric,
        "primary_metric_mode": mode,
        "available_metrics": names,
        "metric_count": count,
    })))
}

pub(super) async fn logs(
    State(service): State<Service>,
    _: User,
    Id(id): Id,
    asked: Asked,
) -> Answer<Vec<LogRow>> {
    let (limit, kind) = asked.read(|fields| {
        let limit = count(fields.whole_or("limit", 500, &[Bound::Ge(1)]));
        // A word of the list, so that it outlives the query.
        let kind = fields.one_of("log_type", &["stdout", "stderr"]);
        (limit, kind)
    })?;
    let keep = move |line: &_| kind.is_none_or(|kind| log_type(line) == kind);
    if let Some((after, limit)) = resumed(&asked, 500)? {
        let rows = service.lines(id, after, limit, None).await?.rows.into_iter();
        let rows = rows.filter(|row| keep(&row.line));
        return Ok(Json(rows.map(|line| LogRow::of(id, line)).collect()));
    }
    let lines = service.latest_lines(id, limit, keep).await?.into_iter();
    Ok(Json(lines.map(|line| LogRow::of(id, line)).collect()))
}

pub(super) async fn checkpoints(State(service): State<Service>, _: User, Id(id): Id) -> Answer {
    let job = service.job(id).await?;
    let reported = service.checkpoints(id).await?.into_iter();
    let mut found: Vec<(String, Option<u32>)> =
        reported.map(|(path, epoch)| (path, Some(epoch))).collect();
    let best = job.best_checkpoint.map(|checkpoint| checkpoint.path);
    let last = job.last_checkpoint.map(|checkpoint| checkpoint.path);
    for path in last.into_iter().chain(best.clone()) {
        if found.iter().all(|(known, _)| *known != path) {
            found.push((path, None));
        }
    }
    let row = |(path, epoch): (String, Option<u32>)| {
        let filename = path.rsplit('/').next().unwrap_or_default();
        let is_best = best.as_ref() == Some(&path);
        json!({"path": path, "filename": filename, "is_best": is_best, "epoch": epoch})
    };
    let rows: Vec<Value> = found.into_iter().map(row).collect();
    Ok(Json(json!({"checkpoints": rows})))
}

pub(super) async fn cancel(
    State(service): State<Service>,
    _: User,
    Id(id): Id,
) -> Answer<TrainingJob> {
    let job = service.cancel_and_wait(id, PATIENCE).await?;
    Ok(Json(job.into()))
}

pub(super) async fn restart(
    State(service): State<Service>,
    _: User,
    Id(id): Id,
) -> Answer<TrainingJob> {
    Ok(Json(service.restart(id).await?.into()))
}

/// The platform starts jobs by itself: a waiting one is only shown, an ended one runs again.
pub(super) async fn start(
    State(service): State<Service>,
    _: User,
    Id(id): Id,
) -> Answer<TrainingJob> {
    let job = service.job(id).await?;
    let started = match job.state {
        JobState::Pending | JobState::Queued | JobState::Starting => job,
        JobState::Running | JobState::Finishing => return Err(cannot_start(&job).into()),
        JobState::Completed | JobState::Failed | JobState::Cancelled => service.restart(id).await?,
    };
    Ok(Json(started.into()))
}

/// The older way to cancel, with an answer of its own.
pub(super) async fn stop(State(service): State<Service>, _: User, Id(id): Id) -> Answer {
    service.cancel_and_wait(id, PATIENCE).await?;
    let message = format!("Training job {id} stopped");
    Ok(Json(
        json!({"job_id": id, "status": "stopped", "message": message}),
    ))
}

/// With `after_id` rows come in order of their ids, oldest first, after that one: nothing is lost
/// or told twice to a reader that names the last id it has seen.
fn resumed(asked: &Asked, limit: i64) -> Result<Option<(u64, usize)>, Refusal> {
    asked.read(|fields| {
        let after = fields.whole_within("after_id", &[Bound::Ge(0)]);
        let limit = count(fields.whole_or("limit", limit, &[Bound::Ge(1)]));
        after.map(|after| (u64::try_from(after).unwrap_or(0), limit))
    })
}

fn cannot_start(job: &Job) -> ApiError {
    let status = job.state.contract_name();
    let words = format!("Cannot start job with status '{status}'");
    ApiError::new(Kind::Conflict, words)
}

fn states(word: &str) -> Vec<JobState> {
    let word = match word {
        "stopped" => "cancelled",
        word => word,
    };
    let of_word = |state: &JobState| state.contract_name() == word;
    JobState::ALL.into_iter().filter(of_word).collect()
}

fn count(wanted: i64) -> usize {
    usize::try_from(wanted).unwrap_or(0)
}
