//! `trainyard show`: all about one job. Never changes it.

use trainyard_core::{
    resources::{ResourceRequest, format_bytes},
    time::Timestamp,
};
use trainyard_proto::v1::{self, Job, JobState};

use super::{Context, get_job};
use crate::{
    clock,
    exit::Exit,
    output::{Screen, json, progress, table},
    text,
};

/// Shows a job.
pub(crate) async fn run(context: &Context<'_>, job_id: u64) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let job = get_job(&mut client, job_id).await?;
    let now = clock::now();
    context
        .screen
        .show(|| json::job(&job), || page(&context.screen, &job, now))?;
    Ok(Exit::Ok)
}

/// The whole page.
fn page(screen: &Screen, job: &Job, now: Timestamp) -> String {
    let spec = job.spec.clone().unwrap_or_default();
    let parts = [
        head(screen, job, now),
        asked(&spec),
        attempts(job),
        end(job),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn head(screen: &Screen, job: &Job, now: Timestamp) -> String {
    let state = job.state();
    let style = table::state_style(state);
    let time = |at: Option<&prost_types::Timestamp>| {
        at.map(|at| format!("{} ({} ago)", text::rfc3339(at), text::age(Some(at), now)))
            .unwrap_or_default()
    };
    let name = job.spec.as_ref().map(|spec| spec.name.as_str());
    let mut block = table::Block::default();
    block
        .add("job", job.job_id.to_string())
        .add("name", name.unwrap_or_default())
        .add("state", screen.paint(&style, text::state(state)))
        .add(reason_name(state), job.reason.clone())
        .add("submitted by", job.submitted_by.clone())
        .add("snapshot", job.snapshot_id.clone())
        .add("created", time(job.created_at.as_ref()))
        .add("started", time(job.started_at.as_ref()))
        .add("ended", time(job.ended_at.as_ref()));
    if let Some(now) = job.progress.as_ref().filter(|now| now.epoch > 0) {
        let figures = progress::figures(job);
        block.add(
            "progress",
            format!("epoch {}/{}  {figures}", now.epoch, now.total_epochs),
        );
    }
    block.render()
}

fn reason_name(state: JobState) -> &'static str {
    match state {
        JobState::Pending | JobState::Queued => "waits for",
        JobState::Unspecified
        | JobState::Starting
        | JobState::Running
        | JobState::Finishing
        | JobState::Completed
        | JobState::Failed
        | JobState::Cancelled => "at present",
    }
}

fn asked(spec: &v1::JobSpec) -> String {
    let mut block = table::Block::default();
    block
        .add("framework", spec.framework.clone())
        .add("model", spec.model_name.clone())
        .add("task", spec.task_type.clone())
        .add("command", quoted(&spec.command))
        .add("dataset", dataset(spec));
    if spec.framework != "command" {
        block
            .add("epochs", spec.epochs.to_string())
            .add("batch size", spec.batch_size.to_string())
            .add("learning rate", spec.learning_rate.to_string());
    }
    let span = |span: &prost_types::Duration| {
        trainyard_proto::convert::span("span", span)
            .map(text::span)
            .unwrap_or_default()
    };
    let environment: Vec<_> = spec
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    block
        .add("image size", number(spec.image_size))
        .add("classes", number(spec.num_classes))
        .add("device", spec.device.clone())
        .add("advanced", spec.advanced_config_json.clone())
        .add("split", spec.split_strategy_json.clone())
        .add("metric", metric(spec))
        .add("environment", environment.join("\n"))
        .add("resources", resources(spec))
        .add("nodes", nodes(spec))
        .add("placement", placement(spec.placement.as_ref()))
        .add("array", array(spec.array))
        .add("starts", starts(spec))
        .add("priority", spec.priority.to_string())
        .add("preemptible", if spec.preemptible { "yes" } else { "" })
        .add(
            "time limit",
            spec.time_limit.as_ref().map(span).unwrap_or_default(),
        )
        .add(
            "grace",
            spec.grace_period.as_ref().map(span).unwrap_or_default(),
        )
        .add("tags", spec.tags.join(", "))
        .add("notes", spec.notes.clone());
    block.render()
}

fn number(value: Option<u32>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn metric(spec: &v1::JobSpec) -> String {
    format!("{} {}", spec.primary_metric, spec.primary_metric_mode)
        .trim()
        .to_owned()
}

fn dataset(spec: &v1::JobSpec) -> String {
    let place = [&spec.dataset_path, &spec.dataset_id];
    match place.into_iter().find(|text| !text.is_empty()) {
        Some(place) => format!("{place} ({})", spec.dataset_format),
        None => String::new(),
    }
}

/// A command as it would be typed.
fn quoted(command: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c);
    let words: Vec<_> = command
        .iter()
        .map(|word| {
            if !word.is_empty() && word.chars().all(is_plain) {
                word.clone()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect();
    words.join(" ")
}

/// Empty for one node and no launcher, as of most jobs.
fn nodes(spec: &v1::JobSpec) -> String {
    let launcher = json::launcher(spec.launcher());
    match (spec.nodes.max(1), spec.launcher()) {
        (1, v1::Launcher::Unspecified | v1::Launcher::Plain) => String::new(),
        (nodes, _) => format!("{nodes}, launcher {launcher}"),
    }
}

/// Empty where nothing in particular was asked for.
fn placement(asked: Option<&v1::Placement>) -> String {
    let asked = asked.cloned().unwrap_or_default();
    let mut words = Vec::new();
    words.extend(asked.labels.iter().map(|label| format!("with {label}")));
    words.extend(
        asked
            .anti_labels
            .iter()
            .map(|label| format!("without {label}")),
    );
    if asked.arrange() == v1::Arrange::Spread {
        words.push("spread".to_owned());
    }
    if !asked.fabric.is_empty() {
        words.push(format!("of one {}", asked.fabric));
    }
    if asked.exclusive {
        words.push("nobody else on its nodes".to_owned());
    }
    words.join(", ")
}

fn array(place: Option<v1::ArrayPlace>) -> String {
    let Some(place) = place else {
        return String::new();
    };
    let limit = match place.at_most {
        0 => String::new(),
        most => format!(", at most {most} at once"),
    };
    format!(
        "index {} of array {}, {} jobs{limit}",
        place.index, place.id, place.size
    )
}

/// What it waits for before it may be placed.
fn starts(spec: &v1::JobSpec) -> String {
    let mut words = Vec::new();
    words.extend(
        spec.not_before
            .as_ref()
            .map(|then| format!("not before {}", text::rfc3339(then))),
    );
    words.extend(
        spec.after
            .iter()
            .map(|job| format!("after job {job} has succeeded")),
    );
    words.extend(
        spec.after_any
            .iter()
            .map(|job| format!("after job {job} has ended")),
    );
    words.join(", ")
}

/// Of each node; GPUs in all where no number is asked for of each.
fn resources(spec: &v1::JobSpec) -> String {
    let Some(asked) = &spec.resources else {
        return String::new();
    };
    let placement = spec.placement.as_ref();
    let in_all = placement.map_or(0, |placement| placement.gpus_total);
    let mut words = vec![format!("{} cpus", asked.cpus.max(1))];
    if asked.memory_bytes > 0 {
        words.push(format!("{} memory", format_bytes(asked.memory_bytes)));
    }
    if asked.gpus > 0 || in_all > 0 {
        let mut gpus = match in_all {
            0 => format!("{} gpus", asked.gpus),
            all => format!("{all} gpus in all"),
        };
        gpus.push_str(&ResourceRequest::from(asked.clone()).gpu_words());
        words.push(gpus);
    }
    words.join(", ")
}

fn attempts(job: &Job) -> String {
    let mut block = table::Block::default();
    for attempt in &job.attempts {
        let mut words = match attempt.tasks.len() {
            0 => format!("on {}", attempt.node),
            nodes => format!("on {nodes} nodes"),
        };
        if let Some(at) = &attempt.placed_at {
            words.push_str(&format!(", placed {}", text::rfc3339(at)));
        }
        let ran = text::between(attempt.started_at.as_ref(), attempt.ended_at.as_ref());
        if let Some(ran) = ran {
            words.push_str(&format!(", ran {}", text::span(ran)));
        }
        if attempt.tasks.is_empty() && !attempt.gpu_uuids.is_empty() {
            words.push_str(&format!("\ngpus {}", attempt.gpu_uuids.join(", ")));
        }
        for task in &attempt.tasks {
            words.push('\n');
            words.push_str(&rank(task));
        }
        block.add(&format!("attempt {}", attempt.number), words);
    }
    block.render()
}

/// One rank of a gang.
fn rank(task: &v1::AttemptTask) -> String {
    let mut words = format!("rank {} on {}", task.rank, task.node);
    if let Some(ran) = text::between(task.started_at.as_ref(), task.ended_at.as_ref()) {
        words.push_str(&format!(", ran {}", text::span(ran)));
    }
    if let Some(outcome) = task.outcome.as_ref().filter(|end| !end.message.is_empty()) {
        words.push_str(&format!(": {}", outcome.message));
    }
    if !task.gpu_uuids.is_empty() {
        words.push_str(&format!(", gpus {}", task.gpu_uuids.join(", ")));
    }
    words
}

fn end(job: &Job) -> String {
    let mut block = table::Block::default();
    if text::has_ended(job.state()) {
        block.add("outcome", progress::ending(job));
    }
    let last_lines = job
        .outcome
        .as_ref()
        .map(|outcome| outcome.last_lines.join("\n"));
    block.add("last lines", last_lines.unwrap_or_default());
    for (name, checkpoint) in [
        ("best checkpoint", &job.best_checkpoint),
        ("last checkpoint", &job.last_checkpoint),
    ] {
        let words = checkpoint.as_ref().map(progress::checkpoint_words);
        block.add(name, words.unwrap_or_default());
    }
    let metrics: Vec<_> = job
        .final_metrics
        .iter()
        .map(|(name, value)| format!("{name} {}", text::number(*value)))
        .collect();
    block.add("final metrics", metrics.join("\n"));
    block.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_what_was_asked_and_what_became_of_it() {
        let job = Job {
            job_id: 3,
            spec: Some(v1::JobSpec {
                name: "sh".into(),
                framework: "command".into(),
                command: vec!["sh".into(), "-c".into(), "it's".into()],
                resources: Some(v1::ResourceRequest {
                    gpus: 2,
                    gpu_model: "H100".into(),
                    memory_bytes: 8 << 30,
                    ..v1::ResourceRequest::default()
                }),
                time_limit: Some(prost_types::Duration {
                    seconds: 5_400,
                    nanos: 0,
                }),
                ..v1::JobSpec::default()
            }),
            state: JobState::Failed.into(),
            attempts: vec![v1::Attempt {
                number: 1,
                node: "alpha".into(),
                gpu_uuids: vec!["GPU-1".into()],
                ..v1::Attempt::default()
            }],
            outcome: Some(v1::Outcome {
                failure_class: v1::FailureClass::Timeout.into(),
                message: "ran longer than 1h30m".into(),
                last_lines: vec!["still busy".into()],
                ..v1::Outcome::default()
            }),
            final_metrics: [("accuracy".to_owned(), 0.5)].into(),
            ..Job::default()
        };
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let text = page(&screen, &job, Timestamp(0));
        for words in [
            "state  failed",
            r"command     sh -c 'it'\''s'",
            "resources   1 cpus, 8 GiB memory, 2 gpus of model H100",
            "time limit  1h30m",
            "attempt 1  on alpha",
            "gpus GPU-1",
            "outcome        failed (timeout): ran longer than 1h30m",
            "last lines     still busy",
            "final metrics  accuracy 0.5000",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert!(!text.contains("epochs"), "{text}");
    }

    #[test]
    fn a_page_tells_what_was_asked_of_nodes_and_of_the_start() {
        let text = asked(&v1::JobSpec {
            placement: Some(v1::Placement {
                labels: vec!["zone=a".into()],
                fabric: "rack".into(),
                exclusive: true,
                ..v1::Placement::default()
            }),
            after: vec![2],
            array: Some(v1::ArrayPlace {
                id: 3,
                index: 7,
                size: 9,
                at_most: 2,
            }),
            ..v1::JobSpec::default()
        });
        for words in [
            "with zone=a, of one rack, nobody else on its nodes",
            "index 7 of array 3, 9 jobs, at most 2 at once",
            "after job 2 has succeeded",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }
}
