//! Jobs, points and lines as the contract shows them: every key always there, in its order.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
    record::{LogLine, LogStream},
    time::Timestamp,
};
use utoipa::ToSchema;

use crate::store::{StoredLine, StoredPoint};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// Waits for a place, or is about to start.
    Pending,
    /// Its trainer runs, or its last records are being stored.
    Running,
    /// Ended well.
    Completed,
    /// Ended ill.
    Failed,
    /// Stopped by a user.
    Cancelled,
}

impl From<JobState> for Status {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Pending | JobState::Queued | JobState::Starting => Self::Pending,
            JobState::Running | JobState::Finishing => Self::Running,
            JobState::Completed => Self::Completed,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

/// A job. What is not known is null.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TrainingJob {
    #[schema(value_type = u64)]
    id: JobId,
    session_id: Option<i64>,
    project_id: Option<i64>,
    project_name: Option<String>,
    experiment_name: Option<String>,
    tags: Option<Vec<String>>,
    notes: Option<String>,
    mlflow_run_id: Option<String>,
    workflow_id: String,
    dataset_snapshot_id: Option<String>,
    framework: String,
    model_name: String,
    task_type: String,
    num_classes: Option<u32>,
    custom_docker_image: Option<String>,
    dataset_path: String,
    dataset_format: String,
    output_dir: String,
    epochs: u32,
    batch_size: u32,
    learning_rate: f64,
    #[schema(value_type = Option<Object>)]
    advanced_config: Option<Value>,
    status: Status,
    error_message: Option<String>,
    process_id: Option<u32>,
    final_accuracy: Option<f64>,
    best_checkpoint_path: Option<String>,
    last_checkpoint_path: Option<String>,
    primary_metric: Option<String>,
    primary_metric_mode: Option<String>,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
}

impl TrainingJob {
    /// The job, whose project has this name.
    pub(super) fn of(job: Job, project_name: Option<String>) -> Self {
        let (metric, mode) = job.spec.primary();
        let final_accuracy = final_accuracy(&job);
        let error_message = error_message(&job);
        let spec = job.spec;
        Self {
            id: job.id,
            session_id: spec.session_id,
            project_id: spec.project_id,
            project_name,
            experiment_name: Some(spec.name).filter(|name| !name.is_empty()),
            tags: spec.tags,
            notes: spec.notes,
            mlflow_run_id: job.mlflow_run_id,
            workflow_id: format!("training-job-{}", job.id),
            dataset_snapshot_id: job.snapshot_id,
            framework: spec.framework,
            model_name: spec.model_name,
            task_type: spec.task_type,
            num_classes: spec.num_classes,
            custom_docker_image: spec.custom_docker_image,
            dataset_path: spec.dataset_id.or(spec.dataset_path).unwrap_or_default(),
            dataset_format: spec.dataset_format,
            output_dir: format!("training-jobs/{}", job.id),
            epochs: spec.epochs,
            batch_size: spec.batch_size,
            learning_rate: spec.learning_rate,
            advanced_config: spec.advanced_config,
            status: job.state.into(),
            error_message,
            process_id: None,
            final_accuracy,
            best_checkpoint_path: job.best_checkpoint.map(|checkpoint| checkpoint.path),
            last_checkpoint_path: job.last_checkpoint.map(|checkpoint| checkpoint.path),
            primary_metric: Some(metric),
            primary_metric_mode: Some(mode),
            created_at: job.created_at.to_naive_iso(),
            started_at: job.started_at.map(Timestamp::to_naive_iso),
            completed_at: job.ended_at.map(Timestamp::to_naive_iso),
        }
    }
}

/// As the trainer reported it at its end; of a completed job also as it reported it last.
fn final_accuracy(job: &Job) -> Option<f64> {
    let completed = job.state == JobState::Completed;
    let newest = job.progress.as_ref().filter(|_| completed);
    let newest = newest.and_then(|report| report.values.get("accuracy"));
    job.final_metrics.get("accuracy").or(newest).copied()
}

fn error_message(job: &Job) -> Option<String> {
    let ill = matches!(job.state, JobState::Failed | JobState::Cancelled);
    let outcome = job.outcome.as_ref().filter(|_| ill)?;
    Some(outcome.message.clone())
}

/// A point.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MetricRow {
    id: u64,
    #[schema(value_type = u64)]
    job_id: JobId,
    epoch: u32,
    step: Option<u64>,
    loss: Option<f64>,
    accuracy: Option<f64>,
    learning_rate: Option<f64>,
    // What is not finite is null.
    #[schema(value_type = Option<BTreeMap<String, Option<f64>>>)]
    extra_metrics: Option<BTreeMap<String, f64>>,
    checkpoint_path: Option<String>,
    created_at: String,
}

impl MetricRow {
    pub(super) fn of(job: JobId, point: StoredPoint) -> Self {
        let report = point.progress;
        let value = |name: &str| report.values.get(name).copied();
        Self {
            id: point.id,
            job_id: job,
            epoch: report.epoch,
            step: report.step,
            loss: value("loss"),
            accuracy: value("accuracy"),
            learning_rate: value("learning_rate"),
            checkpoint_path: report.checkpoint.map(|checkpoint| checkpoint.path),
            created_at: report.at.to_naive_iso(),
            extra_metrics: Some(report.values).filter(|values| !values.is_empty()),
        }
    }
}

/// A line of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogRow {
    id: u64,
    #[schema(value_type = u64)]
    job_id: JobId,
    log_type: LogType,
    content: String,
    created_at: String,
}

impl LogRow {
    pub(super) fn of(job: JobId, row: StoredLine) -> Self {
        Self {
            id: row.id,
            job_id: job,
            log_type: log_type(&row.line),
            content: row.line.text,
            created_at: row.line.at.to_naive_iso(),
        }
    }
}

/// Old clients know two kinds of lines: our own words are output, a trainer's errors are errors.
pub(super) fn log_type(line: &LogLine) -> LogType {
    match line.stream {
        LogStream::Stdout | LogStream::System => LogType::Stdout,
        LogStream::Stderr => LogType::Stderr,
        LogStream::Callback if matches!(line.level.as_str(), "ERROR" | "CRITICAL") => {
            LogType::Stderr
        }
        LogStream::Callback => LogType::Stdout,
    }
}

/// The two kinds of lines that the contract knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogType {
    /// Output.
    Stdout,
    /// Errors.
    Stderr,
}

impl LogType {
    /// The names in a query.
    pub(super) const NAMES: [&str; 2] = ["stdout", "stderr"];

    /// Reads a name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            _ => None,
        }
    }
}
