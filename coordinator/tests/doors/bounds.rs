//! What is too large, too deep, too slow, or from another page; and the figures that count it.

use std::io::{Read as _, Write as _};

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{PATIENCE, World, command};

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_with_words() {
    let world = World::start().await;
    let mut body = command();
    body["notes"] = json!("x".repeat(1 << 20));
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 413);
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("limits.request_mib")
    );
    // What nobody reads is not too large for a field.
    body["notes"] = json!("short");
    body["padding"] = json!("x".repeat(1 << 19));
    assert_eq!(world.post_json("/training/jobs", &body).await.0, 200);
}

#[tokio::test]
async fn a_body_of_many_brackets_is_refused_and_the_coordinator_lives() {
    let world = World::start().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let bomb = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let request = world.plain(Method::POST, "/training/jobs");
        let request = request.bearer_auth(&world.token).body(bomb);
        let (status, answer) = world.send(request).await;
        assert_eq!(
            (status, &answer["detail"][0]["type"]),
            (422, &json!("json_invalid"))
        );
    }
    assert_eq!(world.get("/health").await.0, 200);
}

#[tokio::test]
async fn a_refusal_before_the_body_was_read_says_that_the_connection_ends() {
    let world = World::start().await;
    let path = "/training/jobs/1/callback/progress";
    let refused = world.plain(Method::POST, path).json(&json!({"job_id": 1}));
    let answer = refused.send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()["connection"], "close");
    let read = world.plain(Method::POST, "/training/jobs").body("{");
    let read = read.bearer_auth(&world.token);
    let answer = read.send().await.unwrap();
    assert_eq!(answer.status(), 422);
    assert!(!answer.headers().contains_key("connection"));
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_its_body_is_cut_off() {
    let world = World::with(|config| config.http.body_timeout_seconds = 1).await;
    let (address, token) = (world.address.clone(), world.token.clone());
    let answer = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST /api/v1/training/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{{"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("The body could not be read"), "{answer}");
}

#[tokio::test]
async fn only_pages_of_the_origins_in_the_settings_may_call() {
    let page = "https://train.example.com";
    let world = World::with(|config| {
        config.http.cors_origins = format!("{page}, http://localhost:3000");
    })
    .await;
    let ask = async |origin: &str| {
        let request = world.plain(Method::OPTIONS, "/training/jobs");
        let request = request.header("Origin", origin);
        let request = request
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization");
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get("access-control-allow-origin");
        allowed.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(ask(page).await.as_deref(), Some(page));
    assert_eq!(ask("https://evil.example.com").await, None);
    let called = world.plain(Method::GET, "/health").header("Origin", page);
    let called = called.send().await.unwrap();
    let shown = called.headers()["access-control-expose-headers"]
        .to_str()
        .unwrap();
    assert!(shown.contains("retry-after"), "{shown}");
    let closed = World::start().await;
    let answer = closed.plain(Method::GET, "/health").header("Origin", page);
    let answer = answer.send().await.unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn figures_are_told_to_prometheus() {
    let world = World::start().await;
    world.submit(&command()).await;
    world.get("/training/jobs/77").await;
    let url = format!("http://{}/metrics", world.address);
    let answer = world.http.get(url).send().await.unwrap();
    let kind = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = answer.text().await.unwrap();
    for line in [
        "trainyard_submits_total 1",
        "trainyard_open_jobs{state=\"queued\"} 1",
        "trainyard_open_jobs{state=\"running\"} 0",
        "trainyard_nodes{state=\"ready\"} 0",
        "trainyard_invariants_broken_total{invariant=\"INV-01\"} 0",
        "trainyard_http_requests_total{route=\"/api/v1/training/jobs/{id}\",method=\"GET\",status=\"404\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("trainyard_http_request_duration_seconds_bucket"));
    assert!(text.contains("trainyard_store_commits_total"));
}

#[tokio::test]
async fn methods_that_a_caller_makes_up_are_counted_as_one() {
    let world = World::start().await;
    for n in 0..50 {
        let method = Method::from_bytes(format!("MADEUP{n}").as_bytes()).unwrap();
        let long = Method::from_bytes("X".repeat(4_000 + n).as_bytes()).unwrap();
        for method in [method, long] {
            world.plain(method, "/health").send().await.unwrap();
        }
    }
    let url = format!("http://{}/metrics", world.address);
    let text = world
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let count = text.lines().filter_map(|line| {
        let known =
            line.starts_with("trainyard_http_requests_total") && line.contains("method=\"other\"");
        line.rsplit(' ')
            .next()
            .filter(|_| known)?
            .parse::<u64>()
            .ok()
    });
    assert_eq!(count.sum::<u64>(), 100, "{text}");
    assert!(!text.contains("MADEUP") && !text.contains("XXXX"));
}

#[tokio::test]
async fn the_document_and_its_pages_are_served_and_load_nothing_from_elsewhere() {
    let world = World::start().await;
    let (status, document) = world.get("/openapi.json").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let job = &document["components"]["schemas"]["TrainingJob"];
    assert_eq!(
        job["required"].as_array().unwrap().len(),
        job["properties"].as_object().unwrap().len()
    );
    let create = &document["paths"]["/api/v1/training/jobs"]["post"];
    let statuses: Vec<_> = create["responses"].as_object().unwrap().keys().collect();
    for status in [
        "200", "400", "401", "403", "404", "413", "422", "429", "503",
    ] {
        assert!(statuses.iter().any(|found| *found == status), "{status}");
    }
    for schemes in ["login", "token", "attempt"] {
        assert_ne!(
            document["components"]["securitySchemes"][schemes],
            Value::Null
        );
    }
    let url = format!("http://{}/docs/", world.address);
    let page = world
        .http
        .get(&url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for word in ["http://", "https://", "//cdn"] {
        assert!(!page.contains(word), "{page}");
    }
    let script = format!("{url}swagger-ui-bundle.js");
    assert_eq!(world.http.get(script).send().await.unwrap().status(), 200);
}
