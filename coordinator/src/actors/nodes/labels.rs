//! Labels that operators set on nodes: they go before those of the node's own agent, and outlive it.
//!
//! Called by the supervisor of sessions. Checks nothing: the service does.

use std::collections::{BTreeMap, BTreeSet};

use ractor::ActorProcessingErr;
use trainyard_core::{
    decision::{Decision, Kind},
    ids::NodeName,
    label,
};

use super::{NodeInfo, State};
use crate::{
    actors::scheduler::SchedulerMsg,
    clock,
    store::{Change, NodeRow},
};

/// What an operator changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChange {
    /// Set, whatever they were.
    pub set: BTreeMap<String, String>,
    /// Keys that operators have set and do not any more.
    pub remove: BTreeSet<String>,
    /// Who does, by e-mail address.
    pub by: String,
}

impl State {
    pub(super) async fn set_labels(
        &mut self,
        node: &NodeName,
        change: LabelChange,
    ) -> Result<Option<NodeInfo>, ActorProcessingErr> {
        let Some(entry) = self.nodes.get_mut(node) else {
            return Ok(None);
        };
        let labels = &mut entry.row.set_labels;
        let before = labels.clone();
        labels.retain(|key, _| !change.remove.contains(key));
        labels.extend(change.set);
        let row = entry.row.clone();
        let words = label::changes(&before, &row.set_labels);
        let note = words.map(|words| {
            let words = format!("{}: {words}", change.by);
            let note = Decision::of_node(clock::now(), Kind::Labelled, node.clone(), words);
            Change::Note(vec![note])
        });
        let changes = [Change::PutNode(row.clone())].into_iter().chain(note);
        self.args.store.commit_and_wait(changes.collect()).await?;
        self.args.offers.set(&row);
        self.args.scheduler.cast(told(&row))?;
        // By them a maintenance window is on the node, or is not any more.
        self.look_at_duties()?;
        Ok(self.nodes.get(node).map(|entry| self.info(entry)))
    }
}

/// What the scheduler is told of a node's labels.
pub(super) fn told(row: &NodeRow) -> SchedulerMsg {
    SchedulerMsg::Labels(row.name.clone(), label::texts(&row.all_labels()))
}
