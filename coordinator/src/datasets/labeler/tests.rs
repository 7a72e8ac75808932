//! What a client of the Labeler does by itself, without one that answers.

use serde_json::json;

use super::*;
use crate::config::{Config, LabelerConfig};

fn config(url: &str) -> LabelerConfig {
    let mut config = Config::load(None, []).unwrap().labeler;
    url.clone_into(&mut config.url);
    config.failures = 2;
    config
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

#[tokio::test]
async fn one_that_is_silent_is_given_up_in_time_and_counts_as_failing() {
    // Connections come about, and nobody takes them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut labeler = Labeler::new(&config(&url)).unwrap();
    labeler.total = Duration::from_millis(50);
    for words in ["within 50ms", "within 50ms", "again and again"] {
        let asking = tokio::time::timeout(CONNECT, labeler.dataset("7", 1));
        let told = asking.await.expect("in time").unwrap_err();
        assert_eq!(told.kind, Kind::Unavailable);
        assert!(told.message.contains(words), "{}", told.message);
    }
}
