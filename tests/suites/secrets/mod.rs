//! No secret is ever logged: coordinator and agent run at the most talkative level through every flow
//! that touches one, and then their logs, those of trainers and what the client prints are searched for each.

mod outside;
mod private;
mod stores;

use std::{collections::BTreeMap, fs, io::Write as _, process::Stdio};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, EMAIL, PASSWORD},
    jobs::{Jobs, outcome},
};
use trainyard_coordinator::{
    auth::SigningKeyRow,
    store::{Store, StoreOptions},
};
use trainyard_core::ids::JobId;
use trainyard_proto::v1::{self, JobState, auth_service_client::AuthServiceClient};

use self::{
    outside::{GONE, Outside, PETS},
    stores::{on, signing},
};
use crate::{TRAINYARD, text};

/// What a trainer signs its calls of S3 with.
const TRAINERS_KEY: &str = "a trainer's storage key";

/// One who calls over REST, and remembers every secret that went over the wire.
struct Caller {
    http: Client,
    url: String,
    token: String,
    secrets: BTreeMap<&'static str, String>,
}

impl Caller {
    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/api/v1{path}", self.url);
        let request = self.http.request(method, url).bearer_auth(&self.token);
        let answer = request.json(&body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("it is JSON")
    }

    /// A call that may fail.
    async fn try_call(&self, path: &str, body: &Value) -> StatusCode {
        let url = format!("{}/api/v1{path}", self.url);
        let request = self.http.post(url).bearer_auth(&self.token).json(body);
        request.send().await.expect("an answer").status()
    }

    /// Opens a WebSocket with the token in the query, as browsers must.
    async fn watch(&self, job: u64) {
        let query = format!("job_id={job}&token={}", self.token);
        let request = self
            .http
            .get(format!("{}/api/v1/ws/training?{query}", self.url))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(request.send().await.expect("an answer").status(), 101);
    }

    /// Stores a checkpoint by a signed way, and has the job begin with it, for which its agent gets another.
    async fn store(&mut self, cluster: &Cluster, job: u64) {
        let path = format!("/training/jobs/{job}/checkpoints/upload-url");
        let body =
            json!({"checkpoint_filename": "last.pt", "content_type": "application/octet-stream"});
        let told = self.call(Method::POST, &path, body).await;
        let url = text_at(&told, "upload_url");
        let signature = url.split("signature=").nth(1).expect("it is signed");
        self.secrets.insert("a signed way", signature.to_owned());
        let sent = self.http.put(&url).body("weights").send().await;
        assert!(sent.expect("an answer").status().is_success());
        let stored = text_at(&told, "object_key");
        let path = format!("/training/jobs/{job}/start?checkpoint_path={stored}");
        self.call(Method::POST, &path, Value::Null).await;
        Jobs::of(cluster).await.ends(job).await;
    }

    /// Keeps the text at `key` of `answer` as the secret `name`.
    fn keep(&mut self, name: &'static str, answer: &Value, key: &str) -> String {
        let secret = answer[key].as_str().expect("it is there").to_owned();
        self.secrets.insert(name, secret.clone());
        secret
    }
}

/// Registers, logs in, renews, changes passwords, makes and uses an API key, fails to log in.
async fn all_flows(caller: &mut Caller) {
    let email = "ada@example.org";
    for (name, password) in [
        ("password", "Pass-word.one"),
        ("new password", "Pass-word.two"),
    ] {
        caller.secrets.insert(name, password.to_owned());
    }
    caller
        .secrets
        .insert("wrong password", "Pass-word.wrong".to_owned());
    let body = json!({"email": email, "password": "Pass-word.one"});
    caller.call(Method::POST, "/auth/register", body).await;
    let log_in = async |caller: &Caller, password: &str| {
        let form = [("username", email), ("password", password)];
        let url = format!("{}/api/v1/auth/login", caller.url);
        let answer = caller.http.post(url).form(&form).send().await;
        answer
            .expect("an answer")
            .json::<Value>()
            .await
            .expect("it is JSON")
    };
    log_in(caller, "Pass-word.wrong").await;
    let tokens = log_in(caller, "Pass-word.one").await;
    caller.keep("access token", &tokens, "access_token");
    let refresh = caller.keep("refresh token", &tokens, "refresh_token");
    let path = format!("/auth/refresh?refresh_token={refresh}");
    let tokens = caller.call(Method::POST, &path, Value::Null).await;
    let admin = caller.token.clone();
    caller.token = caller.keep("second access token", &tokens, "access_token");
    caller.keep("second refresh token", &tokens, "refresh_token");
    let body = json!({"current_password": "Pass-word.one", "new_password": "Pass-word.two"});
    caller.call(Method::PUT, "/auth/password", body).await;
    caller.token = admin;

    let account = caller
        .call(Method::POST, "/service-accounts", json!({"name": "ci"}))
        .await;
    let body = json!({"user_id": account.get("id"), "name": "main"});
    let made = caller.call(Method::POST, "/api-keys", body).await;
    let admin = caller.token.clone();
    caller.token = caller.keep("API key", &made, "key");
    caller.call(Method::GET, "/auth/me", Value::Null).await;
    caller.token = admin;
    caller
        .call(Method::POST, "/auth/keys/rotate", json!({}))
        .await;
}

/// What the store holds that must not be logged: read once the coordinator stands still.
fn stored(
    cluster: &Cluster,
    (job, log): (u64, &str),
    secrets: &mut BTreeMap<&'static str, String>,
) {
    let path = cluster.path("coordinator").join("trainyard.redb");
    let store = Store::open(StoreOptions::new(path), Box::new(|_| ())).expect("the store");
    let keys = store.documents::<SigningKeyRow>("").expect("the keys");
    assert_eq!(keys.len(), 2);
    for (name, key) in ["a signing key", "another signing key"]
        .into_iter()
        .zip(&keys)
    {
        secrets.insert(name, key.secret.expose().to_owned());
    }
    let job = store.job(JobId(job)).expect("a read").expect("the job");
    let attempt = job.attempt().expect("an attempt");
    secrets.insert("the attempt's secret", attempt.secret.expose().to_owned());
    for user in store.users().expect("the users") {
        let shown = !user.service && log.contains(&user.password_hash);
        assert!(!shown, "the hash of a password is logged");
    }
}

/// A job whose dataset has lost a file when it is fetched. The agent starts after its submit.
async fn fails(cluster: &mut Cluster, outside: &Outside) {
    let mut jobs = Jobs::of(cluster).await;
    let id = jobs.submit(on(GONE, "true")).await;
    outside.stores.lose();
    // What names a crate goes before what counts for all.
    let log = [("TRAINYARD_LOG", "trace,s3s::service=trace")];
    cluster.agent_with("one", &["--slots", "1"], &log).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Failed);
    let told = lines(&mut jobs, id).await + &outcome(&ended).message;
    assert!(
        told.contains("dog/1.png"),
        "it is told what is not there: {told}"
    );
    hides_signatures(&told, "job");
}

/// Every line of a job's log, the platform's own too.
async fn lines(jobs: &mut Jobs, id: u64) -> String {
    let all = jobs.lines(id).await.into_iter();
    all.map(|line| line.text + "\n").collect()
}

/// A job that shows its whole environment, which holds secrets of its own and none of anybody else, and signs
/// calls of its agent's S3.
async fn job(cluster: &Cluster, caller: &mut Caller) -> (u64, String) {
    let mut jobs = Jobs::of(cluster).await;
    let mut spec = signing(PETS);
    let own = "environment5ecret0123456789abcdef";
    spec.environment = [("API_KEY".to_owned(), own.to_owned())].into();
    caller
        .secrets
        .insert("of a job's environment", own.to_owned());
    let id = jobs.submit(spec).await;
    jobs.ends(id).await;
    let said = jobs.output(id).await.join("\n");
    for words in [own, "by header 200", "by link 200"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let keys = said.split("EXTERNAL_STORAGE_SECRET_KEY=").nth(1);
    let keys = keys.and_then(|rest| rest.split_whitespace().next());
    caller
        .secrets
        .insert(TRAINERS_KEY, keys.expect("it has keys").to_owned());
    (id, said)
}

/// Logs in by the client at its most talkative; what it prints.
fn log_in(cluster: &Cluster, secrets: &mut BTreeMap<&'static str, String>) -> String {
    let mut command = cluster.command();
    command
        .args(["login", "--coordinator", &cluster.url(), "--email", EMAIL])
        .arg("--password-stdin")
        .env("TRAINYARD_LOG", "trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(PASSWORD.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let kept = fs::read(cluster.path("home/trainyard/credentials.json"));
    let kept: Value = serde_json::from_slice(&kept.expect("it is kept")).expect("it is JSON");
    let login = kept.get("servers").and_then(|all| all.get(cluster.url()));
    let login = login.expect("it is kept by its address");
    for (name, key) in [
        ("the client's access token", "access_token"),
        ("the client's refresh token", "refresh_token"),
    ] {
        secrets.insert(name, text_at(login, key));
    }
    text(&output.stdout) + &text(&output.stderr)
}

/// What the client prints when it does what touches no secret, and when it is refused.
fn client(cluster: &Cluster) -> String {
    let calls: [&[&str]; 5] = [
        &["users", "list"],
        &["node", "list-tokens"],
        &["api-keys", "list"],
        &["trackers"],
        &["status"],
    ];
    let mut said = String::new();
    for arguments in calls {
        let output = cluster.cli(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        said += &text(&output.stdout);
        said += &text(&output.stderr);
    }
    let mut refused = cluster.command();
    let refused = refused
        .args(["jobs", "--coordinator", &cluster.url()])
        .env("TRAINYARD_LOG", "trace")
        .env("TRAINYARD_API_KEY", "ty_1_wrong5ecret0123456789abcdef");
    let output = refused.output().expect("the client starts");
    assert!(!output.status.success());
    said + &text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_stands_in_any_log() {
    let outside = Outside::start().await;
    let mut cluster = Cluster::start_with(TRAINYARD, outside.setup()).await;
    fails(&mut cluster, &outside).await;
    let mut caller = Caller {
        http: Client::new(),
        url: cluster.url(),
        token: cluster.token().to_owned(),
        secrets: BTreeMap::new(),
    };
    all_flows(&mut caller).await;
    let request = v1::LoginRequest {
        email: "ada@example.org".to_owned(),
        password: "Pass-word.two".to_owned(),
    };
    let login = AuthServiceClient::new(cluster.channel().await)
        .login(request)
        .await;
    let tokens = login.expect("a login").into_inner().tokens.expect("tokens");
    let (id, trainer) = job(&cluster, &mut caller).await;
    caller.watch(id).await;
    caller.store(&cluster, id).await;
    let asked = outside.ask_all(&cluster, &mut caller).await;
    let printed = log_in(&cluster, &mut caller.secrets) + &client(&cluster);
    let made = cluster.cli(&["node", "token"]);
    let one_time = text(&made.stdout).trim().to_owned();

    let mut secrets = std::mem::take(&mut caller.secrets);
    secrets.extend(asked);
    secrets.insert("gRPC access token", tokens.access_token);
    secrets.insert("gRPC refresh token", tokens.refresh_token);
    secrets.insert("the first user's token", cluster.token().to_owned());
    secrets.insert("the first user's password", PASSWORD.to_owned());
    secrets.insert("join token", cluster.join_token.clone());
    secrets.insert("one-time join token", one_time);
    secrets.insert("the agent's credential", credential(&cluster));
    secrets.insert("a wrong API key", "wrong5ecret0123456789abcdef".to_owned());
    cluster.coordinator().stop().await;
    let log = cluster.coordinator().log();
    stored(&cluster, (id, &log), &mut secrets);

    // A log that says nothing would prove nothing.
    assert!(log.contains("TRACE"), "the log is not talkative");
    let agent = cluster.agent_process("one").log();
    assert!(agent.contains("TRACE"), "the agent's log is not talkative");
    for (whose, log) in [
        ("coordinator", &log),
        ("agent", &agent),
        ("client", &printed),
    ] {
        hides_all(log, whose, &secrets);
    }
    // What is the job's own it may show.
    let own = [
        "the attempt's secret",
        "of a job's environment",
        TRAINERS_KEY,
    ];
    for (name, secret) in secrets.iter().filter(|(name, _)| !own.contains(name)) {
        hides(&trainer, "trainer", (name, secret));
    }
}

/// What the coordinator believes the agent by.
fn credential(cluster: &Cluster) -> String {
    let file = cluster.agent_data("one").join("credential");
    let kept = fs::read_to_string(file).expect("it has joined");
    let kept: Value = serde_json::from_str(&kept).expect("it is JSON");
    let credential = kept.get("credential").and_then(Value::as_str);
    // Its name is no secret.
    let credential = credential.expect("a credential");
    credential.rsplit(':').next().unwrap_or_default().to_owned()
}

fn text_at(answer: &Value, key: &str) -> String {
    let text = answer.get(key).and_then(Value::as_str);
    text.expect("it is there").to_owned()
}

fn hides_all(log: &str, whose: &str, secrets: &BTreeMap<&'static str, String>) {
    for (name, secret) in secrets {
        hides(log, whose, (name, secret));
    }
    hides_signatures(log, whose);
}

/// What stands before the signature of a way or call, in lower case. Those that agents and stores get are known to
/// nobody else: ours and those of S3 and Google, Azure's, and the headers.
const SIGNED: [&str; 4] = ["signature=", "sig=", "aws4-hmac", "sharedkey "];
/// How tokens begin: {"typ" and {"alg" in base64.
const TOKENS: [&str; 2] = ["eyJ0eXAi", "eyJhbGci"];

fn hides_signatures(log: &str, whose: &str) {
    let is_signed = |line: &str| {
        let lower = line.to_lowercase();
        SIGNED.iter().any(|words| lower.contains(words))
            || TOKENS.iter().any(|words| line.contains(words))
    };
    let found = log.lines().find(|line| is_signed(line));
    assert!(
        found.is_none(),
        "a signature in the {whose}'s log: {found:?}"
    );
}

fn hides(log: &str, whose: &str, (name, secret): (&str, &str)) {
    let found = log.lines().find(|line| line.contains(telling(secret)));
    assert!(found.is_none(), "{name} in the {whose}'s log: {found:?}");
}

/// What of a secret must not leak: of a token the signature, of an API key the part after its id.
fn telling(secret: &str) -> &str {
    assert!(secret.len() >= 8, "one is too short to look for");
    let tail = secret.rsplit(['.', '_']).next().unwrap_or(secret);
    if tail.len() >= 16 { tail } else { secret }
}
