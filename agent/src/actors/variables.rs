//! The environment of a trainer, whole: nothing else reaches it.
//!
//! Pure; never reads the agent's own environment. Called by the preparation of a run.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use trainyard_core::snapshot::Snapshot;

use super::gang;
use crate::{folder::Order, objects};

/// What the platform says, whatever the user wants.
const RESERVED: [&str; 6] = [
    "JOB_ID",
    "CALLBACK_URL",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "RANK",
    "WORLD_SIZE",
];

/// Where things are on this node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The node's name.
    pub(super) node: String,
    /// Whom the trainer calls back.
    pub(super) callback_url: String,
    /// Where its S3 is.
    pub(super) storage: SocketAddr,
    /// Where it starts.
    pub(super) working_folder: PathBuf,
    /// Where its SDK writes down what it says, until that is answered.
    pub(super) kept: PathBuf,
    /// Holds `trainyard_sdk`.
    pub(super) sdk: PathBuf,
    /// Weights that are there already, if there is such a folder.
    pub(super) weights: Option<PathBuf>,
    /// The agent's own PATH.
    pub(super) path: String,
    /// What is shown of the snapshot's dataset, if there is one.
    pub(super) dataset: Option<PathBuf>,
    /// The checkpoint that the trainer begins with, when it came from the artifact store.
    pub(super) checkpoint: Option<PathBuf>,
}

/// The variables, and the names that the user wanted and did not get.
#[must_use]
pub(super) fn variables(order: &Order, place: &Place) -> (BTreeMap<String, String>, Vec<String>) {
    let mut all = of_job(order);
    all.extend(of_place(order, place));
    let mut refused = Vec::new();
    for (name, value) in order.spec.environment.iter() {
        let of_gang = order.world_size > 1 && gang::RESERVED.contains(&name.as_str());
        if of_gang || RESERVED.contains(&name.as_str()) {
            refused.push(name.clone());
        } else {
            all.insert(name.clone(), value.clone());
        }
    }
    (all, refused)
}

fn of_job(order: &Order) -> BTreeMap<String, String> {
    let spec = &order.spec;
    let mut all: BTreeMap<String, String> = [
        ("JOB_ID", order.task.job.0.to_string()),
        ("MODEL_NAME", spec.model_name.clone()),
        ("TASK_TYPE", spec.task_type.clone()),
        ("FRAMEWORK", spec.framework.clone()),
        ("DATASET_ID", spec.dataset_id.clone().unwrap_or_default()),
        ("DATASET_S3_URI", dataset_s3_uri(order)),
        ("SNAPSHOT_ID", of_snapshot(order, |snapshot| &snapshot.id)),
        (
            "DATASET_VERSION_HASH",
            of_snapshot(order, |snapshot| &snapshot.version_hash),
        ),
        ("EPOCHS", spec.epochs.to_string()),
        ("BATCH_SIZE", spec.batch_size.to_string()),
        ("LEARNING_RATE", spec.learning_rate.to_string()),
        ("DEVICE", spec.device.clone()),
        ("CONFIG", config(order).to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(place) = &spec.array {
        let of_array = [
            ("TRAINYARD_ARRAY_ID", place.id.0.to_string()),
            ("TRAINYARD_ARRAY_INDEX", place.index.to_string()),
            ("TRAINYARD_ARRAY_SIZE", place.size.to_string()),
        ];
        all.extend(of_array.map(|(name, value)| (name.to_owned(), value)));
    }
    if let Some(size) = spec.image_size {
        all.insert("IMGSZ".to_owned(), size.to_string());
    }
    if let Some(path) = spec.resume_from.clone() {
        all.insert("RESUME_FROM".to_owned(), path);
        all.insert("RESUME".to_owned(), spec.resume.to_string());
    }
    if let Some(path) = spec.dataset_path.clone().filter(|path| !path.is_empty()) {
        all.insert("LOCAL_DATASET_PATH".to_owned(), path);
    }
    all
}

/// Empty without one.
fn of_snapshot(order: &Order, what: impl Fn(&Snapshot) -> &str) -> String {
    let snapshot = order.snapshot.as_ref();
    snapshot.map(what).unwrap_or_default().to_owned()
}

/// Where the trainer's own S3 has it.
fn dataset_s3_uri(order: &Order) -> String {
    let snapshot = order.snapshot.as_ref();
    snapshot.map(objects::dataset_uri).unwrap_or_default()
}

fn of_place(order: &Order, place: &Place) -> BTreeMap<String, String> {
    let text = |path: &Path| path.display().to_string();
    let folder = &place.working_folder;
    let mut all: BTreeMap<String, String> = [
        ("CALLBACK_URL", place.callback_url.clone()),
        ("CHECKPOINT_DIR", text(&folder.join("checkpoints"))),
        ("HOME", text(folder)),
        ("TMPDIR", text(&folder.join("tmp"))),
        ("PATH", place.path.clone()),
        ("LANG", "C.UTF-8".to_owned()),
        ("PYTHONPATH", text(&place.sdk)),
        ("PYTHONUNBUFFERED", "1".to_owned()),
        ("CUDA_VISIBLE_DEVICES", order.gpu_uuids.join(",")),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
        ("RANK", order.task.rank.0.to_string()),
        ("WORLD_SIZE", order.world_size.max(1).to_string()),
        ("TRAINYARD_JOB_ID", order.task.job.0.to_string()),
        ("TRAINYARD_ATTEMPT", order.task.attempt.0.to_string()),
        ("TRAINYARD_NODE", place.node.clone()),
        ("TRAINYARD_KEPT_DIR", text(&place.kept)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let storage = objects::variables(
        order.secret.expose(),
        order.snapshot.as_ref(),
        place.storage,
    );
    all.extend(
        storage
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    if let Some(dataset) = &place.dataset {
        // The id goes before a path that a job may name too.
        all.insert("LOCAL_DATASET_PATH".to_owned(), text(dataset));
    }
    if let Some(checkpoint) = &place.checkpoint {
        all.insert("RESUME_FROM".to_owned(), text(checkpoint));
    }
    if let Some(weights) = &place.weights {
        all.insert("WEIGHTS_DIR".to_owned(), text(weights));
    }
    all
}

/// The document that trainers read their settings from. A flattened advanced key never replaces one
/// of the base.
fn config(order: &Order) -> Value {
    let spec = &order.spec;
    let (primary_metric, primary_metric_mode) = spec.primary();
    let advanced = spec.advanced_config.clone();
    let mut document = Map::new();
    if let Some(Value::Object(keys)) = &advanced {
        document.extend(keys.clone());
    }
    let (split, format) = match &order.snapshot {
        Some(snapshot) => (snapshot.split.clone(), &snapshot.format),
        None => (json!(spec.split_strategy), &spec.dataset_format),
    };
    let base = [
        ("epochs", json!(spec.epochs)),
        ("batch", json!(spec.batch_size)),
        ("imgsz", json!(spec.image_size)),
        ("device", json!(spec.device)),
        ("learning_rate", json!(spec.learning_rate)),
        ("primary_metric", json!(primary_metric)),
        ("primary_metric_mode", json!(primary_metric_mode)),
        ("num_classes", json!(spec.num_classes)),
        ("split_config", split),
        ("dataset_format", json!(format)),
        ("custom_prompts", json!(spec.custom_prompts)),
        (
            "prompt_mode",
            json!(spec.prompt_mode.as_deref().unwrap_or("offline")),
        ),
        ("advanced_config", json!(advanced)),
    ];
    document.extend(base.map(|(name, value)| (name.to_owned(), value)));
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_config::Secret;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank, TaskKey},
        spec::{ArrayPlace, JobSpec},
    };

    fn order() -> Order {
        let spec = JobSpec {
            framework: "ultralytics".into(),
            model_name: "yolo11n".into(),
            task_type: "object_detection".into(),
            dataset_path: Some("/data/set".into()),
            epochs: 2,
            learning_rate: 0.0001,
            advanced_config: Some(json!({"epochs": 99, "mosaic": 0.5})),
            split_strategy: Some(json!({"default": "80/20"})),
            custom_prompts: Some(vec!["a red valve".into()]),
            ..JobSpec::default()
        };
        Order {
            task: TaskKey {
                job: JobId(7),
                attempt: AttemptNo(2),
                rank: Rank(0),
            },
            spec,
            gpu_uuids: vec!["GPU-a".into(), "GPU-b".into()],
            world_size: 1,
            secret: Secret::default(),
            snapshot: None,
        }
    }

    fn place() -> Place {
        Place {
            node: "n1".into(),
            callback_url: "http://127.0.0.1:9/t/x/api/v1".into(),
            storage: SocketAddr::from(([127, 0, 0, 1], 9)),
            working_folder: "/d/jobs/7/attempt-2".into(),
            kept: "/d/tasks/7-2-0".into(),
            sdk: "/d/sdk".into(),
            weights: None,
            path: "/usr/bin:/bin".into(),
            dataset: None,
            checkpoint: None,
        }
    }

    #[test]
    fn every_variable_of_the_contract_is_there() {
        let (all, refused) = variables(&order(), &place());
        assert_eq!(refused, [""; 0]);
        let expected = [
            ("JOB_ID", "7"),
            ("CALLBACK_URL", "http://127.0.0.1:9/t/x/api/v1"),
            ("MODEL_NAME", "yolo11n"),
            ("TASK_TYPE", "object_detection"),
            ("FRAMEWORK", "ultralytics"),
            ("DATASET_ID", ""),
            ("DATASET_S3_URI", ""),
            ("SNAPSHOT_ID", ""),
            ("DATASET_VERSION_HASH", ""),
            ("EPOCHS", "2"),
            ("BATCH_SIZE", "32"),
            ("LEARNING_RATE", "0.0001"),
            ("DEVICE", ""),
            ("LOCAL_DATASET_PATH", "/data/set"),
            ("CHECKPOINT_DIR", "/d/jobs/7/attempt-2/checkpoints"),
            ("HOME", "/d/jobs/7/attempt-2"),
            ("TMPDIR", "/d/jobs/7/attempt-2/tmp"),
            ("PATH", "/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("PYTHONPATH", "/d/sdk"),
            ("PYTHONUNBUFFERED", "1"),
            ("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b"),
            ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("TRAINYARD_JOB_ID", "7"),
            ("TRAINYARD_ATTEMPT", "2"),
            ("TRAINYARD_NODE", "n1"),
            ("TRAINYARD_KEPT_DIR", "/d/tasks/7-2-0"),
            ("EXTERNAL_STORAGE_ENDPOINT", "http://127.0.0.1:9"),
            ("INTERNAL_STORAGE_ENDPOINT", "http://127.0.0.1:9"),
            ("EXTERNAL_BUCKET_DATASETS", "training-datasets"),
            ("INTERNAL_BUCKET_CHECKPOINTS", "training-checkpoints"),
        ];
        for (name, value) in expected {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        for name in ["EXTERNAL_STORAGE", "INTERNAL_STORAGE"] {
            assert_eq!(all[&format!("{name}_ACCESS_KEY")].len(), 20);
            assert_eq!(all[&format!("{name}_SECRET_KEY")].len(), 40);
        }
        assert_eq!(
            all.len(),
            expected.len() + 5,
            "and CONFIG and four keys, no more: {all:?}"
        );
    }

    #[test]
    fn what_is_not_given_is_left_out_and_what_is_given_is_there() {
        let (mut order, mut place) = (order(), place());
        order.spec.image_size = Some(64);
        order.spec.dataset_path = None;
        order.gpu_uuids.clear();
        place.weights = Some("/d/weights".into());
        let (all, _) = variables(&order, &place);
        assert_eq!(all["IMGSZ"], "64");
        assert_eq!(all["WEIGHTS_DIR"], "/d/weights");
        assert_eq!(all["CUDA_VISIBLE_DEVICES"], "");
        assert!(!all.contains_key("LOCAL_DATASET_PATH"));
    }

    #[test]
    fn a_job_of_an_array_is_told_which_of_it_it_is() {
        let mut order = order();
        order.spec.array = Some(ArrayPlace {
            id: JobId(5),
            index: 40,
            size: 10,
            at_most: None,
        });
        let (all, _) = variables(&order, &place());
        let told = ["ID", "INDEX", "SIZE"].map(|of| all[&format!("TRAINYARD_ARRAY_{of}")].as_str());
        assert_eq!(told, ["5", "40", "10"]);
    }

    #[test]
    fn advanced_keys_are_flattened_but_never_replace_the_base() {
        let (all, _) = variables(&order(), &place());
        let config: Value = serde_json::from_str(&all["CONFIG"]).unwrap();
        assert_eq!(config["epochs"], 2);
        assert_eq!(config["batch"], 32);
        assert_eq!(config["mosaic"], 0.5);
        assert_eq!(config["advanced_config"]["epochs"], 99);
        assert_eq!(config["custom_prompts"], json!(["a red valve"]));
        assert_eq!(config["prompt_mode"], "offline");
        assert!(!all.contains_key("RESUME_FROM"));
        let mut again = order();
        again.spec.resume_from = Some("/c/last.pt".into());
        again.spec.resume = true;
        let (all, _) = variables(&again, &place());
        assert_eq!(
            (all["RESUME_FROM"].as_str(), all["RESUME"].as_str()),
            ("/c/last.pt", "true")
        );
        let fetched = Place {
            checkpoint: Some("/d/tasks/7-2-0/resume/last.pt".into()),
            ..place()
        };
        let (all, _) = variables(&again, &fetched);
        assert_eq!(all["RESUME_FROM"], "/d/tasks/7-2-0/resume/last.pt");
        assert_eq!(config["primary_metric"], "mAP50");
        assert_eq!(config["primary_metric_mode"], "max");
        assert_eq!(config["split_config"]["default"], "80/20");
        assert_eq!(config["imgsz"], Value::Null);
    }

    #[test]
    fn the_users_variables_go_last_but_not_before_the_platforms() {
        let mut order = order();
        for name in ["OMP_NUM_THREADS", "PATH", "JOB_ID", "WORLD_SIZE"] {
            order.spec.environment.insert(name.into(), "mine".into());
        }
        let (all, refused) = variables(&order, &place());
        assert_eq!(refused, ["JOB_ID", "WORLD_SIZE"]);
        assert_eq!(
            (all["OMP_NUM_THREADS"].as_str(), all["PATH"].as_str()),
            ("mine", "mine")
        );
        assert_eq!(
            (all["JOB_ID"].as_str(), all["WORLD_SIZE"].as_str()),
            ("7", "1")
        );
    }
}
