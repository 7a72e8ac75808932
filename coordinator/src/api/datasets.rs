//! Datasets, snapshots and checkpoints: the part of the service that is about files.
//!
//! Owns who may do what with them; how is `crate::datasets`. Called by both doors.

use futures::Stream;
use trainyard_core::{
    access::{Permission, SystemRole},
    ids::{JobId, TaskKey},
    job::{Job, Resume},
    snapshot::Snapshot,
    spec::texts::path_problem,
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target};
use crate::{
    datasets::{
        Beginning, DatasetRow, Download, ManifestPage, NewDataset, Sent, StoredCheckpoint, Upload,
        UploadKey, attempt_of,
    },
    storage::{Address, Parts},
};

impl Service {
    /// Registers a dataset in the catalog.
    ///
    /// # Errors
    /// When the caller may not, or it cannot be registered as asked.
    pub async fn add_dataset(
        &self,
        caller: &Caller,
        new: NewDataset,
    ) -> Result<DatasetRow, ApiError> {
        self.require(caller, Permission::RegisterDatasets, Target::Cluster)?;
        self.may_name(caller, &new.storage_path)?;
        self.data().add(caller, new).await
    }

    /// Any folder of this machine is for administrators to name; others keep to those that were set.
    fn may_name(&self, caller: &Caller, path: &str) -> Result<(), ApiError> {
        let admin = SystemRole::parse(&caller.user.role) == Some(SystemRole::Admin);
        let local = matches!(Address::parse(path), Ok(Address::Folder(_)));
        if admin || !local || self.data().storage().has_roots() {
            return Ok(());
        }
        let words = "folders of the coordinator's machine are registered by administrators only while no folder is set for everybody (datasets.local_roots); ask an administrator for either";
        Err(ApiError::new(Kind::Forbidden, words))
    }

    /// Takes a dataset out of the catalog; its files and its snapshots stay.
    ///
    /// # Errors
    /// When the caller may not, or there is none.
    pub async fn remove_dataset(&self, caller: &Caller, id: &str) -> Result<(), ApiError> {
        self.require(caller, Permission::RegisterDatasets, Target::Cluster)?;
        self.data().remove(id).await
    }

    /// One dataset.
    ///
    /// # Errors
    /// When the caller may not see it, or there is none.
    pub async fn dataset(&self, caller: &Caller, id: &str) -> Result<DatasetRow, ApiError> {
        self.require(caller, Permission::ReadDatasets, Target::Cluster)?;
        self.data().dataset(caller, id).await
    }

    /// A page of datasets after a token, and the next page's token.
    ///
    /// # Errors
    /// When the caller may not see them, or the Labeler cannot be reached.
    pub async fn datasets(
        &self,
        caller: &Caller,
        (token, limit): (&str, usize),
    ) -> Result<(Vec<DatasetRow>, Option<String>), ApiError> {
        self.require(caller, Permission::ReadDatasets, Target::Cluster)?;
        self.data()
            .datasets(caller, (token, self.page(limit)))
            .await
    }

    /// A page of snapshots by id after a token, of one dataset or of all, and the next page's token. With
    /// the Labeler those whose datasets it does not let the caller read are left out: a page may be
    /// short, or empty, and not be the last.
    ///
    /// # Errors
    /// When the caller may not see them, or the Labeler cannot be asked.
    pub async fn snapshots(
        &self,
        caller: &Caller,
        dataset: Option<String>,
        (token, limit): (&str, usize),
    ) -> Result<(Vec<Snapshot>, Option<String>), ApiError> {
        self.require(caller, Permission::ReadDatasets, Target::Cluster)?;
        let limit = self.data().snapshot_rows(self.page(limit));
        let all = self.data().snapshots(dataset).await?;
        let mut rows: Vec<Snapshot> = all
            .into_iter()
            .filter(|row| row.id.as_str() > token)
            .take(limit.saturating_add(1))
            .collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id.clone());
        Ok((self.data().readable(caller, rows).await?, next))
    }

    /// One snapshot.
    ///
    /// # Errors
    /// When the caller may not see it or its dataset, or there is none.
    pub async fn snapshot(&self, caller: &Caller, id: &str) -> Result<Snapshot, ApiError> {
        self.require(caller, Permission::ReadDatasets, Target::Cluster)?;
        let found = self.data().snapshot(id)?;
        self.data().may_read(caller, &found.dataset_id).await?;
        Ok(found)
    }

    /// Forgets a snapshot; the dataset is not touched.
    ///
    /// # Errors
    /// When the caller may not or may not read its dataset, there is none, or a job that has not ended
    /// trains on it.
    pub async fn delete_snapshot(&self, caller: &Caller, id: &str) -> Result<(), ApiError> {
        self.require(caller, Permission::RegisterDatasets, Target::Cluster)?;
        // Administrators clean up what nobody can read any more, such as of a dataset that is gone.
        if SystemRole::parse(&caller.user.role) != Some(SystemRole::Admin) {
            let found = self.data().snapshot(id)?;
            self.data().may_read(caller, &found.dataset_id).await?;
        }
        self.data().delete_snapshot(id).await
    }

    /// The files of a live task's snapshot after a path, in pages, each with a way.
    ///
    /// # Errors
    /// When the secret is not that of the live attempt, or the job names no dataset.
    pub fn manifest(
        &self,
        task: TaskKey,
        secret: String,
        after: String,
    ) -> Result<impl Stream<Item = Result<ManifestPage, ApiError>> + Send + use<>, ApiError> {
        self.alive(task, &secret)?;
        let job = self.store().job(task.job)?.ok_or_else(ApiError::no_job)?;
        let none = || ApiError::new(Kind::NotFound, "the job names no dataset by its id");
        let snapshot = self
            .data()
            .snapshot(job.snapshot_id.as_deref().ok_or_else(none)?)?;
        let service = self.clone();
        let live = move || service.alive(task, &secret);
        Ok(self.data().manifest(snapshot, after, live))
    }

    /// A way for a live task to upload a checkpoint.
    ///
    /// # Errors
    /// When the secret is not that of the live attempt, or the name or size is not taken.
    pub async fn sign_upload(
        &self,
        (upload, secret): (UploadKey, &str),
        filename: &str,
        size: u64,
    ) -> Result<Upload, ApiError> {
        self.alive(upload.task, secret)?;
        let most = self.data().storage().upload_bytes();
        if size > most {
            let words = format!("is {size}; at most {most} bytes are taken (storage.upload_mib)");
            return Err(ApiError::field("size_bytes", words));
        }
        self.data().upload_of(upload, filename).await
    }

    /// Gives a live task's upload its checkpoint's name.
    ///
    /// # Errors
    /// When the secret is not that of the live attempt, or nothing was uploaded.
    pub async fn publish_upload(
        &self,
        (upload, secret): (UploadKey, String),
        filename: &str,
    ) -> Result<(), ApiError> {
        let service = self.clone();
        let live = move || service.alive(upload.task, &secret);
        self.data().publish(upload, filename, live).await
    }

    /// Whether a file with this key is still wanted: what an attempt sends when it is over is not.
    ///
    /// # Errors
    /// Says which attempt is over.
    pub fn takes_upload(&self, key: &str) -> Result<(), ApiError> {
        let Some((id, number)) = attempt_of(key) else {
            return Ok(());
        };
        if self.data().is_live(id, number)? {
            return Ok(());
        }
        let words = format!(
            "attempt {} of job {id} is over; what it sends is not stored",
            number.0
        );
        Err(ApiError::new(Kind::Conflict, words))
    }

    /// A way to the checkpoint that a live task begins with; none when its job names nothing of the
    /// artifact store.
    ///
    /// # Errors
    /// When the secret is not that of the live attempt, or the store does not have the file.
    pub async fn sign_download(
        &self,
        (task, secret): (TaskKey, &str),
    ) -> Result<Option<Download>, ApiError> {
        self.alive(task, secret)?;
        let job = self.store().job(task.job)?.ok_or_else(ApiError::no_job)?;
        let text = job.spec.resume_from.unwrap_or_default();
        match self.data().beginning(&text) {
            Beginning::Elsewhere => Ok(None),
            Beginning::Stored(of, filename) => {
                let found = self.data().download(task.job, (of, &filename)).await;
                found.map(Some)
            }
            Beginning::Nothing => Err(ApiError::new(Kind::NotFound, no_checkpoint(&text))),
        }
    }

    /// Refuses to begin with a checkpoint of the artifact store whose job the caller may not read; a
    /// job that is hidden answers as one that is not there.
    ///
    /// # Errors
    /// Names the field.
    pub(super) fn may_begin_with(
        &self,
        caller: &Caller,
        (field, text): (&str, &str),
    ) -> Result<(), ApiError> {
        if let Some(words) = path_problem(text) {
            return Err(ApiError::field(field, words));
        }
        let refused = || ApiError::field(field, no_checkpoint(text));
        match self.data().beginning(text) {
            Beginning::Elsewhere => Ok(()),
            Beginning::Nothing => Err(refused()),
            Beginning::Stored(id, _) => match self.readable(caller, id) {
                Err(error) if error.kind == Kind::NotFound => Err(refused()),
                read => read.map(drop),
            },
        }
    }

    /// Where a job is to begin, said outright and checked: its last checkpoint is what its trainer has
    /// called so, which may be anything.
    pub(super) fn beginning_of(
        &self,
        caller: &Caller,
        job: &Job,
        wanted: Resume,
    ) -> Result<Resume, ApiError> {
        let last = job.last_checkpoint.as_ref().filter(|_| wanted.whole);
        let last = last.map(|checkpoint| checkpoint.path.clone());
        let checkpoint = wanted.checkpoint.or(last);
        if let Some(text) = &checkpoint {
            self.may_begin_with(caller, ("checkpoint_path", text))?;
        }
        Ok(Resume {
            whole: wanted.whole && checkpoint.is_some(),
            checkpoint,
        })
    }

    /// The parts in which a live task sends a checkpoint that it was given a way for; none where it goes
    /// in one request.
    ///
    /// # Errors
    /// When the store cannot begin it, or does not take so much.
    pub async fn begin_parts(&self, key: &str, size: u64) -> Result<Option<Parts>, ApiError> {
        self.data().begin_parts(key, size).await
    }

    /// Makes a checkpoint of a live task of its parts, or forgets them.
    ///
    /// # Errors
    /// When the secret is not that of the live attempt, or a part is missing.
    pub async fn end_parts(
        &self,
        (task, secret): (TaskKey, &str),
        sent: Sent,
    ) -> Result<(), ApiError> {
        self.alive(task, secret)?;
        self.data().end_parts(task, sent).await
    }

    /// A way for a user to store a checkpoint of a job.
    ///
    /// # Errors
    /// When there is no such job, the caller may not change it, or the name is none.
    pub async fn upload_url(
        &self,
        caller: &Caller,
        id: JobId,
        filename: &str,
    ) -> Result<Upload, ApiError> {
        let job = self.store().job(id)?.ok_or_else(ApiError::no_job)?;
        self.require(caller, Permission::ChangeJob, Target::Job(&job))?;
        self.data().upload(id, filename).await
    }

    /// The checkpoints of a job that the artifact store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored_checkpoints(&self, id: JobId) -> Result<Vec<StoredCheckpoint>, ApiError> {
        self.data().stored_checkpoints(id).await
    }

    /// Whether the task is one of this node's: an agent has no business with the tasks of another, even if
    /// it came to know their secret.
    ///
    /// # Errors
    /// When it is not, as if there were no such job.
    pub fn is_on(&self, task: TaskKey, node: &str) -> Result<(), ApiError> {
        let job = self.store().job(task.job)?;
        let live = job.as_ref().and_then(|job| job.live());
        let part = live.and_then(|live| live.part(task.rank));
        let here = part.is_some_and(|part| part.allocation.node.0 == node);
        here.then_some(()).ok_or_else(ApiError::no_job)
    }

    /// Whether `secret` is that of this live attempt.
    fn alive(&self, task: TaskKey, secret: &str) -> Result<(), ApiError> {
        self.may_report(task.job, secret)?;
        let job = self.store().job(task.job)?;
        let number = job
            .as_ref()
            .and_then(|job| job.attempt())
            .map(|live| live.number);
        (number == Some(task.attempt))
            .then_some(())
            .ok_or_else(ApiError::no_job)
    }
}

fn no_checkpoint(text: &str) -> String {
    let shown: String = text.chars().take(300).collect();
    format!(
        "'{shown}' is no checkpoint of a job that you may read; GET /training/jobs/{{id}}/checkpoints says where those of a job lie"
    )
}
