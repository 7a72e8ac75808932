//! Private keys of TLS, of the coordinator and of an agent, a tracker that takes a password, and signed ways to a
//! store that refuses: none of them stands in a log.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, shell},
    wait::until,
};

use super::{
    hides, hides_signatures, lines,
    outside::{Outside, PASSWORD, PASSWORD_IN_BASE64},
    stores::AZURE_KEY,
};
use crate::{TRAINYARD, text};

/// An authority, and what it made for the coordinator and an agent.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut init = Command::new(TRAINYARD);
    init.args(["tls", "init", "--host", "127.0.0.1", "--agent", "one"]);
    let made = init.arg("--dir").arg(folder.path()).output();
    assert!(made.expect("it starts").status.success());
    folder
}

/// Some of the number that a key is. The first row of a file is the same in all keys of a kind.
fn number(key: &Path) -> String {
    row(&fs::read_to_string(key).expect("it was made"))
}

/// As [`number`], of the text of a file.
pub(super) fn row(pem: &str) -> String {
    let mut rows = pem.lines().filter(|row| !row.starts_with('-'));
    let row = rows.nth(1).expect("a key");
    row.split_at(24).0.to_owned()
}

/// Waits until MLflow was asked.
async fn refused(cluster: &Cluster) {
    until("MLflow has refused", async || {
        let output = cluster.cli(&["trackers", "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
        let all = said.get("trackers").and_then(Value::as_array)?;
        let failed = |one: &Value| {
            let words = one.get("last_error").and_then(Value::as_str);
            words.is_some_and(|words| !words.is_empty())
        };
        all.iter().any(failed).then_some(())
    })
    .await;
}

/// A job whose checkpoint is refused by the store that its way leads to.
async fn keeps(cluster: &Cluster, outside: &Outside) {
    let mut jobs = Jobs::of(cluster).await;
    let script = "printf weights > $CHECKPOINT_DIR/best.pt";
    let id = jobs.submit(shell(script)).await;
    jobs.ends(id).await;
    // Its way to the store: the first time the connection breaks, then it is refused.
    assert!(
        outside.was_asked("sig="),
        "nothing was sent by a signed way"
    );
    let told = lines(&mut jobs, id).await;
    assert!(
        told.contains("best.pt"),
        "it is told what was not stored: {told}"
    );
    hides_signatures(&told, "job");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_private_key_and_no_password_of_a_tracker_stands_in_any_log() {
    let outside = Outside::start().await;
    let folder = certificates();
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str| path(name).display().to_string();
    let mut setup = CoordinatorSetup {
        variables: outside.by_password(),
        ..CoordinatorSetup::default()
    };
    let own = [
        ("TRAINYARD_LOG", "trace".to_owned()),
        ("TRAINYARD__TLS__CERT", file("server.pem")),
        ("TRAINYARD__TLS__KEY", file("server.key")),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value));
    setup.variables.extend(own);
    setup.tls.ca = Some(path("ca.pem"));
    let mut cluster = Cluster::start_with(TRAINYARD, setup).await;
    let flags = [
        "--slots".to_owned(),
        "1".to_owned(),
        "--tls-cert".to_owned(),
        file("agent-one.pem"),
        "--tls-key".to_owned(),
        file("agent-one.key"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cluster
        .agent_with("one", &flags, &[("TRAINYARD_LOG", "trace")])
        .await;
    keeps(&cluster, &outside).await;
    refused(&cluster).await;
    cluster.coordinator().stop().await;
    let log = cluster.coordinator().log();
    let agent = cluster.agent_process("one").log();
    assert!(log.contains("TRACE") && agent.contains("TRACE"));
    let mut secrets = vec![
        ("MLflow's password".to_owned(), PASSWORD.to_owned()),
        ("MLflow's header".to_owned(), PASSWORD_IN_BASE64.to_owned()),
        ("Azure's key".to_owned(), AZURE_KEY.to_owned()),
    ];
    for name in ["ca.key", "server.key", "agent-one.key"] {
        secrets.push((name.to_owned(), number(&path(name))));
    }
    for (whose, log) in [("coordinator", &log), ("agent", &agent)] {
        for (name, secret) in &secrets {
            hides(log, whose, (name, secret));
        }
        hides(log, whose, ("a private key", "PRIVATE KEY"));
        hides_signatures(log, whose);
    }
}
