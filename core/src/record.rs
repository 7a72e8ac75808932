//! What a task tells about itself while it runs: lines, progress, validation, completion.
//!
//! A task numbers its records from 1 without gaps; (attempt, rank, number) says which are new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ids::JobId, time::Timestamp};

/// The longest text of one line, in bytes; a longer one is cut into lines of this size.
pub const LONGEST_LINE: usize = 64 << 10;

/// The last epoch of which there may be validation results.
pub const LAST_VALIDATED_EPOCH: u32 = RESULTS_OF_A_JOB - 1;
const RESULTS_OF_A_JOB: u32 = 1_000_000;

/// The number of a job's validation results of an epoch. There is one row a job and epoch, so whoever knows
/// both knows the number: the agent that took the results and the coordinator that shows them. Up to nine
/// thousand million jobs it is one that JavaScript holds exactly.
#[must_use]
pub fn validation_id(job: JobId, epoch: u32) -> u64 {
    let first = job.0.saturating_mul(RESULTS_OF_A_JOB.into());
    first.saturating_add(epoch.into())
}

/// A text as lines of at most [`LONGEST_LINE`] bytes; nothing of it is lost.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        if text.len() <= LONGEST_LINE {
            return rest.take();
        }
        let (piece, behind) = text.split_at(text.floor_char_boundary(LONGEST_LINE));
        rest = Some(behind);
        Some(piece)
    })
}

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
    /// Whether it says nothing but where checkpoints are: nothing of how far the trainer is.
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
    /// Which checkpoints are in the artifact store: the agent's own word. No callback makes one of these, whatever a
    /// trainer says.
    Stored(Progress),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_nothing_is_lost() {
        let text = "ä".repeat(LONGEST_LINE) + "x";
        let cut: Vec<&str> = pieces(&text).collect();
        assert_eq!(cut.concat(), text);
        assert!(cut.iter().all(|piece| piece.len() <= LONGEST_LINE));
        assert_eq!(cut.len(), 3);
        assert_eq!(pieces("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn no_two_validation_results_share_a_number_and_javascript_reads_each() {
        let last = validation_id(JobId(7), LAST_VALIDATED_EPOCH);
        assert_eq!(validation_id(JobId(7), 2), 7_000_002);
        assert_eq!(last + 1, validation_id(JobId(8), 0));
        assert!(validation_id(JobId(9_000_000_000), LAST_VALIDATED_EPOCH) < 1 << 53);
    }
}
