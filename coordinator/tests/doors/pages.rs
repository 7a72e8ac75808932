//! What browsers do that other clients do not: forms in parts, origins of WebSockets and of files.

use reqwest::{Method, header};
use serde_json::json;

use crate::world::{World, command};

const PAGE: &str = "https://train.example.com";

#[tokio::test]
async fn a_login_may_come_as_a_form_in_parts() {
    let world = World::start().await;
    let form = |fields: &[(&str, &str)]| {
        let mut body = String::new();
        for (name, value) in fields {
            let head = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
            body.push_str(&format!("{head}{value}\r\n"));
        }
        let request = world.plain(Method::POST, "/auth/login");
        let request = request.header(header::CONTENT_TYPE, "multipart/form-data; boundary=b");
        request.body(body + "--b--\r\n")
    };
    let right = [
        ("grant_type", "password"),
        ("username", "admin@example.com"),
        ("password", "admin123"),
    ];
    let (status, tokens) = world.send(form(&right)).await;
    assert_eq!((status, &tokens["token_type"]), (200, &json!("bearer")));
    let (status, answer) = world.send(form(&right[..2])).await;
    assert_eq!(status, 422);
    assert_eq!(answer["detail"][0]["loc"], json!(["body", "password"]));
    let wrong = [("username", "admin@example.com"), ("password", "wrong")];
    assert_eq!(world.send(form(&wrong)).await.0, 401);
}

#[tokio::test]
async fn a_websocket_opens_only_for_pages_that_may_call() {
    let world = World::with(|config| config.http.cors_origins = PAGE.to_owned()).await;
    let job = world.submit(&command()).await;
    let open = async |origin: Option<&str>| {
        let path = format!("/ws/training?job_id={job}&token={}", world.token);
        let mut request = world
            .plain(Method::GET, &path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let own = format!("http://{}", world.address);
    for (origin, status) in [
        (None, 101),
        (Some(PAGE), 101),
        (Some(own.as_str()), 101),
        (Some("https://evil.example.com"), 403),
        (Some("null"), 403),
    ] {
        assert_eq!(open(origin).await, status, "{origin:?}");
    }
}

#[tokio::test]
async fn files_answer_pages_as_all_other_calls_do() {
    let world = World::with(|config| config.http.cors_origins = PAGE.to_owned()).await;
    for path in ["/files/artifacts/x", "/training/jobs"] {
        let request = world.plain(Method::OPTIONS, path);
        let request = request
            .header("Origin", PAGE)
            .header("Access-Control-Request-Method", "PUT");
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get("access-control-allow-origin");
        assert_eq!(allowed.unwrap(), PAGE, "{path}");
        let refused = world.plain(Method::PUT, path).header("Origin", PAGE);
        let answer = refused.send().await.unwrap();
        assert!(answer.status().is_client_error(), "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], PAGE);
    }
}
