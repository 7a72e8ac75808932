//! Validation results, as trainers reported them.

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Map, Value};
use trainyard_core::{ids::JobId, record::validation_id};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal, both},
    openapi::About,
    request::{Asked, Id, Reader},
};
use crate::api::Service;

/// Characters of a text in a summary.
const SHORT: usize = 200;

/// The calls; trainers' own are in `callbacks`.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(results))
        .routes(routes!(summary))
}

/// A job's validation results.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ValidationResults {
    #[schema(value_type = u64)]
    job_id: JobId,
    /// How many the job has, on this page or not.
    total_count: usize,
    /// By epoch.
    results: Vec<ValidationResult>,
}

/// A validation result. What the trainer left out is null; the rest is as it came.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ValidationResult {
    id: u64,
    #[schema(value_type = u64)]
    job_id: JobId,
    epoch: u32,
    task_type: Value,
    primary_metric_name: Value,
    primary_metric_value: Value,
    overall_loss: Value,
    metrics: Value,
    per_class_metrics: Value,
    confusion_matrix: Value,
    pr_curves: Value,
    class_names: Value,
    visualization_urls: Value,
    image_results: Value,
}

/// The numbers of a job's validation results.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ValidationSummary {
    #[schema(value_type = u64)]
    job_id: JobId,
    /// How many the job has results of, on this page or not.
    total_epochs: usize,
    /// The last of them.
    last_epoch: Option<u32>,
    epochs: Vec<ValidationEpoch>,
}

/// The numbers of one validation result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ValidationEpoch {
    epoch: u32,
    primary_metric_name: Value,
    primary_metric_value: Value,
    overall_loss: Value,
}

/// A job's validation results by epoch
///
/// A page ends early when it would grow beyond 16 MiB; go on with `since_epoch`.
#[utoipa::path(
    get,
    path = "/validation/jobs/{id}/results",
    tag = "validation",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The job"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "At most so many; 1000 when it is left out"),
        ("since_epoch" = Option<i64>, Query, minimum = 0, maximum = 4294967295_i64, description = "Only of this epoch and later ones"),
    ),
    responses((status = 200, description = "Results", body = ValidationResults), About)
)]
pub(super) async fn results(
    State(service): State<Service>,
    Reader(caller): Reader,
    id: Result<Id, Refusal>,
    asked: Asked,
) -> Answer<ValidationResults> {
    let most = service.page_rows();
    let wanted = asked.read(|fields| (fields.since_epoch(), fields.limit(most, most)));
    let (Id(job_id), wanted) = both(id, wanted)?;
    let (rows, total_count) = service.validations(&caller, job_id, wanted).await?;
    let results = rows
        .into_iter()
        .map(|(epoch, text)| result(job_id, epoch, &text));
    Ok(Json(ValidationResults {
        job_id,
        total_count,
        results: results.collect(),
    }))
}

/// The numbers of each epoch, without what is large
///
/// Go on with `since_epoch` where there are more than fit on a page.
#[utoipa::path(
    get,
    path = "/validation/jobs/{id}/summary",
    tag = "validation",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The job"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "At most so many; 1000 when it is left out"),
        ("since_epoch" = Option<i64>, Query, minimum = 0, maximum = 4294967295_i64, description = "Only of this epoch and later ones"),
    ),
    responses((status = 200, description = "Numbers by epoch", body = ValidationSummary), About)
)]
pub(super) async fn summary(
    State(service): State<Service>,
    Reader(caller): Reader,
    id: Result<Id, Refusal>,
    asked: Asked,
) -> Answer<ValidationSummary> {
    let most = service.page_rows();
    let wanted = asked.read(|fields| (fields.since_epoch(), fields.limit(most, most)));
    let (Id(job_id), wanted) = both(id, wanted)?;
    let small = |epoch, text: &str| {
        let mut said = said(text);
        let mut take = |key| short(take(&mut said, key));
        ValidationEpoch {
            epoch,
            primary_metric_name: take("primary_metric_name"),
            primary_metric_value: take("primary_metric_value"),
            overall_loss: take("overall_loss"),
        }
    };
    let summary = service.validation_summary(&caller, job_id, wanted, small);
    let summary = summary.await?;
    Ok(Json(ValidationSummary {
        job_id,
        total_epochs: summary.total,
        last_epoch: summary.last,
        epochs: summary.rows,
    }))
}

/// A name or a number as text is short; one that is not was taken before that was checked.
fn short(value: Value) -> Value {
    let short = |text: &str| Value::String(text.chars().take(SHORT).collect());
    value.as_str().map(short).unwrap_or(value)
}

fn result(job_id: JobId, epoch: u32, text: &str) -> ValidationResult {
    let mut said = said(text);
    ValidationResult {
        id: validation_id(job_id, epoch),
        job_id,
        epoch,
        task_type: take(&mut said, "task_type"),
        primary_metric_name: take(&mut said, "primary_metric_name"),
        primary_metric_value: take(&mut said, "primary_metric_value"),
        overall_loss: take(&mut said, "overall_loss"),
        metrics: take(&mut said, "metrics"),
        per_class_metrics: take(&mut said, "per_class_metrics"),
        confusion_matrix: take(&mut said, "confusion_matrix"),
        pr_curves: take(&mut said, "pr_curves"),
        class_names: take(&mut said, "class_names"),
        visualization_urls: take(&mut said, "visualization_urls"),
        image_results: take(&mut said, "image_results"),
    }
}

/// It was read as JSON before it was stored.
fn said(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

fn take(object: &mut Map<String, Value>, key: &str) -> Value {
    object.swap_remove(key).unwrap_or_default()
}
