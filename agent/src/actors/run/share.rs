//! The task's share of its node: taken once all else is prepared, and waited for where another task still has it.
//!
//! Such another one is mostly a task of an attempt that the coordinator has given up: it is being stopped, and its trainer
//! holds the GPU until it has gone. While it waits the task is being prepared, so that a stop ends the wait. Called by the
//! run actor alone.

use std::time::Duration;

use ractor::ActorProcessingErr;
use tokio::time::Instant;
use trainyard_core::task::{Failure, Input};

use super::{RunMsg, RunRef, State};
use crate::{
    actors::{scribe::Level, words},
    slots::Lack,
};

/// How long a share is waited for that another task has: longer than nearly all trainers take to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is asked for.
const TICK: Duration = Duration::from_millis(200);

impl State {
    /// All else is prepared. Comes again by its own message while the share is another task's.
    pub(super) async fn take_share(&mut self, myself: &RunRef) -> Result<(), ActorProcessingErr> {
        let ready = self.prepared.as_ref().map(|prepared| prepared.port);
        // A stop may have come meanwhile: it ends without a process, and without a share.
        let Some(port) = ready.filter(|_| !self.preparation.is_cancelled()) else {
            return Ok(());
        };
        let node = &self.args.node;
        let Err(lack) = node.slots.take(&self.args.order) else {
            self.detail = match self.args.order.world_size {
                0 | 1 => String::new(),
                _ => "waiting for the other nodes of the gang".to_owned(),
            };
            return self.step(myself, Input::Ready(port)).await;
        };
        let waited = self.share_since.map(|since| since.elapsed());
        match refusal(&node.name, lack, waited.unwrap_or_default()) {
            Err(failure) => {
                let why = &failure.error;
                tracing::warn!(task = %self.args.order.task, why, "a task is not started");
                self.step(myself, Input::Failed(failure)).await
            }
            Ok(words) => {
                if self.share_since.is_none() {
                    self.share_since = Some(Instant::now());
                    tracing::warn!(task = %self.args.order.task, words, "a task waits for what another one still has");
                    self.note(Level::Warning, format!("not started yet: {words}"));
                }
                self.detail = format!("waits for its place: {words}");
                self.report();
                myself.send_after(TICK, || RunMsg::TakeShare);
                Ok(())
            }
        }
    }
}

/// What is waited for, or why that is of no use.
fn refusal(node: &str, lack: Lack, waited: Duration) -> Result<String, Failure> {
    match lack {
        Lack::Held(words) if waited < PATIENCE => Ok(words),
        Lack::Held(words) => Err(words::held(node, &words)),
        Lack::Less(words) => Err(words::too_small(node, &words)),
    }
}

#[cfg(test)]
mod tests {
    use trainyard_core::task::Fault;

    use super::*;

    #[test]
    fn what_another_task_has_is_waited_for_up_to_a_bound_and_what_the_node_does_not_have_is_not() {
        let held = |waited| refusal("n1", Lack::Held("it has it".to_owned()), waited);
        assert_eq!(held(Duration::ZERO), Ok("it has it".to_owned()));
        let late = held(PATIENCE).unwrap_err();
        assert_eq!(late.fault, Fault::Node);
        assert!(late.error.contains("it has it"), "{}", late.error);
        let less = refusal("n1", Lack::Less("no GPU".to_owned()), Duration::ZERO);
        assert_eq!(less.unwrap_err().fault, Fault::Shared);
    }
}
