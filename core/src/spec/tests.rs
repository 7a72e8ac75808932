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
fn a_command_line_that_was_given_as_one_long_word_is_refused() {
    let mut spec = JobSpec {
        framework: "command".into(),
        command: vec![format!("python train.py {}", "--x 1 ".repeat(60))],
        ..JobSpec::default()
    };
    let found = spec.check();
    assert_eq!(found[0].field, "command");
    assert!(found[0].message.contains("word of its own"), "{found:?}");
    spec.command = vec![format!("/{}", "folder/".repeat(50)), "--x".into()];
    assert_eq!(spec.check(), []);
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
    // In two hours from now is another moment each time that it is said.
    let at = |seconds| JobSpec {
        not_before: Some(Timestamp(seconds)),
        ..yolo()
    };
    assert_eq!(at(1).fingerprint(), at(2).fingerprint());
}

#[test]
fn a_priority_is_0_to_1000() {
    for (priority, is_good) in [(-1, false), (0, true), (1_000, true), (1_001, false)] {
        let spec = JobSpec { priority, ..yolo() };
        let found = spec.check();
        assert_eq!(found.is_empty(), is_good, "{found:?}");
        let told = found.first().map(|found| found.message.as_str());
        let words = format!("is {priority}; give 0 to 1000");
        assert_eq!(told, (!is_good).then_some(words.as_str()));
    }
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

fn job() -> JobSpec {
    JobSpec {
        framework: "command".into(),
        command: vec!["/bin/true".into()],
        ..JobSpec::default()
    }
}

#[test]
fn a_job_may_ask_for_nodes_and_for_its_start_in_every_way_at_once() {
    let set = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let mut good = job();
    good.placement = Placing {
        labels: set(&["zone=a", "disk=ssd"]),
        anti_labels: set(&["zone=b", "zone=c"]),
        arrange: Arrange::Spread,
        fabric: Some("rack".into()),
        exclusive: true,
        gpus_total: Some(16),
    };
    good.preemptible = true;
    good.not_before = Some(Timestamp(1));
    (good.after, good.after_any) = (vec![JobId(1)], vec![JobId(2)]);
    good.indices = Some("0-99%5".into());
    assert_eq!(good.check(), []);
}

type Change = fn(&mut JobSpec);

fn refused(cases: &[(&str, &str, Change)]) {
    for (field, words, change) in cases {
        let mut spec = job();
        change(&mut spec);
        let found = spec.check();
        assert_eq!(found.len(), 1, "{field}: {found:?}");
        assert_eq!(found[0].field, *field);
        assert!(found[0].message.contains(words), "{found:?}");
    }
}

#[test]
fn what_a_job_asks_of_nodes_is_checked_with_the_way_out() {
    refused(&[
        ("placement.labels", "write key=value", |spec| {
            spec.placement.labels.insert("zone".into());
        }),
        ("placement.labels", "zone=a and zone=b at once", |spec| {
            let labels = ["zone=a".into(), "zone=b".into()];
            spec.placement.labels.extend(labels);
        }),
        ("placement.anti_labels", "take it out of one", |spec| {
            spec.placement.labels.insert("zone=a".into());
            spec.placement.anti_labels.insert("zone=a".into());
        }),
        ("placement.fabric", "is not the key", |spec| {
            spec.placement.fabric = Some("rack=1".into());
        }),
        ("placement.gpus_total", "leave nodes out", |spec| {
            (spec.placement.gpus_total, spec.nodes) = (Some(8), 2);
        }),
        ("placement.gpus_total", "leave resources.gpus out", |spec| {
            (spec.placement.gpus_total, spec.resources.gpus) = (Some(8), 2);
        }),
        ("placement.gpus_total", "give 1 to 65536", |spec| {
            spec.placement.gpus_total = Some(0);
        }),
        ("resources.gpu_memory_max_bytes", "less than", |spec| {
            spec.resources.gpus = 1;
            spec.resources.gpu_memory_bytes = 2;
            spec.resources.gpu_memory_max_bytes = 1;
        }),
    ]);
}

#[test]
fn which_gpus_a_job_wants_is_refused_where_it_does_not_say_how_many() {
    let says: [Change; 3] = [
        |spec| spec.resources.gpu_model = "H100".into(),
        |spec| spec.resources.gpu_memory_bytes = 80 << 30,
        |spec| spec.resources.gpu_memory_max_bytes = 80 << 30,
    ];
    for which in says {
        refused(&[("resources.gpus", "give how many", which)]);
        let counts: [Change; 2] = [
            |spec| spec.resources.gpus = 1,
            |spec| spec.placement.gpus_total = Some(12),
        ];
        for count in counts {
            let mut spec = job();
            which(&mut spec);
            count(&mut spec);
            assert_eq!(spec.check(), []);
        }
    }
}

#[test]
fn when_a_job_may_start_is_checked_with_the_way_out() {
    refused(&[
        ("not_before", "2027-01-31T18:00:00Z", |spec| {
            spec.not_before = Some(Timestamp(i64::MAX));
        }),
        ("after", "at most 100", |spec| {
            spec.after = (1..=101).map(JobId).collect();
        }),
        ("after_any", "take it out of one", |spec| {
            (spec.after, spec.after_any) = (vec![JobId(7)], vec![JobId(7)]);
        }),
        ("indices", "the lower index first", |spec| {
            spec.indices = Some("9-0".into());
        }),
        ("indices", "put what is large into a file", |spec| {
            (spec.indices, spec.notes) = (Some("0-9999".into()), Some("n".repeat(10_000)));
        }),
    ]);
}

#[test]
fn new_fields_change_nothing_of_what_was_asked_for_before_there_were_any() {
    let mut spec = yolo();
    spec.resources.cpus = 2;
    let text = serde_json::to_string(&spec).unwrap();
    for name in [
        "gpu_memory_max_bytes",
        "not_before",
        "after",
        "indices",
        "array",
        "preemptible",
    ] {
        assert!(!text.contains(name), "{name}: {text}");
    }
    let old: JobSpec = serde_json::from_str("{\"framework\": \"command\"}").unwrap();
    assert_eq!(old.placement, Placing::default());
}
