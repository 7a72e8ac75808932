//! Checkpoints that are too large for one request, sent in parts.
//!
//! Owns that a caller ends only its own uploads. The bytes go to the store itself. Called by the
//! service for agents.

use std::time::Duration;

use trainyard_core::ids::TaskKey;

use super::{Datasets, checkpoints::uploads_of};
use crate::{
    api::ApiError,
    storage::{Parts, check_key},
};

/// How long ways to the parts of one checkpoint are good: it may be large.
const SPAN: Duration = Duration::from_secs(12 * 3_600);

/// Parts that were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// What the store calls the upload.
    pub id: String,
    /// Of the upload.
    pub key: String,
    /// What the store has answered to each part; none to give it up.
    pub tags: Vec<String>,
    /// How large they are together.
    pub size: u64,
}

impl Datasets {
    /// Begins a checkpoint of `size` bytes in parts; none where it goes in one request.
    ///
    /// # Errors
    /// When the store cannot begin it, or does not take so much.
    pub async fn begin_parts(&self, key: &str, size: u64) -> Result<Option<Parts>, ApiError> {
        let storage = &self.inner.storage;
        let sizes = (size, storage.part_bytes());
        Ok(storage.artifacts().begin(key, sizes, SPAN).await?)
    }

    /// Makes one upload of the parts that were sent, or forgets them.
    ///
    /// # Errors
    /// When the key is none of this task's, or a part is missing.
    pub async fn end_parts(&self, task: TaskKey, sent: Sent) -> Result<(), ApiError> {
        let is_own = sent.key.starts_with(&uploads_of(task));
        if !is_own || check_key(&sent.key).is_err() {
            let words =
                "is the key of no upload of this task; give the one that came with the parts";
            return Err(ApiError::field("key", words));
        }
        let place = self.inner.storage.artifacts().clone();
        let Sent {
            id,
            key,
            tags,
            size,
        } = sent;
        let name = key.clone();
        let ending = async move {
            if tags.is_empty() {
                return Ok(place.abort(&key, &id).await?);
            }
            Ok(place.complete(&key, (&id, tags), size).await?)
        };
        self.in_turn(name, ending).await
    }
}
