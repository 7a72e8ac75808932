//! The cluster over TLS, and who is let in: real processes, certificates of `trainyard tls init`.

use std::{fs, path::PathBuf, process::Command};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, shell},
    process::Process,
    wait::until,
};
use trainyard_net::{ClientTls, Connection, Plain};
use trainyard_proto::v1::JobState;

use crate::{TRAINYARD, text};

/// A folder of certificates for loopback, and of agents.
struct Certificates(TempDir);

impl Certificates {
    fn make(agents: &[&str]) -> Self {
        let made = Self(tempfile::tempdir().expect("a folder"));
        let names = agents.iter().flat_map(|name| ["--agent", name]);
        made.init(&names.collect::<Vec<_>>());
        made
    }

    fn init(&self, arguments: &[&str]) {
        let mut command = Command::new(TRAINYARD);
        command.args([
            "tls",
            "init",
            "--host",
            "127.0.0.1",
            "--host",
            "localhost",
            "--dir",
        ]);
        let output = command.arg(self.0.path()).args(arguments).output();
        let output = output.expect("it starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A coordinator with the server's certificate and settings of one's own.
    async fn cluster(&self, settings: &[(&str, &str)]) -> Cluster {
        let mut setup = CoordinatorSetup::default();
        let own = [
            ("TRAINYARD__TLS__CERT", self.text("server.pem")),
            ("TRAINYARD__TLS__KEY", self.text("server.key")),
        ];
        let more = settings
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()));
        let all = own.into_iter().chain(more);
        setup.variables = all.map(|(key, value)| (key.to_owned(), value)).collect();
        setup.tls.ca = Some(self.path("ca.pem"));
        Cluster::start_with(TRAINYARD, setup).await
    }

    /// The flags of an agent's own certificate.
    fn flags(&self, stem: &str) -> [String; 4] {
        let of = |end: &str| self.text(&format!("{stem}.{end}"));
        [
            "--tls-cert".to_owned(),
            of("pem"),
            "--tls-key".to_owned(),
            of("key"),
        ]
    }
}

/// Runs a command that must fail, and returns its words and exit code.
fn failure(command: &mut Command) -> (String, Option<i32>) {
    let output = command.output().expect("it starts");
    assert!(!output.status.success(), "{}", text(&output.stdout));
    (text(&output.stderr), output.status.code())
}

/// Runs a client command that must succeed, and returns what it printed.
fn printed(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.cli(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

async fn runs_on(cluster: &Cluster) {
    let mut jobs = Jobs::of(cluster).await;
    let id = jobs.submit(shell("echo done")).await;
    assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_end_over_tls_by_command_line_grpc_and_http() {
    let certificates = Certificates::make(&[]);
    let mut cluster = certificates.cluster(&[]).await;
    for name in ["one", "two"] {
        cluster.agent(name, &["--slots", "1"]).await;
    }
    runs_on(&cluster).await;
    printed(&cluster, &["submit", "--wait", "--", "true"]);
    let nodes: Value =
        serde_json::from_str(&printed(&cluster, &["nodes", "--json"])).expect("JSON");
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(2));

    // HTTP/1.1 on the same port; gRPC above was HTTP/2.
    let http = cluster
        .connection()
        .http()
        .expect("a client")
        .build()
        .expect("a client");
    let url = format!("{}/api/v1/training/jobs/1", cluster.url());
    let answer = http
        .get(url)
        .bearer_auth(cluster.token())
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    let job: Value = answer.json().await.expect("JSON");
    assert_eq!(job["status"], "completed");

    // The login keeps the authority: it need not be said again.
    let mut login = cluster.command();
    login.args(["login", "--email", "admin@example.com", "--password-stdin"]);
    login.args(["--coordinator", &cluster.url()]);
    let password = cluster.path("password");
    fs::write(&password, "admin123").expect("it is written");
    login.stdin(fs::File::open(&password).expect("it is there"));
    let output = login.output().expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut later = cluster.command();
    later.env_remove("TRAINYARD_TLS_CA").arg("jobs");
    let output = later.output().expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_of_an_unknown_authority_is_not_spoken_to() {
    let (certificates, others) = (Certificates::make(&[]), Certificates::make(&[]));
    let cluster = certificates.cluster(&[]).await;
    let other_ca = others.path("ca.pem");
    let mut jobs = cluster.command();
    jobs.args(["jobs", "--coordinator", &cluster.url()]);
    let (said, code) = failure(jobs.env("TRAINYARD_TLS_CA", &other_ca));
    assert_eq!(code, Some(69), "{said}");
    assert!(
        said.contains("not trusted here") && said.contains("--tls-ca"),
        "{said}"
    );
    // Without any, those of the system are asked.
    let (said, _) = failure(jobs.env_remove("TRAINYARD_TLS_CA"));
    assert!(said.contains("not trusted here"), "{said}");

    let mut agent = cluster.agent_command("one", &cluster.join_token);
    let log = cluster.path("one.log");
    let agent = Process::start(agent.env("TRAINYARD_TLS_CA", &other_ca), &log);
    until("the agent says whom it does not trust", async || {
        agent.log().contains("not trusted here").then_some(())
    })
    .await;
    let plain = cluster.url().replace("https://", "http://");
    let (said, _) = failure(cluster.command().args(["jobs", "--coordinator", &plain]));
    assert!(said.contains("https://"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_must_show_a_certificate_for_their_node_where_it_is_asked_for() {
    let certificates = Certificates::make(&["one", "two"]);
    let ca = certificates.text("ca.pem");
    let settings = [
        ("TRAINYARD__TLS__CLIENT_CA", ca.as_str()),
        ("TRAINYARD__TLS__CLIENT_CERT_NAMES_NODE", "true"),
    ];
    let mut cluster = certificates.cluster(&settings).await;
    let token = cluster.join_token.clone();
    let (said, code) = failure(&mut cluster.agent_command("one", &token));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("must show a certificate"), "{said}");
    let others = certificates.flags("agent-two");
    let (said, _) = failure(cluster.agent_command("one", &token).args(&others));
    assert!(said.contains("is not for node 'one'"), "{said}");
    let own = certificates.flags("agent-one");
    cluster
        .agent("one", &own.each_ref().map(String::as_str))
        .await;
    // Users need none.
    runs_on(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_must_show_a_certificate_where_it_is_asked_of_everybody() {
    let certificates = Certificates::make(&["one"]);
    let strangers = Certificates::make(&["one"]);
    let ca = certificates.text("ca.pem");
    let mut setup = CoordinatorSetup::default();
    let settings = [
        ("TRAINYARD__TLS__CERT", certificates.text("server.pem")),
        ("TRAINYARD__TLS__KEY", certificates.text("server.key")),
        ("TRAINYARD__TLS__CLIENT_CA", ca),
        (
            "TRAINYARD__TLS__REQUIRE_CLIENT_CERT",
            "everybody".to_owned(),
        ),
    ];
    setup.variables = settings.map(|(key, value)| (key.to_owned(), value)).into();
    setup.tls = ClientTls {
        ca: Some(certificates.path("ca.pem")),
        cert: Some(certificates.path("agent-one.pem")),
        key: Some(certificates.path("agent-one.key")),
    };
    let cluster = Cluster::start_with(TRAINYARD, setup).await;
    let jobs = |flags: &[String]| {
        let mut command = cluster.command();
        command.env("TRAINYARD_ACCESS_TOKEN", cluster.token());
        command
            .args(["jobs", "--coordinator", &cluster.url()])
            .args(flags);
        command
    };
    let (said, code) = failure(&mut jobs(&[]));
    assert_eq!(code, Some(69), "{said}");
    assert!(
        said.contains("it wants a certificate of the client"),
        "{said}"
    );
    let (said, code) = failure(&mut jobs(&strangers.flags("agent-one")));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("does not accept the certificate"), "{said}");
    let output = jobs(&certificates.flags("agent-one"))
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_taken_up_and_connections_that_stand_go_on() {
    let certificates = Certificates::make(&[]);
    let mut cluster = certificates.cluster(&[]).await;
    let old_ca = cluster.path("old-ca.pem");
    fs::copy(certificates.path("ca.pem"), &old_ca).expect("a copy");
    let jobs = Jobs::of(&cluster).await;
    certificates.init(&["--new-ca"]);
    let coordinator = cluster.coordinator().pid();
    nix::sys::signal::kill(coordinator, Signal::SIGHUP).expect("it runs");
    until("the new certificate is in use", async || {
        cluster.connection().connect().await.ok()
    })
    .await;
    let tls = ClientTls {
        ca: Some(old_ca),
        ..ClientTls::default()
    };
    let old = Connection::new(&cluster.url(), tls, Plain::Loopback).expect("it is sound");
    assert!(old.connect().await.is_err(), "the old one is not any more");
    let mut standing = jobs.clone();
    let id = standing.submit(shell("true")).await;
    assert_eq!(id, 1);
    // Files of no use change nothing.
    fs::write(certificates.path("server.pem"), "nonsense").expect("it is written");
    nix::sys::signal::kill(coordinator, Signal::SIGHUP).expect("it runs");
    until("the coordinator says so", async || {
        let log = fs::read_to_string(cluster.path("coordinator.log")).ok()?;
        log.contains("the old ones stay").then_some(())
    })
    .await;
    let connection = cluster.connection();
    connection.connect().await.expect("the old ones are in use");
}

/// A coordinator that other machines would reach.
fn exposed(cluster: &Cluster, more: &[&str]) -> Command {
    let data = cluster.path("exposed").display().to_string();
    let mut command = cluster.command();
    command.args(["coordinator", "--listen", "0.0.0.0:0", "--data-dir", &data]);
    command.args(more);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_leaves_this_machine_only_where_it_is_said() {
    let cluster = Cluster::start(TRAINYARD).await;
    let start = |more: &[&str]| exposed(&cluster, more);
    let (said, code) = failure(&mut start(&[]));
    assert_eq!(code, Some(78), "{said}");
    for word in [
        "server.listen is 0.0.0.0:0",
        "trainyard tls init",
        "--insecure",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let ready = cluster.path("exposed.ready");
    let flags = [
        "--dev",
        "--insecure",
        "--ready-file",
        &ready.display().to_string(),
    ];
    let exposed = Process::start(&mut start(&flags), &cluster.path("exposed.log"));
    until("it serves", async || ready.exists().then_some(())).await;
    drop(exposed);

    // An address of documentation: nothing is sent there.
    let far = "http://192.0.2.1:8000";
    let (said, code) = failure(cluster.command().args(["jobs", "--coordinator", far]));
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("not encrypted") && said.contains("--insecure"),
        "{said}"
    );
    let mut agent = cluster.command();
    agent.args(["agent", "--coordinator", far, "--token", "t", "--name", "x"]);
    let (said, _) = failure(&mut agent);
    assert!(
        said.contains("not encrypted") && said.contains("--insecure"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_password_and_services_without_tls_are_for_this_machine_until_it_is_said() {
    let cluster = Cluster::start(TRAINYARD).await;
    // Encrypted or not: the password of --dev is known to everybody.
    let certificates = Certificates::make(&[]);
    let [_, cert, _, key] = certificates.flags("server");
    let (said, code) = failure(&mut exposed(
        &cluster,
        &["--dev", "--tls-cert", &cert, "--tls-key", &key],
    ));
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("--dev") && said.contains("--insecure"),
        "{said}"
    );
    let mut outward = exposed(&cluster, &["--insecure"]);
    let (said, code) = failure(outward.env("TRAINYARD__LABELER__URL", "http://192.0.2.1:8011"));
    assert_eq!(code, Some(78), "{said}");
    for word in ["labeler.url", "192.0.2.1", "server.insecure_outward = true"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_with_a_one_time_token_and_is_cut_off_when_it_is_revoked() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let shared = std::mem::take(&mut cluster.join_token);
    let token = printed(&cluster, &["node", "token", "--ttl", "1h"]);
    cluster.join_token.clone_from(&token);
    cluster.agent("one", &["--slots", "1"]).await;
    runs_on(&cluster).await;
    let (said, code) = failure(&mut cluster.agent_command("two", &token));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the join token has been used"), "{said}");
    let listed = printed(&cluster, &["node", "list-tokens"]);
    assert!(listed.contains("1/1") && listed.contains("one"), "{listed}");

    // From then on the credential is enough, also after a kill -9.
    cluster.kill_agent("one");
    let file = cluster.agent_data("one").join("credential");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(&file).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    cluster.join_token.clear();
    cluster.agent("one", &["--slots", "1"]).await;

    printed(&cluster, &["node", "revoke", "one"]);
    let said = cluster.agent_ends("one").await;
    assert!(said.contains("was revoked"), "{said}");
    for old in ["", token.as_str(), shared.as_str()] {
        let (said, code) = failure(&mut cluster.agent_command("one", old));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("was revoked"), "{said}");
    }
    cluster.join_token = printed(&cluster, &["node", "token", "--node", "one"]);
    cluster.agent("one", &["--slots", "1"]).await;
    runs_on(&cluster).await;
    let log = fs::read_to_string(cluster.path("coordinator.log")).expect("the log");
    let log = log + &fs::read_to_string(cluster.path("one.log")).expect("the log");
    for secret in [&token, &shared, &cluster.join_token] {
        assert!(!log.contains(secret.as_str()), "no log tells a secret");
    }
    let kept = fs::read_to_string(&file).expect("it is there");
    let kept: Value = serde_json::from_str(&kept).expect("JSON");
    let credential = kept["credential"].as_str().expect("a credential");
    assert!(!log.contains(credential), "no log tells a secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_a_new_agent_says_how_to_get_one() {
    let cluster = Cluster::start(TRAINYARD).await;
    let (said, code) = failure(&mut cluster.agent_command("one", ""));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("trainyard node token"), "{said}");
}

#[test]
fn certificates_say_what_they_are_for() {
    let certificates = Certificates::make(&["one"]);
    let show = |name: &str| {
        let output = Command::new(TRAINYARD)
            .args(["tls", "show"])
            .arg(certificates.path(name))
            .output();
        text(&output.expect("it starts").stdout)
    };
    let server = show("server.pem");
    assert!(server.contains("127.0.0.1, localhost"), "{server}");
    assert!(server.contains("authority"), "{server}");
    assert!(show("agent-one.pem").contains("one"));
    let missing = Command::new(TRAINYARD)
        .args(["tls", "show", "/nowhere.pem"])
        .output();
    let missing = missing.expect("it starts");
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("/nowhere.pem"));
}
