//! Rows of datasets and snapshots in the store, and by what a snapshot is found again.
//!
//! Never commits. Used by `datasets`.

use serde::{Deserialize, Serialize};
use trainyard_core::{snapshot::Snapshot, time::Timestamp};

use crate::store::{Change, Document, ReadError, Store};

/// A dataset of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetRow {
    /// Its name, unique.
    pub id: String,
    /// A folder's path or a URL.
    pub storage_path: String,
    /// `dice`, `yolo`, `coco` or `imagefolder`.
    pub format: String,
    /// For people.
    #[serde(default)]
    pub task_type: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The e-mail address of who registered it.
    #[serde(default)]
    pub owner: String,
    /// When.
    #[serde(default)]
    pub created_at: Timestamp,
}

impl Document for DatasetRow {
    const KIND: &'static str = "dataset";

    fn key(&self) -> String {
        self.id.clone()
    }
}

impl Document for Snapshot {
    const KIND: &'static str = "snapshot";

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// The snapshot of a dataset whose files and parts are these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Same {
    key: String,
    snapshot_id: String,
}

impl Document for Same {
    const KIND: &'static str = "snapshot_by_hash";

    fn key(&self) -> String {
        self.key.clone()
    }
}

/// A dataset that has moved has new snapshots: agents fetch from where the snapshot says. So has a split
/// that was asked for in another way, even if it comes out the same: trainers are told how it was made.
fn key_of(snapshot: &Snapshot) -> String {
    let split = snapshot.split.to_string();
    let parts = [
        &snapshot.dataset_id,
        &snapshot.storage_path,
        &snapshot.format,
        &snapshot.version_hash,
        &snapshot.assignment_hash,
        &split,
    ];
    // Snapshots without one keep the keys that they have.
    let location = snapshot
        .document
        .as_ref()
        .map(|document| &document.location);
    let mut hasher = blake3::Hasher::new();
    for part in parts.into_iter().chain(location) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A snapshot of the same dataset with the same files and parts.
pub(super) fn same(store: &Store, wanted: &Snapshot) -> Result<Option<Snapshot>, ReadError> {
    match store.document::<Same>(&key_of(wanted))? {
        Some(same) => store.document(&same.snapshot_id),
        None => Ok(None),
    }
}

/// What makes a snapshot known.
pub(super) fn remember(snapshot: &Snapshot) -> Vec<Change> {
    let same = Same {
        key: key_of(snapshot),
        snapshot_id: snapshot.id.clone(),
    };
    vec![Change::put(snapshot), Change::put(&same)]
}

/// What makes it unknown.
pub(super) fn forget(store: &Store, snapshot: &Snapshot) -> Result<Vec<Change>, ReadError> {
    let mut changes = vec![Change::remove::<Snapshot>(snapshot.id.clone())];
    let key = key_of(snapshot);
    let same = store.document::<Same>(&key)?;
    if same.is_some_and(|same| same.snapshot_id == snapshot.id) {
        changes.push(Change::remove::<Same>(key));
    }
    Ok(changes)
}
