//! schemathesis against the OpenAPI document, with all of its checks: requests that the document allows
//! and requests that it forbids, each answer compared with what the document says. Its Python
//! environment is built by the agent's own store from a lock and stays in cargo's folder for tests.

use std::{path::Path, process::Command};

use serde_json::Value;
use tests::cluster::{Cluster, CoordinatorSetup, EMAIL, PASSWORD};
use trainyard_agent::environment::EnvironmentStore;

use crate::{TRAINYARD, text};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/python/fuzz");

/// Calls that end the caller's own session or account: each runs by itself, in a cluster of its own.
const OWN: [&str; 6] = [
    "POST /api/v1/auth/logout",
    "POST /api/v1/auth/keys/rotate",
    "PUT /api/v1/auth/password",
    "PUT /api/v1/users/{id}",
    "PATCH /api/v1/users/{id}",
    "PUT /api/v1/users/{id}/password",
];

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let folder = Path::new(FOLDER);
    let store = EnvironmentStore::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz"));
    let environment = store.prepare(folder, &mut |_| {}).await;
    let python = environment.expect("its environment is built").python;
    let cluster = Cluster::start_with(TRAINYARD, setup()).await;
    let others: Vec<_> = OWN
        .iter()
        .flat_map(|name| ["--exclude-name", *name])
        .collect();
    run(&cluster, &python, &others).await;
    for name in OWN {
        let cluster = Cluster::start_with(TRAINYARD, setup()).await;
        run(&cluster, &python, &["--include-name", name]).await;
    }
}

/// More accounts are registered here than by people from one address.
fn setup() -> CoordinatorSetup {
    let name = "TRAINYARD__LOGIN__REGISTRATIONS_PER_ADDRESS".to_owned();
    CoordinatorSetup {
        variables: [(name, "1000000".to_owned())].into(),
        ..CoordinatorSetup::default()
    }
}

async fn run(cluster: &Cluster, python: &Path, which: &[&str]) {
    let token = log_in(cluster).await;
    let mut command = Command::new(python);
    command
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(Path::new(FOLDER).join("schemathesis.toml"))
        .args(["run", &format!("{}/api/v1/openapi.json", cluster.url())])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        // Bounded and the same each time.
        .args(["--checks", "all", "--max-examples", "10", "--seed", "7"])
        .args(["--continue-on-failure", "--no-color", "--warnings", "off"])
        .args(which)
        .current_dir(cluster.path(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("XDG_CONFIG_HOME", cluster.path("home"));
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ended
        .expect("it is waited for")
        .expect("schemathesis starts");
    let said = text(&output.stdout);
    let complaint = text(&output.stderr);
    assert!(output.status.success(), "{which:?}\n{said}\n{complaint}");
    // A run without any request would succeed as well.
    assert!(said.contains(" generated"), "{which:?}\n{said}");
}

/// A token of the run's own session.
async fn log_in(cluster: &Cluster) -> String {
    let form = [("username", EMAIL), ("password", PASSWORD)];
    let request = reqwest::Client::new().post(format!("{}/api/v1/auth/login", cluster.url()));
    let answer = request.form(&form).send().await.expect("it answers");
    let tokens: Value = answer.json().await.expect("JSON");
    let token = tokens.get("access_token").and_then(Value::as_str);
    token.expect("the login succeeds").to_owned()
}
