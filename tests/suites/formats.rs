//! Every format that the project knows, from a Labeler through a snapshot to what a trainer is given:
//! first what the view holds, then real trainers on it.
//!
//! The perceptron's environment (some 90 MB) is built as the demo does. Those with torch take gigabytes:
//! they train where `TRAINYARD_TRAINERS=1` is set, as in `.ci/run`, and are skipped with a word elsewhere.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, is_over, python, variables},
    labeler::Labeler,
    pictures::{self, Layout},
    wait::until_within,
};
use trainyard_agent::environment::EnvironmentStore;
use trainyard_proto::v1::{self, JobState};

use crate::TRAINYARD;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECRET: &str = "the secret of the suite of formats";
const TASKS: [&str; 4] = ["classification", "detection", "segmentation", "pose"];
/// One is left out where the split is the job's.
const EXCLUDED: usize = 7;
/// Two cores train sixteen small networks in this time, beside other tests.
const TRAINS_WITHIN: Duration = Duration::from_secs(900);

/// A cluster whose datasets are those of a Labeler.
struct Story {
    labeler: Labeler,
    cluster: Cluster,
}

/// One dataset for one task.
#[derive(Clone, Copy, Debug)]
struct Cell {
    layout: Layout,
    task: &'static str,
}

impl Cell {
    /// All that can be trained.
    fn all() -> Vec<Self> {
        let fits = |layout: Layout, task: &str| match layout {
            Layout::DiceFlat | Layout::DiceNested | Layout::Coco => true,
            Layout::Yolo => task != "classification",
            Layout::ImageFolder => task == "classification",
        };
        let tasks = |layout| TASKS.map(|task| Self { layout, task });
        let all = Layout::ALL.into_iter().flat_map(tasks);
        all.filter(|cell| fits(cell.layout, cell.task)).collect()
    }

    fn id(self) -> String {
        format!("{:?}-{}", self.layout, self.task)
    }

    /// A picture without an object has no class.
    fn shown(self) -> Vec<usize> {
        let excluded = |number: usize| !self.layout.has_parts() && number == EXCLUDED;
        let known = |number: &usize| self.task != "classification" || pictures::has_object(*number);
        let all = (0..pictures::COUNT).filter(known);
        all.filter(|number| !excluded(*number)).collect()
    }

    fn objects(self) -> usize {
        let shown = self.shown().into_iter();
        shown.filter(|number| pictures::has_object(*number)).count()
    }

    /// A training, or a program, on this dataset.
    fn job(self, of: v1::JobSpec) -> v1::JobSpec {
        let split = if self.layout.has_parts() {
            json!({"method": "use_dataset"})
        } else {
            let excluded = format!("{EXCLUDED:02}.bmp");
            json!({"method": "auto", "ratio": [0.7, 0.3], "seed": 7, "exclude_images": [excluded]})
        };
        v1::JobSpec {
            task_type: self.task.to_owned(),
            dataset_id: self.id(),
            split_strategy_json: split.to_string(),
            ..of
        }
    }
}

impl Story {
    /// With all datasets, and a Labeler that says of each where it lies, its format and its task.
    async fn begin() -> Self {
        let labeler = Labeler::start(&[("formats", SECRET)]).await;
        let url = labeler.url();
        let settings = [
            ("DATASETS__PROVIDER", "labeler"),
            ("LABELER__URL", &url),
            ("LABELER__SECRET", SECRET),
            ("LABELER__KID", "formats"),
        ];
        let variables =
            settings.map(|(name, value)| (format!("TRAINYARD__{name}"), value.to_owned()));
        let setup = CoordinatorSetup {
            variables: variables.into(),
            ..CoordinatorSetup::default()
        };
        let cluster = Cluster::start_with(TRAINYARD, setup).await;
        for cell in Cell::all() {
            let place = cluster.path("sets").join(cell.id());
            pictures::lay_down(&place, cell.layout, cell.task);
            let fields = json!({
                "format": cell.layout.format(), "storage_path": place, "task_type": cell.task,
            });
            labeler.dataset_with(&cell.id(), fields, &["1"]);
        }
        Self { labeler, cluster }
    }

    /// An agent that finds environments of trainers where an earlier test has built them.
    async fn agent(&mut self) {
        let data = self.cluster.agent_data("one");
        fs::create_dir_all(&data).expect("a folder");
        let kept = environments().join("envs");
        fs::create_dir_all(&kept).expect("a folder");
        symlink(kept, data.join("envs")).expect("a link");
        self.cluster.agent("one", &["--slots", "2"]).await;
    }

    /// How many pictures each part has, by the job's snapshot.
    fn counts(&self, job: &v1::Job) -> BTreeMap<String, usize> {
        let shown = self.cluster.cli(&["dataset", "snapshots", "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let all = shown["snapshots"].as_array().expect("a list").iter();
        let id = job
            .spec
            .as_ref()
            .expect("a specification")
            .dataset_id
            .as_str();
        let mut of = all.filter(|row| row["dataset_id"] == id);
        let row = of.next().expect("the snapshot of the dataset");
        assert!(of.next().is_none(), "one snapshot a dataset");
        serde_json::from_value(row["split"]["counts"].clone()).expect("counts")
    }

    /// Submits all, and waits for the end of each, which must be a good one.
    async fn run(&self, specs: Vec<v1::JobSpec>) -> Vec<v1::Job> {
        let mut jobs = Jobs::of(&self.cluster).await;
        let mut ids = Vec::new();
        for spec in specs {
            ids.push(jobs.submit(spec).await);
        }
        let mut ended = Vec::new();
        for id in ids {
            let over = async || {
                let job = jobs.clone().get(id).await;
                is_over(&job).then_some(job)
            };
            let job = until_within(TRAINS_WITHIN, &format!("job {id} has ended"), over).await;
            let said = self.said(id).await;
            assert_eq!(job.state(), JobState::Completed, "{job:?}\n{said}");
            ended.push(job);
        }
        ended
    }

    /// All lines of a job's log.
    async fn said(&self, id: u64) -> String {
        let lines = Jobs::of(&self.cluster).await.lines(id).await;
        let texts: Vec<_> = lines.into_iter().map(|line| line.text).collect();
        texts.join("\n")
    }

    /// The folder that a job worked in.
    fn worked_in(&self, id: u64) -> PathBuf {
        let data = self.cluster.agent_data("one");
        data.join(format!("jobs/{id}/attempt-1"))
    }
}

/// Where environments are kept between tests and runs.
fn environments() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("trainers")
}

/// Builds the environments of these trainers; false, with a word, where that cannot be.
async fn prepared(trainers: &[&str]) -> bool {
    let store = EnvironmentStore::new(environments());
    for trainer in trainers {
        let folder = Path::new(ROOT).join("trainers").join(trainer);
        if let Err(error) = store.prepare(&folder, &mut |_| {}).await {
            assert!(
                !wanted(),
                "the environment of {trainer} cannot be built: {error}"
            );
            println!("skipped: the environment of {trainer} cannot be built here: {error}");
            return false;
        }
    }
    true
}

/// Whether large environments are to be built, and all are to be there.
fn wanted() -> bool {
    std::env::var_os("TRAINYARD_TRAINERS").is_some_and(|set| set == "1")
}

/// What a view holds: pictures by part, and objects that have what the task needs.
const LOOK: &str = r#"
import collections, json, os, pathlib
root, task = pathlib.Path(os.environ["LOCAL_DATASET_PATH"]), os.environ["TASK_TYPE"]
parts, shaped = collections.Counter(), 0
documents = sorted(root.glob("annotations*.json"))
if task == "classification":
    for part in ("train", "val"):
        classes = sorted(entry.name for entry in (root / part).iterdir())
        assert classes == ["dark", "light"], classes
        parts[part] = len(list((root / part).rglob("*.bmp")))
    shaped = sum(parts.values())
elif documents:
    document = json.loads(documents[0].read_text())
    images = document["images"]
    assert all(any((root / top / image["file_name"]).is_file() for top in ("images", ".")) for image in images)
    parts.update(image["split"] for image in images)
    items = document.get("annotations") or [item for image in images for item in image["annotations"]]
    key = {"segmentation": "segmentation", "pose": "keypoints"}.get(task, "bbox")
    shaped = sum(1 for item in items if item.get(key))
else:
    columns = {"detection": 5, "segmentation": 9, "pose": 14}[task]
    for part in ("train", "val"):
        parts[part] = len(list((root / "images" / part).iterdir()))
        lines = [line for file in (root / "labels" / part).iterdir() for line in file.read_text().splitlines()]
        shaped += sum(1 for line in lines if len(line.split()) == columns)
print("view", json.dumps({"parts": parts, "shaped": shaped}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_every_format_holds_the_recorded_split_and_all_that_the_task_needs() {
    let mut story = Story::begin().await;
    story.agent().await;
    let cells = Cell::all();
    let specs = cells.iter().map(|cell| cell.job(python(LOOK))).collect();
    for (cell, job) in cells.iter().zip(story.run(specs).await) {
        let counts = story.counts(&job);
        assert_eq!(
            counts.values().sum::<usize>(),
            cell.shown().len(),
            "{cell:?}"
        );
        let said = story.said(job.job_id).await;
        let seen = said.lines().find_map(|line| line.strip_prefix("view "));
        let seen: Value = serde_json::from_str(seen.expect("it has looked")).expect("JSON");
        let expected = json!({"parts": counts, "shaped": cell.objects()});
        assert_eq!(seen, expected, "{cell:?}");
        if cell.layout.has_parts() {
            let val = pictures::VALIDATING
                .iter()
                .filter(|n| cell.shown().contains(n));
            assert_eq!(counts["val"], val.count(), "{cell:?}");
        }
    }
    let asked = story.labeler.asked("permission");
    assert_eq!(asked as usize, cells.len(), "once for each submit");
    assert_eq!(story.labeler.refused(), Vec::<String>::new());
}

/// A training of one epoch, as small as it can be.
fn training(framework: &str) -> v1::JobSpec {
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
        batch_size: 4,
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
        println!(
            "skipped: set TRAINYARD_TRAINERS=1 to build {trainers:?} (gigabytes), as .ci/run does"
        );
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
