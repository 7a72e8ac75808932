//! A ClearML server that checks each request as its API documentation (2.23) says: credentials, token,
//! required fields, types, and no field that it does not know.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use base64::Engine as _;
use http::StatusCode;
use serde_json::{Map, Value, json};
use trainyard_config::Secret;
use trainyard_coordinator::config::Config;
use trainyard_core::record::{Progress, Record};

mod schema;

use self::schema::{EVENT, check, schema};
use crate::{
    agent::{Agent, epoch, exited},
    live::Watcher,
    receiver::{Call, Receiver},
    trackers::{has_everything, job, shown, until_shown},
    world::{World, yolo},
};

/// What it was told.
#[derive(Debug, Default)]
struct Told {
    logins: u32,
    /// Calls that the newest token is still good for.
    token_calls: u32,
    faults: Vec<String>,
    status: Vec<String>,
    projects: Vec<String>,
    tasks: Vec<Value>,
    params: Vec<Value>,
    artifacts: Vec<Value>,
    events: Vec<Value>,
    /// Its own store takes no events.
    indexing_fails: bool,
    /// The next call of this path is carried out and answered with 500.
    forgets: Option<&'static str>,
}

fn envelope(code: u16, message: &str, data: Value) -> Response {
    let meta = json!({
        "id": "c0ffee", "trx": "c0ffee",
        "endpoint": {"name": "x", "requested_version": "2.23", "actual_version": "1.0"},
        "result_code": code, "result_subcode": 0, "result_msg": message,
        "error_stack": "", "error_data": {},
    });
    let status = StatusCode::from_u16(code).unwrap();
    (status, Json(json!({"meta": meta, "data": data}))).into_response()
}

fn answer(told: &mut Told, call: &Call) -> Response {
    let path = call.path.trim_start_matches('/');
    let authorisation = call.header("authorization");
    if path == "auth.login" {
        let right = base64::engine::general_purpose::STANDARD.encode("KEY:s3cret");
        if authorisation != format!("Basic {right}") {
            return envelope(401, "Unauthorized (invalid credentials)", json!({}));
        }
        told.logins += 1;
        told.token_calls = 5;
        return envelope(
            200,
            "OK",
            json!({"token": format!("token-{}", told.logins)}),
        );
    }
    if authorisation != format!("Bearer token-{}", told.logins) || told.token_calls == 0 {
        return envelope(401, "Unauthorized (token expired)", json!({}));
    }
    told.token_calls -= 1;
    match carry_out(told, path, call) {
        Ok(_)
            if told
                .forgets
                .take_if(|forgotten| *forgotten == path)
                .is_some() =>
        {
            envelope(500, "Internal server error", json!({}))
        }
        Ok(data) => envelope(200, "OK", data),
        Err(fault) => {
            told.faults.push(fault.clone());
            envelope(400, &format!("Validation error ({fault})"), json!({}))
        }
    }
}

fn carry_out(told: &mut Told, path: &str, call: &Call) -> Result<Value, String> {
    if path == "events.add_batch" {
        return add_batch(told, call);
    }
    let body: Value = serde_json::from_str(&call.body).map_err(|error| error.to_string())?;
    let schema = schema(path).ok_or_else(|| format!("{path}: unknown endpoint"))?;
    check(path, schema, &body)?;
    let list = |key: &str| body[key].as_array().cloned().unwrap_or_default();
    match path {
        "projects.get_all" => {
            let wanted = meant(body["name"].as_str().unwrap_or_default())?;
            let known = (1..).zip(&told.projects);
            let same = known.filter(|(_, name)| **name == wanted);
            let found: Vec<_> = same
                .map(|(number, name)| json!({"id": format!("p{number}"), "name": name}))
                .collect();
            return Ok(json!({"projects": found}));
        }
        "projects.create" => {
            told.projects
                .push(body["name"].as_str().unwrap_or_default().to_owned());
            return Ok(json!({"id": format!("p{}", told.projects.len())}));
        }
        "tasks.get_all" => {
            let wanted = list("tags");
            let has = |task: &Value, tag| task["tags"].as_array().unwrap().contains(tag);
            let known = (1..).zip(&told.tasks);
            let same = known.filter(|(_, task)| wanted.iter().all(|tag| has(task, tag)));
            let found: Vec<_> = same
                .map(|(number, _)| json!({"id": format!("t{number}")}))
                .collect();
            return Ok(json!({"tasks": found}));
        }
        "tasks.create" => {
            told.tasks.push(body);
            return Ok(json!({"id": format!("t{}", told.tasks.len())}));
        }
        "tasks.edit_hyper_params" => told.params.extend(list("hyperparams")),
        "tasks.add_or_update_artifacts" => told.artifacts.extend(list("artifacts")),
        status => told.status.push(status.to_owned()),
    }
    Ok(json!({"updated": 1}))
}

/// Some may be added, and the answer counts the others.
fn add_batch(told: &mut Told, call: &Call) -> Result<Value, String> {
    if call.header("content-type") != "application/json-lines" {
        return Err("events.add_batch: not json-lines".to_owned());
    }
    let (mut added, mut errors, mut indexing) = (0, 0, 0);
    for line in call.body.lines() {
        let event: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        check("event", EVENT, &event)?;
        if event["type"] != "training_stats_scalar" {
            return Err("event: unknown type".to_owned());
        }
        // As the server does: some are added, and the answer counts the others.
        if event["variant"] == "refused" {
            errors += 1;
            continue;
        }
        if told.indexing_fails {
            indexing += 1;
            continue;
        }
        told.events.push(event);
        added += 1;
    }
    let mut info = Map::new();
    if errors > 0 {
        info.insert("Invalid event".to_owned(), json!(errors));
    }
    if indexing > 0 {
        info.insert(
            "Error when indexing events batch".to_owned(),
            json!(indexing),
        );
    }
    if added == 0 {
        return Err(format!("events not added: {}", json!(info)));
    }
    Ok(json!({"added": added, "errors": errors + indexing, "errors_info": info}))
}

/// The text that a regular expression means which means one text only.
fn meant(pattern: &str) -> Result<String, String> {
    let inner = pattern
        .strip_prefix('^')
        .and_then(|rest| rest.strip_suffix('$'));
    let mut letters = inner.ok_or("name: not of the whole name")?.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            letter if ".+*?()|[]{}^$".contains(letter) => {
                return Err(format!("name: '{letter}' means more than itself"));
            }
            letter => text.push(letter),
        }
    }
    Ok(text)
}

async fn server() -> (Receiver, Arc<Mutex<Told>>) {
    let told: Arc<Mutex<Told>> = Arc::default();
    let notes = Arc::clone(&told);
    let answers = move |call: &Call| answer(&mut notes.lock().unwrap(), call);
    (Receiver::at("127.0.0.1:0", answers).await, told)
}

fn at(url: String, secret: &str) -> impl FnOnce(&mut Config) {
    let secret = Secret::new(secret.to_owned());
    move |config| {
        config.trackers.clearml.url = url;
        config.trackers.clearml.access_key = "KEY".to_owned();
        config.trackers.clearml.secret_key = secret;
    }
}

#[tokio::test]
async fn clearml_is_told_all_of_a_job_by_requests_that_its_schema_allows() {
    let (receiver, told) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, at(receiver.url(), "s3cret")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = job(&world, &mut agent).await;
    until_shown(&world, "clearml", has_everything).await;
    let mut watcher = Watcher::on(&world, &format!("?job_id={id}")).await;
    let messages = watcher.until_the_end().await;
    assert_eq!(messages.last().unwrap()["clearml_task_id"], "t1");
    let told = told.lock().unwrap();
    assert_eq!(told.faults, [""; 0]);
    assert_eq!(told.status, ["tasks.started", "tasks.completed"]);
    assert_eq!(told.tasks.len(), 1);
    assert_eq!(
        (&told.tasks[0]["project"], &told.tasks[0]["type"]),
        (&json!("p1"), &json!("training"))
    );
    let events: Vec<_> = told
        .events
        .iter()
        .map(|event| {
            (
                event["iter"].as_u64(),
                event["metric"].as_str(),
                event["value"].as_f64(),
            )
        })
        .collect();
    // JSON has no NaN.
    let expected = [
        (Some(1), Some("loss"), Some(0.5)),
        (Some(2), Some("loss"), Some(0.25)),
    ];
    assert_eq!(events, expected);
    let epochs = json!({"section": "General", "name": "epochs", "value": "2"});
    assert!(told.params.contains(&epochs), "{:?}", told.params);
    let uris: Vec<_> = told
        .artifacts
        .iter()
        .map(|artifact| artifact["uri"].as_str())
        .collect();
    assert_eq!(uris, [Some("/c/best.pt"), Some("/c/last.pt")]);
    // Each token was good for five calls.
    assert!(told.logins >= 2, "{told:?}");
}

pub(crate) fn points(values: &[(u32, Option<u64>, &str, f64)]) -> Vec<Record> {
    let point = |(number, step, name, value): &(u32, Option<u64>, &str, f64)| {
        let Record::Progress(report) = epoch(*number, &[(name, *value)]) else {
            panic!("not a progress");
        };
        let step = *step;
        Record::Progress(Progress { step, ..report })
    };
    values.iter().map(point).collect()
}

/// Runs a job that reports these, and ends well.
pub(crate) async fn reports(world: &World, agent: &mut Agent, records: &[Record]) -> u64 {
    let id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(world).await;
    data.deliver(task, 1, records).await;
    let last = u64::try_from(records.len()).unwrap();
    agent.report(exited(task, 0, last)).await;
    agent.forget().await;
    world.until(id, "completed").await;
    id
}

/// Iteration, variant and value of each event, as the server keeps them: the last of one name and
/// iteration.
fn kept(told: &Told) -> Vec<(u64, String, String)> {
    let mut kept = BTreeMap::new();
    for event in &told.events {
        let variant = event["variant"].as_str().unwrap().to_owned();
        let key = (event["iter"].as_u64().unwrap(), variant);
        kept.insert(key, event["value"].to_string());
    }
    let row = |((iteration, variant), value)| (iteration, variant, value);
    kept.into_iter().map(row).collect()
}

#[tokio::test]
async fn a_task_that_clearml_made_and_did_not_say_is_found_again_in_the_project_that_was_there() {
    let project = "a.b (c)/d+1 [x]";
    let (receiver, told) = server().await;
    {
        let mut told = told.lock().unwrap();
        told.projects = vec!["another".to_owned(), project.to_owned()];
        told.forgets = Some("tasks.create");
    }
    let settings = at(receiver.url(), "s3cret");
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, |config| {
        settings(config);
        config.trackers.clearml.project = project.to_owned();
    })
    .await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    let seen = until_shown(&world, "clearml", has_everything).await;
    assert_ne!(seen["failures"], 0, "it was created and that was not said");
    assert_eq!(seen["dropped"], 0);
    let told = told.lock().unwrap();
    assert_eq!(told.faults, [""; 0]);
    assert_eq!(told.projects.len(), 2, "{told:?}");
    assert_eq!(told.tasks.len(), 1, "{told:?}");
    assert_eq!(told.tasks[0]["project"], "p2");
    assert_eq!(told.status, ["tasks.started", "tasks.completed"]);
}

#[tokio::test]
async fn two_metrics_that_are_one_series_at_clearml_are_told_apart() {
    let (receiver, told) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, at(receiver.url(), "s3cret")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let values = [(1, "loss", 0.9), (2, "loss/loss", 0.8), (3, "loss", 0.7)];
    let values = values.map(|(number, name, value)| (number, None, name, value));
    reports(&world, &mut agent, &points(&values)).await;
    until_shown(&world, "clearml", has_everything).await;
    let expected = [(1, "loss", "0.9"), (2, "loss_2", "0.8"), (3, "loss", "0.7")];
    let expected = expected.map(|(n, name, value)| (n, name.to_owned(), value.to_owned()));
    assert_eq!(kept(&told.lock().unwrap()), expected);
}

#[tokio::test]
async fn no_report_within_an_epoch_is_lost_at_clearml() {
    let (receiver, told) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, at(receiver.url(), "s3cret")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let records = points(&[
        (1, Some(10), "loss", 0.9),
        (1, Some(20), "loss", 0.8),
        (1, None, "loss", 0.85),
        (2, Some(10), "loss", 0.7),
        (2, Some(20), "loss", 0.6),
    ]);
    reports(&world, &mut agent, &records).await;
    until_shown(&world, "clearml", has_everything).await;
    let values: Vec<_> = kept(&told.lock().unwrap())
        .into_iter()
        .map(|(iteration, _, value)| (iteration, value))
        .collect();
    let expected = [
        (10, "0.9"),
        (20, "0.8"),
        (21, "0.85"),
        (31, "0.7"),
        (41, "0.6"),
    ];
    assert_eq!(values, expected.map(|(n, value)| (n, value.to_owned())));
}

#[tokio::test]
async fn events_that_clearml_does_not_add_are_given_up_alone_and_told() {
    let (receiver, told) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, at(receiver.url(), "s3cret")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let names = ["loss", "refused"];
    let values: Vec<_> = (1..=8)
        .flat_map(|n| names.map(|name| (1, Some(n), name, f64::from(u32::try_from(n).unwrap()))))
        .enumerate()
        .map(|(at, (number, _, name, value))| (number, Some(at as u64 + 1), name, value))
        .collect();
    reports(&world, &mut agent, &points(&values)).await;
    let seen = until_shown(&world, "clearml", has_everything).await;
    assert_eq!(seen["dropped"], 1, "{seen}");
    let told = told.lock().unwrap();
    let kept = kept(&told);
    assert_eq!(kept.len(), 8, "{kept:?}");
    assert_eq!(told.status, ["tasks.started", "tasks.completed"]);
}

#[tokio::test]
async fn events_that_the_store_of_clearml_cannot_take_now_are_sent_again() {
    let (receiver, told) = server().await;
    told.lock().unwrap().indexing_fails = true;
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, at(receiver.url(), "s3cret")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    reports(&world, &mut agent, &points(&[(1, None, "loss", 0.5)])).await;
    until_shown(&world, "clearml", |tracker| tracker["failures"] != 0).await;
    told.lock().unwrap().indexing_fails = false;
    let seen = until_shown(&world, "clearml", has_everything).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(kept(&told.lock().unwrap()).len(), 1);
}

#[tokio::test]
async fn wrong_keys_of_clearml_are_shown_without_them_and_hold_up_no_job() {
    let (receiver, _told) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, at(receiver.url(), "wr0ng")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    job(&world, &mut agent).await;
    until_shown(&world, "clearml", |tracker| tracker["state"] == "refused").await;
    let seen = shown(&world, "clearml").await;
    let words = seen["last_error"].as_str().unwrap();
    assert!(words.contains("invalid credentials"), "{words}");
    assert!(!words.contains("wr0ng"), "{words}");
}
