//! Names that meet in a view: classes that would share a folder, files that would share a place.

use serde_json::{Value, json};

use super::{
    tests::{Memory, count, flat},
    *,
};

/// A classification of one image for each of these classes.
fn classed(classes: &[&str]) -> Memory {
    let mut document = flat();
    let number = |of: (usize, &&str)| json!({"id": of.0, "name": of.1});
    let categories: Vec<Value> = classes.iter().enumerate().map(number).collect();
    document["categories"] = Value::Array(categories);
    for list in ["images", "annotations"] {
        let rows = document[list].as_array_mut().unwrap();
        rows.truncate(classes.len());
        for (number, row) in rows.iter_mut().enumerate() {
            row["category_id"] = json!(number);
        }
    }
    let images: Vec<String> = (0..classes.len())
        .map(|number| format!("images/{number}.png"))
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let texts = [("annotations_classification.json", document.to_string())];
    Memory::new(Format::Dice, TaskType::Classification, &texts, &images)
}

#[test]
fn classes_whose_names_meet_have_a_folder_each() {
    let long = "x".repeat(60);
    let (first, second) = (format!("{long}1"), format!("{long}2"));
    let plan = classed(&["a/b", "a_b", "a\tb", &second, &first]).plan(None);
    let plan = plan.unwrap();
    let cut = format!("{long}_2");
    for (image, class) in ["a_b_3", "a_b", "a_b_2", &cut, &long].iter().enumerate() {
        let from = format!("images/{image}.png");
        let mut shown = plan.links.iter().filter(|(key, _)| *key == from);
        let found = shown.any(|(_, to)| to.split('/').nth(1) == Some(*class));
        assert!(found, "{from} in {class}: {:?}", plan.links);
    }
    assert_eq!(plan.folders.len(), 10, "{:?}", plan.folders);
}

#[test]
fn a_class_that_is_called_like_the_way_out_keeps_its_name() {
    let plan = classed(&["a/b", "a_b", "a_b_2"]).plan(None).unwrap();
    for class in ["a_b", "a_b_2", "a_b_3"] {
        let images = count(&plan, &format!("train/{class}/"));
        assert_eq!(
            images + count(&plan, &format!("val/{class}/")),
            1,
            "{class}: {:?}",
            plan.links
        );
    }
}

#[test]
fn coco_documents_of_other_categories_are_refused_with_both_named() {
    let document = |name: &str, category: &str| {
        let image = json!({"id": 1, "file_name": name});
        json!({"categories": [{"id": 1, "name": category}], "images": [image], "annotations": []})
            .to_string()
    };
    let texts = [
        ("annotations/instances_train.json", document("t.png", "cat")),
        ("annotations/instances_val.json", document("v.png", "dog")),
    ];
    let images = ["train/t.png", "val/v.png"];
    let set = Memory::new(Format::Coco, TaskType::Detection, &texts, &images);
    let error = set.plan(None).unwrap_err().to_string();
    assert_eq!(
        error,
        "annotations/instances_val.json: categories are not those of annotations/instances_train.json; give all documents the same"
    );
}

#[test]
fn an_image_where_a_document_belongs_is_found_before_anything_is_written() {
    let image = |name: &str| json!({"id": name, "file_name": name});
    let images = [image("a.png"), image("annotations.json")];
    let document = json!({"categories": [], "images": images, "annotations": []}).to_string();
    let texts = [("annotations/instances_all.json", document)];
    let others = ["a.png", "annotations.json"];
    let set = Memory::new(Format::Coco, TaskType::Detection, &texts, &others);
    let error = set.plan(None).unwrap_err().to_string();
    assert!(
        error.contains("the view would hold 'annotations.json' twice"),
        "{error}"
    );
}
