//! What nodes offer when they are empty: enough to say that no node could ever hold a job.
//!
//! Nodes writes it before an agent is welcome, each submit reads it, and no submit waits in a mailbox for it. Knows
//! nothing of who holds what.

use std::sync::{Arc, PoisonError, RwLock};

use trainyard_core::{
    label,
    sched::{Ledger, QueuedJob, Unfit, Wish, least_gpus},
};

use crate::store::NodeRow;

/// A clone shows the same.
#[derive(Clone, Debug, Default)]
pub struct Offers(Arc<RwLock<Ledger>>);

impl Offers {
    pub(super) fn set(&self, row: &NodeRow) {
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if row.revoked {
            // It may never be back. At a start most such rows are of nodes that are not among these.
            if nodes.node(&row.name).is_none() {
                return;
            }
            *nodes = nodes.only(|name, _| *name != row.name);
            return;
        }
        let name = || row.name.clone();
        nodes.set_node(name(), row.capacity.clone(), true);
        nodes.set_address(name(), row.address.clone());
        nodes.set_labels(name(), label::texts(&row.all_labels()));
    }

    /// Why no nodes could ever hold the job.
    #[must_use]
    pub fn misfit(&self, wish: Wish<'_>) -> Option<Unfit> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        wish.misfit(&known)
    }

    /// GPUs that a job would hold at least: all of its nodes if it wants them alone.
    #[must_use]
    pub fn least_gpus(&self, queued: &QueuedJob) -> u32 {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        least_gpus(&known, queued)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trainyard_core::{
        ids::{JobId, NodeName},
        resources::ResourceRequest,
        spec::Placing,
        time::Timestamp,
    };

    use super::*;

    #[test]
    fn a_request_is_judged_by_what_nodes_offer_now() {
        let offers = Offers::default();
        let (wide, placement) = (
            ResourceRequest {
                cpus: 8,
                ..ResourceRequest::default()
            },
            Placing::default(),
        );
        let misfit = || {
            offers.misfit(Wish {
                request: &wide,
                nodes: 1,
                placement: &placement,
            })
        };
        assert!(misfit().is_none(), "no node yet to judge by");
        let with = |cpus| {
            let row =
                json!({"name": "n1", "capacity": {"cpus": cpus, "memory_bytes": 0, "gpus": []}});
            serde_json::from_value(row).unwrap()
        };
        offers.set(&with(4));
        assert!(misfit().is_some());
        offers.set(&with(8));
        assert!(misfit().is_none());
        let smaller = NodeRow {
            name: NodeName("n2".to_owned()),
            ..with(4)
        };
        offers.set(&smaller);
        let revoked = NodeRow {
            revoked: true,
            ..with(8)
        };
        offers.set(&revoked);
        assert!(misfit().is_some(), "only n2 may come back");
        offers.set(&with(8));
        assert!(misfit().is_none(), "an agent has joined as n1 again");
    }

    #[test]
    fn who_wants_nodes_alone_does_not_count_on_a_small_one_that_is_revoked() {
        let offers = Offers::default();
        let node = |name: &str, gpus: usize, revoked: bool| {
            let gpu = |index| json!({"uuid": format!("{name}-{index}"), "model": "H100", "memory_bytes": 1});
            let gpus: Vec<_> = (0..gpus).map(gpu).collect();
            let capacity = json!({"cpus": 8, "memory_bytes": 0, "gpus": gpus});
            let row = json!({"name": name, "capacity": capacity, "revoked": revoked});
            offers.set(&serde_json::from_value(row).unwrap());
        };
        let mut alone = QueuedJob::plain(JobId(1), ResourceRequest::default(), Timestamp(0));
        (alone.request.gpus, alone.placement.exclusive) = (1, true);
        node("n1", 8, false);
        node("n2", 4, false);
        assert_eq!(offers.least_gpus(&alone), 4);
        node("n2", 4, true);
        assert_eq!(offers.least_gpus(&alone), 8);
    }
}
