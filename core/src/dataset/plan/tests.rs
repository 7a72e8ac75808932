//! What is shown, for each format.

use serde_json::{Value, json};

use super::*;
use crate::dataset::{FileEntry, Resolved, assign, inventory, needed};

/// A dataset in memory: paths, with the text of those that have one.
pub(super) struct Memory {
    files: Vec<FileEntry>,
    texts: Documents,
    format: Format,
    task: Option<TaskType>,
}

impl Memory {
    pub(super) fn new(
        format: Format,
        task: TaskType,
        texts: &[(&str, String)],
        others: &[&str],
    ) -> Self {
        let paths = texts
            .iter()
            .map(|(path, _)| *path)
            .chain(others.iter().copied());
        let entry = |path: &str| FileEntry {
            path: path.to_owned(),
            size: 1,
        };
        let mut files: Vec<FileEntry> = paths.map(entry).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let texts = texts
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.clone().into_bytes()));
        Self {
            files,
            texts: texts.collect(),
            format,
            task: Some(task),
        }
    }

    /// What a submit says of it must be what the node says.
    pub(super) fn plan(&self, wish: Option<&Value>) -> Result<Plan, DatasetError> {
        let dataset = Dataset {
            format: self.format,
            task: self.task,
            files: &self.files,
        };
        let mut documents = self.texts.clone();
        let wanted = needed(&dataset)?;
        documents.retain(|path, _| wanted.contains(path));
        let found = inventory(&dataset, &documents)?;
        let assignment = assign(&found.images, &Resolved::new(wish, &found)?)?;
        let plan = layout(&dataset, &found, &assignment, &documents);
        let checked = check_layout(&dataset, &found, &assignment, &documents);
        alike(&checked, &plan);
        plan
    }
}

fn alike(checked: &Result<(), DatasetError>, plan: &Result<Plan, DatasetError>) {
    assert_eq!(checked.as_ref().err(), plan.as_ref().err());
}

fn places(plan: &Plan) -> Vec<&str> {
    let mut all: Vec<&str> = plan.links.iter().map(|(_, to)| to.as_str()).collect();
    all.extend(plan.files.iter().map(|(path, _)| path.as_str()));
    all.sort_unstable();
    all
}

fn json_of(plan: &Plan, path: &str) -> Value {
    let (_, bytes) = plan.files.iter().find(|(name, _)| name == path).unwrap();
    serde_json::from_slice(bytes).unwrap()
}

pub(super) fn count(plan: &Plan, below: &str) -> usize {
    plan.links
        .iter()
        .filter(|(_, to)| to.starts_with(below))
        .count()
}

#[test]
fn class_folders_are_shown_by_part_and_names_that_meet_are_kept_apart() {
    let others = [
        "train/cat/1.png",
        "train/dog/1.png",
        "val/cat/1.png",
        "val/dog/2.png",
    ];
    let set = Memory::new(Format::ImageFolder, TaskType::Classification, &[], &others);
    let as_declared = set.plan(None).unwrap();
    assert_eq!(places(&as_declared), others);
    let wish = json!({"method": "custom", "custom_splits": {"val/cat/1.png": "train", "train/dog/1.png": "val"}});
    let plan = set.plan(Some(&wish)).unwrap();
    assert_eq!(
        places(&plan),
        [
            "train/cat/1.png",
            "train/cat/val_cat_1.png",
            "train/dog/2.png",
            "val/dog/1.png"
        ]
    );
    assert_eq!(
        plan.folders,
        ["train/cat", "train/dog", "val/cat", "val/dog"]
    );
}

#[test]
fn yolo_gets_folders_by_part_labels_beside_and_a_fresh_description() {
    let yaml = "path: /elsewhere\ntrain: images\nval: images\nkpt_shape: [3, 2]\ndownload: import os\nnames:\n  0: a\n";
    let yaml = yaml.replace("val: images\n", "");
    let others: Vec<String> = (0..10)
        .flat_map(|n| [format!("images/{n}.png"), format!("labels/{n}.txt")])
        .collect();
    let others: Vec<&str> = others
        .iter()
        .map(String::as_str)
        .filter(|path| *path != "labels/3.txt")
        .collect();
    let set = Memory::new(
        Format::Yolo,
        TaskType::Pose,
        &[("data.yaml", yaml)],
        &others,
    );
    let plan = set
        .plan(Some(
            &json!({"method": "auto", "ratio": [0.6, 0.2, 0.2], "exclude_images": ["9"]}),
        ))
        .unwrap();
    let counts =
        ["images/train/", "images/val/", "images/test/"].map(|folder| count(&plan, folder));
    assert_eq!(
        (counts.iter().sum::<usize>(), count(&plan, "labels/")),
        (9, 8)
    );
    assert_eq!(counts, [5, 2, 2]);
    for (from, to) in &plan.links {
        let expected = if from.starts_with("images") {
            "images/"
        } else {
            "labels/"
        };
        assert!(
            to.starts_with(expected) && paths::file_name(from) == paths::file_name(to),
            "{from} {to}"
        );
    }
    let (_, written) = &plan.files[0];
    let written: Value = serde_yaml_ng::from_slice(written).unwrap();
    assert_eq!(
        written,
        json!({"kpt_shape": [3, 2], "names": {"0": "a"}, "train": "images/train", "val": "images/val", "test": "images/test"})
    );
}

pub(super) fn flat() -> Value {
    let image = |n: u32| json!({"id": n, "file_name": format!("{n}.png"), "width": 9, "height": 9});
    let box_of = |n: u32| {
        json!({"id": n, "image_id": n, "category_id": 1, "bbox": [0.1, 2, 3, 4], "iscrowd": 0,
        "segmentation": [[0, 0, 5, 0, 5, 5], [6, 6, 7, 6, 7, 7]], "keypoints": [1, 2, 2], "attributes": {"x": 1}})
    };
    json!({"info": {"v": 1.5}, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "__background__"}],
        "images": (0..5).map(image).collect::<Vec<_>>(), "annotations": (0..5).map(box_of).collect::<Vec<_>>()})
}

const IMAGES: [&str; 5] = [
    "images/0.png",
    "images/1.png",
    "images/2.png",
    "images/3.png",
    "images/4.png",
];

#[test]
fn a_flat_document_names_the_part_of_each_image_and_loses_those_that_are_excluded() {
    let texts = [
        ("annotations_detection.json", flat().to_string()),
        ("annotations.json", "{}".into()),
    ];
    let set = Memory::new(Format::Dice, TaskType::Detection, &texts, &IMAGES);
    let wish = json!({"method": "custom", "custom_splits": {"2": "val"}, "exclude_images": [0]});
    let plan = set.plan(Some(&wish)).unwrap();
    assert_eq!(
        places(&plan),
        [
            "annotations_detection.json",
            "images/1.png",
            "images/2.png",
            "images/3.png",
            "images/4.png"
        ]
    );
    let found = json_of(&plan, "annotations_detection.json");
    let mut expected = flat();
    for name in ["images", "annotations"] {
        expected[name].as_array_mut().unwrap().remove(0);
    }
    for (image, part) in expected["images"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(["train", "val", "train", "train"])
    {
        image["split"] = json!(part);
    }
    expected["split_config"] = json!({"method": "custom", "splits": {"1": "train", "2": "val", "3": "train", "4": "train"}});
    assert_eq!(found, expected);
}

#[test]
fn a_nested_document_keeps_its_shape() {
    let image = |n: u32| {
        json!({"id": n, "file_name": format!("{n}.png"), "split": if n == 1 { "valid" } else { "train" },
        "annotations": [{"class_id": 7, "bbox": [1, 2, 3, 4], "segmentation": [[1, 1, 2, 2, 3, 3]]}]})
    };
    let document = json!({"format_version": "1.0", "classes": [{"id": 7, "name": "x"}],
        "images": (0..3).map(image).collect::<Vec<_>>(), "statistics": {"n": 3}});
    let texts = [("annotations.json", document.to_string())];
    let set = Memory::new(Format::Dice, TaskType::Segmentation, &texts, &IMAGES[..3]);
    let found = json_of(&set.plan(None).unwrap(), "annotations.json");
    let mut expected = document;
    expected["images"][1]["split"] = json!("val");
    assert_eq!(found, expected);
    assert_eq!(set.plan(None).unwrap().links.len(), 3);
}

#[test]
fn images_of_a_classification_lie_in_folders_of_classes_too() {
    let mut document = flat();
    document["categories"] = json!([{"id": 1, "name": "../cat"}, {"id": 2, "name": "dog"}]);
    document["annotations"][4]["category_id"] = json!(2);
    document["annotations"][3]["category_id"] = json!(2);
    document["annotations"].as_array_mut().unwrap().remove(0);
    let texts = [("annotations_classification.json", document.to_string())];
    let set = Memory::new(Format::Dice, TaskType::Classification, &texts, &IMAGES);
    let plan = set
        .plan(Some(&json!({"method": "auto", "ratio": [0.5, 0.5]})))
        .unwrap();
    assert_eq!(
        plan.folders,
        ["train/_.._cat", "train/dog", "val/_.._cat", "val/dog"]
    );
    for folder in &plan.folders {
        assert_eq!(count(&plan, folder), 1, "{:?}", plan.links);
    }
    assert_eq!(count(&plan, "images/"), 4, "one has no class");
}

#[test]
fn images_of_a_classification_that_lie_in_folders_of_parts_are_shown_in_their_own_part_only() {
    let mut document = flat();
    document["categories"] = json!([{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]);
    let paths: Vec<String> = IMAGES
        .iter()
        .map(|path| path.replace("images/", "train/cat/"))
        .collect();
    for (image, path) in document["images"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(&paths)
    {
        image["file_name"] = json!(path);
    }
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let texts = [("annotations_classification.json", document.to_string())];
    let set = Memory::new(Format::Dice, TaskType::Classification, &texts, &paths);
    let plan = set
        .plan(Some(&json!({"method": "auto", "ratio": [0.5, 0.5]})))
        .unwrap();
    let train = count(&plan, "train/");
    assert!(train > 0 && train < paths.len(), "{:?}", plan.links);
    assert_eq!(count(&plan, "images/train/cat/"), paths.len());
    let (_, written) = &plan.files[0];
    let written: Value = serde_json::from_slice(written).unwrap();
    assert_eq!(written["images"][0]["file_name"], paths[0]);
}

#[test]
fn coco_documents_are_written_by_part_and_together_with_numbers_of_their_own() {
    let document = |file: &str| {
        let mut document = flat();
        for (n, image) in document["images"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            image["file_name"] = json!(format!("{file}{n}.png"));
        }
        document.to_string()
    };
    let texts = [
        ("annotations/instances_train2017.json", document("t")),
        ("annotations/instances_val2017.json", document("v")),
    ];
    let others: Vec<String> = (0..5)
        .flat_map(|n| [format!("train2017/t{n}.png"), format!("val2017/v{n}.png")])
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let set = Memory::new(Format::Coco, TaskType::Detection, &texts, &others);
    let plan = set.plan(None).unwrap();
    let all = json_of(&plan, "annotations.json");
    let train = json_of(&plan, "annotations/instances_train.json");
    let val = json_of(&plan, "annotations/instances_val.json");
    let length = |document: &Value| {
        ["images", "annotations"].map(|name| document[name].as_array().unwrap().len())
    };
    assert_eq!(
        (length(&all), length(&train), length(&val)),
        ([10, 10], [5, 5], [5, 5])
    );
    let ids: BTreeSet<u64> = all["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), 10);
    assert_eq!(val["images"][2]["file_name"], "val2017/v2.png");
    let id = &val["images"][2]["id"];
    let own: Vec<&Value> = val["annotations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["image_id"] == *id)
        .collect();
    assert_eq!(
        (own.len(), &own[0]["segmentation"]),
        (1, &flat()["annotations"][0]["segmentation"])
    );
    let moved = set
        .plan(Some(&json!({"method": "auto", "ratio": [0.7, 0.3]})))
        .unwrap();
    assert_eq!(
        length(&json_of(&moved, "annotations/instances_train.json")),
        [7, 7]
    );
}

#[test]
fn coco_annotations_get_numbers_of_their_own_when_only_theirs_meet() {
    let document = |file: &str, first: usize| {
        let images: Vec<Value> = (first..first + 2)
            .map(|id| json!({"id": id, "file_name": format!("{file}{id}.png")}))
            .collect();
        let rows: Vec<Value> = (first..first + 2)
            .map(|image| json!({"id": image - first, "image_id": image, "category_id": 1, "bbox": [0, 0, image, 9]}))
            .collect();
        json!({"categories": [{"id": 1, "name": "cat"}], "images": images, "annotations": rows})
            .to_string()
    };
    let texts = [
        ("annotations/instances_train2017.json", document("t", 10)),
        ("annotations/instances_val2017.json", document("v", 20)),
    ];
    let others = [
        "train2017/t10.png",
        "train2017/t11.png",
        "val2017/v20.png",
        "val2017/v21.png",
    ];
    let set = Memory::new(Format::Coco, TaskType::Detection, &texts, &others);
    let all = json_of(&set.plan(None).unwrap(), "annotations.json");
    let rows = all["annotations"].as_array().unwrap();
    let ids: BTreeSet<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!((rows.len(), ids.len()), (4, 4), "{rows:?}");
    let widths = |name: &str| -> Vec<&Value> {
        let images = all["images"].as_array().unwrap().iter();
        let image = images.clone().find(|image| image["file_name"] == name);
        let id = &image.unwrap()["id"];
        let own = rows.iter().filter(|row| row["image_id"] == *id);
        own.map(|row| &row["bbox"][2]).collect()
    };
    assert_eq!(widths("val2017/v21.png"), [&json!(21)]);
    assert_eq!(widths("train2017/t10.png"), [&json!(10)]);
}

#[test]
fn a_yolo_label_beside_its_image_is_shown_where_trainers_look() {
    let yaml = "train: images\nnames: [a]\n".to_owned();
    let others = [
        "images/0.png",
        "images/0.txt",
        "images/1.png",
        "images/1.txt",
        "images/2.png",
        "images/2.txt",
        "labels/2.txt",
    ];
    let texts = [("data.yaml", yaml)];
    let set = Memory::new(Format::Yolo, TaskType::Detection, &texts, &others);
    let plan = set.plan(None).unwrap();
    let shown = |label: &str| {
        let found = plan.links.iter().find(|(from, _)| from == label);
        found.map(|(_, to)| (to.starts_with("labels/"), paths::file_name(to)))
    };
    assert_eq!(shown("images/0.txt"), Some((true, "0.txt")));
    assert_eq!(shown("images/1.txt"), Some((true, "1.txt")));
    assert_eq!(shown("images/2.txt"), None, "the usual place goes before");
    assert_eq!(shown("labels/2.txt"), Some((true, "2.txt")));
}

#[test]
fn a_file_that_leads_out_of_the_dataset_is_refused() {
    let set = Memory::new(
        Format::ImageFolder,
        TaskType::Classification,
        &[],
        &["a/1.png", "b/../../../x.png"],
    );
    let error = set.plan(None).unwrap_err().to_string();
    assert!(error.contains("'b/../../../x.png' is refused"), "{error}");
}
