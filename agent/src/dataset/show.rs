//! From files in the cache to a folder that a trainer can read: parts computed as the coordinator has
//! computed them, compared, and laid out.
//!
//! Owns the order of these steps, off the runtime's threads. Called by `Datasets::show`.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;
use trainyard_core::{
    dataset::{self, Dataset, Documents, FileEntry, Format, Resolved},
    snapshot::Snapshot,
    spec::TaskType,
};

use super::{Cache, Datasets, Digest, FetchError, Wanted, manifest::Manifest, view};

/// All that the work needs, so that it can go to a thread of its own.
struct Work {
    cache: Cache,
    snapshot: Snapshot,
    task: Option<TaskType>,
    view: PathBuf,
    files: Vec<FileEntry>,
    sources: BTreeMap<String, Digest>,
    named_parts: Option<Value>,
    given_up: Arc<AtomicBool>,
}

/// Set when whoever waits has gone.
struct GivesUp(Arc<AtomicBool>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lays the view out; how many images each part has, in words.
pub(super) async fn show(
    datasets: &Datasets,
    wanted: &Wanted<'_>,
    manifest: Manifest<'_>,
) -> Result<String, FetchError> {
    let guard = GivesUp(Arc::default());
    let entry = |(path, size): (String, u64)| FileEntry { path, size };
    let files = manifest
        .files
        .iter()
        .map(|file| (file.path.clone(), file.size));
    let work = Work {
        cache: datasets.cache.clone(),
        snapshot: wanted.snapshot.clone(),
        task: TaskType::parse(&wanted.order.spec.task_type),
        view: wanted.view.clone(),
        files: files.map(entry).collect(),
        sources: manifest
            .files
            .iter()
            .map(|file| (file.path.clone(), file.digest))
            .collect(),
        named_parts: manifest.named_parts,
        given_up: Arc::clone(&guard.0),
    };
    let done = trainyard_runtime::blocking(move || work.run()).await;
    done.map_err(|error| FetchError::Infrastructure(error.to_string()))?
}

impl Work {
    fn run(&self) -> Result<String, FetchError> {
        let unknown = || {
            let format = &self.snapshot.format;
            FetchError::Infrastructure(format!("this agent does not know the format '{format}'"))
        };
        let dataset = Dataset {
            format: Format::parse(&self.snapshot.format).ok_or_else(unknown)?,
            task: self.task,
            files: &self.files,
        };
        let mut documents = Documents::new();
        for path in dataset::needed(&dataset)? {
            let digest = self.sources.get(&path);
            let digest = digest.ok_or_else(|| disk(io::ErrorKind::NotFound.into()))?;
            documents.insert(path, self.cache.read(digest).map_err(disk)?);
        }
        let inventory = dataset::inventory(&dataset, &documents)?;
        let resolved = Resolved::read(&self.snapshot.split, self.named_parts.as_ref())?;
        let assignment = dataset::assign(&inventory.images, &resolved)?;
        if assignment.hash() != self.snapshot.assignment_hash {
            return Err(FetchError::Infrastructure(
                "the split comes out another than the coordinator recorded; agent and coordinator must be of one version"
                    .to_owned(),
            ));
        }
        let plan = dataset::layout(&dataset, &inventory, &assignment, &documents)?;
        drop(documents);
        view::lay_out(
            &self.view,
            &plan,
            &self.sources,
            &self.cache,
            &self.given_up,
        )
        .map_err(disk)?;
        let mut text = counts_text(&self.snapshot.split);
        text.push_str(&left_out(inventory.unclassed));
        Ok(text)
    }
}

fn disk(error: io::Error) -> FetchError {
    FetchError::Node(format!(
        "its view cannot be laid out: {error}; see the data folder's free disk space and permissions"
    ))
}

/// What is not shown, by number and reason; nothing where all is.
fn left_out(unclassed: u64) -> String {
    match unclassed {
        0 => String::new(),
        1 => "; 1 picture without a class is left out".to_owned(),
        count => format!("; {count} pictures without a class are left out"),
    }
}

/// Such as `80 train, 20 val`.
#[must_use]
pub fn counts_text(split: &Value) -> String {
    let counts = split.get("counts").and_then(Value::as_object);
    let counts = counts.into_iter().flatten();
    let texts: Vec<String> = counts
        .map(|(part, count)| format!("{count} {part}"))
        .collect();
    texts.join(", ")
}
