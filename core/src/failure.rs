//! The verdict on an ended task: completed, or failed and by whose fault.
//!
//! Decided once, here, from typed facts; the only texts looked at are the trainer's own last lines,
//! to tell a lack of memory that the trainer survived long enough to report.

use serde::{Deserialize, Serialize};

use crate::record::Completion;

/// Whose fault an unsuccessful end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The job's own: another try would end the same way.
    User,
    /// Too little memory of the machine or of the GPU.
    OutOfMemory,
    /// The platform's or the node's.
    Infrastructure,
    /// Its node was silent beyond its lease, or came back without a trace of it.
    Lost,
    /// Somebody stopped it.
    Cancelled,
    /// It ran longer than its limit.
    Timeout,
    /// It made room: for another job, or since its node was taken out of service.
    Preempted,
}

impl FailureClass {
    /// The name on the wire and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::OutOfMemory => "out_of_memory",
            Self::Infrastructure => "infrastructure",
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Preempted => "preempted",
        }
    }
}

/// Why the agent stopped a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    /// A user cancelled the job.
    Cancelled,
    /// The job's time limit.
    TimeLimit,
    /// A newer attempt exists, or the job has ended.
    Fenced,
    /// Another rank of its gang has failed.
    PeerFailed,
    /// Another job needs its place, or its node is taken out of service.
    Preempted,
}

/// How a task ended, as its agent saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Exit code of the trainer, when it exited.
    pub exit_code: Option<i32>,
    /// Signal, when it was killed by one.
    pub signal: Option<i32>,
    /// The kernel killed it for memory.
    pub oom_killed: bool,
    /// Set when the agent stopped it.
    pub stop_cause: Option<StopCause>,
    /// Why there is neither exit code nor signal.
    pub error: Option<String>,
    /// That error is the platform's or the node's and not the job's.
    pub infrastructure: bool,
    /// It is this very node's: its disk, its programs. Nothing that other nodes share with it.
    #[serde(default)]
    pub node_fault: bool,
    /// Nobody knows how it ended: its node is gone, or has no trace of it.
    #[serde(default)]
    pub lost: bool,
    /// The last lines of output, oldest first.
    pub last_lines: Vec<String>,
    /// Number of the task's last record; 0 when it has none.
    pub last_seq: u64,
}

impl TaskEnd {
    /// Whether it ended by what a stop does to a trainer, SIGTERM and then SIGKILL, or says so by its exit code as shells do.
    #[must_use]
    pub fn is_like_a_stop(&self) -> bool {
        const STOPS: [i32; 2] = [9, 15];
        let by_signal = self.signal.is_some_and(|signal| STOPS.contains(&signal));
        let by_code = self
            .exit_code
            .is_some_and(|code| STOPS.map(|stop| 128 + stop).contains(&code));
        !self.oom_killed && (by_signal || by_code)
    }
}

/// Why a job ended, for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit code, when there was a process that exited.
    pub exit_code: Option<i32>,
    /// Signal, when there was a process killed by one.
    pub signal: Option<i32>,
    /// `None` when the job completed.
    pub class: Option<FailureClass>,
    /// One sentence for people; empty when the job completed.
    pub message: String,
    /// The last lines of output, oldest first.
    pub last_lines: Vec<String>,
}

/// Where a runtime's last words stand, of the last lines that are not empty.
const LAST_WORDS: usize = 12;

/// Lines by which runtimes say that memory ran out.
const MEMORY_WORDS: [&str; 6] = [
    "CUDA out of memory",
    "OutOfMemoryError",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MemoryError",
    "std::bad_alloc",
    "Cannot allocate memory",
];

/// Judges an ended task by exit status, the trainer's own word and the reason for a stop.
#[must_use]
pub fn judge(end: &TaskEnd, completion: Option<&Completion>) -> Outcome {
    let (class, message) = match verdict(end, completion) {
        Some((class, message)) => (Some(class), message),
        None => (None, String::new()),
    };
    // A code of 0 beside a failure would say that all was well. Who was told to go may end well.
    let asked = [FailureClass::Cancelled, FailureClass::Preempted];
    let failed = class.is_some_and(|class| !asked.contains(&class));
    let exit_code = end.exit_code.filter(|code| !failed || *code != 0);
    Outcome {
        exit_code,
        signal: end.signal,
        class,
        message,
        last_lines: end.last_lines.clone(),
    }
}

fn verdict(end: &TaskEnd, completion: Option<&Completion>) -> Option<(FailureClass, String)> {
    let succeeded = completion.is_some_and(|word| word.succeeded) && end.exit_code == Some(0);
    if matches!(end.stop_cause, None | Some(StopCause::Preempted)) && succeeded {
        // It was through, also when it was told to go, or when its machine went down.
        return None;
    }
    if let Some(cause) = end.stop_cause {
        return Some(match cause {
            StopCause::Cancelled => (FailureClass::Cancelled, "cancelled by a user".to_owned()),
            StopCause::TimeLimit => (
                FailureClass::Timeout,
                "stopped: it ran longer than its time limit".to_owned(),
            ),
            StopCause::Fenced => (
                FailureClass::Infrastructure,
                "stopped: a newer attempt had taken its place".to_owned(),
            ),
            StopCause::PeerFailed => (
                FailureClass::Infrastructure,
                "stopped: another rank of its gang had failed".to_owned(),
            ),
            StopCause::Preempted => (
                FailureClass::Preempted,
                "stopped: it made room for another job".to_owned(),
            ),
        });
    }
    if let Some(error) = &end.error {
        let class = if end.lost {
            FailureClass::Lost
        } else if end.infrastructure {
            FailureClass::Infrastructure
        } else {
            FailureClass::User
        };
        return Some((class, error.clone()));
    }
    let failed = completion.filter(|word| !word.succeeded);
    if end.exit_code == Some(0) && failed.is_none() {
        return None;
    }
    let class = if ran_out_of_memory(end, failed) {
        FailureClass::OutOfMemory
    } else {
        FailureClass::User
    };
    Some((class, words(end, failed)))
}

fn ran_out_of_memory(end: &TaskEnd, failed: Option<&Completion>) -> bool {
    let says = |text: &str| MEMORY_WORDS.iter().any(|word| text.contains(word));
    end.oom_killed
        || failed.is_some_and(|word| says(&word.error_message))
        || (died_of_itself(end) && last_words(end).any(says))
}

/// By an error that nobody caught: what it wrote before an end of another kind it lived through.
fn died_of_itself(end: &TaskEnd) -> bool {
    const ABORT: i32 = 6;
    let failed = end.exit_code.is_some_and(|code| code != 0);
    // C++ aborts when an allocation fails.
    (failed || end.signal == Some(ABORT)) && !end.is_like_a_stop()
}

fn last_words(end: &TaskEnd) -> impl Iterator<Item = &str> {
    let lines = end.last_lines.iter().map(String::as_str);
    let said = lines.rev().filter(|line| !line.trim().is_empty());
    said.take(LAST_WORDS)
}

fn words(end: &TaskEnd, failed: Option<&Completion>) -> String {
    let status = match (end.exit_code, end.signal) {
        (_, Some(signal)) => format!("killed by signal {signal}{}", signal_name(signal)),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "ended without an exit status".to_owned(),
    };
    match failed {
        Some(word) if end.exit_code == Some(0) && word.error_message.is_empty() => {
            "the trainer reported a failure".to_owned()
        }
        Some(word) if end.exit_code == Some(0) => word.error_message.clone(),
        Some(word) if !word.error_message.is_empty() => {
            format!("{} ({status})", word.error_message)
        }
        Some(_) => format!("the trainer reported a failure ({status})"),
        None => status,
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> TaskEnd {
        TaskEnd {
            exit_code: Some(code),
            ..TaskEnd::default()
        }
    }

    #[test]
    fn a_trainer_that_never_calls_back_is_judged_by_its_exit_code() {
        assert_eq!(judge(&exited(0), None).class, None);
        let failed = judge(&exited(3), None);
        assert_eq!(failed.class, Some(FailureClass::User));
        assert_eq!(failed.message, "exit code 3");
    }

    #[test]
    fn a_reported_failure_outweighs_exit_code_zero() {
        let word = Completion {
            error_message: "[DatasetError] no images".into(),
            ..Completion::default()
        };
        let outcome = judge(&exited(0), Some(&word));
        assert_eq!(outcome.class, Some(FailureClass::User));
        assert_eq!(outcome.message, "[DatasetError] no images");
        assert_eq!(outcome.exit_code, None, "0 would say that all was well");
    }

    #[test]
    fn a_reported_success_does_not_hide_a_crash_afterwards() {
        let word = Completion {
            succeeded: true,
            ..Completion::default()
        };
        let end = TaskEnd {
            signal: Some(11),
            ..TaskEnd::default()
        };
        let outcome = judge(&end, Some(&word));
        assert_eq!(outcome.class, Some(FailureClass::User));
        assert_eq!(outcome.message, "killed by signal 11 (SIGSEGV)");
    }

    #[test]
    fn a_lack_of_memory_is_told_from_kernel_and_trainer() {
        let killed = TaskEnd {
            signal: Some(9),
            oom_killed: true,
            ..TaskEnd::default()
        };
        assert_eq!(judge(&killed, None).class, Some(FailureClass::OutOfMemory));
        let mut said = exited(1);
        said.last_lines = vec!["torch.OutOfMemoryError: CUDA out of memory.".into()];
        assert_eq!(judge(&said, None).class, Some(FailureClass::OutOfMemory));
    }

    #[test]
    fn words_about_memory_count_only_as_the_last_ones_of_a_trainer_that_died_of_itself() {
        let memory = || "MemoryError: cannot allocate".to_owned();
        let class = |end: TaskEnd, lines: Vec<String>| {
            let end = TaskEnd {
                last_lines: lines,
                ..end
            };
            judge(&end, None).class
        };
        let signal = |signal| TaskEnd {
            signal: Some(signal),
            ..TaskEnd::default()
        };
        let no_memory = Some(FailureClass::OutOfMemory);
        let other = Some(FailureClass::User);
        let with_blanks = vec![
            memory(),
            String::new(),
            " ".into(),
            String::new(),
            "a".into(),
        ];
        let long_ago: Vec<String> = [memory()]
            .into_iter()
            .chain((0..LAST_WORDS).map(|number| format!("epoch {number}")))
            .collect();
        assert_eq!(class(exited(1), vec![memory()]), no_memory);
        assert_eq!(
            class(exited(1), [with_blanks, vec!["b".into()]].concat()),
            no_memory
        );
        assert_eq!(
            class(signal(6), vec!["what():  std::bad_alloc".into()]),
            no_memory
        );
        assert_eq!(class(exited(1), long_ago), other);
        for killed in [signal(9), signal(15), signal(11), exited(137)] {
            assert_eq!(class(killed, vec![memory()]), other);
        }
    }

    #[test]
    fn a_stop_says_why_whatever_the_exit_code() {
        for (cause, class) in [
            (StopCause::Cancelled, FailureClass::Cancelled),
            (StopCause::TimeLimit, FailureClass::Timeout),
            (StopCause::Preempted, FailureClass::Preempted),
        ] {
            let end = TaskEnd {
                stop_cause: Some(cause),
                ..exited(0)
            };
            assert_eq!(judge(&end, None).class, Some(class));
        }
    }

    #[test]
    fn a_trainer_that_was_through_when_it_was_to_make_room_has_completed() {
        let word = Completion {
            succeeded: true,
            ..Completion::default()
        };
        let mut end = TaskEnd {
            stop_cause: Some(StopCause::Preempted),
            ..exited(0)
        };
        assert_eq!(judge(&end, Some(&word)).class, None);
        end.exit_code = None;
        end.signal = Some(15);
        let class = judge(&end, Some(&word)).class;
        assert_eq!(class, Some(FailureClass::Preempted));
    }

    #[test]
    fn what_a_reboot_ended_is_not_the_users_fault_whatever_its_trainer_made_of_it() {
        let ended = |exit_code, signal, stop_cause| TaskEnd {
            exit_code,
            signal,
            stop_cause,
            error: Some("its machine ended it".into()),
            infrastructure: true,
            ..TaskEnd::default()
        };
        for (code, signal) in [(None, Some(15)), (Some(143), None), (Some(0), None)] {
            let outcome = judge(&ended(code, signal, None), None);
            assert_eq!(outcome.class, Some(FailureClass::Infrastructure));
            assert_ne!(outcome.exit_code, Some(0));
            let cancelled = ended(code, signal, Some(StopCause::Cancelled));
            let class = judge(&cancelled, None).class;
            assert_eq!(class, Some(FailureClass::Cancelled));
        }
        let word = Completion {
            succeeded: true,
            ..Completion::default()
        };
        assert_eq!(judge(&ended(Some(0), None, None), Some(&word)).class, None);
    }

    #[test]
    fn a_node_that_cannot_build_is_not_the_users_fault() {
        let mut end = TaskEnd {
            error: Some("no space left".into()),
            infrastructure: true,
            ..TaskEnd::default()
        };
        assert_eq!(judge(&end, None).class, Some(FailureClass::Infrastructure));
        end.infrastructure = false;
        assert_eq!(judge(&end, None).class, Some(FailureClass::User));
    }
}
