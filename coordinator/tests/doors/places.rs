//! Places that nobody may name, lists without an end, documents that are too large, and files that nobody
//! knows.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    http::{Method as Verb, Request, StatusCode},
    response::{IntoResponse as _, Response},
};
use reqwest::Method;
use serde_json::{Value, json};
use tests::wait::until;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    agent::Agent,
    datasets::{add, detail, folders, snapshot_job, snapshot_of},
    world::World,
};

async fn register(world: &World, token: &str, path: &str) -> (u16, Value) {
    let body = json!({"id": "x", "storage_path": path, "format": "imagefolder"});
    world.call(token, (Method::POST, "/datasets"), body).await
}

#[tokio::test]
async fn the_systems_folders_and_the_coordinators_own_are_refused_whatever_the_roots_say() {
    let (outer, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let artifacts = elsewhere.path().join("artifacts");
    let named = artifacts.display().to_string();
    let world = World::set_up(outer, |config| {
        config.datasets.local_roots = "/".to_owned();
        config.storage.artifacts = named;
    });
    let world = world.await;
    for path in [
        "/proc",
        "/proc/self",
        "/sys/kernel",
        "/dev",
        "/etc",
        "/etc/ssl/../ssl",
        "/run",
        "file:///etc",
    ] {
        let (status, answer) = register(&world, &world.token, path).await;
        assert_eq!(status, 400, "{path}: {answer}");
        assert!(
            detail(&answer).contains("belongs to the system"),
            "{path}: {answer}"
        );
    }
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    let (_, answer) = register(&world, &world.token, link.to_str().unwrap()).await;
    assert!(
        detail(&answer).contains("belongs to the system"),
        "{answer}"
    );
    for path in [
        world.data(),
        artifacts.clone(),
        artifacts.join("snapshots"),
        "/".into(),
    ] {
        fs::create_dir_all(&path).unwrap();
        let (status, answer) = register(&world, &world.token, path.to_str().unwrap()).await;
        assert_eq!(status, 400, "{answer}");
        assert!(
            detail(&answer).contains("coordinator's own data"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn the_bucket_of_the_artifacts_is_no_dataset_nor_what_holds_it_or_lies_in_it() {
    let world = World::with(|config| {
        config.storage.artifacts = "s3://own/train/files".to_owned();
        let options = "endpoint=http://127.0.0.1:9 region=x access_key_id=x secret_access_key=x";
        let options = trainyard_coordinator::config::Secret::new(options.to_owned());
        config.storage_options = [("s3".to_owned(), options)].into();
    })
    .await;
    for (path, told) in [
        ("s3://own", true),
        ("s3://own/train/", true),
        ("s3a://own/train/files", true),
        ("s3://own/train/files/checkpoints/7", true),
        ("s3://own/train/sets", false),
        ("s3://others/train/files", false),
    ] {
        let (status, answer) = register(&world, &world.token, path).await;
        let words = detail(&answer).contains("coordinator's own data");
        assert_eq!((status == 400, words), (told, told), "{path}: {answer}");
        let removed = (Method::DELETE, "/datasets/x");
        world.call(&world.token, removed, Value::Null).await;
    }
}

#[tokio::test]
async fn without_roots_only_administrators_register_folders_and_with_them_engineers_below() {
    let set = tempfile::tempdir().unwrap();
    folders(&set.path().join("inside"), 2);
    let inside = set.path().join("inside").display().to_string();
    let free = World::start().await;
    for (role, status) in [
        ("standard_engineer", 403),
        ("advanced_engineer", 403),
        ("manager", 403),
        ("admin", 200),
    ] {
        let (_, token) = free.somebody(&format!("an-{role}"), role).await;
        let (told, answer) = register(&free, &token, &inside).await;
        assert_eq!(told, status, "{role}: {answer}");
        if matches!(role, "advanced_engineer" | "manager") {
            assert!(detail(&answer).contains("datasets.local_roots"), "{answer}");
            // A path that is not there is not told from one that is.
            let (_, other) = register(&free, &token, "/nowhere").await;
            assert_eq!(other, answer);
        }
    }
    let roots = set.path().display().to_string();
    let world = World::with(|config| config.datasets.local_roots = roots).await;
    let (_, token) = world.somebody("ada", "advanced_engineer").await;
    assert_eq!(register(&world, &token, &inside).await.0, 200);
    let (status, answer) = register(&world, &token, "/tmp").await;
    assert_eq!(status, 400, "{answer}");
}

/// A web server; it ends with this.
struct Web {
    url: String,
    _serving: JoinSet<()>,
}

async fn web(answer: impl Fn(Request<Body>) -> Response + Clone + Send + Sync + 'static) -> Web {
    let router = Router::new().fallback(move |request: Request<Body>| {
        let answer = answer.clone();
        async move { answer(request) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/set", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Web {
        url,
        _serving: serving,
    }
}

async fn reader_of_loopback(max_files: u32) -> World {
    let world = World::with(|config| {
        config.datasets.allow_private_urls = "127.0.0.0/8".to_owned();
        config.datasets.max_files = max_files;
    });
    world.await
}

fn is_list(request: &Request<Body>) -> bool {
    *request.method() == Verb::from_bytes(b"PROPFIND").unwrap()
}

#[tokio::test]
async fn a_web_servers_list_without_an_end_is_cut_off_and_the_way_out_is_named() {
    let server = web(|request| {
        if !is_list(&request) {
            return StatusCode::NOT_FOUND.into_response();
        }
        let piece = tokio_util::bytes::Bytes::from(vec![b' '; 1 << 20]);
        let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
        (StatusCode::MULTI_STATUS, Body::from_stream(endless)).into_response()
    })
    .await;
    let world = reader_of_loopback(10).await;
    let (status, answer) = register(&world, &world.token, &server.url).await;
    assert_eq!(status, 200, "its format was said: {answer}");
    let (status, answer) = world.post_json("/training/jobs", &snapshot_job("x")).await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        detail(&answer).contains("is longer than 67108864 bytes; keep a files.txt there"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_files_txt_with_too_many_lines_or_one_twice_is_refused() {
    let server = web(|request| match request.uri().path() {
        "/set/files.txt" => "a/1.png\na/2.png\nb/1.png\na/1.png\n".into_response(),
        _ if is_list(&request) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => "an image".into_response(),
    })
    .await;
    for (most, words) in [(3, "more than 3 files"), (4, "names 'a/1.png' twice")] {
        let world = reader_of_loopback(most).await;
        register(&world, &world.token, &server.url).await;
        let (status, answer) = world.post_json("/training/jobs", &snapshot_job("x")).await;
        assert_eq!(status, 400, "{answer}");
        assert!(detail(&answer).contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_tag_of_a_web_server_counts_only_for_a_file_that_was_not_changed_just_now() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    };
    let (fresh, fetched) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (now, gets) = (Arc::clone(&fresh), Arc::clone(&fetched));
    let server = web(move |request| {
        if is_list(&request) {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        if request.uri().path() == "/set/files.txt" {
            return "cat/1.png\ndog/1.png\ncat/2.png\ndog/2.png".into_response();
        }
        if request.method() == Verb::GET {
            gets.fetch_add(1, Ordering::Relaxed);
        }
        // A day in the future is as good as now, however long the test takes.
        let modified = match now.load(Ordering::Relaxed) {
            true => "Fri, 01 Jan 2100 00:00:00 GMT",
            false => "Wed, 01 Jan 2020 00:00:00 GMT",
        };
        let headers = [("etag", "\"1-2\""), ("last-modified", modified)];
        (headers, "an image").into_response()
    })
    .await;
    let world = reader_of_loopback(10).await;
    register(&world, &world.token, &server.url).await;
    let submit = async |count: u32, why: &str| {
        let before = fetched.load(Ordering::Relaxed);
        snapshot_of(&world, &snapshot_job("x")).await;
        assert_eq!(fetched.load(Ordering::Relaxed) - before, count, "{why}");
    };
    submit(4, "it was never read").await;
    submit(4, "it may have changed within the tick of its tag").await;
    fresh.store(false, Ordering::Relaxed);
    submit(4, "its stamp is another").await;
    submit(0, "what is old and has the same tag is the same").await;
}

#[tokio::test]
async fn annotation_documents_are_bounded_together_before_any_is_read() {
    let set = tempfile::tempdir().unwrap();
    fs::create_dir_all(set.path().join("annotations")).unwrap();
    for part in ["train", "val"] {
        let path = set
            .path()
            .join(format!("annotations/instances_{part}.json"));
        fs::write(path, vec![b' '; 600 << 10]).unwrap();
    }
    let world = World::with(|config| config.datasets.documents_mib = 1).await;
    let body = json!({"id": "x", "storage_path": set.path(), "format": "coco"});
    assert_eq!(world.post_json("/datasets", &body).await.0, 200);
    let mut job = snapshot_job("x");
    job["config"]["task_type"] = json!("object_detection");
    let (status, answer) = world.post_json("/training/jobs", &job).await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        detail(&answer).contains("its 2 annotation documents are 2 MiB together; at most 1 MiB"),
        "{answer}"
    );
}

/// Makes a file as old as two days.
fn aged(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(two_days_ago()).unwrap();
}

pub(crate) fn two_days_ago() -> SystemTime {
    let at = SystemTime::UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(2 * 86_400);
    SystemTime::UNIX_EPOCH + at
}

#[tokio::test]
async fn what_nobody_knows_is_removed_at_the_start_when_it_is_a_day_old() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 3);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let known = snapshot_of(&world, &snapshot_job("pets")).await;
    let artifacts = world.data().join("artifacts");
    let mut agent = Agent::join(&world, "n1", 4).await;
    let live = agent.run().await.task.unwrap();
    let live = format!("uploads/{}/{}-0-last.pt", live.job_id, live.attempt);
    let folder = world.stop().await;
    let at = |name: &str| artifacts.join(name);
    fs::create_dir_all(at("uploads/8")).unwrap();
    let empty = fs::File::open(at("uploads/8")).unwrap();
    empty.set_modified(two_days_ago()).unwrap();
    for name in [
        "uploads/7000/1-0-last.pt",
        &live,
        "snapshots/snap_0000000000aa/manifest.jsonl",
        "snapshots/snap_0000000000aa/parts.json",
        "snapshots/snap_0000000000bb/manifest.jsonl",
        &format!("snapshots/{known}/metadata.json"),
        &format!("snapshots/{known}/manifest.jsonl"),
        ".drafts/of-yesterday",
        "checkpoints/7/best.pt",
    ] {
        aged(&at(name));
    }
    // One that is being made has a young file.
    fs::write(at("snapshots/snap_0000000000bb/parts.json"), "x").unwrap();
    fs::write(at(".drafts/of-today"), "x").unwrap();
    fs::create_dir_all(at("uploads/7001")).unwrap();
    fs::write(at("uploads/7001/1-0-last.pt"), "x").unwrap();
    let world = World::on(folder).await;
    until("what nobody knows is gone", async || {
        let gone = ["manifest.jsonl", "parts.json"]
            .iter()
            .all(|name| !at("snapshots/snap_0000000000aa").join(name).exists());
        let others = [
            ".drafts/of-yesterday",
            // Whoever was bringing it begins anew.
            ".drafts/of-today",
            "uploads/7000/1-0-last.pt",
            "uploads/8",
        ];
        (gone && others.iter().all(|name| !at(name).exists())).then_some(())
    })
    .await;
    for name in [
        "snapshots/snap_0000000000bb/manifest.jsonl",
        "snapshots/snap_0000000000bb/parts.json",
        &format!("snapshots/{known}/metadata.json"),
        &format!("snapshots/{known}/manifest.jsonl"),
        "checkpoints/7/best.pt",
        "uploads/7001/1-0-last.pt",
        &live,
    ] {
        assert!(at(name).exists(), "{name}");
    }
    world.stop().await;
}
