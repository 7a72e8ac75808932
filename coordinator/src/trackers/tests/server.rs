//! A tracker's server for tests: MLflow and ClearML at one address, told apart by their paths.
//!
//! Owns what it was told. It holds no connection open, so it is away as soon as nothing serves it. What a request
//! must look like is checked elsewhere, by the suites with the real server and the real schemas.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, Uri, header},
    response::IntoResponse,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use trainyard_core::time::Timestamp;

use crate::clock;

/// Keeps key and step of what it is told, and may be ill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) metrics: Arc<Mutex<Vec<(String, u64)>>>,
    pub(crate) ended: Arc<AtomicBool>,
    pub(crate) ill: Arc<AtomicBool>,
    /// What ClearML gave out, and until when it is good.
    pub(crate) tokens: Arc<Mutex<Vec<(String, Timestamp)>>>,
}

impl Server {
    /// It ends with the set.
    pub(crate) async fn at(&self, address: &str, serving: &mut JoinSet<()>) -> String {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        let answer = move |uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let (status, answer) = server.answer(uri.path(), &headers, &body);
            (status, [(header::CONNECTION, "close")], Json(answer)).into_response()
        };
        let router = Router::new().fallback(answer);
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}")
    }

    fn answer(&self, path: &str, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Value) {
        if self.ill.load(Ordering::SeqCst) {
            return (StatusCode::SERVICE_UNAVAILABLE, Value::Null);
        }
        match path.strip_prefix("/api/2.0/mlflow/") {
            Some(call) => (StatusCode::OK, self.mlflow(call, body)),
            None => self.clearml(path.trim_start_matches('/'), headers, body),
        }
    }

    fn mlflow(&self, call: &str, body: &[u8]) -> Value {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let metrics = body["metrics"].as_array().cloned().unwrap_or_default();
        for metric in &metrics {
            let key = metric["key"].as_str().unwrap();
            self.told(key, &metric["step"]);
        }
        match call {
            "experiments/get-by-name" => json!({"experiment": {"experiment_id": "1"}}),
            "runs/create" => json!({"run": {"info": {"run_id": "run-1"}}}),
            "runs/update" => {
                self.ended.store(true, Ordering::SeqCst);
                json!({})
            }
            _ => json!({}),
        }
    }

    fn clearml(&self, call: &str, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Value) {
        if call != "auth.login" && !self.knows(headers) {
            let meta =
                json!({"result_code": 401, "result_msg": "Unauthorized (token has expired)"});
            return (StatusCode::UNAUTHORIZED, json!({"meta": meta}));
        }
        let data = match call {
            "auth.login" => self.login(body),
            "projects.get_all" => json!({"projects": []}),
            "tasks.get_all" => json!({"tasks": []}),
            "projects.create" | "tasks.create" => json!({"id": "id-1"}),
            "events.add_batch" => {
                for event in body
                    .split(|byte| *byte == b'\n')
                    .filter(|line| !line.is_empty())
                {
                    let event: Value = serde_json::from_slice(event).unwrap();
                    assert_eq!(event["task"], "id-1");
                    self.told(event["metric"].as_str().unwrap(), &event["iter"]);
                }
                json!({})
            }
            "tasks.completed" => {
                self.ended.store(true, Ordering::SeqCst);
                json!({})
            }
            _ => json!({}),
        };
        let answer = json!({"meta": {"result_code": 200}, "data": data});
        (StatusCode::OK, answer)
    }

    fn login(&self, body: &[u8]) -> Value {
        let body: Value = serde_json::from_slice(body).unwrap();
        let life = Duration::from_secs(body["expiration_sec"].as_u64().unwrap());
        let mut tokens = self.tokens.lock().unwrap();
        let token = format!("token-{}", tokens.len());
        tokens.push((token.clone(), clock::now().plus(life)));
        json!({"token": token})
    }

    /// Whether a request carries a token that is good.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).unwrap();
        let given = given.to_str().unwrap().trim_start_matches("Bearer ");
        let tokens = self.tokens.lock().unwrap();
        let now = clock::now();
        tokens
            .iter()
            .any(|(token, until)| token == given && now < *until)
    }

    fn told(&self, key: &str, step: &Value) {
        let told = (key.to_owned(), step.as_u64().unwrap());
        self.metrics.lock().unwrap().push(told);
    }
}
