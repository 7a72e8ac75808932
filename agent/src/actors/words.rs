//! What the agent says about a task's end, in a log and to people. Pure. Called by the run actor.

use trainyard_core::{
    failure::StopCause,
    task::{Failure, Fault, Stop},
};

use super::scribe::Level;
use crate::exec::{ExitRecord, launch::LaunchError};

/// How a trainer ended.
pub(super) fn of_exit(exit: &ExitRecord) -> Vec<(Level, String)> {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "nobody knows how".to_owned(),
    };
    let memory = if exit.oom_killed {
        " (out of memory)"
    } else {
        ""
    };
    let mut words = vec![(Level::Info, format!("trainer ended: {how}{memory}"))];
    if exit.killed_leftovers > 0 {
        let many = exit.killed_leftovers;
        let text = format!("{many} processes that the trainer had left behind were killed");
        words.push((Level::Warning, text));
    }
    if exit.stuck_leftovers > 0 {
        let many = exit.stuck_leftovers;
        let text = format!("{many} processes of the trainer do not end; look at this node");
        words.push((Level::Warning, text));
    }
    if exit.output_lost_bytes > 0 {
        let many = exit.output_lost_bytes;
        let text = format!("{many} bytes of output could not be written and are lost");
        words.push((Level::Warning, text));
    }
    words
}

/// That it stops, and why.
pub(super) fn of_stop(stop: &Stop) -> String {
    let why = match stop.cause {
        StopCause::Cancelled => "cancelled",
        StopCause::TimeLimit => "the time limit is over",
        StopCause::Fenced => "a newer attempt has taken its place",
        StopCause::PeerFailed => "another rank of the gang has failed",
        // For another job, or since its node goes out of service: the agent is not told which.
        StopCause::Preempted => "its place is needed, and it goes on later or elsewhere",
    };
    let seconds = stop.grace.as_secs_f64();
    format!("stopping: {why}; the trainer has {seconds} s to end by itself")
}

/// The node has less than when the task was placed on it. It is sound, and the coordinator knows by now what it has: this is
/// no failed launch of its own.
pub(super) fn too_small(node: &str, why: &str) -> Failure {
    Failure {
        error: format!("node {node} came back with less than the task was given: {why}"),
        fault: Fault::Shared,
    }
}

/// What the task was given is still another task's, which has not ended in all this time: that is this node's trouble.
pub(super) fn held(node: &str, why: &str) -> Failure {
    Failure {
        error: format!(
            "what the task was given on node {node} did not become free in time: {why}; look at what runs there"
        ),
        fault: Fault::Node,
    }
}

/// Why there is no process. What cannot be executed is the job's fault.
pub(super) fn not_launched(error: &LaunchError) -> Failure {
    let fault = match error {
        LaunchError::NotFound { .. }
        | LaunchError::NotExecutable { .. }
        | LaunchError::NoFolder { .. }
        | LaunchError::Refused { .. } => Fault::Job,
        // It passes, and neither the node nor the job need be at fault.
        LaunchError::Busy { .. } => Fault::Shared,
        LaunchError::AlreadyRunning { .. }
        | LaunchError::Folder { .. }
        | LaunchError::Shim { .. }
        | LaunchError::Failed { .. }
        | LaunchError::Silent { .. } => Fault::Node,
    };
    Failure {
        error: error.to_string(),
        fault,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_told_to_go_is_not_told_that_another_job_wants_its_place() {
        let stop = Stop {
            cause: StopCause::Preempted,
            grace: Duration::from_secs(30),
        };
        let words = "stopping: its place is needed, and it goes on later or elsewhere; the trainer has 30 s to end by itself";
        assert_eq!(of_stop(&stop), words);
    }
}
