//! What the views of datasets hold, looked at by a program in place of a trainer.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tests::{
    jobs::{Jobs, python},
    pictures::{self, Layout},
};
use trainyard_proto::v1::{self, JobState};

use super::{Cell, Story};

/// What a view holds: pictures by part, and objects that have what the task needs.
const LOOK: &str = r#"
import collections, json, os, pathlib
root, task = pathlib.Path(os.environ["LOCAL_DATASET_PATH"]), os.environ["TASK_TYPE"]
parts, shaped = collections.Counter(), 0
documents = sorted(root.glob("annotations*.json"))
if task == "classification":
    for part in ("train", "val"):
        classes = sorted(entry.name for entry in (root / part).iterdir())
        assert classes == ["dark", "light"], classes
        parts[part] = len(list((root / part).rglob("*.bmp")))
    shaped = sum(parts.values())
elif documents:
    document = json.loads(documents[0].read_text())
    images = document["images"]
    assert all(any((root / top / image["file_name"]).is_file() for top in ("images", ".")) for image in images)
    parts.update(image["split"] for image in images)
    items = document.get("annotations") or [item for image in images for item in image["annotations"]]
    key = {"segmentation": "segmentation", "pose": "keypoints"}.get(task, "bbox")
    shaped = sum(1 for item in items if item.get(key))
else:
    columns = {"detection": 5, "segmentation": 9, "pose": 14}[task]
    for part in ("train", "val"):
        parts[part] = len(list((root / "images" / part).iterdir()))
        lines = [line for file in (root / "labels" / part).iterdir() for line in file.read_text().splitlines()]
        shaped += sum(1 for line in lines if len(line.split()) == columns)
print("view", json.dumps({"parts": parts, "shaped": shaped}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_every_format_holds_the_recorded_split_and_all_that_the_task_needs() {
    let mut story = Story::begin().await;
    story.agent().await;
    let cells = Cell::all();
    let specs = cells.iter().map(|cell| cell.job(python(LOOK))).collect();
    let ran = story.run(specs).await;
    // Whoever looks at the snapshots asks too, below.
    let asked = story.labeler.asked("permission");
    assert_eq!(asked as usize, cells.len(), "once for each submit");
    for (cell, job) in cells.iter().zip(ran) {
        let counts = story.counts(&job);
        assert_eq!(
            counts.values().sum::<usize>(),
            cell.shown().len(),
            "{cell:?}"
        );
        let said = story.said(job.job_id).await;
        let seen = said.lines().find_map(|line| line.strip_prefix("view "));
        let seen: Value = serde_json::from_str(seen.expect("it has looked")).expect("JSON");
        let expected = json!({"parts": counts, "shaped": cell.objects()});
        assert_eq!(seen, expected, "{cell:?}");
        if cell.layout.has_parts() {
            let val = pictures::VALIDATING
                .iter()
                .filter(|n| cell.shown().contains(n));
            assert_eq!(counts["val"], val.count(), "{cell:?}");
        }
    }
    assert_eq!(story.labeler.refused(), Vec::<String>::new());
}

/// A dataset whose document lies where `annotation_path` says, and not where its layout has it.
fn apart(story: &Story, id: &str, layout: Layout, document: &str) -> PathBuf {
    let place = story.cluster.path("sets").join(id);
    pictures::lay_down(&place, layout, "segmentation");
    let usual = place.join("annotations_segmentation.json");
    let there = story.cluster.path("sets").join(document);
    fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
    fs::rename(usual, &there).expect("it moves");
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_lies_elsewhere_is_found_by_its_annotation_path_and_counts_for_the_version()
{
    let mut story = Story::begin().await;
    story.agent().await;
    let cell = |layout| Cell {
        layout,
        task: "segmentation",
    };
    let elsewhere = apart(&story, "far", Layout::DiceNested, "documents/far/made.json");
    let within = apart(&story, "odd", Layout::DiceFlat, "odd/made/by-hand.json");
    let coco = apart(&story, "one", Layout::DiceFlat, "documents/one.json");
    for (id, format, annotations) in [
        ("far", "dice", elsewhere.clone()),
        ("odd", "dice", PathBuf::from("made/by-hand.json")),
        ("one", "coco", coco),
    ] {
        let fields = json!({
            "format": format, "storage_path": story.cluster.path("sets").join(id),
            "annotation_path": annotations,
        });
        story.labeler.dataset_with(id, fields, &["1"]);
    }
    assert!(within.exists());
    let on = |id: &str, layout| v1::JobSpec {
        dataset_id: id.to_owned(),
        ..cell(layout).job(python(LOOK))
    };
    let specs = vec![
        on("far", Layout::DiceNested),
        on("odd", Layout::DiceFlat),
        on("one", Layout::DiceFlat),
    ];
    let layouts = [Layout::DiceNested, Layout::DiceFlat, Layout::DiceFlat];
    for (layout, job) in layouts.into_iter().zip(story.run(specs).await) {
        let said = story.said(job.job_id).await;
        let seen = said.lines().find_map(|line| line.strip_prefix("view "));
        let seen: Value = serde_json::from_str(seen.expect("it has looked")).expect("JSON");
        let expected = json!({"parts": story.counts(&job), "shaped": cell(layout).objects()});
        assert_eq!(seen, expected, "{layout:?}: {said}");
    }
    // Another document is another version of the dataset, and one that has gone is told by name.
    let mut jobs = Jobs::of(&story.cluster).await;
    let text = fs::read_to_string(&elsewhere).expect("it is there");
    fs::write(&elsewhere, format!("{text} ")).expect("it is written");
    let again = jobs.submit(on("far", Layout::DiceNested)).await;
    let shown = story.cluster.cli(&["dataset", "snapshots", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let all = shown["snapshots"].as_array().expect("a list").iter();
    assert_eq!(all.filter(|row| row["dataset_id"] == "far").count(), 2);
    assert_eq!(jobs.ends(again).await.state(), JobState::Completed);
    fs::remove_file(&elsewhere).expect("it goes");
    let refusal = jobs.try_submit(on("far", Layout::DiceNested)).await;
    let refusal = refusal.expect_err("there is no document");
    assert!(refusal.message().contains("made.json"), "{refusal}");
}
