//! Datasets that are described by annotation documents: DICE and COCO. Pure; called by `dataset`.
//!
//! Owns which document is the one for a task and where its images lie. Documents themselves are read
//! by `document`.

use std::collections::BTreeSet;

use super::{
    Dataset, DatasetError, Documents, FileEntry, Format, Image, Inventory, Part,
    document::{Document, ImageRow},
    paths::{file_name, folder},
};
use crate::spec::TaskType;

const OLDER: &str = "annotations.json";

/// What a dataset's documents say, each image with its file.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) documents: Vec<Document>,
    /// For each document and each of its images: the file.
    pub(super) keys: Vec<Vec<String>>,
}

/// The document for the task: its own, else the older one for all tasks.
pub(super) fn dice<'a>(dataset: &Dataset<'a>) -> Result<&'a str, DatasetError> {
    let there: Vec<&str> = dataset
        .files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| path.starts_with("annotations") && path.ends_with(".json"))
        .filter(|path| !path.contains('/'))
        .collect();
    let find = |name: &str| there.iter().copied().find(|path| *path == name);
    let own = |task: TaskType| find(&format!("annotations_{}.json", task.name()));
    let any = || {
        use TaskType::{Classification, Detection, Pose, Segmentation};
        let known = [Detection, Segmentation, Pose, Classification];
        known.into_iter().find_map(own)
    };
    let found = match dataset.task {
        Some(task) => own(task).or_else(|| find(OLDER)),
        None => find(OLDER).or_else(any),
    };
    found.ok_or_else(|| {
        let task = dataset.task.map_or("<task>", TaskType::name);
        let there = if there.is_empty() {
            "none".to_owned()
        } else {
            there.join(", ")
        };
        DatasetError::Layout(format!(
            "the dataset has neither annotations_{task}.json nor {OLDER}; documents at its top: {there}"
        ))
    })
}

/// Whether a name is that of a COCO document.
pub(super) fn is_coco(path: &str) -> bool {
    let name = file_name(path);
    let listed = name.starts_with("instances_") || name.starts_with("person_keypoints_");
    name.ends_with(".json") && (listed || name == "_annotations.coco.json")
        || path.starts_with("annotations/") && name.ends_with(".json")
}

/// The documents of a COCO dataset: those of the task where there are several kinds, else all
/// `.json` at the top when there is but one.
pub(super) fn coco(dataset: &Dataset<'_>) -> Result<Vec<String>, DatasetError> {
    // One that was put there for the task goes before all others.
    let own = dataset
        .task
        .map(|task| format!("annotations_{}.json", task.name()));
    if let Some(own) = own.filter(|own| dataset.files.iter().any(|file| file.path == *own)) {
        return Ok(vec![own]);
    }
    let json = || {
        let all = dataset.files.iter().map(|file| file.path.as_str());
        all.filter(|path| path.ends_with(".json"))
    };
    let starts = |word: &str| -> Vec<&str> {
        json()
            .filter(|path| is_coco(path) && file_name(path).starts_with(word))
            .collect()
    };
    let kinds: &[&str] = match dataset.task {
        Some(TaskType::Pose) => &[
            "person_keypoints_",
            "keypoints_",
            "instances_",
            "_annotations",
        ],
        Some(_) | None => &["instances_", "_annotations", "person_keypoints_"],
    };
    let of_kind = kinds
        .iter()
        .map(|kind| starts(kind))
        .find(|found| !found.is_empty());
    let found = of_kind.unwrap_or_else(|| {
        let top: Vec<&str> = json().filter(|path| !path.contains('/')).collect();
        let below: Vec<&str> = json()
            .filter(|path| folder(path) == "annotations")
            .collect();
        if below.is_empty() { top } else { below }
    });
    let single = found.len() == 1;
    let found: Vec<String> = found
        .into_iter()
        .filter(|path| single || part_of(path).is_some())
        .map(str::to_owned)
        .collect();
    if found.is_empty() {
        return Err(DatasetError::Layout(
            "a coco dataset needs annotations/instances_<part>.json for each part, or one document"
                .to_owned(),
        ));
    }
    Ok(found)
}

/// The part in a name such as `annotations/instances_train2017.json` or `train/_annotations.coco.json`.
fn part_of(path: &str) -> Option<Part> {
    let name = file_name(path).trim_end_matches(".json");
    let words = name.split(['_', '-', '.']).rev();
    let plain = |word: &str| Part::parse(word.trim_end_matches(|c: char| c.is_ascii_digit()));
    words.chain(folder(path).split('/')).find_map(plain)
}

/// Reads the documents and finds the file of each image.
pub(super) fn describe(
    dataset: &Dataset<'_>,
    documents: &Documents,
) -> Result<Described, DatasetError> {
    let names = match dataset.format {
        Format::Coco => coco(dataset)?,
        Format::Dice | Format::Yolo | Format::ImageFolder => vec![dice(dataset)?.to_owned()],
    };
    let mut described = Described {
        documents: Vec::new(),
        keys: Vec::new(),
    };
    for name in names {
        let unread = || DatasetError::document(&name, "the document", "was not read");
        let bytes = documents.get(&name).ok_or_else(unread)?;
        let document = Document::parse(&name, bytes)?;
        let keys = keys(dataset.files, &document)?;
        described.documents.push(document);
        described.keys.push(keys);
    }
    Ok(described)
}

/// All images that the documents name. For classification, those that have a class.
pub(super) fn inventory(
    dataset: &Dataset<'_>,
    documents: &Documents,
) -> Result<Inventory, DatasetError> {
    let described = describe(dataset, documents)?;
    let several = described.documents.len() > 1;
    same_categories(&described.documents)?;
    let mut inventory = Inventory::default();
    for (document, keys) in described.documents.iter().zip(&described.keys) {
        let of_file = part_of(&document.path).filter(|_| several);
        let classes = match dataset.task {
            Some(TaskType::Classification) => Some(document.classes()?),
            Some(TaskType::Detection | TaskType::Segmentation | TaskType::Pose) | None => None,
        };
        unique_ids(document)?;
        for (number, (row, key)) in document.images.iter().zip(keys).enumerate() {
            let class = classes
                .as_ref()
                .map(|all| all.get(number).cloned().flatten());
            if class == Some(None) {
                inventory.unclassed += 1;
                continue;
            }
            inventory.images.push(Image {
                key: key.clone(),
                id: row.id.clone(),
                part: row.split.or(of_file),
                class: class.flatten(),
            });
        }
        let own = document.split_config();
        inventory.split_config = inventory.split_config.or(own);
    }
    let lacks = |task| {
        let mut documents = described.documents.iter();
        // One that has it is enough: the others may hold samples without objects.
        let all = documents.try_fold(None, |_, document| document.lacks(task).map(Some));
        all.flatten()
    };
    inventory.lacks = dataset.task.and_then(lacks);
    Ok(inventory)
}

/// Documents that are shown as one must mean the same by a number.
fn same_categories(documents: &[Document]) -> Result<(), DatasetError> {
    let Some((first, rest)) = documents.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Ok(());
    };
    let names = first.category_names();
    match rest.iter().find(|other| other.category_names() != names) {
        Some(other) => Err(DatasetError::document(
            &other.path,
            "categories",
            format!(
                "are not those of {}; give all documents the same",
                first.path
            ),
        )),
        None => Ok(()),
    }
}

fn unique_ids(document: &Document) -> Result<(), DatasetError> {
    let mut seen = BTreeSet::new();
    match document
        .images
        .iter()
        .find(|row| !seen.insert(row.id.as_str()))
    {
        Some(row) => Err(DatasetError::document(
            &document.path,
            "images",
            format!("holds the id '{}' twice; give each image its own", row.id),
        )),
        None => Ok(()),
    }
}

/// The file of each image of a document, where exports put them.
fn keys(files: &[FileEntry], document: &Document) -> Result<Vec<String>, DatasetError> {
    let there = |path: &str| {
        files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .is_ok()
    };
    let home = folder(&document.path);
    let stem = file_name(&document.path).trim_end_matches(".json");
    let set = stem.rsplit_once('_').map_or("", |(_, set)| set);
    let part = part_of(&document.path).map_or("", Part::name);
    let find = |row: &ImageRow| {
        super::check_path(&row.file_name)?;
        let name = &row.file_name;
        let candidates = [
            format!("images/{name}"),
            name.clone(),
            format!("{home}/{name}"),
            format!("images/{set}/{name}"),
            format!("{set}/{name}"),
            format!("images/{part}/{name}"),
            format!("{part}/{name}"),
            format!("data/{name}"),
        ];
        candidates
            .into_iter()
            .find(|path| there(path))
            .ok_or_else(|| {
                let message =
                    format!("holds '{name}', but there is no images/{name} in the dataset");
                DatasetError::document(&document.path, "images[].file_name", message)
            })
    };
    // A name that leads out is told as what it is, in which document.
    document.images.iter().map(find).collect()
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

    fn chosen(paths: &[&str], task: Option<TaskType>) -> Result<String, DatasetError> {
        let files = files(paths);
        let dataset = Dataset {
            format: Format::Dice,
            task,
            files: &files,
        };
        dice(&dataset).map(str::to_owned)
    }

    #[test]
    fn the_document_is_the_one_of_the_task() {
        let both = ["annotations.json", "annotations_pose.json"];
        assert_eq!(chosen(&both, Some(TaskType::Pose)).unwrap(), both[1]);
        assert_eq!(chosen(&both, Some(TaskType::Detection)).unwrap(), both[0]);
        assert_eq!(chosen(&both[1..], None).unwrap(), both[1]);
        let error = chosen(&both[1..], Some(TaskType::Detection)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the dataset has neither annotations_detection.json nor annotations.json; documents at its top: annotations_pose.json"
        );
    }

    #[test]
    fn coco_parts_come_from_the_names_of_the_documents() {
        for (path, part) in [
            ("annotations/instances_train2017.json", Some(Part::Train)),
            ("annotations/instances_val.json", Some(Part::Val)),
            ("test/_annotations.coco.json", Some(Part::Test)),
            ("annotations/instances.json", None),
        ] {
            assert_eq!(part_of(path), part, "{path}");
        }
    }

    fn coco_inventory(paths: &[&str], document: (&str, &str)) -> Result<Inventory, DatasetError> {
        let files = files(&[paths, &[document.0]].concat());
        let dataset = Dataset {
            format: Format::Coco,
            task: Some(TaskType::Detection),
            files: &files,
        };
        let documents = [(document.0.to_owned(), document.1.as_bytes().to_vec())];
        inventory(&dataset, &documents.into())
    }

    #[test]
    fn images_are_found_where_exports_put_them() {
        let text = r#"{"images":[{"id":1,"file_name":"a.png"}],"annotations":[]}"#;
        for (image, document) in [
            ("images/a.png", "instances.json"),
            ("train2017/a.png", "annotations/instances_train2017.json"),
            ("images/train/a.png", "annotations/instances_train2017.json"),
            ("train/a.png", "train/_annotations.coco.json"),
        ] {
            let found = coco_inventory(&[image], (document, text)).unwrap();
            assert_eq!(
                (found.images[0].key.as_str(), found.images[0].id.as_str()),
                (image, "1")
            );
        }
    }

    #[test]
    fn an_image_that_is_missing_or_leads_out_is_named() {
        let text = r#"{"images":[{"id":1,"file_name":"b.png"}]}"#;
        let error = coco_inventory(&["a.png"], ("instances.json", text)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("instances.json: images[].file_name holds 'b.png'"),
            "{error}"
        );
        let text = r#"{"images":[{"id":1,"file_name":"../../etc/passwd"}]}"#;
        let error = coco_inventory(&["a.png"], ("instances.json", text)).unwrap_err();
        assert!(
            error.to_string().contains("'../../etc/passwd' is refused"),
            "{error}"
        );
        let text = r#"{"images":[{"id":1,"file_name":"a.png"},{"id":1,"file_name":"a.png"}]}"#;
        let error = coco_inventory(&["a.png"], ("instances.json", text)).unwrap_err();
        assert!(error.to_string().contains("the id '1' twice"), "{error}");
    }
}
