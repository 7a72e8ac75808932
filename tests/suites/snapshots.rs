//! Snapshots from the submit to the trainer's folder, with a real coordinator and real agents.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, outcome, shell},
};
use trainyard_proto::v1::{self, FailureClass, JobState};

use crate::{TRAINYARD, text};

/// Images of two classes, as folders; no two of one content.
fn folders(root: &Path, each: usize) {
    for class in ["cat", "dog"] {
        fs::create_dir_all(root.join(class)).expect("a folder is made");
        for number in 0..each {
            let file = root.join(class).join(format!("{number:02}.png"));
            fs::write(file, format!("{class} {number}")).expect("a file is written");
        }
    }
}

/// A cluster that knows `pets`, ten images of each class.
async fn with_pets() -> Cluster {
    let cluster = Cluster::start(TRAINYARD).await;
    add(&cluster, "pets");
    cluster
}

/// Makes a folder of that name with ten images of each class, and a dataset of it.
fn add(cluster: &Cluster, name: &str) {
    let set = cluster.path(name);
    folders(&set, 10);
    let added = cluster.cli(&["dataset", "add", name, set.to_str().expect("UTF-8")]);
    assert!(added.status.success(), "{}", text(&added.stderr));
}

/// A job on `pets` that runs a script.
fn job(script: &str, split: &Value) -> v1::JobSpec {
    v1::JobSpec {
        dataset_id: "pets".to_owned(),
        split_strategy_json: split.to_string(),
        ..shell(script)
    }
}

/// What the command line says of the only snapshot.
fn snapshot(cluster: &Cluster) -> Value {
    let shown = cluster.cli(&["dataset", "snapshots", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let found = shown.pointer("/snapshots/0");
    found.expect("there is one").clone()
}

const COUNT: &str = r#"
cd "$LOCAL_DATASET_PATH"
for part in train val; do echo "$part $(find $part -name '*.png' | wc -l)"; done
echo "excluded $(find . -name '*07.png' | grep -c cat)"
echo "$SNAPSHOT_ID $DATASET_VERSION_HASH"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_sees_exactly_the_split_that_its_snapshot_records() {
    let mut cluster = with_pets().await;
    cluster.agent("one", &["--slots", "2"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let split = json!({
        "method": "auto", "ratio": [0.7, 0.3], "seed": 7, "exclude_images": ["cat/07.png"],
    });
    let (first, second) = (job(COUNT, &split), job(COUNT, &split));
    let ids = [jobs.submit(first).await, jobs.submit(second).await];
    let mut seen = Vec::new();
    for id in ids {
        let ended = jobs.ends(id).await;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
        seen.push(jobs.output(id).await);
    }
    assert_eq!(seen[0], seen[1], "the same snapshot, the same split");
    let recorded = snapshot(&cluster);
    let counts = &recorded["split"]["counts"];
    let of = |part: &str| counts[part].as_u64().expect("a count");
    assert_eq!(of("train") + of("val"), 19, "{recorded}");
    let id = recorded["snapshot_id"].as_str().expect("an id");
    let hash = recorded["version_hash"].as_str().expect("a hash");
    let expected = [
        format!("train {}", of("train")),
        format!("val {}", of("val")),
        "excluded 0".to_owned(),
        format!("{id} {hash}"),
    ];
    assert_eq!(seen[0], expected);
}

/// The names of the images in each part.
const NAMES: &str = r#"
cd "$LOCAL_DATASET_PATH"
for part in train val; do (cd $part; find . -name '*.png' | sort | sed "s/^\./$part/"); done
"#;

/// A submit with this split; what [`COUNT`] and [`NAMES`] say of it on disk.
async fn looked_at(jobs: &mut Jobs, split: &Value) -> Vec<String> {
    let id = jobs.submit(job(&format!("{COUNT}{NAMES}"), split)).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    jobs.output(id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_a_job_names_one_by_one_are_in_their_parts_on_disk() {
    let mut cluster = with_pets().await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    // Whoever names what to validate on means the rest for training.
    let validated = ["cat/01.png", "cat/09.png", "dog/03.png"];
    let named = validated.map(|name| (name.to_owned(), json!("val")));
    let named = named.into_iter().collect::<serde_json::Map<_, _>>();
    let mut split = json!({
        "method": "custom", "custom_splits": named, "exclude_images": ["cat/07.png"],
    });
    let seen = looked_at(&mut jobs, &split).await;
    assert_eq!(seen[..3], ["train 16", "val 3", "excluded 0"]);
    let in_val = |seen: &[String]| -> Vec<String> {
        let found = seen.iter().filter_map(|line| line.strip_prefix("val/"));
        found.map(str::to_owned).collect()
    };
    assert_eq!(in_val(&seen), validated);
    let recorded = snapshot(&cluster);
    let counts = &recorded["split"]["counts"];
    assert_eq!((&counts["train"], &counts["val"]), (&json!(16), &json!(3)));

    // Beside a ratio it takes the rest; and one that is named for training is no more in question.
    split["ratio"] = json!([0.5, 0.5]);
    split["custom_splits"]["dog/00.png"] = json!("train");
    let seen = looked_at(&mut jobs, &split).await;
    let held = in_val(&seen);
    assert!(
        validated
            .iter()
            .all(|name| held.contains(&(*name).to_owned())),
        "{held:?}"
    );
    assert!(!held.contains(&"dog/00.png".to_owned()), "{held:?}");
    assert!(seen.contains(&"train/dog/00.png".to_owned()), "{seen:?}");
    assert!(held.len() > validated.len() && held.len() < 19, "{held:?}");
    assert_eq!(seen[0], format!("train {}", 19 - held.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_that_has_changed_fails_the_job_with_the_first_file_named() {
    let mut cluster = with_pets().await;
    let mut jobs = Jobs::of(&cluster).await;
    let id = jobs.submit(job("exit 0", &json!({"method": "auto"}))).await;
    for name in ["dog/03.png", "cat/04.png"] {
        let file = cluster.path("pets").join(name);
        fs::write(file, "something else").expect("a file is written");
    }
    cluster.agent("one", &["--slots", "1"]).await;
    let ended = jobs.ends(id).await;
    let end = outcome(&ended);
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(end.failure_class(), FailureClass::User, "{end:?}");
    assert!(end.message.contains("cat/04.png"), "{}", end.message);
    assert!(!end.message.contains("dog/03.png"), "{}", end.message);
    // A submit of today makes a snapshot of today.
    let again = jobs.submit(job("exit 0", &json!({"method": "auto"}))).await;
    assert_eq!(jobs.ends(again).await.state(), JobState::Completed);
}

/// What happens to a dataset's folder behind the back of its snapshot, and what its job then says.
type Mishap = (&'static str, fn(&Path), &'static str);

/// As one would who has moved it there.
fn leads_to(folder: &Path, to: &Path) {
    fs::remove_dir_all(folder).expect("it is removed");
    std::os::unix::fs::symlink(to, folder).expect("a link is made");
}

const MISHAPS: [Mishap; 5] = [
    (
        "missing",
        |folder| {
            for name in ["dog/03.png", "cat/04.png"] {
                fs::remove_file(folder.join(name)).expect("it is removed");
            }
        },
        "'cat/04.png' is not there any more; submit",
    ),
    (
        "linked-out",
        |folder| {
            let file = folder.join("cat/05.png");
            fs::remove_file(&file).expect("it is removed");
            std::os::unix::fs::symlink("/etc/hostname", file).expect("a link is made");
        },
        "'cat/05.png' is not there any more ('cat/05.png' leads out of",
    ),
    (
        "gone",
        |folder| fs::remove_dir_all(folder).expect("it is removed"),
        "'cat/00.png' is not there any more (",
    ),
    (
        "moved-to-the-system",
        |folder| leads_to(folder, Path::new("/etc")),
        "'cat/00.png' is not there any more ('/etc' meets /etc, which belongs to the system",
    ),
    (
        "moved-to-our-own",
        |folder| leads_to(folder, &folder.with_file_name("coordinator")),
        "holds the coordinator's own data and cannot be a dataset",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_whose_files_or_folder_may_not_be_read_any_more_fails_its_job_with_a_file_named()
{
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("one", &["--slots", "2"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let of = |name: &str| {
        let mut spec = job("exit 0", &json!({"method": "auto"}));
        name.clone_into(&mut spec.dataset_id);
        spec
    };
    // The node has all of their files from then on, and fails the job as one that had none would.
    for (name, ..) in MISHAPS {
        add(&cluster, name);
        let first = jobs.submit(of(name)).await;
        assert_eq!(jobs.ends(first).await.state(), JobState::Completed);
    }
    cluster.kill_agent("one");
    let mut ids = Vec::new();
    for (name, happens, _) in MISHAPS {
        ids.push(jobs.submit(of(name)).await);
        happens(&cluster.path(name));
    }
    cluster.agent("one", &["--slots", "2"]).await;
    for (id, (name, _, words)) in ids.into_iter().zip(MISHAPS) {
        let ended = jobs.ends(id).await;
        let end = outcome(&ended);
        assert_eq!(ended.state(), JobState::Failed, "{name}");
        assert_eq!(end.failure_class(), FailureClass::User, "{end:?}");
        assert!(end.message.contains(words), "{name}: {}", end.message);
        let says = format!("dataset '{name}' has changed since snapshot");
        assert!(end.message.contains(&says), "{}", end.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_in_the_coordinators_store_when_its_job_has_ended() {
    let mut cluster = with_pets().await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let script = "printf weights > $CHECKPOINT_DIR/best.pt; printf more > $CHECKPOINT_DIR/last.pt";
    let id = jobs.submit(shell(script)).await;
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let kept = cluster.path("coordinator/artifacts").join("checkpoints");
    let kept = kept.join(id.to_string());
    let read = |name: &str| fs::read_to_string(kept.join(name)).expect("it is stored");
    assert_eq!(
        (read("best.pt").as_str(), read("last.pt").as_str()),
        ("weights", "more")
    );
    let best = ended.best_checkpoint.expect("it is named").path;
    assert!(
        best.ends_with(&format!("checkpoints/{id}/best.pt")),
        "{best}"
    );
    let shown = text(&cluster.cli(&["show", &id.to_string()]).stdout);
    assert!(shown.contains(&best), "{shown}");
}
