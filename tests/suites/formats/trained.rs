//! Real trainers on the view of every format and task that they can train.
//!
//! The perceptron's environment (some 90 MB) is built as the demo does. Those with torch take gigabytes:
//! they train where `TRAINYARD_TRAINERS=1` is set, as in `.ci/run`, and are skipped with a word elsewhere.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use tests::{
    jobs::{Jobs, variables},
    needs::skipped,
    pictures::{self, Layout},
};
use trainyard_agent::environment::EnvironmentStore;
use trainyard_proto::v1;

use super::{Cell, Story, environments};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Builds the environments of these trainers; false, with a word, where that cannot be.
pub(crate) async fn prepared(trainers: &[&str]) -> bool {
    let store = EnvironmentStore::new(environments());
    for trainer in trainers {
        let folder = Path::new(ROOT).join("trainers").join(trainer);
        if let Err(error) = store.prepare(&folder, &mut |_| {}).await {
            assert!(
                !wanted(),
                "the environment of {trainer} cannot be built: {error}"
            );
            skipped(&format!(
                "the environment of {trainer} cannot be built here: {error}"
            ));
            return false;
        }
    }
    true
}

/// Whether large environments are to be built, and all are to be there.
pub(crate) fn wanted() -> bool {
    std::env::var_os("TRAINYARD_TRAINERS").is_some_and(|set| set == "1")
}

/// A training of one epoch, as small as it can be.
pub(crate) fn training(framework: &str) -> v1::JobSpec {
    let (model, settings) = match framework {
        "ultralytics" => (
            "yolo11n",
            json!({"pretrained": false, "plots": false, "workers": 0, "mixed_precision": false}),
        ),
        "timm" => ("test_resnet", json!({"augmentation": {"enabled": false}})),
        _ => ("mlp", json!({"hidden_layer_sizes": [8]})),
    };
    v1::JobSpec {
        framework: framework.to_owned(),
        model_name: model.to_owned(),
        epochs: 1,
        // Of nine, eight and six pictures none is left alone in the last batch, which Ultralytics refuses.
        batch_size: 3,
        learning_rate: 0.01,
        image_size: Some(32),
        device: "cpu".to_owned(),
        advanced_config_json: settings.to_string(),
        environment: variables(&[("OMP_NUM_THREADS", "1")]),
        ..v1::JobSpec::default()
    }
}

/// The classifiers say what they have been given in one line.
async fn classifies(story: &Story, cell: Cell, job: &v1::Job) {
    let counts = story.counts(job);
    let line = format!(
        "{} training and {} validation samples, 2 classes",
        counts["train"], counts["val"]
    );
    let said = story.said(job.job_id).await;
    assert!(said.contains(&line), "{cell:?}: {line} is not in {said}");
}

/// What Ultralytics itself says that it has found, and the label files that it was given.
async fn finds(story: &Story, cell: Cell, job: &v1::Job) {
    let counts = story.counts(job);
    let said = story.said(job.job_id).await;
    let (train, val) = (counts["train"], counts["val"]);
    let using = format!("Using {train} train, {val} val images");
    assert!(said.contains(&using), "{cell:?}: {using} is not in {said}");
    if cell.task == "classification" {
        return;
    }
    let scans = said.split(['\n', '\r']).filter_map(|line| {
        let (_, rest) = line.split_once(" images, ")?;
        let (backgrounds, rest) = rest.split_once(" backgrounds, ")?;
        let part = if line.contains("val: ") {
            "val"
        } else {
            "train"
        };
        let whole = rest.starts_with("0 corrupt: 100%");
        whole.then(|| (part, backgrounds.parse::<usize>().expect("a number")))
    });
    let scans: BTreeMap<_, _> = scans.collect();
    let empty = cell.shown().len() - cell.objects();
    assert_eq!(scans.values().sum::<usize>(), empty, "{cell:?}: {said}");
    assert_eq!(scans.len(), 2, "{cell:?}: {said}");
    let labels = story.worked_in(job.job_id).join("dataset/converted/labels");
    assert_eq!(labels.exists(), cell.layout != Layout::Yolo, "{cell:?}");
    if labels.exists() {
        let lines = lines_below(&labels, &counts);
        assert_eq!(lines.len(), cell.objects(), "{cell:?}: {lines:?}");
        let columns = |line: &String| line.split_whitespace().count();
        let fits = |line: &String| match cell.task {
            "segmentation" => columns(line) >= 9 && !columns(line).is_multiple_of(2),
            "pose" => columns(line) == 5 + 3 * pictures::KEYPOINTS,
            _ => columns(line) == 5,
        };
        assert!(lines.iter().all(fits), "{cell:?}: {lines:?}");
    }
    let points = Jobs::of(&story.cluster).await.points(job.job_id).await;
    let own = match cell.task {
        "segmentation" => "seg_loss",
        "pose" => "pose_loss",
        _ => "box_loss",
    };
    assert!(points[0].values.contains_key(own), "{cell:?}: {points:?}");
}

/// The lines of all labels; each part has as many files as the split says.
fn lines_below(labels: &Path, counts: &BTreeMap<String, usize>) -> Vec<String> {
    let mut lines = Vec::new();
    for (part, count) in counts {
        let files = fs::read_dir(labels.join(part)).expect("a folder");
        let texts = files.map(|file| fs::read_to_string(file.expect("an entry").path()));
        let texts: Vec<String> = texts.collect::<Result<_, _>>().expect("texts");
        assert_eq!(texts.len(), *count, "{}", labels.display());
        lines.extend(
            texts
                .iter()
                .flat_map(|text| text.lines().map(str::to_owned)),
        );
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_perceptron_trains_on_every_format_and_its_own_record_holds_the_settings() {
    if !prepared(&["sklearn"]).await {
        return;
    }
    let mut story = Story::begin().await;
    story.agent().await;
    let classes = |cell: &Cell| cell.task == "classification";
    let cells: Vec<_> = Cell::all().into_iter().filter(classes).collect();
    let mut specs: Vec<_> = cells
        .iter()
        .map(|cell| cell.job(training("sklearn")))
        .collect();
    specs[0].epochs = 3;
    specs[0].batch_size = 5;
    specs[0].learning_rate = 0.02;
    specs[0].advanced_config_json =
        json!({"optimizer": {"type": "sgd", "momentum": 0.7}, "hidden_layer_sizes": [6, 4]})
            .to_string();
    let jobs = story.run(specs).await;
    for (cell, job) in cells.iter().zip(&jobs) {
        classifies(&story, *cell, job).await;
    }
    let record = story.worked_in(jobs[0].job_id).join("args.json");
    let record = fs::read_to_string(record).expect("the trainer has written it");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    for (key, expected) in [
        ("epochs", json!(3)),
        ("batch_size", json!(5)),
        ("learning_rate", json!(0.02)),
        ("solver", json!("sgd")),
        ("momentum", json!(0.7)),
        ("hidden_layer_sizes", json!([6, 4])),
    ] {
        assert_eq!(record[key], expected, "{key} in {record}");
    }
    let points = Jobs::of(&story.cluster).await.points(jobs[0].job_id).await;
    assert_eq!(points.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trainer_trains_every_task_on_every_format_that_fits() {
    let trainers = ["ultralytics", "timm"];
    if !wanted() {
        skipped(&format!(
            "set TRAINYARD_TRAINERS=1 to build {trainers:?} (gigabytes), as .ci/run does"
        ));
        return;
    }
    assert!(prepared(&trainers).await);
    let mut story = Story::begin().await;
    story.agent().await;
    let mut wanted = Vec::new();
    for cell in Cell::all() {
        wanted.push((cell, "ultralytics"));
        if cell.task == "classification" {
            wanted.push((cell, "timm"));
        }
    }
    let specs = wanted
        .iter()
        .map(|(cell, trainer)| cell.job(training(trainer)));
    let jobs = story.run(specs.collect()).await;
    for ((cell, trainer), job) in wanted.into_iter().zip(&jobs) {
        match trainer {
            "timm" => classifies(&story, cell, job).await,
            _ => finds(&story, cell, job).await,
        }
    }
}
