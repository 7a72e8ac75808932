//! Settings of the cache of datasets and of checkpoints. Checked when they are loaded.

use std::time::Duration;

use serde::Deserialize;

use crate::dataset::DatasetOptions;

/// How datasets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetsConfig {
    /// What the cache may hold, in MiB.
    pub cache_mib: u64,
    /// What fetching leaves free on the cache's disk, in MiB.
    pub reserve_mib: u64,
    /// Files of one dataset that are fetched at once.
    pub parallel: u32,
}

/// How checkpoints go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointsConfig {
    /// Whether they are copied to the coordinator's store.
    pub upload: bool,
    /// How often while a trainer works, in seconds; 0 for not before it has ended.
    pub every_seconds: u32,
    /// How long storing them may take once the job was told to stop, in seconds.
    pub after_stop_seconds: u32,
}

impl DatasetsConfig {
    /// As the agent takes them. More than 64 files at once bring nothing.
    #[must_use]
    pub fn options(self, checkpoints: CheckpointsConfig) -> DatasetOptions {
        DatasetOptions {
            cache_bytes: self.cache_mib.saturating_mul(1 << 20),
            reserve_bytes: self.reserve_mib.saturating_mul(1 << 20),
            parallel: self.parallel.clamp(1, 64) as usize,
            upload_checkpoints: checkpoints.upload,
            checkpoints_every: (checkpoints.every_seconds > 0)
                .then(|| Duration::from_secs(checkpoints.every_seconds.into())),
            checkpoints_patience: DatasetOptions::default().checkpoints_patience,
            checkpoints_after_stop: Duration::from_secs(checkpoints.after_stop_seconds.into()),
        }
    }
}
