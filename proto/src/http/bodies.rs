//! The four bodies that trainers send, typed, and the reading that they share with other bodies.
//! Never touches a disk. Called by both callback endpoints and by the REST door.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainyard_core::{ids::JobId, record::LAST_VALIDATED_EPOCH};

use super::bounds::Bound;
use super::fields::{Fields, problem};
use super::json::{Parsed, parse, plain};

/// Epochs of which there may be results: no two results of any jobs share a number.
const VALIDATED: [Bound<i64>; 2] = [Bound::Ge(0), Bound::Le(LAST_VALIDATED_EPOCH as i64)];
/// Characters in the path of a checkpoint, as in one that a submission names.
const PATH: usize = 4_096;
/// Characters in the name of a metric that is shown by itself.
const NAME: usize = 200;
/// Characters in a level: it stands on each line of its report.
const LEVEL: usize = 100;

/// What was wrong, as entries of a 422.
pub type Problems = Vec<Value>;

/// `…/callback/progress`.
#[derive(Debug)]
pub struct ProgressBody {
    /// What the trainer says of itself.
    pub status: String,
    /// The epoch that ended.
    pub epoch: u32,
    /// Of how many.
    pub total_epochs: u32,
    /// Within the epoch.
    pub step: Option<u64>,
    /// By name; none when the report holds no metrics at all.
    pub metrics: Option<BTreeMap<String, f64>>,
    /// The newest checkpoint.
    pub checkpoint: Option<String>,
    /// The best one so far.
    pub best_checkpoint: Option<String>,
    /// Texts for the log, each with its level.
    pub notes: Vec<(&'static str, String)>,
}

/// `…/callback/completion`.
#[derive(Debug)]
pub struct CompletionBody {
    /// The exit code, if there is one, overrides the status.
    pub succeeded: bool,
    /// As announced.
    pub exit_code: Option<i32>,
    /// Epochs that were completed.
    pub epochs_completed: u32,
    /// By name.
    pub final_metrics: BTreeMap<String, f64>,
    /// Those of the best epoch, by name.
    pub best_metrics: BTreeMap<String, f64>,
    /// Which epoch that was.
    pub best_epoch: Option<u32>,
    /// Where its model lies.
    pub model_artifacts: Option<String>,
    /// A run at MLflow of its own.
    pub mlflow_run_id: Option<String>,
    /// The best checkpoint.
    pub best_checkpoint: Option<String>,
    /// The last checkpoint.
    pub last_checkpoint: Option<String>,
    /// Empty on success.
    pub error_message: String,
    /// Empty on success.
    pub traceback: String,
}

/// `…/callback/logs` and `…/callback/log`.
#[derive(Debug)]
pub struct LogBody {
    /// INFO, WARNING and so on.
    pub level: String,
    /// The text, with its data.
    pub message: String,
    /// Tells the body from any other, if it says when it was made to the microsecond: the same one
    /// again is then the same call, sent again because its answer was lost.
    pub identity: Option<u64>,
}

/// `/validation/jobs/{id}/results`.
#[derive(Debug)]
pub struct ValidationBody {
    /// The epoch.
    pub epoch: u32,
    /// The body as it came.
    pub text: String,
}

/// Reads a body of `…/callback/progress` whose path names `job`.
///
/// # Errors
/// Everything that is wrong, as entries of a 422.
pub fn progress(body: &[u8], job: JobId) -> Result<ProgressBody, Problems> {
    read(body, |fields, _| {
        of_job(fields, job);
        fields.percent("progress_percent");
        fields.optional_number("epoch_duration_seconds");
        fields.optional_number("estimated_time_remaining");
        ProgressBody {
            status: fields.text("status"),
            epoch: small(fields.whole("current_epoch", 0)),
            total_epochs: small(fields.whole("total_epochs", 1)),
            step: fields
                .optional_whole("step", 0)
                .and_then(|step| u64::try_from(step).ok()),
            metrics: fields.metrics("metrics"),
            checkpoint: fields.short_text("checkpoint_path", PATH),
            best_checkpoint: fields.short_text("best_checkpoint_path", PATH),
            notes: [
                ("INFO", "logs"),
                ("ERROR", "error_message"),
                ("ERROR", "traceback"),
            ]
            .into_iter()
            .filter_map(|(level, name)| Some((level, fields.optional_text(name)?)))
            .collect(),
        }
    })
}

/// Reads a body of `…/callback/completion` whose path names `job`.
///
/// # Errors
/// Everything that is wrong, as entries of a 422.
pub fn completion(body: &[u8], job: JobId) -> Result<CompletionBody, Problems> {
    read(body, |fields, _| {
        of_job(fields, job);
        let status = fields.text("status");
        let exit_code = fields
            .optional_whole("exit_code", i64::from(i32::MIN))
            .map(|code| i32::try_from(code).unwrap_or(i32::MAX));
        let succeeded = exit_code.map_or(status == "completed", |code| code == 0);
        let on_failure = |text: Option<String>| text.filter(|_| !succeeded).unwrap_or_default();
        let best_epoch = fields.whole_within("best_epoch", &[]);
        let older = fields.optional_text("final_checkpoint_path");
        CompletionBody {
            succeeded,
            exit_code,
            epochs_completed: small(fields.whole("total_epochs_completed", 0)),
            final_metrics: fields.metrics("final_metrics").unwrap_or_default(),
            best_metrics: fields.metrics("best_metrics").unwrap_or_default(),
            // Below zero stands for "none" with some trainers.
            best_epoch: best_epoch.and_then(|epoch| u32::try_from(epoch).ok()),
            model_artifacts: some_text(fields, "model_artifacts_path"),
            mlflow_run_id: some_text(fields, "mlflow_run_id"),
            best_checkpoint: fields.optional_text("best_checkpoint_path"),
            last_checkpoint: fields.optional_text("last_checkpoint_path").or(older),
            error_message: on_failure(fields.optional_text("error_message")),
            traceback: on_failure(fields.optional_text("traceback")),
        }
    })
}

/// Reads a body of `…/callback/logs` whose path names `job`.
///
/// # Errors
/// Everything that is wrong, as entries of a 422.
pub fn log(body: &[u8], job: JobId) -> Result<LogBody, Problems> {
    read(body, |fields, _| {
        of_job(fields, job);
        fields.text("event_type");
        let mut message = fields.text("message");
        if let Some(data) = fields.get("data") {
            message = format!("{message} {}", plain(data));
        }
        let made = fields.optional_text("timestamp");
        let level = fields.short_text("level", LEVEL);
        LogBody {
            level: level.map_or_else(|| "INFO".to_owned(), |level| level.to_uppercase()),
            message,
            identity: made.filter(|made| is_exact(made)).map(|_| hashed(body)),
        }
    })
}

/// Reads a body of `/validation/jobs/{id}/results` whose path names `job`.
///
/// # Errors
/// Everything that is wrong, as entries of a 422.
pub fn validation(body: &[u8], job: JobId) -> Result<ValidationBody, Problems> {
    read(body, |fields, parsed| {
        of_job(fields, job);
        fields.text("task_type");
        fields.short_text("primary_metric_name", NAME);
        fields.optional_number("primary_metric_value");
        fields.optional_number("overall_loss");
        let as_it_came = std::str::from_utf8(body).ok().filter(|_| !parsed.marked);
        ValidationBody {
            epoch: small(fields.whole_in("epoch", &VALIDATED)),
            text: as_it_came.map_or_else(|| plain(&parsed.value).to_string(), str::to_owned),
        }
    })
}

/// Reads a body that must be a JSON object; `make` takes its fields.
///
/// # Errors
/// Everything that is wrong, as entries of a 422.
pub fn read<T>(
    body: &[u8],
    make: impl FnOnce(&mut Fields<'_>, &Parsed) -> T,
) -> Result<T, Problems> {
    if body.is_empty() {
        let whole = json!(["body"]);
        return Err(vec![problem(
            "missing",
            &whole,
            "Field required",
            &Value::Null,
        )]);
    }
    let parsed = parse(body).map_err(|(place, reason)| {
        let mut entry = problem(
            "json_invalid",
            &json!(["body", place]),
            "JSON decode error",
            &json!({}),
        );
        if let Value::Object(entry) = &mut entry {
            entry.insert("ctx".to_owned(), json!({"error": reason}));
        }
        vec![entry]
    })?;
    let Value::Object(object) = &parsed.value else {
        let text = "Input should be a valid dictionary or object to extract fields from";
        return Err(vec![problem(
            "model_attributes_type",
            &json!(["body"]),
            text,
            &parsed.value,
        )]);
    };
    let mut fields = Fields::new(object, vec![json!("body")]);
    let made = make(&mut fields, &parsed);
    if fields.errors.is_empty() {
        Ok(made)
    } else {
        Err(fields.errors)
    }
}

/// A body that names another job than its path is a mistake that would mix up two jobs.
fn of_job(fields: &mut Fields<'_>, job: JobId) {
    let before = fields.errors.len();
    let said = fields.whole("job_id", i64::MIN);
    if fields.errors.len() == before && u64::try_from(said) != Ok(job.0) {
        let words = format!(
            "the body names job {said} and the path job {job}; send the number of JOB_ID in both"
        );
        fields.refuse("job_id", &words);
    }
}

/// Whether a time has microseconds, so that no two lines of a trainer share it.
fn is_exact(time: &str) -> bool {
    let fraction = time.rsplit_once('.').map_or("", |(_, fraction)| fraction);
    fraction.bytes().take_while(u8::is_ascii_digit).count() >= 6
}

/// The same in each version of this program: it is kept beside the lines.
fn hashed(body: &[u8]) -> u64 {
    let hash = blake3::hash(body);
    let first = hash.as_bytes().first_chunk();
    u64::from_le_bytes(first.copied().unwrap_or_default())
}

/// A text that says something.
fn some_text(fields: &mut Fields<'_>, name: &str) -> Option<String> {
    let text = fields.optional_text(name);
    text.filter(|text| !text.is_empty())
}

/// Epochs beyond four thousand million are no epochs; they stay at the end of the range.
fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
