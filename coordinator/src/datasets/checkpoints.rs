//! Checkpoints in the artifact store: a way to store one, and what is there.
//!
//! Owns their names, `checkpoints/{job}/{file}`. Whoever asks is checked by the service. Never hands out a
//! key of the platform.

use std::time::Duration;

use trainyard_core::ids::JobId;

use super::Datasets;
use crate::{
    api::ApiError,
    storage::{Use, check_key},
};

/// How long a way to store a checkpoint is good; the contract tells it to callers.
pub(crate) const UPLOAD: Duration = Duration::from_secs(3_600);
/// Checkpoints of one job that are listed.
const MOST: usize = 10_000;

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
    /// `checkpoints/{job}/{file}`.
    pub key: String,
    /// What the file is called from then on.
    pub location: String,
}

impl Datasets {
    /// A way to store a checkpoint of a job.
    ///
    /// # Errors
    /// When the name is none, or the store cannot sign.
    pub async fn upload(&self, job: JobId, filename: &str) -> Result<Upload, ApiError> {
        check_filename(filename)?;
        let key = format!("checkpoints/{job}/{filename}");
        let storage = &self.inner.storage;
        let place = storage.artifacts();
        let name = format!("artifacts/{key}");
        let url = storage
            .way(Use::Write, (place, &key), (&name, UPLOAD))
            .await?;
        Ok(Upload {
            url,
            location: place.location(&key),
            key,
        })
    }

    /// The checkpoints of a job that the store has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn stored_checkpoints(&self, job: JobId) -> Result<Vec<StoredCheckpoint>, ApiError> {
        let place = self.inner.storage.artifacts();
        let found = place.list(&format!("checkpoints/{job}"), MOST).await?;
        let row = |entry: crate::storage::Entry| StoredCheckpoint {
            filename: entry.path.rsplit('/').next().unwrap_or_default().to_owned(),
            location: place.location(&entry.path),
            size: entry.size,
        };
        Ok(found.into_iter().map(row).collect())
    }
}

/// Refuses what is no plain name of a file.
///
/// # Errors
/// Names the field.
pub(super) fn check_filename(name: &str) -> Result<(), ApiError> {
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
}
