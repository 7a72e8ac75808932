//! Datasets with `images/`, `labels/` and a `data.yaml`. Pure; called by `dataset`.
//!
//! The label of an image has its path with the last folder `images` called `labels` and the ending
//! `.txt`, as Ultralytics finds it.

use std::collections::BTreeMap;

use serde_yaml_ng::{Mapping, Value as Yaml};

use super::{Dataset, DatasetError, Documents, FileEntry, Image, Inventory, Part, paths};
use crate::spec::TaskType;

const DESCRIPTIONS: [&str; 4] = ["data.yaml", "data.yml", "dataset.yaml", "dataset.yml"];
/// Names of classes, one a line.
pub(super) const CLASSES: &str = "classes.txt";

pub(super) fn is_description(path: &str) -> bool {
    DESCRIPTIONS.contains(&path)
}

/// A text in a folder of labels.
pub(super) fn is_label(path: &str) -> bool {
    path.ends_with(".txt") && paths::folder(path).split('/').any(|name| name == "labels")
}

/// The description, and every text that may list images or classes.
pub(super) fn needed(files: &[FileEntry]) -> Vec<String> {
    let described = description(files);
    let beside = |path: &str| sibling_label_of_image(path, files);
    files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| {
            Some(*path) == described || path.ends_with(".txt") && !is_label(path) && !beside(path)
        })
        .map(str::to_owned)
        .collect()
}

/// A label that lies beside its image, as some exports have it.
fn sibling_label_of_image(path: &str, files: &[FileEntry]) -> bool {
    let stem = paths::stem(path);
    let from = files.partition_point(|file| file.path.as_str() < stem);
    files
        .iter()
        .skip(from)
        .map(|file| file.path.as_str())
        .take_while(|other| other.starts_with(stem))
        .any(|other| paths::is_image(other) && paths::stem(other) == stem)
}

/// The best description that is there.
pub(super) fn description(files: &[FileEntry]) -> Option<&'static str> {
    let there = |name: &str| {
        files
            .binary_search_by(|file| file.path.as_str().cmp(name))
            .is_ok()
    };
    DESCRIPTIONS.into_iter().find(|name| there(name))
}

/// Reads a description.
pub(super) fn describe(name: &str, documents: &Documents) -> Result<Mapping, DatasetError> {
    let wrong = |message: String| DatasetError::document(name, "the document", message);
    let bytes = documents.get(name);
    let bytes = bytes.ok_or_else(|| wrong("was not read".to_owned()))?;
    match serde_yaml_ng::from_slice(bytes) {
        Ok(Yaml::Mapping(mapping)) => Ok(mapping),
        Ok(_) => Err(wrong(
            "is not a mapping; it needs train, val and names".to_owned(),
        )),
        Err(error) => Err(wrong(format!("is not YAML: {error}"))),
    }
}

/// All images, with the part that the description or their folders say.
pub(super) fn inventory(
    dataset: &Dataset<'_>,
    documents: &Documents,
) -> Result<Inventory, DatasetError> {
    let files = dataset.files;
    let mut parts = BTreeMap::new();
    let mut keypoints = false;
    if let Some(name) = description(files) {
        let described = describe(name, documents)?;
        if described.get("names").is_none() && described.get("nc").is_none() {
            let message = "is missing; add the class names";
            return Err(DatasetError::document(name, "names", message));
        }
        keypoints = described.get("kpt_shape").is_some();
        let entries = Entries {
            name,
            files,
            documents,
            root: described.get("path"),
        };
        for (keys, part) in [
            (["test", "testing"], Part::Test),
            (["val", "validation"], Part::Val),
            (["train", "training"], Part::Train),
        ] {
            let entry = keys.iter().find_map(|key| described.get(*key));
            for path in entries.images(keys[0], entry.unwrap_or(&Yaml::Null))? {
                parts.insert(path, part);
            }
        }
    }
    let whole = parts.is_empty();
    let images = files.iter().map(|file| file.path.as_str());
    let images =
        images.filter(|path| paths::is_image(path) && (whole || parts.contains_key(*path)));
    let images = images.map(|path| Image {
        key: path.to_owned(),
        id: path.to_owned(),
        part: if whole {
            by_folder(path)
        } else {
            parts.get(path).copied()
        },
        class: None,
    });
    Ok(Inventory {
        images: images.collect(),
        lacks: (dataset.task == Some(TaskType::Pose) && !keypoints).then(no_keypoints),
        ..Inventory::default()
    })
}

/// Labels alone do not say how many values a keypoint has.
fn no_keypoints() -> DatasetError {
    let message = "is missing: task pose needs it; add a line such as `kpt_shape: [17, 3]`, or choose another task";
    DatasetError::document("data.yaml", "kpt_shape", message)
}

fn by_folder(path: &str) -> Option<Part> {
    paths::folder(path).split('/').find_map(Part::parse)
}

/// What an image's label is called.
pub(super) fn label_of(path: &str) -> String {
    let stem = paths::stem(path);
    let mut names: Vec<&str> = stem.split('/').collect();
    let folders = names.len().saturating_sub(1);
    if let Some(images) = names
        .iter_mut()
        .take(folders)
        .rev()
        .find(|name| **name == "images")
    {
        *images = "labels";
    }
    names.join("/") + ".txt"
}

/// Where an image's label may lie, best first: some exports have it beside the image.
pub(super) fn labels_of(path: &str) -> [String; 2] {
    [label_of(path), paths::stem(path).to_owned() + ".txt"]
}

/// Resolves what a description says under train, val and test.
struct Entries<'a> {
    name: &'a str,
    files: &'a [FileEntry],
    documents: &'a Documents,
    root: Option<&'a Yaml>,
}

impl Entries<'_> {
    fn images(&self, field: &str, entry: &Yaml) -> Result<Vec<String>, DatasetError> {
        match entry {
            Yaml::Null => Ok(Vec::new()),
            Yaml::Sequence(entries) => {
                let found = entries.iter().map(|entry| self.images(field, entry));
                Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
            }
            Yaml::String(text) => self.of_text(field, text),
            Yaml::Bool(_) | Yaml::Number(_) | Yaml::Mapping(_) | Yaml::Tagged(_) => Err(
                DatasetError::document(self.name, field, "is neither a path nor a list of paths"),
            ),
        }
    }

    fn of_text(&self, field: &str, text: &str) -> Result<Vec<String>, DatasetError> {
        for candidate in self.candidates(text) {
            if let Some(listing) = self.documents.get(&candidate) {
                return self.listed(&candidate, listing);
            }
            let below = if candidate.is_empty() {
                String::new()
            } else {
                format!("{candidate}/")
            };
            let images = self.below(&below);
            if !images.is_empty() {
                return Ok(images);
            }
        }
        Err(DatasetError::document(
            self.name,
            field,
            format!(
                "says '{text}', where there are no images; write a folder or a listing in the dataset"
            ),
        ))
    }

    fn below(&self, folder: &str) -> Vec<String> {
        let from = self
            .files
            .partition_point(|file| file.path.as_str() < folder);
        self.files
            .iter()
            .skip(from)
            .map(|file| file.path.as_str())
            .take_while(|path| path.starts_with(folder))
            .filter(|path| paths::is_image(path))
            .map(str::to_owned)
            .collect()
    }

    /// Paths in the dataset that a text may mean, best first. Exports write `path`, or a folder of
    /// another machine, or one that was merged with its parent.
    fn candidates(&self, text: &str) -> Vec<String> {
        let root = self.root.and_then(Yaml::as_str).unwrap_or_default();
        let plain = tidy(text);
        let mut all = vec![tidy(&format!("{root}/{text}")), plain.clone()];
        if let Some(short) = plain.strip_prefix(&format!("{}/", tidy(root))) {
            all.push(short.to_owned());
        }
        let mut rest = plain.as_str();
        while let Some((_, shorter)) = rest.split_once('/') {
            all.push(shorter.to_owned());
            rest = shorter;
        }
        all
    }

    fn listed(&self, listing: &str, bytes: &[u8]) -> Result<Vec<String>, DatasetError> {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let there = |path: &String| {
            let found = self
                .files
                .binary_search_by(|file| file.path.as_str().cmp(path));
            found.is_ok()
        };
        let mut found = Vec::new();
        for line in lines {
            let mut candidates = vec![tidy(&format!("{}/{line}", paths::folder(listing)))];
            candidates.extend(self.candidates(line));
            match candidates.into_iter().find(there) {
                Some(path) => found.push(path),
                None => {
                    let message = format!("names '{line}', which is not in the dataset");
                    return Err(DatasetError::document(listing, "the listing", message));
                }
            }
        }
        Ok(found)
    }
}

/// Without `.`, `..` at the front, and doubled or leading slashes.
fn tidy(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<FileEntry> {
        let entry = |path: &&str| FileEntry {
            path: (*path).to_owned(),
            size: 1,
        };
        let mut files: Vec<_> = paths.iter().map(entry).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    fn read_all(
        task: Option<TaskType>,
        paths: &[&str],
        documents: &[(&str, &str)],
    ) -> Result<Inventory, DatasetError> {
        let read = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
        let dataset = Dataset {
            format: super::super::Format::Yolo,
            task,
            files: &files(paths),
        };
        inventory(&dataset, &documents.iter().map(read).collect())
    }

    fn of(
        paths: &[&str],
        documents: &[(&str, &str)],
    ) -> Result<Vec<(String, Option<Part>)>, DatasetError> {
        let found = read_all(None, paths, documents)?;
        Ok(found
            .images
            .into_iter()
            .map(|image| (image.key, image.part))
            .collect())
    }

    #[test]
    fn parts_come_from_the_folders_that_the_description_names() {
        let paths = [
            "data.yaml",
            "images/train/a.png",
            "images/val/b.png",
            "images/spare/c.png",
        ];
        for yaml in [
            "train: images/train\nval: images/val\nnames: [x]\n",
            "path: /somewhere/else\ntrain: ../images/train\nvalidation: [images/val]\nnc: 1\n",
            "path: /data/set\ntrain: /data/set/images/train\nval: /data/set/images/val\nnames: {0: x}\n",
        ] {
            let found = of(&paths, &[("data.yaml", yaml)]).unwrap();
            assert_eq!(
                found,
                [
                    ("images/train/a.png".to_owned(), Some(Part::Train)),
                    ("images/val/b.png".to_owned(), Some(Part::Val))
                ]
            );
        }
    }

    #[test]
    fn parts_come_from_listings_too() {
        let paths = [
            "data.yaml",
            "images/a.png",
            "images/b.png",
            "lists/train.txt",
            "val.txt",
        ];
        let yaml = "train: lists/train.txt\nval: val.txt\nnames: [x]\n";
        let documents = [
            ("data.yaml", yaml),
            ("lists/train.txt", "../images/a.png\n"),
            ("val.txt", "./images/b.png\n"),
        ];
        let found = of(&paths, &documents).unwrap();
        assert_eq!(
            (found[0].1, found[1].1),
            (Some(Part::Train), Some(Part::Val))
        );
        let all = files(&[&paths[..], &["images/b.txt", "labels/a.txt"]].concat());
        assert_eq!(needed(&all), ["data.yaml", "lists/train.txt", "val.txt"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let paths = ["data.yaml", "images/train/a.png"];
        for (yaml, words) in [
            (
                "train: nowhere\nnames: [x]\n",
                "data.yaml: train says 'nowhere'",
            ),
            ("train: images/train\n", "data.yaml: names is missing"),
            ("train: 7\nnames: [x]\n", "data.yaml: train is neither"),
            ("[", "data.yaml: the document is not YAML"),
        ] {
            let error = of(&paths, &[("data.yaml", yaml)]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn without_a_description_the_folders_tell() {
        let found = of(&["images/a.png", "images/valid/b.png", "labels/a.txt"], &[]).unwrap();
        assert_eq!((found[0].1, found[1].1), (None, Some(Part::Val)));
    }

    #[test]
    fn keypoints_need_a_shape_in_the_description() {
        let paths = ["data.yaml", "images/a.png", "labels/a.txt"];
        let lacks = |task, yaml| {
            let found = read_all(Some(task), &paths, &[("data.yaml", yaml)]).unwrap();
            found.lacks.map(|lack| lack.to_string())
        };
        let plain = "train: images\nnames: [x]\n";
        let told = lacks(TaskType::Pose, plain).unwrap();
        assert!(
            told.starts_with("data.yaml: kpt_shape is missing"),
            "{told}"
        );
        assert_eq!(lacks(TaskType::Detection, plain), None);
        let shaped = "train: images\nnames: [x]\nkpt_shape: [2, 3]\n";
        assert_eq!(lacks(TaskType::Pose, shaped), None);
    }

    #[test]
    fn a_label_lies_where_ultralytics_looks() {
        assert_eq!(label_of("images/train/a.b.png"), "labels/train/a.b.txt");
        assert_eq!(label_of("train/images/a.png"), "train/labels/a.txt");
        assert_eq!(label_of("pictures/images.png"), "pictures/images.txt");
    }
}
