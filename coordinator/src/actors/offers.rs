//! What nodes offer when they are empty: enough to say that no node could ever hold a job.
//!
//! Nodes writes it before an agent is welcome, each submit reads it, and no submit waits in a mailbox for it. Knows
//! nothing of who holds what.

use std::sync::{Arc, PoisonError, RwLock};

use trainyard_core::{
    ids::NodeName,
    resources::{Capacity, ResourceRequest},
    sched::{Ledger, Unfit, largest_node_misfit},
};

/// A clone shows the same.
#[derive(Clone, Debug, Default)]
pub struct Offers(Arc<RwLock<Ledger>>);

impl Offers {
    pub(super) fn set(&self, name: NodeName, capacity: Capacity, address: String) {
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        nodes.set_node(name.clone(), capacity, true);
        nodes.set_address(name, address);
    }

    /// Why no so many nodes could ever hold the request.
    #[must_use]
    pub fn misfit(&self, request: &ResourceRequest, nodes: u32) -> Option<Unfit> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        largest_node_misfit(&known, request, nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_judged_by_what_nodes_offer_now() {
        let offers = Offers::default();
        let wide = ResourceRequest {
            cpus: 8,
            ..ResourceRequest::default()
        };
        assert!(offers.misfit(&wide, 1).is_none(), "no node yet to judge by");
        let with = |cpus| Capacity {
            cpus,
            ..Capacity::default()
        };
        let name = || NodeName("n1".into());
        offers.set(name(), with(4), String::new());
        assert!(offers.misfit(&wide, 1).is_some());
        offers.set(name(), with(8), String::new());
        assert!(offers.misfit(&wide, 1).is_none());
    }
}
