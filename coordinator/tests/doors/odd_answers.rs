//! A Labeler that answers, and not what is wanted; and whose words it is that are remembered.

use reqwest::Method;
use serde_json::{Value, json};
use tests::{labeler::Mood, wait::until};

use crate::{
    datasets::{detail, snapshot_job},
    labels::Story,
};

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_asked_for_once_and_closes_nothing_for_others() {
    let story = Story::begin(|labeler| labeler.failures = 2).await;
    story.labeler.fares(Mood::Babbling);
    for _ in 0..3 {
        let (status, answer) = story.submit("7").await;
        assert_eq!(status, 503, "{answer}");
        assert!(
            detail(&answer).contains("the Labeler's answer cannot be read"),
            "{answer}"
        );
    }
    assert_eq!(story.labeler.asked("dataset"), 3);
    story.labeler.fares(Mood::Well);
    assert_eq!(story.submit("7").await.0, 200, "it was never left alone");
}

#[tokio::test]
async fn what_the_labeler_refuses_to_understand_is_the_callers_to_mend() {
    let story = Story::begin(|_| {}).await;
    for status in [400, 422] {
        story.labeler.fares(Mood::Failing(status));
        let (told, answer) = story.submit("7").await;
        assert_eq!(told, 400, "{answer}");
        let words = format!("dataset_id: is refused by the Labeler, which answered {status}");
        assert!(detail(&answer).contains(&words), "{answer}");
    }
    assert_eq!(story.labeler.asked("dataset"), 2, "it is not tried again");
}

#[tokio::test]
async fn a_user_is_listed_what_that_user_may_read() {
    let story = Story::begin(|_| {}).await;
    let (reader, token) = story.world.somebody("ada", "standard_engineer").await;
    let path = story.set.path().to_str().unwrap();
    let reader = reader.to_string();
    story.labeler.dataset("9", "imagefolder", path, &[&reader]);
    let listed = async |token: &str| -> Vec<Value> {
        let call = (Method::GET, "/datasets");
        let (status, page) = story.world.call(token, call, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        let rows = page["datasets"].as_array().unwrap().iter();
        rows.map(|row| row["id"].clone()).collect()
    };
    assert_eq!(listed(&token).await, [json!("9")]);
    assert_eq!(listed(&story.world.token).await, [json!("7")]);
}

#[tokio::test]
async fn what_is_remembered_of_a_dataset_is_asked_for_anew_when_its_time_is_up() {
    let story = Story::begin(|labeler| labeler.cache_seconds = 1).await;
    assert_eq!(story.submit("7").await.0, 200);
    until("the dataset is asked for again", async || {
        assert_eq!(story.submit("7").await.0, 200);
        (story.labeler.asked("dataset") > 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_document_that_lies_nowhere_is_told_with_the_setting_and_never_looked_for_on_this_disk() {
    let story = Story::begin(|_| {}).await;
    let fields = json!({"format": "dice", "storage_path": story.set.path(),
        "annotation_path": "elsewhere/annotations.json"});
    story.labeler.dataset_with("8", fields, &["1"]);
    let mut body = snapshot_job("8");
    body["config"]["task_type"] = json!("object_detection");
    let (status, answer) = story.world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 503, "{answer}");
    let words = "lie at 'elsewhere/annotations.json', which is none of its files and names no store; an administrator has to set labeler.storage_root";
    assert!(detail(&answer).contains(words), "{answer}");
}

#[tokio::test]
async fn a_document_elsewhere_is_bounded_as_those_among_the_files_are() {
    let story = Story::begin_with(|config| config.datasets.documents_mib = 1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let document = elsewhere.path().join("boxes.json");
    std::fs::write(&document, vec![b' '; (1 << 20) + 1]).unwrap();
    let fields = json!({"format": "dice", "storage_path": story.set.path(),
        "annotation_path": document});
    story.labeler.dataset_with("8", fields, &["1"]);
    let mut body = snapshot_job("8");
    body["config"]["task_type"] = json!("object_detection");
    let (status, answer) = story.world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 400, "{answer}");
    let words =
        "its annotation document is larger than the 1 MiB that are read (datasets.documents_mib)";
    assert!(detail(&answer).contains(words), "{answer}");
}
