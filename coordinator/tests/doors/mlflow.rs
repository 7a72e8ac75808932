//! As much of an MLflow server as it takes to see what is sent when it fails. The real one is in the
//! suites.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde_json::{Value, json};

use crate::receiver::{Call, Receiver};

/// What it was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) experiments: Vec<String>,
    /// Tags by run.
    pub(crate) runs: BTreeMap<String, BTreeMap<String, String>>,
    /// Key, step, time and value, as MLflow tells metrics apart.
    pub(crate) metrics: BTreeSet<(String, u64, i64, String)>,
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) status: BTreeMap<String, String>,
    /// Key, step and value of metrics by run.
    pub(crate) points: BTreeMap<String, BTreeSet<(String, u64, String)>>,
    /// The run whose every call is answered with this status.
    pub(crate) ill: Option<(String, u16)>,
    /// A batch with something of this key is refused.
    pub(crate) refused: Option<String>,
}

/// The server and what it was told.
pub(crate) struct Mlflow {
    pub(crate) receiver: Receiver,
    pub(crate) told: Arc<Mutex<Told>>,
}

impl Mlflow {
    pub(crate) async fn at(address: &str) -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let notes = Arc::clone(&told);
        let answers = move |call: &Call| answer(&mut notes.lock().unwrap(), call);
        Self {
            receiver: Receiver::at(address, answers).await,
            told,
        }
    }
}

fn answer(told: &mut Told, call: &Call) -> Response {
    let body: Value = serde_json::from_str(&call.body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    if let Some(refusal) = refusal(told, &text("run_id"), call) {
        return refusal;
    }
    match call.path.trim_start_matches("/api/2.0/mlflow/") {
        "experiments/get-by-name" => match told.experiments.first() {
            Some(_) => Json(json!({"experiment": {"experiment_id": "1"}})).into_response(),
            None => {
                let words = json!({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"});
                (StatusCode::NOT_FOUND, Json(words)).into_response()
            }
        },
        "experiments/create" => {
            told.experiments.push(text("name"));
            Json(json!({"experiment_id": "1"})).into_response()
        }
        "runs/create" => {
            let id = format!("run-{}", told.runs.len() + 1);
            told.runs.insert(id.clone(), pairs(&body["tags"]));
            Json(json!({"run": {"info": {"run_id": id}}})).into_response()
        }
        "runs/search" => {
            let filter = text("filter");
            let label = |tags: &BTreeMap<String, String>| tags["trainyard.label"].clone();
            let found = told
                .runs
                .iter()
                .filter(|(_, tags)| filter.contains(&label(tags)));
            let runs: Vec<_> = found
                .map(|(id, _)| json!({"info": {"run_id": id}}))
                .collect();
            Json(json!({"runs": runs})).into_response()
        }
        "runs/log-batch" => {
            log(told, &text("run_id"), &body);
            Json(json!({})).into_response()
        }
        "runs/update" => {
            told.status.insert(text("run_id"), text("status"));
            Json(json!({})).into_response()
        }
        path => panic!("an unknown call: {path}"),
    }
}

/// What it answers whatever it is asked.
fn refusal(told: &Told, run: &str, call: &Call) -> Option<Response> {
    if let Some((_, status)) = told.ill.as_ref().filter(|(ill, _)| ill == run) {
        return Some(StatusCode::from_u16(*status).unwrap().into_response());
    }
    let key = told.refused.as_ref()?;
    if !call.body.contains(&format!(r#""key":"{key}""#)) {
        return None;
    }
    let words = json!({"error_code": "INVALID_PARAMETER_VALUE", "message": "too strange"});
    Some((StatusCode::BAD_REQUEST, Json(words)).into_response())
}

fn log(told: &mut Told, run: &str, body: &Value) {
    let metrics = body["metrics"].as_array().cloned().unwrap_or_default();
    let points = told.points.entry(run.to_owned()).or_default();
    points.extend(metrics.iter().map(|metric| {
        let key = metric["key"].as_str().unwrap().to_owned();
        (
            key,
            metric["step"].as_u64().unwrap(),
            metric["value"].to_string(),
        )
    }));
    told.metrics.extend(metrics.iter().map(|metric| {
        let key = metric["key"].as_str().unwrap().to_owned();
        let step = metric["step"].as_u64().unwrap();
        let at = metric["timestamp"].as_i64().unwrap();
        (key, step, at, metric["value"].to_string())
    }));
    told.params.extend(pairs(&body["params"]));
    if let Some(tags) = told.runs.get_mut(run) {
        tags.extend(pairs(&body["tags"]));
    }
}

fn pairs(list: &Value) -> BTreeMap<String, String> {
    let list = list.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|pair| (text(&pair["key"]), text(&pair["value"])))
        .collect()
}
