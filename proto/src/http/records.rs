//! Bodies of callbacks as records of the core. Never looks at a file: whoever sees the disk adds the
//! sizes of checkpoints. Called by both callback endpoints.

use trainyard_core::{
    record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record, pieces},
    time::Timestamp,
};

use super::bodies::{CompletionBody, LogBody, ProgressBody, ValidationBody};

/// Lines that one report is split into; the rest stays in the last, so that a body full of line ends
/// does not become millions of records. Longer ones than the output of a trainer has are cut as that is.
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
    let lines = text.splitn(MOST_LINES, '\n');
    let lines = lines.flat_map(|line| pieces(line.trim_end_matches('\r')));
    lines.map(move |line| {
        Record::Log(LogLine {
            at,
            stream: LogStream::Callback,
            level: level.to_owned(),
            text: line.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use trainyard_core::record::LONGEST_LINE;

    use super::*;

    #[test]
    fn a_line_of_a_callback_is_no_longer_than_one_of_the_output_and_nothing_is_lost() {
        let long = "x".repeat(2 * LONGEST_LINE + 1);
        let text = format!("{long}\r\nshort\n");
        let texts: Vec<String> = lines(Timestamp(1), "INFO", &text)
            .map(|record| {
                let Record::Log(line) = record else {
                    panic!("{record:?}");
                };
                line.text
            })
            .collect();
        assert_eq!(texts.len(), 4);
        assert!(texts.iter().all(|text| text.len() <= LONGEST_LINE));
        assert_eq!((texts[..3].concat(), texts[3].as_str()), (long, "short"));
    }
}
