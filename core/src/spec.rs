//! What a user asks for, and the checks that every way in shares.
//!
//! `check` reports every bad field at once; each finding names the field and the way out.

pub mod array;
mod placing;
pub mod texts;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    array::{ArrayPlace, Indices},
    placing::{Arrange, MOST_AWAITED, MOST_GPUS, MOST_LABELS, Placing},
};
use crate::{
    dataset::split_problems,
    ids::JobId,
    resources::ResourceRequest,
    retry::{LONGEST_WAIT, OnMemory, RetryPolicy},
    secret::Environment,
    time::Timestamp,
};

/// Frameworks whose trainers ship with the agent; `command` runs any program.
pub const FRAMEWORKS: [&str; 4] = ["command", "sklearn", "timm", "ultralytics"];

/// A job as it was asked for. Defaults are those of the HTTP contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    /// A name for people.
    pub name: String,
    /// One of [`FRAMEWORKS`].
    pub framework: String,
    /// The model to train; not used by `command`.
    pub model_name: String,
    /// A long or short task name; not used by `command`.
    pub task_type: String,
    /// At least 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<u32>,
    /// A dataset by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_id: Option<String>,
    /// A dataset by its path as the agents see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_path: Option<String>,
    /// How the dataset is laid out.
    pub dataset_format: String,
    /// 1 to 1,000.
    pub epochs: u32,
    /// 1 to 512.
    pub batch_size: u32,
    /// Above 0 and below 1.
    pub learning_rate: f64,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u32>,
    /// `cpu`, `0`, `0,1`; empty lets the trainer choose among its GPUs.
    pub device: String,
    /// The advanced settings, handed to the trainer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advanced_config: Option<Value>,
    /// The wanted split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_strategy: Option<Value>,
    /// The metric that names the best epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_metric: Option<String>,
    /// `max` or `min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_metric_mode: Option<String>,
    /// Words for models that are asked in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_prompts: Option<Vec<String>>,
    /// How such words are used; `offline` unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_mode: Option<String>,
    /// A checkpoint to begin with: its location in the artifact store, or a path as the trainer's node sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<String>,
    /// Go on where that checkpoint ended, epochs and optimizer included; else only its weights count.
    pub resume: bool,
    /// Program and arguments of framework `command`.
    pub command: Vec<String>,
    /// Variables for the trainer.
    pub environment: Environment,
    /// What one task holds.
    pub resources: ResourceRequest,
    /// Nodes of the gang, each of which holds that; at least 1.
    pub nodes: u32,
    /// How the processes of a gang are started; only for framework `command`.
    pub launcher: Launcher,
    /// Processes that torchrun starts on each node; without it one a GPU, or one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub procs_per_node: Option<u32>,
    /// Which nodes will do, and how it lies on them.
    #[serde(skip_serializing_if = "Placing::is_plain")]
    pub placement: Placing,
    /// Higher runs first; 0 to 1,000. Jobs of older versions may have less.
    pub priority: i32,
    /// It may be told to save its work and go, and goes on from its last checkpoint when there is room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub preemptible: bool,
    /// How long the trainer may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub grace_period: Duration,
    /// It does not start before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// It starts when these have succeeded, and is cancelled when one of them has not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobId>,
    /// It starts when these have ended, well or ill.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_any: Vec<JobId>,
    /// Of a submission that makes a job for each of them: `0-99`, `0-99%5` for at most 5 at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indices: Option<String>,
    /// Of a job that such a submission has made: which of them it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayPlace>,
    /// When an attempt fails.
    pub retry: RetryPolicy,
    /// Free words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Given by old clients, kept for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<i64>,
    /// The project that owns the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<i64>,
    /// Given by old clients, kept for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_docker_image: Option<String>,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            framework: String::new(),
            model_name: String::new(),
            task_type: String::new(),
            num_classes: None,
            dataset_id: None,
            dataset_path: None,
            dataset_format: "imagefolder".to_owned(),
            epochs: 50,
            batch_size: 32,
            learning_rate: 0.001,
            image_size: None,
            device: String::new(),
            advanced_config: None,
            split_strategy: None,
            primary_metric: None,
            primary_metric_mode: None,
            custom_prompts: None,
            prompt_mode: None,
            resume_from: None,
            resume: false,
            command: Vec::new(),
            environment: Environment::default(),
            resources: ResourceRequest::default(),
            nodes: 1,
            launcher: Launcher::Plain,
            procs_per_node: None,
            placement: Placing::default(),
            priority: 0,
            preemptible: false,
            time_limit: None,
            grace_period: Duration::from_secs(10),
            not_before: None,
            after: Vec::new(),
            after_any: Vec::new(),
            indices: None,
            array: None,
            retry: RetryPolicy::default(),
            tags: None,
            notes: None,
            session_id: None,
            project_id: None,
            custom_docker_image: None,
        }
    }
}

/// How the processes of a job are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// One process a node, with `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE` and `LOCAL_RANK`.
    #[default]
    Plain,
    /// `torchrun`, with a rendezvous on the node of rank 0.
    Torchrun,
}

/// One bad field of a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field's path, such as `resources.cpus`.
    pub field: String,
    /// What is wrong and the way out.
    pub message: String,
}

/// The four kinds of task that trainers know, under long and short names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    /// One label an image.
    Classification,
    /// Boxes.
    Detection,
    /// Masks.
    Segmentation,
    /// Keypoints.
    Pose,
}

impl TaskType {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Classification,
        Self::Detection,
        Self::Segmentation,
        Self::Pose,
    ];

    /// The short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Detection => "detection",
            Self::Segmentation => "segmentation",
            Self::Pose => "pose",
        }
    }

    /// Reads a long or short name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "classification" | "image_classification" => Some(Self::Classification),
            "detection" | "object_detection" => Some(Self::Detection),
            "segmentation" | "instance_segmentation" => Some(Self::Segmentation),
            "pose" | "pose_estimation" => Some(Self::Pose),
            _ => None,
        }
    }
}

impl JobSpec {
    /// Checks every field; an empty list means that the job can be accepted.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Findings::default();
        if !FRAMEWORKS.contains(&self.framework.as_str()) {
            let known = FRAMEWORKS.join(", ");
            found.add(
                "framework",
                format!("unknown framework '{}'; known are {known}", self.framework),
            );
        }
        if self.framework == "command" {
            self.check_command(&mut found);
        } else {
            self.check_training(&mut found);
        }
        self.check_gang(&mut found);
        placing::check(self, &mut found);
        self.check_limits(&mut found);
        self.check_settings(&mut found);
        texts::check(self, &mut found);
        found.0
    }

    /// The same for every submission that asks for the same, whatever version wrote it: what is as it is by
    /// default does not count. Nor does the moment before which it may not start: `+2h` is another one each time it is said.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let fields = |spec: &Self| -> BTreeMap<String, Value> {
            let value = serde_json::to_value(spec).and_then(serde_json::from_value);
            value.unwrap_or_default()
        };
        let plain = fields(&Self::default());
        let mut asked = fields(self);
        asked.retain(|name, value| plain.get(name) != Some(value) && name != "not_before");
        let text = serde_json::to_string(&asked).unwrap_or_default();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// The metric that names the best epoch and whether it grows: as asked for, else by the task.
    #[must_use]
    pub fn primary(&self) -> (String, String) {
        let (metric, mode) = match TaskType::parse(&self.task_type) {
            Some(TaskType::Classification) => ("accuracy", "max"),
            Some(TaskType::Detection | TaskType::Segmentation | TaskType::Pose) => ("mAP50", "max"),
            None => ("loss", "min"),
        };
        match &self.primary_metric {
            Some(named) => {
                let mode = self.primary_metric_mode.as_deref().unwrap_or("max");
                (named.clone(), mode.to_owned())
            }
            None => (metric.to_owned(), mode.to_owned()),
        }
    }

    fn check_command(&self, found: &mut Findings) {
        if self.command.first().is_none_or(String::is_empty) {
            found.add(
                "command",
                "is empty; give a program and its arguments after --".to_owned(),
            );
        }
    }

    fn check_training(&self, found: &mut Findings) {
        if self.model_name.is_empty() {
            found.add("model_name", "model_name is required".to_owned());
        }
        if self.task_type.is_empty() {
            found.add("task_type", "task_type is required".to_owned());
        } else if TaskType::parse(&self.task_type).is_none() {
            found.add(
                "task_type",
                format!(
                    "unknown task '{}'; known are classification, detection, segmentation, pose",
                    self.task_type
                ),
            );
        }
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if !given(&self.dataset_id) && !given(&self.dataset_path) {
            found.add(
                "dataset_path",
                "Either dataset_id or dataset_path must be provided".to_owned(),
            );
        }
        if !self.command.is_empty() {
            found.add(
                "command",
                "is only for framework 'command'; leave it out".to_owned(),
            );
        }
    }

    fn check_gang(&self, found: &mut Findings) {
        found.range("nodes", self.nodes.into(), 1, 1_024);
        let is_command = self.framework == "command";
        if self.nodes > 1 && !is_command {
            let message = format!(
                "framework '{}' trains on one node; give 1, or start a distributed program with framework command",
                self.framework
            );
            found.add("nodes", message);
        }
        let torchrun = self.launcher == Launcher::Torchrun;
        if torchrun && !is_command {
            let message = "torchrun is only for framework 'command'; leave it out".to_owned();
            found.add("launcher", message);
        }
        if let Some(processes) = self.procs_per_node {
            found.range("procs_per_node", processes.into(), 1, 1_024);
            if !torchrun {
                let message = "is only for launcher 'torchrun'; leave it out".to_owned();
                found.add("procs_per_node", message);
            }
        }
    }

    fn check_limits(&self, found: &mut Findings) {
        found.range("epochs", self.epochs.into(), 1, 1_000);
        found.range("batch_size", self.batch_size.into(), 1, 512);
        found.range("priority", self.priority.into(), 0, 1_000);
        found.range("retry.limit", self.retry.limit.into(), 0, 100);
        if self.retry.backoff > LONGEST_WAIT {
            let message = format!("is too long; give at most {} s", LONGEST_WAIT.as_secs());
            found.add("retry.backoff", message);
        }
        if self.retry.out_of_memory == OnMemory::HalveBatch && self.framework == "command" {
            let message = "a command has no batch to halve; leave it out".to_owned();
            found.add("retry.out_of_memory", message);
        }
        found.range("resources.cpus", self.resources.cpus.into(), 1, 4_096);
        found.range("resources.gpus", self.resources.gpus.into(), 0, 1_024);
        if !(self.learning_rate > 0.0 && self.learning_rate < 1.0) {
            found.add(
                "learning_rate",
                format!(
                    "is {}; give a number above 0 and below 1",
                    self.learning_rate
                ),
            );
        }
        if self.num_classes.is_some_and(|classes| classes < 2) {
            found.add("num_classes", "must be at least 2".to_owned());
        }
        if self.time_limit.is_some_and(|limit| limit.is_zero()) {
            found.add(
                "time_limit",
                "is zero; leave it out for no limit".to_owned(),
            );
        }
    }

    fn check_settings(&self, found: &mut Findings) {
        for (field, value) in [
            ("advanced_config", &self.advanced_config),
            ("split_strategy", &self.split_strategy),
        ] {
            if value.as_ref().is_some_and(|value| !value.is_object()) {
                found.add(field, "is not a JSON object".to_owned());
            }
        }
        if let Some(wish @ Value::Object(_)) = &self.split_strategy {
            found.0.extend(split_problems(wish));
        }
        let mode = self.primary_metric_mode.as_deref().unwrap_or("max");
        if !["max", "min"].contains(&mode) {
            let shown: String = mode.chars().take(100).collect();
            found.add(
                "primary_metric_mode",
                format!("is '{shown}'; give max or min"),
            );
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, field: &str, message: String) {
        self.0.push(Violation {
            field: field.to_owned(),
            message,
        });
    }

    fn range(&mut self, field: &str, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.add(field, format!("is {value}; give {low} to {high}"));
        }
    }
}

#[cfg(test)]
mod tests;
