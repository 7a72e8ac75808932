//! What a trainer reports to the coordinator itself. Answered once it is on disk.

use axum::{Json, extract::State};
use serde_json::{Value, json};
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
    record::Record,
};
use trainyard_proto::http;

use super::{error::Answer, request::Report};
use crate::{
    actors::job::DirectReport,
    api::{ApiError, Service},
    clock,
};

pub(super) async fn progress(State(service): State<Service>, report: Report) -> Answer {
    let records = http::progress(&report.body)?.records(clock::now());
    let job = store(&service, report, records).await?;
    Ok(taken("Progress received", job.state))
}

pub(super) async fn completion(State(service): State<Service>, report: Report) -> Answer {
    let record = http::completion(&report.body)?.record();
    let job = store(&service, report, vec![record]).await?;
    Ok(taken("Completion received", job.state))
}

pub(super) async fn log(State(service): State<Service>, report: Report) -> Answer {
    let records = http::log(&report.body)?.records(clock::now());
    let job = store(&service, report, records).await?;
    Ok(taken("Log received", job.state))
}

pub(super) async fn validation(State(service): State<Service>, report: Report) -> Answer {
    let body = http::validation(&report.body)?;
    let epoch = body.epoch;
    let job = store(&service, report, vec![body.record()]).await?.id;
    Ok(Json(json!({
        "status": "success",
        "validation_result_id": validation_id(job, epoch),
        "job_id": job,
        "epoch": epoch,
    })))
}

/// One row per job and epoch, so its number is made of both.
pub(super) fn validation_id(job: JobId, epoch: u32) -> u64 {
    job.0.saturating_mul(1_000_000).saturating_add(epoch.into())
}

async fn store(service: &Service, report: Report, records: Vec<Record>) -> Result<Job, ApiError> {
    let said = DirectReport { records };
    service.report(report.job, report.secret, said).await
}

fn taken(message: &str, state: JobState) -> Json<Value> {
    let status = state.contract_name();
    Json(json!({"success": true, "message": message, "job_status": status}))
}
