//! Bad input: each is refused with a message that names what is wrong and the way out.

use std::{fs, process::Command};

use tests::{
    cluster::{Cluster, CoordinatorSetup},
    disk::SmallDisk,
    jobs::{Jobs, command, outcome, shell},
};
use tonic::Code;
use tonic_types::StatusExt;
use trainyard_proto::v1::{self, FailureClass, JobSpec, JobState};

use crate::{TRAINYARD, text};

/// Runs the binary to its end, which must be a failure, and returns its words and exit code.
fn failure(command: &mut Command) -> (String, Option<i32>) {
    let output = command.output().expect("it starts");
    assert!(!output.status.success(), "{}", text(&output.stdout));
    (text(&output.stderr), output.status.code())
}

fn yolo() -> JobSpec {
    JobSpec {
        framework: "ultralytics".to_owned(),
        model_name: "yolo11n".to_owned(),
        task_type: "detection".to_owned(),
        dataset_path: "/data".to_owned(),
        epochs: 2,
        batch_size: 4,
        learning_rate: 0.01,
        ..JobSpec::default()
    }
}

/// The fields and messages of the refusal of `spec`.
async fn violations(jobs: &mut Jobs, spec: JobSpec) -> Vec<(String, String)> {
    let status = jobs.try_submit(spec).await.expect_err("it is refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_details_bad_request().expect("there are details");
    let found = details.field_violations.into_iter();
    found.map(|one| (one.field, one.description)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_submission_names_every_bad_field_and_makes_no_job() {
    let cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut spec = yolo();
    spec.framework = "pytorch".to_owned();
    spec.epochs = 0;
    spec.dataset_path.clear();
    let found = violations(&mut jobs, spec).await;
    let pair = |field: &str, message: &str| (field.to_owned(), message.to_owned());
    assert_eq!(
        found,
        [
            pair(
                "spec.framework",
                "unknown framework 'pytorch'; known are command, sklearn, timm, ultralytics"
            ),
            pair(
                "spec.dataset_path",
                "Either dataset_id or dataset_path must be provided"
            ),
            pair("spec.epochs", "is 0; give 1 to 1000"),
        ]
    );
    let listed = jobs.0.list_jobs(v1::ListJobsRequest::default()).await;
    assert!(
        listed
            .expect("jobs are listed")
            .into_inner()
            .jobs
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_each_bad_field_on_a_line_of_its_own() {
    let cluster = Cluster::start(TRAINYARD).await;
    let bad = [
        "submit",
        "--framework",
        "pytorch",
        "--model",
        "m",
        "--task",
        "detection",
        "--dataset",
        "/data",
        "--epochs",
        "0",
    ];
    let output = cluster.cli(&bad);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    let framework =
        "framework: unknown framework 'pytorch'; known are command, sklearn, timm, ultralytics";
    assert!(lines.contains(&framework), "{said}");
    assert!(lines.contains(&"epochs: is 0; give 1 to 1000"), "{said}");

    let output = cluster.cli(&["submit", "--memory", "-4GB", "--", "true"]);
    let said = text(&output.stderr);
    assert!(!output.status.success());
    let words = "memory size '-4GB' is negative; write for example 16GiB";
    assert!(said.contains(words), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn job_larger_than_any_node_is_refused_or_explained_at_submit() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("cpu", &["--slots", "2"]).await;
    cluster
        .agent("gpu", &["--slots", "4", "--simulate-gpus", "2xA100-40GB"])
        .await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut spec = shell("true");
    spec.resources = Some(v1::ResourceRequest {
        gpus: 3,
        gpu_model: "A100".to_owned(),
        ..v1::ResourceRequest::default()
    });
    let found = violations(&mut jobs, spec).await;
    let (field, message) = &found[0];
    assert_eq!(field, "spec.resources");
    let start = "no node could ever hold the job: gpus: asks for 3 of model A100, has 2; the nearest is gpu with 4 CPUs, ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.ends_with("2 GPUs (A100)"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_that_is_not_on_the_node_fails_the_job_with_its_path() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut spec = yolo();
    spec.dataset_path = "/no/such/dataset".to_owned();
    let id = jobs.submit(spec).await;
    let job = jobs.ends(id).await;
    let end = outcome(&job);
    assert_eq!(
        (job.state(), end.failure_class()),
        (JobState::Failed, FailureClass::User)
    );
    let words = "dataset path '/no/such/dataset' does not exist on node one";
    assert!(end.message.starts_with(words), "{}", end.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_and_a_wrong_password_are_refused() {
    let cluster = Cluster::start(TRAINYARD).await;
    let mut command = cluster.command();
    command
        .args(["jobs", "--coordinator", &cluster.url()])
        .env("TRAINYARD_ACCESS_TOKEN", "nonsense");
    let (said, code) = failure(&mut command);
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("Could not validate credentials"), "{said}");
    let mut command = cluster.command();
    command.args(["jobs", "--coordinator", &cluster.url()]);
    let (said, code) = failure(&mut command);
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("trainyard login"), "{said}");
    let request = v1::LoginRequest {
        email: "admin@example.com".to_owned(),
        password: "wrong".to_owned(),
    };
    let mut users = v1::auth_service_client::AuthServiceClient::new(cluster.channel().await);
    let refused = users.login(request).await.expect_err("it is refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(refused.message(), "Incorrect email or password");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_wrong_token_ends_and_says_how_to_get_a_right_one() {
    let cluster = Cluster::start(TRAINYARD).await;
    let (said, code) = failure(&mut cluster.agent_command("one", "wrong"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("trainyard node token"), "{said}");
    assert!(said.contains("join-token"), "{said}");
    let token = fs::read_to_string(cluster.path("coordinator").join("join-token"));
    assert_eq!(token.expect("it stands there").trim(), cluster.join_token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_the_same_name_is_refused_while_the_first_is_there() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let data = cluster.path("another").display().to_string();
    let mut command = cluster.command();
    let url = cluster.url();
    let token = cluster.join_token.clone();
    command.args([
        "agent",
        "--coordinator",
        &url,
        "--token",
        &token,
        "--name",
        "one",
    ]);
    command.args(["--data-dir", &data]);
    let (said, code) = failure(&mut command);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("node 'one' is connected from another agent"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_an_unknown_key_names_it_and_the_nearest_known_one() {
    let cluster = Cluster::start(TRAINYARD).await;
    let file = cluster.path("bad.toml");
    fs::write(&file, "[server]\nlisten_on = \"127.0.0.1:0\"\n").expect("it is written");
    let mut command = cluster.command();
    command.args(["coordinator", "--config"]).arg(&file);
    let (said, code) = failure(&mut command);
    assert_eq!(code, Some(78), "{said}");
    let words = "unknown key 'server.listen_on' in ";
    assert!(said.contains(words), "{said}");
    assert!(said.contains("did you mean 'server.listen'?"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_in_use_or_not_writable_is_named() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let start = |data: &str| {
        let mut command = cluster.command();
        command.args(["coordinator", "--listen", "127.0.0.1:0", "--data-dir", data]);
        failure(&mut command).0
    };
    let used = cluster.path("coordinator").display().to_string();
    let said = start(&used);
    assert!(
        said.contains(&used) && said.contains("in use by another coordinator"),
        "{said}"
    );
    let said = start("/proc/nowhere");
    assert!(
        said.contains("cannot write the store /proc/nowhere/trainyard.redb"),
        "{said}"
    );

    let (said, _) = failure(&mut cluster.agent_command("one", &cluster.join_token));
    let data = cluster.agent_data("one").display().to_string();
    assert!(
        said.contains(&data) && said.contains("in use by another agent"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_too_little_room_refuses_new_jobs_and_keeps_the_old_ones() {
    let mut setup = CoordinatorSetup::default();
    let reserve = ("TRAINYARD__STORE__RESERVE_MIB", "1000000000");
    setup
        .variables
        .insert(reserve.0.to_owned(), reserve.1.to_owned());
    let cluster = Cluster::start_with(TRAINYARD, setup).await;
    let mut jobs = Jobs::of(&cluster).await;
    let refused = jobs
        .try_submit(command(&["true"]))
        .await
        .expect_err("it is refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let words = refused.message();
    assert!(
        words.contains("nearly full") && words.contains("free some space"),
        "{words}"
    );
}

/// A coordinator in a mount namespace of its own, with its data on a disk of 24 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_coordinator_with_the_reason_and_loses_nothing_that_was_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk");
    if let Some(holder) = SmallDisk::mount(&disk, 24).await {
        full_disk::run(&disk, &holder).await;
    }
}

mod full_disk {
    use super::*;

    use std::path::Path;

    use tests::{process::Process, wait::until};
    use tonic::transport::Channel;

    /// Fills the disk with submissions, frees it, and counts what is there.
    pub(super) async fn run(disk: &Path, holder: &SmallDisk) {
        let mut coordinator = start(holder, disk).await;
        let mut accepted = Vec::new();
        // Something else takes nearly all that is left.
        holder
            .sh("head -c 4194304 /dev/zero > filler; cat /dev/zero > rest 2> /dev/null; rm filler");
        let refused = loop {
            match submit(&coordinator).await {
                Ok(id) => accepted.push(id),
                Err(status) => break status,
            }
            assert!(accepted.len() < 100_000, "the disk does not fill");
        };
        assert_ne!(refused.code(), Code::Ok);
        let status = coordinator.process.ended().await;
        assert_eq!(status.code(), Some(1));
        let said = coordinator.process.log();
        assert!(
            said.contains("is full and the last writes were not accepted"),
            "{said}"
        );
        assert!(
            said.contains("free some space, then start the coordinator again"),
            "{said}"
        );
        holder.sh("rm -f rest");
        let coordinator = start(holder, disk).await;
        for id in accepted {
            let found = coordinator.job(id).await;
            assert_eq!(found.state(), JobState::Queued);
        }
    }

    async fn start(holder: &SmallDisk, disk: &Path) -> Coordinator {
        let ready = disk.with_file_name("ready");
        fs::remove_file(&ready).ok();
        let mut command = holder.inside();
        command.args([TRAINYARD, "coordinator", "--dev", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(disk.join("data"));
        command.arg("--ready-file").arg(&ready);
        command.env("TRAINYARD__STORE__RESERVE_MIB", "0");
        let process = Process::start(&mut command, &disk.with_file_name("log"));
        let address = until("it serves", async || {
            let text = fs::read_to_string(&ready).ok()?;
            let said: serde_json::Value = serde_json::from_str(&text).ok()?;
            Some(said.get("address")?.as_str()?.to_owned())
        });
        Coordinator::log_in(process, address.await).await
    }

    struct Coordinator {
        process: Process,
        channel: Channel,
        token: String,
    }

    impl Coordinator {
        async fn log_in(process: Process, address: String) -> Self {
            let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
            let channel = endpoint.connect().await.expect("it is reached");
            let request = v1::LoginRequest {
                email: "admin@example.com".to_owned(),
                password: "admin123".to_owned(),
            };
            let mut users = v1::auth_service_client::AuthServiceClient::new(channel.clone());
            let answer = users.login(request).await.expect("the login succeeds");
            let tokens = answer.into_inner().tokens.expect("tokens");
            Self {
                process,
                channel,
                token: format!("Bearer {}", tokens.access_token),
            }
        }

        fn call<T>(&self, message: T) -> tonic::Request<T> {
            let mut request = tonic::Request::new(message);
            let token = self.token.parse().expect("a header");
            request.metadata_mut().insert("authorization", token);
            request
        }

        async fn job(&self, job_id: u64) -> v1::Job {
            let mut jobs = v1::job_service_client::JobServiceClient::new(self.channel.clone());
            let answer = jobs.get_job(self.call(v1::GetJobRequest { job_id })).await;
            answer
                .expect("it is there")
                .into_inner()
                .job
                .expect("a job")
        }
    }

    async fn submit(to: &Coordinator) -> Result<u64, tonic::Status> {
        let mut spec = command(&["true"]);
        spec.notes = "x".repeat(50_000);
        let request = to.call(v1::SubmitJobRequest {
            spec: Some(spec),
            idempotency_key: String::new(),
        });
        let mut jobs = v1::job_service_client::JobServiceClient::new(to.channel.clone());
        let answer = jobs.submit_job(request).await?.into_inner();
        Ok(answer.job.expect("a job").job_id)
    }
}
