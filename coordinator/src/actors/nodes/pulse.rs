//! When a node was heard of last.
//!
//! Whoever reads its stream writes it, the supervisor of sessions reads it when it looks at the leases: a sign of life
//! is no message to anybody, unless the node was doubted. Decides nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use trainyard_core::time::Timestamp;

/// Of one session.
#[derive(Debug)]
pub struct Pulse {
    at: AtomicI64,
    doubted: AtomicBool,
}

impl Pulse {
    pub(super) fn begun(now: Timestamp) -> Self {
        Self {
            at: AtomicI64::new(now.0),
            doubted: AtomicBool::new(false),
        }
    }

    /// A sign of life. True when the node is doubted: then its supervisor must hear of it.
    pub(in crate::actors) fn beat(&self, now: Timestamp) -> bool {
        self.at.store(now.0, Ordering::SeqCst);
        self.doubted.load(Ordering::SeqCst)
    }

    pub(super) fn at(&self) -> Timestamp {
        Timestamp(self.at.load(Ordering::SeqCst))
    }

    /// From now on the next sign of life is told.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
    }

    pub(super) fn believe(&self) {
        self.doubted.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_a_doubted_node_is_a_sign_of_life_told() {
        let pulse = Pulse::begun(Timestamp(1));
        assert!(!pulse.beat(Timestamp(2)));
        pulse.doubt();
        assert!(pulse.beat(Timestamp(3)) && pulse.beat(Timestamp(4)));
        pulse.believe();
        assert!(!pulse.beat(Timestamp(5)));
        assert_eq!(pulse.at(), Timestamp(5));
    }
}
