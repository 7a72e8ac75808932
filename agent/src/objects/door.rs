//! The S3 calls that trainers make, answered from a task's folders.
//!
//! Owns which calls there are: those of reading a dataset and of keeping checkpoints. Signatures are checked by
//! the `s3s` crate before anything here runs; the access key says which task calls. Datasets are read only.

use std::io;

use axum::{body::Body, extract::Request, response::Response};
use s3s::{
    S3, S3Request, S3Response, S3Result,
    auth::{S3Auth, SecretKey},
    dto::*,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use tonic::async_trait;

use super::{
    TaskObjects,
    files::{Place, digest_of, internal, keep, open, place, remove, tag, tag_of, target, write},
    list::{self, Asked, Found, PAGE, Page},
    multipart,
};
use crate::callbacks::Registry;
use crate::disk::blocking;

/// The service, for the router of the callbacks.
#[derive(Clone)]
pub(crate) struct Objects(S3Service);

impl Objects {
    /// Over the tasks that are registered.
    pub(crate) fn new(registry: Registry) -> Self {
        let mut builder = S3ServiceBuilder::new(Door(registry.clone()));
        builder.set_auth(Keys(registry));
        Self(builder.build())
    }

    /// Answers one call.
    pub(crate) async fn call(&self, request: Request) -> Response {
        let request = request.map(s3s::Body::http_body_unsync);
        match self.0.call(request).await {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                tracing::debug!(?error, "a trainer's S3 call cannot be answered");
                let mut response = Response::new(Body::empty());
                *response.status_mut() = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }
}

/// Whether a request is one of S3: such are signed, and nothing else here is.
pub(crate) fn is_signed(request: &Request) -> bool {
    let header = request.headers().get("authorization");
    let header = header.and_then(|header| header.to_str().ok());
    let query = request.uri().query().unwrap_or_default();
    header.is_some_and(|header| header.starts_with("AWS")) || query.contains("X-Amz-Signature=")
}

struct Keys(Registry);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.secret_key(access_key) {
            Some(secret) => Ok(SecretKey::from(secret)),
            None if self.0.doubts() => Err(s3_error!(SlowDown, "the agent is starting; try again")),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "no task that runs here has this key"
            )),
        }
    }
}

struct Door(Registry);

impl Door {
    fn task<T>(&self, request: &S3Request<T>) -> S3Result<TaskObjects> {
        let denied = || {
            s3_error!(
                AccessDenied,
                "this call must be signed with the task's keys"
            )
        };
        let shown = request.credentials.as_ref().ok_or_else(denied)?;
        match self.0.objects(&shown.access_key) {
            Some(Some(task)) => Ok(task),
            Some(None) => Err(s3_error!(SlowDown, "the agent is starting; try again")),
            None => Err(denied()),
        }
    }

    async fn list(&self, task: &TaskObjects, bucket: &str, asked: Asked) -> S3Result<Page> {
        match place(task, bucket)? {
            Place::Dataset(shown) => {
                let (view, prefix) = (shown.view.clone(), format!("{}/", shown.prefix));
                let walk = || async {
                    let found = blocking(move || list::walk(&view, &prefix)).await?;
                    Ok::<_, io::Error>(found.into())
                };
                let found = shown.listed.get_or_try_init(walk).await.map_err(internal)?;
                Ok(list::page(found, &asked))
            }
            Place::Checkpoints => {
                let (folder, prefix) = (task.checkpoints.clone(), task.checkpoint_prefix());
                let found = blocking(move || list::walk(&folder, &prefix)).await;
                Ok(list::page(&found.map_err(internal)?, &asked))
            }
        }
    }
}

fn objects(found: &[Found]) -> Vec<Object> {
    let one = |found: &Found| Object {
        key: Some(found.key.clone()),
        size: i64::try_from(found.size).ok(),
        last_modified: Some(found.modified.into()),
        e_tag: Some(tag_of(found.size, found.modified)),
        ..Object::default()
    };
    found.iter().map(one).collect()
}

fn prefixes(found: &[String]) -> Option<Vec<CommonPrefix>> {
    let one = |prefix: &String| CommonPrefix {
        prefix: Some(prefix.clone()),
    };
    (!found.is_empty()).then(|| found.iter().map(one).collect())
}

/// The parts of an upload by number and digest, strictly ascending.
fn named(upload: Option<CompletedMultipartUpload>) -> S3Result<Vec<(i32, String)>> {
    let parts = upload.and_then(|named| named.parts).unwrap_or_default();
    let one = |part: &CompletedPart| {
        let tag = part.e_tag.as_ref()?.value().strip_suffix("-1")?.to_owned();
        Some((part.part_number?, tag))
    };
    let named: Option<Vec<_>> = parts.iter().map(one).collect();
    let named = named.ok_or_else(|| s3_error!(InvalidPart, "name each part by number and ETag"))?;
    let ascending = named
        .windows(2)
        .all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
    if named.is_empty() || !ascending {
        return Err(s3_error!(InvalidPartOrder));
    }
    Ok(named)
}

/// What both ways to list ask for. An empty delimiter is none.
fn asked(
    (prefix, delimiter): (&Option<String>, &Option<String>),
    after: Option<&String>,
    max_keys: Option<i32>,
) -> Asked {
    let most = usize::try_from(max_keys.unwrap_or(1_000)).unwrap_or(0);
    Asked {
        prefix: prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        after: after.cloned().unwrap_or_default(),
        most: most.min(PAGE),
    }
}

#[async_trait]
impl S3 for Door {
    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        place(&self.task(&req)?, &req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        place(&self.task(&req)?, &req.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let task = self.task(&req)?;
        let input = req.input;
        let token = input.continuation_token.as_ref();
        let after = token.or(input.start_after.as_ref());
        let asked = asked((&input.prefix, &input.delimiter), after, input.max_keys);
        let page = self.list(&task, &input.bucket, asked).await?;
        let count = page.objects.len() + page.prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: Some(input.max_keys.unwrap_or(1_000)),
            key_count: i32::try_from(count).ok(),
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            is_truncated: Some(page.next.is_some()),
            contents: Some(objects(&page.objects)),
            common_prefixes: prefixes(&page.prefixes),
            next_continuation_token: page.next,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let task = self.task(&req)?;
        let input = req.input;
        let after = input.marker.as_ref();
        let asked = asked((&input.prefix, &input.delimiter), after, input.max_keys);
        let page = self.list(&task, &input.bucket, asked).await?;
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            marker: input.marker,
            max_keys: Some(input.max_keys.unwrap_or(1_000)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(objects(&page.objects)),
            common_prefixes: prefixes(&page.prefixes),
            next_marker: page.next,
            ..ListObjectsOutput::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let task = self.task(&req)?;
        let (_file, size, modified) = open(&task, &req.input.bucket, &req.input.key).await?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: i64::try_from(size).ok(),
            last_modified: Some(modified.into()),
            e_tag: Some(tag_of(size, modified)),
            accept_ranges: Some("bytes".to_owned()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let task = self.task(&req)?;
        let (file, size, modified) = open(&task, &req.input.bucket, &req.input.key).await?;
        let range = match req.input.range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let mut file = tokio::fs::File::from_std(file);
        file.seek(io::SeekFrom::Start(range.start))
            .await
            .map_err(internal)?;
        let length = range.end - range.start;
        let is_part = req.input.range.is_some();
        let content_range = || format!("bytes {}-{}/{size}", range.start, range.end - 1);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(ReaderStream::with_capacity(
                file.take(length),
                1 << 16,
            ))),
            content_length: i64::try_from(length).ok(),
            content_range: is_part.then(content_range),
            last_modified: Some(modified.into()),
            e_tag: Some(tag_of(size, modified)),
            accept_ranges: Some("bytes".to_owned()),
            ..GetObjectOutput::default()
        }))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let task = self.task(&req)?;
        let (file, draft) = target(&task, &req.input.bucket, &req.input.key).await?;
        let written = write(req.input.body, &draft).await;
        keep(written.as_ref().map(drop).is_ok(), &draft, &file).await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(tag(&written?.to_hex())),
            ..PutObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let task = self.task(&req)?;
        let (file, _) = target(&task, &req.input.bucket, &req.input.key).await?;
        remove(&file).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let task = self.task(&req)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in req.input.delete.objects {
            let key = object.key;
            let done = match target(&task, &req.input.bucket, &key).await {
                Ok((file, _)) => remove(&file).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => deleted.push(DeletedObject {
                    key: Some(key),
                    ..DeletedObject::default()
                }),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(key),
                    message: error.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let task = self.task(&req)?;
        target(&task, &req.input.bucket, &req.input.key).await?;
        let id = blocking(move || multipart::begin(&task.checkpoints)).await;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(req.input.bucket),
            key: Some(req.input.key),
            upload_id: Some(id.map_err(internal)?),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let task = self.task(&req)?;
        let input = req.input;
        let (id, number) = (&input.upload_id, input.part_number);
        let draft = multipart::draft(&task.checkpoints, id, number);
        let draft = draft.ok_or_else(|| s3_error!(NoSuchUpload))?;
        let written = write(input.body, &draft).await;
        let digest = digest_of(written.as_ref().ok());
        let part = multipart::part(&draft, number, &digest);
        keep(written.is_ok(), &draft, &part).await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(tag(&written?.to_hex())),
            ..UploadPartOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let task = self.task(&req)?;
        let input = req.input;
        let (file, draft) = target(&task, &input.bucket, &input.key).await?;
        let named = named(input.multipart_upload)?;
        let (folder, id, to) = (task.checkpoints.clone(), input.upload_id, draft.clone());
        let joined = blocking(move || {
            if multipart::is_done(&folder, &id) {
                return Ok(None);
            }
            multipart::join(&folder, &id, &named, &to)?;
            Ok(Some((folder, id)))
        });
        let joined = joined.await;
        let is_fresh = matches!(joined, Ok(Some(_)));
        // The object is in its place before its parts go.
        keep(is_fresh, &draft, &file).await?;
        match joined {
            Ok(None) => {}
            Ok(Some((folder, id))) => {
                let tidied = blocking(move || multipart::finish(&folder, &id)).await;
                tidied.map_err(internal)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(s3_error!(InvalidPart));
            }
            Err(error) => return Err(internal(error)),
        }
        let digest = blake3::hash(input.key.as_bytes()).to_hex();
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag(&digest)),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let task = self.task(&req)?;
        let id = req.input.upload_id;
        let ended = blocking(move || multipart::abort(&task.checkpoints, &id)).await;
        if !ended.map_err(internal)? {
            return Err(s3_error!(NoSuchUpload));
        }
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
