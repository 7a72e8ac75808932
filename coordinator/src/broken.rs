//! Broken invariants, counted: each is a bug of ours that somebody should hear of.
//!
//! Owns the counts since the start, which `/metrics` shows. Decides nothing: core says what is broken. Called by the
//! actors; the service reads.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use trainyard_core::invariants::Invariant;

/// The counts. A clone is cheap and counts into the same.
#[derive(Clone, Debug, Default)]
pub struct Broken(Arc<[AtomicU64; Invariant::ALL.len()]>);

impl Broken {
    /// Counts one, and says so in the log.
    pub(crate) fn note(&self, invariant: Invariant, where_seen: &dyn Display) {
        tracing::error!(invariant = invariant.name(), %where_seen, "an invariant is broken; report this");
        let mut counts = Invariant::ALL.into_iter().zip(self.0.iter());
        if let Some((_, count)) = counts.find(|(of, _)| *of == invariant) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each with how often it was broken since the start.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = Invariant::ALL.into_iter().zip(self.0.iter());
        let counts = counts.map(|(of, count)| (of.name(), count.load(Ordering::Relaxed)));
        counts.collect()
    }
}
