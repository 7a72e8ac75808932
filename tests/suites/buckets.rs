//! Datasets and checkpoints in a bucket, with a real coordinator, a real agent and a real S3 server.

use std::fs;

use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, shell},
    s3::{SECRET, Server},
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
    let settings = [
        ("STORAGE_OPTIONS__S3", server.options()),
        ("STORAGE__ARTIFACTS", "s3://artifacts/train".to_owned()),
    ];
    let variables = settings.map(|(name, value)| (format!("TRAINYARD__{name}"), value));
    let setup = CoordinatorSetup {
        variables: variables.into(),
        ..CoordinatorSetup::default()
    };
    let mut cluster = Cluster::start_with(TRAINYARD, setup).await;
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
