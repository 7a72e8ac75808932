//! Datasets by their id: who knows them, the snapshots that jobs train on, and what agents fetch.
//!
//! Owns the order of a submit with a dataset: metadata and permission, files and digests, split,
//! snapshot. One dataset is read by one submit at a time, so that two make one snapshot. What a caller
//! may do is checked by the service before. Called by the service and, for the snapshot of a start, by
//! the actor of a job.

mod catalog;
mod checkpoints;
mod digests;
mod document;
mod labeler;
mod make;
mod manifest;
mod orphans;
mod parts;
mod record;
mod rows;
mod settled;
mod verify;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use moka::future::Cache;
use tokio::sync::{Mutex as Lock, OwnedMutexGuard, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trainyard_core::{
    dataset::{Format, misfit, trained_tasks},
    ids::JobId,
    snapshot::Snapshot,
    spec::{JobSpec, TaskType},
};
use trainyard_proto::status::Kind;

pub(crate) use self::checkpoints::{UPLOAD, attempt_of, check_filename};
pub(crate) use self::wire::dataset as dataset_to_wire;
pub use self::{
    catalog::NewDataset,
    checkpoints::{Beginning, Download, StoredCheckpoint, Upload, UploadKey},
    labeler::Health,
    manifest::ManifestPage,
    parts::Sent,
    rows::DatasetRow,
};

use self::{digests::Digests, labeler::Labeler};
use crate::{
    actors::jobs::Prepared,
    api::{ApiError, Caller},
    config::{Config, Provider},
    storage::{Place, Storage},
    store::Store,
};

/// Datasets that are read at once: each may hold its annotations in memory.
const READERS: usize = 4;
/// Snapshots on a page while the Labeler is asked about each dataset, and how many questions are open at
/// once.
const LABELER_ROWS: usize = 100;
const ASKED: usize = 8;
/// Places that are kept open, and for how long after their last use.
const PLACES: u64 = 64;
const KEPT: Duration = Duration::from_secs(60);

/// Publications that are remembered, and for how long.
const PUBLISHED: u64 = 10_000;
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// Datasets and snapshots. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Datasets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    storage: Storage,
    labeler: Option<Labeler>,
    digests: Digests,
    limit: Duration,
    most: usize,
    locks: Turns,
    /// Of jobs whose checkpoints are being published.
    publishing: Turns,
    /// Which upload was last given a name, for an agent that has not heard the answer.
    published: Cache<(JobId, String), UploadKey>,
    documents: u64,
    readers: Arc<Semaphore>,
    places: Cache<String, Place>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Who may go on, one at a time for each name.
#[derive(Debug, Default)]
struct Turns(Mutex<BTreeMap<String, Arc<Lock<()>>>>);

impl Turns {
    /// The turn of this name, unless it does not come within `patience`.
    async fn take(&self, name: &str, patience: Duration) -> Option<OwnedMutexGuard<()>> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        tokio::time::timeout(patience, lock.lock_owned()).await.ok()
    }
}

/// A dataset as a submit needs it.
#[derive(Clone, Debug)]
struct Found {
    id: String,
    storage_path: String,
    format: Format,
    document: Option<document::Named>,
}

impl Datasets {
    /// Over a store and a storage, by the settings.
    ///
    /// # Errors
    /// When the Labeler's client cannot be made.
    pub fn new(store: Store, storage: Storage, config: &Config) -> Result<Self, ApiError> {
        let labeler = match config.datasets.provider {
            Provider::Catalog => None,
            Provider::Labeler => Some(Labeler::new(&config.labeler)?),
        };
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let folder: PathBuf = config.store.data_dir.join("digests");
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                storage,
                labeler,
                digests: Digests::new(folder, count(config.datasets.parallel)),
                limit: Duration::from_secs(config.datasets.snapshot_seconds.into()),
                most: count(config.datasets.max_files),
                locks: Turns::default(),
                publishing: Turns::default(),
                published: Cache::builder()
                    .max_capacity(PUBLISHED)
                    .time_to_live(REMEMBERED)
                    .build(),
                documents: u64::from(config.datasets.documents_mib) << 20,
                readers: Arc::new(Semaphore::new(READERS)),
                places: Cache::builder()
                    .max_capacity(PLACES)
                    .time_to_live(KEPT)
                    .build(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        })
    }

    /// Where files lie.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    /// How the Labeler fares, asked a few seconds ago at most; none when there is none.
    pub async fn labeler_health(&self) -> Option<Health> {
        match &self.inner.labeler {
            Some(labeler) => Some(labeler.health().await),
            None => None,
        }
    }

    /// The snapshot of the dataset that `spec` names by its id, made or found again; none without one. The
    /// dataset's format goes into `spec`. Until the answer is dropped nobody else reads or forgets the
    /// dataset's snapshots.
    ///
    /// # Errors
    /// As the contract words them for an unknown or forbidden dataset and an unreachable Labeler; a split
    /// that the dataset does not allow; a dataset that cannot be read, or not in time.
    pub async fn prepare(
        &self,
        caller: &Caller,
        spec: &mut JobSpec,
    ) -> Result<Option<Prepared>, ApiError> {
        let Some(id) = spec.dataset_id.clone().filter(|id| !id.is_empty()) else {
            return Ok(None);
        };
        let found = self.find(&id, caller).await?;
        fits(spec, Some(found.format))?;
        found.format.name().clone_into(&mut spec.dataset_format);
        let order = make::Order {
            found,
            task: TaskType::parse(&spec.task_type),
            trained: trained_tasks(&spec.framework).is_some(),
            strategy: spec.split_strategy.clone(),
            by: (caller.user.id, caller.user.email.clone()),
            notes: spec.notes.clone(),
        };
        let datasets = self.clone();
        let stop = self.inner.stop.clone();
        // A caller that goes away does not undo what was read for it.
        let making = async move { stop.run_until_cancelled(datasets.make(order)).await };
        let made = self.inner.tasks.spawn(making).await;
        let fault = |error: tokio::task::JoinError| {
            let words = format!("the dataset could not be read: {error}");
            ApiError::new(Kind::Internal, words)
        };
        made.map_err(fault)?
            .ok_or_else(crate::api::stopping)?
            .map(Some)
    }

    /// Ends what is being read, so that nobody holds the store any more.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// The dataset of this id, if the caller may read it.
    async fn find(&self, id: &str, caller: &Caller) -> Result<Found, ApiError> {
        let Some(labeler) = &self.inner.labeler else {
            let row = self.registered(id)?;
            return Ok(Found {
                format: known_format(id, &row.format)?,
                id: row.id,
                storage_path: row.storage_path,
                document: None,
            });
        };
        let told = labeler.dataset(id, caller.user.id).await?;
        let format = told.format.as_deref().unwrap_or_default();
        Ok(Found {
            format: known_format(id, format)?,
            storage_path: labeler.storage_path(&told, id)?,
            document: labeler.document(&told),
            id: id.to_owned(),
        })
    }

    /// One snapshot.
    ///
    /// # Errors
    /// When there is none.
    pub fn snapshot(&self, id: &str) -> Result<Snapshot, ApiError> {
        let found = self.inner.store.document::<Snapshot>(id)?;
        found.ok_or_else(|| ApiError::new(Kind::NotFound, format!("there is no snapshot '{id}'")))
    }

    /// Whether the caller may see a dataset's snapshots: with the Labeler, as it says.
    ///
    /// # Errors
    /// When the Labeler denies it, or cannot be asked.
    pub async fn may_read(&self, caller: &Caller, dataset: &str) -> Result<(), ApiError> {
        match &self.inner.labeler {
            None => Ok(()),
            Some(labeler) => labeler.may_read(dataset, caller.user.id).await,
        }
    }

    /// Of these snapshots the ones whose datasets the caller may read; each dataset is asked for once.
    ///
    /// # Errors
    /// When the Labeler cannot be asked.
    pub async fn readable(
        &self,
        caller: &Caller,
        mut rows: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, ApiError> {
        if self.inner.labeler.is_none() {
            return Ok(rows);
        }
        let named: BTreeSet<String> = rows.iter().map(|row| row.dataset_id.clone()).collect();
        let asked = futures::stream::iter(named).map(async |id| {
            let said = self.may_read(caller, &id).await;
            (id, said)
        });
        let mut asked = std::pin::pin!(asked.buffer_unordered(ASKED));
        let mut hidden = BTreeSet::new();
        while let Some((id, said)) = asked.next().await {
            match said {
                Ok(()) => {}
                Err(error) if error.kind == Kind::Forbidden => {
                    hidden.insert(id);
                }
                Err(error) => return Err(error),
            }
        }
        rows.retain(|row| !hidden.contains(&row.dataset_id));
        Ok(rows)
    }

    /// How many snapshots a page has at most.
    pub fn snapshot_rows(&self, wanted: usize) -> usize {
        match &self.inner.labeler {
            None => wanted,
            Some(_) => wanted.min(LABELER_ROWS),
        }
    }

    /// Snapshots by id, of one dataset or of all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn snapshots(&self, dataset: Option<String>) -> Result<Vec<Snapshot>, ApiError> {
        let store = self.inner.store.clone();
        let read = move || store.documents::<Snapshot>("");
        let all = trainyard_runtime::blocking(read).await;
        let mut all = all.ok().ok_or_else(crate::api::stopping)??;
        all.retain(|row| dataset.as_ref().is_none_or(|id| *id == row.dataset_id));
        Ok(all)
    }

    /// Forgets a snapshot and its metadata; the dataset is not touched.
    ///
    /// # Errors
    /// When there is none, or a job that has not ended trains on it.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), ApiError> {
        let snapshot = self.snapshot(id)?;
        let _lock = self.lock(&snapshot.dataset_id).await?;
        let store = self.inner.store.clone();
        let open = trainyard_runtime::blocking(move || store.open_jobs()).await;
        let open = open.ok().ok_or_else(crate::api::stopping)??;
        let user = open
            .iter()
            .find(|job| job.snapshot_id.as_deref() == Some(id));
        if let Some(job) = user {
            let words = format!(
                "snapshot '{id}' is what job {} trains on; cancel the job or wait for its end",
                job.id
            );
            return Err(ApiError::new(Kind::Conflict, words));
        }
        let changes = rows::forget(&self.inner.store, &snapshot)?;
        self.inner.store.commit_and_wait(changes).await?;
        if let Err(error) = self.remove_files(id).await {
            tracing::warn!(snapshot = %id, %error, "files of a deleted snapshot stay behind for a day");
        }
        Ok(())
    }

    /// Keeps a snapshot from being deleted while a job that trains on it is started again.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn hold(&self, id: Option<&str>) -> Result<Option<OwnedMutexGuard<()>>, ApiError> {
        let Some(id) = id else { return Ok(None) };
        let gone = |_| {
            let words = format!("snapshot '{id}' of the job was deleted; submit the job anew");
            ApiError::new(Kind::Conflict, words)
        };
        let snapshot = self.snapshot(id).map_err(gone)?;
        let lock = self.lock(&snapshot.dataset_id).await?;
        self.snapshot(id).map_err(gone)?;
        Ok(Some(lock))
    }

    /// The right to read a dataset, or to forget what was read.
    async fn lock(&self, dataset: &str) -> Result<OwnedMutexGuard<()>, ApiError> {
        let held = self.inner.locks.take(dataset, self.inner.limit).await;
        held.ok_or_else(|| {
            let words = format!(
                "dataset '{dataset}' is still being read for another submission; try again later"
            );
            ApiError::new(Kind::Unavailable, words)
        })
    }

    /// A place by its path or URL. What takes connections is kept open for a while; a folder is not, for
    /// it may be put in place anew.
    async fn place(&self, path: &str) -> Result<Place, ApiError> {
        if path.starts_with('/') {
            return Ok(self.inner.storage.place(path).await?);
        }
        let opened = self
            .inner
            .places
            .try_get_with_by_ref(path, self.inner.storage.place(path));
        opened.await.map_err(|error| (*error).clone().into())
    }
}

/// Refuses what no trainer could train; `format` is that of a dataset that a provider knows.
///
/// # Errors
/// At the field that does not go with the others.
pub(crate) fn fits(spec: &JobSpec, format: Option<Format>) -> Result<(), ApiError> {
    let task = TaskType::parse(&spec.task_type);
    let found = task.and_then(|task| misfit(&spec.framework, task, format));
    found.map_or(Ok(()), |found| Err(ApiError::misfit(found)))
}

fn known_format(id: &str, name: &str) -> Result<Format, ApiError> {
    Format::parse(name).ok_or_else(|| {
        let words = format!(
            "dataset '{id}' has the format '{name}'; known are dice, yolo, coco and imagefolder"
        );
        ApiError::new(Kind::Invalid, words)
    })
}
