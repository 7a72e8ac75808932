//! The S3 that a trainer of the old platform expects: its dataset in one bucket, its checkpoints in another.
//!
//! Owns what a task sees as buckets, the keys that stand for its secret, and the variables that name them.
//! Behind it is no bucket: datasets are the task's view, checkpoints the task's own folder, from which they are
//! stored like those of any trainer. Never hands out a key of the platform. Served on the port of the
//! callbacks; docs/adr/0014 says why.

mod door;
mod files;
mod keys;
mod list;
mod multipart;
mod path;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::OnceCell;
use trainyard_core::{ids::JobId, snapshot::Snapshot};

pub(crate) use door::{Objects, is_signed};
pub(crate) use keys::KeyPair;

use self::list::Found;

/// The bucket of checkpoints; the name that the contract gives it.
const CHECKPOINTS: &str = "training-checkpoints";
/// The bucket of datasets that lie in no bucket.
const DATASETS: &str = "training-datasets";

/// What one task sees.
#[derive(Clone, Debug)]
pub struct TaskObjects {
    job: JobId,
    dataset: Option<Shown>,
    /// Holds what lies below `checkpoints/{job}/`.
    checkpoints: PathBuf,
    /// What the task begins with, under the key that everybody knows.
    beginning: Option<Beginning>,
}

/// A stored checkpoint that was fetched.
#[derive(Clone, Debug)]
struct Beginning {
    key: String,
    folder: PathBuf,
    name: PathBuf,
}

/// A dataset as objects.
#[derive(Clone, Debug)]
struct Shown {
    bucket: String,
    /// Without a slash at its end.
    prefix: String,
    view: PathBuf,
    /// The view does not change while a task runs.
    listed: Arc<OnceCell<Arc<[Found]>>>,
}

impl TaskObjects {
    /// Those of a task whose view lies at `view` and which works in `working_folder`.
    #[must_use]
    pub fn new(
        job: JobId,
        snapshot: Option<&Snapshot>,
        view: PathBuf,
        working_folder: &Path,
    ) -> Self {
        let shown = |snapshot: &Snapshot| {
            let (bucket, prefix) = place(snapshot);
            Shown {
                bucket,
                prefix,
                view,
                listed: Arc::default(),
            }
        };
        Self {
            job,
            dataset: snapshot.map(shown),
            checkpoints: working_folder.join("checkpoints"),
            beginning: None,
        }
    }

    /// With the checkpoint that the task begins with, named by its location, which was fetched into `folder`.
    #[must_use]
    pub fn beginning_with(mut self, location: Option<&str>, folder: PathBuf) -> Self {
        let key = location.and_then(|text| text.get(text.rfind("checkpoints/")?..));
        self.beginning = key.and_then(|key| {
            let name = path::relative(key.rsplit('/').next()?)?;
            let key = key.to_owned();
            Some(Beginning { key, folder, name })
        });
        self
    }

    /// The file that a location in the bucket of checkpoints stands for, such as
    /// `s3://training-checkpoints/checkpoints/7/best.pt`.
    #[must_use]
    pub fn checkpoint_file(&self, location: &str) -> Option<PathBuf> {
        let key = location.strip_prefix("s3://")?.strip_prefix(CHECKPOINTS)?;
        self.checkpoint(key.strip_prefix('/')?)
    }

    fn checkpoint(&self, key: &str) -> Option<PathBuf> {
        let relative = key.strip_prefix(&self.checkpoint_prefix())?;
        Some(self.checkpoints.join(path::relative(relative)?))
    }

    fn checkpoint_prefix(&self) -> String {
        format!("checkpoints/{}/", self.job)
    }
}

/// Bucket and prefix of a snapshot's dataset: its own where it lies in a bucket.
fn place(snapshot: &Snapshot) -> (String, String) {
    own_place(snapshot).unwrap_or_else(|| {
        let prefix = format!("datasets/{}", snapshot.dataset_id);
        (DATASETS.to_owned(), prefix)
    })
}

fn own_place(snapshot: &Snapshot) -> Option<(String, String)> {
    let own = snapshot.storage_path.strip_prefix("s3://")?;
    let (bucket, prefix) = own.split_once('/')?;
    let prefix = prefix.trim_matches('/');
    let is_named = !bucket.is_empty() && !prefix.is_empty();
    is_named.then(|| (bucket.to_owned(), prefix.to_owned()))
}

/// `DATASET_S3_URI` of a snapshot.
#[must_use]
pub(crate) fn dataset_uri(snapshot: &Snapshot) -> String {
    match own_place(snapshot) {
        Some(_) => snapshot.storage_path.clone(),
        None => format!("s3://{DATASETS}/datasets/{}/", snapshot.dataset_id),
    }
}

/// The contract's storage variables of a task whose secret is `secret`.
#[must_use]
pub(crate) fn variables(
    secret: &str,
    snapshot: Option<&Snapshot>,
    endpoint: SocketAddr,
) -> Vec<(&'static str, String)> {
    let keys = KeyPair::of(secret);
    let endpoint = format!("http://{endpoint}");
    let datasets = snapshot.map_or_else(|| DATASETS.to_owned(), |snapshot| place(snapshot).0);
    vec![
        ("EXTERNAL_STORAGE_ENDPOINT", endpoint.clone()),
        ("EXTERNAL_STORAGE_ACCESS_KEY", keys.access.clone()),
        ("EXTERNAL_STORAGE_SECRET_KEY", keys.secret.clone()),
        ("EXTERNAL_BUCKET_DATASETS", datasets),
        ("INTERNAL_STORAGE_ENDPOINT", endpoint),
        ("INTERNAL_STORAGE_ACCESS_KEY", keys.access),
        ("INTERNAL_STORAGE_SECRET_KEY", keys.secret),
        ("INTERNAL_BUCKET_CHECKPOINTS", CHECKPOINTS.to_owned()),
    ]
}

#[cfg(test)]
mod tests;
