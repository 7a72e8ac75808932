//! Private keys of TLS, of the coordinator and of an agent, and a tracker that takes a password: none of
//! them stands in a log.

use std::fs;

use serde_json::Value;
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, shell},
    wait::until,
};

use super::{
    hides,
    outside::{Outside, PASSWORD, PASSWORD_IN_BASE64},
};
use crate::{TRAINYARD, text};

#[tokio::test(flavor = "multi_thread")]
async fn no_private_key_and_no_password_of_a_tracker_stands_in_any_log() {
    let outside = Outside::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let mut init = std::process::Command::new(TRAINYARD);
    init.args(["tls", "init", "--host", "127.0.0.1", "--agent", "one"]);
    let made = init.arg("--dir").arg(folder.path()).output();
    assert!(made.expect("it starts").status.success());
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
        file("one.pem"),
        "--tls-key".to_owned(),
        file("one.key"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cluster
        .agent_with("one", &flags, &[("TRAINYARD_LOG", "trace")])
        .await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(shell("echo done")).await;
    jobs.ends(id).await;
    until("MLflow has refused", async || {
        let output = cluster.cli(&["trackers", "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
        let error = said.pointer("/trackers/0/last_error");
        error?.as_str().filter(|words| !words.is_empty()).map(drop)
    })
    .await;
    cluster.coordinator().stop().await;
    let log = cluster.coordinator().log();
    let agent = cluster.agent_process("one").log();
    assert!(log.contains("TRACE") && agent.contains("TRACE"));
    let mut secrets = vec![
        ("MLflow's password".to_owned(), PASSWORD.to_owned()),
        ("MLflow's header".to_owned(), PASSWORD_IN_BASE64.to_owned()),
    ];
    for name in ["ca.key", "server.key", "one.key"] {
        let pem = fs::read_to_string(path(name)).expect("it was made");
        // Its first row is the same in all keys of a kind, what follows here is the number itself.
        let mut rows = pem.lines().filter(|row| !row.starts_with('-'));
        let row = rows.nth(1).expect("a key");
        let start = row.split_at(24).0;
        secrets.push((name.to_owned(), start.to_owned()));
    }
    for (whose, log) in [("coordinator", &log), ("agent", &agent)] {
        for (name, secret) in &secrets {
            hides(log, whose, (name, secret));
        }
        hides(log, whose, ("a private key", "PRIVATE KEY"));
    }
}
