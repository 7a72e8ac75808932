//! An annotation document that the Labeler names apart from a dataset's files: elsewhere, or among them
//! under a name that no layout knows. It is shown with the others, under the name that trainers look for.
//!
//! Owns which document that is and how it is read. What is among the files under a usual name is left to
//! `core`, which chooses by the task. Called when a snapshot is made.

use trainyard_core::{
    dataset::{FileEntry, Format, MOST_DOCUMENT_BYTES},
    snapshot::Elsewhere,
    spec::TaskType,
};
use trainyard_proto::status::Kind;

use super::{
    Datasets,
    digests::Digest,
    make::{Order, of_dataset},
};
use crate::{
    api::ApiError,
    storage::{Entry, Place, StorageError},
};

/// Puts a file among the others, in place of one of that name.
pub(super) fn join(entry: FileEntry, files: &mut Vec<FileEntry>) {
    let at = files.binary_search_by(|file| file.path.cmp(&entry.path));
    files.retain(|file| file.path != entry.path);
    files.insert(at.unwrap_or_else(|at| at), entry);
}

/// What a provider says of where a dataset's annotations lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// As it was said.
    pub(super) text: String,
    /// The same below the store of a provider that names none; equal where it names one. None where nothing
    /// tells which store is meant.
    pub(super) full: Option<String>,
}

/// A document and where it belongs.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) elsewhere: Elsewhere,
    pub(super) bytes: Vec<u8>,
}

impl Document {
    /// As one of the dataset's files.
    pub(super) fn entry(&self) -> FileEntry {
        FileEntry {
            path: self.elsewhere.path.clone(),
            size: self.bytes.len() as u64,
        }
    }

    /// Puts its digest among those of the dataset's own files; `files` hold it already.
    pub(super) fn digest(&self, files: &[FileEntry], digests: &mut Vec<Digest>) {
        let at = files
            .iter()
            .position(|file| file.path == self.elsewhere.path);
        let Some(at) = at.filter(|at| *at <= digests.len()) else {
            return;
        };
        if digests.len() == files.len() {
            digests.remove(at);
        }
        digests.insert(at, *blake3::hash(&self.bytes).as_bytes());
    }
}

impl Datasets {
    /// The document that belongs to a dataset and is not among its files under a usual name.
    pub(super) async fn document(
        &self,
        order: &Order,
        place: &Place,
        entries: &[Entry],
    ) -> Result<Option<Document>, ApiError> {
        let has_documents = matches!(order.found.format, Format::Dice | Format::Coco);
        let Some(named) = order.found.document.as_ref().filter(|_| has_documents) else {
            return Ok(None);
        };
        let location = match (
            among(named, &order.found.storage_path, entries),
            &named.full,
        ) {
            (Some(path), _) if is_usual(path) => return Ok(None),
            (Some(path), _) => place.location(path),
            (None, Some(full)) => full.clone(),
            (None, None) => return Err(unplaced(&order.found.id, &named.text)),
        };
        let bytes = self.at(&location).await;
        let (home, name) = bytes.map_err(|error| of_dataset(&order.found.id, error))?;
        let most = self.inner.documents.min(MOST_DOCUMENT_BYTES);
        let bytes = home.read(&name, most).await;
        let bytes = bytes.map_err(|error| of_document(&order.found.id, error, most))?;
        let path = order.task.map_or_else(older, own);
        Ok(Some(Document {
            elsewhere: Elsewhere { path, location },
            bytes,
        }))
    }

    /// The folder of a file and its name there.
    pub(super) async fn at(&self, location: &str) -> Result<(Place, String), StorageError> {
        let (home, name) = location.rsplit_once('/').unwrap_or(("/", location));
        let home = if home.is_empty() { "/" } else { home };
        Ok((self.inner.storage.place(home).await?, name.to_owned()))
    }
}

/// A relative path of a provider, and nothing says below what.
fn unplaced(id: &str, text: &str) -> ApiError {
    let words = format!(
        "the Labeler says that the annotations of dataset '{id}' lie at '{text}', which is none of its files and names no store; an administrator has to set labeler.storage_root"
    );
    ApiError::new(Kind::Unavailable, words)
}

/// One that is too large is told by the setting that bounds it.
fn of_document(id: &str, error: StorageError, most: u64) -> ApiError {
    if let StorageError::TooLarge(_) = error {
        let words = format!(
            "dataset '{id}': its annotation document is larger than the {} MiB that are read (datasets.documents_mib): split the dataset, or ask an administrator for more",
            most >> 20
        );
        return ApiError::new(Kind::Invalid, words);
    }
    of_dataset(id, error)
}

fn older() -> String {
    "annotations.json".to_owned()
}

fn own(task: TaskType) -> String {
    format!("annotations_{}.json", task.name())
}

/// Its path among the files of the dataset, if it is one of them.
fn among<'a>(named: &'a Named, storage_path: &str, entries: &[Entry]) -> Option<&'a str> {
    let root = format!("{}/", storage_path.trim_end_matches('/'));
    let full = named.full.as_deref();
    let below = full.and_then(|full| full.strip_prefix(&root));
    let there = |path: &&str| {
        let found = entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        found.is_ok()
    };
    [below, Some(named.text.as_str())]
        .into_iter()
        .flatten()
        .find(there)
}

/// Where the layouts have their documents.
fn is_usual(path: &str) -> bool {
    match path.rsplit_once('/') {
        None => path.starts_with("annotations") || path.starts_with("_annotations"),
        Some((folder, name)) => {
            folder == "annotations"
                || name.starts_with("instances_")
                || name == "_annotations.coco.json"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(paths: &[&str]) -> Vec<Entry> {
        let entry = |path: &&str| Entry {
            path: (*path).to_owned(),
            size: 1,
            stamp: None,
            written_at: None,
            changed_at: None,
        };
        paths.iter().map(entry).collect()
    }

    #[test]
    fn a_document_is_found_among_the_files_however_it_was_named() {
        let files = entries(&["annotations_pose.json", "images/1.png", "made/boxes.json"]);
        for (text, full, found) in [
            (
                "made/boxes.json",
                "s3://sets/made/boxes.json",
                Some("made/boxes.json"),
            ),
            (
                "datasets/7/made/boxes.json",
                "s3://sets/datasets/7/made/boxes.json",
                Some("made/boxes.json"),
            ),
            (
                "s3://sets/datasets/7/annotations_pose.json",
                "s3://sets/datasets/7/annotations_pose.json",
                Some("annotations_pose.json"),
            ),
            (
                "datasets/8/boxes.json",
                "s3://sets/datasets/8/boxes.json",
                None,
            ),
        ] {
            let named = Named {
                text: text.to_owned(),
                full: Some(full.to_owned()),
            };
            assert_eq!(
                among(&named, "s3://sets/datasets/7/", &files),
                found,
                "{text}"
            );
        }
        assert!(is_usual("annotations_pose.json") && !is_usual("made/boxes.json"));
    }

    #[test]
    fn it_takes_its_place_among_the_files_and_that_of_one_of_its_name() {
        let document = Document {
            elsewhere: Elsewhere {
                path: "b".to_owned(),
                location: "/x/y.json".to_owned(),
            },
            bytes: b"four".to_vec(),
        };
        let file = |path: &str| FileEntry {
            path: path.to_owned(),
            size: 1,
        };
        let (mut files, mut digests) = (vec![file("a"), file("c")], vec![[1; 32], [3; 32]]);
        for _ in 0..2 {
            join(document.entry(), &mut files);
            document.digest(&files, &mut digests);
            let seen: Vec<_> = files
                .iter()
                .map(|file| (file.path.as_str(), file.size))
                .collect();
            assert_eq!(seen, [("a", 1), ("b", 4), ("c", 1)]);
            assert_eq!(digests.len(), 3);
            assert_eq!((digests[0], digests[2]), ([1; 32], [3; 32]));
        }
    }
}
