//! Datasets by the command line: registered, listed, trained on, removed; files stay.

use std::fs;

use serde_json::Value;
use tests::cluster::Cluster;

use crate::{TRAINYARD, text};

/// What a command prints with `--json`.
fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let output = cluster.cli(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A cluster without agents that knows the dataset `pets`, and where its files lie.
async fn with_pets() -> (Cluster, std::path::PathBuf) {
    let cluster = Cluster::start(TRAINYARD).await;
    let set = cluster.path("pets");
    for name in ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"] {
        let file = set.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder is made");
        fs::write(file, name).expect("a file is written");
    }
    let place = set.to_str().expect("UTF-8");
    let words = [
        "dataset",
        "add",
        "pets",
        place,
        "--description",
        "two kinds",
    ];
    let added = json(&cluster, &words);
    let format = added.get("format").and_then(Value::as_str);
    assert_eq!(format, Some("imagefolder"));
    (cluster, set)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_registered_listed_and_removed_by_command_line_and_its_files_stay() {
    let (cluster, set) = with_pets().await;
    let again = cluster.cli(&["dataset", "add", "pets", set.to_str().expect("UTF-8")]);
    assert!(!again.status.success());
    let told = text(&again.stderr);
    assert!(told.contains("registered already"), "{told}");
    let listed = json(&cluster, &["dataset", "list"]);
    assert_eq!(listed["datasets"][0]["dataset_id"], "pets");
    let table = text(&cluster.cli(&["dataset", "list"]).stdout);
    assert!(table.contains("two kinds"), "{table}");
    let removed = cluster.cli(&["dataset", "remove", "pets"]);
    assert!(removed.status.success());
    let shown = cluster.cli(&["dataset", "show", "pets"]);
    assert!(!shown.status.success());
    let left = fs::read(set.join("dog/2.png")).expect("it is still there");
    assert_eq!(left, b"dog/2.png");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_by_command_line_shows_its_snapshot_which_is_deleted_only_after_it() {
    let (cluster, _set) = with_pets().await;
    let words = [
        "submit",
        "--quiet",
        "--framework",
        "sklearn",
        "--model",
        "mlp",
    ];
    let more = ["--task", "classification", "--dataset-id", "pets"];
    let submitted = cluster.cli(&[words.as_slice(), more.as_slice()].concat());
    let told = text(&submitted.stderr);
    assert!(submitted.status.success(), "{told}");
    let id = text(&submitted.stdout).trim().to_owned();
    let shown = json(&cluster, &["show", &id]);
    let snapshot = shown["snapshot_id"].as_str().expect("a snapshot");
    let found = json(&cluster, &["dataset", "show", "pets"]);
    assert_eq!(found["snapshots"][0]["snapshot_id"], snapshot);
    let refused = text(
        &cluster
            .cli(&["dataset", "delete-snapshot", snapshot])
            .stderr,
    );
    assert!(refused.contains(&format!("job {id}")), "{refused}");
    let cancelled = cluster.cli(&["cancel", &id]);
    assert!(cancelled.status.success());
    let deleted = cluster.cli(&["dataset", "delete-snapshot", snapshot]);
    assert!(deleted.status.success());
    let left = json(&cluster, &["dataset", "snapshots"]);
    assert_eq!(left["snapshots"], serde_json::json!([]));
}
