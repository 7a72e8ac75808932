//! Job files in all three formats, and every way in which one can be wrong.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use trainyard_core::{ids::JobId, resources::ResourceRequest, spec::Placing, time::Timestamp};

use super::*;

fn read(name: &str, text: &str) -> anyhow::Result<JobSpec> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    fs::write(&path, text)?;
    Ok(Draft::read(&path)?.finish()?)
}

const TOML: &str = r#"
name = "digits"
framework = "ultralytics"
model = "yolo11n"
task = "detection"
dataset = "/data/digits"
epochs = 5
lr = 0.01
time_limit = "1h30m"
environment = { WORKERS = 4 }
tags = ["first"]

[resources]
memory = "8GiB"
gpus = 1
gpu_memory_bytes = 42949672960

[advanced_config.optimizer]
type = "SGD"
"#;

const YAML: &str = "
name: digits
framework: ultralytics
model_name: yolo11n
task_type: detection
dataset_path: /data/digits
epochs: 5
learning_rate: 0.01
time_limit: 5400
environment: {WORKERS: '4'}
tags: [first]
resources: {memory_bytes: 8589934592, gpus: 1, gpu_memory: 40GiB}
advanced: {optimizer: {type: SGD}}
";

#[test]
fn the_three_formats_and_both_sets_of_names_give_the_same_job() {
    let toml = read("job.toml", TOML).unwrap();
    assert_eq!(toml.resources.memory_bytes, 8 << 30);
    assert_eq!(toml.resources.gpu_memory_bytes, 40 << 30);
    assert_eq!(toml.time_limit, Some(Duration::from_secs(5_400)));
    assert_eq!(toml.environment["WORKERS"], "4");
    assert_eq!(
        toml.advanced_config,
        Some(json!({"optimizer": {"type": "SGD"}}))
    );
    assert_eq!(toml.batch_size, JobSpec::default().batch_size);
    let yaml = read("job.yml", YAML).unwrap();
    assert_eq!(yaml, toml);
    let value: Value = serde_yaml_ng::from_str(YAML).unwrap();
    let json = read("job.json", &value.to_string()).unwrap();
    assert_eq!(json, toml);
}

/// With something in every field that may be left out: those that are empty are not written.
fn whole() -> JobSpec {
    let text = || Some(String::new());
    JobSpec {
        num_classes: Some(2),
        dataset_id: text(),
        dataset_path: text(),
        image_size: Some(32),
        advanced_config: Some(json!({})),
        split_strategy: Some(json!({})),
        primary_metric: text(),
        primary_metric_mode: text(),
        custom_prompts: Some(Vec::new()),
        prompt_mode: text(),
        resume_from: text(),
        procs_per_node: Some(2),
        time_limit: Some(Duration::ZERO),
        placement: Placing {
            labels: [String::new()].into(),
            anti_labels: [String::new()].into(),
            fabric: text(),
            gpus_total: Some(2),
            ..Placing::default()
        },
        resources: ResourceRequest {
            gpu_memory_max_bytes: 1,
            ..ResourceRequest::default()
        },
        preemptible: true,
        not_before: Some(Timestamp(1)),
        after: vec![JobId(1)],
        after_any: vec![JobId(1)],
        indices: text(),
        tags: Some(Vec::new()),
        notes: text(),
        session_id: Some(1),
        project_id: Some(1),
        custom_docker_image: text(),
        ..JobSpec::default()
    }
}

#[test]
fn every_field_of_the_specification_can_stand_in_a_file() {
    let whole = serde_json::to_value(whole()).unwrap();
    let mut wanted = BTreeSet::new();
    for (key, value) in whole.as_object().unwrap() {
        match value.as_object().filter(|_| fields::is_section(key)) {
            Some(inner) => wanted.extend(inner.keys().map(|name| format!("{key}.{name}"))),
            None => drop(wanted.insert(key.clone())),
        }
    }
    let known: BTreeSet<_> = fields::FIELDS.iter().map(|f| f.path.to_owned()).collect();
    assert_eq!(known, wanted);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    for (text, key, nearest) in [
        ("epoch = 3", "epoch", "epochs"),
        ("[resources]\ngpu = 1", "resources.gpu", "resources.gpus"),
        ("time_limt = '1h'", "time_limt", "time_limit"),
    ] {
        let error = read("job.toml", text).unwrap_err().to_string();
        let wanted = format!("unknown key '{key}' in ");
        assert!(error.starts_with(&wanted), "{error}");
        assert!(
            error.ends_with(&format!("did you mean '{nearest}'?")),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_value_says_what_is_expected() {
    for (text, words) in [
        (
            "epochs: ten",
            "must be a whole number from 0 to 4294967295, not 'ten'",
        ),
        (
            "epochs: -1",
            "must be a whole number from 0 to 4294967295, not -1",
        ),
        ("learning_rate: fast", "must be a number, not 'fast'"),
        (
            "memory: -4GB",
            "memory size '-4GB' is negative; write for example 16GiB",
        ),
        (
            "time_limit: soon",
            "must be a span of time such as 1h30m, not 'soon'",
        ),
        ("command: ls", "must be a list of texts, not 'ls'"),
        ("advanced: 3", "must be a table of settings, not 3"),
        ("resources: 3", "unknown key 'resources'"),
        ("- a", "must be a table of keys, not a list"),
    ] {
        let error = read("job.yaml", text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn one_thing_under_two_names_is_refused() {
    let error = read("job.json", r#"{"lr": 0.1, "learning_rate": 0.2}"#).unwrap_err();
    let words = error.to_string();
    assert!(words.contains("says 'learning_rate' twice"), "{words}");
}

#[test]
fn a_broken_file_says_where() {
    let error = read("job.toml", "epochs = ").unwrap_err().to_string();
    assert!(error.contains("not valid TOML"), "{error}");
    let error = read("job.txt", "").unwrap_err().to_string();
    assert!(error.contains("name it .toml"), "{error}");
    let error = Draft::read(Path::new("/no/such.yaml")).unwrap_err();
    assert!(error.to_string().contains("/no/such.yaml"));
}

#[test]
fn flags_go_over_the_file() {
    let mut draft = Draft::parse_json(
        r#"{"framework": "sklearn", "epochs": 3, "env": {"A": "1"}, "advanced": {"seed": 1}}"#,
    )
    .unwrap();
    draft.flag("epochs", "--epochs", 9).unwrap();
    draft
        .flag("resources.memory_bytes", "--memory", "1GiB")
        .unwrap();
    draft.variable("B", "2");
    draft.advanced(Map::from_iter([("seed".to_owned(), json!(2))]));
    draft.set("optimizer.momentum", "0.9").unwrap();
    draft.set("optimizer.type", "sgd").unwrap();
    draft.set("flag", "true").unwrap();
    let spec = draft.finish().unwrap();
    assert_eq!(spec.epochs, 9);
    assert_eq!(spec.resources.memory_bytes, 1 << 30);
    assert_eq!(spec.environment.len(), 2);
    assert_eq!(
        spec.advanced_config.unwrap(),
        json!({"seed": 2, "optimizer": {"momentum": 0.9, "type": "sgd"}, "flag": true})
    );
}

#[test]
fn a_setting_below_a_number_is_refused() {
    let mut draft = Draft::default();
    draft.set("a", "1").unwrap();
    let error = draft.set("a.b", "2").unwrap_err().to_string();
    assert!(
        error.starts_with("--set a.b: 'a' holds a value already"),
        "{error}"
    );
}

#[test]
fn a_command_has_one_epoch_unless_it_says_otherwise() {
    let mut draft = Draft::default();
    draft.flag("framework", "--framework", "command").unwrap();
    assert_eq!(draft.clone().finish().unwrap().epochs, 1);
    draft.flag("epochs", "--epochs", 4).unwrap();
    assert_eq!(draft.finish().unwrap().epochs, 4);
}
