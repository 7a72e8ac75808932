//! What the demo submits. Pure. Called by `demo`.

use std::path::Path;

use serde_json::json;
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

fn detector(dataset: &Path) -> JobSpec {
    JobSpec {
        name: "scenes".to_owned(),
        framework: "ultralytics".to_owned(),
        model_name: "yolo11n".to_owned(),
        task_type: "detection".to_owned(),
        dataset_format: "yolo".to_owned(),
        epochs: 2,
        batch_size: 8,
        learning_rate: 0.002,
        image_size: Some(160),
        // Each small batch is a step, at the full rate from the first on; else two epochs would be
        // two steps of a warm-up.
        advanced_config: Some(json!({"gradient_accumulation_steps": 1, "warmup_epochs": 0})),
        ..on(dataset)
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
        for spec in perceptrons.iter().chain(&detectors) {
            assert_eq!(spec.check(), [], "{}", spec.name);
        }
    }
}
