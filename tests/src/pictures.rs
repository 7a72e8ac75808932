//! Small datasets of generated pictures, laid down in every format that the project knows.
//!
//! Owns a scene of twelve pictures: what is in each, and how each format says so. Pictures are real BMP
//! files. Never part of a product. Called by the suites that train.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::{Value, json};

/// Pixels a side.
const SIDE: usize = 64;
/// Pictures of the scene.
pub const COUNT: usize = 12;
/// Those without an object.
pub const EMPTY: [usize; 2] = [5, 11];
/// The part of each picture where a format says it: nine train, three validate.
pub const VALIDATING: [usize; 3] = [2, 5, 9];
/// Ids of the classes, which are not counted from 0.
const CLASSES: [(u32, &str); 2] = [(3, "dark"), (7, "light")];
const BACKGROUND: u32 = 9;
/// Keypoints of an object.
pub const KEYPOINTS: usize = 3;

/// How a dataset is laid down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `annotations_<task>.json`, flat; the split is left to the job.
    DiceFlat,
    /// The same, nested, with the part of each picture.
    DiceNested,
    /// Label files and a `data.yaml` without parts.
    Yolo,
    /// A document for each part.
    Coco,
    /// A folder for each class.
    ImageFolder,
}

impl Layout {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::DiceFlat,
        Self::DiceNested,
        Self::Yolo,
        Self::Coco,
        Self::ImageFolder,
    ];

    /// Its name in the contract.
    #[must_use]
    pub fn format(self) -> &'static str {
        match self {
            Self::DiceFlat | Self::DiceNested => "dice",
            Self::Yolo => "yolo",
            Self::Coco => "coco",
            Self::ImageFolder => "imagefolder",
        }
    }

    /// Whether the dataset itself says the part of each picture.
    #[must_use]
    pub fn has_parts(self) -> bool {
        matches!(self, Self::DiceNested | Self::Coco)
    }
}

/// Whether a picture has an object.
#[must_use]
pub fn has_object(number: usize) -> bool {
    !EMPTY.contains(&number)
}

fn part(number: usize) -> &'static str {
    if VALIDATING.contains(&number) {
        "val"
    } else {
        "train"
    }
}

fn class(number: usize) -> (u32, &'static str) {
    if number.is_multiple_of(2) {
        CLASSES[0]
    } else {
        CLASSES[1]
    }
}

/// Left, top, width and height of the object of a picture.
fn object(number: usize) -> [usize; 4] {
    [6 + number * 2, 30 - number * 2, 24, 20 + number % 3]
}

/// Lays the scene down below `root`.
///
/// # Panics
/// When the disk does not take it.
pub fn lay_down(root: &Path, layout: Layout, task: &str) {
    fs::create_dir_all(root).expect("a folder");
    for number in 0..COUNT {
        if layout == Layout::ImageFolder && !has_object(number) {
            continue;
        }
        let folder = root.join(match layout {
            Layout::DiceFlat | Layout::DiceNested | Layout::Yolo => "images".to_owned(),
            Layout::Coco => format!("{}2017", part(number)),
            Layout::ImageFolder => class(number).1.to_owned(),
        });
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(name(number)), picture(number)).expect("a picture");
    }
    let write = |path: String, document: &Value| {
        let file = root.join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, document.to_string()).expect("a document");
    };
    let all: Vec<usize> = (0..COUNT).collect();
    match layout {
        Layout::DiceFlat => write(format!("annotations_{task}.json"), &flat(&all, task)),
        Layout::DiceNested => write(format!("annotations_{task}.json"), &nested(task)),
        Layout::Yolo => labels(root, task),
        Layout::Coco => {
            let kind = match task {
                "pose" => "person_keypoints",
                _ => "instances",
            };
            for wanted in ["train", "val"] {
                let of: Vec<usize> = (0..COUNT).filter(|n| part(*n) == wanted).collect();
                let path = format!("annotations/{kind}_{wanted}2017.json");
                write(path, &flat(&of, task));
            }
        }
        Layout::ImageFolder => {}
    }
}

fn name(number: usize) -> String {
    format!("{number:02}.bmp")
}

/// A BMP of 24 bits: a grey ground, which no two pictures share, and the object.
fn picture(number: usize) -> Vec<u8> {
    let size = u32::try_from(54 + SIDE * SIDE * 3).expect("it is small");
    let side = u32::try_from(SIDE).expect("it is small");
    let mut bytes = b"BM".to_vec();
    for word in [size, 0, 54, 40, side, side, 0x0018_0001, 0, 0, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    let [left, top, width, height] = object(number);
    let ground = 100 + u8::try_from(number).expect("it is small");
    let ink = if class(number).0 == CLASSES[0].0 {
        10
    } else {
        240
    };
    // Rows come from below.
    for y in (0..SIDE).rev() {
        for x in 0..SIDE {
            let inside = (left..left + width).contains(&x) && (top..top + height).contains(&y);
            let value = if inside && has_object(number) {
                ink
            } else {
                ground
            };
            bytes.extend([value; 3]);
        }
    }
    bytes
}

/// An object with these fields added.
fn with(mut object: Value, fields: Value) -> Value {
    if let (Some(all), Value::Object(fields)) = (object.as_object_mut(), fields) {
        all.extend(fields);
    }
    object
}

/// The object of a picture as an annotation; its class is added by each shape.
fn annotation(number: usize, task: &str) -> Value {
    let [x, y, w, h] = object(number);
    let plain = json!({
        "id": 100 + number, "image_id": number, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
    });
    let outline = match number {
        0 => runs([x, y, w, h]),
        _ => json!([[x, y, x + w, y, x + w, y + h, x, y + h]]),
    };
    let points = json!([x, y, 2, x + w, y, 2, x + w / 2, y + h, 1]);
    match task {
        "segmentation" => with(plain, json!({"segmentation": outline})),
        "pose" => with(
            plain,
            json!({"keypoints": points, "num_keypoints": KEYPOINTS}),
        ),
        _ => plain,
    }
}

/// A mask in run lengths, columns from the top left.
fn runs([x, y, w, h]: [usize; 4]) -> Value {
    let mut counts = vec![x * SIDE + y];
    for _ in 1..w {
        counts.extend([h, SIDE - h]);
    }
    counts.extend([h, (SIDE - x - w) * SIDE + SIDE - y - h]);
    json!({"counts": counts, "size": [SIDE, SIDE]})
}

fn image(number: usize) -> Value {
    json!({"id": number, "file_name": name(number), "width": SIDE, "height": SIDE})
}

fn flat(numbers: &[usize], task: &str) -> Value {
    let annotations = numbers.iter().map(|&number| {
        if !has_object(number) {
            return json!({"id": 100 + number, "image_id": number, "category_id": BACKGROUND});
        }
        with(
            annotation(number, task),
            json!({"category_id": class(number).0}),
        )
    });
    json!({
        "images": numbers.iter().map(|number| image(*number)).collect::<Vec<_>>(),
        "categories": classes(),
        "annotations": annotations.collect::<Vec<_>>(),
    })
}

fn nested(task: &str) -> Value {
    let images = (0..COUNT).map(|number| {
        let (id, name) = class(number);
        let fields = json!({
            "class_id": id, "class_name": name, "bbox_format": "xywh", "attributes": {},
        });
        let background = json!({
            "id": 100 + number, "image_id": number, "class_id": BACKGROUND,
            "class_name": "__background__",
        });
        let own = match has_object(number) {
            true => with(annotation(number, task), fields),
            false => background,
        };
        with(
            image(number),
            json!({"split": part(number), "annotations": [own]}),
        )
    });
    json!({
        "format_version": "1.0", "dataset_id": "scene", "dataset_name": "scene", "task_type": task,
        "version": 1, "classes": classes(), "images": images.collect::<Vec<_>>(), "statistics": {},
    })
}

fn classes() -> Value {
    let [(first, dark), (second, light)] = CLASSES;
    json!([
        {"id": first, "name": dark}, {"id": second, "name": light},
        {"id": BACKGROUND, "name": "__background__"},
    ])
}

/// One empty picture has an empty label file, the other one has none.
fn labels(root: &Path, task: &str) {
    let folder = root.join("labels");
    fs::create_dir_all(&folder).expect("a folder");
    for number in (0..COUNT).filter(|number| *number != EMPTY[1]) {
        let line = if has_object(number) {
            line(number, task)
        } else {
            String::new()
        };
        let file = folder.join(name(number).replace(".bmp", ".txt"));
        fs::write(file, line).expect("a label");
    }
    let mut yaml = "path: /somewhere/else\ntrain: images\nnames: [dark, light]\n".to_owned();
    if task == "pose" {
        writeln!(yaml, "kpt_shape: [{KEYPOINTS}, 3]\nflip_idx: [1, 0, 2]").expect("a text grows");
    }
    fs::write(root.join("data.yaml"), yaml).expect("a description");
}

#[expect(clippy::cast_precision_loss, reason = "pixels are few")]
fn line(number: usize, task: &str) -> String {
    let [x, y, w, h] = object(number);
    let share = |pixels: usize| format!("{:.6}", pixels as f64 / SIDE as f64);
    let center = |from: usize, length: usize| {
        format!("{:.6}", (from as f64 + length as f64 / 2.0) / SIDE as f64)
    };
    let class = usize::from(class(number).0 != CLASSES[0].0).to_string();
    let boxed = [center(x, w), center(y, h), share(w), share(h)];
    let mut words = vec![class];
    match task {
        "segmentation" => {
            let corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)];
            words.extend(corners.into_iter().flat_map(|(x, y)| [share(x), share(y)]));
        }
        "pose" => {
            words.extend(boxed);
            let points = [(x, y), (x + w, y), (x + w / 2, y + h)];
            words.extend(
                points
                    .into_iter()
                    .flat_map(|(x, y)| [share(x), share(y), "2".to_owned()]),
            );
        }
        _ => words.extend(boxed),
    }
    words.join(" ") + "\n"
}
