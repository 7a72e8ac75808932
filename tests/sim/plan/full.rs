//! What plan 7 has more: disks of agents that fill up.
//!
//! Pure. Drawn from numbers of its own. Called by the plan.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

use super::{CALM, Fault, Plan};

impl Plan {
    /// Draws them; a calm run stays calm.
    pub(super) fn crowd(&mut self, rng: &mut StdRng) {
        if self.faults.is_empty() {
            return;
        }
        for _ in 0..rng.random_range(2..=8) {
            let node = rng.random_range(0..self.cluster.nodes.len());
            let begin = Duration::from_millis(rng.random_range(1_000..=180_000));
            // For less than an end of a task waits for room: beyond that lines are lost.
            let short = rng.random_bool(0.5);
            let lasts = rng.random_range(100..=if short { 8_000 } else { 90_000 });
            let end = (begin + Duration::from_millis(lasts)).min(CALM);
            // Mostly while somebody writes: a node whose disk is full gets nothing to write.
            let full = Fault::FillAgent(node, rng.random_range(0..20));
            self.faults.push((begin, full));
            self.faults.push((end, Fault::EmptyAgent(node)));
        }
    }
}
