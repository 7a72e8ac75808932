//! schemathesis against the OpenAPI document: requests that the document allows and requests that it forbids,
//! each answer compared with what the document says, as an administrator, as a member of a project, as a
//! trainer, and at the agent. All of its checks are on; what cannot hold by the contract is off for the calls
//! that `schemathesis.toml` names, each with its reason (400 for what a state does not allow, 404 without an
//! attempt's secret, nobody known by a made-up address, spans that end before they begin). Two hooks hold requests back that the document forbids
//! and the contract takes (numbers in texts), or that no schema can put in order (shares that make 1).
//!
//! Its Python environment is built by the agent's own store from a lock and stays in cargo's folder for tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup, EMAIL, PASSWORD},
    jobs::{Jobs, shell},
    wait::until,
};
use trainyard_agent::environment::EnvironmentStore;
use trainyard_proto::v1::JobState;

use crate::{TRAINYARD, conformance, text};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/python/fuzz");

/// As many as CI has time for.
const EXAMPLES: &str = "8";
/// Of a run that differs from another one by who calls.
const FEWER: &str = "5";
const SEED: &str = "12345";

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
async fn schemathesis_finds_nothing_in_each_place_of_each_request() {
    as_administrator("coverage").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_requests_at_random() {
    as_administrator("fuzzing,stateful").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_calls_that_end_their_callers_session() {
    let python = python().await;
    for name in OWN {
        let cluster = Cluster::start_with(TRAINYARD, setup()).await;
        run(&cluster, &python, &["--include-name", name]).await;
    }
}

/// All calls but those of `OWN`, in these phases of schemathesis: the slow ones run side by side.
async fn as_administrator(phases: &str) {
    let python = python().await;
    let cluster = Cluster::start_with(TRAINYARD, setup()).await;
    let mut which = vec!["--phases", phases];
    which.extend(OWN.iter().flat_map(|name| ["--exclude-name", *name]));
    run(&cluster, &python, &which).await;
}

/// The calls of trainers with the secret of a live attempt, so that their bodies are read: at the
/// coordinator, and at the agent, which serves the same calls.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_the_reports_of_trainers() {
    let python = python().await;
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "2"]).await;
    let (id, address) = trainer(&cluster).await;
    let (endpoint, secret) = address.split_once("/t/").expect("an address of an attempt");
    let secret = secret.trim_end_matches("/api/v1");
    let variables = [
        ("JOB", id.to_string()),
        ("SCHEMATHESIS_HOOKS", "callbacks".to_owned()),
    ];
    let header = format!("Authorization: Bearer {secret}");
    let at_the_agent = format!("{endpoint}/t/{secret}");
    let served = served_by_agents(&cluster).await;
    // Without the secret there is no such job: 404 by the contract, where others answer with 401. In the document
    // of agents no call has a login, so there that check has nothing to look at.
    let no_401 = ["--exclude-checks", "ignored_auth"];
    let at_the_coordinator = ["--header", &header];
    for (document, more) in [
        (document(&cluster), at_the_coordinator),
        (served, ["--url", &at_the_agent]),
    ] {
        let mut command = schemathesis(&cluster, &python, &document);
        command
            .args(["--include-tag", "callbacks"])
            .args(no_401)
            .args(more)
            .envs(variables.clone());
        finds_nothing(command, &more).await;
    }
    let jobs = Jobs::of(&cluster).await;
    let job = jobs.clone().get(id).await;
    assert_eq!(job.state(), JobState::Running, "{job:?}");
    // Bodies were taken, not only refused.
    assert!(job.progress.is_some(), "{job:?}");
}

/// Somebody who may look at one project and at nothing else, where the Labeler owns the datasets: what is refused is
/// refused as the document says.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_as_a_viewer_of_a_project() {
    let python = python().await;
    let pictures = tempfile::tempdir().expect("a folder");
    let labeler = conformance::labeler(pictures.path()).await;
    let mut setup = setup();
    setup
        .variables
        .extend(conformance::setup(&labeler.url()).variables);
    let cluster = Cluster::start_with(TRAINYARD, setup).await;
    let admin = log_in(&cluster, EMAIL, PASSWORD).await;
    let (email, password) = ("viewer@example.com", "only looking");
    let user = json!({"email": email, "password": password, "system_role": "standard_engineer"});
    made(&cluster, &admin, "/users", user).await;
    let project = made(&cluster, &admin, "/projects", json!({"name": "theirs"})).await;
    let members = format!("/projects/{project}/members");
    let member = json!({"email": email, "role": "viewer"});
    made(&cluster, &admin, &members, member).await;
    let config = json!({"framework": "command", "command": ["true"]});
    let job = json!({"project_id": project, "config": config});
    let job = made(&cluster, &admin, "/training/jobs", job).await;
    let token = log_in(&cluster, email, password).await;
    let mut command = schemathesis(&cluster, &python, &document(&cluster));
    command
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-examples", FEWER, "--phases", "fuzzing,stateful"])
        .args(OWN.iter().flat_map(|name| ["--exclude-name", *name]))
        .env("SCHEMATHESIS_HOOKS", "viewer")
        .envs([("JOB", job.to_string()), ("PROJECT", project.to_string())]);
    finds_nothing(command, &["as a viewer"]).await;
    assert_eq!(labeler.refused(), Vec::<String>::new());
}

/// Makes something over REST and answers with its number, if it has one.
async fn made(cluster: &Cluster, token: &str, path: &str, body: Value) -> i64 {
    let request = reqwest::Client::new().post(format!("{}/api/v1{path}", cluster.url()));
    let answer = request.bearer_auth(token).json(&body).send().await;
    let answer = answer.expect("it answers");
    let status = answer.status();
    let made: Value = answer.json().await.expect("JSON");
    assert!(status.is_success(), "{path}: {status} {made}");
    made.get("id").and_then(Value::as_i64).unwrap_or_default()
}

/// A job whose trainer only waits, and the address that it reports to.
async fn trainer(cluster: &Cluster) -> (u64, String) {
    let mut jobs = Jobs::of(cluster).await;
    let file = cluster.path("address").display().to_string();
    let mut spec = shell(
        "echo \"$CALLBACK_URL\" > \"$FILE.new\"; mv \"$FILE.new\" \"$FILE\"; exec sleep 3600",
    );
    spec.environment = [("FILE".to_owned(), file.clone())].into();
    let id = jobs.submit(spec).await;
    jobs.reaches(id, JobState::Running).await;
    let address = until("the trainer has said where it reports to", async || {
        std::fs::read_to_string(&file).ok()
    });
    (id, address.await.trim().to_owned())
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
    let token = log_in(cluster, EMAIL, PASSWORD).await;
    let mut command = schemathesis(cluster, python, &document(cluster));
    command
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(which);
    finds_nothing(command, which).await;
}

/// Where the whole document is.
fn document(cluster: &Cluster) -> String {
    format!("{}/api/v1/openapi.json", cluster.url())
}

/// The part of the document that agents serve: reports alone, and without a login, for the secret is in the address.
async fn served_by_agents(cluster: &Cluster) -> String {
    let answer = reqwest::get(document(cluster)).await.expect("it answers");
    let mut whole: Value = answer.json().await.expect("JSON");
    let paths = whole.get_mut("paths").and_then(Value::as_object_mut);
    let paths = paths.expect("a document has paths");
    for calls in paths.values_mut().filter_map(Value::as_object_mut) {
        calls.retain(|_, call| call.get("tags") == Some(&json!(["callbacks"])));
        for call in calls.values_mut().filter_map(Value::as_object_mut) {
            call.remove("security");
        }
    }
    paths.retain(|_, calls| *calls != json!({}));
    let file = cluster.path("agents.json");
    std::fs::write(&file, whole.to_string()).expect("it is written");
    file.display().to_string()
}

fn schemathesis(cluster: &Cluster, python: &Path, document: &str) -> Command {
    let (examples, seed) = bounds();
    let mut command = Command::new(python);
    command
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(Path::new(FOLDER).join("schemathesis.toml"))
        .args(["run", document])
        // Bounded, and the same each time unless somebody wants to look further.
        .args(["--checks", "all", "--max-examples", &examples])
        .args(["--seed", &seed])
        .args(["--continue-on-failure", "--no-color"])
        .current_dir(cluster.path(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", FOLDER)
        .env("SCHEMATHESIS_HOOKS", "submissions")
        .env("XDG_CONFIG_HOME", cluster.path("home"));
    command
}

/// Examples of each call, and the seed that they come from: as the environment says, else always the same.
#[expect(
    clippy::print_stderr,
    reason = "who sees a failure must be able to have it again"
)]
fn bounds() -> (String, String) {
    let or = |name, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let examples = or("TRAINYARD_FUZZ_EXAMPLES", EXAMPLES);
    let seed = or("TRAINYARD_FUZZ_SEED", SEED);
    eprintln!("TRAINYARD_FUZZ_EXAMPLES={examples} TRAINYARD_FUZZ_SEED={seed}");
    (examples, seed)
}

async fn finds_nothing(mut command: Command, which: &[&str]) {
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

/// The Python that has schemathesis; and what TLS is made with here is chosen.
async fn python() -> PathBuf {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let store = EnvironmentStore::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz"));
    let environment = store.prepare(Path::new(FOLDER), &mut |_| {}).await;
    environment.expect("its environment is built").python
}

/// A token of the run's own session.
async fn log_in(cluster: &Cluster, email: &str, password: &str) -> String {
    let form = [("username", email), ("password", password)];
    let request = reqwest::Client::new().post(format!("{}/api/v1/auth/login", cluster.url()));
    let answer = request.form(&form).send().await.expect("it answers");
    let tokens: Value = answer.json().await.expect("JSON");
    let token = tokens.get("access_token").and_then(Value::as_str);
    token.expect("the login succeeds").to_owned()
}
