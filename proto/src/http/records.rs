//! Bodies of callbacks as records of the core. Never looks at a file: whoever sees the disk adds the
//! sizes of checkpoints. Called by both callback endpoints.

use trainyard_core::{
    record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record},
    time::Timestamp,
};

use super::bodies::{CompletionBody, LogBody, ProgressBody, ValidationBody};

/// Lines that one report is split into; the rest stays in the last, so that a body full of line ends
/// does not become millions of records.
const MOST_LINES: usize = 10_000;

impl ProgressBody {
    /// The report itself, then its texts as lines.
    #[must_use]
    pub fn records(self, at: Timestamp) -> Vec<Record> {
        let report = Record::Progress(Progress {
            at,
            epoch: self.epoch,
            total_epochs: self.total_epochs,
            step: self.step,
            has_metrics: self.metrics.is_some(),
            values: self.metrics.unwrap_or_default(),
            checkpoint: checkpoint(self.checkpoint),
            best_checkpoint: checkpoint(self.best_checkpoint),
        });
        let notes = self.notes.iter();
        let notes = notes.flat_map(|(level, text)| lines(at, level, text));
        std::iter::once(report).chain(notes).collect()
    }
}

impl CompletionBody {
    /// The contract's word for how the trainer says that it ended.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self.succeeded {
            true => "completed",
            false => "failed",
        }
    }

    /// The trainer's last word.
    #[must_use]
    pub fn record(self) -> Record {
        Record::Completion(Completion {
            succeeded: self.succeeded,
            exit_code: self.exit_code,
            error_message: self.error_message,
            traceback: self.traceback,
            final_metrics: self.final_metrics,
            best_metrics: self.best_metrics,
            best_epoch: self.best_epoch,
            model_artifacts: self.model_artifacts,
            mlflow_run_id: self.mlflow_run_id,
            best_checkpoint: checkpoint(self.best_checkpoint),
            last_checkpoint: checkpoint(self.last_checkpoint),
            epochs_completed: self.epochs_completed,
        })
    }
}

impl LogBody {
    /// One record a line.
    #[must_use]
    pub fn records(&self, at: Timestamp) -> Vec<Record> {
        lines(at, &self.level, &self.message).collect()
    }
}

impl ValidationBody {
    /// The results as they came.
    #[must_use]
    pub fn record(self) -> Record {
        Record::Validation {
            epoch: self.epoch,
            body: self.text,
        }
    }
}

fn checkpoint(path: Option<String>) -> Option<Checkpoint> {
    let path = path.filter(|path| !path.is_empty())?;
    Some(Checkpoint {
        path,
        size_bytes: None,
    })
}

fn lines(at: Timestamp, level: &str, text: &str) -> impl Iterator<Item = Record> {
    let text = text.trim_end_matches(['\n', '\r']);
    text.splitn(MOST_LINES, '\n').map(move |line| {
        Record::Log(LogLine {
            at,
            stream: LogStream::Callback,
            level: level.to_owned(),
            text: line.trim_end_matches('\r').to_owned(),
        })
    })
}
