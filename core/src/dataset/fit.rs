//! What each trainer that ships can train on: which tasks it knows, and which formats hold what a task
//! needs.
//!
//! Only what is certain is refused: a framework that is not known here fits everything, and so does a
//! format that nobody has vouched for. Pure; called by the coordinator at a submit, and kept true by the
//! suite that trains every cell of this table.

use super::Format;
use crate::spec::{TaskType, Violation};

/// Why this can never be trained, at the field that is to be changed; `None` when it fits.
///
/// `format` is that of a dataset whose provider has said it, and not the word of a submission, which
/// trainers never look at.
#[must_use]
pub fn misfit(framework: &str, task: TaskType, format: Option<Format>) -> Option<Violation> {
    let known = trained_tasks(framework)?;
    if !known.contains(&task) {
        let trains = names(known.iter().map(|task| task.name()));
        let trains_it = |name: &&&str| {
            let tasks = trained_tasks(name);
            tasks.is_some_and(|tasks| tasks.contains(&task))
        };
        let others = FRAMEWORKS.iter().filter(trains_it);
        return Some(Violation {
            field: "task_type".to_owned(),
            message: format!(
                "'{}' cannot be trained by framework '{framework}', which trains {trains}; choose framework {}",
                task.name(),
                names(others.copied())
            ),
        });
    }
    let format = format.filter(|format| !formats(task).contains(format))?;
    let fitting = names(formats(task).iter().map(|format| format.name()));
    Some(Violation {
        field: "dataset_format".to_owned(),
        message: format!(
            "the dataset has the format '{}', {}, but task '{}' needs {}: choose a dataset of the format {fitting}, or another task",
            format.name(),
            holds(format),
            task.name(),
            needs(task),
        ),
    })
}

/// Those that have a table here, the widest first.
const FRAMEWORKS: [&str; 3] = ["ultralytics", "timm", "sklearn"];

/// The tasks of a trainer that ships; none where it is not known which.
#[must_use]
pub fn trained_tasks(framework: &str) -> Option<&'static [TaskType]> {
    match framework {
        "ultralytics" => Some(&TaskType::ALL),
        "timm" | "sklearn" => Some(&[TaskType::Classification]),
        _ => None,
    }
}

/// The formats that can hold what a task needs, in all trainers alike: the view gives each image's class
/// as folders, and everything else as a document or as label files.
fn formats(task: TaskType) -> &'static [Format] {
    match task {
        TaskType::Classification => &[Format::ImageFolder, Format::Dice, Format::Coco],
        TaskType::Detection | TaskType::Segmentation | TaskType::Pose => {
            &[Format::Dice, Format::Coco, Format::Yolo]
        }
    }
}

fn holds(format: Format) -> &'static str {
    match format {
        Format::Dice | Format::Coco => "which has annotation documents",
        Format::Yolo => "which says where objects are and not what an image is of",
        Format::ImageFolder => "which says what an image is of and not where",
    }
}

fn needs(task: TaskType) -> &'static str {
    match task {
        TaskType::Classification => "one class for each image",
        TaskType::Detection => "boxes",
        TaskType::Segmentation => "outlines",
        TaskType::Pose => "keypoints",
    }
}

/// `a`, `a or b`, `a, b or c`.
fn names<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [Format; 4] = [
        Format::Dice,
        Format::Yolo,
        Format::Coco,
        Format::ImageFolder,
    ];

    fn field(framework: &str, task: TaskType, format: Option<Format>) -> Option<String> {
        misfit(framework, task, format).map(|found| found.field)
    }

    #[test]
    fn a_program_and_what_is_not_known_fit_everything() {
        for framework in ["command", "huggingface", ""] {
            for task in TaskType::ALL {
                for format in FORMATS {
                    assert_eq!(misfit(framework, task, Some(format)), None);
                }
            }
        }
    }

    #[test]
    fn the_task_is_judged_first_and_without_a_format_alone() {
        for framework in ["timm", "sklearn"] {
            assert_eq!(field(framework, TaskType::Classification, None), None);
            for task in [TaskType::Detection, TaskType::Segmentation, TaskType::Pose] {
                for format in [None, Some(Format::Dice), Some(Format::ImageFolder)] {
                    assert_eq!(field(framework, task, format), Some("task_type".into()));
                }
            }
        }
        for task in TaskType::ALL {
            assert_eq!(field("ultralytics", task, None), None);
        }
    }

    #[test]
    fn only_a_format_that_lacks_what_the_task_needs_is_refused() {
        let refused = |task, format| field("ultralytics", task, Some(format)).is_some();
        for task in TaskType::ALL {
            let found: Vec<_> = FORMATS.map(|format| refused(task, format)).into();
            let classes = task == TaskType::Classification;
            assert_eq!(found, [false, classes, false, !classes], "{task:?}");
        }
    }

    #[test]
    fn the_words_name_what_is_wrong_and_the_way_out() {
        let task = misfit("timm", TaskType::Segmentation, None).unwrap();
        assert_eq!(
            task.message,
            "'segmentation' cannot be trained by framework 'timm', which trains classification; choose framework ultralytics"
        );
        let format = misfit("timm", TaskType::Classification, Some(Format::Yolo)).unwrap();
        assert_eq!(
            format.message,
            "the dataset has the format 'yolo', which says where objects are and not what an image is of, but task 'classification' needs one class for each image: choose a dataset of the format imagefolder, dice or coco, or another task"
        );
    }
}
