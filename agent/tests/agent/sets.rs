//! Small datasets in every format, and snapshots of them made as the coordinator makes them.
#![expect(
    clippy::indexing_slicing,
    reason = "a case that looks where nothing is has failed"
)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainyard_core::dataset::{
    self, Assignment, Dataset, Documents, FileEntry, Format, Resolved, VersionHasher,
};
use trainyard_core::snapshot::Snapshot;
use trainyard_core::spec::TaskType;
use trainyard_core::time::Timestamp;
use trainyard_proto::v1::{self, SnapshotFile, StartTask, connect_response::Frame};

use crate::fake::{Fake, Manifest};
use crate::harness::{shell, start_of};
use crate::store::Store;

/// A dataset.
#[derive(Clone)]
pub(crate) struct Set {
    pub(crate) format: Format,
    pub(crate) task_type: &'static str,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

const IMAGES: usize = 20;

fn names() -> impl Iterator<Item = String> {
    (0..IMAGES).map(|number| format!("{number:02}.png"))
}

/// The part that a dataset declares for an image.
fn declared(number: usize) -> &'static str {
    if number.is_multiple_of(5) {
        "val"
    } else {
        "train"
    }
}

impl Set {
    fn new(format: Format, task_type: &'static str, files: Vec<(String, String)>) -> Self {
        let files = files
            .into_iter()
            .map(|(path, text)| (path, text.into_bytes()));
        Self {
            format,
            task_type,
            files: files.collect(),
        }
    }

    /// All formats, each with 20 images of which it declares 16 for train and 4 for val.
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::folders(),
            Self::yolo(),
            Self::flat(),
            Self::nested(),
            Self::coco(),
        ]
    }

    pub(crate) fn folders() -> Self {
        let image = |(number, name): (usize, String)| {
            let class = if number < IMAGES / 2 { "cat" } else { "dog" };
            (
                format!("{}/{class}/{name}", declared(number)),
                format!("image {name}"),
            )
        };
        Self::new(
            Format::ImageFolder,
            "classification",
            names().enumerate().map(image).collect(),
        )
    }

    fn yolo() -> Self {
        let mut files = vec![(
            "data.yaml".to_owned(),
            "train: images/train\nval: images/val\nnames: [a]\n".to_owned(),
        )];
        for (number, name) in names().enumerate() {
            let part = declared(number);
            files.push((format!("images/{part}/{name}"), format!("image {name}")));
            let label = name.replace("png", "txt");
            files.push((
                format!("labels/{part}/{label}"),
                "0 0.5 0.5 0.1 0.1\n".to_owned(),
            ));
        }
        Self::new(Format::Yolo, "detection", files)
    }

    fn flat() -> Self {
        let images: Vec<Value> = names()
            .enumerate()
            .map(|(id, name)| json!({"id": id, "file_name": name, "width": 9, "height": 9}))
            .collect();
        let boxes: Vec<Value> = (0..IMAGES)
            .map(|id| json!({"id": id, "image_id": id, "category_id": 1, "bbox": [1, 1, 2, 2]}))
            .collect();
        let splits: BTreeMap<String, &str> = (0..IMAGES)
            .map(|id| (id.to_string(), declared(id)))
            .collect();
        let document = json!({"categories": [{"id": 1, "name": "x"}], "images": images, "annotations": boxes,
            "split_config": {"method": "manual", "default_ratio": [0.8, 0.2], "seed": 1, "splits": splits}});
        Self::dice("annotations_detection.json", &document)
    }

    fn nested() -> Self {
        let images: Vec<Value> = names()
            .enumerate()
            .map(|(id, name)| {
                json!({"id": id, "file_name": name, "split": declared(id),
                    "annotations": [{"class_id": 1, "bbox": [1, 1, 2, 2]}]})
            })
            .collect();
        let document =
            json!({"format_version": "1.0", "classes": [{"id": 1, "name": "x"}], "images": images});
        Self::dice("annotations.json", &document)
    }

    fn dice(name: &str, document: &Value) -> Self {
        let images = names().map(|name| (format!("images/{name}"), format!("image {name}")));
        let mut files: Vec<_> = images.collect();
        files.push((name.to_owned(), document.to_string()));
        Self::new(Format::Dice, "detection", files)
    }

    fn coco() -> Self {
        let mut files = Vec::new();
        for part in ["train", "val"] {
            let own = || {
                names()
                    .enumerate()
                    .filter(|(number, _)| declared(*number) == part)
            };
            let images: Vec<Value> = own()
                .map(|(id, name)| json!({"id": id, "file_name": name}))
                .collect();
            let boxes: Vec<Value> = own()
                .map(|(id, _)| json!({"id": id, "image_id": id, "category_id": 1, "bbox": [1, 1, 2, 2]}))
                .collect();
            let document = json!({"categories": [{"id": 1, "name": "x"}], "images": images, "annotations": boxes});
            files.push((
                format!("annotations/instances_{part}2017.json"),
                document.to_string(),
            ));
            files.extend(
                own().map(|(_, name)| (format!("{part}2017/{name}"), format!("image {name}"))),
            );
        }
        Self::new(Format::Coco, "detection", files)
    }

    /// The path of an image.
    pub(crate) fn image(&self, number: usize) -> String {
        let name = format!("/{number:02}.png");
        let found = self.files.keys().find(|path| path.ends_with(&name));
        found.expect("there is such an image").clone()
    }

    /// A snapshot, the parts that were named, and the part of every image.
    pub(crate) fn snapshot(&self, strategy: Option<&Value>) -> (Snapshot, String, Assignment) {
        let entry = |(path, bytes): (&String, &Vec<u8>)| FileEntry {
            path: path.clone(),
            size: bytes.len() as u64,
        };
        let files: Vec<FileEntry> = self.files.iter().map(entry).collect();
        let dataset = Dataset {
            format: self.format,
            task: TaskType::parse(self.task_type),
            files: &files,
        };
        let needed = dataset::needed(&dataset).expect("the dataset is good");
        let documents: Documents = needed
            .into_iter()
            .map(|path| (path.clone(), self.files[&path].clone()))
            .collect();
        let inventory = dataset::inventory(&dataset, &documents).expect("the dataset is good");
        let resolved = Resolved::new(strategy, &inventory).expect("the split is good");
        let assignment = dataset::assign(&inventory.images, &resolved).expect("no part is empty");
        let mut hasher = VersionHasher::default();
        for (path, bytes) in &self.files {
            let digest = blake3::hash(bytes);
            hasher
                .add(path, bytes.len() as u64, digest.as_bytes())
                .expect("in order");
        }
        let snapshot = Snapshot {
            id: "snap_0123456789ab".to_owned(),
            dataset_id: "d1".to_owned(),
            storage_path: "s3://bucket/d1".to_owned(),
            format: self.format.name().to_owned(),
            split: resolved.summary(&assignment),
            version_hash: hasher.finish(),
            assignment_hash: assignment.hash(),
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
            created_by: "a@example.com".to_owned(),
            created_at: Timestamp(1),
            notes: String::new(),
            document: None,
        };
        let named = resolved.named_parts().map(|parts| parts.to_string());
        (snapshot, named.unwrap_or_default(), assignment)
    }

    /// Puts the files into the store and the manifest before the coordinator.
    pub(crate) fn offer(&self, fake: &Fake, store: &Store, job: u64, named_parts_json: &str) {
        store.shelf().files.extend(self.files.clone());
        let file = |(path, bytes): (&String, &Vec<u8>)| SnapshotFile {
            path: path.clone(),
            size_bytes: bytes.len() as u64,
            digest: blake3::hash(bytes).as_bytes().to_vec(),
            url: String::new(),
        };
        let manifest = Manifest {
            files: self.files.iter().map(file).collect(),
            named_parts_json: named_parts_json.to_owned(),
            store: store.clone(),
        };
        fake.known().manifests.insert(job, manifest);
    }

    /// A job on the snapshot.
    pub(crate) fn start(&self, job: u64, snapshot: Snapshot, script: &str) -> Frame {
        let mut spec = shell(script);
        spec.dataset_id = "d1".to_owned();
        spec.task_type = self.task_type.to_owned();
        let Frame::Start(start) = start_of(job, spec) else {
            panic!("it is a start");
        };
        Frame::Start(StartTask {
            snapshot: Some(v1::Snapshot::from(snapshot)),
            ..start
        })
    }
}
