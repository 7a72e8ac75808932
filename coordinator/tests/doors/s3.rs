//! A real S3 server in this process (s3s-fs): it verifies signatures, pre-signed ones too, and lists at
//! most 1,000 keys on a page. And the stories of datasets and checkpoints that lie in it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body as AxumBody, extract::Request};
use reqwest::Method;
use s3s::{
    S3, S3ErrorCode, S3Request, S3Response, S3Result, auth::SimpleAuth, dto::*,
    service::S3ServiceBuilder,
};
use s3s_fs::FileSystem;
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use trainyard_coordinator::config::{Config, Secret};

use crate::{
    agent::Agent,
    datasets::{self, manifest, snapshot_job},
    world::{World, command},
};

const KEY: &str = "access-key-of-the-platform";
pub(crate) const SECRET: &str = "secret-key-of-the-platform";

/// How often objects were fetched, and how long each of them takes; and what copies wait for.
#[derive(Debug, Default)]
struct Fetches {
    count: AtomicU64,
    millis: AtomicU64,
    copies: AtomicU64,
    copying: Arc<tokio::sync::Mutex<()>>,
}

/// The files, with ETags in listings, which s3s-fs does not have.
#[derive(Debug)]
struct Paged(FileSystem, Arc<Fetches>);

#[tonic::async_trait]
impl S3 for Paged {
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let mut answer = self.0.list_objects_v2(request).await?;
        for object in answer.output.contents.iter_mut().flatten() {
            let tag = format!("{:?}-{:?}", object.size, object.last_modified);
            object.e_tag = Some(ETag::Strong(tag));
        }
        Ok(answer)
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.1.count.fetch_add(1, Ordering::Relaxed);
        let span = Duration::from_millis(self.1.millis.load(Ordering::Relaxed));
        tokio::time::sleep(span).await;
        self.0.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.0.head_object(request).await
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.put_object(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        // A copy is of what is there when it begins.
        let copied = self.0.copy_object(request).await;
        self.1.copies.fetch_add(1, Ordering::Relaxed);
        let _free = self.1.copying.lock().await;
        copied
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.0.delete_objects(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.0.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.0.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let made = self.0.complete_multipart_upload(request).await;
        // The files say so of an upload that is no more.
        made.map_err(|error| match error.code() == &S3ErrorCode::AccessDenied {
            true => S3ErrorCode::NoSuchUpload.into(),
            false => error,
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.abort_multipart_upload(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.delete_object(request).await
    }
}

/// The server; its buckets are folders.
pub(crate) struct Server {
    pub(crate) root: TempDir,
    fetches: Arc<Fetches>,
    endpoint: String,
    _serving: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sets")).unwrap();
        fs::create_dir(root.path().join("artifacts")).unwrap();
        let fetches = Arc::new(Fetches::default());
        let files = FileSystem::new(root.path()).unwrap();
        let mut service = S3ServiceBuilder::new(Paged(files, Arc::clone(&fetches)));
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let answer = move |request: Request| {
            let service = service.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
                let request = http::Request::from_parts(parts, s3s::Body::from(bytes));
                service.call(request).await.unwrap().map(AxumBody::new)
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            axum::serve(listener, Router::new().fallback(answer))
                .await
                .unwrap();
        });
        Self {
            root,
            fetches,
            endpoint,
            _serving: serving,
        }
    }

    /// Settings by which a coordinator speaks to it.
    pub(crate) fn settings(&self, config: &mut Config) {
        let options = format!(
            "endpoint={} region=us-east-1 path_style=true access_key_id={KEY} secret_access_key={SECRET}",
            self.endpoint
        );
        config.storage_options = BTreeMap::from([("s3".to_owned(), Secret::new(options))]);
    }

    /// No copy ends while this is held.
    pub(crate) async fn hold_copies(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.fetches.copying).lock_owned().await
    }

    /// Copies that were asked for.
    pub(crate) fn copies(&self) -> u64 {
        self.fetches.copies.load(Ordering::Relaxed)
    }

    fn fetched(&self) -> u64 {
        self.fetches.count.load(Ordering::Relaxed)
    }

    pub(crate) fn bucket(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }
}

/// A class folder for each of two classes, with so many images together.
fn images(root: &Path, count: usize) {
    for number in 0..count {
        let class = if number % 2 == 0 { "cat" } else { "dog" };
        let folder = root.join(class);
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join(format!("{number:05}.png")),
            format!("image {number}"),
        )
        .unwrap();
    }
}

#[tokio::test]
async fn a_dataset_of_1500_objects_is_listed_whole_and_each_is_fetched_by_a_signed_url() {
    let server = Server::start().await;
    images(&server.bucket("sets").join("pets/v1"), 1_500);
    images(&server.bucket("sets").join("pets/v10"), 2);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        server.settings(config)
    })
    .await;
    let added = datasets::add(&world, "pets", "s3://sets/pets/v1").await;
    assert_eq!(added["format"], "imagefolder");
    let mut agent = Agent::join(&world, "n1", 4).await;
    let (_, job) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    let id = job["dataset_snapshot_id"]
        .as_str()
        .expect("a snapshot")
        .to_owned();
    let (_, snapshot) = world.get(&format!("/snapshots/{id}")).await;
    assert_eq!(snapshot["files"], 1_500);
    let start = agent.start().await;
    let files = manifest(&world, &start, "").await.unwrap();
    assert_eq!(files.len(), 1_500);
    assert!(
        files.windows(2).all(|pair| pair[0].path < pair[1].path),
        "in order"
    );
    for file in [&files[0], &files[1_200], &files[1_499]] {
        assert!(
            !file.url.contains(SECRET) && file.url.contains("X-Amz-Signature"),
            "{}",
            file.url
        );
        let answer = world.http.get(&file.url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(
            blake3::hash(&bytes).as_bytes().as_slice(),
            file.digest,
            "{}",
            file.path
        );
    }
    let forged = files[0].url.replace("cat/00000", "cat/00002");
    assert_eq!(world.http.get(forged).send().await.unwrap().status(), 403);
    let rest = manifest(&world, &start, &files[1_399].path).await.unwrap();
    assert_eq!(rest.len(), 100);
}

#[tokio::test]
async fn a_changed_object_makes_another_snapshot_and_artifacts_lie_in_the_bucket() {
    let server = Server::start().await;
    images(&server.bucket("sets"), 10);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        server.settings(config);
        config.storage.artifacts = "s3://artifacts/train".to_owned();
    });
    let world = world.await;
    datasets::add(&world, "pets", "s3://sets").await;
    let submit = async || {
        let (status, job) = world
            .post_json("/training/jobs", &snapshot_job("pets"))
            .await;
        assert_eq!(status, 200, "{job}");
        (
            job["id"].clone(),
            job["dataset_snapshot_id"].as_str().unwrap().to_owned(),
        )
    };
    let (job, first) = submit().await;
    assert_eq!(server.fetched(), 10);
    assert_eq!(
        submit().await.1,
        first,
        "an unchanged dataset keeps its snapshot"
    );
    assert_eq!(
        server.fetched(),
        11,
        "of what is known only the snapshot's list is read again"
    );
    let kept = server
        .bucket("artifacts")
        .join("train/snapshots")
        .join(&first);
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(kept.join("metadata.json")).unwrap()).unwrap();
    assert_eq!(metadata["snapshot_id"], first);
    fs::write(server.bucket("sets").join("cat/00000.png"), "another image").unwrap();
    let (_, second) = submit().await;
    assert_ne!(second, first);
    assert_eq!(server.fetched(), 12, "only what has changed is read");
    let kept = server.bucket("artifacts").join("train/snapshots");
    let deleted = world.plain(Method::DELETE, &format!("/snapshots/{first}"));
    assert_eq!(
        world.send(deleted.bearer_auth(&world.token)).await.0,
        400,
        "an open job needs it"
    );
    world.post(&format!("/training/jobs/{job}/cancel")).await;
    assert!(kept.join(&first).join("manifest.jsonl").exists());
}

#[tokio::test]
async fn a_checkpoint_is_put_into_the_bucket_by_a_signed_url_without_the_platforms_keys() {
    let server = Server::start().await;
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        server.settings(config);
        config.storage.artifacts = "s3://artifacts/train".to_owned();
    });
    let world = world.await;
    let job = world.submit(&command()).await;
    let path = format!("/training/jobs/{job}/checkpoints/upload-url");
    let body =
        json!({"checkpoint_filename": "best.pt", "content_type": "application/octet-stream"});
    let (status, upload) = world.post_json(&path, &body).await;
    assert_eq!(
        (status, &upload["expires_in"]),
        (200, &json!(3_600)),
        "{upload}"
    );
    assert_eq!(upload["object_key"], format!("checkpoints/{job}/best.pt"));
    let url = upload["upload_url"].as_str().unwrap();
    assert!(!url.contains(SECRET));
    let put = world.http.put(url).body("weights").send().await.unwrap();
    assert_eq!(put.status(), 200);
    let stored = server
        .bucket("artifacts")
        .join(format!("train/checkpoints/{job}/best.pt"));
    assert_eq!(fs::read(stored).unwrap(), b"weights");
    let (_, listed) = world
        .get(&format!("/training/jobs/{job}/checkpoints"))
        .await;
    assert_eq!(
        listed["checkpoints"],
        json!([{"path": format!("s3://artifacts/train/checkpoints/{job}/best.pt"), "filename": "best.pt", "is_best": false, "epoch": null}])
    );
}

#[tokio::test]
async fn a_dataset_that_takes_too_long_says_so_and_the_next_submit_goes_on_from_there() {
    let server = Server::start().await;
    images(&server.bucket("sets"), 12);
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        server.settings(config);
        config.datasets.snapshot_seconds = 1;
        config.datasets.parallel = 1;
    });
    let world = world.await;
    datasets::add(&world, "pets", "s3://sets").await;
    server.fetches.millis.store(200, Ordering::Relaxed);
    let (status, answer) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    assert_eq!(status, 503, "{answer}");
    let words = answer["detail"].as_str().unwrap();
    assert!(
        words.contains("of 12 files were read within 1 s"),
        "{words}"
    );
    assert_eq!(world.get("/training/jobs").await.1["jobs"], json!([]));
    let mut left = 12;
    while world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await
        .0
        != 200
    {
        left -= 1;
        assert!(left > 0, "each submit goes on where the one before ended");
    }
    // Each once, and what was under way when time was up once more.
    let most = 12 + (12 - left) + 1;
    assert!(server.fetched() <= most, "{} fetches", server.fetched());
}

#[tokio::test]
async fn submits_that_read_one_dataset_at_the_same_time_make_one_snapshot() {
    let server = Server::start().await;
    images(&server.bucket("sets"), 4);
    let settings = |config: &mut Config| server.settings(config);
    let world = World::set_up(tempfile::tempdir().unwrap(), settings).await;
    datasets::add(&world, "pets", "s3://sets").await;
    // All of them are there before the first has read anything.
    server.fetches.millis.store(500, Ordering::Relaxed);
    let body = snapshot_job("pets");
    let submits = (0..6).map(|_| datasets::snapshot_of(&world, &body));
    let made = futures::future::join_all(submits).await;
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    assert_eq!(server.fetched(), 4, "one read it, the others waited");
    let (_, all) = world.get("/snapshots").await;
    assert_eq!(all["snapshots"].as_array().unwrap().len(), 1);
}
