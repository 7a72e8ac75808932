//! What the demo submits, and what must arrive at the trainer. Pure. Called by `demo`.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use trainyard_core::spec::JobSpec;

use crate::args::DemoFramework;

/// The jobs of a demo: with perceptrons three for two slots, so that one has to queue.
pub(super) fn specifications(framework: DemoFramework, dataset: &Path) -> Vec<JobSpec> {
    match framework {
        DemoFramework::Sklearn => [0.000_3, 0.001, 0.01]
            .into_iter()
            .map(|rate| perceptron(rate, dataset))
            .collect(),
        DemoFramework::Ultralytics => vec![detector(dataset)],
        DemoFramework::Timm => vec![classifier(dataset)],
    }
}

fn perceptron(learning_rate: f64, dataset: &Path) -> JobSpec {
    JobSpec {
        name: format!("digits lr={learning_rate}"),
        framework: "sklearn".to_owned(),
        model_name: "mlp".to_owned(),
        task_type: "classification".to_owned(),
        epochs: 10,
        batch_size: 32,
        learning_rate,
        // Slow enough to be watched.
        advanced_config: Some(json!({"epoch_delay_seconds": 0.3, "seed": 1})),
        ..on(dataset)
    }
}

/// Settings with which two epochs from random weights find digits: one class, small pictures, each
/// batch a step, at the full rate from the first on.
fn detector(dataset: &Path) -> JobSpec {
    JobSpec {
        name: "find digits".to_owned(),
        framework: "ultralytics".to_owned(),
        model_name: "yolo11n".to_owned(),
        task_type: "detection".to_owned(),
        dataset_format: "yolo".to_owned(),
        epochs: 2,
        batch_size: 8,
        learning_rate: 0.003,
        image_size: Some(64),
        advanced_config: Some(json!({
            "optimizer": {"type": "AdamW", "momentum": 0.9, "weight_decay": 0.001},
            "scheduler": {"type": "cosine", "lrf": 0.1, "warmup_epochs": 0},
            "augmentation": {"enabled": false, "brightness": 0.1},
            "validation": {"iou": 0.6, "max_detections": 50, "early_stopping": {"patience": 7}},
            "gradient_accumulation_steps": 1,
            "checkpoint_interval": 1,
            "mixed_precision": false,
            "single_cls": true,
            "box": 8.0,
            "seed": 1,
        })),
        // Pictures so small gain nothing by a second thread, and one gives the same figures anywhere.
        environment: BTreeMap::from([("OMP_NUM_THREADS".to_owned(), "1".to_owned())]).into(),
        ..on(dataset)
    }
}

/// A small network from random weights, with the settings that the demo looks up afterwards.
fn classifier(dataset: &Path) -> JobSpec {
    JobSpec {
        name: "tell digits apart".to_owned(),
        framework: "timm".to_owned(),
        model_name: "test_resnet".to_owned(),
        task_type: "classification".to_owned(),
        num_classes: Some(10),
        epochs: 3,
        batch_size: 16,
        learning_rate: 0.003,
        image_size: Some(32),
        advanced_config: Some(json!({
            "optimizer": {"type": "adamw", "weight_decay": 0.02},
            "scheduler": {"type": "cosine", "min_lr": 0.0001},
            "augmentation": {"enabled": false},
            "gradient_clip_value": 2.0,
            "gradient_accumulation_steps": 2,
            "mixed_precision": false,
            "pretrained": false,
            "seed": 1,
        })),
        environment: BTreeMap::from([("OMP_NUM_THREADS".to_owned(), "1".to_owned())]).into(),
        ..on(dataset)
    }
}

/// What the trainer must have been given for the jobs of a demo, by the framework's own names; empty
/// where it keeps no record of that.
pub(super) fn arguments(framework: DemoFramework) -> Vec<(&'static str, Value)> {
    match framework {
        DemoFramework::Sklearn => Vec::new(),
        DemoFramework::Ultralytics => vec![
            ("task", json!("detect")),
            ("epochs", json!(2)),
            ("batch", json!(8)),
            ("imgsz", json!(64)),
            ("device", json!("cpu")),
            ("lr0", json!(0.003)),
            ("optimizer", json!("AdamW")),
            ("momentum", json!(0.9)),
            ("weight_decay", json!(0.001)),
            ("cos_lr", json!(true)),
            ("lrf", json!(0.1)),
            ("warmup_epochs", json!(0)),
            ("mosaic", json!(0.0)),
            ("fliplr", json!(0.0)),
            ("hsv_v", json!(0.1)),
            ("iou", json!(0.6)),
            ("max_det", json!(50)),
            ("patience", json!(7)),
            ("nbs", json!(8)),
            ("save_period", json!(1)),
            ("amp", json!(false)),
            ("single_cls", json!(true)),
            ("box", json!(8.0)),
            ("seed", json!(1)),
        ],
        DemoFramework::Timm => vec![
            ("epochs", json!(3)),
            ("batch_size", json!(16)),
            ("imgsz", json!(32)),
            ("learning_rate", json!(0.003)),
            ("optimizer", json!("adamw")),
            ("weight_decay", json!(0.02)),
            ("scheduler", json!("cosine")),
            ("min_lr", json!(0.0001)),
            ("clip_grad", json!(2.0)),
            ("accumulation", json!(2)),
            ("mixed_precision", json!("off")),
            ("num_classes", json!(10)),
            ("seed", json!(1)),
        ],
    }
}

fn on(dataset: &Path) -> JobSpec {
    JobSpec {
        dataset_path: Some(dataset.display().to_string()),
        device: "cpu".to_owned(),
        tags: Some(vec!["demo".to_owned()]),
        ..JobSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_jobs_are_good_ones_and_one_more_than_the_slots() {
        let dataset = Path::new("/data/set");
        let perceptrons = specifications(DemoFramework::Sklearn, dataset);
        assert_eq!(perceptrons.len(), 3);
        let detectors = specifications(DemoFramework::Ultralytics, dataset);
        assert_eq!(detectors.len(), 1);
        let classifiers = specifications(DemoFramework::Timm, dataset);
        assert_eq!(classifiers.len(), 1);
        for spec in perceptrons.iter().chain(&detectors).chain(&classifiers) {
            assert_eq!(spec.check(), [], "{}", spec.name);
        }
    }
}
