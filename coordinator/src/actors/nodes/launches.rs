//! Nodes where launches fail one after the other: such a node gets no more jobs until an operator has looked at it.
//!
//! Owns the count, in memory: what is lost with a restart of the coordinator is at most a few launches. Never ends
//! anything. Called by the supervisor of sessions and by jobs, once what they tell is stored.

use ractor::ActorProcessingErr;
use trainyard_core::{failure::FailureClass, ids::NodeName, job::Job, service::Drain};

use super::{Entry, NodeOrder, State};

/// How a launch went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// The trainer's process runs.
    Started,
    /// It never ran, and that was this very node's fault.
    Failed(String),
}

impl Launch {
    /// What a step of a job says of the nodes of its attempt.
    #[must_use]
    pub fn between(before: &Job, after: &Job) -> Vec<(NodeName, Self)> {
        let Some(attempt) = after.attempt() else {
            return Vec::new();
        };
        let was = before.attempt().filter(|was| was.number == attempt.number);
        let parts = attempt.parts().filter_map(|(rank, part)| {
            let was = was?.part(rank)?;
            let node = part.allocation.node.clone();
            if was.started_at.is_none() && part.started_at.is_some() {
                return Some((node, Self::Started));
            }
            // What all nodes share, a store that is away, would drain every one of them.
            let end = part.end.as_ref().filter(|end| end.node_fault)?;
            let over = part.is_over() && !was.is_over();
            let outcome = attempt.outcome_of(rank)?;
            let fault =
                outcome.class == Some(FailureClass::Infrastructure) && end.stop_cause.is_none();
            let failed = over && fault && part.started_at.is_none();
            failed.then_some((node, Self::Failed(outcome.message)))
        });
        parts.collect()
    }
}

impl State {
    pub(super) async fn launched(
        &mut self,
        node: &NodeName,
        launch: Launch,
    ) -> Result<(), ActorProcessingErr> {
        let most = self.args.cordon_after;
        let Launch::Failed(why) = launch else {
            self.failed_launches.remove(node);
            return Ok(());
        };
        let failed = self.failed_launches.entry(node.clone()).or_default();
        *failed += 1;
        let failed = *failed;
        let open = |entry: &Entry| entry.row.drained.is_none();
        let is_open = self.nodes.get(node).is_some_and(open);
        if most == 0 || failed < most || !is_open {
            return Ok(());
        }
        let reason = format!("{failed} launches in a row failed, the last one: {why}");
        tracing::warn!(%node, %reason, "the node gets no more jobs until it is resumed");
        let drain = Drain {
            reason,
            deadline: None,
        };
        let order = NodeOrder {
            drain: Some(drain),
            by: String::new(),
        };
        self.set_drain(node, order).await?;
        Ok(())
    }
}
