//! Round trips, and what a message must not lack.

use std::collections::BTreeMap;

use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, JobId, Rank, TaskKey},
    record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record},
    resources::ResourceRequest,
    spec::{Arrange, ArrayPlace, JobSpec, Placing},
    task::{Ended, Phase, Report},
};

use super::*;

fn records() -> Vec<Record> {
    vec![
        Record::Log(LogLine {
            at: Timestamp(1_500_001),
            stream: LogStream::Stderr,
            level: "WARNING".into(),
            text: "low on disk".into(),
        }),
        Record::Progress(Progress {
            at: Timestamp(2),
            epoch: 3,
            total_epochs: 5,
            step: Some(7),
            values: BTreeMap::from([("loss".into(), 0.25)]),
            has_metrics: true,
            checkpoint: Some(Checkpoint {
                path: "/c/last.pt".into(),
                size_bytes: Some(9),
            }),
            best_checkpoint: None,
        }),
        Record::Stored(Progress {
            at: Timestamp(2),
            epoch: 0,
            total_epochs: 5,
            step: None,
            values: BTreeMap::new(),
            has_metrics: false,
            checkpoint: Some(Checkpoint {
                path: "s3://b/last.pt".into(),
                size_bytes: Some(9),
            }),
            best_checkpoint: None,
        }),
        Record::Completion(Completion {
            succeeded: true,
            exit_code: Some(0),
            epochs_completed: 5,
            best_metrics: [("accuracy".to_owned(), 0.75)].into(),
            best_epoch: Some(3),
            model_artifacts: Some("s3://models/1".into()),
            mlflow_run_id: Some("own".into()),
            ..Completion::default()
        }),
        Record::Validation {
            epoch: 2,
            body: "{}".into(),
        },
    ]
}

#[test]
fn every_kind_of_record_survives_the_wire() {
    for record in records() {
        let wire = v1::Record::from(record.clone());
        assert_eq!(Record::try_from(wire), Ok(record));
    }
}

#[test]
fn a_job_specification_survives_the_wire_with_the_types_of_its_settings() {
    let spec = JobSpec {
        name: "first".into(),
        framework: "ultralytics".into(),
        model_name: "yolo11n".into(),
        task_type: "detection".into(),
        dataset_path: Some("/data".into()),
        advanced_config: Some(serde_json::json!({"optimizer": {"momentum": 0.9}, "nbs": 64})),
        time_limit: Some(Duration::from_millis(1_500)),
        tags: Some(vec!["a".into()]),
        placement: Placing {
            labels: ["zone=a".to_owned()].into(),
            anti_labels: ["zone=b".to_owned()].into(),
            arrange: Arrange::Spread,
            fabric: Some("rack".into()),
            exclusive: true,
            gpus_total: Some(16),
        },
        resources: ResourceRequest {
            gpu_memory_max_bytes: 9,
            ..ResourceRequest::default()
        },
        preemptible: true,
        not_before: Some(Timestamp(1_500_000)),
        after: vec![JobId(1)],
        after_any: vec![JobId(2)],
        indices: Some("0-9%2".into()),
        array: Some(ArrayPlace {
            id: JobId(3),
            index: 4,
            size: 10,
            at_most: Some(2),
        }),
        ..JobSpec::default()
    };
    let wire = v1::JobSpec::from(spec.clone());
    assert_eq!(JobSpec::try_from(wire), Ok(spec));
}

#[test]
fn a_task_end_survives_the_wire() {
    let end = TaskEnd {
        signal: Some(9),
        oom_killed: true,
        stop_cause: Some(StopCause::TimeLimit),
        last_lines: vec!["bye".into()],
        last_seq: 12,
        ..TaskEnd::default()
    };
    assert_eq!(TaskEnd::from(v1::TaskEnd::from(end.clone())), end);
}

fn report(phase: Phase) -> Report {
    Report {
        task: TaskKey {
            job: JobId(7),
            attempt: AttemptNo(2),
            rank: Rank(0),
        },
        phase,
        detail: "fetching".into(),
        kept_from: 7,
    }
}

fn ended(started: Option<Timestamp>) -> Phase {
    Phase::Ended(Box::new(Ended {
        started,
        at: Timestamp(9_000_000),
        end: TaskEnd {
            exit_code: Some(3),
            last_seq: 4,
            ..TaskEnd::default()
        },
    }))
}

#[test]
fn every_report_of_a_task_survives_the_wire_and_an_end_says_whether_there_was_a_process() {
    let started = Some(Timestamp(5));
    for (phase, on_the_wire) in [
        (Phase::Preparing, v1::TaskPhase::Preparing),
        (Phase::Running(Timestamp(5)), v1::TaskPhase::Running),
        (ended(started), v1::TaskPhase::Exited),
        (ended(None), v1::TaskPhase::NotStarted),
    ] {
        let wire = v1::TaskReport::from(report(phase.clone()));
        assert_eq!(wire.phase(), on_the_wire);
        assert_eq!(Report::try_from(wire), Ok(report(phase)));
    }
    let error = Report::try_from(v1::TaskReport::default()).unwrap_err();
    assert_eq!(error.to_string(), "report.phase is missing");
}

#[test]
fn a_message_that_lacks_a_part_names_it() {
    let empty = v1::Record::default();
    let error = Record::try_from(empty).unwrap_err();
    assert_eq!(error.to_string(), "record.body is missing");
    let bad = v1::JobSpec {
        advanced_config_json: "{".into(),
        ..v1::JobSpec::default()
    };
    let error = JobSpec::try_from(bad).unwrap_err().to_string();
    assert!(
        error.starts_with("spec.advanced_config_json is not JSON: "),
        "{error}"
    );
    let negative = prost_types::Duration {
        seconds: -1,
        nanos: 0,
    };
    assert_eq!(
        span("spec.time_limit", &negative),
        Err(WireError::Range("spec.time_limit"))
    );
}

#[test]
fn time_keeps_its_microseconds_before_and_after_1970() {
    for micros in [0, 1, -1, 1_500_001, -1_500_001] {
        assert_eq!(time(&timestamp(Timestamp(micros))), Timestamp(micros));
    }
}
