//! A ClearML API server that takes only what the `clearml` package says of its API: see
//! `tests/python/clearml/server.py`. Its environment is made by `.ci/run` below `target/ci`;
//! `TRAINYARD_CLEARML` names another Python.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{needs, process::Process, wait::until_within};

const SERVER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/python/clearml/server.py"
);
/// The package imports a lot.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// The Python that has the package, where it is installed.
#[must_use]
pub fn python() -> Option<PathBuf> {
    needs::program("TRAINYARD_CLEARML", "env-clearml/bin/python")
}

/// A server; it ends when it is dropped.
#[derive(Debug)]
pub struct Clearml {
    port: u16,
    _process: Process,
}

impl Clearml {
    /// The key and secret that it knows.
    pub const KEYS: (&'static str, &'static str) = ("KEY", "s3cret");

    /// Starts one at a free port.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(python: &Path, folder: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut command = Command::new(python);
        command
            .arg(SERVER)
            .arg(port.to_string())
            .current_dir(folder)
            .env("HOME", folder)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let server = Self {
            port,
            _process: Process::start(&mut command, &folder.join("clearml.log")),
        };
        until_within(STARTS_WITHIN, "ClearML serves", async || {
            server.look().await
        })
        .await;
        server
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it was told.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn told(&self) -> Value {
        self.look().await.expect("it says what it was told")
    }

    async fn look(&self) -> Option<Value> {
        let answer = reqwest::get(format!("{}/told", self.url())).await.ok()?;
        answer.json().await.ok()
    }
}
