//! A real MLflow server, as it comes from PyPI, with SQLite in a folder of its own.
//!
//! Its environment is made by `.ci/run` below `target/ci`; `TRAINYARD_MLFLOW` names another program.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::{Signal, killpg};
use reqwest::Client;
use serde_json::{Value, json};

use crate::{needs, process::Process, wait::until_within};

/// It imports a lot, and makes its tables at the first start.
const STARTS_WITHIN: Duration = Duration::from_secs(240);

/// The program, where it is installed.
#[must_use]
pub fn program() -> Option<PathBuf> {
    needs::program("TRAINYARD_MLFLOW", "env-mlflow/bin/mlflow")
}

/// A server; all of it ends when it is dropped.
#[derive(Debug)]
pub struct Mlflow {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    client: Client,
    process: Option<Process>,
}

impl Mlflow {
    /// Starts one at a free port.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(program: PathBuf, folder: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut mlflow = Self {
            program,
            folder: folder.to_path_buf(),
            port,
            client: Client::new(),
            process: None,
        };
        mlflow.again().await;
        mlflow
    }

    /// Starts it at the same port, on the same data.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn again(&mut self) {
        let data = format!("sqlite:///{}/mlflow.db", self.folder.display());
        let mut command = Command::new(&self.program);
        command
            .args(["server", "--host", "127.0.0.1", "--workers", "1", "--port"])
            .arg(self.port.to_string())
            .args(["--backend-store-uri", &data, "--default-artifact-root"])
            .arg(self.folder.join("artifacts"))
            // Its own jobs are not needed, and slow to start.
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .current_dir(&self.folder)
            .process_group(0);
        let process = Process::start(&mut command, &self.folder.join("mlflow.log"));
        self.process = Some(process);
        until_within(STARTS_WITHIN, "MLflow serves", async || {
            let body = json!({"max_results": 1});
            self.post("experiments/search", &body).await
        })
        .await;
    }

    /// Ends it and its workers; its data stays.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            killpg(process.pid(), Signal::SIGKILL).ok();
        }
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One call; none when it does not answer with success.
    pub async fn post(&self, path: &str, body: &Value) -> Option<Value> {
        let url = format!("{}/api/2.0/mlflow/{path}", self.url());
        let answer = self.client.post(url).json(body).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// A read; none when it does not answer with success.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = format!("{}/api/2.0/mlflow/{path}", self.url());
        let answer = self.client.get(url).query(query).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// Step and value of each point of a metric, in order.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn history(&self, run: &str, metric: &str) -> Vec<(i64, f64)> {
        let query = [("run_id", run), ("metric_key", metric)];
        let said = self.get("metrics/get-history", &query).await;
        let said = said.expect("MLflow tells the history");
        let points = said.get("metrics").and_then(Value::as_array).cloned();
        let point = |point: &Value| {
            let step = point.get("step").and_then(Value::as_i64);
            let value = point.get("value").and_then(Value::as_f64);
            (step.unwrap_or(0), value.unwrap_or(f64::NAN))
        };
        let mut points: Vec<_> = points.unwrap_or_default().iter().map(point).collect();
        points.sort_by_key(|(step, _)| *step);
        points
    }

    /// A run with its data.
    ///
    /// # Panics
    /// When there is none.
    pub async fn run(&self, id: &str) -> Value {
        let said = self.get("runs/get", &[("run_id", id)]).await;
        let mut said = said.expect("MLflow has the run");
        said.get_mut("run").expect("a run").take()
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        self.stop();
    }
}
