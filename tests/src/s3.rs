//! A real S3 server in the test's process (s3s-fs): it verifies signatures, pre-signed ones too, and lists at
//! most 1,000 keys on a page.
//!
//! Owns its buckets, which are folders, and counts what it is asked. Never part of a product. Called by the
//! suites, and by the doors of the coordinator.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body as AxumBody, extract::Request, http};
use s3s::{
    S3, S3ErrorCode, S3Request, S3Response, S3Result, auth::SimpleAuth, dto::*,
    service::S3ServiceBuilder,
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

/// What its only caller shows.
pub const KEY: &str = "access-key-of-the-platform";
/// What its only caller signs with.
pub const SECRET: &str = "secret-key-of-the-platform";

/// How often objects were fetched, and how long each of them takes; and what copies wait for.
#[derive(Debug, Default)]
struct Fetches {
    count: AtomicU64,
    millis: AtomicU64,
    copies: AtomicU64,
    copying: Arc<tokio::sync::Mutex<()>>,
    puts: AtomicU64,
    putting: Arc<tokio::sync::Mutex<()>>,
    left: AtomicU64,
}

/// An object that is being stored; counted when whoever sends it goes away before.
struct Put<'f>(&'f Fetches, bool);

impl Drop for Put<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.left.fetch_add(1, Ordering::Relaxed);
        }
    }
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
        self.1.puts.fetch_add(1, Ordering::Relaxed);
        let mut put = Put(&self.1, false);
        let _free = self.1.putting.lock().await;
        put.1 = true;
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

/// The server; its buckets are folders. It ends with this.
#[derive(Debug)]
pub struct Server {
    root: TempDir,
    fetches: Arc<Fetches>,
    endpoint: String,
    _serving: JoinSet<()>,
}

impl Server {
    /// Serves on a free port of loopback, with the buckets `sets` and `artifacts`.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn start() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        for bucket in ["sets", "artifacts"] {
            fs::create_dir(root.path().join(bucket)).expect("a bucket is made");
        }
        let fetches = Arc::new(Fetches::default());
        let files = FileSystem::new(root.path()).expect("its files");
        let mut service = S3ServiceBuilder::new(Paged(files, Arc::clone(&fetches)));
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let answer = move |request: Request| {
            let service = service.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = axum::body::to_bytes(body, 64 << 20).await;
                let body = s3s::Body::from(bytes.expect("the body comes whole"));
                let answer = service.call(http::Request::from_parts(parts, body)).await;
                answer.expect("it answers").map(AxumBody::new)
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let router = Router::new().fallback(answer);
            axum::serve(listener, router).await.ok();
        });
        Self {
            root,
            fetches,
            endpoint: format!("http://{address}"),
            _serving: serving,
        }
    }

    /// The option of storage by which a coordinator speaks to it.
    #[must_use]
    pub fn options(&self) -> String {
        format!(
            "endpoint={} region=us-east-1 path_style=true access_key_id={KEY} secret_access_key={SECRET}",
            self.endpoint
        )
    }

    /// From now on a fetch takes so long.
    pub fn takes(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.fetches.millis.store(millis, Ordering::Relaxed);
    }

    /// No copy ends while this is held.
    pub async fn hold_copies(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.fetches.copying).lock_owned().await
    }

    /// No object is stored while this is held.
    pub async fn hold_puts(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.fetches.putting).lock_owned().await
    }

    /// Objects that were to be stored, and of those the ones whose sender has gone away before.
    #[must_use]
    pub fn puts(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.fetches.puts), of(&self.fetches.left))
    }

    /// Copies that were asked for.
    #[must_use]
    pub fn copies(&self) -> u64 {
        self.fetches.copies.load(Ordering::Relaxed)
    }

    /// Objects that were fetched.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetches.count.load(Ordering::Relaxed)
    }

    /// The folder of a bucket.
    #[must_use]
    pub fn bucket(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}
