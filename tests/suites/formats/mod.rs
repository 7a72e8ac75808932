//! Every format that the project knows, from a Labeler through a snapshot to what a trainer is given:
//! what the views hold, and real trainers on them.
//!
//! Owns the cluster, its Labeler and its datasets; one for each format and task.

pub(crate) mod trained;
mod views;

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
    jobs::{Jobs, is_over},
    labeler::Labeler,
    pictures::{self, Layout},
    wait::until_within,
};
use trainyard_proto::v1::{self, JobState};

use crate::TRAINYARD;

const SECRET: &str = "the secret of the suite of formats";
const TASKS: [&str; 4] = ["classification", "detection", "segmentation", "pose"];
/// One is left out where the split is the job's.
const EXCLUDED: usize = 7;
/// Two cores train sixteen small networks in this time, beside other tests.
pub(crate) const TRAINS_WITHIN: Duration = Duration::from_secs(900);

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
        knows_environments(&self.cluster.agent_data("one"));
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

/// An agent with this folder finds environments of trainers where an earlier test has built them.
pub(crate) fn knows_environments(data: &Path) {
    fs::create_dir_all(data).expect("a folder");
    let kept = environments().join("envs");
    fs::create_dir_all(&kept).expect("a folder");
    symlink(kept, data.join("envs")).expect("a link");
}

/// Where environments are kept between tests and runs.
pub(crate) fn environments() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("trainers")
}
