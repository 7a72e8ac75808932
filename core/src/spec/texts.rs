//! How long the texts of a submission may be, and which of them a process can be started with.
//!
//! Owns the numbers, which the documents of the doors name as well. Never looks at what a text means.
//! Called by `JobSpec::check`.
//!
//! Linux takes at most 131,072 bytes for one argument or variable, and a few MiB for all of them; none
//! may hold a NUL. What is beyond that would be refused only when the trainer is to start.

use super::{Findings, JobSpec, is_variable};

/// Characters of a job's name.
pub const LONGEST_NAME: usize = 200;
/// Characters of a model's name, an id, an image's name and the like.
pub const LONGEST_WORD: usize = 1_000;
/// Characters of a path.
pub const LONGEST_PATH: usize = 4_096;
/// Characters of the notes.
pub const LONGEST_NOTES: usize = 65_536;
/// Tags of a job.
pub const MOST_TAGS: usize = 100;
/// Characters of a tag.
pub const LONGEST_TAG: usize = 200;
/// Arguments of a command, its program among them.
pub const MOST_ARGUMENTS: usize = 10_000;
/// Variables of a job's environment.
pub const MOST_VARIABLES: usize = 1_000;
/// Bytes of one argument, or of one variable with its name.
pub const LONGEST_STRING: usize = 120_000;
/// Bytes of a program that is looked up by its name: no file has a longer one.
pub const LONGEST_PROGRAM: usize = 255;
/// Bytes of all arguments of a job together, and as many of all its variables.
pub const ALL_STRINGS: usize = 500_000;

pub(super) fn check(spec: &JobSpec, found: &mut Findings) {
    lengths(spec, found);
    nuls(spec, found);
    command(spec, found);
    environment(spec, found);
    document(spec, found);
}

fn lengths(spec: &JobSpec, found: &mut Findings) {
    let or_empty = |text: &'_ Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    let count = |text: &str| text.chars().count();
    for (field, length, most) in [
        ("name", count(&spec.name), LONGEST_NAME),
        ("notes", or_empty(&spec.notes), LONGEST_NOTES),
        ("model_name", count(&spec.model_name), LONGEST_WORD),
        ("task_type", count(&spec.task_type), LONGEST_WORD),
        ("dataset_id", or_empty(&spec.dataset_id), LONGEST_WORD),
        ("dataset_path", or_empty(&spec.dataset_path), LONGEST_PATH),
        ("dataset_format", count(&spec.dataset_format), LONGEST_WORD),
        ("resume_from", or_empty(&spec.resume_from), LONGEST_PATH),
        ("device", count(&spec.device), LONGEST_WORD),
        (
            "primary_metric",
            or_empty(&spec.primary_metric),
            LONGEST_WORD,
        ),
        ("prompt_mode", or_empty(&spec.prompt_mode), LONGEST_WORD),
        (
            "custom_docker_image",
            or_empty(&spec.custom_docker_image),
            LONGEST_WORD,
        ),
        (
            "resources.gpu_model",
            count(&spec.resources.gpu_model),
            LONGEST_WORD,
        ),
    ] {
        if length > most {
            let words = format!("is longer than {most} characters; shorten it");
            found.add(field, words);
        }
    }
    let tags = spec.tags.as_deref().unwrap_or_default();
    if tags.len() > MOST_TAGS {
        let words = format!("are {}; give at most {MOST_TAGS}", tags.len());
        found.add("tags", words);
    } else if tags.iter().any(|tag| count(tag) > LONGEST_TAG) {
        let words = format!("has one of more than {LONGEST_TAG} characters; shorten it");
        found.add("tags", words);
    }
}

fn nuls(spec: &JobSpec, found: &mut Findings) {
    for (field, text) in [
        ("model_name", Some(&spec.model_name)),
        ("task_type", Some(&spec.task_type)),
        ("dataset_id", spec.dataset_id.as_ref()),
        ("dataset_path", spec.dataset_path.as_ref()),
        ("resume_from", spec.resume_from.as_ref()),
        ("device", Some(&spec.device)),
    ] {
        if text.is_some_and(|text| text.contains('\0')) {
            found.add(field, no_nul("it"));
        }
    }
}

/// What is wrong with a path that a trainer is to be given.
#[must_use]
pub fn path_problem(path: &str) -> Option<String> {
    if path.contains('\0') {
        return Some(no_nul("it"));
    }
    let long = path.chars().count() > LONGEST_PATH;
    long.then(|| format!("is longer than {LONGEST_PATH} characters; shorten it"))
}

fn no_nul(what: &str) -> String {
    format!("has a NUL character, which no process can be given; take it out of {what}")
}

/// Mostly a whole command line that was given as one word.
fn too_long_a_program(spec: &JobSpec) -> Option<String> {
    let program = spec.command.first()?;
    let longest = program.split('/').map(str::len).max()?;
    (longest > LONGEST_PROGRAM).then(|| {
        format!("has {longest} bytes in the name of its program, and a file's name has at most {LONGEST_PROGRAM}; give each argument as a word of its own")
    })
}

/// The first argument that cannot be handed over, or all of them together.
fn command(spec: &JobSpec, found: &mut Findings) {
    let bad = spec.command.iter().enumerate().find_map(|(index, text)| {
        let number = index + 1;
        if text.contains('\0') {
            return Some(no_nul(&format!("argument {number}")));
        }
        let bytes = text.len();
        (bytes > LONGEST_STRING).then(|| {
            format!("has {bytes} bytes in argument {number}, and a process takes at most {LONGEST_STRING} in one; put it into a file")
        })
    });
    let count = spec.command.len();
    let bytes: usize = spec.command.iter().map(|text| text.len() + 9).sum();
    let words = if count > MOST_ARGUMENTS {
        Some(format!(
            "has {count} arguments; give at most {MOST_ARGUMENTS}, or put them into a file"
        ))
    } else {
        bad.or_else(|| too_much(bytes))
            .or_else(|| too_long_a_program(spec))
    };
    if let Some(words) = words {
        found.add("command", words);
    }
}

fn environment(spec: &JobSpec, found: &mut Findings) {
    let bad = spec.environment.iter().find_map(|(name, value)| {
        if !is_variable(name) || name.len() > LONGEST_NAME {
            let shown: String = name.chars().take(LONGEST_NAME).collect();
            return Some(format!(
                "'{shown}' is not the name of a variable; use 1 to {LONGEST_NAME} letters, digits and _, no digit first"
            ));
        }
        if value.contains('\0') {
            return Some(no_nul(&format!("the value of '{name}'")));
        }
        let bytes = name.len() + value.len();
        (bytes > LONGEST_STRING).then(|| {
            format!("has {bytes} bytes in '{name}', and a process takes at most {LONGEST_STRING} in one variable; put it into a file")
        })
    });
    let count = spec.environment.len();
    let variables = spec.environment.iter();
    let bytes: usize = variables
        .map(|(name, value)| name.len() + value.len() + 10)
        .sum();
    let words = if count > MOST_VARIABLES {
        Some(format!(
            "has {count} variables; give at most {MOST_VARIABLES}"
        ))
    } else {
        bad.or_else(|| too_much(bytes))
    };
    if let Some(words) = words {
        found.add("environment", words);
    }
}

fn too_much(bytes: usize) -> Option<String> {
    let most = ALL_STRINGS;
    (bytes > most).then(|| {
        format!(
            "has {bytes} bytes in all, and a process takes at most {most}; put them into a file"
        )
    })
}

/// The trainer's settings are one variable, `CONFIG`, in which the advanced ones stand twice. The split
/// is there as it was asked for only where no dataset has been resolved.
fn document(spec: &JobSpec, found: &mut Findings) {
    let size = |value: Option<String>| value.map_or(0, |text| text.len());
    let advanced = 2 * size(spec.advanced_config.as_ref().map(ToString::to_string));
    let by_id = spec.dataset_id.as_ref().is_some_and(|id| !id.is_empty());
    let split = match by_id {
        true => 0,
        false => size(spec.split_strategy.as_ref().map(ToString::to_string)),
    };
    let prompts = size(
        spec.custom_prompts
            .as_ref()
            .map(|texts| serde_json::json!(texts).to_string()),
    );
    let bytes = advanced + split + prompts;
    // What else stands there is short: room for it is between this and what Linux takes.
    if bytes <= LONGEST_STRING - 16_000 {
        return;
    }
    let most = LONGEST_STRING - 16_000;
    let so = format!(
        "the trainer's variable CONFIG would have {bytes} bytes, and at most {most} can be handed over"
    );
    if split >= advanced.max(prompts) {
        found.add("split_strategy", format!("{so}: register the dataset and give its dataset_id, for which a split of any size is kept in its snapshot, or give a ratio"));
    } else if advanced >= prompts {
        found.add("advanced_config", format!("{so}, in which advanced_config stands twice: put large tables into a file that the trainer reads"));
    } else {
        found.add(
            "custom_prompts",
            format!("{so}: give fewer or shorter ones"),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn job() -> JobSpec {
        JobSpec {
            framework: "command".into(),
            command: vec!["/bin/true".into()],
            dataset_path: Some("/data".into()),
            ..JobSpec::default()
        }
    }

    fn fields(change: impl FnOnce(&mut JobSpec)) -> Vec<String> {
        let mut spec = job();
        change(&mut spec);
        spec.check().into_iter().map(|found| found.field).collect()
    }

    #[test]
    fn each_text_has_a_longest_and_one_more_is_refused_at_its_field() {
        let text = |length| Some("ä".repeat(length));
        assert_eq!(fields(|spec| spec.notes = text(LONGEST_NOTES)), [""; 0]);
        assert_eq!(
            fields(|spec| spec.notes = text(LONGEST_NOTES + 1)),
            ["notes"]
        );
        let tags = |count, length| Some(vec!["t".repeat(length); count]);
        assert_eq!(
            fields(|spec| spec.tags = tags(MOST_TAGS, LONGEST_TAG)),
            [""; 0]
        );
        assert_eq!(fields(|spec| spec.tags = tags(MOST_TAGS + 1, 1)), ["tags"]);
        assert_eq!(
            fields(|spec| spec.tags = tags(1, LONGEST_TAG + 1)),
            ["tags"]
        );
        let found = fields(|spec| {
            spec.model_name = "m".repeat(LONGEST_WORD + 1);
            spec.custom_docker_image = text(LONGEST_WORD + 1);
            spec.dataset_path = text(LONGEST_PATH + 1);
        });
        assert_eq!(found, ["model_name", "dataset_path", "custom_docker_image"]);
    }

    #[test]
    fn what_no_process_can_be_given_is_refused_at_its_field() {
        let found = fields(|spec| {
            spec.model_name = "a\0".into();
            spec.command.push("\0".into());
            spec.environment = BTreeMap::from([("A".to_owned(), "\0".to_owned())]).into();
        });
        assert_eq!(found, ["model_name", "command", "environment"]);
        for name in ["", "1A", "A=B", "A B", "A\0"] {
            let variables = BTreeMap::from([(name.to_owned(), String::new())]);
            assert_eq!(
                fields(|spec| spec.environment = variables.into()),
                ["environment"]
            );
        }
        for command in [
            vec!["x".repeat(LONGEST_STRING + 1)],
            vec!["x".to_owned(); MOST_ARGUMENTS + 1],
            vec!["x".repeat(LONGEST_STRING); 5],
        ] {
            assert_eq!(fields(|spec| spec.command = command), ["command"]);
        }
    }

    #[test]
    fn settings_that_fit_into_no_variable_are_refused_with_the_way_out() {
        let splits: BTreeMap<_, _> = (0..6_000)
            .map(|n| (format!("image_{n:06}.png"), "train"))
            .collect();
        let wish = json!({"method": "custom", "custom_splits": splits});
        let found = fields(|spec| spec.split_strategy = Some(wish.clone()));
        assert_eq!(found, ["split_strategy"]);
        let mut spec = job();
        spec.split_strategy = Some(wish.clone());
        assert!(spec.check()[0].message.contains("dataset_id"));
        let by_id = |spec: &mut JobSpec| {
            spec.split_strategy = Some(wish);
            spec.dataset_id = Some("d".into());
        };
        assert_eq!(fields(by_id), [""; 0]);
        let advanced = json!({"table": "x".repeat(60_000)});
        assert_eq!(
            fields(|spec| spec.advanced_config = Some(advanced)),
            ["advanced_config"]
        );
    }
}
