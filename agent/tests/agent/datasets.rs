//! Datasets of snapshots: what a trainer finds on the disk, and what becomes of it when something is
//! wrong.
#![expect(
    clippy::indexing_slicing,
    reason = "a case that looks where nothing is has failed"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use trainyard_core::dataset::{Assignment, Format, Part};
use trainyard_proto::v1::{
    ForgetTask, LogStream, StopCause, TaskEnd, TaskPhase, connect_response::Frame,
};

use crate::fake::Fake;
use crate::harness::{
    LIMIT, cluster, folder, launch, options, shell, start_of, stop_of, task, task_folder, until,
};
use crate::sets::Set;
use crate::store::Store;

fn view(data: &TempDir, job: u64) -> PathBuf {
    task_folder(data, job).join("dataset")
}

/// All files below a folder, relative to it, in order.
fn below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder of the view") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(folder).expect("it lies below");
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// How many images each part has, counted on the disk as a trainer of the format would.
fn counted(set: &Set, view: &Path) -> BTreeMap<Part, u64> {
    let files = below(view);
    let images = files.iter().filter(|path| path.ends_with(".png"));
    let folder = |path: &str| match set.format {
        Format::Yolo => path.strip_prefix("images/").map(str::to_owned),
        Format::Dice | Format::Coco | Format::ImageFolder => Some(path.to_owned()),
    };
    let mut counts = BTreeMap::new();
    let mut count = |name: &str| {
        let part = Part::parse(name).expect("a part");
        *counts.entry(part).or_default() += 1;
    };
    match set.format {
        Format::ImageFolder | Format::Yolo => {
            for path in images {
                let path = folder(path).expect("images lie in images/");
                count(path.split('/').next().unwrap_or_default());
            }
        }
        Format::Dice | Format::Coco => {
            let document = files
                .iter()
                .find(|path| !path.contains('/') && path.ends_with(".json"));
            let document = document.expect("a document at the top");
            let text = std::fs::read(view.join(document)).expect("the document");
            let document: Value = serde_json::from_slice(&text).expect("it is JSON");
            let listed = document["images"].as_array().expect("its images");
            for image in listed {
                let name = image["file_name"].as_str().expect("its name");
                let there = ["images/", ""].map(|top| view.join(format!("{top}{name}")).exists());
                assert!(there.contains(&true), "{name}");
                count(image["split"].as_str().expect("its part"));
            }
            assert_eq!(
                listed.len(),
                images.count(),
                "no image beside those of the document"
            );
        }
    }
    counts
}

fn methods(set: &Set) -> Vec<(Option<Value>, [u64; 3])> {
    let named = json!({set.image(0): "train", set.image(1): "val", set.image(2): "val", set.image(3): "test"});
    vec![
        (None, [16, 4, 0]),
        (Some(json!({"method": "use_dataset"})), [16, 4, 0]),
        (
            Some(json!({"method": "auto", "ratio": [0.6, 0.2, 0.2], "seed": 7})),
            [12, 4, 4],
        ),
        (
            Some(
                json!({"method": "auto", "ratio": [0.5, 0.5], "exclude_images": [set.image(4), set.image(5), set.image(14), set.image(15)]}),
            ),
            [8, 8, 0],
        ),
        (
            Some(json!({"method": "custom", "custom_splits": named})),
            [17, 2, 1],
        ),
    ]
}

fn expected(counts: [u64; 3]) -> BTreeMap<Part, u64> {
    let counts = Part::ALL.into_iter().zip(counts);
    counts.filter(|(_, count)| *count > 0).collect()
}

pub(crate) async fn every_format_and_method_shows_exactly_the_recorded_split() {
    let (fake, agent, data) = cluster().await;
    let store = Store::start().await;
    let mut job = 0;
    for set in Set::all() {
        for (strategy, counts) in methods(&set) {
            job += 1;
            let (snapshot, named, assignment) = set.snapshot(strategy.as_ref());
            assert_eq!(
                assignment.counts(),
                expected(counts),
                "{} {strategy:?}",
                set.format.name()
            );
            set.offer(&fake, &store, job, &named);
            fake.send(set.start(job, snapshot, "exit 0")).await;
            let end = fake.whole_end(job).await;
            assert_eq!(
                end.exit_code,
                Some(0),
                "{} {strategy:?}: {}",
                set.format.name(),
                end.error
            );
            let view = view(&data, job);
            assert_eq!(
                counted(&set, &view),
                expected(counts),
                "{} {strategy:?}",
                set.format.name()
            );
            contents_are_right(&view, &assignment);
        }
    }
    let image = &Set::folders().image(0);
    assert_eq!(store.asked_for(image), 1, "five jobs, one fetch");
    agent.stop().await;
}

/// Each image has the content that its name stands for, whatever it is called in the view.
fn contents_are_right(view: &Path, assignment: &Assignment) {
    let mut shown: Vec<String> = below(view)
        .into_iter()
        .filter(|path| path.ends_with(".png"))
        .map(|path| std::fs::read_to_string(view.join(path)).expect("an image"))
        .collect();
    let name = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let mut wanted: Vec<String> = assignment
        .iter()
        .map(|(key, _)| format!("image {}", name(key)))
        .collect();
    shown.sort();
    wanted.sort();
    assert_eq!(shown, wanted);
}

pub(crate) async fn a_trainer_is_told_of_its_dataset_and_finds_it_read_only() {
    let (fake, agent, data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (snapshot, named, _) = set.snapshot(None);
    set.offer(&fake, &store, 1, &named);
    let hash = snapshot.version_hash.clone();
    let script = r#"echo "$DATASET_ID $SNAPSHOT_ID $DATASET_VERSION_HASH $DATASET_S3_URI"; echo "$LOCAL_DATASET_PATH"; echo "$CONFIG"
stat -c %a "$LOCAL_DATASET_PATH" "$LOCAL_DATASET_PATH"/val/cat/00.png"#;
    fake.send(set.start(1, snapshot, script)).await;
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(0), "{}", end.error);
    let lines = fake.lines(1, LogStream::Stdout);
    assert_eq!(
        lines[0],
        format!("d1 snap_0123456789ab {hash} s3://bucket/d1")
    );
    assert_eq!(lines[1], view(&data, 1).display().to_string());
    let config: Value = serde_json::from_str(&lines[2]).expect("CONFIG is JSON");
    assert_eq!(
        config["split_config"]["counts"],
        json!({"train": 16, "val": 4})
    );
    assert_eq!(config["dataset_format"], "imagefolder");
    assert_eq!(lines[3..], ["555", "444"]);
    let own = fake.lines(1, LogStream::System);
    assert!(
        own[0].contains("20 files") && own[0].ends_with("16 train, 4 val"),
        "{own:?}"
    );
    forget(&fake, &data, 1).await;
    agent.stop().await;
}

pub(crate) async fn pictures_without_a_class_are_told_by_number() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    for (job, beside, words) in [
        (1, ["a.png"].as_slice(), "1 picture without a class is"),
        (2, &["a.png", "b.png"], "2 pictures without a class are"),
    ] {
        let mut set = Set::folders();
        let files = beside
            .iter()
            .map(|name| ((*name).to_owned(), b"x".to_vec()));
        set.files.extend(files);
        let (snapshot, named, _) = set.snapshot(None);
        set.offer(&fake, &store, job, &named);
        fake.send(set.start(job, snapshot, "exit 0")).await;
        assert_eq!(fake.whole_end(job).await.exit_code, Some(0));
        let own = fake.lines(job, LogStream::System);
        let words = format!("16 train, 4 val; {words} left out");
        assert!(own[0].ends_with(&words), "{own:?}");
    }
    agent.stop().await;
}

/// The end of a job whose dataset was changed by `change` after its snapshot was made.
async fn end_after(change: impl FnOnce(&Set, &Fake, &Store)) -> (TaskEnd, bool) {
    let (fake, agent, data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (snapshot, named, _) = set.snapshot(None);
    set.offer(&fake, &store, 1, &named);
    change(&set, &fake, &store);
    let ran = data.path().join("ran");
    fake.send(set.start(1, snapshot, &format!("touch {}", ran.display())))
        .await;
    assert_eq!(fake.end(1).await.phase(), TaskPhase::NotStarted);
    let end = fake.whole_end(1).await;
    agent.stop().await;
    (end, ran.exists())
}

pub(crate) async fn the_first_file_that_differs_is_named_and_the_job_is_at_fault() {
    let change = |path: &str, content: Option<&'static str>| {
        let path = path.to_owned();
        move |_: &Set, _: &Fake, store: &Store| {
            let mut shelf = store.shelf();
            shelf
                .files
                .insert("val/dog/15.png".to_owned(), b"another at the end".to_vec());
            match content {
                Some(content) => shelf.files.insert(path, content.into()),
                None => shelf.files.remove(&path),
            };
        }
    };
    let first = "train/cat/01.png";
    for (content, words) in [
        (Some("IMAGE 01.png"), "has another content"),
        (Some("image 01.png and more"), "is longer than 12 bytes"),
        (Some("image"), "has 5 bytes in place of 12"),
        (None, "is not there any more"),
    ] {
        let (end, ran) = end_after(change(first, content)).await;
        assert_eq!(
            end.error,
            format!(
                "dataset 'd1' has changed since snapshot snap_0123456789ab was made: '{first}' {words}; submit the job again to train on what is there now"
            )
        );
        assert!(!end.infrastructure && !ran);
    }
}

pub(crate) async fn a_path_that_leads_out_is_refused() {
    for path in ["../../../out", "/tmp/trainyard-out", "a/../../out"] {
        let change = |_: &Set, fake: &Fake, _: &Store| {
            let mut known = fake.known();
            let manifest = known.manifests.get_mut(&1).expect("it is offered");
            manifest.files[0].path = path.to_owned();
        };
        let (end, ran) = end_after(change).await;
        assert!(
            end.error.contains(&format!("'{path}' is refused")),
            "{}",
            end.error
        );
        assert!(!ran);
    }
}

pub(crate) async fn a_split_that_comes_out_another_way_runs_nothing() {
    let (fake, agent, _data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (mut snapshot, named, _) = set.snapshot(None);
    set.offer(&fake, &store, 1, &named);
    snapshot.assignment_hash = "0".repeat(64);
    fake.send(set.start(1, snapshot.clone(), "exit 0")).await;
    let end = fake.whole_end(1).await;
    assert!(
        end.infrastructure && end.error.contains("the split comes out another"),
        "{}",
        end.error
    );
    snapshot.version_hash = "0".repeat(64);
    set.offer(&fake, &store, 2, &named);
    fake.send(set.start(2, snapshot, "exit 0")).await;
    let end = fake.whole_end(2).await;
    assert!(
        end.infrastructure && end.error.contains("its manifest is damaged"),
        "{}",
        end.error
    );
    agent.stop().await;
}

pub(crate) async fn ways_that_expire_and_connections_that_break_are_borne() {
    let (fake, agent, data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (snapshot, named, assignment) = set.snapshot(None);
    set.offer(&fake, &store, 1, &named);
    fake.known().broken = 2;
    store.shelf().broken = 3;
    store.close_after(6);
    fake.send(set.start(1, snapshot, "exit 0")).await;
    until(|| store.shelf().asked.len() > 6).await;
    store.shelf().valid_from = 1;
    store.gate.add_permits(1_000);
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(0), "{}", end.error);
    contents_are_right(&view(&data, 1), &assignment);
    let asked = fake.known().asked.clone();
    assert!(
        asked.len() >= 4 && asked[1] > asked[0],
        "it went on where it was: {asked:?}"
    );
    agent.stop().await;
}

/// What the cache holds, in bytes.
fn held(data: &TempDir) -> u64 {
    let cache = data.path().join("cache");
    let size = |path| std::fs::metadata(cache.join(path)).map_or(0, |about| about.len());
    below(&cache).into_iter().map(size).sum()
}

/// Forgets a job; returns when its folder is gone.
async fn forget(fake: &Fake, data: &TempDir, job: u64) {
    let task = task(job);
    fake.send(Frame::Forget(ForgetTask { task })).await;
    let tasks = data.path().join("tasks");
    until(|| std::fs::read_dir(&tasks).is_ok_and(|mut left| left.next().is_none())).await;
}

pub(crate) async fn jobs_that_start_together_fetch_each_file_once() {
    let (fake, agent, data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (snapshot, named, _) = set.snapshot(None);
    store.close_after(0);
    for job in [1, 2] {
        set.offer(&fake, &store, job, &named);
        fake.send(set.start(job, snapshot.clone(), "exit 0")).await;
    }
    fake.until(|known| (known.asked.len() == 2).then_some(()))
        .await;
    store.gate.add_permits(1_000);
    for job in [1, 2] {
        assert_eq!(fake.whole_end(job).await.exit_code, Some(0));
    }
    assert_eq!((store.shelf().asked.len(), held(&data)), (20, 240));
    agent.stop().await;
}

pub(crate) async fn the_cache_stays_within_its_bound_when_datasets_follow_each_other() {
    let (fake, data) = (Fake::start().await, folder());
    let mut options = options(&fake, data.path());
    options.datasets.cache_bytes = 300;
    let (agent, store) = (launch(options), Store::start().await);
    for job in [1, 2] {
        let mut set = Set::folders();
        for content in set.files.values_mut() {
            content.push(b'0' + u8::try_from(job).expect("it is small"));
        }
        let (snapshot, named, _) = set.snapshot(None);
        set.offer(&fake, &store, job, &named);
        fake.send(set.start(job, snapshot, "exit 0")).await;
        assert_eq!(fake.whole_end(job).await.exit_code, Some(0));
        assert!((260..=300).contains(&held(&data)), "{}", held(&data));
        forget(&fake, &data, job).await;
    }
    agent.stop().await;
}

pub(crate) async fn a_cancel_while_fetching_works_at_once() {
    let (fake, agent, data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (snapshot, named, _) = set.snapshot(None);
    set.offer(&fake, &store, 1, &named);
    store.close_after(3);
    fake.send(set.start(1, snapshot, "exit 0")).await;
    fake.until(|known| {
        // Only the newest word is sent, so a busy machine may skip the first.
        let told = |detail: &String| {
            detail.starts_with("fetching dataset: ") && detail.contains(" of 20 files, ")
        };
        known.details.iter().any(told).then_some(())
    })
    .await;
    until(|| store.shelf().asked.len() > 3).await;
    fake.send(stop_of(1, LIMIT)).await;
    let end = fake.whole_end(1).await;
    assert_eq!(end.stop_cause(), StopCause::Cancelled);
    assert!(!view(&data, 1).exists());
    let on_its_way = || {
        std::fs::read_dir(data.path().join("cache/tmp"))
            .expect("its folder")
            .count()
    };
    until(|| on_its_way() == 0).await;
    fake.send(start_of(2, shell("exit 0"))).await;
    assert_eq!(fake.whole_end(2).await.exit_code, Some(0));
    agent.stop().await;
}

pub(crate) async fn an_agent_that_restarts_while_fetching_begins_again() {
    let (fake, agent, data) = cluster().await;
    let (store, set) = (Store::start().await, Set::folders());
    let (snapshot, named, assignment) = set.snapshot(None);
    set.offer(&fake, &store, 1, &named);
    store.close_after(5);
    fake.send(set.start(1, snapshot, "exit 0")).await;
    let arrived = || {
        let cache = below(&data.path().join("cache"));
        cache
            .iter()
            .filter(|path| !path.starts_with("tmp/"))
            .count()
    };
    until(|| arrived() == 5 && store.shelf().asked.len() > 5).await;
    agent.stop().await;
    fake.hang_up();
    let left = data.path().join("cache/tmp/left");
    std::fs::write(&left, "half").expect("what a dead agent leaves");
    let before = store.shelf().asked.len();
    store.gate.add_permits(1_000);
    let second = launch(options(&fake, data.path()));
    let end = fake.whole_end(1).await;
    assert_eq!(end.exit_code, Some(0), "{}", end.error);
    contents_are_right(&view(&data, 1), &assignment);
    assert!(
        store.shelf().asked.len() - before <= 15,
        "what was there is not fetched again"
    );
    assert!(!left.exists());
    second.stop().await;
}
