//! What a submission may say: every bad field at once, and what tells submissions apart.

use super::*;

fn yolo() -> JobSpec {
    JobSpec {
        framework: "ultralytics".into(),
        model_name: "yolo11n".into(),
        task_type: "object_detection".into(),
        dataset_path: Some("/data/set".into()),
        ..JobSpec::default()
    }
}

#[test]
fn a_good_job_has_no_violations() {
    assert_eq!(yolo().check(), []);
}

#[test]
fn every_bad_field_is_reported_at_once_with_the_way_out() {
    let mut spec = yolo();
    spec.framework = "pytorch".into();
    spec.epochs = 0;
    spec.learning_rate = f64::NAN;
    spec.dataset_path = None;
    let found = spec.check();
    let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        ["framework", "dataset_path", "epochs", "learning_rate"]
    );
    assert_eq!(
        found[0].message,
        "unknown framework 'pytorch'; known are command, sklearn, timm, ultralytics"
    );
    assert_eq!(found[2].message, "is 0; give 1 to 1000");
}

#[test]
fn a_command_needs_neither_model_nor_dataset_but_a_program() {
    let mut spec = JobSpec {
        framework: "command".into(),
        command: vec!["/bin/true".into()],
        ..JobSpec::default()
    };
    assert_eq!(spec.check(), []);
    spec.command.clear();
    assert_eq!(spec.check()[0].field, "command");
}

#[test]
fn a_fingerprint_tells_submissions_apart() {
    assert_eq!(yolo().fingerprint(), yolo().fingerprint());
    let mut other = yolo();
    other.environment = [("A".to_owned(), "b".to_owned())]
        .into_iter()
        .collect::<BTreeMap<_, _>>()
        .into();
    assert_ne!(yolo().fingerprint(), other.fingerprint());
    other = yolo();
    other.learning_rate = 0.002;
    assert_ne!(yolo().fingerprint(), other.fingerprint());
}

#[test]
fn a_split_and_a_mode_are_checked_whatever_the_dataset_is() {
    let mut spec = yolo();
    spec.split_strategy = Some(serde_json::json!({"method": "auto", "ratio": [5, -1]}));
    spec.primary_metric_mode = Some("up".into());
    let found = spec.check();
    let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["split_strategy.ratio", "primary_metric_mode"]);
}

#[test]
fn the_primary_metric_follows_the_task_unless_named() {
    let mut spec = yolo();
    assert_eq!(spec.primary(), ("mAP50".into(), "max".into()));
    spec.task_type = "classification".into();
    assert_eq!(spec.primary(), ("accuracy".into(), "max".into()));
    spec.task_type = String::new();
    assert_eq!(spec.primary(), ("loss".into(), "min".into()));
    spec.primary_metric = Some("recall".into());
    assert_eq!(spec.primary(), ("recall".into(), "max".into()));
}
