//! What the bodies of trainers' reports look like, for the document of this door.
//!
//! Only described here: they are read in `trainyard_proto::http`, which the agents' endpoint shares.

#![expect(
    dead_code,
    reason = "these types describe bodies that are read field by field"
)]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// How far a training is.
#[derive(Debug, ToSchema)]
pub(super) struct ProgressRequest {
    /// That of the path.
    job_id: i64,
    status: String,
    #[schema(minimum = 0)]
    current_epoch: i64,
    #[schema(minimum = 1)]
    total_epochs: i64,
    /// Within the epoch.
    #[schema(minimum = 0)]
    step: Option<i64>,
    #[schema(minimum = 0, maximum = 100)]
    progress_percent: Option<f64>,
    metrics: Option<MetricsRequest>,
    #[schema(max_length = 4096)]
    checkpoint_path: Option<String>,
    #[schema(max_length = 4096)]
    best_checkpoint_path: Option<String>,
    epoch_duration_seconds: Option<f64>,
    estimated_time_remaining: Option<f64>,
    /// Goes into the log.
    logs: Option<String>,
    error_message: Option<String>,
    traceback: Option<String>,
}

/// Metrics of an epoch.
#[derive(Debug, ToSchema)]
struct MetricsRequest {
    loss: Option<f64>,
    accuracy: Option<f64>,
    learning_rate: Option<f64>,
    /// Others by name; those that are no numbers are ignored.
    extra_metrics: Option<BTreeMap<String, Value>>,
}

/// How a training ended.
#[derive(Debug, ToSchema)]
pub(super) struct CompletionRequest {
    /// That of the path.
    job_id: i64,
    status: String,
    #[schema(minimum = 0)]
    total_epochs_completed: i64,
    final_metrics: Option<MetricsRequest>,
    best_metrics: Option<MetricsRequest>,
    best_epoch: Option<i64>,
    final_checkpoint_path: Option<String>,
    best_checkpoint_path: Option<String>,
    last_checkpoint_path: Option<String>,
    model_artifacts_path: Option<String>,
    /// A run at MLflow of the trainer's own; shown on the job unless a tracker has made one.
    mlflow_run_id: Option<String>,
    total_duration_seconds: Option<Value>,
    error_message: Option<String>,
    traceback: Option<String>,
    /// Goes before `status`: 0 is success, anything else is not.
    exit_code: Option<i32>,
}

/// A line for the log.
#[derive(Debug, ToSchema)]
pub(super) struct LogRequest {
    /// That of the path.
    job_id: i64,
    event_type: String,
    message: String,
    /// INFO when it is left out.
    #[schema(max_length = 100)]
    level: Option<String>,
    /// Shown behind the message.
    data: Option<Value>,
    timestamp: Option<String>,
}

/// What a validation found.
#[derive(Debug, ToSchema)]
pub(super) struct ValidationRequest {
    /// That of the path.
    job_id: i64,
    #[schema(minimum = 0, maximum = 999_999)]
    epoch: i64,
    task_type: String,
    #[schema(max_length = 200)]
    primary_metric_name: Option<String>,
    primary_metric_value: Option<f64>,
    overall_loss: Option<f64>,
    metrics: Option<Value>,
    per_class_metrics: Option<Value>,
    confusion_matrix: Option<Value>,
    pr_curves: Option<Value>,
    class_names: Option<Value>,
    visualization_urls: Option<Value>,
    image_results: Option<Value>,
}
