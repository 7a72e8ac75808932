//! The body of a submission as a specification.
//!
//! Owns the contract's names, defaults and ranges, and our own fields beside them. What a job must
//! be beyond its shape is checked by the service.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use trainyard_core::{
    ids::JobId,
    resources::{ResourceRequest, parse_bytes},
    retry::{LONGEST_WAIT, OnLost, OnMemory, RetryPolicy},
    spec::{Arrange, JobSpec, Launcher, MOST_AWAITED, MOST_GPUS, MOST_LABELS, Placing, Violation},
    time::Timestamp,
};
use trainyard_proto::{
    http::{self, Bound, Fields, SAFE, plain, problem},
    status::Kind,
};

use super::error::Refusal;
use crate::{api::ApiError, datasets};

/// The largest number that a setting can hold.
const MOST: Bound<i64> = Bound::Le(u32::MAX as i64);
/// A millisecond: less is no time.
const SHORTEST: f64 = 0.001;
/// Ten years: more is a mistake.
const LONGEST: f64 = 315_360_000.0;
/// A day.
const LONGEST_GRACE: f64 = 86_400.0;

/// The contract's words, which core says as well.
const NO_MODEL: &str = "model_name is required";
const NO_TASK: &str = "task_type is required";
const NO_DATASET: &str = "Either dataset_id or dataset_path must be provided";
const LACKING: [&str; 3] = [NO_MODEL, NO_TASK, NO_DATASET];

/// Reads the body: all that is wrong in it at once, then what the contract wants to be there.
pub(super) fn spec(body: &[u8]) -> Result<JobSpec, Refusal> {
    let spec = http::read(body, |fields, _| {
        let spec = job(fields);
        let mut found = spec.check();
        found.extend(
            datasets::fits(&spec, None)
                .err()
                .into_iter()
                .flat_map(|error| error.violations),
        );
        let lacking = found
            .iter()
            .all(|one| LACKING.contains(&one.message.as_str()));
        // Where something is only missing, the contract has an answer of its own.
        if !(lacking && fields.errors.is_empty()) {
            fields.also(&found, place);
        }
        spec
    })?;
    missing(&spec).map_or(Ok(spec), |words| {
        Err(ApiError::new(Kind::Invalid, words).into())
    })
}

/// The service's refusal. Fields that do not go together are shown as fields of a wrong shape are.
pub(super) fn refusal(body: &[u8], error: ApiError) -> Refusal {
    if !error.misfit {
        return error.into();
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let entry = |found: &Violation| {
        let path = place(&found.field);
        let given = path.iter().try_fold(&body, |value, key| value.get(key));
        let given = given.unwrap_or(&Value::Null);
        let place: Vec<_> = std::iter::once("body")
            .chain(path.iter().map(String::as_str))
            .collect();
        problem("value_error", &json!(place), &found.message, given)
    };
    Refusal::Fields(error.violations.iter().map(entry).collect())
}

/// Where the body has what the specification calls so.
fn place(field: &str) -> Vec<String> {
    let owned = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    match field {
        "name" => owned(&["experiment_name"]),
        "tags" | "notes" | "project_id" | "session_id" => owned(&[field]),
        "time_limit" => owned(&["config", "time_limit_seconds"]),
        "indices" => owned(&["config", "array"]),
        field => {
            let parts: Vec<_> = std::iter::once("config").chain(field.split('.')).collect();
            owned(&parts)
        }
    }
}

fn missing(spec: &JobSpec) -> Option<&'static str> {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if spec.framework == "command" {
        None
    } else if spec.model_name.is_empty() {
        Some(NO_MODEL)
    } else if spec.task_type.is_empty() {
        Some(NO_TASK)
    } else if !given(&spec.dataset_id) && !given(&spec.dataset_path) {
        Some(NO_DATASET)
    } else {
        None
    }
}

fn job(fields: &mut Fields<'_>) -> JobSpec {
    JobSpec {
        session_id: fields.whole_within("session_id", &SAFE),
        project_id: fields.whole_within("project_id", &SAFE),
        name: fields
            .short_text("experiment_name", 200)
            .unwrap_or_default(),
        tags: fields.texts("tags"),
        notes: fields.optional_text("notes"),
        ..fields.required_nested("config", config).unwrap_or_default()
    }
}

fn config(fields: &mut Fields<'_>) -> JobSpec {
    let framework = fields.text_or("framework", "timm");
    let is_command = framework == "command";
    let mut named = |name| match is_command {
        true => fields.optional_text(name).unwrap_or_default(),
        false => fields.text(name),
    };
    let spec = JobSpec {
        model_name: named("model_name"),
        task_type: named("task_type"),
        framework,
        ..JobSpec::default()
    };
    let spec = contract(fields, spec);
    ours(fields, spec)
}

/// The contract's own fields.
fn contract(fields: &mut Fields<'_>, spec: JobSpec) -> JobSpec {
    // A program knows no epochs of ours.
    let (epochs, batch_size) = match spec.framework.as_str() {
        "command" => (1, 1),
        _ => (spec.epochs, spec.batch_size),
    };
    let within = |most| [Bound::Ge(1), Bound::Le(most)];
    JobSpec {
        num_classes: fields
            .whole_within("num_classes", &[Bound::Ge(2), MOST])
            .map(small),
        // An empty one is none: the path counts then.
        dataset_id: fields
            .optional_text("dataset_id")
            .filter(|id| !id.is_empty()),
        dataset_path: fields.optional_text("dataset_path"),
        dataset_format: fields.text_or("dataset_format", &spec.dataset_format),
        split_strategy: split_strategy(fields),
        epochs: small(fields.whole_or("epochs", epochs.into(), &within(1_000))),
        batch_size: small(fields.whole_or("batch_size", batch_size.into(), &within(512))),
        learning_rate: fields.number_or(
            "learning_rate",
            spec.learning_rate,
            &[Bound::Gt(0.0), Bound::Lt(1.0)],
        ),
        advanced_config: fields.tree("advanced_config").cloned().map(tree),
        primary_metric: fields.optional_text("primary_metric"),
        primary_metric_mode: Some(fields.text_or("primary_metric_mode", "max")),
        custom_prompts: fields.texts("custom_prompts"),
        prompt_mode: Some(fields.text_or("prompt_mode", "offline")),
        custom_docker_image: fields.optional_text("custom_docker_image"),
        ..spec
    }
}

fn split_strategy(fields: &mut Fields<'_>) -> Option<Value> {
    fields.nested("split_strategy", |inner| {
        inner.text("method");
        if inner.get("method").is_some_and(Value::is_string) {
            inner.one_of("method", &["use_dataset", "auto", "custom"]);
        }
        inner.numbers("ratio");
        inner.whole_within("seed", &SAFE);
        inner.texts_by_name("custom_splits");
        inner.texts("exclude_images");
    });
    fields.get("split_strategy").map(plain)
}

/// What the old platform did not know.
fn ours(fields: &mut Fields<'_>, spec: JobSpec) -> JobSpec {
    let pixels = |fields: &mut Fields<'_>, name| fields.whole_within(name, &[Bound::Ge(1), MOST]);
    let image_size = pixels(fields, "image_size");
    let imgsz = pixels(fields, "imgsz");
    let priority = fields.whole_or("priority", 0, &[Bound::Ge(0), Bound::Le(1_000)]);
    let grace = spec.grace_period.as_secs_f64();
    let grace_bounds = [Bound::Ge(0.0), Bound::Le(LONGEST_GRACE)];
    let grace = fields.number_or("grace_period_seconds", grace, &grace_bounds);
    JobSpec {
        image_size: image_size.or(imgsz).map(small),
        device: device(fields),
        command: fields.texts("command").unwrap_or_default(),
        environment: fields
            .texts_by_name("environment")
            .unwrap_or_default()
            .into(),
        resources: fields.nested("resources", resources).unwrap_or_default(),
        priority: i32::try_from(priority).unwrap_or_default(),
        time_limit: time_limit(fields),
        grace_period: Duration::try_from_secs_f64(grace).unwrap_or(spec.grace_period),
        retry: fields.nested("retry", retry).unwrap_or_default(),
        ..scheduling(fields, spec)
    }
}

/// On which nodes, how many, and when.
fn scheduling(fields: &mut Fields<'_>, spec: JobSpec) -> JobSpec {
    let processes = [Bound::Ge(1), Bound::Le(1_024)];
    JobSpec {
        nodes: small(fields.whole_or("nodes", 1, &processes)),
        launcher: match fields.one_of("launcher", &["plain", "torchrun"]) {
            Some("torchrun") => Launcher::Torchrun,
            Some(_) | None => Launcher::Plain,
        },
        procs_per_node: fields.whole_within("procs_per_node", &processes).map(small),
        placement: fields.nested("placement", placement).unwrap_or_default(),
        preemptible: fields.optional_flag("preemptible").unwrap_or_default(),
        not_before: not_before(fields),
        after: jobs(fields, "after"),
        after_any: jobs(fields, "after_any"),
        indices: fields.optional_text("array"),
        ..spec
    }
}

fn placement(fields: &mut Fields<'_>) -> Placing {
    let total = [Bound::Ge(1), Bound::Le(i64::from(MOST_GPUS))];
    Placing {
        labels: labels(fields, "labels"),
        anti_labels: labels(fields, "anti_labels"),
        arrange: match fields.one_of("arrange", &["pack", "spread"]) {
            Some("spread") => Arrange::Spread,
            Some(_) | None => Arrange::Pack,
        },
        fabric: fields.optional_text("fabric"),
        exclusive: fields.optional_flag("exclusive").unwrap_or_default(),
        gpus_total: fields.whole_within("gpus_total", &total).map(small),
    }
}

/// Those that are said twice count twice.
fn labels(fields: &mut Fields<'_>, name: &str) -> BTreeSet<String> {
    let labels = fields.texts(name).unwrap_or_default();
    let count = labels.len();
    let words = || format!("are {count}; give at most {MOST_LABELS}");
    fields.check(name, (count > MOST_LABELS).then(words));
    labels.into_iter().collect()
}

fn not_before(fields: &mut Fields<'_>) -> Option<Timestamp> {
    let text = fields.optional_text("not_before")?;
    let read = Timestamp::parse_rfc3339(&text);
    let words = "is no time; write for example 2027-01-31T18:00:00Z";
    fields.check("not_before", read.is_none().then_some(words));
    read
}

/// Numbers of jobs.
fn jobs(fields: &mut Fields<'_>, name: &str) -> Vec<JobId> {
    let given = fields.numbers(name).unwrap_or_default();
    let whole = |number: &f64| {
        let text = number.to_string();
        text.parse::<u64>().ok().filter(|job| *job > 0)
    };
    let read: Vec<JobId> = given.iter().filter_map(whole).map(JobId).collect();
    let words = if read.len() < given.len() {
        Some("has a number that no job has; give whole numbers from 1".to_owned())
    } else {
        let count = read.len();
        (count > MOST_AWAITED).then(|| format!("are {count}; give at most {MOST_AWAITED}"))
    };
    fields.check(name, words);
    read
}

fn retry(fields: &mut Fields<'_>) -> RetryPolicy {
    let plain = RetryPolicy::default();
    let limit = fields.whole_or("limit", plain.limit.into(), &[Bound::Ge(0), Bound::Le(100)]);
    let bounds = [Bound::Ge(0.0), Bound::Le(LONGEST_WAIT.as_secs_f64())];
    let backoff = plain.backoff.as_secs_f64();
    let backoff = fields.number_or("backoff_seconds", backoff, &bounds);
    RetryPolicy {
        limit: small(limit),
        backoff: Duration::try_from_secs_f64(backoff).unwrap_or(plain.backoff),
        on_lost: match fields.one_of("on_lost", &["retry", "wait"]) {
            Some("wait") => OnLost::Wait,
            Some(_) | None => OnLost::Retry,
        },
        out_of_memory: match fields.one_of("out_of_memory", &["fail", "halve_batch"]) {
            Some("halve_batch") => OnMemory::HalveBatch,
            Some(_) | None => OnMemory::Fail,
        },
    }
}

fn time_limit(fields: &mut Fields<'_>) -> Option<Duration> {
    fields.get("time_limit_seconds")?;
    let bounds = [Bound::Ge(SHORTEST), Bound::Le(LONGEST)];
    let seconds = fields.number_or("time_limit_seconds", LONGEST, &bounds);
    Duration::try_from_secs_f64(seconds).ok()
}

/// A text; trainers' own tools also take a bare number for one GPU.
fn device(fields: &mut Fields<'_>) -> String {
    match fields.get("device") {
        Some(Value::Number(number)) => number.to_string(),
        Some(_) | None => fields.optional_text("device").unwrap_or_default(),
    }
}

fn resources(fields: &mut Fields<'_>) -> ResourceRequest {
    let plain = ResourceRequest::default();
    ResourceRequest {
        cpus: small(fields.whole_or("cpus", plain.cpus.into(), &[Bound::Ge(1), Bound::Le(4_096)])),
        memory_bytes: bytes(fields, ["memory", "memory_bytes"]),
        gpus: small(fields.whole_or("gpus", 0, &[Bound::Ge(0), Bound::Le(1_024)])),
        gpu_model: fields.optional_text("gpu_model").unwrap_or_default(),
        gpu_memory_bytes: bytes(fields, ["gpu_memory", "gpu_memory_bytes"]),
        gpu_memory_max_bytes: bytes(fields, ["gpu_memory_max", "gpu_memory_max_bytes"]),
    }
}

/// A size of memory under either name, as a number of bytes or with a unit.
fn bytes(fields: &mut Fields<'_>, names: [&str; 2]) -> u64 {
    let mut size = None;
    for name in names {
        let Some(value) = fields.get(name) else {
            continue;
        };
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        match parse_bytes(&text) {
            Ok(bytes) => size = size.or(Some(bytes)),
            Err(error) => fields.refuse(name, &error.to_string()),
        }
    }
    size.unwrap_or_default()
}

fn tree(object: serde_json::Map<String, Value>) -> Value {
    plain(&Value::Object(object))
}

/// Beyond its range it has been refused already.
fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
