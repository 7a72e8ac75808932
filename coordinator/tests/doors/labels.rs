//! Datasets of a Labeler: a real server that checks each service token, and fares as a story wants.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    labeler::{Labeler, Mood},
    wait::until,
};

use trainyard_coordinator::config::{Config, LabelerConfig};
use trainyard_proto::v1::{self, dataset_service_client::DatasetServiceClient};

use crate::{
    datasets::{folders, snapshot_job},
    world::World,
};

/// A Labeler with one dataset that the development user may read, and a coordinator that asks it.
pub(crate) struct Story {
    pub(crate) labeler: Labeler,
    pub(crate) world: World,
    pub(crate) set: TempDir,
}

impl Story {
    pub(crate) async fn begin(change: impl FnOnce(&mut LabelerConfig)) -> Self {
        Self::begin_with(|config| change(&mut config.labeler)).await
    }

    /// With any settings.
    pub(crate) async fn begin_with(change: impl FnOnce(&mut Config)) -> Self {
        let set = tempfile::tempdir().unwrap();
        folders(set.path(), 5);
        let labeler = Labeler::start(&[
            ("old", "secret-of-last-year"),
            ("new", "secret-of-this-year"),
        ])
        .await;
        labeler.dataset("7", "imagefolder", set.path().to_str().unwrap(), &["1"]);
        let url = labeler.url();
        let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
            config.datasets.provider = trainyard_coordinator::config::Provider::Labeler;
            config.labeler.url = url;
            config.labeler.secret =
                trainyard_coordinator::config::Secret::new("secret-of-this-year".to_owned());
            config.labeler.kid = "new".to_owned();
            change(config);
        });
        let world = world.await;
        Self {
            labeler,
            world,
            set,
        }
    }

    pub(crate) async fn submit(&self, id: &str) -> (u16, Value) {
        self.world
            .post_json("/training/jobs", &snapshot_job(id))
            .await
    }
}

fn detail(words: &str) -> Value {
    json!({"detail": words})
}

#[tokio::test]
async fn a_dataset_of_the_labeler_makes_a_snapshot_and_its_format_counts() {
    let story = Story::begin(|_| {}).await;
    let mut body = snapshot_job("7");
    body["config"]["dataset_format"] = json!("yolo");
    let (status, job) = story.world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 200, "{job}");
    assert_eq!(
        (&job["dataset_format"], &job["dataset_path"]),
        (&json!("imagefolder"), &json!("7"))
    );
    assert!(job["dataset_snapshot_id"].is_string());
    assert_eq!(story.labeler.refused(), Vec::<String>::new());
    let (_, health) = story.world.get("/health").await;
    assert_eq!(health["labeler"], "healthy");
    let (_, listed) = story.world.get("/datasets").await;
    assert_eq!(listed["datasets"][0]["id"], "7", "{listed}");
    let add = json!({"id": "x", "storage_path": story.set.path()});
    assert_eq!(story.world.post_json("/datasets", &add).await.0, 400);
}

#[tokio::test]
async fn each_refusal_has_the_words_of_the_contract() {
    let story = Story::begin(|_| {}).await;
    story.labeler.dataset("8", "imagefolder", "/nowhere", &[]);
    let not_found = detail("Dataset 'nope' not found in Labeler");
    assert_eq!(story.submit("nope").await, (404, not_found));
    assert_eq!(
        story.submit("8").await,
        (403, detail("Access denied to dataset '8'"))
    );
    for odd in ["..", ".", "a/b", "7?x=1", "7#x"] {
        assert_eq!(story.submit(odd).await.0, 404, "{odd}");
    }
    assert_eq!(story.world.get("/training/jobs").await.1["jobs"], json!([]));
}

#[tokio::test]
async fn whatever_goes_wrong_with_a_permission_is_a_denial() {
    let story = Story::begin(|_| {}).await;
    let denied = (403, detail("Access denied to dataset '7'"));
    for status in [401, 403, 404, 418, 500, 503] {
        story.labeler.fares(Mood::NoPermissions(status));
        assert_eq!(story.submit("7").await, denied, "{status}");
        story.labeler.fares(Mood::Well);
        assert_eq!(story.submit("7").await.0, 200, "{status}");
    }
}

#[tokio::test]
async fn metadata_is_remembered_and_a_permission_is_asked_for_each_time() {
    let story = Story::begin(|_| {}).await;
    for _ in 0..3 {
        assert_eq!(story.submit("7").await.0, 200);
    }
    assert_eq!(
        (
            story.labeler.asked("dataset"),
            story.labeler.asked("permission")
        ),
        (1, 3)
    );
    story.labeler.forbid("7");
    assert_eq!(
        story.submit("7").await.0,
        403,
        "a withdrawn permission counts at once"
    );
}

#[tokio::test]
async fn what_one_user_is_told_or_refused_decides_nothing_for_another() {
    let story = Story::begin(|_| {}).await;
    let (reader, token) = story.world.somebody("ada", "standard_engineer").await;
    let (stranger, other) = story.world.somebody("bob", "standard_engineer").await;
    let path = story.set.path().to_str().unwrap();
    story
        .labeler
        .dataset("9", "imagefolder", path, &[&reader.to_string()]);
    story.labeler.hide("9", &stranger.to_string());
    // Both ask before either is answered.
    story.labeler.fares(Mood::Slow(Duration::from_millis(300)));
    let submit = |token| {
        let call = (reqwest::Method::POST, "/training/jobs");
        story.world.call(token, call, snapshot_job("9"))
    };
    let denied = (403, detail("Access denied to dataset '9'"));
    let (refused, taken) = tokio::join!(submit(&other), submit(&token));
    assert_eq!((refused, taken.0), (denied.clone(), 200), "{}", taken.1);
    // What was told to the one is remembered for the one.
    story.labeler.fares(Mood::Well);
    assert_eq!(submit(&other).await, denied);
    let (status, shown) = story
        .world
        .call(&other, (reqwest::Method::GET, "/datasets/9"), Value::Null)
        .await;
    assert_eq!(status, 403, "{shown}");
    assert_eq!(submit(&token).await.0, 200);
}

#[tokio::test]
async fn snapshots_are_shown_to_those_whom_the_labeler_lets_read_their_dataset() {
    let story = Story::begin(|_| {}).await;
    let path = story.set.path().to_str().unwrap();
    let (reader, token) = story.world.somebody("ada", "advanced_engineer").await;
    story
        .labeler
        .dataset("9", "imagefolder", path, &["1", &reader.to_string()]);
    let mut made = Vec::new();
    for dataset in ["7", "9"] {
        let (status, job) = story.submit(dataset).await;
        assert_eq!(status, 200, "{job}");
        made.push(job["dataset_snapshot_id"].as_str().unwrap().to_owned());
    }
    let call = async |method: reqwest::Method, path: &str| {
        story.world.call(&token, (method, path), Value::Null).await
    };
    let asked = story.labeler.asked("permission");
    let (status, listed) = call(reqwest::Method::GET, "/snapshots").await;
    let shown: Vec<_> = listed["snapshots"].as_array().unwrap().iter().collect();
    assert_eq!((status, shown.len()), (200, 1), "{listed}");
    assert_eq!(shown[0]["snapshot_id"], json!(made[1]));
    assert_eq!(story.labeler.asked("permission") - asked, 2);
    let denied = (403, detail("Access denied to dataset '7'"));
    let hidden = format!("/snapshots/{}", made[0]);
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        assert_eq!(call(method, &hidden).await, denied);
    }
    let seen = format!("/snapshots/{}", made[1]);
    assert_eq!(call(reqwest::Method::GET, &seen).await.0, 200);

    let mut request = tonic::Request::new(v1::ListSnapshotsRequest::default());
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let mut datasets = DatasetServiceClient::new(story.world.channel().await);
    let listed = datasets.list_snapshots(request).await.unwrap().into_inner();
    let shown: Vec<_> = listed
        .snapshots
        .iter()
        .map(|row| &row.snapshot_id)
        .collect();
    assert_eq!(shown, [&made[1]]);
    // An administrator may clean up what the Labeler shows to nobody.
    story.labeler.forbid("7");
    assert_eq!(story.world.get(&hidden).await, denied);
    let request = story.world.plain(reqwest::Method::DELETE, &hidden);
    let request = request.bearer_auth(&story.world.token);
    let (status, answer) = story.world.send(request).await;
    // Not for the permission: a job waits for it.
    let words = answer["detail"].as_str().unwrap();
    assert!(status == 400 && words.contains("is what job"), "{words}");
}

#[tokio::test]
async fn a_failure_is_tried_again_and_an_unreachable_labeler_is_503() {
    let mut story = Story::begin(|labeler| labeler.failures = 1_000).await;
    story.labeler.fares(Mood::Failing(500));
    let (status, answer) = story.submit("7").await;
    assert_eq!(status, 503, "{answer}");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("the Labeler cannot be reached"),
        "{answer}"
    );
    assert_eq!(
        story.labeler.asked("dataset"),
        3,
        "one call and two repetitions"
    );
    story.labeler.fares(Mood::Failing(404));
    assert_eq!(story.submit("7").await.0, 404);
    assert_eq!(
        story.labeler.asked("dataset"),
        4,
        "an answer is not asked for again"
    );
    // Also where its metadata is known from before, so that only the permission is asked for.
    story.labeler.fares(Mood::Well);
    assert_eq!(story.submit("7").await.0, 200);
    story.labeler.down().await;
    let (status, answer) = story.submit("7").await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(story.world.get("/health").await.1["labeler"], "unreachable");
    story.labeler.up().await;
    story.labeler.fares(Mood::Slow(Duration::from_millis(20)));
    assert_eq!(story.submit("7").await.0, 200);
}

#[tokio::test]
async fn a_labeler_that_fails_again_and_again_is_left_alone_until_its_time_is_up() {
    let story = Story::begin(|labeler| {
        labeler.failures = 2;
        labeler.open_seconds = 1;
        labeler.cache_seconds = 1;
    });
    let story = story.await;
    story.labeler.fares(Mood::Failing(503));
    for _ in 0..2 {
        assert_eq!(story.submit("7").await.0, 503);
    }
    let asked = story.labeler.asked("dataset");
    assert_eq!(asked, 6);
    let (status, answer) = story.submit("7").await;
    assert_eq!(status, 503);
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("again and again"),
        "{answer}"
    );
    story.labeler.fares(Mood::Well);
    until("the Labeler is tried again", async || {
        (story.submit("7").await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn both_secrets_are_good_while_they_are_exchanged_and_a_wrong_one_is_told() {
    let old = Story::begin(|labeler| {
        labeler.kid = "old".to_owned();
        labeler.secret =
            trainyard_coordinator::config::Secret::new("secret-of-last-year".to_owned());
    });
    assert_eq!(old.await.submit("7").await.0, 200);
    let wrong = Story::begin(|labeler| labeler.kid = "old".to_owned()).await;
    let (status, answer) = wrong.submit("7").await;
    assert_eq!(status, 503);
    let words = answer["detail"].as_str().unwrap();
    assert!(
        words.contains("labeler.secret") && !words.contains("secret-of"),
        "{words}"
    );
    assert_eq!(wrong.labeler.refused(), ["Invalid service token"]);
}

fn sign(claims: &Value, kid: &str, secret: &str) -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(kid.to_owned());
    encode(
        &header,
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .unwrap()
}

#[tokio::test]
async fn the_test_server_itself_refuses_what_the_contract_refuses() {
    let story = Story::begin(|_| {}).await;
    let now = trainyard_coordinator::clock::now().0 / 1_000_000;
    let good = json!({
        "sub": "1", "iat": now, "nbf": now, "exp": now + 300, "service": "platform",
        "scopes": ["labeler:read"], "type": "service",
    });
    let changed = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        claims
    };
    let right = "secret-of-this-year";
    let invalid = "Invalid service token";
    for (token, status, words) in [
        (sign(&good, "new", right), 200, ""),
        (
            sign(&changed("exp", json!(now - 1)), "new", right),
            401,
            "Service token expired",
        ),
        (
            sign(&changed("scopes", json!(["models:read"])), "new", right),
            403,
            "Insufficient scope: labeler:read is needed",
        ),
        (
            sign(&changed("type", json!("access")), "new", right),
            401,
            invalid,
        ),
        (
            sign(&changed("aud", json!("x")), "new", right),
            401,
            invalid,
        ),
        (sign(&good, "other", right), 401, invalid),
        (sign(&good, "new", "wrong"), 401, invalid),
        (story.world.token.clone(), 401, invalid),
    ] {
        let url = format!("{}/api/v1/platform/datasets/7", story.labeler.url());
        let answer = story
            .world
            .http
            .get(url)
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{words}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            body.get("detail")
                .and_then(Value::as_str)
                .unwrap_or_default(),
            words
        );
    }
}

#[tokio::test]
async fn however_often_anyone_asks_for_health_the_labeler_is_hardly_asked() {
    let story = Story::begin(|_| {}).await;
    let asked = (0..50).map(async |_| story.world.get("/health").await.1);
    for health in futures::future::join_all(asked).await {
        assert_eq!(health["labeler"], "healthy");
    }
    // A machine that is so busy that this takes longer may ask once more.
    assert!(story.labeler.asked("health") <= 5);
}

#[tokio::test]
async fn a_cursor_that_the_labelers_pages_do_not_have_is_named_where_it_stands() {
    let story = Story::begin(|_| ()).await;
    let (status, answer) = story.world.get("/datasets?cursor=b").await;
    assert_eq!(status, 422, "{answer}");
    let entry = &answer["detail"][0];
    assert_eq!(entry["loc"], json!(["query", "cursor"]));
    assert_eq!(entry["input"], "b");
    let words = "is not a token of an earlier page; leave it out for the first page";
    assert_eq!(entry["msg"], words);
    assert_eq!(story.world.get("/datasets?cursor=1").await.0, 200);
}
