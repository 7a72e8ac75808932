//! What a trainer reports to the coordinator itself. Answered once it is on disk.

use axum::{Json, extract::State};
use serde::Serialize;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
    record::{Record, validation_id},
};
use trainyard_proto::http;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::Answer,
    openapi::Reporting,
    reports::{CompletionRequest, LogRequest, ProgressRequest, ValidationRequest},
    request::Report,
    views::Status,
};
use crate::{
    actors::job::DirectReport,
    api::{ApiError, Service},
    clock,
};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(progress))
        .routes(routes!(completion))
        .routes(routes!(logs))
        .routes(routes!(log))
        .routes(routes!(validation))
}

/// A report is stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// Always true.
    success: bool,
    message: &'static str,
    job_status: Option<Status>,
}

/// A validation result is stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResultTaken {
    /// Always `success`.
    status: &'static str,
    validation_result_id: u64,
    #[schema(value_type = u64)]
    job_id: JobId,
    epoch: u32,
}

/// Report an epoch
///
/// The first report, of epoch 0 without metrics, says that the training has begun. Metrics count once for
/// each epoch and step: a second report of them changes nothing, whatever it says, so one that is sent
/// again because its answer was lost is no second row.
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/callback/progress",
    tag = "callbacks",
    security(("attempt" = [])),
    params(("id" = i64, Path, description = "The job")),
    request_body = ProgressRequest,
    responses((status = 200, description = "Stored", body = Taken), Reporting)
)]
pub(super) async fn progress(State(service): State<Service>, report: Report) -> Answer<Taken> {
    let records = http::progress(&report.body, report.job)?.records(clock::now());
    let job = store(&service, report, records).await?;
    Ok(taken("Progress received", job.state))
}

/// Report the end
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/callback/completion",
    tag = "callbacks",
    security(("attempt" = [])),
    params(("id" = i64, Path, description = "The job")),
    request_body = CompletionRequest,
    responses((status = 200, description = "Stored", body = Taken), Reporting)
)]
pub(super) async fn completion(State(service): State<Service>, report: Report) -> Answer<Taken> {
    let record = http::completion(&report.body, report.job)?.record();
    let job = store(&service, report, vec![record]).await?;
    Ok(taken("Completion received", job.state))
}

/// Report a line
///
/// A line of more than 64 KiB becomes several, as in a trainer's output. The same body directly again changes
/// nothing where its `timestamp` has microseconds; else its lines are there twice.
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/callback/logs",
    tag = "callbacks",
    security(("attempt" = [])),
    params(("id" = i64, Path, description = "The job")),
    request_body = LogRequest,
    responses((status = 200, description = "Stored", body = Taken), Reporting)
)]
pub(super) async fn logs(state: State<Service>, report: Report) -> Answer<Taken> {
    said(state, report).await
}

/// Report a line, as some trainers call it
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/callback/log",
    tag = "callbacks",
    security(("attempt" = [])),
    params(("id" = i64, Path, description = "The job")),
    request_body = LogRequest,
    responses((status = 200, description = "Stored", body = Taken), Reporting)
)]
pub(super) async fn log(state: State<Service>, report: Report) -> Answer<Taken> {
    said(state, report).await
}

async fn said(State(service): State<Service>, report: Report) -> Answer<Taken> {
    let body = http::log(&report.body, report.job)?;
    let said = DirectReport {
        records: body.records(clock::now()),
        identity: body.identity,
    };
    let job = service.report(report.job, report.secret, said).await?;
    Ok(taken("Log received", job.state))
}

/// Report a validation result
///
/// One row a job and epoch: a second one of the same epoch replaces the first, under the same number.
#[utoipa::path(
    post,
    path = "/validation/jobs/{id}/results",
    tag = "callbacks",
    security(("attempt" = [])),
    params(("id" = i64, Path, description = "The job")),
    request_body = ValidationRequest,
    responses((status = 200, description = "Stored", body = ResultTaken), Reporting)
)]
pub(super) async fn validation(
    State(service): State<Service>,
    report: Report,
) -> Answer<ResultTaken> {
    let body = http::validation(&report.body, report.job)?;
    let epoch = body.epoch;
    let job_id = store(&service, report, vec![body.record()]).await?.id;
    Ok(Json(ResultTaken {
        status: "success",
        validation_result_id: validation_id(job_id, epoch),
        job_id,
        epoch,
    }))
}

async fn store(service: &Service, report: Report, records: Vec<Record>) -> Result<Job, ApiError> {
    let identity = None;
    let said = DirectReport { records, identity };
    service.report(report.job, report.secret, said).await
}

fn taken(message: &'static str, state: JobState) -> Json<Taken> {
    Json(Taken {
        success: true,
        message,
        job_status: Some(state.into()),
    })
}
