//! What a job has reported: points, lines, checkpoints.

use axum::{Json, extract::State};
use serde::Serialize;
use trainyard_core::ids::JobId;
use trainyard_proto::http::{Bound, Fields};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal, both},
    jobs::Names,
    openapi::About,
    request::{Asked, Id, Reader},
    views::{LogRow, LogType, MetricRow, TrainingJob, log_type},
};
use crate::api::{Points, Service};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(metrics))
        .routes(routes!(schema))
        .routes(routes!(logs))
        .routes(routes!(checkpoints))
}

/// A job and its newest points.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobStatus {
    job: TrainingJob,
    /// At most ten, oldest first.
    #[schema(max_items = 10)]
    latest_metrics: Vec<MetricRow>,
}

/// Which metrics a job reports.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MetricSchema {
    #[schema(value_type = u64)]
    job_id: JobId,
    framework: String,
    task_type: String,
    primary_metric: String,
    primary_metric_mode: String,
    /// Their names.
    available_metrics: Vec<String>,
    /// Points of its curve.
    metric_count: u64,
}

/// Checkpoints in the order in which they were first reported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Checkpoints {
    checkpoints: Vec<CheckpointRow>,
}

/// A checkpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckpointRow {
    path: String,
    filename: String,
    is_best: bool,
    /// Of its newest report.
    epoch: Option<u32>,
}

/// A job and its newest points
#[utoipa::path(
    get,
    path = "/training/jobs/{id}/status",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "Where it stands", body = JobStatus), About)
)]
pub(super) async fn status(
    State(service): State<Service>,
    Reader(caller): Reader,
    Id(id): Id,
) -> Answer<JobStatus> {
    let job = service.job(&caller, id).await?;
    let points = service.latest_points(&caller, id, 10).await?.into_iter();
    Ok(Json(JobStatus {
        job: Names::of(&service).one(job)?,
        latest_metrics: points.map(|point| MetricRow::of(id, point)).collect(),
    }))
}

/// Points of a job's curve
///
/// Those of the newest attempt, and of the attempts that it went on from the epochs that it has not done again. The
/// oldest first, unless `order=desc` asks for the newest ones. An answer ends early when it would grow beyond 16 MiB: with `after_id` go on until one is empty.
#[utoipa::path(
    get,
    path = "/training/jobs/{id}/metrics",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The job"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100000, description = "At most so many; 100 when it is left out"),
        ("order" = Option<String>, Query, pattern = "^(asc|desc)$", description = "`asc`: the oldest ones, oldest first; `desc`: the newest ones, newest first"),
        ("since_epoch" = Option<i64>, Query, minimum = 0, maximum = 4294967295_i64, description = "Only of this epoch and later ones"),
        ("after_id" = Option<i64>, Query, minimum = 0, description = "Rows after this one in the order of their ids, oldest first, of the curve as it is now: a reader that names the last id it has seen is told nothing twice; epochs that a later attempt does again come again, with new ids; `order` and `since_epoch` do not count then"),
    ),
    responses((status = 200, description = "Points", body = Vec<MetricRow>), About)
)]
pub(super) async fn metrics(
    State(service): State<Service>,
    Reader(caller): Reader,
    id: Result<Id, Refusal>,
    asked: Asked,
) -> Answer<Vec<MetricRow>> {
    let most = service.series_rows();
    let wanted = asked.read(|fields| {
        let wanted = Points {
            limit: fields.limit(100, most),
            newest: fields.one_of("order", &["asc", "desc"]) == Some("desc"),
            since_epoch: fields.since_epoch(),
        };
        (after(fields), wanted)
    });
    let (Id(id), (after, wanted)) = both(id, wanted)?;
    if let Some(after) = after {
        let points = service
            .points(&caller, (id, false), (after, wanted.limit))
            .await?
            .rows;
        let points = points.into_iter().map(|point| MetricRow::of(id, point));
        return Ok(Json(points.collect()));
    }
    let points = service.points_from(&caller, id, wanted).await?.into_iter();
    Ok(Json(points.map(|point| MetricRow::of(id, point)).collect()))
}

/// Which metrics a job reports
#[utoipa::path(
    get,
    path = "/training/jobs/{id}/metric-schema",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "Their names", body = MetricSchema), About)
)]
pub(super) async fn schema(
    State(service): State<Service>,
    Reader(caller): Reader,
    Id(id): Id,
) -> Answer<MetricSchema> {
    let job = service.job(&caller, id).await?;
    let (names, metric_count) = service.metric_names(&caller, id).await?;
    let (primary_metric, primary_metric_mode) = job.spec.primary();
    Ok(Json(MetricSchema {
        job_id: id,
        framework: job.spec.framework,
        task_type: job.spec.task_type,
        primary_metric,
        primary_metric_mode,
        available_metrics: names.into_iter().collect(),
        metric_count,
    }))
}

/// The newest lines of a job's log, in the order of time
///
/// As many as fit into 16 MiB. With `after_id` go on until an answer is empty.
#[utoipa::path(
    get,
    path = "/training/jobs/{id}/logs",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The job"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100000, description = "At most so many; 500 when it is left out"),
        ("log_type" = Option<String>, Query, pattern = "^(stdout|stderr)$", description = "Only lines of this kind"),
        ("after_id" = Option<i64>, Query, minimum = 0, description = "Rows after this one in the order of their ids, oldest first: a reader that names the last id it has seen loses nothing and is told nothing twice"),
    ),
    responses((status = 200, description = "Lines", body = Vec<LogRow>), About)
)]
pub(super) async fn logs(
    State(service): State<Service>,
    Reader(caller): Reader,
    id: Result<Id, Refusal>,
    asked: Asked,
) -> Answer<Vec<LogRow>> {
    let most = service.series_rows();
    let wanted = asked.read(|fields| {
        let limit = fields.limit(500.min(most), most);
        let kind = fields.one_of("log_type", &LogType::NAMES);
        (limit, kind.and_then(LogType::parse), after(fields))
    });
    let (Id(id), (limit, kind, after)) = both(id, wanted)?;
    let keep = move |line: &_| kind.is_none_or(|kind| log_type(line) == kind);
    if let Some(after) = after {
        let rows = service.lines(&caller, id, (after, limit), keep).await?.rows;
        let rows = rows.into_iter().map(|line| LogRow::of(id, line));
        return Ok(Json(rows.collect()));
    }
    let lines = service.latest_lines(&caller, id, limit, keep).await?;
    let lines = lines.into_iter().map(|line| LogRow::of(id, line));
    Ok(Json(lines.collect()))
}

/// A job's checkpoints
///
/// What the attempts of its curve have reported, and what the artifact store has of the job.
#[utoipa::path(
    get,
    path = "/training/jobs/{id}/checkpoints",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "Its checkpoints", body = Checkpoints), About)
)]
pub(super) async fn checkpoints(
    State(service): State<Service>,
    Reader(caller): Reader,
    Id(id): Id,
) -> Answer<Checkpoints> {
    let job = service.job(&caller, id).await?;
    let reported = service.checkpoints(&caller, id).await?.into_iter();
    let mut found: Vec<(String, Option<u32>)> =
        reported.map(|(path, epoch)| (path, Some(epoch))).collect();
    let best = job.best_checkpoint.map(|checkpoint| checkpoint.path);
    let last = job.last_checkpoint.map(|checkpoint| checkpoint.path);
    let stored = service.stored_checkpoints(id).await?.into_iter();
    let stored = stored.map(|checkpoint| checkpoint.location);
    for path in last.into_iter().chain(best.clone()).chain(stored) {
        if found.iter().all(|(known, _)| *known != path) {
            found.push((path, None));
        }
    }
    let row = |(path, epoch): (String, Option<u32>)| CheckpointRow {
        filename: path.rsplit('/').next().unwrap_or_default().to_owned(),
        is_best: best.as_ref() == Some(&path),
        path,
        epoch,
    };
    let checkpoints = found.into_iter().map(row).collect();
    Ok(Json(Checkpoints { checkpoints }))
}

/// The id after which rows are wanted.
fn after(fields: &mut Fields<'_>) -> Option<u64> {
    let after = fields.whole_within("after_id", &[Bound::Ge(0)])?;
    u64::try_from(after).ok()
}
