//! Trackers that are away, slow, overloaded or strange: jobs go on, and nothing is lost or doubled.

use std::sync::Arc;

use serde_json::{Value, json};
use tests::wait::{until, until_within};
use tokio::sync::Notify;
use trainyard_config::Secret;
use trainyard_coordinator::config::Config;
use trainyard_core::record::{Checkpoint, Completion, Progress, Record};

mod parked;

use crate::{
    agent::{Agent, epoch, exited},
    clearml::{points, reports},
    mlflow::Mlflow,
    receiver::{Mood, nobody},
    world::{PATIENCE, World, yolo},
};

fn at(url: String) -> impl FnOnce(&mut Config) {
    move |config| {
        config.trackers.mlflow.url = url;
        config.trackers.mlflow.token = Secret::new("t0p-secret".to_owned());
    }
}

async fn world(change: impl FnOnce(&mut Config)) -> World {
    World::set_up(tempfile::tempdir().unwrap(), change).await
}

/// The tracker as it is shown.
pub(crate) async fn shown(world: &World, name: &str) -> Value {
    let (status, list) = world.get("/trackers").await;
    assert_eq!(status, 200, "{list}");
    let trackers = list["trackers"].as_array().unwrap();
    let found = trackers.iter().find(|tracker| tracker["name"] == name);
    found.unwrap_or_else(|| panic!("{name} in {list}")).clone()
}

/// Waits until the tracker is shown so.
pub(crate) async fn until_shown(world: &World, name: &str, so: impl Fn(&Value) -> bool) -> Value {
    let what = format!("tracker {name} is shown so");
    until(&what, async || Some(shown(world, name).await).filter(&so)).await
}

pub(crate) fn has_everything(tracker: &Value) -> bool {
    tracker["state"] == "idle" && tracker["jobs_pending"] == 0
}

/// One that ends well after two epochs, told by an agent.
pub(crate) async fn job(world: &World, agent: &mut Agent) -> u64 {
    let id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(world).await;
    let checkpoint = |name: &str| {
        Some(Checkpoint {
            path: format!("/c/{name}.pt"),
            size_bytes: None,
        })
    };
    let Record::Progress(second) = epoch(2, &[("loss", 0.25), ("map/50(B)", f64::NAN)]) else {
        panic!("not a progress");
    };
    let second = Record::Progress(Progress {
        checkpoint: checkpoint("last"),
        best_checkpoint: checkpoint("best"),
        ..second
    });
    let word = Record::Completion(Completion {
        succeeded: true,
        final_metrics: [("loss".to_owned(), 0.25)].into(),
        epochs_completed: 2,
        ..Completion::default()
    });
    let records = [epoch(1, &[("loss", 0.5)]), second, word];
    data.deliver(task, 1, &records).await;
    agent.report(exited(task, 0, 3)).await;
    agent.forget().await;
    world.until(id, "completed").await;
    id
}

/// An MLflow that answers so to all about the first run, and a job that has met it.
async fn with_an_ill_run(status: u16) -> (Mlflow, World, Agent) {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    mlflow.told.lock().unwrap().ill = Some(("run-1".to_owned(), status));
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    until_shown(&world, "mlflow", |tracker| tracker["failures"] != 0).await;
    (mlflow, world, agent)
}

/// All of one job, once.
fn complete(mlflow: &Mlflow) {
    let told = mlflow.told.lock().unwrap();
    assert_eq!(told.experiments, ["trainyard"]);
    assert_eq!(told.runs.len(), 1, "{told:?}");
    let metrics: Vec<_> = told
        .metrics
        .iter()
        .map(|(key, step, _, value)| (key.as_str(), *step, value.as_str()))
        .collect();
    let expected = [
        ("final/loss", 2, "0.25"),
        ("loss", 1, "0.5"),
        ("loss", 2, "0.25"),
        ("map/50_B_", 2, "\"NaN\""),
    ];
    assert_eq!(metrics, expected);
    assert_eq!(told.params["epochs"], "2");
    assert_eq!(
        told.runs["run-1"]["trainyard.best_checkpoint"],
        "/c/best.pt"
    );
    assert_eq!(told.status["run-1"], "FINISHED");
}

#[tokio::test]
async fn a_tracker_that_is_down_delays_nothing_and_has_everything_when_it_is_back() {
    let address = nobody().await;
    let world = world(at(format!("http://{address}"))).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = job(&world, &mut agent).await;
    let away = until_shown(&world, "mlflow", |tracker| tracker["failures"] != 0).await;
    assert_eq!(away["state"], "retrying");
    assert_eq!(
        (&away["jobs_pending"], &away["points_pending"]),
        (&json!(1), &json!(2))
    );
    let words = away["last_error"].as_str().unwrap();
    assert!(words.starts_with("no connection"), "{words}");
    let (_, health) = world.get("/health").await;
    assert_eq!(
        (&health["status"], &health["trackers"]["mlflow"]),
        (&json!("healthy"), &json!("retrying"))
    );

    let mlflow = Mlflow::at(&address).await;
    let back = until_shown(&world, "mlflow", has_everything).await;
    complete(&mlflow);
    assert_eq!(
        (&back["delivered"], &back["dropped"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(back["seconds_behind"], 0);
    let (_, seen) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(seen["mlflow_run_id"], "run-1");
}

#[tokio::test]
async fn points_that_fill_more_pages_than_one_by_their_text_all_reach_a_tracker() {
    let address = nobody().await;
    let world = world(at(format!("http://{address}"))).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(&world).await;
    for number in 1..=5 {
        let Record::Progress(mut long) = epoch(number, &[("loss", 0.5)]) else {
            panic!("not a progress");
        };
        long.checkpoint = Some(Checkpoint {
            path: "x".repeat(2 << 20),
            size_bytes: None,
        });
        let records = [Record::Progress(long)];
        data.deliver(task, number.into(), &records).await;
    }
    agent.report(exited(task, 0, 5)).await;
    agent.forget().await;
    world.until(id, "completed").await;
    let mlflow = Mlflow::at(&address).await;
    until_shown(&world, "mlflow", has_everything).await;
    let told = mlflow.told.lock().unwrap();
    let epochs: Vec<_> = told.metrics.iter().map(|(_, step, _, _)| *step).collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5]);
    assert_eq!(told.status["run-1"], "FINISHED");
}

#[tokio::test]
async fn a_tracker_that_never_answers_holds_up_no_job() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let gate = Arc::new(Notify::new());
    mlflow.receiver.mood(Mood::Holds(Arc::clone(&gate)));
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    // It was asked long before the job ended, and has not answered yet.
    assert_eq!(mlflow.receiver.calls().len(), 1);
    let (status, _) = world.get("/trackers").await;
    assert_eq!(status, 200, "nobody waits for it");
    mlflow.receiver.mood(Mood::Well);
    gate.notify_one();
    until_shown(&world, "mlflow", has_everything).await;
    complete(&mlflow);
}

#[tokio::test]
async fn errors_of_a_tracker_are_tried_again_and_what_it_took_and_forgot_to_say_is_not_doubled() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    mlflow.receiver.mood(Mood::Status(500));
    job(&world, &mut agent).await;
    for mood in [Mood::Busy, Mood::Forgets, Mood::Status(503), Mood::Forgets] {
        let before = shown(&world, "mlflow").await["failures"].as_u64().unwrap();
        mlflow.receiver.mood(mood);
        let more = |tracker: &Value| tracker["failures"].as_u64().unwrap() > before;
        let seen = until_shown(&world, "mlflow", more).await;
        assert_eq!(seen["state"], "retrying");
    }
    mlflow.receiver.mood(Mood::Well);
    until_shown(&world, "mlflow", has_everything).await;
    complete(&mlflow);
}

#[tokio::test]
async fn wrong_credentials_are_shown_without_the_secret_and_hold_up_no_job() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    mlflow.receiver.mood(Mood::Status(401));
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    let refused = until_shown(&world, "mlflow", |tracker| tracker["state"] == "refused").await;
    let words = refused["last_error"].as_str().unwrap();
    assert!(
        words.contains("401") && words.contains("credentials"),
        "{words}"
    );
    assert!(!refused.to_string().contains("t0p-secret"), "{refused}");
    let call = mlflow.receiver.calls()[0].clone();
    assert_eq!(call.header("authorization"), "Bearer t0p-secret");
    // Tried seldom: it was asked once.
    assert_eq!(mlflow.receiver.calls().len(), 1);
}

#[tokio::test]
async fn a_job_that_a_tracker_will_never_take_does_not_hold_up_the_next() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    mlflow.receiver.mood(Mood::Never);
    job(&world, &mut agent).await;
    let seen = until_shown(&world, "mlflow", |tracker| tracker["dropped"] == 1).await;
    assert_eq!(seen["delivered"], 0);
    mlflow.receiver.mood(Mood::Well);
    job(&world, &mut agent).await;
    let seen = until_shown(&world, "mlflow", has_everything).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(2), &json!(1))
    );
    complete(&mlflow);
}

#[tokio::test]
async fn reports_within_an_epoch_have_steps_of_their_own_at_mlflow() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let records = points(&[
        (1, Some(10), "loss", 0.9),
        (1, Some(20), "loss", 0.8),
        (1, None, "loss", 0.85),
        (2, Some(10), "loss", 0.7),
    ]);
    reports(&world, &mut agent, &records).await;
    until_shown(&world, "mlflow", has_everything).await;
    let expected = [(10, "0.9"), (20, "0.8"), (21, "0.85"), (31, "0.7")];
    let expected = expected.map(|(step, value)| ("loss".to_owned(), step, value.to_owned()));
    assert_eq!(mlflow.told.lock().unwrap().points["run-1"], expected.into());
}

#[tokio::test]
async fn two_metrics_that_mlflow_spells_alike_are_two_series_also_when_one_comes_later() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(&world).await;
    let pages: [&[(&str, f64)]; 3] = [
        &[("acc@1", 0.1)],
        &[("acc#1", 0.2), ("acc@1", 0.3)],
        &[("acc#1", 0.4)],
    ];
    for (number, page) in (1..).zip(pages) {
        data.deliver(task, u64::from(number), &[epoch(number, page)])
            .await;
        until_shown(&world, "mlflow", |tracker| tracker["delivered"] == number).await;
    }
    agent.report(exited(task, 0, 3)).await;
    agent.forget().await;
    world.until(id, "completed").await;
    until_shown(&world, "mlflow", has_everything).await;
    let expected = [
        ("acc_1", 1, "0.1"),
        ("acc_1", 2, "0.3"),
        ("acc_1_2", 2, "0.2"),
        ("acc_1_2", 3, "0.4"),
    ];
    let expected = expected.map(|(key, step, value)| (key.to_owned(), step, value.to_owned()));
    assert_eq!(mlflow.told.lock().unwrap().points["run-1"], expected.into());
}

#[tokio::test]
async fn an_attempt_that_was_begun_on_another_server_is_whole_on_this_one() {
    let (old, first, agent) = with_an_ill_run(500).await;
    drop(agent);
    let folder = first.stop().await;
    // The same server under another name is no other server.
    let port = old.receiver.address.port();
    let second = World::set_up(folder, at(format!("http://localhost:{port}"))).await;
    until_shown(&second, "mlflow", |tracker| tracker["failures"] != 0).await;
    assert_eq!(old.told.lock().unwrap().runs.len(), 1);
    let folder = second.stop().await;
    let new = Mlflow::at("127.0.0.1:0").await;
    let third = World::set_up(folder, at(new.receiver.url())).await;
    let seen = until_shown(&third, "mlflow", has_everything).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(2), &json!(0))
    );
    complete(&new);
}

#[tokio::test]
async fn what_is_refused_of_an_attempt_is_given_up_alone() {
    for (refused, what) in [
        ("map/50_B_", "a metric"),
        ("learning_rate", "a parameter"),
        ("trainyard.user", "a tag"),
        ("trainyard.best_checkpoint", "a tag of the way"),
    ] {
        let mlflow = Mlflow::at("127.0.0.1:0").await;
        mlflow.told.lock().unwrap().refused = Some(refused.to_owned());
        let world = world(at(mlflow.receiver.url())).await;
        let mut agent = Agent::join(&world, "n1", 4).await;
        job(&world, &mut agent).await;
        let seen = until_shown(&world, "mlflow", has_everything).await;
        assert_eq!(
            (&seen["delivered"], &seen["dropped"]),
            (&json!(2), &json!(1)),
            "{what}"
        );
        let told = mlflow.told.lock().unwrap();
        assert_eq!(told.status["run-1"], "FINISHED", "{what}");
        let is_there = |key: &str| {
            let keys = told.metrics.iter().any(|(name, ..)| name == key);
            keys || told.params.contains_key(key) || told.runs["run-1"].contains_key(key)
        };
        for key in [
            "loss",
            "final/loss",
            "map/50_B_",
            "epochs",
            "learning_rate",
            "batch_size",
            "trainyard.user",
            "trainyard.node",
            "trainyard.best_checkpoint",
            "trainyard.last_checkpoint",
        ] {
            assert_eq!(is_there(key), key != refused, "{what}: {key}");
        }
    }
}

#[tokio::test]
async fn what_stands_at_a_wrong_address_makes_nothing_be_given_up() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    mlflow.receiver.mood(Mood::Status(404));
    job(&world, &mut agent).await;
    let lost = |tracker: &Value| tracker["state"] == "retrying";
    let seen = until_shown(&world, "mlflow", lost).await;
    let words = seen["last_error"].as_str().unwrap();
    assert!(words.contains("trackers.mlflow.url"), "{words}");
    mlflow.receiver.mood(Mood::Well);
    let seen = until_shown(&world, "mlflow", has_everything).await;
    assert_eq!(seen["dropped"], 0);
    complete(&mlflow);
}

#[tokio::test]
async fn what_was_not_sent_before_the_coordinator_stopped_is_sent_after_it_started() {
    let address = nobody().await;
    let first = world(at(format!("http://{address}"))).await;
    let mut agent = Agent::join(&first, "n1", 4).await;
    job(&first, &mut agent).await;
    until_shown(&first, "mlflow", |tracker| tracker["failures"] != 0).await;
    drop(agent);
    let folder = first.stop().await;
    let mlflow = Mlflow::at(&address).await;
    let again = World::set_up(folder, at(mlflow.receiver.url())).await;
    until_shown(&again, "mlflow", has_everything).await;
    complete(&mlflow);
    let calls = mlflow.receiver.calls().len();
    // Nothing that it has is walked again.
    let folder = again.stop().await;
    let third = World::set_up(folder, at(mlflow.receiver.url())).await;
    until_shown(&third, "mlflow", has_everything).await;
    assert_eq!(mlflow.receiver.calls().len(), calls);
}

#[tokio::test]
async fn a_restarted_job_is_a_run_of_its_own() {
    let mlflow = Mlflow::at("127.0.0.1:0").await;
    let world = world(at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = job(&world, &mut agent).await;
    until_shown(&world, "mlflow", has_everything).await;
    let (status, _) = world.post(&format!("/training/jobs/{id}/restart")).await;
    assert_eq!(status, 200);
    let task = agent.run().await.task.unwrap();
    agent.report(exited(task, 3, 0)).await;
    agent.forget().await;
    world.until(id, "failed").await;
    until_shown(&world, "mlflow", has_everything).await;
    {
        let told = mlflow.told.lock().unwrap();
        let ends: Vec<_> = told.status.values().map(String::as_str).collect();
        assert_eq!(ends, ["FINISHED", "FAILED"]);
        assert_eq!(told.runs["run-2"]["trainyard.attempt"], "2");
    }
    let (_, seen) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(seen["mlflow_run_id"], "run-2");
}

#[tokio::test]
async fn trackers_that_are_off_are_shown_so_and_only_to_operators() {
    let world = World::start().await;
    for name in ["mlflow", "clearml"] {
        assert_eq!(shown(&world, name).await["state"], "off");
    }
    let request = world.plain(reqwest::Method::GET, "/trackers");
    assert_eq!(world.send(request).await.0, 401);
}
