//! The S3 of a task against a real client of S3, over a socket.

use std::{fs, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use object_store::{
    Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutMultipartOptions,
    aws::{AmazonS3, AmazonS3Builder},
    multipart::{MultipartStore, PartId},
    path::Path as Key,
    signer::Signer as _,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use trainyard_core::time::Timestamp;

use super::*;
use crate::{
    callbacks::{self, Registry, TaskEndpoint},
    spool::Spool,
};

const SECRET: &str = "the task's secret";

struct World {
    folder: TempDir,
    registry: Registry,
    address: SocketAddr,
    _serving: JoinSet<std::io::Result<()>>,
    _end: DropGuard,
}

fn snapshot(storage_path: &str) -> Snapshot {
    serde_json::from_value(json!({
        "id": "snap_0123456789ab",
        "dataset_id": "d-1",
        "storage_path": storage_path,
        "format": "dice",
        "split": {},
        "version_hash": "v",
        "assignment_hash": "a",
        "files": 0,
        "bytes": 0,
        "created_by": "1",
        "created_at": 1,
        "notes": "",
    }))
    .unwrap()
}

impl World {
    async fn new(storage_path: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let view = folder.path().join("view");
        fs::create_dir_all(view.join("images")).unwrap();
        for number in 0..12 {
            let name = format!("images/{number:02}.png");
            fs::write(view.join(name), format!("picture {number}")).unwrap();
        }
        fs::write(view.join("annotations_detection.json"), "{}").unwrap();
        let registry = Registry::new(Arc::new(|| Timestamp(1)));
        let server = callbacks::bind(folder.path(), registry.clone())
            .await
            .unwrap();
        let address = server.address();
        let end = CancellationToken::new();
        let stop = end.clone().cancelled_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.run(stop).await });
        let world = Self {
            folder,
            registry,
            address,
            _serving: serving,
            _end: end.drop_guard(),
        };
        world
            .register(SECRET, 7, Some(&snapshot(storage_path)))
            .await;
        world
    }

    async fn register(&self, secret: &str, job: u64, snapshot: Option<&Snapshot>) {
        let root = self.folder.path().join(format!("job-{job}"));
        let spool = Spool::open(self.folder.path().join(format!("spool-{job}")), u64::MAX);
        let view = self.folder.path().join("view");
        let endpoint = TaskEndpoint {
            told: Default::default(),
            job: JobId(job),
            total_epochs: 3,
            spool: spool.await.unwrap(),
            objects: TaskObjects::new(JobId(job), snapshot, view, &root),
            checkpoint_root: root,
        };
        self.registry.register(secret, endpoint);
    }

    fn client(&self, bucket: &str, secret: &str) -> AmazonS3 {
        let keys = KeyPair::of(secret);
        self.with_keys(bucket, &keys.access, &keys.secret)
    }

    fn with_keys(&self, bucket: &str, access: &str, secret: &str) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.address))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(bucket)
            .with_access_key_id(access)
            .with_secret_access_key(secret)
            .with_retry(object_store::RetryConfig {
                max_retries: 0,
                ..Default::default()
            })
            .build()
            .unwrap()
    }

    fn checkpoint(&self, name: &str) -> PathBuf {
        self.folder.path().join("job-7/checkpoints").join(name)
    }
}

async fn keys(store: &AmazonS3, prefix: &str) -> Vec<String> {
    let listed = store.list(Some(&Key::from(prefix)));
    let found: Vec<_> = listed.try_collect().await.unwrap();
    let mut keys: Vec<_> = found
        .into_iter()
        .map(|about| about.location.to_string())
        .collect();
    keys.sort();
    keys
}

async fn text(store: &AmazonS3, key: &str) -> Result<String, Error> {
    let bytes = store.get(&Key::from(key)).await?.bytes().await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_dataset_of_a_folder_is_read_from_the_bucket_of_datasets() {
    let world = World::new("/data/d-1").await;
    let store = world.client("training-datasets", SECRET);
    let found = keys(&store, "datasets/d-1").await;
    assert_eq!(found.len(), 13);
    assert_eq!(found[1], "datasets/d-1/images/00.png");
    assert_eq!(
        text(&store, "datasets/d-1/images/03.png").await.unwrap(),
        "picture 3"
    );
    let part = GetOptions::new().with_range(Some(8..9));
    let key = Key::from("datasets/d-1/images/03.png");
    let part = store
        .get_opts(&key, part)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(part.as_ref(), b"3");
    assert_eq!(store.head(&key).await.unwrap().size, 9);
    let level = store
        .list_with_delimiter(Some(&Key::from("datasets/d-1")))
        .await
        .unwrap();
    assert_eq!(level.common_prefixes, [Key::from("datasets/d-1/images")]);
    assert_eq!(level.objects.len(), 1);
}

#[tokio::test]
async fn a_dataset_of_a_bucket_has_its_own_names() {
    let world = World::new("s3://lake/sets/d-1/").await;
    let store = world.client("lake", SECRET);
    assert_eq!(keys(&store, "sets/d-1/images").await.len(), 12);
    assert_eq!(
        dataset_uri(&snapshot("s3://lake/sets/d-1/")),
        "s3://lake/sets/d-1/"
    );
    assert_eq!(
        dataset_uri(&snapshot("/data/x")),
        "s3://training-datasets/datasets/d-1/"
    );
}

#[tokio::test]
async fn checkpoints_are_kept_in_the_tasks_folder_whole_or_in_parts() {
    let world = World::new("/data/d-1").await;
    let store = world.client("training-checkpoints", SECRET);
    let last = Key::from("checkpoints/7/last.pt");
    store.put(&last, "weights".into()).await.unwrap();
    assert_eq!(fs::read(world.checkpoint("last.pt")).unwrap(), b"weights");
    store.put(&last, "better".into()).await.unwrap();
    assert_eq!(
        text(&store, "checkpoints/7/last.pt").await.unwrap(),
        "better"
    );

    let best = Key::from("checkpoints/7/weights/best.pt");
    let options = PutMultipartOptions {
        attributes: Attributes::new(),
        ..Default::default()
    };
    let mut upload = store.put_multipart_opts(&best, options).await.unwrap();
    let large = vec![7_u8; 5 << 20];
    upload.put_part(large.clone().into()).await.unwrap();
    upload.put_part("the end".into()).await.unwrap();
    upload.complete().await.unwrap();
    let kept = fs::read(world.checkpoint("weights/best.pt")).unwrap();
    assert_eq!(kept.len(), large.len() + 7);
    assert!(kept.ends_with(b"the end"));
    let mut given_up = store.put_multipart(&best).await.unwrap();
    given_up.put_part("x".into()).await.unwrap();
    given_up.abort().await.unwrap();
    let uploads = hidden(&world.checkpoint(""));
    assert_eq!(
        uploads.len(),
        1,
        "of the one that ended, which may be asked for again: {uploads:?}"
    );
    assert_eq!(
        fs::read_dir(&uploads[0]).unwrap().count(),
        1,
        "no part stays"
    );

    let listed = keys(&store, "checkpoints/7").await;
    assert_eq!(
        listed,
        ["checkpoints/7/last.pt", "checkpoints/7/weights/best.pt"]
    );
    let left = fs::read_dir(world.checkpoint("")).unwrap().count();
    assert_eq!(left, 3, "no draft stays");
    store.delete(&last).await.unwrap();
    assert!(!world.checkpoint("last.pt").exists());
}

fn hidden(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with('.')
    };
    entries.filter(is_hidden).collect()
}

#[tokio::test]
async fn a_part_that_breaks_off_or_comes_twice_harms_no_checkpoint() {
    let world = World::new("/data/d-1").await;
    let store = world.client("training-checkpoints", SECRET);
    let key = Key::from("checkpoints/7/best.pt");
    let id = MultipartStore::create_multipart(&store, &key)
        .await
        .unwrap();
    let put = async |number: usize, text: &'static str| {
        let part = store.put_part(&key, &id, number, text.into()).await;
        part.unwrap()
    };
    let first = put(0, "first ").await;
    let other = put(0, "another ").await;
    let second = put(1, "second").await;
    // A repetition that ends early.
    let span = Duration::from_secs(60);
    let signed = store.signed_url(reqwest::Method::PUT, &key, span);
    let signed = signed.await.unwrap();
    broken_off(&world, &signed).await;
    assert!(
        !world.checkpoint("best.pt").exists(),
        "half a body is no object"
    );

    let wrong = PartId {
        content_id: "\"0123456789abcdef0123456789abcdef-1\"".into(),
    };
    let refused = store
        .complete_multipart(&key, &id, vec![wrong, second.clone()])
        .await;
    refused.expect_err("no such part was sent");
    assert!(!world.checkpoint("best.pt").exists());
    let named = vec![first, second];
    store
        .complete_multipart(&key, &id, named.clone())
        .await
        .unwrap();
    assert_eq!(
        fs::read(world.checkpoint("best.pt")).unwrap(),
        b"first second"
    );
    // Whoever did not hear of it asks again.
    store.complete_multipart(&key, &id, named).await.unwrap();
    assert_eq!(
        fs::read(world.checkpoint("best.pt")).unwrap(),
        b"first second"
    );
    drop(other);
}

/// Sends half of a body and goes.
async fn broken_off(world: &World, url: &url::Url) {
    use tokio::io::AsyncWriteExt as _;
    let mut socket = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (path, query) = (url.path(), url.query().unwrap_or_default());
    let head = format!(
        "PUT {path}?{query} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000\r\n\r\n",
        world.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&[7; 500]).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut answer)
        .await
        .ok();
}

#[tokio::test]
async fn the_checkpoint_that_a_task_begins_with_is_there_under_its_name() {
    let world = World::new("/data/d-1").await;
    let folder = world.folder.path().join("resume");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("last.pt"), "of attempt 1").unwrap();
    let root = world.folder.path().join("job-7");
    let objects = TaskObjects::new(JobId(7), None, world.folder.path().join("view"), &root);
    let location = Some("/artifacts/checkpoints/7/last.pt");
    let endpoint = TaskEndpoint {
        told: Default::default(),
        job: JobId(7),
        total_epochs: 3,
        spool: Spool::open(world.folder.path().join("again"), u64::MAX)
            .await
            .unwrap(),
        objects: objects.beginning_with(location, folder),
        checkpoint_root: root,
    };
    world.registry.register("again", endpoint);
    let store = world.client("training-checkpoints", "again");
    let key = "checkpoints/7/last.pt";
    assert_eq!(text(&store, key).await.unwrap(), "of attempt 1");
    assert!(text(&store, "checkpoints/7/best.pt").await.is_err());
    store
        .put(&Key::from(key), "of attempt 2".into())
        .await
        .unwrap();
    assert_eq!(text(&store, key).await.unwrap(), "of attempt 2");
}

#[tokio::test]
async fn a_task_sees_nothing_of_another_and_writes_nowhere_else() {
    let world = World::new("/data/d-1").await;
    world.register("another", 8, None).await;
    let other = world.client("training-checkpoints", "another");
    other
        .put(&Key::from("checkpoints/8/best.pt"), "theirs".into())
        .await
        .unwrap();

    let mine = world.client("training-checkpoints", SECRET);
    let read = text(&mine, "checkpoints/8/best.pt").await.unwrap_err();
    assert!(matches!(read, Error::NotFound { .. }), "{read}");
    assert_eq!(keys(&mine, "checkpoints/8").await, [""; 0]);
    for key in ["checkpoints/8/best.pt", "best.pt", "checkpoints/7/.hidden"] {
        let refused = mine.put(&Key::from(key), "x".into()).await.unwrap_err();
        assert!(
            matches!(refused, Error::PermissionDenied { .. }),
            "{key}: {refused}"
        );
    }
    // The other has no dataset at all, and who has one may not write it.
    let theirs = world.client("training-datasets", "another");
    assert!(
        text(&theirs, "datasets/d-1/annotations_detection.json")
            .await
            .is_err()
    );
    let datasets = world.client("training-datasets", SECRET);
    let key = Key::from("datasets/d-1/annotations_detection.json");
    let refused = datasets.put(&key, "{}".into()).await.unwrap_err();
    assert!(
        matches!(refused, Error::PermissionDenied { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn only_the_keys_of_a_task_that_runs_open_anything() {
    let world = World::new("/data/d-1").await;
    let keys = KeyPair::of(SECRET);
    let key = "datasets/d-1/annotations_detection.json";
    let forged = world.with_keys("training-datasets", &keys.access, "wrong");
    let unknown = world.with_keys("training-datasets", "TYRD0000000000000000", &keys.secret);
    for store in [forged, unknown] {
        let refused = text(&store, key).await.unwrap_err();
        assert!(
            matches!(refused, Error::PermissionDenied { .. }),
            "{refused}"
        );
    }
    let mine = world.client("training-datasets", SECRET);
    text(&mine, key).await.unwrap();
    world.registry.unregister(SECRET);
    text(&mine, key).await.unwrap_err();
    // Found again and not yet ready: it is told to wait.
    world.registry.expect(SECRET);
    let wait = text(&mine, key).await.unwrap_err().to_string();
    assert!(wait.contains("503"), "{wait}");
}

#[tokio::test]
async fn links_that_a_trainer_makes_lead_nowhere() {
    let world = World::new("/data/d-1").await;
    let folder = world.checkpoint("");
    fs::create_dir_all(&folder).unwrap();
    let outside = world.folder.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("out")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), folder.join("file")).unwrap();
    let store = world.client("training-checkpoints", SECRET);
    assert!(text(&store, "checkpoints/7/out/secret").await.is_err());
    assert!(text(&store, "checkpoints/7/file").await.is_err());
    let through = store
        .put(&Key::from("checkpoints/7/out/new"), "x".into())
        .await;
    assert!(through.is_err());
    assert!(!outside.join("new").exists());
    assert_eq!(path::relative("../x"), None);
    assert_eq!(path::relative("a//b"), None);
    assert_eq!(path::relative("/a"), None);
    assert_eq!(path::relative("a\\b"), None);
}

#[test]
fn a_location_in_the_bucket_is_the_file_behind_it() {
    let view = PathBuf::from("/v");
    let objects = TaskObjects::new(JobId(7), None, view, Path::new("/w"));
    let file = |location| objects.checkpoint_file(location);
    assert_eq!(
        file("s3://training-checkpoints/checkpoints/7/best.pt"),
        Some(PathBuf::from("/w/checkpoints/best.pt"))
    );
    for other in [
        "s3://training-checkpoints/checkpoints/8/best.pt",
        "s3://training-checkpoints/checkpoints/7/../8/best.pt",
        "s3://other/checkpoints/7/best.pt",
        "/w/checkpoints/best.pt",
    ] {
        assert_eq!(file(other), None, "{other}");
    }
}
