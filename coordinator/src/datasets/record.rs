//! What is kept of a snapshot: its row, and the files beside it in the artifact store.
//!
//! Owns how large the row may be, and that all files are there before the row is, and again when a snapshot
//! is reused. Never touches a dataset. Called by `make`.

use std::fmt::Write as _;

use futures::TryStreamExt as _;
use serde_json::json;
use trainyard_core::{dataset::VersionHasher, snapshot::Snapshot};
use trainyard_proto::status::Kind;

use super::{
    Datasets,
    make::{Order, Read, Split, refused},
    manifest::{self, Line},
};
use crate::{api::ApiError, clock, storage::StorageError};

/// The largest row of a snapshot, in bytes.
const ROW: usize = 1_024;
/// The most of it that is for notes: whoever shows a row has longer names for its fields.
const NOTES: usize = 256;

/// Name and content of a file beside a snapshot.
type Beside = (&'static str, Vec<u8>);

impl Datasets {
    /// Puts what belongs to a new snapshot into the artifact store.
    pub(super) async fn keep(
        &self,
        snapshot: &Snapshot,
        files: Vec<Beside>,
    ) -> Result<(), ApiError> {
        let artifacts = self.inner.storage.artifacts();
        for (name, bytes) in files {
            artifacts
                .write(&manifest::at(&snapshot.id, name), bytes)
                .await?;
        }
        tracing::info!(snapshot = %snapshot.id, dataset = %snapshot.dataset_id, files = snapshot.files, bytes = snapshot.bytes, "snapshot made");
        Ok(())
    }

    /// Puts there again what is missing or damaged of a snapshot that is reused. Its metadata, which nobody
    /// reads to train, is only missed.
    pub(super) async fn mend(&self, id: &str, files: Vec<Beside>) -> Result<(), ApiError> {
        let artifacts = self.inner.storage.artifacts();
        for (name, bytes) in files {
            let at = manifest::at(id, name);
            let whole = match name {
                manifest::METADATA => self.holds(&at, None).await?,
                _ => self.holds(&at, Some(&bytes)).await?,
            };
            if !whole {
                tracing::warn!(snapshot = %id, name, "a file of a snapshot was missing or damaged; it is kept anew");
                artifacts.write(&at, bytes).await?;
            }
        }
        Ok(())
    }

    /// Removes all that lies beside a snapshot, and the folder that it lay in.
    pub(super) async fn remove_files(&self, id: &str) -> Result<(), StorageError> {
        let artifacts = self.inner.storage.artifacts();
        for name in manifest::FILES {
            artifacts.remove(&manifest::at(id, name)).await?;
        }
        artifacts.remove_folder(&manifest::folder(id)).await
    }

    /// Whether the artifact store has a file, with this content where one is given.
    async fn holds(&self, at: &str, content: Option<&[u8]>) -> Result<bool, ApiError> {
        let artifacts = self.inner.storage.artifacts();
        let size = match artifacts.size(at).await {
            Ok(size) => size,
            Err(StorageError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let Some(mut left) = content else {
            return Ok(true);
        };
        if size != left.len() as u64 {
            return Ok(false);
        }
        let (_, mut bits) = artifacts.stream(at).await?;
        while let Some(piece) = bits.try_next().await? {
            let Some(rest) = left.strip_prefix(&*piece) else {
                return Ok(false);
            };
            left = rest;
        }
        Ok(left.is_empty())
    }
}

/// The row, which is small whatever the dataset is.
pub(super) fn draft(
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
    let mut snapshot = Snapshot {
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
    let size = serde_json::to_vec(&snapshot).unwrap_or_default().len();
    let Some(room) = ROW.checked_sub(size) else {
        let words = format!(
            "dataset '{id}': its path or id is too long for a snapshot ({size} bytes; at most {ROW})"
        );
        return Err(ApiError::new(Kind::Invalid, words));
    };
    let notes = order.notes.as_deref().unwrap_or_default();
    snapshot.notes = cut(notes, room.min(NOTES));
    Ok(snapshot)
}

/// As much of the beginning of a text as JSON writes in `room` bytes.
fn cut(text: &str, room: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        // Without the quotes.
        used += serde_json::to_string(c).map_or(0, |written| written.len().saturating_sub(2));
        used <= room
    };
    text.chars().take_while(fits).collect()
}

/// What lies beside a snapshot. Metadata last: where it is, the rest is too.
pub(super) fn files(snapshot: &Snapshot, (read, split): (&Read, &Split), by: u64) -> Vec<Beside> {
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
    let mut files = vec![(manifest::MANIFEST, lines(read))];
    if let Some(parts) = &split.named_parts {
        files.push((manifest::PARTS, parts.clone().into_bytes()));
    }
    files.push((manifest::METADATA, metadata.to_string().into_bytes()));
    files
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_by_what_they_take_in_a_row() {
        for (text, room, kept) in [
            ("plain", 5, "plain"),
            ("plain", 4, "plai"),
            ("a\"b", 3, "a\""),
            ("a\"b", 2, "a"),
            ("aü", 2, "a"),
            ("a\u{1}b", 6, "a"),
            ("", 0, ""),
        ] {
            assert_eq!(cut(text, room), kept, "{text:?} in {room}");
        }
    }
}
