//! The ways in, placement over two agents, and queueing.

use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, shell},
    process::Process,
    wait::until,
};
use trainyard_proto::v1::{self, JobState};

use crate::{TRAINYARD, text};

/// Calls REST with the token; fails unless the answer is 200.
async fn rest(
    cluster: &Cluster,
    method: reqwest::Method,
    path: &str,
    body: Option<Value>,
) -> Value {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let url = format!("{}/api/v1{path}", cluster.url());
    let request = reqwest::Client::new()
        .request(method, url)
        .bearer_auth(cluster.token());
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await.expect("REST answers");
    let status = answer.status();
    let body = answer.text().await.expect("a body");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_come_in_by_command_line_grpc_and_rest_and_each_way_sees_all_of_them() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    cluster.agent("two", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;

    let by_grpc = jobs.submit(shell("echo from grpc")).await;
    let submitted = cluster.cli(&["submit", "--quiet", "--", "sh", "-c", "echo from cli"]);
    assert!(submitted.status.success(), "{}", text(&submitted.stderr));
    let by_cli: u64 = text(&submitted.stdout).trim().parse().expect("a job id");
    let config = json!({"framework": "command", "command": ["sh", "-c", "echo from rest"]});
    let created = rest(
        &cluster,
        reqwest::Method::POST,
        "/training/jobs",
        Some(json!({"experiment_name": "third", "config": config})),
    );
    let created = created.await;
    assert_eq!(created["status"], "pending");
    let by_rest = created["id"].as_u64().expect("an id");

    for (id, said) in [
        (by_grpc, "from grpc"),
        (by_cli, "from cli"),
        (by_rest, "from rest"),
    ] {
        let job = jobs.ends(id).await;
        assert_eq!(job.state(), JobState::Completed, "{job:?}");
        assert_eq!(jobs.output(id).await, [said]);
        let path = format!("/training/jobs/{id}");
        let seen = rest(&cluster, reqwest::Method::GET, &path, None);
        assert_eq!(seen.await["status"], "completed");
    }
    let listed = cluster.cli(&["jobs", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let rows = listed.as_array().or_else(|| listed["jobs"].as_array());
    assert_eq!(rows.map(Vec::len), Some(3), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_free_slot_waits_says_why_and_starts_when_one_ends() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    cluster.agent("two", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = |name: &str| cluster.path(name).display().to_string();
    let held = |name: &str| shell(&format!("until [ -e {} ]; do sleep 0.02; done", gate(name)));

    let first = jobs.submit(held("first")).await;
    let second = jobs.submit(held("second")).await;
    let first_job = jobs.reaches(first, JobState::Running).await;
    let second_job = jobs.reaches(second, JobState::Running).await;
    let nodes = [&first_job.attempts[0].node, &second_job.attempts[0].node];
    assert_ne!(nodes[0], nodes[1]);

    let third = jobs.submit(held("third")).await;
    let waiting = jobs.reaches(third, JobState::Queued).await;
    assert!(
        waiting.reason.contains("cpus: asks for 1, has 0 free"),
        "{}",
        waiting.reason
    );

    std::fs::write(gate("second"), "").expect("the gate opens");
    let third_job = jobs.reaches(third, JobState::Running).await;
    assert_eq!(third_job.attempts[0].node, second_job.attempts[0].node);
    assert_eq!(jobs.get(first).await.state(), JobState::Running);
    std::fs::write(gate("first"), "").expect("the gate opens");
    std::fs::write(gate("third"), "").expect("the gate opens");
    for id in [first, second, third] {
        assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_are_given_by_model_and_memory_and_the_trainer_sees_its_own_only() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster
        .agent("small", &["--slots", "8", "--simulate-gpus", "2xT4-16GB"])
        .await;
    cluster
        .agent("large", &["--slots", "8", "--simulate-gpus", "2xH100-80GB"])
        .await;
    let mut jobs = Jobs::of(&cluster).await;
    let asking = |gpu_model: &str, gpu_memory_bytes| {
        let mut spec = shell("echo $CUDA_VISIBLE_DEVICES");
        spec.resources = Some(v1::ResourceRequest {
            gpus: 2,
            gpu_model: gpu_model.to_owned(),
            gpu_memory_bytes,
            ..v1::ResourceRequest::default()
        });
        spec
    };
    let by_memory = jobs.submit(asking("", 40 << 30)).await;
    assert_eq!(jobs.ends(by_memory).await.state(), JobState::Completed);
    assert_eq!(
        jobs.output(by_memory).await,
        ["GPU-SIM-large-0,GPU-SIM-large-1"]
    );
    let by_model = jobs.submit(asking("t4", 0)).await;
    assert_eq!(jobs.ends(by_model).await.state(), JobState::Completed);
    assert_eq!(
        jobs.output(by_model).await,
        ["GPU-SIM-small-0,GPU-SIM-small-1"]
    );
    let none = jobs.submit(shell("echo [$CUDA_VISIBLE_DEVICES]")).await;
    jobs.ends(none).await;
    assert_eq!(jobs.output(none).await, ["[]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_ends_with_the_outcome_of_the_job() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "2"]).await;
    for (script, code) in [("exit 0", 0), ("exit 7", 3)] {
        let output = cluster.cli(&["submit", "--wait", "--", "sh", "-c", script]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
    }
    let shown = cluster.cli(&["show", "2", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["outcome"]["exit_code"], 7, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gets_nothing_until_it_is_resumed() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let drained = cluster.cli(&["drain", "one", "--reason", "new disk"]);
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    let id = jobs.submit(shell("true")).await;
    let waiting = jobs.get(id).await;
    assert_eq!(waiting.state(), JobState::Queued);
    assert!(
        waiting.reason.contains("none is ready"),
        "{}",
        waiting.reason
    );
    let resumed = cluster.cli(&["resume", "one"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert_eq!(jobs.ends(id).await.state(), JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_tell_everything_and_end_with_the_job() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let gate = cluster.path("go").display().to_string();
    let script = format!("echo early; until [ -e {gate} ]; do sleep 0.02; done; echo late");
    let id = jobs.submit(shell(&script)).await;
    let request = v1::StreamLogsRequest {
        job_id: id,
        after_line_id: 0,
        follow: true,
    };
    let mut stream = jobs
        .0
        .stream_logs(request)
        .await
        .expect("it is followed")
        .into_inner();
    let mut seen = Vec::new();
    while let Some(page) = stream.message().await.expect("the stream goes on") {
        let own = page
            .lines
            .into_iter()
            .filter(|line| line.stream() == v1::LogStream::Stdout);
        seen.extend(own.map(|line| line.text));
        if seen == ["early"] {
            std::fs::write(&gate, "").expect("the gate opens");
        }
    }
    assert_eq!(seen, ["early", "late"]);
    until("the job has ended", async || {
        let job = jobs.clone().get(id).await;
        (job.state() == JobState::Completed).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_user_comes_from_the_environment_and_the_known_one_only_with_dev() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let mut command = std::process::Command::new(TRAINYARD);
    command
        .args(["coordinator", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path().join("data"))
        .arg("--ready-file")
        .arg(&ready)
        .env("TRAINYARD__AUTH__FIRST_USER_EMAIL", "ada@example.com")
        .env("TRAINYARD__AUTH__FIRST_USER_PASSWORD", "correct horse");
    let process = Process::start(&mut command, &folder.path().join("log"));
    let address = until("it serves", async || {
        let said = std::fs::read_to_string(&ready).ok()?;
        let said: Value = serde_json::from_str(&said).ok()?;
        Some(said.get("address")?.as_str()?.to_owned())
    })
    .await;
    let login = |email: &str, password: &str| {
        let script = format!(
            "echo '{password}' | {TRAINYARD} login --coordinator http://{address} --email {email} --password-stdin"
        );
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", &script])
            .env("XDG_CONFIG_HOME", folder.path());
        command.status().expect("it runs").code()
    };
    assert_eq!(login("admin@example.com", "admin123"), Some(77));
    assert_eq!(login("ada@example.com", "correct horse"), Some(0));
    assert!(!process.log().contains("correct horse"));
}
