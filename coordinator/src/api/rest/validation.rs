//! Validation results, as trainers reported them.

use axum::{Json, extract::State};
use serde_json::{Map, Value, json};
use trainyard_core::ids::JobId;

use super::{
    callbacks::validation_id,
    error::{Answer, Refusal},
    request::{Id, User},
};
use crate::api::Service;

/// What a result always has, in this order.
const KEYS: [&str; 11] = [
    "task_type",
    "primary_metric_name",
    "primary_metric_value",
    "overall_loss",
    "metrics",
    "per_class_metrics",
    "confusion_matrix",
    "pr_curves",
    "class_names",
    "visualization_urls",
    "image_results",
];

pub(super) async fn results(State(service): State<Service>, _: User, Id(job): Id) -> Answer {
    let results = stored(&service, job)?;
    Ok(Json(json!({
        "job_id": job,
        "total_count": results.len(),
        "results": results,
    })))
}

/// The numbers of each epoch, without what is large.
pub(super) async fn summary(State(service): State<Service>, _: User, Id(job): Id) -> Answer {
    let small = [
        "epoch",
        "primary_metric_name",
        "primary_metric_value",
        "overall_loss",
    ];
    let epochs: Vec<Value> = stored(&service, job)?
        .iter()
        .map(|result| small.iter().map(|key| (*key, field(result, key))).collect())
        .collect();
    Ok(Json(json!({
        "job_id": job,
        "total_epochs": epochs.len(),
        "last_epoch": epochs.last().and_then(|last| last.get("epoch")),
        "epochs": epochs,
    })))
}

fn stored(service: &Service, job: JobId) -> Result<Vec<Map<String, Value>>, Refusal> {
    let rows = service.validations(job)?;
    let result = |(epoch, text): (u32, String)| {
        // It was read as JSON before it was stored.
        let said: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
        let mut row = Map::new();
        row.insert("id".to_owned(), json!(validation_id(job, epoch)));
        row.insert("job_id".to_owned(), json!(job));
        row.insert("epoch".to_owned(), json!(epoch));
        row.extend(KEYS.map(|key| (key.to_owned(), field(&said, key))));
        row
    };
    Ok(rows.into_iter().map(result).collect())
}

fn field(object: &Map<String, Value>, key: &str) -> Value {
    object.get(key).cloned().unwrap_or_default()
}
