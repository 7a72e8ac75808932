//! Making a snapshot: list, hash, split, store; or find that there is one already.
//!
//! Owns the time that it may take. All is in the artifact store before the row is. Called by
//! `datasets::prepare`, on a task of its own.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use serde_json::{Value, json};
use trainyard_core::{
    dataset::{
        self, Dataset, DatasetError, Documents, FileEntry, MOST_DOCUMENT_BYTES, Resolved,
        VersionHasher,
    },
    snapshot::{Elsewhere, Snapshot},
    spec::{TaskType, Violation},
};
use trainyard_proto::status::Kind;

use super::{
    Datasets, Found, Held,
    digests::{Digest, Taken},
    document::Document,
    manifest::{self, Line},
    rows,
};
use crate::{
    actors::jobs::Prepared,
    api::ApiError,
    clock,
    storage::{Entry, Place, StorageError},
};

/// The largest row of a snapshot, in bytes.
const ROW: usize = 1_024;

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
}

/// What is known of a dataset's files.
struct Read {
    files: Vec<FileEntry>,
    digests: Vec<Digest>,
    documents: Documents,
    elsewhere: Option<Elsewhere>,
}

/// What a split came to.
struct Split {
    summary: Value,
    named_parts: Option<String>,
    hash: String,
}

impl Datasets {
    pub(super) async fn make(&self, order: Order) -> Result<Held, ApiError> {
        let lock = self.lock(&order.found.id).await?;
        let id = order.found.id.clone();
        let order = Arc::new(order);
        let late = |_| {
            let words = format!(
                "dataset '{id}' could not be read within {} s (datasets.snapshot_seconds); try again later",
                self.inner.limit.as_secs()
            );
            ApiError::new(Kind::Unavailable, words)
        };
        let reader = tokio::time::timeout(self.inner.limit, self.inner.readers.acquire());
        let _reader = reader.await.map_err(late)?;
        let place = self.inner.storage.place(&order.found.storage_path).await;
        let place = place.map_err(|error| of_dataset(&order.found.id, error))?;
        // Hashing keeps its own time, so that what it has done is kept; the rest is bounded here.
        let patience = self.inner.limit.saturating_add(Duration::from_secs(30));
        let read = tokio::time::timeout(patience, self.read(&place, &order));
        let read = Arc::new(read.await.map_err(late)??);
        let split = self.split(&read, &order).await?;
        let split = Arc::new(split);
        let snapshot = {
            let (order, read, split) = (Arc::clone(&order), Arc::clone(&read), Arc::clone(&split));
            let place = place.name();
            aside(move || draft(&order, (place, &read), &split)).await??
        };
        if let Some(same) = rows::same(&self.inner.store, &snapshot)? {
            let prepared = Prepared {
                id: same.id,
                changes: Vec::new(),
            };
            return Ok(Held {
                prepared,
                _lock: lock,
            });
        }
        let keeping = tokio::time::timeout(
            self.inner.limit,
            self.keep(&snapshot, (&read, &split), order.by.0),
        );
        keeping.await.map_err(late)??;
        tracing::info!(snapshot = %snapshot.id, dataset = %snapshot.dataset_id, files = snapshot.files, bytes = snapshot.bytes, "snapshot made");
        let prepared = Prepared {
            changes: rows::remember(&snapshot),
            id: snapshot.id,
        };
        Ok(Held {
            prepared,
            _lock: lock,
        })
    }

    async fn read(&self, place: &Place, order: &Order) -> Result<Read, ApiError> {
        let id = &order.found.id;
        let told = |error| of_dataset(id, error);
        let entries = place.list("", self.inner.most).await.map_err(told)?;
        let document = self.document(order, place, &entries).await?.map(Arc::new);
        let (entries, files, needed) = self.survey(entries, document.clone(), order).await?;
        let mut digests = self.digests(place, &entries, order).await?;
        if let Some(document) = &document {
            document.digest(&files, &mut digests);
        }
        let own = (document.as_deref(), files.as_slice(), digests.as_slice());
        let documents = read_all(place, needed, own, self.inner.documents).await;
        let documents = documents.map_err(told)?;
        Ok(Read {
            files,
            digests,
            documents,
            elsewhere: document.map(|document| document.elsewhere.clone()),
        })
    }

    /// The files as decisions see them, and which of them are documents to be read. For a large dataset
    /// this takes a while.
    async fn survey(
        &self,
        entries: Vec<Entry>,
        document: Option<Arc<Document>>,
        order: &Order,
    ) -> Result<(Arc<[Entry]>, Vec<FileEntry>, Vec<String>), ApiError> {
        let (found, task, most) = (order.found.clone(), order.task, self.inner.documents);
        let work = move || {
            let file = |entry: &Entry| FileEntry {
                path: entry.path.clone(),
                size: entry.size,
            };
            let mut files: Vec<FileEntry> = entries.iter().map(file).collect();
            if let Some(document) = &document {
                document.join(&mut files);
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
        entries: &Arc<[Entry]>,
        order: &Order,
    ) -> Result<Vec<Digest>, ApiError> {
        let id = &order.found.id;
        let taken = self
            .inner
            .digests
            .take(place, entries, self.inner.limit)
            .await;
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

    /// Metadata last: where it is, the rest is too.
    async fn keep(
        &self,
        snapshot: &Snapshot,
        (read, split): (&Arc<Read>, &Split),
        by: u64,
    ) -> Result<(), ApiError> {
        let artifacts = self.inner.storage.artifacts();
        let at = |name| manifest::at(&snapshot.id, name);
        let lines = {
            let read = Arc::clone(read);
            aside(move || lines(&read)).await?
        };
        artifacts.write(&at(manifest::MANIFEST), lines).await?;
        if let Some(parts) = &split.named_parts {
            artifacts
                .write(&at(manifest::PARTS), parts.clone().into_bytes())
                .await?;
        }
        let metadata = json!({
            "snapshot_id": snapshot.id,
            "dataset_id": snapshot.dataset_id,
            "dataset_path": snapshot.storage_path,
            "dataset_format": snapshot.format,
            "annotation_document": snapshot.document,
            "split_config": snapshot.split,
            "dataset_version_hash": snapshot.version_hash,
            "assignment_hash": snapshot.assignment_hash,
            "files": snapshot.files,
            "bytes": snapshot.bytes,
            "created_by_user_id": by,
            "created_at": snapshot.created_at.to_naive_iso(),
            "notes": snapshot.notes,
        });
        let metadata = metadata.to_string().into_bytes();
        Ok(artifacts.write(&at(manifest::METADATA), metadata).await?)
    }
}

/// The contents of files, which must be those that were hashed.
async fn read_all(
    place: &Place,
    needed: Vec<String>,
    (apart, files, digests): (Option<&Document>, &[FileEntry], &[Digest]),
    most: u64,
) -> Result<Documents, StorageError> {
    let mut documents = Documents::new();
    let mut left = most;
    for path in needed {
        if let Some(document) = apart.filter(|own| own.elsewhere.path == path) {
            documents.insert(path, document.bytes.clone());
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
    let done = tokio::task::spawn_blocking(work).await;
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

/// The row, which is small whatever the dataset is.
fn draft(
    order: &Order,
    (place, read): (String, &Read),
    split: &Split,
) -> Result<Snapshot, ApiError> {
    let id = &order.found.id;
    let mut hasher = VersionHasher::default();
    for (file, digest) in read.files.iter().zip(&read.digests) {
        let added = hasher.add(&file.path, file.size, digest);
        added.map_err(|error| refused(id, error))?;
    }
    let snapshot = Snapshot {
        id: format!("snap_{:012x}", rand::random::<u64>() >> 16),
        dataset_id: id.clone(),
        storage_path: place,
        format: order.found.format.name().to_owned(),
        split: split.summary.clone(),
        version_hash: hasher.finish(),
        assignment_hash: split.hash.clone(),
        files: read.files.len() as u64,
        bytes: read.files.iter().map(|file| file.size).sum(),
        created_by: order.by.1.clone(),
        created_at: clock::now(),
        notes: String::new(),
        document: read.elsewhere.clone(),
    };
    let row = serde_json::to_vec(&snapshot).unwrap_or_default();
    if row.len() > ROW {
        let words = format!(
            "dataset '{id}': its path or id is too long for a snapshot ({} bytes; at most {ROW})",
            row.len()
        );
        return Err(ApiError::new(Kind::Invalid, words));
    }
    Ok(snapshot)
}

fn lines(read: &Read) -> Vec<u8> {
    let mut text = String::new();
    for (file, digest) in read.files.iter().zip(&read.digests) {
        let line = Line {
            path: file.path.clone(),
            size: file.size,
            digest: blake3::Hash::from_bytes(*digest).to_hex().to_string(),
        };
        let line = serde_json::to_string(&line).unwrap_or_default();
        // Writing to a text does not fail.
        writeln!(text, "{line}").ok();
    }
    text.into_bytes()
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

fn refused(id: &str, error: DatasetError) -> ApiError {
    if let DatasetError::Split { field, message } = error {
        return ApiError::field(&field, message);
    }
    ApiError::new(Kind::Invalid, format!("dataset '{id}': {error}"))
}
