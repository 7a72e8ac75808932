//! Datasets of snapshots on this node: fetched once, checked, and shown to each attempt with its
//! split enforced.
//!
//! Owns the cache below `cache/` of the data folder and the way from a snapshot to a folder that a
//! trainer can read. Never changes a dataset, and knows no format: `trainyard_core::dataset` does.
//! Called by the preparation of a run; may be dropped at any moment.
//!
//! ```text
//! manifest ─► files into the cache, by digest ─► parts compared ─► links in the attempt's folder
//! ```

mod cache;
mod download;
mod error;
pub mod http;
mod manifest;
mod named;
mod owing;
mod parts;
mod put;
mod resume;
mod retry;
mod show;
mod still;
mod told;
mod upload;
mod view;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use tonic::Status;
use trainyard_core::snapshot::Snapshot;
use url::Url;

pub use cache::{Cache, Digest};
pub use error::FetchError;
pub use owing::Owing;
pub use show::counts_text;
pub(crate) use still::forget_copies;
pub use told::Told;
pub use upload::{Sent, Stored, Trip, When};
pub use view::remove_tree;

use crate::{
    folder::Order,
    link::{Access, Calls},
};
use cache::Lease;
use manifest::Manifest;

/// How often the progress is told at most.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetOptions {
    /// What the cache may hold, in bytes; what a running job uses stays also beyond it.
    pub cache_bytes: u64,
    /// What fetching leaves free on the cache's disk, in bytes.
    pub reserve_bytes: u64,
    /// Files of one dataset that are fetched at once.
    pub parallel: usize,
    /// Whether checkpoints go to the coordinator's store.
    pub upload_checkpoints: bool,
    /// How often they go there while a trainer works; none for not before it has ended.
    pub checkpoints_every: Option<Duration>,
    /// How long a store that takes none of them is borne, with a coordinator that is there.
    pub checkpoints_patience: Duration,
    /// How long they may take once the job was told to stop.
    pub checkpoints_after_stop: Duration,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 50 << 30,
            reserve_bytes: 256 << 20,
            parallel: 8,
            upload_checkpoints: true,
            checkpoints_every: Some(Duration::from_secs(60)),
            checkpoints_patience: upload::PATIENCE,
            checkpoints_after_stop: Duration::from_secs(60),
        }
    }
}

/// Datasets on this node. A cheap handle.
#[derive(Clone)]
pub struct Datasets {
    pub(crate) cache: Cache,
    pub(crate) http: reqwest::Client,
    pub(crate) coordinator: Url,
    pub(crate) access: Access,
    pub(crate) options: DatasetOptions,
}

/// Ways are secrets.
impl fmt::Debug for Datasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datasets")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A task whose dataset is wanted.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The task.
    pub order: &'a Order,
    /// Of what.
    pub snapshot: &'a Snapshot,
    /// Where it is shown; what is there goes first.
    pub view: PathBuf,
}

impl Datasets {
    /// Fetches what is missing and lays out the view. `tell` hears how far it is; the answer is one
    /// sentence for the task's log.
    ///
    /// # Errors
    /// [`FetchError::Changed`] when a file is no longer what the snapshot says.
    pub async fn show(
        &self,
        wanted: &Wanted<'_>,
        tell: impl Fn(String) + Send + Sync,
    ) -> Result<String, FetchError> {
        let lease = self.cache.lease();
        tell("fetching dataset: reading the list of files".to_owned());
        let manifest = Manifest::read(self, wanted).await?;
        let reused = self.fetch(&manifest, &lease, &tell).await?;
        tell("laying out the dataset".to_owned());
        let (all, bytes) = (manifest.files.len(), manifest.bytes());
        let counts = show::show(self, wanted, manifest).await?;
        drop(lease);
        Ok(format!(
            "dataset {}, snapshot {}: {} files ({}), {} of them from the cache; {counts}",
            wanted.snapshot.dataset_id,
            wanted.snapshot.id,
            grouped(all as u64),
            size_text(bytes),
            grouped(reused),
        ))
    }

    /// All files into the cache; how many were there. The first failure is that of the first path.
    async fn fetch(
        &self,
        manifest: &Manifest<'_>,
        lease: &Lease,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Result<u64, FetchError> {
        let progress = Progress::new(manifest);
        tell(progress.text());
        let one = |number: usize| {
            let progress = &progress;
            async move {
                let there = self.fetch_one(manifest, number, lease).await?;
                if let Some(text) = progress.done(manifest, number, there) {
                    tell(text);
                }
                Ok::<_, FetchError>(())
            }
        };
        stream::iter(0..manifest.files.len())
            .map(one)
            .buffered(self.options.parallel.max(1))
            .try_collect::<()>()
            .await?;
        tell(progress.text());
        Ok(progress.state().reused)
    }

    /// A connection for calls of this module.
    async fn calls(&self) -> Result<Calls, Status> {
        let calls = self.access.calls().await;
        calls.map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn fetch_one(
        &self,
        manifest: &Manifest<'_>,
        number: usize,
        lease: &Lease,
    ) -> Result<bool, FetchError> {
        let Some(file) = manifest.files.get(number) else {
            return Ok(true);
        };
        let get =
            |path: PathBuf| async move { download::download(self, manifest, number, &path).await };
        self.cache.get(lease, file.digest, file.size, get).await
    }
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug)]
struct Reached {
    files: u64,
    bytes: u64,
    reused: u64,
    told: Instant,
}

struct Progress {
    files: u64,
    bytes: u64,
    reached: Mutex<Reached>,
}

impl Progress {
    fn new(manifest: &Manifest<'_>) -> Self {
        Self {
            files: manifest.files.len() as u64,
            bytes: manifest.bytes(),
            reached: Mutex::new(Reached {
                files: 0,
                bytes: 0,
                reused: 0,
                told: Instant::now(),
            }),
        }
    }

    fn state(&self) -> Reached {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to tell, if it is time to.
    fn done(&self, manifest: &Manifest<'_>, number: usize, there: bool) -> Option<String> {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.files += 1;
        reached.bytes += manifest.files.get(number).map_or(0, |file| file.size);
        reached.reused += u64::from(there);
        let due = reached.told.elapsed() >= TELL_EVERY;
        if due {
            reached.told = Instant::now();
        }
        drop(reached);
        due.then(|| self.text())
    }

    fn text(&self) -> String {
        let reached = self.state();
        let share = match self.bytes {
            0 => 100,
            bytes => u128::from(reached.bytes) * 100 / u128::from(bytes),
        };
        format!(
            "fetching dataset: {} of {} files, {share} %",
            grouped(reached.files),
            grouped(self.files)
        )
    }
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn size_text(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = bytes / (unit / 10);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

/// The cache's folder below a data folder.
#[must_use]
pub fn cache_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("cache")
}

/// Made once at boot.
///
/// # Errors
/// When the cache's folder cannot be used, or no HTTP client can be made.
pub async fn open(
    data_dir: &Path,
    access: Access,
    options: DatasetOptions,
) -> Result<Arc<Datasets>, String> {
    let coordinator = Url::parse(access.connection().url());
    let coordinator = coordinator.map_err(|error| format!("the coordinator's URL: {error}"))?;
    let folder = cache_folder(data_dir);
    let limits = (options.cache_bytes, options.reserve_bytes);
    let opened = trainyard_runtime::blocking(move || Cache::open(folder, limits));
    let cache = opened.await.map_err(|error| error.to_string())?;
    let cache = cache.map_err(|error| format!("the cache of datasets cannot be used: {error}"))?;
    Ok(Arc::new(Datasets {
        cache,
        http: http::client(access.connection())?,
        coordinator,
        access,
        options,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_for_people() {
        assert_eq!(
            [0, 999, 1_500, 1_234_567].map(grouped),
            ["0", "999", "1,500", "1,234,567"]
        );
        assert_eq!(size_text(1_023), "1023 bytes");
        assert_eq!(size_text(1_536), "1.5 KiB");
    }
}
