//! Datasets and checkpoints in a bucket, with a real coordinator, a real agent and a real S3 server.

use std::{fs, path::Path};

use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, shell},
    s3::{SECRET, Server},
    wait::until,
};
use trainyard_proto::v1::{self, JobState};

use crate::{TRAINYARD, text};

/// More than a page of a bucket's list holds.
const IMAGES: usize = 1_040;

/// Says what it sees of its dataset, and keeps a checkpoint.
const TRAINER: &str = r#"
cd "$LOCAL_DATASET_PATH"
for part in train val; do echo "$part $(find $part -name '*.png' | wc -l)"; done
cat $(find . -name '00777.png')
echo
env
printf weights > "$CHECKPOINT_DIR/best.pt"
"#;

/// A coordinator whose artifacts lie in a bucket of this server.
async fn cluster(server: &Server) -> Cluster {
    let settings = [
        ("STORAGE_OPTIONS__S3", server.options()),
        ("STORAGE__ARTIFACTS", "s3://artifacts/train".to_owned()),
    ];
    let variables = settings.map(|(name, value)| (format!("TRAINYARD__{name}"), value));
    let setup = CoordinatorSetup {
        variables: variables.into(),
        ..CoordinatorSetup::default()
    };
    Cluster::start_with(TRAINYARD, setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_trains_on_a_dataset_in_a_bucket_and_its_checkpoint_lands_in_another() {
    let server = Server::start().await;
    for number in 0..IMAGES {
        let class = if number % 2 == 0 { "cat" } else { "dog" };
        let folder = server.bucket("sets").join("pets").join(class);
        fs::create_dir_all(&folder).expect("a folder is made");
        let file = folder.join(format!("{number:05}.png"));
        fs::write(file, format!("image {number}")).expect("a file is written");
    }
    let mut cluster = cluster(&server).await;
    let added = cluster.cli(&["dataset", "add", "pets", "s3://sets/pets"]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs
        .submit(v1::JobSpec {
            dataset_id: "pets".to_owned(),
            split_strategy_json: r#"{"method": "auto", "ratio": [0.75, 0.25]}"#.to_owned(),
            ..shell(TRAINER)
        })
        .await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let said = jobs.output(id).await;
    let count = |part: &str| -> usize {
        let found = said.iter().find_map(|line| line.strip_prefix(part));
        found.expect("it is said").parse().expect("a number")
    };
    let (train, val) = (count("train "), count("val "));
    assert_eq!(train + val, IMAGES);
    assert!(
        val.abs_diff(IMAGES / 4) < IMAGES / 20,
        "{val} to validate on"
    );
    assert!(said.contains(&"image 777".to_owned()), "{said:?}");
    let shown = said.iter().any(|line| line.contains(SECRET));
    assert!(!shown, "the trainer holds the platform's key");

    let stored = server.bucket("artifacts").join("train");
    let best = stored.join(format!("checkpoints/{id}/best.pt"));
    let weights = fs::read(best).expect("the checkpoint is in the bucket");
    assert_eq!(weights, b"weights");
    let location = ended.best_checkpoint.expect("it is named").path;
    assert_eq!(
        location,
        format!("s3://artifacts/train/checkpoints/{id}/best.pt")
    );
    let snapshots = fs::read_dir(stored.join("snapshots")).expect("snapshots lie there too");
    assert_eq!(snapshots.count(), 1);
    let own = cluster.path("coordinator/artifacts");
    assert!(!own.exists(), "nothing lies in a folder of the coordinator");
}

/// Files below a folder that are none of a server's own.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if name.to_string_lossy().starts_with('.') => {}
            false => found.push(path.display().to_string()),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_checkpoint_is_on_its_way_to_a_slow_bucket_is_cancelled_and_nothing_of_it_is_there()
 {
    let server = Server::start().await;
    let mut cluster = cluster(&server).await;
    let often = [
        ("TRAINYARD_AGENT__CHECKPOINTS__EVERY_SECONDS", "1"),
        ("TRAINYARD_AGENT__CHECKPOINTS__AFTER_STOP_SECONDS", "1"),
    ];
    cluster.agent_with("one", &["--slots", "1"], &often).await;
    let mut jobs = Jobs::of(&cluster).await;
    let held = server.hold_puts().await;
    // While it trains, and once it has ended: the job runs until its checkpoint is stored.
    for rest in ["exec sleep 1000", "exit 0"] {
        let (before, _) = server.puts();
        let script = format!("printf weights > $CHECKPOINT_DIR/last.pt; {rest}");
        let id = jobs.submit(shell(&script)).await;
        until("its checkpoint is on its way", async || {
            (server.puts().0 > before).then_some(())
        })
        .await;
        jobs.reaches(id, JobState::Running).await;
        jobs.cancel(id).await.expect("it is taken");
        let ended = jobs.ends(id).await;
        assert_eq!(ended.state(), JobState::Cancelled, "{ended:?}");
        assert_eq!(ended.last_checkpoint, None, "{ended:?}");
        until("the store is left alone", async || {
            let (came, left) = server.puts();
            (came == left).then_some(())
        })
        .await;
    }
    drop(held);
    let all = files(&server.bucket("artifacts"));
    assert!(all.is_empty(), "{all:?}");
}
