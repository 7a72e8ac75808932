//! Files behind objects: where a bucket and a key lead, reading and writing there.
//!
//! Owns what a task may write, and that a file appears whole or not at all. Called by the door.

use std::{
    io,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use futures::StreamExt as _;
use s3s::{
    S3Error, S3Result,
    dto::{ETag, StreamingBlob},
    s3_error,
};
use tokio::io::AsyncWriteExt as _;

use super::{CHECKPOINTS, Shown, TaskObjects, path};
use crate::disk::blocking;

/// What a bucket is to a task.
pub(super) enum Place {
    Dataset(Shown),
    Checkpoints,
}

pub(super) fn place(task: &TaskObjects, bucket: &str) -> S3Result<Place> {
    match &task.dataset {
        Some(shown) if shown.bucket == bucket => Ok(Place::Dataset(shown.clone())),
        _ if bucket == CHECKPOINTS => Ok(Place::Checkpoints),
        _ => Err(s3_error!(NoSuchBucket, "this task has no such bucket")),
    }
}

/// Opens an object to read.
pub(super) async fn open(
    task: &TaskObjects,
    bucket: &str,
    key: &str,
) -> S3Result<(std::fs::File, u64, SystemTime)> {
    let missing = || s3_error!(NoSuchKey, "this task has no such object");
    // Where a dataset's bucket is that of the checkpoints too, its prefix tells them apart.
    let is_checkpoint = bucket == CHECKPOINTS && key.starts_with(&task.checkpoint_prefix());
    let (folder, relative) = match place(task, bucket)? {
        Place::Dataset(shown) if !is_checkpoint => {
            let rest = key.strip_prefix(shown.prefix.as_str());
            let rest = rest.and_then(|rest| rest.strip_prefix('/'));
            (shown.view.clone(), rest.and_then(path::relative))
        }
        Place::Dataset(_) | Place::Checkpoints => {
            let rest = key.strip_prefix(&task.checkpoint_prefix());
            (task.checkpoints.clone(), rest.and_then(path::relative))
        }
    };
    let beginning = task.beginning.clone();
    let beginning = beginning.filter(|own| bucket == CHECKPOINTS && own.key == key);
    let opened = blocking(move || {
        let nothing = || io::Error::from(io::ErrorKind::NotFound);
        let own = relative.map(|relative| path::read(&folder, &relative));
        let file = match (own, beginning) {
            // What this attempt has kept goes before what it began with.
            (Some(Ok(file)), _) => file,
            (_, Some(begun)) => path::read(&begun.folder, &begun.name)?,
            (own, None) => own.ok_or_else(nothing)??,
        };
        let about = file.metadata()?;
        Ok((file, about.len(), about.modified()?))
    });
    match opened.await {
        Ok(opened) => Ok(opened),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(internal(error)),
    }
}

/// The file of a checkpoint that is to be written, and a draft beside it.
pub(super) async fn target(
    task: &TaskObjects,
    bucket: &str,
    key: &str,
) -> S3Result<(PathBuf, PathBuf)> {
    if bucket != CHECKPOINTS {
        let words = "datasets are read only; checkpoints go to the bucket training-checkpoints";
        return Err(s3_error!(AccessDenied, "{}", words));
    }
    let rest = key.strip_prefix(&task.checkpoint_prefix());
    let relative = rest.and_then(path::relative).ok_or_else(|| {
        let wanted = task.checkpoint_prefix();
        s3_error!(AccessDenied, "keys of this task begin with {}", wanted)
    })?;
    let hidden = |part: Component<'_>| part.as_os_str().to_string_lossy().starts_with('.');
    if relative.components().any(hidden) {
        return Err(s3_error!(
            AccessDenied,
            "no part of a key may begin with a dot"
        ));
    }
    let folder = task.checkpoints.clone();
    let made = blocking(move || {
        let name = relative.file_name().unwrap_or_default().to_owned();
        let folder = path::folder_of(&folder, &relative)?;
        let draft = folder.join(format!(".draft-{:016x}", rand::random::<u64>()));
        Ok((folder.join(name), draft))
    });
    made.await.map_err(internal)
}

/// Writes a body to a file that is on disk then; the digest of the bytes.
pub(super) async fn write(body: Option<StreamingBlob>, to: &Path) -> S3Result<blake3::Hash> {
    let mut file = tokio::fs::File::create(to).await.map_err(internal)?;
    let mut digest = blake3::Hasher::new();
    if let Some(mut body) = body {
        while let Some(bytes) = body.next().await {
            let bytes = bytes
                .map_err(|error| s3_error!(IncompleteBody, "the body ended early: {}", error))?;
            digest.update(&bytes);
            file.write_all(&bytes).await.map_err(internal)?;
        }
    }
    file.sync_all().await.map_err(internal)?;
    Ok(digest.finalize())
}

/// What a tag begins with.
pub(super) fn digest_of(hash: Option<&blake3::Hash>) -> String {
    let hex = hash.map(|hash| hash.to_hex().to_string());
    hex.unwrap_or_default().chars().take(32).collect()
}

/// As S3 gives it for uploads in parts, where it is no MD5 either.
pub(super) fn tag(digest: &str) -> ETag {
    ETag::Strong(format!("{}-1", digest.chars().take(32).collect::<String>()))
}

/// The tag of an object that is read: what changes when it is written anew.
pub(super) fn tag_of(size: u64, modified: SystemTime) -> ETag {
    let since = modified.duration_since(SystemTime::UNIX_EPOCH);
    let words = format!("{size} {}", since.unwrap_or_default().as_nanos());
    tag(&blake3::hash(words.as_bytes()).to_hex())
}

pub(super) fn internal(error: io::Error) -> S3Error {
    tracing::warn!(%error, "a trainer's S3 call has failed");
    s3_error!(InternalError, "the agent cannot do this: {}", error)
}

/// Puts a whole draft in its place, and removes one that is not.
pub(super) async fn keep(is_whole: bool, draft: &Path, file: &Path) -> S3Result<()> {
    if is_whole {
        return tokio::fs::rename(draft, file).await.map_err(internal);
    }
    tokio::fs::remove_file(draft).await.ok();
    Ok(())
}

/// What is gone already is as good.
pub(super) async fn remove(file: &Path) -> S3Result<()> {
    match tokio::fs::remove_file(file).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(internal(error)),
    }
}
