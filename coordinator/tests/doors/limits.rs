//! Bounds of the gRPC door, of files that are sent, and of whoever registers, over real sockets.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use reqwest::Method;
use serde_json::json;
use tests::wait::until;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::bytes::Bytes;
use tonic::{Code, Request, transport::Channel};
use tower::{Service as _, ServiceExt as _};
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient, connect_request::Frame};

use crate::{
    agent::{Agent, hello},
    world::{PATIENCE, World, command},
};

type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Code and words of a call whose body comes in these pieces.
async fn call(
    mut channel: Channel,
    method: &str,
    (token, pieces): (Option<&str>, Pieces),
) -> (Code, String) {
    let body = axum::body::Body::from_stream(pieces.map(Ok::<_, Infallible>));
    let mut request = http::Request::post(format!("http://x/trainyard.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(tonic::body::Body::new(body)).unwrap();
    let answer = async { channel.ready().await.unwrap().call(request).await.unwrap() };
    let answer = tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer");
    let status = tonic::Status::from_header_map(answer.headers());
    let status = status.expect("a refusal before any message");
    (status.code(), status.message().to_owned())
}

/// The five bytes before a message of so many, and nothing after them.
fn stops(size: u32) -> Pieces {
    let mut head = vec![0];
    head.extend(size.to_be_bytes());
    Box::pin(stream::iter([Bytes::from(head)]).chain(stream::pending()))
}

/// As above, and a byte now and then.
fn drips(size: u32) -> Pieces {
    let head = stops(size).take(1);
    Box::pin(head.chain(paced(1, 100, usize::MAX)))
}

/// Nothing ends these calls but what the test is about.
async fn patient() -> World {
    World::with(|config| {
        config.http.body_timeout_seconds = 600;
        config.http.request_timeout_seconds = 600;
    })
    .await
}

#[tokio::test]
async fn who_is_not_known_is_refused_before_the_message_came() {
    let world = patient().await;
    for method in [
        "JobService/SubmitJob",
        "UserService/CreateUser",
        "AgentService/SignUpload",
    ] {
        for token in [None, Some("x.y.z")] {
            let (code, words) = call(world.channel().await, method, (token, stops(900_000))).await;
            assert_eq!(code, Code::Unauthenticated, "{method}: {words}");
        }
    }
}

#[tokio::test]
async fn the_first_message_of_somebody_unknown_is_small() {
    let world = patient().await;
    for (method, size) in [
        ("AuthService/Login", 100_000),
        ("AuthService/Refresh", 100_000),
        ("AgentService/Join", 100_000),
        ("AgentService/Connect", 2_000_000),
    ] {
        let (code, words) = call(world.channel().await, method, (None, stops(size))).await;
        assert_eq!(code, Code::ResourceExhausted, "{method}: {words}");
        assert!(words.contains(&size.to_string()), "{method}: {words}");
    }
}

#[tokio::test]
async fn an_agent_that_shows_its_credential_in_the_header_may_have_much_to_tell() {
    let world = World::start().await;
    let token = world.join_token.clone();
    let credential = world.join_as(&token, ("n1", "id-of-n1")).await.unwrap();
    let mut first = hello(&world, "n1", 1);
    first.token.clear();
    first.labels = [("long".to_owned(), "x".repeat(2_000_000))].into();
    let frame = Some(Frame::Hello(first));
    let open = stream::iter([v1::ConnectRequest { frame }]).chain(stream::pending());
    let mut request = Request::new(open);
    let value = format!("Bearer {credential}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let mut client = AgentServiceClient::new(world.channel().await);
    let mut answers = client.connect(request).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn a_message_that_stops_or_drips_is_given_up() {
    let world = World::with(|config| {
        config.http.body_timeout_seconds = 1;
        config.http.request_timeout_seconds = 600;
    })
    .await;
    let method = "JobService/SubmitJob";
    let token = Some(world.token.as_str());
    let (code, words) = call(world.channel().await, method, (token, stops(1_000))).await;
    assert_eq!(code, Code::DeadlineExceeded, "{words}");
    assert!(words.contains("http.body_timeout_seconds"), "{words}");

    let world = World::with(|config| {
        config.http.body_timeout_seconds = 600;
        config.http.request_timeout_seconds = 1;
    })
    .await;
    let token = Some(world.token.as_str());
    let (code, words) = call(world.channel().await, method, (token, drips(1_000))).await;
    assert_eq!(code, Code::DeadlineExceeded, "{words}");
    assert!(words.contains("http.request_timeout_seconds"), "{words}");
}

/// Stores these pieces as a checkpoint by its signed link: status and words.
async fn stored(world: &World, pieces: Pieces) -> (u16, String) {
    let job = world.submit(&command()).await;
    let path = format!("/training/jobs/{job}/checkpoints/upload-url");
    let body =
        json!({"checkpoint_filename": "best.pt", "content_type": "application/octet-stream"});
    let (_, told) = world.post_json(&path, &body).await;
    let body = reqwest::Body::wrap_stream(pieces.map(Ok::<_, Infallible>));
    let put = world.http.put(told["upload_url"].as_str().unwrap());
    let answer = tokio::time::timeout(PATIENCE, put.body(body).send()).await;
    let answer = answer.expect("it is not held without end").unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A piece of so many bytes each so many milliseconds, and so many of them.
fn paced(bytes: usize, millis: u64, count: usize) -> Pieces {
    let piece = stream::unfold((), move |()| async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Some((Bytes::from(vec![0; bytes]), ()))
    });
    Box::pin(piece.take(count))
}

#[tokio::test]
async fn a_file_that_stops_or_drips_is_given_up_and_leaves_no_draft() {
    let world = World::with(|config| {
        config.http.body_timeout_seconds = 1;
        config.http.request_timeout_seconds = 600;
    })
    .await;
    let (status, words) = stored(&world, Box::pin(stream::pending())).await;
    assert_eq!(status, 400, "{words}");
    assert!(words.contains("paused for more than 1 s"), "{words}");
    // None of its pauses is too long.
    let (status, words) = stored(&world, paced(1, 100, usize::MAX)).await;
    assert_eq!(status, 400, "{words}");
    assert!(words.contains("too slow"), "{words}");
    until("its draft is gone", async || {
        let mut left = files(&world.data().join("artifacts"));
        left.retain(|path| !path.ends_with("best.pt"));
        left.is_empty().then_some(())
    })
    .await;
    // And one that takes longer in all, but sends.
    let (status, words) = stored(&world, paced(128 << 10, 300, 5)).await;
    assert_eq!(status, 200, "{words}");
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn one_caller_follows_no_more_streams_than_its_share() {
    let world = World::with(|config| config.limits.streams_per_caller = 2).await;
    let job_id = world.submit(&command()).await;
    let (_, other) = world.somebody("other", "manager").await;
    let mut admin = world.jobs().await;
    let mut follow = async || admin.watch_job(v1::WatchJobRequest { job_id }).await;
    let first = follow().await.unwrap();
    let _second = follow().await.unwrap();
    let refused = follow().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("limits.streams_per_caller"),
        "{refused}"
    );
    let mut others = world.jobs_of(&other).await;
    let theirs = others.watch_job(v1::WatchJobRequest { job_id }).await;
    assert!(theirs.is_ok(), "{theirs:?}");
    drop(first);
    let admin = tokio::sync::Mutex::new(world.jobs().await);
    until("a place is free again", async || {
        let mut admin = admin.lock().await;
        admin.watch_job(v1::WatchJobRequest { job_id }).await.ok()
    })
    .await;
}

#[tokio::test]
async fn one_address_registers_no_more_accounts_than_its_share_and_logs_in_all_the_same() {
    let world = World::with(|config| config.login.registrations_per_address = 2).await;
    let register = async |name: &str, password: &str| {
        let body = json!({"email": format!("{name}@example.org"), "password": password});
        let request = world.plain(Method::POST, "/auth/register").json(&body);
        request.send().await.unwrap()
    };
    // What is refused for its form costs nothing and does not count.
    assert_eq!(register("a", "short").await.status(), 422);
    for name in ["a", "b"] {
        assert_eq!(register(name, "correct horse").await.status(), 201);
    }
    let refused = register("c", "correct horse").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let words = refused.text().await.unwrap();
    assert!(words.contains("login.registrations_per_address"), "{words}");
    assert_eq!(world.login("a@example.org", "correct horse").await.0, 200);
    // An administrator makes as many as are needed.
    world.user("d@example.org", "guest").await;
}

/// HTTP/2's preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn a_connection_says_how_many_streams_it_takes() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(&world.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame holds settings");
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let streams = settings.chunks(6).find(|pair| pair[..2] == [0, 3]);
    let streams = streams.expect("SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(streams[2..], [0, 0, 1, 0]);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_cut_and_an_agent_that_is_silent_stays() {
    let world = World::with(|config| {
        config.server.header_timeout_seconds = 600;
        config.server.idle_timeout_seconds = 1;
        config.server.stall_timeout_seconds = 1;
    })
    .await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let mut stream = TcpStream::connect(&world.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    // GET / of x as stream 1; then nothing is said any more, and all that comes is taken.
    let ask = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x";
    stream.write_all(ask).await.unwrap();
    let mut said = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    closed.expect("it is cut").ok();
    assert!(!said.is_empty());
    world.submit(&command()).await;
    agent.start().await;
}
