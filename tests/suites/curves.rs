//! Real trainers whose node dies in the middle, or that make room for another job: what they come to is what they would
//! have come to without that.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    jobs::{Jobs, command, is_over},
    needs::skipped,
    pictures::{self, Layout},
    wait::until_within,
};
use trainyard_proto::v1::{self, JobState};

use crate::{
    formats::{
        self,
        trained::{prepared, training, wanted},
    },
    retries::{OFTEN, cluster},
};

/// Metrics by epoch.
type Curve = BTreeMap<u64, BTreeMap<String, f64>>;

/// The curve as clients see it; each epoch stands there once.
async fn curve(cluster: &Cluster, id: u64) -> Curve {
    let url = format!("{}/api/v1/training/jobs/{id}/metrics", cluster.url());
    let request = reqwest::Client::new().get(url);
    let answer = request.bearer_auth(cluster.token()).send().await;
    let rows: Vec<Value> = answer.expect("an answer").json().await.expect("JSON");
    let mut curve = Curve::new();
    for row in rows {
        let epoch = row["epoch"].as_u64().expect("an epoch");
        let mut values = BTreeMap::new();
        let own = ["loss", "accuracy"].map(|name| (name.to_owned(), row[name].clone()));
        let others = row["extra_metrics"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for (name, value) in own.into_iter().chain(others) {
            // A time is none of what it learns.
            if let Some(value) = value
                .as_f64()
                .filter(|_| !name.contains("time") && !name.contains("duration"))
            {
                values.insert(name, value);
            }
        }
        assert!(!values.is_empty(), "{row}");
        let before = curve.insert(epoch, values);
        assert!(before.is_none(), "epoch {epoch} is there twice");
    }
    curve
}

async fn agent(cluster: &mut Cluster, name: &str) {
    formats::knows_environments(&cluster.agent_data(name));
    cluster.agent_with(name, &["--slots", "1"], &OFTEN).await;
}

async fn ends(jobs: &Jobs, id: u64) -> v1::Job {
    let over = async || {
        let job = jobs.clone().get(id).await;
        is_over(&job).then_some(job)
    };
    let job = until_within(formats::TRAINS_WITHIN, "it has ended", over).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    job
}

/// A cluster whose node finds the trainers' environments, with a dataset for the task.
async fn ready(task: &str) -> Cluster {
    with_a_dataset(cluster().await, task).await
}

async fn with_a_dataset(mut cluster: Cluster, task: &str) -> Cluster {
    let set = cluster.path("set");
    let layout = match task {
        "classification" => Layout::ImageFolder,
        _ => Layout::Yolo,
    };
    pictures::lay_down(&set, layout, task);
    let added = cluster.cli(&["dataset", "add", "set", set.to_str().expect("UTF-8")]);
    assert!(added.status.success(), "{}", crate::text(&added.stderr));
    agent(&mut cluster, "one").await;
    cluster
}

/// Waits until the store has a checkpoint of a job that has some epochs to go.
async fn is_stored(cluster: &Cluster, jobs: &Jobs, id: u64, checkpoint: &str) {
    let stored = cluster.path(&format!(
        "coordinator/artifacts/checkpoints/{id}/{checkpoint}"
    ));
    let known = async || {
        let job = jobs.clone().get(id).await;
        assert!(!is_over(&job), "it was too quick: {job:?}");
        let last = job.last_checkpoint.map(|last| last.path);
        let known = last.is_some_and(|last| last.contains("artifacts"));
        (known && stored.is_file()).then_some(())
    };
    until_within(formats::TRAINS_WITHIN, "a checkpoint is stored", known).await;
}

/// The curves of a run without a break, and of one whose node dies when it has a checkpoint in the store and some
/// epochs to go.
async fn both(spec: v1::JobSpec, checkpoint: &str) -> (Curve, Curve) {
    let mut cluster = ready(&spec.task_type).await;
    let mut jobs = Jobs::of(&cluster).await;
    let whole = jobs.submit(spec.clone()).await;
    ends(&jobs, whole).await;
    let whole = curve(&cluster, whole).await;

    let epochs = u64::from(spec.epochs);
    let id = jobs.submit(spec).await;
    is_stored(&cluster, &jobs, id, checkpoint).await;
    cluster.kill_agent("one");
    agent(&mut cluster, "two").await;
    assert_eq!(ends(&jobs, id).await.attempts.len(), 2);
    let points = jobs.points(id).await.into_iter();
    let second = points.filter(|point| point.attempt == 2 && point.epoch > 0);
    let first = second.map(|point| point.epoch).min();
    assert!(first.is_some_and(|first| first > 1), "it began anew");
    let broken = curve(&cluster, id).await;
    assert!(broken.keys().copied().eq(1..=epochs), "{broken:?}");
    (whole, broken)
}

fn retried(mut spec: v1::JobSpec) -> v1::JobSpec {
    spec.retry = Some(v1::RetryPolicy {
        backoff: Some(prost_types::Duration::default()),
        ..v1::RetryPolicy::default()
    });
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn the_perceptron_whose_node_died_has_the_very_curve_of_one_without_a_break() {
    if !prepared(&["sklearn"]).await {
        return;
    }
    let mut spec = retried(training("sklearn"));
    // A file is stored when it was left alone for a second.
    spec.epochs = 6;
    spec.batch_size = 64;
    spec.task_type = "classification".to_owned();
    spec.dataset_id = "set".to_owned();
    let settings = json!({"hidden_layer_sizes": [16], "seed": 3, "epoch_delay_seconds": 2.0});
    spec.advanced_config_json = settings.to_string();
    let (whole, broken) = both(spec, "last.npz").await;
    // To the last bit.
    assert_eq!(broken, whole);
}

/// A cluster that looks every second who should make room, and leaves nobody alone for long.
async fn eager() -> Cluster {
    let soon = ["ROUND", "SETTLED", "RESTART_COST"].map(|name| {
        let name = format!("TRAINYARD__SCHEDULING__{name}_SECONDS");
        (name, "1".to_owned())
    });
    let setup = CoordinatorSetup {
        variables: BTreeMap::from(soon),
        ..CoordinatorSetup::default()
    };
    Cluster::start_with(crate::TRAINYARD, setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_perceptron_that_makes_room_for_an_urgent_job_has_the_very_curve_of_one_that_need_not()
{
    if !prepared(&["sklearn"]).await {
        return;
    }
    let cluster = with_a_dataset(eager().await, "classification").await;
    let mut jobs = Jobs::of(&cluster).await;
    let perceptron = |delay: f64| {
        let mut spec = training("sklearn");
        (spec.epochs, spec.batch_size) = (6, 64);
        spec.task_type = "classification".to_owned();
        spec.dataset_id = "set".to_owned();
        let settings = json!({"hidden_layer_sizes": [16], "seed": 3, "epoch_delay_seconds": delay});
        spec.advanced_config_json = settings.to_string();
        spec.preemptible = true;
        spec
    };
    let whole = jobs.submit(perceptron(0.0)).await;
    ends(&jobs, whole).await;
    let id = jobs.submit(perceptron(1.0)).await;
    let second = async || (jobs.clone().points(id).await.len() > 1).then_some(());
    until_within(formats::TRAINS_WITHIN, "the second epoch is stored", second).await;
    let mut urgent = command(&["true"]);
    urgent.priority = 500;
    let urgent = jobs.submit(urgent).await;
    let before = ends(&jobs, urgent).await;
    let after = ends(&jobs, id).await;
    let first = after
        .attempts
        .first()
        .and_then(|first| first.outcome.clone());
    let first = first.expect("it made room").failure_class();
    assert_eq!(
        (first, after.attempts.len()),
        (v1::FailureClass::Preempted, 2)
    );
    let ended = |job: &v1::Job| job.ended_at.map(|at| (at.seconds, at.nanos));
    assert!(ended(&before) < ended(&after));
    let points = jobs.points(id).await.into_iter();
    let again = points.filter(|point| point.attempt == 2 && point.epoch > 0);
    let again = again.map(|point| point.epoch).min();
    assert!(again.is_some_and(|first| first > 1), "it began anew");
    let broken = curve(&cluster, id).await;
    assert!(broken.keys().copied().eq(1..=6), "{broken:?}");
    // To the last bit.
    assert_eq!(broken, curve(&cluster, whole).await);
}

/// Pictures come in another order and are changed otherwise after the break, so a part of the loss may differ by so much
/// of the whole loss of that epoch.
const CLOSE: f64 = 0.3;

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_whose_node_died_has_a_curve_close_to_that_of_one_without_a_break() {
    if !wanted() {
        skipped(
            "TRAINYARD_TRAINERS=1 is not set, which builds Ultralytics (gigabytes), as .ci/run does",
        );
        return;
    }
    assert!(prepared(&["ultralytics"]).await);
    let mut spec = retried(training("ultralytics"));
    // Large pictures, so that an epoch takes longer than the second in which a file must be left alone.
    (spec.epochs, spec.image_size) = (4, Some(640));
    spec.task_type = "detection".to_owned();
    spec.dataset_id = "set".to_owned();
    spec.split_strategy_json =
        json!({"method": "auto", "ratio": [0.7, 0.3], "seed": 7}).to_string();
    let (whole, broken) = both(spec, "last.pt").await;
    for (epoch, values) in &whole {
        let total = values["loss"];
        for (name, value) in values {
            let other = broken[epoch][name];
            println!("{epoch} {name}: {value} {other}");
            if name == "learning_rate" {
                // The schedule goes on where it was, warm-up included.
                assert!(
                    (value - other).abs() < 1e-9,
                    "epoch {epoch}: {value} and {other}"
                );
            }
            if name.contains("loss") {
                let far = (value - other).abs() / total;
                assert!(far < CLOSE, "{name} of epoch {epoch}: {value} and {other}");
            }
        }
    }
}
