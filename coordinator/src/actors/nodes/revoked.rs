//! Nodes whose agents operators have revoked.
//!
//! Called by the supervisor of sessions, behind the end of the node's session. The flag goes when an agent registers as the
//! node again.

use ractor::ActorProcessingErr;
use trainyard_core::{
    decision::{Decision, Kind},
    ids::NodeName,
};

use super::State;
use crate::{clock, store::Change};

impl State {
    /// Nobody is promised what may never come back: from now on what only this node could hold is refused.
    pub(super) async fn is_revoked(
        &mut self,
        node: &NodeName,
        by: Option<&str>,
    ) -> Result<(), ActorProcessingErr> {
        let note = by.map(|by| {
            let words = format!("{by}: its agent may not connect any more");
            let note = Decision::of_node(clock::now(), Kind::Revoked, node.clone(), words);
            Change::Note(vec![note])
        });
        let mut changes: Vec<Change> = note.into_iter().collect();
        // Of one that has never connected there is no row.
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.row.revoked = true;
            self.args.offers.set(&entry.row);
            changes.push(Change::PutNode(entry.row.clone()));
        }
        if !changes.is_empty() {
            self.args.store.commit_and_wait(changes).await?;
        }
        Ok(())
    }
}
