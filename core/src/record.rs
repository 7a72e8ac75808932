//! What a task tells about itself while it runs: lines, progress, validation, completion.
//!
//! A task numbers its records from 1 without gaps; (attempt, rank, number) says which are new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Where a line of a job's log comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogStream {
    /// The trainer's standard output.
    Stdout,
    /// The trainer's standard error.
    Stderr,
    /// The agent's own words: environment, launch, stop.
    System,
    /// Sent by the trainer with a callback.
    Callback,
}

/// A checkpoint on storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Path or URL.
    pub path: String,
    /// Size in bytes, when the agent could see the file.
    pub size_bytes: Option<u64>,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// Where it comes from.
    pub stream: LogStream,
    /// INFO, WARNING and so on; empty for plain output.
    pub level: String,
    /// The line without its end.
    pub text: String,
}

/// One report of progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// When it was reported.
    pub at: Timestamp,
    /// The epoch that ended; 0 says only that the trainer has started.
    pub epoch: u32,
    /// Of how many.
    pub total_epochs: u32,
    /// Within the epoch, for trainers that report more often.
    pub step: Option<u64>,
    /// Metrics by name; NaN is kept.
    pub values: BTreeMap<String, f64>,
    /// False when the report holds no metrics at all.
    pub has_metrics: bool,
    /// The newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The best one so far.
    pub best_checkpoint: Option<Checkpoint>,
}

impl Progress {
    /// Whether it says nothing but where checkpoints are: the agent's word that they are stored.
    #[must_use]
    pub fn only_checkpoints(&self) -> bool {
        let some = self.checkpoint.is_some() || self.best_checkpoint.is_some();
        some && self.epoch == 0 && !self.has_metrics
    }
}

/// The trainer's own word about its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// What it says of itself, `exit_code` already taken into account.
    pub succeeded: bool,
    /// The exit code that it announced.
    pub exit_code: Option<i32>,
    /// `[<ErrorType>] <text>`, empty on success.
    pub error_message: String,
    /// Python's traceback, empty on success.
    pub traceback: String,
    /// Metrics by name.
    pub final_metrics: BTreeMap<String, f64>,
    /// Metrics of the best epoch, by name.
    #[serde(default)]
    pub best_metrics: BTreeMap<String, f64>,
    /// Which epoch that was.
    #[serde(default)]
    pub best_epoch: Option<u32>,
    /// Where its model lies: path or URL.
    #[serde(default)]
    pub model_artifacts: Option<String>,
    /// A run at MLflow that the trainer made itself.
    #[serde(default)]
    pub mlflow_run_id: Option<String>,
    /// The best checkpoint.
    pub best_checkpoint: Option<Checkpoint>,
    /// The last checkpoint.
    pub last_checkpoint: Option<Checkpoint>,
    /// Epochs that were completed.
    pub epochs_completed: u32,
}

/// The body of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A line of output.
    Log(LogLine),
    /// A report of progress.
    Progress(Progress),
    /// The trainer's last word.
    Completion(Completion),
    /// Validation results of an epoch: the callback's body as it came.
    Validation {
        /// The epoch.
        epoch: u32,
        /// JSON.
        body: String,
    },
}
