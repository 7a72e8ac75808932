//! Checkpoints in the artifact store: ways to store one and to read one back, and what is there.
//!
//! Owns their names: `checkpoints/{job}/{file}` once they are published, and below `uploads/` while they
//! are an attempt's own. Whoever asks is checked by the service. Never hands out a key of the platform.

use std::time::Duration;

use trainyard_core::ids::{AttemptNo, JobId, TaskKey};
use trainyard_proto::status::Kind;

use super::{Datasets, settled::settled};
use crate::{
    api::ApiError,
    storage::{Entry, StorageError, Use, check_key},
};

/// How long a way to store or to read a checkpoint is good; the contract tells it to callers.
pub(crate) const UPLOAD: Duration = Duration::from_secs(3_600);
/// Checkpoints of one job that are listed.
const MOST: usize = 10_000;
/// How long a publication waits for another one of its job.
const TURN: Duration = Duration::from_secs(600);
/// What published checkpoints' keys start with.
const PUBLISHED: &str = "checkpoints";
/// What the keys of uploads that are not published yet start with.
pub(super) const UPLOADS: &str = "uploads";

/// A checkpoint that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Such as `best.pt`.
    pub filename: String,
    /// Where it lies.
    pub location: String,
    /// Bytes.
    pub size: u64,
}

/// A way to store a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// PUT the bytes here; absolute, or a path on the coordinator.
    pub url: String,
    /// Where the bytes lie then: the key itself, or an attempt's own.
    pub at: String,
    /// `checkpoints/{job}/{file}`.
    pub key: String,
    /// What the file is called from then on.
    pub location: String,
}

/// One upload of a file by a task: what another one of the same file has under way is not this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadKey {
    /// Whose.
    pub task: TaskKey,
    /// Drawn by the agent; 0 by one that tells its uploads not apart.
    pub number: u64,
}

/// A way to read a checkpoint back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// GET the bytes here; absolute, or a path on the coordinator.
    pub url: String,
    /// Bytes.
    pub size: u64,
}

/// What a text that says where to begin leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A file of this job in the artifact store.
    Stored(JobId, String),
    /// Into the artifact store, and to no checkpoint.
    Nothing,
    /// Not into the artifact store: it is a path as a node sees it.
    Elsewhere,
}

impl Beginning {
    /// What `text` leads to, where locations begin with `root`. Only the very words that [`Place::location`] says are a
    /// file of the store.
    ///
    /// [`Place::location`]: crate::storage::Place::location
    #[must_use]
    pub fn of(root: &str, text: &str) -> Self {
        match text.strip_prefix(root) {
            None => Self::Elsewhere,
            Some(key) => parse(key).map_or(Self::Nothing, |(job, name)| {
                Self::Stored(job, name.to_owned())
            }),
        }
    }
}

impl Datasets {
    /// A way to store a checkpoint of a job under its published name.
    ///
    /// # Errors
    /// When the name is none, or the store cannot sign.
    pub async fn upload(&self, job: JobId, filename: &str) -> Result<Upload, ApiError> {
        check_filename(filename)?;
        let key = published(job, filename);
        self.way_to_store(&key, key.clone()).await
    }

    /// A way for one attempt to store a checkpoint; nobody sees it before [`Datasets::publish`].
    ///
    /// # Errors
    /// When the name is none, or the store cannot sign.
    pub async fn upload_of(&self, upload: UploadKey, filename: &str) -> Result<Upload, ApiError> {
        check_filename(filename)?;
        let at = uploaded(upload, filename);
        self.way_to_store(&at, published(upload.task.job, filename))
            .await
    }

    async fn way_to_store(&self, at: &str, key: String) -> Result<Upload, ApiError> {
        let storage = &self.inner.storage;
        let place = storage.artifacts();
        let name = format!("artifacts/{at}");
        let url = storage
            .way(Use::Write, (place, at), (&name, UPLOAD))
            .await?;
        Ok(Upload {
            url,
            at: at.to_owned(),
            location: place.location(&key),
            key,
        })
    }

    /// Gives an attempt's upload the checkpoint's name. `live` is asked when nothing else of the job is
    /// being published: what a newer attempt has stored is never replaced. If this very upload was published
    /// already, it is so: its answer may have been lost.
    ///
    /// # Errors
    /// When `live` refuses, nothing was uploaded, or the file is too large.
    pub async fn publish<L>(
        &self,
        upload: UploadKey,
        filename: &str,
        live: L,
    ) -> Result<(), ApiError>
    where
        L: FnOnce() -> Result<(), ApiError> + Send + 'static,
    {
        check_filename(filename)?;
        let (datasets, filename) = (self.clone(), filename.to_owned());
        let publishing = async move {
            live()?;
            let overtaken = datasets.overtaken(upload, &filename).await;
            datasets.promote(upload, &filename).await?;
            datasets.clear(overtaken).await;
            Ok(())
        };
        self.in_turn(upload.task.job.to_string(), publishing).await
    }

    /// Does work on uploads when no other of this name is under way.
    pub(super) async fn in_turn(
        &self,
        name: String,
        work: impl Future<Output = Result<(), ApiError>> + Send + 'static,
    ) -> Result<(), ApiError> {
        let datasets = self.clone();
        let working = async move {
            let turn = datasets.inner.publishing.take(&name, TURN).await;
            let _alone = turn.ok_or_else(busy)?;
            work.await
        };
        let stop = self.inner.stop.clone();
        // A caller that goes away must not leave a copy under way that the next one does not wait for.
        let done = async move { stop.run_until_cancelled(working).await };
        let done = self.inner.tasks.spawn(done).await;
        let fault = |error: tokio::task::JoinError| {
            let words = format!("the checkpoint could not be stored: {error}");
            ApiError::new(Kind::Internal, words)
        };
        done.map_err(fault)?.ok_or_else(crate::api::stopping)?
    }

    async fn promote(&self, upload: UploadKey, filename: &str) -> Result<(), ApiError> {
        let job = upload.task.job;
        let (from, to) = (uploaded(upload, filename), published(job, filename));
        let (place, last) = (self.inner.storage.artifacts(), &self.inner.published);
        let named = (job, filename.to_owned());
        let size = match place.size(&from).await {
            Err(StorageError::NotFound(name)) => {
                let of = last.get(&named).await;
                let gone = StorageError::NotFound(name);
                return if of == Some(upload) {
                    Ok(())
                } else {
                    Err(gone.into())
                };
            }
            size => size?,
        };
        let most = self.inner.storage.upload_bytes();
        if size > most {
            // A bucket takes what a signed URL sends.
            place.remove(&from).await?;
            let words =
                format!("the file is {size} bytes; at most {most} are taken (storage.upload_mib)");
            return Err(ApiError::new(Kind::Invalid, words));
        }
        // Whatever comes of it, what was there is not what it was.
        last.invalidate(&named).await;
        place.rename(&from, &to).await?;
        last.insert(named, upload).await;
        Ok(())
    }

    /// Whether an attempt is its job's live one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_live(&self, job: JobId, attempt: AttemptNo) -> Result<bool, ApiError> {
        let job = self.inner.store.job(job)?;
        let live = job.as_ref().and_then(|job| job.live());
        Ok(live.map(|live| live.number) == Some(attempt))
    }

    /// What attempts before this one have uploaded and never published, and what this one has sent of the file before.
    async fn overtaken(&self, upload: UploadKey, filename: &str) -> Vec<String> {
        let (task, own) = (upload.task, uploaded(upload, filename));
        let place = self.inner.storage.artifacts();
        let found = place.list(&format!("{UPLOADS}/{}", task.job), MOST).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(job = %task.job, %error, "uploads that were never published cannot be listed");
            Vec::new()
        });
        let sent = found.iter().find(|entry| entry.path == own);
        let sent = sent.and_then(|entry| entry.written_at);
        let is_overtaken = |entry: &Entry| {
            let earlier = attempt_of(&entry.path).is_some_and(|(_, of)| of < task.attempt);
            // One that came later is to be published next.
            let before = entry.written_at.zip(sent).is_some_and(|(at, own)| at < own);
            earlier || (before && is_upload_of(&entry.path, task, filename))
        };
        let gone = found.into_iter().filter(is_overtaken);
        gone.map(|entry| entry.path).collect()
    }

    async fn clear(&self, overtaken: Vec<String>) {
        let place = self.inner.storage.artifacts();
        for path in overtaken {
            if let Err(error) = place.remove(&path).await {
                tracing::warn!(path, %error, "an upload that was never published stays behind");
            }
        }
    }

    /// What locations in the artifact store begin with.
    #[must_use]
    pub fn root(&self) -> String {
        self.inner.storage.artifacts().location("")
    }

    /// What `text` leads to.
    #[must_use]
    pub fn beginning(&self, text: &str) -> Beginning {
        Beginning::of(&self.root(), text)
    }

    /// A way to a published checkpoint, for a task of the job `of`. What is being published gets its name first: an attempt
    /// does not begin with what one before it is just about to replace.
    ///
    /// # Errors
    /// When the store does not have it, or cannot sign. Unavailable as long as an attempt of the same job is publishing.
    pub async fn download(
        &self,
        of: JobId,
        (job, filename): (JobId, &str),
    ) -> Result<Download, ApiError> {
        settled(&self.inner.publishing, job, of == job).await?;
        let key = published(job, filename);
        let storage = &self.inner.storage;
        let place = storage.artifacts();
        let size = place.size(&key).await.map_err(|error| {
            if !matches!(error, StorageError::NotFound(_)) {
                return error.into();
            }
            let words = format!(
                "checkpoint '{}' is not in the artifact store; start the job from another one, or from none",
                place.location(&key)
            );
            ApiError::new(Kind::NotFound, words)
        })?;
        let name = format!("artifacts/{key}");
        let url = storage
            .way(Use::Read, (place, &key), (&name, UPLOAD))
            .await?;
        Ok(Download { url, size })
    }

    /// The checkpoints of a job that the store has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn stored_checkpoints(&self, job: JobId) -> Result<Vec<StoredCheckpoint>, ApiError> {
        let place = self.inner.storage.artifacts();
        let found = place.list(&format!("{PUBLISHED}/{job}"), MOST).await;
        let found = found.map_err(|error| unlisted(job, error))?;
        let row = |entry: Entry| StoredCheckpoint {
            filename: entry.path.rsplit('/').next().unwrap_or_default().to_owned(),
            location: place.location(&entry.path),
            size: entry.size,
        };
        Ok(found.into_iter().map(row).collect())
    }
}

/// Whoever asks what a job has stored has said nothing that could be wrong: what is, is the store.
fn unlisted(job: JobId, error: StorageError) -> ApiError {
    if error.kind() != Kind::Invalid {
        return error.into();
    }
    let words = format!(
        "the checkpoints of job {job} cannot be listed: {error}; an administrator has to look at the artifact store"
    );
    ApiError::new(Kind::Internal, words)
}

fn published(job: JobId, filename: &str) -> String {
    format!("{PUBLISHED}/{job}/{filename}")
}

/// Where an attempt's files lie until they are published.
pub(super) fn uploads_of(task: TaskKey) -> String {
    let TaskKey { job, attempt, rank } = task;
    format!("{UPLOADS}/{job}/{}-{}-", attempt.0, rank.0)
}

fn uploaded(upload: UploadKey, filename: &str) -> String {
    let own = uploads_of(upload.task);
    match upload.number {
        // Of an agent from before uploads were told apart.
        0 => format!("{own}{filename}"),
        number => format!("{own}{number:016x}-{filename}"),
    }
}

/// Whether this is the key of one of the task's uploads of that file.
fn is_upload_of(key: &str, task: TaskKey, filename: &str) -> bool {
    let own = key.strip_prefix(&uploads_of(task));
    let told_apart = own.and_then(|rest| rest.split_once('-'));
    told_apart.is_some_and(|(number, file)| number.len() == 16 && file == filename)
}

/// The attempt whose upload has this key; none for keys of anything else.
pub(crate) fn attempt_of(key: &str) -> Option<(JobId, AttemptNo)> {
    let (job, file) = key
        .strip_prefix(UPLOADS)?
        .strip_prefix('/')?
        .split_once('/')?;
    let (attempt, _) = file.split_once('-')?;
    Some((JobId(job.parse().ok()?), AttemptNo(attempt.parse().ok()?)))
}

/// The job and the file of a published key, if it is written as we write it.
fn parse(key: &str) -> Option<(JobId, &str)> {
    let (job, filename) = key
        .strip_prefix(PUBLISHED)?
        .strip_prefix('/')?
        .split_once('/')?;
    let id = JobId(job.parse().ok()?);
    check_filename(filename).ok()?;
    (id.to_string() == job).then_some((id, filename))
}

fn busy() -> ApiError {
    let words = "another upload of the job is still being worked on; try again in a moment";
    ApiError::new(Kind::Unavailable, words)
}

/// Refuses what is no plain name of a file.
///
/// # Errors
/// Names the field.
pub(crate) fn check_filename(name: &str) -> Result<(), ApiError> {
    let plain = !name.contains(['/', '\\']) && !name.starts_with('.') && name.len() <= 200;
    if plain && check_key(name).is_ok() {
        return Ok(());
    }
    let words = "is no name for a checkpoint; give one such as best.pt, without folders";
    Err(ApiError::field("checkpoint_filename", words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_has_a_name_and_no_folder() {
        for name in ["best.pt", "epoch-3.ckpt", "ü.pt", "a b"] {
            check_filename(name).unwrap();
        }
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "a\\b",
            ".hidden",
            "a\0",
            &"x".repeat(201),
        ] {
            let error = check_filename(name).unwrap_err();
            assert!(error.message.contains("checkpoint_filename"), "{error:?}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_written_and_in_no_other_way() {
        let of = |key| parse(key).map(|(job, name)| (job.0, name));
        assert_eq!(of("checkpoints/7/last.pt"), Some((7, "last.pt")));
        for key in [
            "checkpoints/7",
            "checkpoints/7/",
            "checkpoints/07/last.pt",
            "checkpoints/+7/last.pt",
            "checkpoints/7/../8/last.pt",
            "checkpoints/7/a/b.pt",
            "checkpoints//last.pt",
            "checkpointsx/7/last.pt",
            "uploads/7/1-0-last.pt",
            "snapshots/7/metadata.json",
        ] {
            assert_eq!(of(key), None, "{key}");
        }
        let task = TaskKey {
            job: JobId(7),
            attempt: AttemptNo(12),
            rank: trainyard_core::ids::Rank(0),
        };
        for number in [0, 1, u64::MAX] {
            let key = uploaded(UploadKey { task, number }, "a-1.pt");
            assert_eq!(attempt_of(&key), Some((JobId(7), AttemptNo(12))));
            assert!(key.starts_with(&uploads_of(task)));
            assert_eq!(is_upload_of(&key, task, "a-1.pt"), number > 0);
            assert!(!is_upload_of(&key, task, "1.pt"));
        }
        assert_eq!(attempt_of("checkpoints/7/1-0-x"), None);
    }
}
