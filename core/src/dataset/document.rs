//! One annotation document, taken apart no further than the split needs: all that is not looked at
//! stays as the text that it was, to the last digit.
//!
//! Knows both shapes: flat (`annotations` point to images) and nested (each image holds its own).
//! Pure; called by `documents` and `rewrite`.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::{Value, value::RawValue};

use super::{DatasetError, Part};
use crate::spec::TaskType;

/// Marks samples without an object.
pub(super) const BACKGROUND: &str = "__background__";

/// A JSON object whose keys keep their order and whose values stay text.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(pub(super) Vec<(String, Box<RawValue>)>);

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&RawValue> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_ref())
    }

    /// In its place, or at the end.
    pub(super) fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// A text or a number, as text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        plain_text(serde_json::from_str(self.get(name)?.get()).ok()?)
    }
}

fn plain_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Fields::default();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    fields.0.push((key, value));
                }
                Ok(fields)
            }
        }
        from.deserialize_map(Object)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// One image of a document.
#[derive(Clone, Debug)]
pub(super) struct ImageRow {
    pub(super) fields: Fields,
    pub(super) id: String,
    pub(super) file_name: String,
    pub(super) split: Option<Part>,
}

/// One annotation of a flat document.
#[derive(Clone, Debug)]
pub(super) struct AnnotationRow {
    pub(super) row: Box<RawValue>,
    pub(super) image_id: String,
}

/// A document.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// Where it lies in the dataset.
    pub(super) path: String,
    /// All keys, those below included.
    pub(super) fields: Fields,
    pub(super) images: Vec<ImageRow>,
    /// None in a nested document.
    pub(super) annotations: Option<Vec<AnnotationRow>>,
}

/// All that is looked at of an annotation.
#[derive(Deserialize)]
struct Reference {
    image_id: Value,
}

#[derive(Deserialize)]
struct Category {
    id: Value,
    #[serde(default)]
    name: Option<String>,
}

impl Document {
    /// Reads the bytes of `path`.
    pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Self, DatasetError> {
        let wrong = |field: &str, message: &str| DatasetError::document(path, field, message);
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| {
            wrong(
                "the document",
                &format!("is not a JSON object with images: {error}"),
            )
        })?;
        let list = |name: &str| -> Result<Option<Vec<Box<RawValue>>>, DatasetError> {
            let Some(raw) = fields.get(name).filter(|raw| raw.get() != "null") else {
                return Ok(None);
            };
            let read = serde_json::from_str(raw.get());
            read.map(Some)
                .map_err(|error| wrong(name, &format!("is not a list: {error}")))
        };
        let images =
            list("images")?.ok_or_else(|| wrong("images", "is missing; list the images"))?;
        let images = images.iter().enumerate();
        let images = images
            .map(|(number, raw)| image(path, number, raw))
            .collect::<Result<_, _>>()?;
        let annotations = list("annotations")?;
        let annotations = annotations.map(|rows| {
            let rows = rows.into_iter().enumerate();
            rows.map(|(number, row)| annotation(path, number, row))
                .collect()
        });
        Ok(Self {
            path: path.to_owned(),
            annotations: annotations.transpose()?,
            fields,
            images,
        })
    }

    /// The extension that says how the dataset wants to be split.
    pub(super) fn split_config(&self) -> Option<Value> {
        let raw = self.fields.get("split_config")?;
        let value = serde_json::from_str(raw.get()).ok();
        value.filter(Value::is_object)
    }

    /// The class of each image, in their order: of its own key, else of its first annotation.
    pub(super) fn classes(&self) -> Result<Vec<Option<String>>, DatasetError> {
        let names = self.categories()?;
        let name = |fields: &Fields| {
            let id = fields
                .text("category_id")
                .or_else(|| fields.text("class_id"));
            let known = id.and_then(|id| names.get(&id).cloned());
            let named = fields.text("class_name").or_else(|| fields.text("label"));
            known.or(named).filter(|name| name != BACKGROUND)
        };
        let mut first = std::collections::BTreeMap::new();
        for annotation in self.annotations.iter().flatten() {
            if let Ok(fields) = serde_json::from_str(annotation.row.get())
                && let Some(name) = name(&fields)
            {
                first.entry(annotation.image_id.as_str()).or_insert(name);
            }
        }
        let class = |image: &ImageRow| {
            let nested = image.fields.get("annotations");
            let nested = nested.and_then(|raw| serde_json::from_str::<Vec<Fields>>(raw.get()).ok());
            name(&image.fields)
                .or_else(|| nested?.iter().find_map(name))
                .or_else(|| first.get(image.id.as_str()).cloned())
        };
        Ok(self.images.iter().map(class).collect())
    }

    /// What the task needs and none of the objects has; `None` also where there are no objects.
    pub(super) fn lacks(&self, task: TaskType) -> Option<DatasetError> {
        let (key, what) = match task {
            TaskType::Classification => return None,
            TaskType::Detection => ("bbox", "boxes"),
            TaskType::Segmentation => ("segmentation", "outlines"),
            TaskType::Pose => ("keypoints", "keypoints"),
        };
        let names = self.category_names();
        let is_object = |fields: &Fields| {
            let id = fields
                .text("category_id")
                .or_else(|| fields.text("class_id"));
            id.and_then(|id| names.get(&id))
                .is_some_and(|name| name != BACKGROUND)
        };
        let mut objects = self.objects().filter(is_object).peekable();
        objects.peek()?;
        let empty = |raw: &RawValue| matches!(raw.get(), "null" | "[]" | "{}");
        let has = |fields: Fields| fields.get(key).is_some_and(|raw| !empty(raw));
        let none = || {
            let message = format!(
                "have no '{key}': task {} needs {what}; add them, or choose another task",
                task.name()
            );
            DatasetError::document(&self.path, "annotations", message)
        };
        (!objects.any(has)).then(none)
    }

    /// All annotations, one read after the other.
    fn objects(&self) -> impl Iterator<Item = Fields> {
        let flat = self.annotations.iter().flatten();
        let flat = flat.filter_map(|row| serde_json::from_str(row.row.get()).ok());
        let nested = self
            .images
            .iter()
            .filter_map(|image| image.fields.get("annotations"));
        let nested = nested.filter_map(|raw| serde_json::from_str::<Vec<Fields>>(raw.get()).ok());
        flat.chain(nested.flatten())
    }

    /// Names of classes by their ids, as far as they can be read.
    pub(super) fn category_names(&self) -> std::collections::BTreeMap<String, String> {
        self.categories().unwrap_or_default()
    }

    fn categories(&self) -> Result<std::collections::BTreeMap<String, String>, DatasetError> {
        let mut names = std::collections::BTreeMap::new();
        for field in ["categories", "classes"] {
            let Some(raw) = self.fields.get(field) else {
                continue;
            };
            let rows: Vec<Category> = serde_json::from_str(raw.get()).map_err(|error| {
                let message = format!("is not a list of {{id, name}}: {error}");
                DatasetError::document(&self.path, field, message)
            })?;
            for row in rows {
                let id = match row.id {
                    Value::String(text) => text,
                    other @ (Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::Array(_)
                    | Value::Object(_)) => other.to_string(),
                };
                names.insert(id, row.name.unwrap_or_default());
            }
        }
        Ok(names)
    }
}

fn image(path: &str, number: usize, raw: &RawValue) -> Result<ImageRow, DatasetError> {
    let wrong = |field: &str, message: &str| {
        DatasetError::document(path, format!("images[{number}]{field}"), message)
    };
    let fields: Fields =
        serde_json::from_str(raw.get()).map_err(|_not_one| wrong("", "is not an object"))?;
    let file_name = fields.text("file_name").filter(|name| !name.is_empty());
    let file_name = file_name.ok_or_else(|| wrong(".file_name", "is missing"))?;
    let id = fields
        .text("id")
        .ok_or_else(|| wrong(".id", "is missing"))?;
    let split = fields.text("split").and_then(|name| Part::parse(&name));
    Ok(ImageRow {
        fields,
        id,
        file_name,
        split,
    })
}

fn annotation(
    path: &str,
    number: usize,
    row: Box<RawValue>,
) -> Result<AnnotationRow, DatasetError> {
    let reference: Option<Reference> = serde_json::from_str(row.get()).ok();
    match reference.and_then(|reference| plain_text(reference.image_id)) {
        Some(image_id) => Ok(AnnotationRow { row, image_id }),
        None => Err(DatasetError::document(
            path,
            format!("annotations[{number}].image_id"),
            "is missing",
        )),
    }
}

/// JSON text of `value`, which is plain data.
pub(super) fn raw(value: &impl Serialize) -> Result<Box<RawValue>, DatasetError> {
    serde_json::value::to_raw_value(value)
        .map_err(|error| DatasetError::Layout(format!("a document cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_by_file_and_field() {
        for (text, words) in [
            ("[]", "a.json: the document is not a JSON object"),
            ("{}", "a.json: images is missing"),
            (r#"{"images": 7}"#, "a.json: images is not a list"),
            (
                r#"{"images": [{"id": 1}]}"#,
                "a.json: images[0].file_name is missing",
            ),
            (
                r#"{"images": [{"file_name": "x"}]}"#,
                "a.json: images[0].id is missing",
            ),
            (
                r#"{"images": [], "annotations": [{}]}"#,
                "a.json: annotations[0].image_id is missing",
            ),
        ] {
            let error = Document::parse("a.json", text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn classes_come_from_either_shape_and_the_background_is_none() {
        let flat = r#"{"categories":[{"id":1,"name":"cat"},{"id":2,"name":"__background__"}],
            "images":[{"id":1,"file_name":"a"},{"id":2,"file_name":"b"}],
            "annotations":[{"image_id":1,"category_id":1},{"image_id":2,"category_id":2}]}"#;
        let nested = r#"{"classes":[{"id":"c","name":"cat"}],
            "images":[{"id":1,"file_name":"a","annotations":[{"class_id":"c"}]},
                      {"id":2,"file_name":"b","annotations":[]}]}"#;
        for text in [flat, nested] {
            let document = Document::parse("a.json", text.as_bytes()).unwrap();
            assert_eq!(document.classes().unwrap(), [Some("cat".to_owned()), None]);
        }
    }

    #[test]
    fn what_a_task_needs_and_no_object_has_is_named() {
        let flat = |annotations: &str| {
            let text = format!(
                r#"{{"categories":[{{"id":1,"name":"cat"}},{{"id":2,"name":"__background__"}}],
                "images":[{{"id":1,"file_name":"a"}}],"annotations":[{annotations}]}}"#
            );
            Document::parse("a.json", text.as_bytes()).unwrap()
        };
        let box_only = r#"{"image_id":1,"category_id":1,"bbox":[0,0,1,1],"segmentation":[]}"#;
        let outline =
            r#"{"image_id":1,"category_id":1,"segmentation":{"counts":"1","size":[1,1]}}"#;
        let background = r#"{"image_id":1,"category_id":2}"#;
        let told = flat(box_only).lacks(TaskType::Segmentation).unwrap();
        assert_eq!(
            told.to_string(),
            "a.json: annotations have no 'segmentation': task segmentation needs outlines; add them, or choose another task"
        );
        assert!(flat(outline).lacks(TaskType::Detection).is_some());
        assert!(flat(box_only).lacks(TaskType::Pose).is_some());
        for (annotations, task) in [
            (format!("{box_only},{outline}"), TaskType::Segmentation),
            (box_only.to_owned(), TaskType::Detection),
            (box_only.to_owned(), TaskType::Classification),
            (background.to_owned(), TaskType::Segmentation),
            (String::new(), TaskType::Pose),
        ] {
            assert_eq!(flat(&annotations).lacks(task), None, "{annotations}");
        }
        let nested = r#"{"classes":[{"id":"c","name":"cat"}],
            "images":[{"id":1,"file_name":"a","annotations":[{"class_id":"c","bbox":[0,0,1,1]}]}]}"#;
        let nested = Document::parse("a.json", nested.as_bytes()).unwrap();
        assert_eq!(nested.lacks(TaskType::Detection), None);
        assert!(nested.lacks(TaskType::Segmentation).is_some());
    }

    #[test]
    fn a_document_that_is_written_again_is_the_same_to_the_last_digit() {
        let text = r#"{"z":1e400,"a":[0.10,123456789012345678901],"k":"ü\u0041"}"#;
        let fields: Fields = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&fields).unwrap(), text);
    }
}
