//! The immutable description of the dataset that a job trains on: metadata, never data.
//!
//! Owns what is recorded at a submit and stays with the job for its whole life. Made by the
//! coordinator, checked by the agent.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::Timestamp;

/// A snapshot. At most 1 KiB in the store: what is longer (the list of files, the parts of single
/// images) lies beside `metadata.json` in the artifact store and is covered by the hashes here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snap_` and 12 hex digits.
    pub id: String,
    /// Of which dataset.
    pub dataset_id: String,
    /// Where the files lie: a folder's path, or a URL such as `s3://bucket/prefix`.
    pub storage_path: String,
    /// `dice`, `yolo`, `coco` or `imagefolder`.
    pub format: String,
    /// The resolved split: `source` (job, dataset or auto), `method`, `ratio`, `seed`, and how many
    /// images each part has. Images named one by one are only counted here.
    pub split: Value,
    /// blake3 over name, size and content digest of every file, in hex.
    pub version_hash: String,
    /// blake3 over the part of every image, in hex.
    pub assignment_hash: String,
    /// Number of files.
    pub files: u64,
    /// Their size together.
    pub bytes: u64,
    /// The e-mail address of who submitted the first job with it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Free text.
    #[serde(default)]
    pub notes: String,
    /// The annotation document, where it is none of the files at `storage_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Elsewhere>,
}

/// A file that is shown as one of the dataset's although it lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Its path in the dataset, as everybody sees it.
    pub path: String,
    /// Where it lies: a path, or a URL such as `s3://bucket/key`.
    pub location: String,
}
