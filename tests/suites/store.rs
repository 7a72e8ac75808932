//! `trainyard store` on the store of a real coordinator: backed up while it works, restored, checked.

use std::fs;

use serde_json::Value;
use tests::{cluster::Cluster, jobs, jobs::Jobs};

use crate::{TRAINYARD, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_working_coordinator_is_a_coordinator_that_knows_its_jobs() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("n1", &[]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let done = jobs.submit(jobs::command(&["echo", "hello"])).await;
    jobs.ends(done).await;
    let running = jobs.submit(jobs::command(&["sleep", "600"])).await;
    jobs.reaches(running, trainyard_proto::v1::JobState::Running)
        .await;

    let file = cluster.path("saved.redb");
    let name = file.to_str().expect("a plain path");
    let output = cluster.cli(&["--json", "store", "backup", name]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["bytes"], fs::metadata(&file).expect("the file").len());
    let data = cluster.path("coordinator");
    let copies = fs::read_dir(&data).expect("the data folder");
    let copies = copies.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with("backup-")
    });
    assert_eq!(
        copies.count(),
        0,
        "the copy has no name and goes with its reader"
    );
    let again = cluster.cli(&["store", "backup", name]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("is there already"));

    // While it runs, its own file is not to be opened; the backup is.
    let used = cluster.cli(&["store", "check", data.to_str().expect("a plain path")]);
    assert_eq!(used.status.code(), Some(1));
    assert!(
        text(&used.stderr).contains("in use"),
        "{}",
        text(&used.stderr)
    );
    let sound = cluster.cli(&["store", "check", name]);
    assert!(sound.status.success(), "{}", text(&sound.stdout));

    let exported = cluster.cli(&["store", "export", name, "--job", &done.to_string()]);
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    assert!(text(&exported.stdout).contains("hello"));

    // The coordinator is lost with its file; what was saved takes its place and goes on.
    cluster.kill_coordinator();
    fs::copy(&file, data.join("trainyard.redb")).expect("it is restored");
    cluster.start_coordinator().await;
    let mut jobs = Jobs::of(&cluster).await;
    let lines = jobs.output(done).await;
    assert_eq!(lines, ["hello"]);
    jobs.cancel(running)
        .await
        .expect("it is known and runs still");
    jobs.ends(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_administers_users_has_the_store() {
    let cluster = Cluster::start(TRAINYARD).await;
    let mut client = cluster.command();
    let file = cluster.path("stolen.redb");
    let output = client
        .env("TRAINYARD_COORDINATOR", cluster.url())
        .args(["store", "backup"])
        .arg(&file)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(77), "{}", text(&output.stderr));
    assert!(!file.exists());
}
