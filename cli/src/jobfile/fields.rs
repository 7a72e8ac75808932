//! The table of a job file's keys: path in the specification, other names, and the kind of value.
//! Never reads files. Called by `jobfile` only.

use serde_json::{Map, Value, json};
use trainyard_core::resources::{GpuRange, parse_bytes};

use crate::text;

/// One field of the specification.
#[derive(Debug)]
pub(super) struct Field {
    /// Its path in the specification.
    pub(super) path: &'static str,
    /// Shorter names, as the flags have them.
    pub(super) also: &'static [&'static str],
    /// What it takes.
    pub(super) kind: Kind,
}

/// What a field takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Whole { least: i64, most: i64 },
    Number,
    Bytes,
    Span,
    Texts,
    Variables,
    Object,
    Flag,
    Moment,
    Jobs,
    Gpus,
}

const COUNT: Kind = Kind::Whole {
    least: 0,
    most: u32::MAX as i64,
};
const ID: Kind = Kind::Whole {
    least: 0,
    most: i64::MAX,
};

const fn field(path: &'static str, also: &'static [&'static str], kind: Kind) -> Field {
    Field { path, also, kind }
}

/// All fields; a test holds it against the specification.
pub(super) const FIELDS: [Field; 55] = [
    field("name", &[], Kind::Text),
    field("framework", &[], Kind::Text),
    field("model_name", &["model"], Kind::Text),
    field("task_type", &["task"], Kind::Text),
    field("num_classes", &["classes"], COUNT),
    field("dataset_id", &[], Kind::Text),
    field("dataset_path", &["dataset"], Kind::Text),
    field("dataset_format", &["format"], Kind::Text),
    field("epochs", &[], COUNT),
    field("batch_size", &["batch"], COUNT),
    field("learning_rate", &["lr"], Kind::Number),
    field("image_size", &["imgsz"], COUNT),
    field("device", &[], Kind::Text),
    field("advanced_config", &["advanced"], Kind::Object),
    field("split_strategy", &["split"], Kind::Object),
    field("primary_metric", &["metric"], Kind::Text),
    field("primary_metric_mode", &["metric_mode"], Kind::Text),
    field("command", &[], Kind::Texts),
    field("environment", &["env"], Kind::Variables),
    field("resources.cpus", &["cpus"], COUNT),
    field(
        "resources.memory_bytes",
        &["resources.memory", "memory"],
        Kind::Bytes,
    ),
    field("resources.gpus", &["gpus"], COUNT),
    field("resources.gpu_model", &["gpu_model"], Kind::Text),
    field(
        "resources.gpu_memory_bytes",
        &["resources.gpu_memory", "gpu_memory"],
        Kind::Bytes,
    ),
    field(
        "resources.gpu_memory_max_bytes",
        &["resources.gpu_memory_max", "gpu_memory_max"],
        Kind::Bytes,
    ),
    field("placement.labels", &["labels"], Kind::Texts),
    field("placement.anti_labels", &["anti_labels"], Kind::Texts),
    field("placement.arrange", &["arrange"], Kind::Text),
    field("placement.fabric", &["fabric"], Kind::Text),
    field("placement.exclusive", &["exclusive"], Kind::Flag),
    field("placement.gpus_total", &["gpus_total"], COUNT),
    field("nodes", &[], COUNT),
    field("launcher", &[], Kind::Text),
    field("procs_per_node", &[], COUNT),
    field(
        "priority",
        &[],
        Kind::Whole {
            least: -1_000,
            most: 1_000,
        },
    ),
    field("preemptible", &[], Kind::Flag),
    field("time_limit", &[], Kind::Span),
    field("not_before", &[], Kind::Moment),
    field("after", &[], Kind::Jobs),
    field("after_any", &[], Kind::Jobs),
    field("indices", &["array"], Kind::Text),
    field("grace_period", &["grace"], Kind::Span),
    field(
        "retry.limit",
        &["retries"],
        Kind::Whole {
            least: 0,
            most: 100,
        },
    ),
    field("retry.backoff", &["retry_backoff"], Kind::Span),
    field("retry.on_lost", &["on_lost"], Kind::Text),
    field("retry.out_of_memory", &["on_oom"], Kind::Text),
    field("tags", &[], Kind::Texts),
    field("notes", &[], Kind::Text),
    field("session_id", &["session"], ID),
    field("project_id", &["project"], ID),
    field("custom_docker_image", &[], Kind::Text),
    field("custom_prompts", &["prompts"], Kind::Texts),
    field("prompt_mode", &[], Kind::Text),
    field("resume_from", &[], Kind::Text),
    field("resume", &[], Kind::Flag),
];

/// Three fields in one text.
static GPU: Field = field("gpu", &[], Kind::Gpus);

/// Those.
pub(super) const OF_GPU: [&str; 3] = [
    "resources.gpu_model",
    "resources.gpu_memory_bytes",
    "resources.gpu_memory_max_bytes",
];

/// The field under one of its names.
pub(super) fn find(key: &str) -> Option<&'static Field> {
    FIELDS
        .iter()
        .chain([&GPU])
        .find(|field| field.path == key || field.also.contains(&key))
}

/// Whether the key opens a section of fields.
pub(super) fn is_section(key: &str) -> bool {
    matches!(key, "resources" | "retry" | "placement")
}

/// The known key that is most like `key`.
pub(super) fn nearest(key: &str) -> &'static str {
    let names = FIELDS
        .iter()
        .flat_map(|field| std::iter::once(field.path).chain(field.also.iter().copied()));
    text::nearest(key, names)
}

impl Kind {
    /// The value in the specification's own form; else what is wrong, where there is more to say
    /// than what was expected.
    pub(super) fn take(self, value: &Value) -> Result<Value, Option<String>> {
        let taken = match self {
            Self::Text => value.as_str().map(Value::from),
            Self::Whole { least, most } => value
                .as_i64()
                .filter(|number| (least..=most).contains(number))
                .map(Value::from),
            Self::Number => value.as_f64().map(Value::from),
            Self::Bytes => return bytes(value),
            Self::Span => return span(value),
            Self::Texts => texts(value),
            Self::Variables => variables(value),
            Self::Flag => value.as_bool().map(Value::from),
            Self::Object => value.as_object().cloned().map(Value::Object),
            Self::Moment => moment(value),
            Self::Jobs => jobs(value),
            Self::Gpus => return gpus(value),
        };
        taken.ok_or(None)
    }
}

fn bytes(value: &Value) -> Result<Value, Option<String>> {
    match value {
        Value::String(text) => match parse_bytes(text) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(Some(format!("a size of memory ({error})"))),
        },
        Value::Number(number) => number.as_u64().map(Value::from).ok_or(None),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(None),
    }
}

fn span(value: &Value) -> Result<Value, Option<String>> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(seconds) => seconds.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(None),
    };
    match text::parse_span(&text) {
        Ok(span) => Ok(json!({"secs": span.as_secs(), "nanos": span.subsec_nanos()})),
        Err(_) => Err(None),
    }
}

/// A time, or a span from now; in microseconds, as the specification has it.
fn moment(value: &Value) -> Option<Value> {
    let then = text::parse_moment(value.as_str()?).ok()?;
    Some(then.0.into())
}

/// Numbers of jobs, or one.
fn jobs(value: &Value) -> Option<Value> {
    let is_job = |value: &Value| value.as_u64().is_some_and(|job| job > 0);
    match value {
        Value::Array(list) => list.iter().all(is_job).then(|| value.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            is_job(value).then(|| json!([value]))
        }
    }
}

/// What the text says of each of [`OF_GPU`].
fn gpus(value: &Value) -> Result<Value, Option<String>> {
    let text = value.as_str().ok_or(None)?;
    match GpuRange::parse(text) {
        Ok(read) => Ok(json!([read.model, read.at_least, read.at_most])),
        Err(error) => Err(Some(format!("GPUs ({error})"))),
    }
}

fn texts(value: &Value) -> Option<Value> {
    let list = value.as_array()?;
    list.iter().all(Value::is_string).then(|| value.clone())
}

/// Numbers and truth values are written out: a variable is a text.
fn variables(value: &Value) -> Option<Value> {
    let mut texts = Map::new();
    for (name, value) in value.as_object()? {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        texts.insert(name.clone(), text.into());
    }
    Some(texts.into())
}
