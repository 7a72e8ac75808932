//! What a client of the Labeler does by itself, without one that answers.

use serde_json::json;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::*;
use crate::config::{Config, LabelerConfig};

fn config(url: &str) -> LabelerConfig {
    let mut config = Config::load(None, []).unwrap().labeler;
    url.clone_into(&mut config.url);
    config.failures = 2;
    config
}

fn url_of(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_relative_document_lies_below_the_root_or_in_the_bucket_of_its_dataset_and_never_on_this_disk()
{
    let full = |root: &str, storage: &str, annotation: &str| {
        let mut config = config("http://127.0.0.1:8011");
        config.storage_root = root.to_owned();
        let told = json!({"id": 7, "storage_path": storage, "annotation_path": annotation});
        let told: Told = serde_json::from_value(told).unwrap();
        let named = Labeler::new(&config).unwrap().document(&told);
        named.and_then(|named| named.full)
    };
    for (root, storage, annotation, lies) in [
        (
            "s3://root/",
            "datasets/7",
            "x/a.json",
            Some("s3://root/x/a.json"),
        ),
        (
            "",
            "s3://sets/datasets/7",
            "x/a.json",
            Some("s3://sets/x/a.json"),
        ),
        ("", "gs://sets", "a.json", Some("gs://sets/a.json")),
        (
            "",
            "s3://sets/7",
            "s3://other/a.json",
            Some("s3://other/a.json"),
        ),
        ("", "/data/7", "x/a.json", None),
        ("", "https://host/7", "x/a.json", None),
        ("", "datasets/7", "etc/a.json", None),
    ] {
        let found = full(root, storage, annotation);
        assert_eq!(found.as_deref(), lies, "{root} {storage} {annotation}");
    }
}

/// A listener that takes no connection: its queue is full, so further ones are not answered.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(CONNECT, TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100, "its queue has no end");
    }
    (listener, waiting)
}

/// What it tells of a dataset, and the seconds until then.
async fn asked(labeler: &Labeler) -> (ApiError, f64) {
    let start = Instant::now();
    let told = labeler.dataset("7", 1).await.unwrap_err();
    assert_eq!(told.kind, Kind::Unavailable);
    (told, start.elapsed().as_secs_f64())
}

// In these two, time passes only while nothing else is to be done: hours of waiting take none, and what is measured
// is exactly what was waited for.

#[tokio::test(start_paused = true)]
async fn one_that_is_silent_is_given_up_after_30_seconds_and_counts_as_failing() {
    // Connections come about, and nobody takes them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let labeler = Labeler::new(&config(&url_of(&silent))).unwrap();
    for _ in 0..2 {
        let (told, seconds) = asked(&labeler).await;
        assert!(told.message.contains("within 30s"), "{}", told.message);
        assert!((29.9..30.1).contains(&seconds), "{seconds}");
    }
    let (told, seconds) = asked(&labeler).await;
    assert!(told.message.contains("again and again"), "{}", told.message);
    assert!(seconds < 0.1, "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_no_connection_is_tried_three_times_for_5_seconds_each() {
    let (listener, _waiting) = full().await;
    let labeler = Labeler::new(&config(&url_of(&listener))).unwrap();
    let (told, seconds) = asked(&labeler).await;
    assert!(
        told.message.contains("cannot be reached"),
        "{}",
        told.message
    );
    // Two pauses of 0.1 to 0.4 s with jitter lie between the three.
    assert!((15.2..16.0).contains(&seconds), "{seconds}");
}
