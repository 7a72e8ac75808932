//! Annotation documents written anew, so that they say the part of every image and nothing of those
//! that are left out. All that is not about the split stays as it was, to the last digit. Pure; called
//! by `plan`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Assignment, Dataset, DatasetError, Documents, Format, Part,
    document::{AnnotationRow, Document, Fields, ImageRow, raw},
    documents,
    plan::shown_at,
};
use crate::spec::TaskType;

/// The name under which trainers look for a document of all tasks.
const MERGED: &str = "annotations.json";

/// Path and content of each document of the view.
///
/// DICE keeps its document's name. COCO gets one for each part, and one for all of them; their
/// `file_name` is the path in the dataset.
pub(super) fn documents(
    dataset: &Dataset<'_>,
    assignment: &Assignment,
    documents: &Documents,
) -> Result<Vec<(String, Vec<u8>)>, DatasetError> {
    let described = documents::describe(dataset, documents)?;
    let mut sheets: Vec<Sheet> = described
        .documents
        .into_iter()
        .zip(described.keys)
        .map(|(document, keys)| Sheet::new(document, &keys, assignment))
        .collect();
    for row in sheets.iter_mut().flat_map(|sheet| &mut sheet.images) {
        row.place = shown_at(dataset, &row.key);
    }
    if dataset.format != Format::Coco {
        for row in sheets.iter_mut().flat_map(|sheet| &mut sheet.images) {
            row.name_as_shown()?;
        }
        let sheets = sheets
            .iter()
            .map(|sheet| Ok((sheet.path.clone(), sheet.write(None)?)));
        return sheets.collect();
    }
    let mut merged = merge(&mut sheets)?;
    for row in &mut merged.images {
        let path = raw(&row.place)?;
        row.fields.set("file_name", path);
    }
    let mut files = vec![(MERGED.to_owned(), merged.write(None)?)];
    let parts: BTreeSet<Part> = merged.images.iter().map(|row| row.part).collect();
    for part in parts {
        files.push((of_part(dataset, part), merged.write(Some(part))?));
    }
    Ok(files)
}

/// The paths of these documents.
pub(super) fn names(
    dataset: &Dataset<'_>,
    assignment: &Assignment,
) -> Result<Vec<String>, DatasetError> {
    if dataset.format != Format::Coco {
        return Ok(vec![documents::dice(dataset)?.to_owned()]);
    }
    let of_part = |part: Part| of_part(dataset, part);
    let parts = assignment.counts().into_keys().map(of_part);
    Ok(std::iter::once(MERGED.to_owned()).chain(parts).collect())
}

/// Where COCO has the document of one part.
fn of_part(dataset: &Dataset<'_>, part: Part) -> String {
    let kind = match dataset.task {
        Some(TaskType::Pose) => "person_keypoints",
        Some(_) | None => "instances",
    };
    format!("annotations/{kind}_{}.json", part.name())
}

struct Row {
    key: String,
    /// Where the view shows it.
    place: String,
    id: String,
    part: Part,
    fields: Fields,
}

impl Row {
    /// Trainers look below `images/` and beside the document: a name that leads there stays, any other
    /// one is replaced.
    fn name_as_shown(&mut self) -> Result<(), DatasetError> {
        let name = self.fields.text("file_name").unwrap_or_default();
        if self.place == name || self.place == format!("images/{name}") {
            return Ok(());
        }
        let name = self.place.strip_prefix("images/").unwrap_or(&self.place);
        let name = raw(&name)?;
        self.fields.set("file_name", name);
        Ok(())
    }
}

/// A document with only what is shown.
struct Sheet {
    path: String,
    fields: Fields,
    images: Vec<Row>,
    annotations: Option<Vec<AnnotationRow>>,
}

impl Sheet {
    fn new(document: Document, keys: &[String], assignment: &Assignment) -> Self {
        let row = |(image, key): (ImageRow, &String)| {
            Some(Row {
                part: assignment.part_of(key)?,
                key: key.clone(),
                place: String::new(),
                id: image.id,
                fields: image.fields,
            })
        };
        let images: Vec<Row> = document
            .images
            .into_iter()
            .zip(keys)
            .filter_map(row)
            .collect();
        let shown: BTreeSet<&str> = images.iter().map(|row| row.id.as_str()).collect();
        let annotations = document.annotations.map(|rows| {
            let rows = rows.into_iter();
            rows.filter(|row| shown.contains(row.image_id.as_str()))
                .collect()
        });
        Self {
            path: document.path,
            fields: document.fields,
            images,
            annotations,
        }
    }

    /// All of it, or what belongs to one part.
    fn write(&self, only: Option<Part>) -> Result<Vec<u8>, DatasetError> {
        let wanted = |row: &&Row| only.is_none_or(|part| part == row.part);
        let mut fields = self.fields.clone();
        let mut images = Vec::new();
        let mut ids = BTreeSet::new();
        let mut splits = Map::new();
        for row in self.images.iter().filter(wanted) {
            let mut image = row.fields.clone();
            image.set("split", raw(&row.part.name())?);
            images.push(image);
            ids.insert(row.id.as_str());
            splits.insert(row.id.clone(), json!(row.part.name()));
        }
        fields.set("images", raw(&images)?);
        if let Some(rows) = &self.annotations {
            let rows = rows
                .iter()
                .filter(|row| ids.contains(row.image_id.as_str()));
            let rows: Vec<&RawValue> = rows.map(|row| row.row.as_ref()).collect();
            fields.set("annotations", raw(&rows)?);
        }
        if self.annotations.is_some() || fields.get("split_config").is_some() {
            let config = split_config(fields.get("split_config"), splits);
            fields.set("split_config", raw(&config)?);
        }
        serde_json::to_vec(&fields)
            .map_err(|error| DatasetError::document(&self.path, "the document", error.to_string()))
    }
}

/// What was said of the split, with each image named in place of it.
fn split_config(old: Option<&RawValue>, splits: Map<String, Value>) -> Value {
    let old = old.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let mut config: Map<String, Value> = old.unwrap_or_default();
    for key in ["custom_splits", "exclude_images"] {
        config.remove(key);
    }
    config.insert("method".to_owned(), json!("custom"));
    config.insert("splits".to_owned(), Value::Object(splits));
    Value::Object(config)
}

/// One document of several, whose categories are the same. Numbers of images and annotations are given anew when two documents use
/// the same.
fn merge(sheets: &mut Vec<Sheet>) -> Result<Sheet, DatasetError> {
    let none = || DatasetError::Layout("a coco dataset without a document".to_owned());
    let rest = sheets.split_off(1.min(sheets.len()));
    let mut merged = sheets.pop().ok_or_else(none)?;
    let all_differ =
        all_differ(&merged, &rest, image_ids) && all_differ(&merged, &rest, object_ids);
    let mut next = 1;
    if !all_differ {
        renumber(&mut merged, &mut next)?;
    }
    for mut sheet in rest {
        if !all_differ {
            renumber(&mut sheet, &mut next)?;
        }
        merged.images.append(&mut sheet.images);
        if let Some(mut rows) = sheet.annotations {
            merged.annotations.get_or_insert_default().append(&mut rows);
        }
    }
    Ok(merged)
}

/// Whether no document of `rest` has an id that stands before it.
fn all_differ(first: &Sheet, rest: &[Sheet], ids: fn(&Sheet) -> Vec<String>) -> bool {
    let mut seen: BTreeSet<String> = if rest.is_empty() {
        BTreeSet::new()
    } else {
        ids(first).into_iter().collect()
    };
    rest.iter().flat_map(ids).all(|id| seen.insert(id))
}

fn image_ids(sheet: &Sheet) -> Vec<String> {
    sheet.images.iter().map(|row| row.id.clone()).collect()
}

/// Those of its annotations, as far as they have one.
fn object_ids(sheet: &Sheet) -> Vec<String> {
    let rows = sheet.annotations.iter().flatten();
    let id = |row: &AnnotationRow| {
        serde_json::from_str::<Fields>(row.row.get())
            .ok()?
            .text("id")
    };
    rows.filter_map(id).collect()
}

fn renumber(sheet: &mut Sheet, next: &mut u64) -> Result<(), DatasetError> {
    let mut numbers = BTreeMap::new();
    for row in &mut sheet.images {
        let number = *next;
        *next += 1;
        let old = std::mem::replace(&mut row.id, number.to_string());
        row.fields.set("id", raw(&number)?);
        numbers.insert(old, number);
    }
    for row in sheet.annotations.iter_mut().flatten() {
        let Some(number) = numbers.get(&row.image_id) else {
            continue;
        };
        let unread = |error: serde_json::Error| {
            DatasetError::document(&sheet.path, "annotations", error.to_string())
        };
        let mut fields: Fields = serde_json::from_str(row.row.get()).map_err(unread)?;
        fields.set("image_id", raw(number)?);
        fields.set("id", raw(next)?);
        *next += 1;
        row.row = raw(&fields)?;
        row.image_id = number.to_string();
    }
    Ok(())
}
