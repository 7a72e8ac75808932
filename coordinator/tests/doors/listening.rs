//! The port itself: slow clients, too many of them, and what an encrypted one says to plain text.

use std::path::Path;

use serde_json::{Value, json};
use tests::wait::until;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};
use trainyard_coordinator::config::Config;
use trainyard_net::{
    ClientTls, Connection, Plain,
    pki::{self, Wanted},
};

use crate::world::{PATIENCE, World, command};

/// Reads until the other side closes, or panics when it does not in time.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text));
    // A reset is as good an end as any.
    read.await.expect("it is closed").ok();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_or_never_ends_its_header_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, |config| config.server.header_timeout_seconds = 1).await;
    let starts: [&[u8]; 4] = [
        b"",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    for start in starts {
        let mut stream = TcpStream::connect(&world.address).await.unwrap();
        stream.write_all(start).await.unwrap();
        until_closed(&mut stream).await;
    }
    assert_eq!(world.get("/health").await.0, 200);
}

#[tokio::test]
async fn beyond_the_bound_connections_are_closed_and_a_place_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::set_up(folder, |config| config.server.connections = 8).await;
    let mut held = Vec::new();
    let closed = async {
        loop {
            let mut stream = TcpStream::connect(&world.address).await.unwrap();
            let mut byte = [0];
            let soon = std::time::Duration::from_millis(200);
            match tokio::time::timeout(soon, stream.read(&mut byte)).await {
                Ok(_closed) => return,
                Err(_open) => held.push(stream),
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert!(held.len() <= 8, "{}", held.len());
    drop(held);
    let url = format!("http://{}/health", world.address);
    until("a place is free", async || reqwest::get(&url).await.ok()).await;
}

fn certificates(dir: &Path) -> pki::Folder {
    let micros = trainyard_coordinator::clock::now().0;
    let wanted = Wanted {
        hosts: vec!["127.0.0.1".to_owned()],
        agents: Vec::new(),
        days: 1,
        force: false,
        new_ca: false,
        now: std::time::Duration::from_micros(u64::try_from(micros).unwrap()),
    };
    pki::init(dir, &wanted).unwrap()
}

/// A coordinator that speaks TLS.
struct Encrypted {
    address: String,
    connection: Connection,
    _stop: tokio::sync::oneshot::Sender<()>,
    _running: tokio::task::JoinSet<Result<(), trainyard_coordinator::boot::BootError>>,
    _folder: tempfile::TempDir,
}

impl Encrypted {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = certificates(&folder.path().join("tls"));
        let mut config = Config::load(None, []).unwrap();
        config.server.listen = "127.0.0.1:0".parse().unwrap();
        config.store.data_dir = folder.path().join("data");
        config.store.reserve_mib = 0;
        config.tls.cert = made.server.cert;
        config.tls.key = made.server.key;
        change(&mut config);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let ready = folder.path().join("ready.json");
        let options = trainyard_coordinator::boot::CoordinatorOptions {
            config,
            dev: true,
            ready_file: Some(ready.clone()),
        };
        let mut running = tokio::task::JoinSet::new();
        running.spawn(trainyard_coordinator::boot::run(options, async {
            stopped.await.ok();
        }));
        let said = crate::world::ready(&ready, &mut running).await;
        let address = said["address"].as_str().unwrap().to_owned();
        let url = format!("https://{address}");
        assert_eq!(said["url"], url);
        let tls = ClientTls {
            ca: Some(made.ca.cert),
            ..ClientTls::default()
        };
        Self {
            address,
            connection: Connection::new(&url, tls, Plain::Loopback).unwrap(),
            _stop: stop,
            _running: running,
            _folder: folder,
        }
    }
}

#[tokio::test]
async fn plain_text_on_an_encrypted_port_is_told_so_and_a_handshake_that_stops_is_closed() {
    let port = Encrypted::start(|config| config.server.handshake_timeout_seconds = 1).await;
    let address = port.address.as_str();
    let mut plain = TcpStream::connect(address).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    plain.write_all(request).await.unwrap();
    let answer = until_closed(&mut plain).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("https://"), "{answer}");

    let mut stops = TcpStream::connect(address).await.unwrap();
    stops
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00")
        .await
        .unwrap();
    until_closed(&mut stops).await;

    port.connection.connect().await.unwrap();
    let http = port.connection.http().unwrap().build().unwrap();
    let answer = http
        .get(format!("https://{address}/health"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    assert!(answer.status().is_success());
}

/// What a request is answered over HTTP/2.
async fn over_http2(channel: &mut Channel, request: http::request::Builder, body: String) -> Value {
    let request = request.body(tonic::body::Body::new(body)).unwrap();
    let answer = channel.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert!(answer.status().is_success(), "{}", answer.status());
    let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1 << 20);
    serde_json::from_slice(&body.await.unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn an_upload_link_leads_back_the_way_it_was_asked_for() {
    let port = Encrypted::start(|_| ()).await;
    let http = port.connection.http().unwrap().build().unwrap();
    let api = format!("https://{}/api/v1", port.address);
    let form = [("username", "admin@example.com"), ("password", "admin123")];
    let login = http.post(format!("{api}/auth/login")).form(&form).send();
    let tokens: Value = login.await.unwrap().json().await.unwrap();
    let token = tokens["access_token"].as_str().unwrap();
    let submit = http.post(format!("{api}/training/jobs")).json(&command());
    let job = submit.bearer_auth(token).send().await.unwrap();
    let job: Value = job.json().await.unwrap();
    let path = format!("/training/jobs/{}/checkpoints/upload-url", job["id"]);
    let wanted = |name: &str| json!({"checkpoint_filename": name});

    let ask = http.post(format!("{api}{path}")).json(&wanted("one.pt"));
    let told = ask.bearer_auth(token).send().await.unwrap();
    assert_eq!(told.version(), reqwest::Version::HTTP_11);
    let told: Value = told.json().await.unwrap();
    let link = told["upload_url"].as_str().unwrap();
    assert!(link.starts_with(&api), "{link}");
    let put = http.put(link).body("one").send().await.unwrap();
    assert_eq!(put.status(), 200);

    // Where there is no header `Host`.
    let mut channel = port.connection.connect().await.unwrap();
    let ask = http::Request::post(format!("/api/v1{path}"));
    let ask = ask.header("authorization", format!("Bearer {token}"));
    let told = over_http2(&mut channel, ask, wanted("two.pt").to_string()).await;
    let link = told["upload_url"].as_str().unwrap();
    assert!(link.starts_with(&api), "{link}");
    over_http2(&mut channel, http::Request::put(link), "two".to_owned()).await;
    let stored = http.get(format!("{api}/training/jobs/{}/checkpoints", job["id"]));
    let stored = stored.bearer_auth(token).send().await.unwrap();
    let stored: Value = stored.json().await.unwrap();
    assert_eq!(stored["checkpoints"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn those_who_never_say_hello_take_no_place_from_those_who_do() {
    let port = Encrypted::start(|config| {
        config.server.handshakes = 1;
        config.server.handshake_timeout_seconds = 600;
    })
    .await;
    let mut held = Vec::new();
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut stream = TcpStream::connect(&port.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        held.push(stream);
    }
    let connected = tokio::time::timeout(PATIENCE, port.connection.connect()).await;
    connected.expect("there is a place").unwrap();
    assert_eq!(held.len(), 3);
}
