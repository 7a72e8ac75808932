//! Webhooks: signed, in order, tried again under the same id, given up when they are refused.

use aws_lc_rs::hmac;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};
use tests::wait::until_within;
use trainyard_config::Secret;
use trainyard_coordinator::config::{Config, WebhookConfig};

use crate::{
    agent::Agent,
    receiver::{Call, Mood, Receiver, nobody},
    trackers::{has_everything, job, shown, until_shown},
    world::{PATIENCE, World},
};

const SECRET: &str = "shared s3cret";

fn hook(url: String, events: &[&str]) -> impl FnOnce(&mut Config) {
    let hook = WebhookConfig {
        url,
        secret: Secret::new(SECRET.to_owned()),
        events: events.iter().map(|&event| event.to_owned()).collect(),
        name: "ops".to_owned(),
    };
    move |config| config.trackers.webhooks = vec![hook]
}

async fn world(change: impl FnOnce(&mut Config)) -> World {
    World::set_up(tempfile::tempdir().unwrap(), change).await
}

fn fine(_: &Call) -> Response {
    StatusCode::NO_CONTENT.into_response()
}

fn events(calls: &[Call]) -> Vec<&str> {
    let events = calls.iter().map(|call| call.header("x-trainyard-event"));
    events.collect()
}

/// As a receiver checks it.
fn verify(call: &Call) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = format!("{}.{}", call.header("x-trainyard-timestamp"), call.body);
    let hex = call.header("x-trainyard-signature");
    let hex = hex.strip_prefix("sha256=").expect("a signature");
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<_> = hex.as_bytes().chunks(2).map(pair).collect();
    hmac::verify(&key, signed.as_bytes(), &bytes).expect("the signature is right");
    let body: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(body["id"], call.header("x-trainyard-delivery"));
    assert_eq!(body["event"], call.header("x-trainyard-event"));
}

#[tokio::test]
async fn a_receiver_is_told_each_change_once_in_order_and_signed() {
    let receiver = Receiver::at("127.0.0.1:0", fine).await;
    let world = world(hook(receiver.url(), &[])).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = job(&world, &mut agent).await;
    let seen = until_shown(&world, "ops", has_everything).await;
    let calls = receiver.calls();
    let expected = ["submitted", "started", "checkpoint", "completed"];
    assert_eq!(events(&calls), expected);
    calls.iter().for_each(verify);
    let last: Value = serde_json::from_str(&calls[3].body).unwrap();
    assert_eq!(
        (&last["job"]["id"], &last["job"]["node"]),
        (&json!(id), &json!("n1"))
    );
    assert_eq!(
        (&seen["kind"], &seen["delivered"]),
        (&json!("webhook"), &json!(4))
    );
}

#[tokio::test]
async fn a_receiver_that_is_down_gets_everything_later_in_order_under_the_same_ids() {
    let address = nobody().await;
    let first = world(hook(
        format!("http://{address}/x"),
        &["started", "completed"],
    ))
    .await;
    let mut agent = Agent::join(&first, "n1", 4).await;
    job(&first, &mut agent).await;
    let waits = |tracker: &Value| tracker["failures"] != 0 && tracker["points_pending"] == 2;
    until_shown(&first, "ops", waits).await;
    drop(agent);
    // The outbox is on disk.
    let folder = first.stop().await;
    let receiver = Receiver::at(&address, fine).await;
    receiver.mood(Mood::Status(500));
    let url = format!("http://{address}/x");
    let world = World::set_up(folder, hook(url, &["started", "completed"])).await;
    until_shown(&world, "ops", |tracker| tracker["failures"] != 0).await;
    receiver.mood(Mood::Well);
    until_shown(&world, "ops", has_everything).await;
    let calls = receiver.calls();
    let taken = &calls[calls.len() - 2..];
    assert_eq!(events(taken), ["started", "completed"]);
    let tried = &calls[0];
    let again = calls[calls.len() - 2].clone();
    let id = "x-trainyard-delivery";
    assert_eq!(tried.header(id), again.header(id));
    assert_eq!(tried.body, again.body);
    calls.iter().for_each(verify);
}

#[tokio::test]
async fn a_delivery_that_is_refused_for_good_is_given_up_and_the_next_is_sent() {
    let gone = |call: &Call| match call.header("x-trainyard-event") {
        "started" => StatusCode::GONE.into_response(),
        _ => StatusCode::OK.into_response(),
    };
    let receiver = Receiver::at("127.0.0.1:0", gone).await;
    let world = world(hook(receiver.url(), &["started", "completed"])).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    let given_up = |tracker: &Value| has_everything(tracker) && tracker["dropped"] == 1;
    let seen = until_shown(&world, "ops", given_up).await;
    assert_eq!(seen["delivered"], 1);
    assert_eq!(events(&receiver.calls()), ["started", "completed"]);
}

#[tokio::test]
async fn a_receiver_that_answers_404_while_it_is_replaced_gets_everything_later() {
    let receiver = Receiver::at("127.0.0.1:0", fine).await;
    receiver.mood(Mood::Status(404));
    let world = world(hook(receiver.url(), &[])).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    let seen = until_shown(&world, "ops", |tracker| {
        tracker["failures"].as_u64().unwrap() > 1
    })
    .await;
    assert_eq!(seen["dropped"], 0);
    let before = receiver.calls().len();
    receiver.mood(Mood::Well);
    let seen = until_shown(&world, "ops", has_everything).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(4), &json!(0))
    );
    let expected = ["submitted", "started", "checkpoint", "completed"];
    assert_eq!(events(&receiver.calls()[before..]), expected);
}

#[tokio::test]
async fn a_job_whose_deliveries_fail_for_ever_holds_up_no_other() {
    let of_the_first = |call: &Call| call.body.contains(r#""id":1,"#);
    let ill = move |call: &Call| match of_the_first(call) {
        true => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        false => fine(call),
    };
    let receiver = Receiver::at("127.0.0.1:0", ill).await;
    let world = world(hook(receiver.url(), &[])).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    assert_eq!(job(&world, &mut agent).await, 1);
    for _ in 0..10 {
        job(&world, &mut agent).await;
    }
    let others = |tracker: &Value| tracker["delivered"] == 40 && tracker["jobs_pending"] == 1;
    let seen = until_shown(&world, "ops", others).await;
    assert_eq!(
        (&seen["points_pending"], &seen["dropped"]),
        (&json!(4), &json!(0))
    );
    let calls = receiver.calls();
    let first: Vec<_> = calls.iter().filter(|call| of_the_first(call)).collect();
    let again: Vec<_> = first
        .iter()
        .map(|call| call.header("x-trainyard-event"))
        .collect();
    assert!(
        again.iter().all(|event| *event == "submitted"),
        "in order: {again:?}"
    );
}

/// Waits until the receiver took what does not begin with the first so many jobs.
async fn takes_the_others(status: StatusCode, ill: u64, (well, delivered): (u64, u64)) {
    let of_an_ill_one = move |call: &Call| {
        let body: Value = serde_json::from_str(&call.body).unwrap();
        body["job"]["id"].as_u64().unwrap() <= ill
    };
    let answers = move |call: &Call| match of_an_ill_one(call) {
        true => status.into_response(),
        false => fine(call),
    };
    let receiver = Receiver::at("127.0.0.1:0", answers).await;
    let world = world(hook(receiver.url(), &["submitted"])).await;
    for _ in 0..ill {
        world.submit(&crate::world::command()).await;
    }
    until_shown(&world, "ops", |tracker| tracker["failures"] != 0).await;
    for _ in 0..well {
        world.submit(&crate::world::command()).await;
    }
    let others = until_within(PATIENCE, "the others are taken", async || {
        let seen = shown(&world, "ops").await;
        (seen["delivered"] == delivered && seen["jobs_pending"] == ill).then_some(seen)
    })
    .await;
    assert_eq!(others["dropped"], 0);
}

#[tokio::test]
async fn many_jobs_whose_deliveries_fail_do_not_keep_back_a_later_one() {
    takes_the_others(StatusCode::INTERNAL_SERVER_ERROR, 20, (1, 1)).await;
}

#[tokio::test]
async fn a_job_whose_deliveries_are_answered_403_holds_up_no_other() {
    takes_the_others(StatusCode::FORBIDDEN, 1, (5, 5)).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::at("127.0.0.1:0", fine).await;
    let to = elsewhere.url();
    let moved = move |_: &Call| (StatusCode::FOUND, [("location", to.clone())]).into_response();
    let receiver = Receiver::at("127.0.0.1:0", moved).await;
    let world = world(hook(receiver.url(), &["submitted"])).await;
    world.submit(&crate::world::command()).await;
    let seen = until_shown(&world, "ops", |tracker| tracker["failures"] != 0).await;
    assert!(
        seen["last_error"].as_str().unwrap().contains("redirects"),
        "{seen}"
    );
    assert_eq!(elsewhere.calls().len(), 0);
}
