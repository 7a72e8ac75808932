//! The one table of exit codes. Owns which code an error or a job's end has; never ends the
//! process. Called by `main` and by the commands that follow a job to its end.

use std::process::ExitCode;

use trainyard_proto::v1;

use crate::{error::CliError, output::OutputError};

/// How a command ended, for the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well; a job that was waited for completed.
    Ok,
    /// Something went wrong.
    Error,
    /// The command line is not understood.
    Usage,
    /// The job failed by its own fault or for lack of memory.
    JobFailed,
    /// The job was cancelled.
    JobCancelled,
    /// The job ran into its time limit.
    JobTimedOut,
    /// The job failed by the platform's or a node's fault.
    Infrastructure,
    /// No coordinator answers.
    Unreachable,
    /// Nobody is logged in, or the token was refused.
    NotLoggedIn,
    /// The configuration is not accepted.
    Configuration,
    /// Ctrl-C; a job that was followed goes on.
    Interrupted,
}

impl Exit {
    /// The whole table: every exit, its code and what it means.
    pub(crate) const ALL: [(Self, u8, &'static str); 11] = [
        (Self::Ok, 0, "all went well; the job completed"),
        (Self::Error, 1, "an error, told on stderr"),
        (Self::Usage, 2, "the command line is not understood"),
        (
            Self::JobFailed,
            3,
            "the job failed (class user or out_of_memory)",
        ),
        (Self::JobCancelled, 4, "the job was cancelled"),
        (Self::JobTimedOut, 5, "the job ran into its time limit"),
        (
            Self::Infrastructure,
            6,
            "the job failed by the platform's or a node's fault",
        ),
        (Self::Unreachable, 69, "no coordinator answers"),
        (
            Self::NotLoggedIn,
            77,
            "not logged in, or the token was refused",
        ),
        (Self::Configuration, 78, "the configuration is not accepted"),
        (
            Self::Interrupted,
            130,
            "stopped by Ctrl-C; a job that was followed goes on",
        ),
    ];

    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        let row = Self::ALL.iter().find(|(exit, ..)| *exit == self);
        row.map_or(1, |(_, code, _)| *code)
    }

    /// The exit of a command that waited for `job`.
    pub(crate) fn of_job(job: &v1::Job) -> Self {
        let class = job
            .outcome
            .as_ref()
            .map_or(v1::FailureClass::Unspecified, v1::Outcome::failure_class);
        match (job.state(), class) {
            (v1::JobState::Completed, _) => Self::Ok,
            (v1::JobState::Cancelled, _) | (_, v1::FailureClass::Cancelled) => Self::JobCancelled,
            (_, v1::FailureClass::Timeout) => Self::JobTimedOut,
            (
                _,
                v1::FailureClass::Infrastructure
                | v1::FailureClass::Lost
                | v1::FailureClass::Preempted,
            ) => Self::Infrastructure,
            (
                v1::JobState::Unspecified
                | v1::JobState::Pending
                | v1::JobState::Queued
                | v1::JobState::Starting
                | v1::JobState::Running
                | v1::JobState::Finishing
                | v1::JobState::Failed,
                v1::FailureClass::Unspecified
                | v1::FailureClass::User
                | v1::FailureClass::OutOfMemory,
            ) => Self::JobFailed,
        }
    }

    /// The exit of a command that ended with `error`; a reader that went away is no error.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(output) = cause.downcast_ref::<OutputError>()
                && output.is_broken_pipe()
            {
                return Self::Ok;
            }
            if let Some(known) = cause.downcast_ref::<CliError>() {
                return known.exit();
            }
        }
        Self::Error
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn ended(state: v1::JobState, class: v1::FailureClass) -> v1::Job {
        v1::Job {
            state: state.into(),
            outcome: Some(v1::Outcome {
                failure_class: class.into(),
                ..v1::Outcome::default()
            }),
            ..v1::Job::default()
        }
    }

    #[test]
    fn every_end_of_a_job_has_its_exit_code() {
        use v1::{FailureClass as Class, JobState as State};
        for (state, class, code) in [
            (State::Completed, Class::Unspecified, 0),
            (State::Failed, Class::User, 3),
            (State::Failed, Class::OutOfMemory, 3),
            (State::Cancelled, Class::Cancelled, 4),
            (State::Failed, Class::Timeout, 5),
            (State::Failed, Class::Infrastructure, 6),
            (State::Failed, Class::Lost, 6),
        ] {
            assert_eq!(Exit::of_job(&ended(state, class)).code(), code, "{class:?}");
        }
    }

    #[test]
    fn no_two_exits_share_a_code() {
        for (index, (_, code, _)) in Exit::ALL.iter().enumerate() {
            let mut later = Exit::ALL.iter().skip(index + 1);
            assert!(later.all(|(_, other, _)| other != code));
        }
    }

    #[test]
    fn a_reader_that_went_away_is_a_quiet_end_but_a_full_disk_is_not() {
        let gone = OutputError(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(Exit::of_error(&gone.into()), Exit::Ok);
        let full = OutputError(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(Exit::of_error(&full.into()), Exit::Error);
    }

    #[test]
    fn an_error_keeps_its_code_under_context() {
        let error = anyhow::Error::from(CliError::NotLoggedIn {
            url: "http://x".into(),
        });
        assert_eq!(Exit::of_error(&error.context("while asking")).code(), 77);
    }
}
