//! What each key of a split means.

use super::*;

fn inventory(parts: &[Option<Part>], config: Option<Value>) -> Inventory {
    let image = |(number, part): (usize, &Option<Part>)| Image {
        key: format!("images/{number}.png"),
        id: format!("id{number}"),
        part: *part,
        class: None,
    };
    Inventory {
        images: parts.iter().enumerate().map(image).collect(),
        split_config: config,
        ..Inventory::default()
    }
}

const DECLARED: [Option<Part>; 4] = [Some(Part::Train), Some(Part::Train), Some(Part::Val), None];

fn summary(wish: Option<Value>, inventory: &Inventory) -> Value {
    let resolved = Resolved::new(wish.as_ref(), inventory).unwrap();
    let assignment = super::super::assign(&inventory.images, &resolved).unwrap();
    let summary = resolved.summary(&assignment);
    assert!(summary.to_string().len() < 300, "{summary}");
    summary
}

fn refusal(wish: Value, inventory: &Inventory) -> String {
    Resolved::new(Some(&wish), inventory)
        .unwrap_err()
        .to_string()
}

#[test]
fn the_three_levels_are_the_job_then_the_dataset_then_four_fifths() {
    let config = json!({"method": "random", "default_ratio": [0.5, 0.5], "seed": 7});
    let with = inventory(&[None; 4], Some(config));
    let found = summary(
        Some(json!({"method": "auto", "ratio": [0.75, 0.25]})),
        &with,
    );
    assert_eq!(
        (found["source"].as_str(), &found["ratio"], &found["seed"]),
        (Some("job"), &json!([0.75, 0.25]), &json!(42))
    );
    let found = summary(None, &with);
    assert_eq!(
        (found["source"].as_str(), &found["ratio"], &found["seed"]),
        (Some("dataset"), &json!([0.5, 0.5]), &json!(7))
    );
    let found = summary(None, &inventory(&[None; 10], None));
    assert_eq!(
        found,
        json!({"source": "auto", "method": "auto", "ratio": [0.8, 0.2], "seed": 42, "rest": "ratio",
            "counts": {"train": 8, "val": 2}, "named": 0, "excluded": 0})
    );
}

#[test]
fn parts_that_a_dataset_declares_are_its_split() {
    let with = inventory(&DECLARED, None);
    for wish in [None, Some(json!({"method": "use_dataset"}))] {
        let found = summary(wish, &with);
        assert_eq!(found["method"], "use_dataset");
        assert_eq!(found["counts"], json!({"train": 3, "val": 1}));
    }
    let with = inventory(&[Some(Part::Train), Some(Part::Test)], None);
    assert_eq!(
        summary(None, &with)["counts"],
        json!({"train": 1, "val": 1})
    );
    let error = refusal(
        json!({"method": "use_dataset"}),
        &inventory(&[None; 4], None),
    );
    assert!(
        error.starts_with("split_strategy.method: is 'use_dataset', but"),
        "{error}"
    );
}

#[test]
fn use_dataset_is_the_datasets_own_split_to_the_last_image() {
    let six = |config: Value| inventory(&[None; 6], Some(config));
    let own = Some(json!({"method": "use_dataset"}));
    for (config, train, val) in [
        (
            json!({"splits": {"id0": "val"}, "default_ratio": [0.8, 0.2]}),
            4,
            2,
        ),
        (json!({"splits": {"id0": "val"}}), 5, 1),
        (json!({"seed": 3}), 5, 1),
    ] {
        let with = six(config);
        let counts = json!({"train": train, "val": val});
        assert_eq!(summary(None, &with)["counts"], counts, "{with:?}");
        assert_eq!(summary(own.clone(), &with)["counts"], counts, "{with:?}");
    }
    // Whoever names what to validate on still means the rest for training, where nobody gives a ratio.
    let named = Some(json!({"method": "use_dataset", "custom_splits": {"id1": "val"}}));
    let counts = |config| summary(named.clone(), &six(config))["counts"].clone();
    assert_eq!(counts(json!({"seed": 3})), json!({"train": 5, "val": 1}));
    assert_eq!(
        counts(json!({"default_ratio": [0.5, 0.5]})),
        json!({"train": 3, "val": 3})
    );
}

#[test]
fn a_jobs_auto_divides_what_a_dataset_declares() {
    let with = inventory(&DECLARED, None);
    let found = summary(Some(json!({"method": "auto", "ratio": [0.5, 0.5]})), &with);
    assert_eq!(found["counts"], json!({"train": 2, "val": 2}));
}

#[test]
fn images_are_named_by_id_path_name_or_stem_and_the_others_are_for_training() {
    let with = inventory(&[None; 6], None);
    let wish = json!({"method": "custom", "custom_splits":
        {"id0": "val", "images/1.png": "validation", "2.png": "test", "3": "train"},
        "exclude_images": ["4"]});
    let resolved = Resolved::new(Some(&wish), &with).unwrap();
    let assignment = super::super::assign(&with.images, &resolved).unwrap();
    let part = |number: usize| assignment.part_of(&format!("images/{number}.png"));
    use Part::{Test, Train, Val};
    let expected = [
        Some(Val),
        Some(Val),
        Some(Test),
        Some(Train),
        None,
        Some(Train),
    ];
    assert_eq!([0, 1, 2, 3, 4, 5].map(part), expected);
    let read = Resolved::read(
        &resolved.summary(&assignment),
        resolved.named_parts().as_ref(),
    );
    assert_eq!(read.unwrap(), resolved);
    let turned = json!({"method": "custom", "custom_splits": {"val": ["id0", "id1"]}});
    assert_eq!(
        summary(Some(turned), &with)["counts"],
        json!({"train": 4, "val": 2})
    );
}

#[test]
fn a_datasets_splits_may_name_images_that_are_gone() {
    let config = json!({"splits": {"id0": "val", "gone": "val"}, "default_ratio": [0.8, 0.2]});
    let found = summary(None, &inventory(&[None; 6], Some(config)));
    assert_eq!(
        (found["source"].as_str(), found["method"].as_str()),
        (Some("dataset"), Some("custom"))
    );
    assert_eq!(found["counts"], json!({"train": 4, "val": 2}));
}

#[test]
fn what_cannot_be_is_refused_with_the_field_and_the_way_out() {
    let with = inventory(&DECLARED, None);
    for (wish, words) in [
        (
            json!({"method": "half"}),
            "split_strategy.method: is 'half'; give use_dataset",
        ),
        (
            json!({"method": "custom"}),
            "split_strategy.custom_splits: is missing",
        ),
        (
            json!({"method": "auto", "seed": "x"}),
            "split_strategy.seed: is not a whole number",
        ),
        (
            json!({"method": "custom", "custom_splits": {"id9": "val"}}),
            "names 'id9', which is no image of the dataset; its images are called like 'id0'",
        ),
        (
            json!({"method": "auto", "exclude_images": ["nope.png"]}),
            "split_strategy.exclude_images: names 'nope.png'",
        ),
        (
            json!({"method": "custom", "custom_splits": {"id0": "somewhere"}}),
            "says 'somewhere'; a part is train, val or test",
        ),
        (
            json!({"method": "custom", "custom_splits": ["id0"]}),
            "is no object of image",
        ),
    ] {
        let error = refusal(wish, &with);
        assert!(error.contains(words), "{error}");
    }
    for ratio in [
        json!([1.0]),
        json!([0.8]),
        json!([0.5, 0.6]),
        json!([1.0, 0.0]),
        json!([-0.5, 1.5]),
        json!([80, 20]),
        json!("half"),
        json!([0.5, "x"]),
        json!({"train": 0.8, "rest": 0.2}),
        json!([0.25, 0.25, 0.25, 0.25]),
    ] {
        let error = refusal(json!({"method": "auto", "ratio": ratio}), &with);
        assert!(
            error.starts_with("split_strategy.ratio: is no ratio"),
            "{error}"
        );
    }
}

#[test]
fn shares_by_name_go_to_the_parts_that_they_name() {
    let with = inventory(&[None; 20], None);
    let wish = json!({"method": "auto", "ratio": {"test": 0.2, "validation": 0.1, "train": 0.7}});
    let counts = &summary(Some(wish), &with)["counts"];
    assert_eq!(counts, &json!({"train": 14, "val": 2, "test": 4}));
    for (ratio, part) in [
        (json!({"train": 0.8, "test": 0.2}), "val"),
        (json!({"val": 0.8, "test": 0.2}), "train"),
    ] {
        let error = refusal(json!({"method": "auto", "ratio": ratio}), &with);
        let words = format!("split_strategy.ratio: has no share for {part}; give one");
        assert!(error.starts_with(&words), "{error}");
    }
}

#[test]
fn a_name_that_stands_for_several_images_is_refused() {
    let mut with = inventory(&[None; 2], None);
    with.images[0].key = "cat/1.png".to_owned();
    with.images[1].key = "dog/1.png".to_owned();
    let error = refusal(
        json!({"method": "auto", "exclude_images": ["1.png"]}),
        &with,
    );
    assert!(error.contains("stands for several images"), "{error}");
}
