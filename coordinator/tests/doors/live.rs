//! Live updates over a WebSocket: each message of the contract, and that none is lost or told twice.

use futures::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};
use trainyard_core::record::LogStream;

use crate::{
    agent::{Agent, epoch, exited, line},
    world::{PATIENCE, World, command, keys, yolo},
};

/// A watching client.
pub(crate) struct Watcher(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Watcher {
    pub(crate) async fn open(
        world: &World,
        query: &str,
        token: Option<&str>,
    ) -> Result<Self, Box<Error>> {
        let url = format!("ws://{}/api/v1/ws/training{query}", world.address);
        let mut request = url.into_client_request().unwrap();
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        let opened = connect_async(request).await;
        opened.map(|(socket, _)| Self(socket)).map_err(Box::new)
    }

    pub(crate) async fn on(world: &World, query: &str) -> Self {
        let mut watcher = Self::open(world, query, Some(&world.token)).await.unwrap();
        let first = watcher.next().await;
        assert_eq!(keys(&first), ["type", "message", "timestamp"]);
        assert_eq!(first["type"], "connected");
        watcher
    }

    async fn send(&mut self, message: &Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    pub(crate) async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await;
            if let Message::Text(text) = message.expect("a message in time").unwrap().unwrap() {
                return serde_json::from_str(text.as_str()).unwrap();
            }
        }
    }

    /// The code with which it is closed in order.
    pub(crate) async fn until_closed(&mut self) -> u16 {
        let closed = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Close(frame))) => return frame,
                    Some(Ok(_)) => {}
                    other => panic!("not closed in order: {other:?}"),
                }
            }
        };
        let frame = tokio::time::timeout(PATIENCE, closed).await.unwrap();
        u16::from(frame.unwrap().code)
    }

    /// All messages up to the job's end.
    pub(crate) async fn until_the_end(&mut self) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let message = self.next().await;
            let kind = message["type"].as_str().unwrap();
            let over = kind == "training_complete" || kind == "training_error";
            seen.push(message);
            if over {
                return seen;
            }
        }
    }
}

fn of_kind<'m>(messages: &'m [Value], kind: &str) -> Vec<&'m Value> {
    messages
        .iter()
        .filter(|message| message["type"] == kind)
        .collect()
}

#[tokio::test]
async fn a_run_is_told_from_its_first_report_to_its_end_and_nothing_twice() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = world.submit(&yolo()).await;
    let mut watcher = Watcher::on(&world, &format!("?job_id={id}")).await;
    let start = agent.run().await;
    let task = start.task.unwrap();
    let mut data = agent.attach(&world).await;
    let mut records = vec![epoch(1, &[("loss", 0.5), ("mAP50", 0.75)])];
    records.extend((0..500).map(|n| line(LogStream::Stdout, "", &format!("line {n}"))));
    records.push(epoch(2, &[("loss", 0.25), ("mAP50", 0.5)]));
    records.push(line(LogStream::Callback, "WARNING", "mind"));
    let last = u64::try_from(records.len()).unwrap();
    data.deliver(task, 1, &records).await;
    agent.report(exited(task, 0, last)).await;
    agent.forget().await;
    let seen = watcher.until_the_end().await;
    check_progress(&seen);
    check_lines(&seen);
    let end = seen.last().unwrap();
    let expected = "type job_id status total_epochs_completed final_metrics best_metrics best_epoch \
        final_checkpoint_path best_checkpoint_path clearml_task_id error_message";
    assert_eq!(keys(end), expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        (&end["type"], &end["status"], &end["best_epoch"]),
        (&json!("training_complete"), &json!("completed"), &json!(1))
    );
    assert_eq!(end["total_epochs_completed"], 2);
}

fn check_progress(seen: &[Value]) {
    let progress = of_kind(seen, "training_progress");
    let expected = "type job_id status current_epoch total_epochs progress_percent metrics \
        checkpoint_path best_checkpoint_path";
    assert_eq!(
        keys(progress[0]),
        expected.split_whitespace().collect::<Vec<_>>()
    );
    let points: Vec<_> = progress
        .iter()
        .filter(|message| !message["metrics"].is_null())
        .collect();
    let epochs: Vec<_> = points
        .iter()
        .map(|message| message["current_epoch"].clone())
        .collect();
    assert_eq!(epochs, [1, 2]);
    assert_eq!(points[0]["progress_percent"], 50.0);
    assert_eq!(points[0]["metrics"]["loss"], 0.5);
    assert_eq!(
        points[0]["metrics"]["extra_metrics"],
        json!({"mAP50": 0.75})
    );
}

fn check_lines(seen: &[Value]) {
    let lines = of_kind(seen, "training_log");
    assert_eq!(
        keys(lines[0]),
        [
            "type",
            "job_id",
            "level",
            "event_type",
            "message",
            "timestamp"
        ]
    );
    let plain = lines.iter().filter(|line| line["event_type"] == "stdout");
    let texts: Vec<_> = plain
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = (0..500).map(|n| format!("line {n}")).collect();
    assert_eq!(texts, expected);
    let warned = lines.iter().find(|line| line["message"] == "mind").unwrap();
    assert_eq!(
        (&warned["level"], &warned["event_type"]),
        (&json!("WARNING"), &json!("log"))
    );
}

#[tokio::test]
async fn pings_subscriptions_and_errors_are_answered() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    let mut watcher = Watcher::on(&world, "").await;
    watcher.send(&json!({"type": "ping"})).await;
    assert_eq!(watcher.next().await, json!({"type": "pong"}));
    for message in [
        json!({"type": "dance"}),
        json!({"type": "subscribe"}),
        json!({"type": "subscribe", "job_id": "x"}),
        json!([1]),
    ] {
        watcher.send(&message).await;
        let answer = watcher.next().await;
        assert_eq!(keys(&answer), ["type", "message"], "{message}");
        assert_eq!(answer["type"], "error");
    }
    watcher
        .send(&json!({"type": "subscribe", "job_id": 77}))
        .await;
    let none = json!({"type": "error", "message": "Training job not found"});
    assert_eq!(watcher.next().await, none);
    watcher
        .send(&json!({"type": "subscribe", "job_id": id}))
        .await;
    assert_eq!(
        watcher.next().await,
        json!({"type": "subscribed", "job_id": id})
    );
    world.post(&format!("/training/jobs/{id}/cancel")).await;
    let end = watcher.until_the_end().await.pop().unwrap();
    assert_eq!(
        (&end["type"], &end["status"]),
        (&json!("training_error"), &json!("cancelled"))
    );
    // Without a subscription the next run is not told.
    watcher
        .send(&json!({"type": "unsubscribe", "job_id": id}))
        .await;
    watcher.send(&json!({"type": "ping"})).await;
    assert_eq!(watcher.next().await["type"], "pong");
    world.post(&format!("/training/jobs/{id}/restart")).await;
    world.post(&format!("/training/jobs/{id}/cancel")).await;
    watcher.send(&json!({"type": "ping"})).await;
    assert_eq!(watcher.next().await["type"], "pong");
}

#[tokio::test]
async fn a_connection_follows_so_many_jobs_and_no_more() {
    let world = World::start().await;
    let mut watcher = Watcher::on(&world, "").await;
    for number in 0..17 {
        let id = world.submit(&command()).await;
        watcher
            .send(&json!({"type": "subscribe", "job_id": id}))
            .await;
        let kind = watcher.next().await["type"].clone();
        let expected = if number < 16 { "subscribed" } else { "error" };
        assert_eq!(kind, expected, "{number}");
    }
}

#[tokio::test]
async fn a_connection_whose_login_has_ended_subscribes_to_nothing_and_is_closed() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    let (_, tokens) = world.login("admin@example.com", "admin123").await;
    let token = tokens["access_token"].as_str().unwrap();
    let mut watcher = Watcher::open(&world, "", Some(token)).await.unwrap();
    watcher.next().await;
    // A number as text is one, as everywhere else.
    let subscribe = json!({"type": "subscribe", "job_id": id.to_string()});
    watcher.send(&subscribe).await;
    let subscribed = json!({"type": "subscribed", "job_id": id});
    assert_eq!(watcher.next().await, subscribed);
    watcher
        .send(&json!({"type": "unsubscribe", "job_id": id}))
        .await;
    let out = (Method::POST, "/auth/logout");
    assert_eq!(world.call(token, out, Value::Null).await.0, 200);
    watcher.send(&subscribe).await;
    let refused = json!({"type": "error", "message": "Could not validate credentials"});
    assert_eq!(watcher.next().await, refused);
    assert_eq!(watcher.until_closed().await, 1008);
}

#[tokio::test]
async fn a_connection_of_a_revoked_api_key_subscribes_to_nothing() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    let body = json!({"name": "ci", "system_role": "admin"});
    let (_, account) = world.post_json("/service-accounts", &body).await;
    let body = json!({"user_id": account["id"], "name": "main"});
    let (_, made) = world.post_json("/api-keys", &body).await;
    let key = made["key"].as_str().unwrap();
    let mut watcher = Watcher::open(&world, "", Some(key)).await.unwrap();
    watcher.next().await;
    // Its first look at the key is behind it.
    watcher.send(&json!({"type": "ping"})).await;
    watcher.next().await;
    let path = format!("/api-keys/{}", made["id"].as_str().unwrap());
    let revoke = (Method::DELETE, path.as_str());
    assert_eq!(world.call(&world.token, revoke, Value::Null).await.0, 200);
    watcher
        .send(&json!({"type": "subscribe", "job_id": id}))
        .await;
    assert_eq!(
        watcher.next().await["message"],
        "Could not validate credentials"
    );
}

#[tokio::test]
async fn only_who_may_read_the_job_is_let_in() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    let (_, stranger) = world.somebody("stranger", "standard_engineer").await;
    let by_query = format!("?job_id={id}&token={}", world.token);
    assert!(Watcher::open(&world, &by_query, None).await.is_ok());
    let query = format!("?job_id={id}");
    for (query, token, status) in [
        (query.as_str(), None, 401),
        (query.as_str(), Some("x.y.z"), 401),
        (query.as_str(), Some(stranger.as_str()), 404),
        ("?job_id=77", Some(world.token.as_str()), 404),
        ("?job_id=x", Some(world.token.as_str()), 422),
    ] {
        let refused = Watcher::open(&world, query, token).await.err().unwrap();
        let Error::Http(answer) = *refused else {
            panic!("not refused at the handshake: {refused}");
        };
        assert_eq!(answer.status().as_u16(), status, "{query}");
    }
    let mut watcher = Watcher::open(&world, "", Some(&stranger)).await.unwrap();
    watcher.next().await;
    watcher
        .send(&json!({"type": "subscribe", "job_id": id}))
        .await;
    assert_eq!(watcher.next().await["message"], "Training job not found");
    let (status, _) = world.get(&format!("/ws/training?job_id={id}")).await;
    assert_eq!(status, 400);
}
