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

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_registered_snapshotted_and_removed_by_command_line_and_its_files_stay() {
    let cluster = Cluster::start(TRAINYARD).await;
    let set = cluster.path("pets");
    for name in ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"] {
        let file = set.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder is made");
        fs::write(file, name).expect("a file is written");
    }
    let place = set.to_str().expect("UTF-8");
    let added = json(
        &cluster,
        &[
            "dataset",
            "add",
            "pets",
            place,
            "--description",
            "two kinds",
        ],
    );
    assert_eq!(
        (&added["format"], &added["storage_path"]),
        (&"imagefolder".into(), &place.into())
    );
    let again = cluster.cli(&["dataset", "add", "pets", place]);
    assert!(!again.status.success());
    assert!(
        text(&again.stderr).contains("registered already"),
        "{}",
        text(&again.stderr)
    );
    let listed = json(&cluster, &["dataset", "list"]);
    assert_eq!(listed["datasets"][0]["dataset_id"], "pets");
    let table = cluster.cli(&["dataset", "list"]);
    assert!(
        text(&table.stdout).contains("two kinds"),
        "{}",
        text(&table.stdout)
    );

    let submitted = cluster.cli(&[
        "submit",
        "--quiet",
        "--framework",
        "sklearn",
        "--model",
        "mlp",
        "--task",
        "classification",
        "--dataset-id",
        "pets",
    ]);
    assert!(submitted.status.success(), "{}", text(&submitted.stderr));
    let id = text(&submitted.stdout).trim().to_owned();
    let shown = json(&cluster, &["show", &id]);
    let snapshot = shown["snapshot_id"]
        .as_str()
        .expect("a snapshot")
        .to_owned();
    let found = json(&cluster, &["dataset", "show", "pets"]);
    assert_eq!(found["snapshots"][0]["snapshot_id"], snapshot.as_str());
    assert_eq!(
        found["snapshots"][0]["split"]["counts"],
        serde_json::json!({"train": 2, "val": 2})
    );

    let refused = cluster.cli(&["dataset", "delete-snapshot", &snapshot]);
    assert!(
        text(&refused.stderr).contains(&format!("job {id}")),
        "{}",
        text(&refused.stderr)
    );
    assert!(cluster.cli(&["cancel", &id]).status.success());
    assert!(
        cluster
            .cli(&["dataset", "delete-snapshot", &snapshot])
            .status
            .success()
    );
    assert_eq!(
        json(&cluster, &["dataset", "snapshots"])["snapshots"],
        serde_json::json!([])
    );
    assert!(cluster.cli(&["dataset", "remove", "pets"]).status.success());
    assert!(!cluster.cli(&["dataset", "show", "pets"]).status.success());
    assert_eq!(
        fs::read(set.join("dog/2.png")).expect("it is still there"),
        b"dog/2.png"
    );
}
