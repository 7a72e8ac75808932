//! Records of a task: lines, progress, validation, completion.

use trainyard_core::{
    record::{Completion, LogLine, LogStream, Progress, Record},
    time::Timestamp,
};

use super::{WireError, given, time, timestamp};
use crate::v1::{self, record::Body};

impl From<LogStream> for v1::LogStream {
    fn from(core: LogStream) -> Self {
        match core {
            LogStream::Stdout => Self::Stdout,
            LogStream::Stderr => Self::Stderr,
            LogStream::System => Self::System,
            LogStream::Callback => Self::Callback,
        }
    }
}

impl From<v1::LogStream> for LogStream {
    /// One that only a newer agent knows is the agent's own: the line is kept.
    fn from(wire: v1::LogStream) -> Self {
        match wire {
            v1::LogStream::Unspecified | v1::LogStream::System => Self::System,
            v1::LogStream::Stdout => Self::Stdout,
            v1::LogStream::Stderr => Self::Stderr,
            v1::LogStream::Callback => Self::Callback,
        }
    }
}

impl From<Record> for v1::Record {
    fn from(core: Record) -> Self {
        let (at, body) = match core {
            Record::Log(line) => (Some(line.at), Body::Log(line.into())),
            Record::Progress(report) => (Some(report.at), Body::Progress(report.into())),
            Record::Stored(report) => {
                let at = report.at;
                let stored = v1::ProgressRecord {
                    stored: true,
                    ..report.into()
                };
                (Some(at), Body::Progress(stored))
            }
            Record::Completion(word) => (None, Body::Completion(word.into())),
            Record::Validation { epoch, body } => {
                let body_json = body;
                (
                    None,
                    Body::Validation(v1::ValidationRecord { epoch, body_json }),
                )
            }
        };
        Self {
            recorded_at: at.map(timestamp),
            body: Some(body),
        }
    }
}

impl TryFrom<v1::Record> for Record {
    type Error = WireError;

    fn try_from(wire: v1::Record) -> Result<Self, WireError> {
        let at = wire.recorded_at.as_ref().map(time);
        let needed = || at.ok_or(WireError::Missing("record.recorded_at"));
        Ok(match wire.body.ok_or(WireError::Missing("record.body"))? {
            Body::Log(line) => Self::Log(line_of(line, needed()?)),
            Body::Progress(report) if report.stored => Self::Stored(progress_of(report, needed()?)),
            Body::Progress(report) => Self::Progress(progress_of(report, needed()?)),
            Body::Completion(word) => Self::Completion(word.into()),
            Body::Validation(validation) => Self::Validation {
                epoch: validation.epoch,
                body: validation.body_json,
            },
        })
    }
}

impl From<LogLine> for v1::LogRecord {
    fn from(core: LogLine) -> Self {
        Self {
            stream: v1::LogStream::from(core.stream).into(),
            level: core.level,
            text: core.text,
        }
    }
}

fn line_of(wire: v1::LogRecord, at: Timestamp) -> LogLine {
    LogLine {
        at,
        stream: wire.stream().into(),
        level: wire.level,
        text: wire.text,
    }
}

impl From<Progress> for v1::ProgressRecord {
    fn from(core: Progress) -> Self {
        Self {
            epoch: core.epoch,
            total_epochs: core.total_epochs,
            step: core.step,
            values: core.values,
            checkpoint: core.checkpoint.map(Into::into),
            best_checkpoint: core.best_checkpoint.map(Into::into),
            has_metrics: core.has_metrics,
            stored: false,
        }
    }
}

fn progress_of(wire: v1::ProgressRecord, at: Timestamp) -> Progress {
    Progress {
        at,
        epoch: wire.epoch,
        total_epochs: wire.total_epochs,
        step: wire.step,
        values: wire.values,
        has_metrics: wire.has_metrics,
        checkpoint: wire.checkpoint.map(Into::into),
        best_checkpoint: wire.best_checkpoint.map(Into::into),
    }
}

impl From<Completion> for v1::CompletionRecord {
    fn from(core: Completion) -> Self {
        Self {
            succeeded: core.succeeded,
            exit_code: core.exit_code,
            error_message: core.error_message,
            traceback: core.traceback,
            final_metrics: core.final_metrics,
            best_metrics: core.best_metrics,
            best_epoch: core.best_epoch,
            model_artifacts_path: core.model_artifacts.unwrap_or_default(),
            mlflow_run_id: core.mlflow_run_id.unwrap_or_default(),
            best_checkpoint: core.best_checkpoint.map(Into::into),
            last_checkpoint: core.last_checkpoint.map(Into::into),
            epochs_completed: core.epochs_completed,
        }
    }
}

impl From<v1::CompletionRecord> for Completion {
    fn from(wire: v1::CompletionRecord) -> Self {
        Self {
            succeeded: wire.succeeded,
            exit_code: wire.exit_code,
            error_message: wire.error_message,
            traceback: wire.traceback,
            final_metrics: wire.final_metrics,
            best_metrics: wire.best_metrics,
            best_epoch: wire.best_epoch,
            model_artifacts: given(wire.model_artifacts_path),
            mlflow_run_id: given(wire.mlflow_run_id),
            best_checkpoint: wire.best_checkpoint.map(Into::into),
            last_checkpoint: wire.last_checkpoint.map(Into::into),
            epochs_completed: wire.epochs_completed,
        }
    }
}
