//! Nodes that a job goes around since they have failed it, in words. Changes nothing.

use std::collections::BTreeSet;

use super::{Planner, upkeep::Outlook};
use crate::{
    ids::NodeName,
    sched::{QueuedJob, ledger::NodeEntry},
};

/// So many nodes are named.
const SHOWN: usize = 4;

impl Planner {
    /// The open nodes that could hold one of its tasks, and are left out since an attempt of it failed there.
    pub(super) fn left_out(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> BTreeSet<NodeName> {
        if queued.avoid.is_empty() {
            return BTreeSet::new();
        }
        let blamed = self.blamed_for(queued, &self.closes_at(outlook, queued));
        let names = blamed.iter().filter_map(|ix| self.names.get(ix));
        let could = |entry: &NodeEntry| entry.open && queued.wish().could_use(entry);
        let could = |name: &&NodeName| self.ledger.node(name).is_some_and(could);
        names.filter(could).cloned().collect()
    }

    /// Whether it would start at once if its user cancelled it and submitted the same: what failed it would be forgotten.
    pub(super) fn starts_again(
        &self,
        outlook: &Outlook<'_>,
        queued: &QueuedJob,
        left_out: &BTreeSet<NodeName>,
    ) -> bool {
        !left_out.is_empty() && self.starts(outlook, queued)
    }
}

/// That nodes are left out, to be said behind why a job waits.
pub(super) fn words(left_out: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = left_out.iter().map(|name| name.0.as_str()).collect();
    let (nodes, there) = match names.as_slice() {
        [] => return String::new(),
        [_] => ("node", "is"),
        [..] => ("nodes", "are"),
    };
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>();
    let shown = shown.join(", ");
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("; {nodes} {shown}{more} {there} left out, since an attempt of it failed there")
}

/// What can be done about it, and what that costs one that has done something already.
pub(super) fn again(queued: &QueuedJob) -> String {
    let but = match queued.has_run.is_zero() {
        true => "",
        false => ", but from the beginning unless resume_from names its checkpoint",
    };
    format!("; cancelled and submitted again as it is, it would start now{but}")
}
