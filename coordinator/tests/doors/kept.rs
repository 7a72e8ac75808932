//! What is kept of datasets and snapshots, and what becomes of a dataset that is not as it was.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
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
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    agent::Agent,
    datasets::{add, changed, detail, folders, manifest, snapshot_job, snapshot_of},
    places::two_days_ago,
    world::World,
};

fn beside(world: &World, snapshot: &str, name: &str) -> PathBuf {
    let kept = world.data().join("artifacts/snapshots").join(snapshot);
    kept.join(name)
}

#[tokio::test]
async fn what_lies_beside_a_snapshot_that_is_reused_is_mended() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 5);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let mut body = snapshot_job("pets");
    body["config"]["split_strategy"] = json!({"method": "custom", "custom_splits":
        {"cat/0000.png": "val", "dog/0000.png": "val"}});
    let first = snapshot_of(&world, &body).await;
    for name in ["manifest.jsonl", "parts.json", "metadata.json"] {
        let path = beside(&world, &first, name);
        let content = fs::read(&path).unwrap();
        let mut other = content.clone();
        let last = other.len() / 2;
        other[last] ^= 1;
        let mut wrongs = vec![None];
        if name != "metadata.json" {
            wrongs.extend([Some(other), Some(content[..last].to_vec())]);
        }
        for wrong in wrongs {
            match wrong {
                None => fs::remove_file(&path).unwrap(),
                Some(bytes) => fs::write(&path, bytes).unwrap(),
            }
            assert_eq!(snapshot_of(&world, &body).await, first);
            assert_eq!(fs::read(&path).unwrap(), content, "{name}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_has_the_notes_of_its_job_as_far_as_there_is_room() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 5);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let mut body = snapshot_job("pets");
    body["notes"] = json!("first try, with \"both\" classes");
    let id = snapshot_of(&world, &body).await;
    let (_, row) = world.get(&format!("/snapshots/{id}")).await;
    assert_eq!(row["notes"], body["notes"], "{row}");
    let metadata = fs::read(beside(&world, &id, "metadata.json")).unwrap();
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!(metadata["notes"], body["notes"]);
    body["notes"] = json!("\"ü".repeat(1_000));
    body["config"]["split_strategy"] = json!({"method": "auto", "ratio": [0.6, 0.4]});
    let id = snapshot_of(&world, &body).await;
    let (_, row) = world.get(&format!("/snapshots/{id}")).await;
    let kept = row["notes"].as_str().unwrap();
    let whole = body["notes"].as_str().unwrap();
    assert!(kept.len() > 100 && whole.starts_with(kept), "{row}");
    assert!(row.to_string().len() <= 1_024, "{row}");
}

#[tokio::test]
async fn a_dataset_whose_place_takes_more_than_a_row_holds_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    let outer = tempfile::tempdir().unwrap();
    let long = outer.path().join("ü".repeat(120)).join("ü".repeat(120));
    folders(&long, 3);
    let id = "p".repeat(100);
    add(&world, &id, long.to_str().unwrap()).await;
    let (status, answer) = world.post_json("/training/jobs", &snapshot_job(&id)).await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        detail(&answer).contains("its path or id is too long for a snapshot"),
        "{answer}"
    );
    let listed = world.get("/snapshots").await.1;
    assert_eq!(listed["snapshots"], json!([]), "{listed}");
}

#[tokio::test]
async fn a_deleted_snapshot_leaves_no_folder_behind() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 3);
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let (_, job) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    world
        .post(&format!("/training/jobs/{}/cancel", job["id"]))
        .await;
    let id = job["dataset_snapshot_id"].as_str().unwrap();
    let request = world.plain(Method::DELETE, &format!("/snapshots/{id}"));
    assert_eq!(world.send(request.bearer_auth(&world.token)).await.0, 200);
    let left = fs::read_dir(world.data().join("artifacts/snapshots")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn digests_of_places_that_nobody_names_are_removed_when_they_are_a_day_old() {
    let world = World::start().await;
    let sets = tempfile::tempdir().unwrap();
    let kept = world.data().join("digests");
    let age = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(two_days_ago()).unwrap();
    };
    for name in ["pets", "gone"] {
        let set = sets.path().join(name);
        folders(&set, 3);
        for class in ["cat", "dog"] {
            for entry in fs::read_dir(set.join(class)).unwrap() {
                age(&entry.unwrap().path());
            }
        }
    }
    let file = |name: &str| {
        let place = sets.path().canonicalize().unwrap().join(name);
        let name = blake3::hash(place.to_str().unwrap().as_bytes());
        kept.join(format!("{}.jsonl", name.to_hex()))
    };
    fs::create_dir_all(&kept).unwrap();
    for path in [file("pets"), file("gone"), kept.join("x.new")] {
        fs::write(&path, "").unwrap();
        age(&path);
    }
    fs::write(kept.join("y.new"), "").unwrap();
    add(&world, "pets", sets.path().join("pets").to_str().unwrap()).await;
    let world = World::on(world.stop().await).await;
    until("what nobody names is gone", async || {
        let there = [file("gone"), kept.join("x.new")];
        there.iter().all(|path| !path.exists()).then_some(())
    })
    .await;
    assert!(file("pets").exists() && kept.join("y.new").exists());
    world.stop().await;
}

#[tokio::test]
async fn the_first_file_that_is_another_now_is_told_before_any_file_is_given_out() {
    let world = World::start().await;
    let outer = tempfile::tempdir().unwrap();
    let set = outer.path().join("set");
    folders(&set, 3);
    add(&world, "pets", set.to_str().unwrap()).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    snapshot_of(&world, &snapshot_job("pets")).await;
    let start = agent.start().await;
    let files = manifest(&world, &start, "").await.unwrap();
    assert_eq!(files.len(), 6);
    let status = async |file: &str| {
        let file = files.iter().find(|entry| entry.path == file).unwrap();
        let url = format!("http://{}{}", world.address, file.url);
        world.http.get(url).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("cat/0000.png").await, 200);
    // What is new is none of the snapshot's.
    fs::write(set.join("cat/0009.png"), "new").unwrap();
    assert_eq!(manifest(&world, &start, "").await.unwrap().len(), 6);
    let told = async |path: &str, how: &str| {
        let (file, why) = changed(&world, &start).await;
        assert_eq!(file, path, "{why}");
        assert!(why.contains(how), "{why}");
    };

    let dog = set.join("dog/0002.png");
    let before = fs::read(&dog).unwrap();
    let other = vec![b'x'; before.len()];
    fs::write(&dog, &other).unwrap();
    told("dog/0002.png", "has another content").await;
    fs::write(&dog, [&other[..], b"x"].concat()).unwrap();
    told("dog/0002.png", "bytes in place of").await;
    fs::remove_file(set.join("dog/0001.png")).unwrap();
    told("dog/0001.png", "is not there any more").await;
    // A link out of it refuses the folder as a whole; still the file is named.
    fs::remove_file(set.join("cat/0000.png")).unwrap();
    symlink("/etc/hostname", set.join("cat/0000.png")).unwrap();
    told("cat/0000.png", "leads out of its folder").await;
    assert_eq!(
        (status("cat/0000.png").await, status("cat/0001.png").await),
        (404, 200)
    );
    fs::remove_dir_all(&set).unwrap();
    told("cat/0000.png", "does not exist").await;
    assert_eq!(status("cat/0001.png").await, 404);
    symlink("/etc", &set).unwrap();
    told("cat/0000.png", "belongs to the system").await;
    assert_eq!(status("cat/0001.png").await, 404);
    // A node that has begun to fetch asks for the rest by its last file, and hears of each by its way.
    let rest = manifest(&world, &start, "cat/0001.png").await.unwrap();
    assert_eq!(rest.len(), 4);
}

/// A web server with four files of which the first, and the list, wait until they are let go.
struct Slow {
    url: String,
    gets: Arc<Mutex<Vec<String>>>,
    open: watch::Sender<bool>,
    list: Arc<Semaphore>,
    _serving: JoinSet<()>,
}

impl Slow {
    async fn start() -> Self {
        let gets: Arc<Mutex<Vec<String>>> = Arc::default();
        let (open, opened) = watch::channel(false);
        let list = Arc::new(Semaphore::new(1_000));
        let (seen, lists) = (Arc::clone(&gets), Arc::clone(&list));
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (seen, lists, opened) = (Arc::clone(&seen), Arc::clone(&lists), opened.clone());
            let asked = (request.method().clone(), request.uri().path().to_owned());
            answer(asked, seen, lists, opened)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/set", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            gets,
            open,
            list,
            _serving: serving,
        }
    }

    /// What was fetched since this was last asked.
    fn fetched(&self) -> Vec<String> {
        let mut gets = self.gets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gets = std::mem::take(&mut *gets);
        gets.sort();
        gets
    }
}

async fn answer(
    (method, path): (Verb, String),
    seen: Arc<Mutex<Vec<String>>>,
    lists: Arc<Semaphore>,
    mut opened: watch::Receiver<bool>,
) -> Response {
    if method == Verb::from_bytes(b"PROPFIND").unwrap() {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if path == "/set/files.txt" {
        lists.acquire().await.unwrap().forget();
        return "cat/1.png\ncat/2.png\ndog/1.png\ndog/2.png".into_response();
    }
    if method == Verb::GET {
        let slow = path == "/set/cat/1.png";
        let gets = seen.lock();
        gets.unwrap_or_else(PoisonError::into_inner).push(path);
        if slow {
            opened.wait_for(|open| *open).await.ok();
        }
    }
    let headers = [
        ("etag", "\"1-2\""),
        ("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT"),
    ];
    (headers, "an image").into_response()
}

async fn reader_of(server: &Slow, seconds: u32) -> World {
    let world = World::with(|config| {
        config.datasets.allow_private_urls = "127.0.0.0/8".to_owned();
        config.datasets.snapshot_seconds = seconds;
        config.datasets.parallel = 2;
    })
    .await;
    let body = json!({"id": "x", "storage_path": server.url, "format": "imagefolder"});
    assert_eq!(world.post_json("/datasets", &body).await.0, 200);
    world
}

#[tokio::test]
async fn what_was_read_beside_a_slow_file_is_kept_when_time_is_up() {
    let server = Slow::start().await;
    let world = reader_of(&server, 2).await;
    let (status, answer) = world.post_json("/training/jobs", &snapshot_job("x")).await;
    assert_eq!(status, 503, "{answer}");
    assert!(
        detail(&answer).contains("3 of 4 files were read"),
        "{answer}"
    );
    assert_eq!(server.fetched().len(), 4);
    server.open.send_replace(true);
    snapshot_of(&world, &snapshot_job("x")).await;
    assert_eq!(server.fetched(), ["/set/cat/1.png"]);
}

#[tokio::test]
async fn a_list_that_does_not_end_takes_no_longer_than_a_dataset_may() {
    let server = Slow::start().await;
    let world = reader_of(&server, 1).await;
    server.list.forget_permits(1_000);
    let body = snapshot_job("x");
    let asking = world.post_json("/training/jobs", &body);
    // Far less than the half minute that documents have afterwards.
    let asking = tokio::time::timeout(Duration::from_secs(25), asking);
    let (status, answer) = asking.await.unwrap();
    assert_eq!(status, 503, "{answer}");
    assert!(
        detail(&answer).contains("could not be read within 1 s (datasets.snapshot_seconds)"),
        "{answer}"
    );
}
