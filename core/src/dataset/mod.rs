//! Datasets as plain data: which images there are, which part each belongs to, and what a trainer is
//! shown of them.
//!
//! Owns formats, splits, the hashes over files and parts, and the layout of the view. Never reads a
//! file: the caller brings the list of files and the bytes of those that [`needed`] names. The
//! coordinator calls it when a snapshot is made, the agent when a task gets its files; both come to
//! the same result from the same input.
//!
//! ```text
//! needed ─► the caller reads ─► inventory ─► Resolved::new ─► assign ─► layout
//! ```
//!
//! Archives are not unpacked: a dataset is a tree of files.

mod assign;
mod document;
mod documents;
mod fit;
mod folders;
mod hash;
mod names;
mod paths;
mod plan;
mod rewrite;
mod split;
mod wish;
mod yolo;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use assign::{Assignment, assign};
pub use fit::{misfit, trained_tasks};
pub use hash::VersionHasher;
pub use paths::check_path;
pub use plan::{Plan, check_layout, layout};
pub use split::{Resolved, Source as SplitSource};
pub use wish::split_problems;

use crate::spec::TaskType;

/// The largest annotation document or description that is read.
pub const MOST_DOCUMENT_BYTES: u64 = 1 << 30;

/// How a dataset is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `images/` beside `annotations_<task>.json`, flat or nested.
    Dice,
    /// `images/`, `labels/` and a `data.yaml`.
    Yolo,
    /// `annotations/instances_<part>.json`, or one document beside the images.
    Coco,
    /// A folder for each class, below `train/`, `val/` and `test/` or at the top.
    ImageFolder,
}

impl Format {
    /// Reads a name as the contract writes it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "dice" => Some(Self::Dice),
            "yolo" => Some(Self::Yolo),
            "coco" => Some(Self::Coco),
            "imagefolder" | "image_folder" => Some(Self::ImageFolder),
            _ => None,
        }
    }

    /// The name that the contract uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dice => "dice",
            Self::Yolo => "yolo",
            Self::Coco => "coco",
            Self::ImageFolder => "imagefolder",
        }
    }

    /// What a tree of files looks like; `None` when it is none of the known layouts.
    #[must_use]
    pub fn detect(files: &[FileEntry]) -> Option<Self> {
        let has = |test: fn(&str) -> bool| files.iter().any(|file| test(&file.path));
        if has(|path| {
            path.starts_with("annotations") && path.ends_with(".json") && !path.contains('/')
        }) {
            return Some(Self::Dice);
        }
        if has(yolo::is_description) || has(yolo::is_label) {
            return Some(Self::Yolo);
        }
        if has(documents::is_coco) {
            return Some(Self::Coco);
        }
        has(|path| paths::is_image(path) && path.contains('/')).then_some(Self::ImageFolder)
    }
}

/// One file of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the dataset, with '/'.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// What the model learns from.
    Train,
    /// What it is measured on while it learns.
    Val,
    /// What it is measured on at the end.
    Test,
}

impl Part {
    /// All, in the order of a ratio.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// Reads one of the names in use.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// Its name in files and folders.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// One image of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its file, relative to the dataset.
    pub key: String,
    /// How the dataset's document names it; the path where there is none.
    pub id: String,
    /// The part that the dataset itself gives it.
    pub part: Option<Part>,
    /// Its class, where a dataset has one label an image.
    pub class: Option<String>,
}

/// All images of a dataset, and what it says about its split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// Sorted by key, each key once.
    pub images: Vec<Image>,
    /// The extension `split_config` of a document.
    pub split_config: Option<Value>,
    /// What the task needs and no object has, for trainers to whom that matters.
    pub lacks: Option<DatasetError>,
    /// Pictures without a class where the task is to tell one: no samples, and not shown.
    pub unclassed: u64,
}

/// Contents of the files that [`needed`] has named, by path.
pub type Documents = BTreeMap<String, Vec<u8>>;

/// A dataset as its caller sees it.
#[derive(Clone, Copy, Debug)]
pub struct Dataset<'a> {
    /// How it is laid out.
    pub format: Format,
    /// What is to be trained: chooses the annotation document.
    pub task: Option<TaskType>,
    /// All files, sorted by path.
    pub files: &'a [FileEntry],
}

/// What is wrong with a dataset: for its owner to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// A document or description does not say what it must.
    #[error("{file}: {field} {message}")]
    Document {
        /// The file, relative to the dataset.
        file: String,
        /// Which field.
        field: String,
        /// What is wrong and the way out.
        message: String,
    },
    /// The files are not laid out as the format wants it.
    #[error("{0}")]
    Layout(String),
    /// A path that would lead out of the dataset.
    #[error("the file name '{path}' is refused: {why}")]
    Path {
        /// The path, shortened and made printable.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The wanted split cannot be made.
    #[error("{field}: {message}")]
    Split {
        /// Such as `split_strategy.ratio`.
        field: String,
        /// What is wrong and the way out.
        message: String,
    },
}

impl DatasetError {
    fn document(file: &str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Document {
            file: file.to_owned(),
            field: field.into(),
            message: message.into(),
        }
    }

    fn split(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Split {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// The files whose contents the other functions must be given.
///
/// # Errors
/// When the format's document is not there or too large, or a path is refused.
pub fn needed(dataset: &Dataset<'_>) -> Result<Vec<String>, DatasetError> {
    for file in dataset.files {
        check_path(&file.path)?;
    }
    let names = match dataset.format {
        Format::Dice => vec![documents::dice(dataset)?.to_owned()],
        Format::Coco => documents::coco(dataset)?,
        Format::Yolo => yolo::needed(dataset.files),
        Format::ImageFolder => Vec::new(),
    };
    let large = |file: &&FileEntry| file.size > MOST_DOCUMENT_BYTES && names.contains(&file.path);
    match dataset.files.iter().find(large) {
        Some(file) => Err(DatasetError::document(
            &file.path,
            "size",
            format!(
                "is {} bytes; at most {MOST_DOCUMENT_BYTES} are read",
                file.size
            ),
        )),
        None => Ok(names),
    }
}

/// All images, with what the dataset says about each.
///
/// # Errors
/// Names the file and the field, or says what the layout lacks.
pub fn inventory(dataset: &Dataset<'_>, documents: &Documents) -> Result<Inventory, DatasetError> {
    let mut inventory = match dataset.format {
        Format::Dice | Format::Coco => documents::inventory(dataset, documents)?,
        Format::Yolo => yolo::inventory(dataset, documents)?,
        Format::ImageFolder => folders::inventory(dataset.files)?,
    };
    inventory.images.sort_by(|a, b| a.key.cmp(&b.key));
    let twice = |pair: &[Image]| matches!(pair, [a, b] if a.key == b.key);
    if let Some([first, _]) = inventory.images.windows(2).find(|pair| twice(pair)) {
        return Err(DatasetError::Layout(format!(
            "the image '{}' is listed twice; list it once",
            first.key
        )));
    }
    if inventory.images.is_empty() {
        return Err(DatasetError::Layout(format!(
            "the dataset holds no images in the layout '{}'; see its format",
            dataset.format.name()
        )));
    }
    Ok(inventory)
}
