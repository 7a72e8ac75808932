//! Making a snapshot: list, hash, split, store; or find that there is one already.
//!
//! Owns the time that it may take. What is kept of one is up to `record`. Called by
//! `datasets::prepare`, on a task of its own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use trainyard_core::{
    dataset::{self, Dataset, DatasetError, Documents, FileEntry, MOST_DOCUMENT_BYTES, Resolved},
    snapshot::Elsewhere,
    spec::{TaskType, Violation},
};
use trainyard_proto::status::Kind;

use super::{
    Datasets, Found,
    digests::{Digest, Taken},
    document::{Document, join},
    manifest,
    record::{self, draft},
    rows,
};
use crate::{
    actors::jobs::Prepared,
    api::ApiError,
    storage::{Entry, Place, StorageError},
};

/// For what is left to be read when all digests are taken, at least.
const DOCUMENTS: Duration = Duration::from_secs(30);

/// What is to be made.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) found: Found,
    pub(super) task: Option<TaskType>,
    /// By one of our trainers, which needs what the task needs.
    pub(super) trained: bool,
    pub(super) strategy: Option<Value>,
    /// Number and e-mail address.
    pub(super) by: (u64, String),
    /// What the job's owner has noted.
    pub(super) notes: Option<String>,
}

/// What is known of a dataset's files.
pub(super) struct Read {
    pub(super) files: Vec<FileEntry>,
    pub(super) digests: Vec<Digest>,
    documents: Documents,
    pub(super) elsewhere: Option<Elsewhere>,
}

/// Entries and files, the documents to be read, and the one that lies elsewhere.
type Survey = (Arc<[Entry]>, Vec<FileEntry>, Vec<String>, Option<Document>);

/// What a split came to.
pub(super) struct Split {
    pub(super) summary: Value,
    pub(super) named_parts: Option<String>,
    pub(super) hash: String,
}

impl Datasets {
    pub(super) async fn make(&self, order: Order) -> Result<Prepared, ApiError> {
        let lock = self.lock(&order.found.id).await?;
        let order = Arc::new(order);
        let late = |_| self.late(&order.found.id);
        let reader = tokio::time::timeout(self.inner.limit, self.inner.readers.acquire());
        let _reader = reader.await.map_err(late)?;
        let place = self.inner.storage.place(&order.found.storage_path).await;
        let place = place.map_err(|error| of_dataset(&order.found.id, error))?;
        let read = Arc::new(self.read(&place, &order).await?);
        let split = Arc::new(self.split(&read, &order).await?);
        let made = {
            let (order, read, split) = (Arc::clone(&order), Arc::clone(&read), Arc::clone(&split));
            let place = place.name();
            aside(move || draft(&order, (place, &read), &split)).await??
        };
        let known = rows::same(&self.inner.store, &made)?;
        let changes = match &known {
            Some(_) => Vec::new(),
            None => rows::remember(&made),
        };
        let is_known = known.is_some();
        let snapshot = known.unwrap_or(made);
        let files = {
            let (snapshot, by) = (snapshot.clone(), order.by.0);
            aside(move || record::files(&snapshot, (&read, &split), by)).await?
        };
        let keeping = async {
            match is_known {
                true => self.mend(&snapshot.id, files).await,
                false => self.keep(&snapshot, files).await,
            }
        };
        let keeping = tokio::time::timeout(self.inner.limit, keeping);
        keeping.await.map_err(late)??;
        Ok(Prepared {
            id: snapshot.id,
            changes,
            held: Some(lock),
        })
    }

    fn late(&self, id: &str) -> ApiError {
        let words = format!(
            "dataset '{id}' could not be read within {} s (datasets.snapshot_seconds); try again later",
            self.inner.limit.as_secs()
        );
        ApiError::new(Kind::Unavailable, words)
    }

    /// Listing is part of the time in which digests are taken. Those end by themselves when it is over and
    /// are never cut off, so that what was read is kept.
    async fn read(&self, place: &Place, order: &Order) -> Result<Read, ApiError> {
        let id = &order.found.id;
        let deadline = Instant::now() + self.inner.limit;
        let late = |_| self.late(id);
        let surveyed = timeout_at(deadline, self.survey(place, order)).await;
        let (entries, files, needed, document) = surveyed.map_err(late)??;
        let mut digests = self.digests(place, (&entries, deadline), order).await?;
        if let Some(document) = &document {
            document.digest(&files, &mut digests);
        }
        let elsewhere = document.as_ref().map(|own| own.elsewhere.clone());
        let own = (document, files.as_slice(), digests.as_slice());
        let reading = read_all(place, needed, own, self.inner.documents);
        let until = deadline.max(Instant::now() + DOCUMENTS);
        let documents = timeout_at(until, reading).await.map_err(late)?;
        let documents = documents.map_err(|error| of_dataset(id, error))?;
        Ok(Read {
            files,
            digests,
            documents,
            elsewhere,
        })
    }

    /// All that is there, as far as that can be said without reading the dataset's files.
    async fn survey(&self, place: &Place, order: &Order) -> Result<Survey, ApiError> {
        let told = |error| of_dataset(&order.found.id, error);
        let entries = place.list("", self.inner.most).await.map_err(told)?;
        let document = self.document(order, place, &entries).await?;
        let joining = document.as_ref().map(Document::entry);
        let (entries, files, needed) = self.files(entries, joining, order).await?;
        Ok((entries, files, needed, document))
    }

    /// The files as decisions see them, and which of them are documents to be read. For a large dataset
    /// this takes a while.
    async fn files(
        &self,
        entries: Vec<Entry>,
        document: Option<FileEntry>,
        order: &Order,
    ) -> Result<(Arc<[Entry]>, Vec<FileEntry>, Vec<String>), ApiError> {
        let (found, task, most) = (order.found.clone(), order.task, self.inner.documents);
        let work = move || {
            let file = |entry: &Entry| FileEntry {
                path: entry.path.clone(),
                size: entry.size,
            };
            let mut files: Vec<FileEntry> = entries.iter().map(file).collect();
            if let Some(document) = document {
                join(document, &mut files);
            }
            let needed = dataset::needed(&view(&found, task, &files));
            let needed = needed.map_err(|error| refused(&found.id, error))?;
            in_bounds(&found.id, (&files, &needed), most)?;
            Ok((entries.into(), files, needed))
        };
        aside(work).await?
    }

    async fn digests(
        &self,
        place: &Place,
        (entries, deadline): (&Arc<[Entry]>, Instant),
        order: &Order,
    ) -> Result<Vec<Digest>, ApiError> {
        let id = &order.found.id;
        let taken = self.inner.digests.take(place, entries, deadline).await;
        match taken.map_err(|error| of_dataset(id, error))? {
            Taken::All(digests) => Ok(digests),
            Taken::Some(done) => {
                let words = format!(
                    "dataset '{id}' is large: {done} of {} files were read within {} s (datasets.snapshot_seconds); submit again to go on from there",
                    entries.len(),
                    self.inner.limit.as_secs()
                );
                Err(ApiError::new(Kind::Unavailable, words))
            }
        }
    }

    /// Parsing large documents takes a thread that may block.
    async fn split(&self, read: &Arc<Read>, order: &Order) -> Result<Split, ApiError> {
        let (read, found, task) = (Arc::clone(read), order.found.clone(), order.task);
        let trained = order.trained;
        let strategy = order.strategy.clone();
        let work = move || {
            let dataset = view(&found, task, &read.files);
            let told = |error| refused(&found.id, error);
            let inventory = dataset::inventory(&dataset, &read.documents);
            let mut inventory = inventory.map_err(told)?;
            if let Some(lack) = inventory.lacks.take().filter(|_| trained) {
                return Err(lacking(&found.id, &lack));
            }
            let resolved = Resolved::new(strategy.as_ref(), &inventory).map_err(told)?;
            let assignment = dataset::assign(&inventory.images, &resolved).map_err(told)?;
            // What no node could lay out is refused here, and not hours later there.
            dataset::check_layout(&dataset, &inventory, &assignment, &read.documents)
                .map_err(told)?;
            let named_parts = resolved.named_parts().map(|parts| parts.to_string());
            if let Some(parts) = &named_parts {
                manifest::nameable(&found.id, parts.len() as u64)?;
            }
            Ok(Split {
                summary: resolved.summary(&assignment),
                named_parts,
                hash: assignment.hash(),
            })
        };
        aside(work).await?
    }
}

/// The contents of files, which must be those that were hashed.
async fn read_all(
    place: &Place,
    needed: Vec<String>,
    (mut apart, files, digests): (Option<Document>, &[FileEntry], &[Digest]),
    most: u64,
) -> Result<Documents, StorageError> {
    let mut documents = Documents::new();
    let mut left = most;
    for path in needed {
        if let Some(document) = apart.take_if(|own| own.elsewhere.path == path) {
            documents.insert(path, document.bytes);
            continue;
        }
        let bytes = place.read(&path, left.min(MOST_DOCUMENT_BYTES)).await?;
        left = left.saturating_sub(bytes.len() as u64);
        let at = files
            .binary_search_by(|file| file.path.as_str().cmp(&path))
            .ok();
        let digest = at.and_then(|at| digests.get(at));
        if digest != Some(blake3::hash(&bytes).as_bytes()) {
            return Err(StorageError::Changed(path));
        }
        documents.insert(path, bytes);
    }
    Ok(documents)
}

/// Does what takes a while for a large dataset on a thread that may block.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = trainyard_runtime::blocking(work).await;
    done.ok().ok_or_else(crate::api::stopping)
}

/// Refuses documents that are too large together, before any of them is read.
fn in_bounds(
    id: &str,
    (files, needed): (&[FileEntry], &[String]),
    most: u64,
) -> Result<(), ApiError> {
    let needed: BTreeSet<&str> = needed.iter().map(String::as_str).collect();
    let documents = files
        .iter()
        .filter(|file| needed.contains(file.path.as_str()));
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for file in documents {
        count += 1;
        bytes = bytes.saturating_add(file.size);
    }
    if bytes <= most {
        return Ok(());
    }
    let words = format!(
        "dataset '{id}': its {count} annotation documents are {} MiB together; at most {} MiB are read (datasets.documents_mib): split the dataset, or ask an administrator for more",
        bytes.div_ceil(1 << 20),
        most >> 20
    );
    Err(ApiError::new(Kind::Invalid, words))
}

fn view<'a>(found: &Found, task: Option<TaskType>, files: &'a [FileEntry]) -> Dataset<'a> {
    Dataset {
        format: found.format,
        task,
        files,
    }
}

/// What is wrong with where a dataset lies, for who submits a job with it.
pub(super) fn of_dataset(id: &str, error: StorageError) -> ApiError {
    // 404 is for a dataset that nobody knows.
    let gone = matches!(error, StorageError::NotFound(_));
    let kind = if gone { Kind::Conflict } else { error.kind() };
    ApiError::new(kind, format!("dataset '{id}': {error}"))
}

/// The dataset is sound, but not for this task.
fn lacking(id: &str, lack: &DatasetError) -> ApiError {
    ApiError::misfit(Violation {
        field: "task_type".to_owned(),
        message: format!("dataset '{id}': {lack}"),
    })
}

pub(super) fn refused(id: &str, error: DatasetError) -> ApiError {
    if let DatasetError::Split { field, message } = error {
        return ApiError::field(&field, message);
    }
    ApiError::new(Kind::Invalid, format!("dataset '{id}': {error}"))
}
