//! The HTTP contract as a foreign client sees it: pytest and requests (tests/python/conformance)
//! against a coordinator and an agent of real processes. Its Python environment is built by the
//! agent's own store from a lock and stays in cargo's folder for tests.

use std::{path::Path, process::Command};

use tests::cluster::{Cluster, EMAIL, PASSWORD};
use trainyard_agent::environment::EnvironmentStore;

use crate::{TRAINYARD, text};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_meets_the_whole_contract() {
    let suite = Path::new(ROOT).join("tests/python/conformance");
    let store = EnvironmentStore::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance"));
    let environment = store.prepare(&suite, &mut |_| {}).await;
    let python = environment.expect("its environment is built").python;
    let mut cluster = Cluster::start(TRAINYARD).await;
    // One GPU, which the suite holds, so that a job that asks for one stays pending.
    let machine = ["--slots", "8", "--simulate-gpus", "1xA100-80GB"];
    cluster.agent("one", &machine).await;
    let mut command = Command::new(python);
    command
        .args(["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"])
        .arg(&suite)
        .current_dir(cluster.path(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BASE_URL", cluster.url())
        .env("EMAIL", EMAIL)
        .env("PASSWORD", PASSWORD)
        .env("TRAINYARD_BIN", TRAINYARD)
        .env("XDG_CONFIG_HOME", cluster.path("home"));
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ended.expect("it is waited for").expect("pytest starts");
    let said = text(&output.stdout);
    let complaint = text(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    // An empty suite would succeed as well.
    assert!(said.contains(" passed"), "{said}");
}
