//! What a trainer is shown of a dataset: links to its files and documents written anew, so that the
//! split holds whatever the trainer does.
//!
//! Excluded images are left out. Folders of classes and YOLO datasets get folders by part; annotation
//! documents say the part of every image. Images of a classification that a document describes lie in
//! folders of classes too. Pure; the agent carries the plan out.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml_ng::{Mapping, Value as Yaml};

use super::{
    Assignment, Dataset, DatasetError, Documents, Format, Image, Inventory, Part, check_path,
    paths, rewrite, yolo,
};
use crate::spec::TaskType;

/// A folder as it is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Folders that are there even when nothing is in them.
    pub folders: Vec<String>,
    /// A file of the dataset, and where it is shown; each place once.
    pub links: Vec<(String, String)>,
    /// Files written anew, with their contents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// The view of a dataset in which only `assignment` can be seen.
///
/// # Errors
/// When a document cannot be rewritten, or a name is refused.
pub fn layout(
    dataset: &Dataset<'_>,
    inventory: &Inventory,
    assignment: &Assignment,
    documents: &Documents,
) -> Result<Plan, DatasetError> {
    let mut draft = Draft::of(dataset, inventory, assignment, documents)?;
    if has_documents(dataset) {
        draft.plan.files = rewrite::documents(dataset, assignment, documents)?;
    }
    draft.finish()
}

/// Whether [`layout`] can be carried out, found out without writing any document anew.
///
/// # Errors
/// As [`layout`].
pub fn check_layout(
    dataset: &Dataset<'_>,
    inventory: &Inventory,
    assignment: &Assignment,
    documents: &Documents,
) -> Result<(), DatasetError> {
    let mut draft = Draft::of(dataset, inventory, assignment, documents)?;
    if has_documents(dataset) {
        let names = rewrite::names(dataset, assignment)?;
        draft.plan.files = names.into_iter().map(|name| (name, Vec::new())).collect();
    }
    draft.finish().map(drop)
}

/// Whether annotation documents describe it.
fn has_documents(dataset: &Dataset<'_>) -> bool {
    matches!(dataset.format, Format::Dice | Format::Coco)
}

/// Where an image of a document is shown: where it is, but for a classification below `images/`, so
/// that its place is never one in the folders of classes.
pub(super) fn shown_at(dataset: &Dataset<'_>, key: &str) -> String {
    match dataset.task {
        Some(TaskType::Classification) if !key.starts_with("images/") => format!("images/{key}"),
        Some(_) | None => key.to_owned(),
    }
}

struct Shown<'a> {
    images: &'a [Image],
    assignment: &'a Assignment,
}

impl Shown<'_> {
    fn iter(&self) -> impl Iterator<Item = (&Image, Part)> {
        let part = |image: &Image| self.assignment.part_of(&image.key);
        self.images
            .iter()
            .filter_map(move |image| Some((image, part(image)?)))
    }
}

#[derive(Default)]
struct Draft {
    plan: Plan,
    taken: BTreeSet<String>,
}

impl Draft {
    /// All but the documents written anew.
    fn of(
        dataset: &Dataset<'_>,
        inventory: &Inventory,
        assignment: &Assignment,
        documents: &Documents,
    ) -> Result<Self, DatasetError> {
        let mut draft = Self::default();
        let shown = Shown {
            images: &inventory.images,
            assignment,
        };
        match dataset.format {
            Format::ImageFolder => draft.class_folders(&shown, true),
            Format::Yolo => draft.yolo(dataset, &shown, documents)?,
            Format::Dice | Format::Coco => {
                for (image, _) in shown.iter() {
                    draft.link(&image.key, shown_at(dataset, &image.key));
                }
                if dataset.task == Some(TaskType::Classification) {
                    draft.class_folders(&shown, false);
                }
            }
        }
        Ok(draft)
    }

    fn link(&mut self, from: &str, to: String) {
        self.plan.links.push((from.to_owned(), to));
    }

    /// `folder/name`, or a name of its own when another image has that one. Two images that differ
    /// only in their ending would share a label.
    fn place(&mut self, folder: &str, name: &str, key: &str) -> String {
        let flat = || key.replace('/', "_");
        let numbered = (2_u32..).map(|number| format!("{number}_{}", flat()));
        let names = [name.to_owned(), flat()].into_iter().chain(numbered);
        for name in names {
            let path = format!("{folder}/{name}");
            if self.taken.insert(paths::stem(&path).to_owned()) {
                return path;
            }
        }
        format!("{folder}/{name}")
    }

    /// `<part>/<class>/<name>`; each class has a folder in each part, so that its number is the same.
    /// A class of a document may have any name, one of a folder has a good one.
    fn class_folders(&mut self, shown: &Shown<'_>, plain: bool) {
        let classes = shown
            .images
            .iter()
            .filter_map(|image| image.class.as_deref());
        let folders = folders_of(classes.collect(), plain);
        let parts: BTreeSet<Part> = shown.iter().map(|(_, part)| part).collect();
        for part in parts {
            let names: BTreeSet<&String> = folders.values().collect();
            let names = names.into_iter();
            let folders = names.map(|class| format!("{}/{class}", part.name()));
            self.plan.folders.extend(folders);
        }
        for (image, part) in shown.iter() {
            let class = image.class.as_deref();
            let Some(class) = class.and_then(|class| folders.get(class)) else {
                continue;
            };
            let below = image.key.split_once(&format!("{class}/"));
            let rest = below.filter(|_| plain).map(|(_, rest)| rest);
            let rest = rest.unwrap_or_else(|| paths::file_name(&image.key));
            let to = self.place(&format!("{}/{class}", part.name()), rest, &image.key);
            self.link(&image.key, to);
        }
    }

    fn yolo(
        &mut self,
        dataset: &Dataset<'_>,
        shown: &Shown<'_>,
        documents: &Documents,
    ) -> Result<(), DatasetError> {
        let there = |path: &str| {
            let found = dataset
                .files
                .binary_search_by(|file| file.path.as_str().cmp(path));
            found.is_ok()
        };
        for (image, part) in shown.iter() {
            let rest = rest_of(&image.key);
            let to = self.place(&format!("images/{}", part.name()), rest, &image.key);
            let labels = yolo::labels_of(&image.key);
            if let Some(label) = labels.iter().find(|label| there(label)) {
                self.link(label, yolo::label_of(&to));
            }
            self.link(&image.key, to);
        }
        let parts: BTreeSet<Part> = shown.iter().map(|(_, part)| part).collect();
        for part in &parts {
            self.plan.folders.push(format!("images/{}", part.name()));
            self.plan.folders.push(format!("labels/{}", part.name()));
        }
        if there(yolo::CLASSES) {
            self.link(yolo::CLASSES, yolo::CLASSES.to_owned());
        }
        if let Some(description) = description(dataset, &parts, documents)? {
            self.plan.files.push(("data.yaml".to_owned(), description));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Plan, DatasetError> {
        self.plan.links.sort();
        let links = self.plan.links.iter().map(|(_, to)| to);
        let files = self.plan.files.iter().map(|(path, _)| path);
        let mut seen = BTreeSet::new();
        for path in links.chain(files) {
            check_path(path)?;
            if !seen.insert(path.as_str()) {
                return Err(DatasetError::Layout(format!(
                    "the view would hold '{path}' twice; rename one of the files"
                )));
            }
        }
        for folder in &self.plan.folders {
            check_path(folder)?;
        }
        Ok(self.plan)
    }
}

/// The folder of each class: one of its own, for two that became one would be learned as one. A class that is
/// called as its folder keeps its name; of others that meet, the first in order does.
fn folders_of(classes: BTreeSet<&str>, plain: bool) -> BTreeMap<&str, String> {
    let as_is = |class: &&str| plain || paths::as_name(class) == *class;
    let (named, odd): (Vec<&str>, Vec<&str>) = classes.into_iter().partition(as_is);
    let mut folders: BTreeMap<&str, String> = named
        .into_iter()
        .map(|class| (class, class.to_owned()))
        .collect();
    let mut taken: BTreeSet<String> = folders.values().cloned().collect();
    for class in odd {
        let mut name = paths::as_name(class);
        let mut number = 2_u32;
        while !taken.insert(name.clone()) {
            name = format!("{}_{number}", paths::as_name(class));
            number += 1;
        }
        folders.insert(class, name);
    }
    folders
}

/// The path below `images/` and the folder of a part.
fn rest_of(key: &str) -> &str {
    let below = key.rsplit_once("images/").map_or(key, |(_, rest)| rest);
    match below.split_once('/') {
        Some((top, rest)) if Part::parse(top).is_some() => rest,
        Some(_) | None => below,
    }
}

/// A fresh `data.yaml`: what the dataset says, with the parts of this view. Paths are relative to it.
fn description(
    dataset: &Dataset<'_>,
    parts: &BTreeSet<Part>,
    documents: &Documents,
) -> Result<Option<Vec<u8>>, DatasetError> {
    let mut described = match (
        yolo::description(dataset.files),
        documents.get(yolo::CLASSES),
    ) {
        (Some(name), _) => yolo::describe(name, documents)?,
        (None, Some(listed)) => classes(&String::from_utf8_lossy(listed)),
        (None, None) => return Ok(None),
    };
    // A download is never wanted, and would run code that is written there.
    for key in [
        "path",
        "download",
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "test",
    ] {
        described.remove(key);
    }
    for part in parts {
        let folder = format!("images/{}", part.name());
        described.insert(part.name().into(), folder.into());
    }
    let written = serde_yaml_ng::to_string(&described).map_err(|error| {
        DatasetError::document(
            "data.yaml",
            "the document",
            format!("cannot be written: {error}"),
        )
    })?;
    Ok(Some(written.into_bytes()))
}

fn classes(listed: &str) -> Mapping {
    let names = listed
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let names: Vec<Yaml> = names.map(Yaml::from).collect();
    [(Yaml::from("names"), Yaml::Sequence(names))]
        .into_iter()
        .collect()
}

#[cfg(test)]
mod meeting;
#[cfg(test)]
mod tests;
