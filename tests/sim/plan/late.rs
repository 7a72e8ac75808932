//! What plan 10 has more: last words that come late. Records that are still awaited when a user cancels, nodes that are lost
//! while jobs wait for them, and ranks of a gang that are heard again when their loss is known and their peers' is not. And
//! clocks of one machine that are set while trainers have a time limit.
//!
//! Pure. Drawn from numbers of its own. Called by the plan.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};
use trainyard_core::job::JobState;

use super::{CALM, Fault, Plan, STEP, Wish};
use crate::script::Finish;

impl Plan {
    /// Draws them; a calm run stays calm.
    pub(super) fn delay(&mut self, rng: &mut StdRng) {
        // With each step in which anything is stored.
        self.cluster.asks = STEP;
        self.cluster.lost_after = rng.random_range(15..=30);
        for wish in &mut self.wishes {
            wish.terms.waits |= rng.random_bool(0.3);
            if wish.script.finish != Finish::Done {
                continue;
            }
            if wish.nodes > 1 && rng.random_bool(0.7) {
                last_long(rng, wish);
                wish.terms.waits = false;
            } else if rng.random_bool(0.4) {
                last_long(rng, wish);
                if rng.random_bool(0.6) {
                    wish.terms.seconds = rng.random_range(20..=70);
                }
            }
            if rng.random_bool(0.3) && wish.cancel_after.is_none() {
                wish.cancel_in = Some(JobState::Finishing);
            }
        }
        if self.faults.is_empty() {
            return;
        }
        // What was told last is awaited for as long as a node takes to keep it.
        if rng.random_bool(0.6) {
            let slow = Duration::from_millis(rng.random_range(500..=4_000));
            let begin = Duration::from_millis(rng.random_range(1_000..=100_000));
            let end = begin + Duration::from_millis(rng.random_range(30_000..=120_000));
            self.faults.push((begin, Fault::SlowSpools(slow)));
            let good = Fault::SlowSpools(Duration::ZERO);
            self.faults.push((end.min(CALM), good));
        }
        for _ in 0..rng.random_range(1..=4) {
            self.silence(rng);
        }
        for _ in 0..rng.random_range(3..=8) {
            let node = rng.random_range(0..self.cluster.nodes.len());
            let at = Duration::from_millis(rng.random_range(10_000..=200_000));
            let spans = [-7_200, -90, 90, 7_200];
            let seconds = spans.get(rng.random_range(0..spans.len()));
            let seconds = seconds.copied().unwrap_or(90);
            self.faults.push((at, Fault::JumpAlone(node, seconds)));
        }
    }

    /// A node is silent for longer than its lease, and is heard again while another one still is within its own.
    fn silence(&mut self, rng: &mut StdRng) {
        let nodes = self.cluster.nodes.len();
        let lost = rng.random_range(0..nodes);
        let other = (lost + rng.random_range(1..nodes.max(2))) % nodes.max(1);
        let lease = Duration::from_secs(self.cluster.lost_after.into());
        let begin = Duration::from_millis(rng.random_range(15_000..=140_000));
        let back = begin + lease + Duration::from_millis(rng.random_range(4_000..=12_000));
        let later = begin + Duration::from_millis(rng.random_range(5_000..=15_000));
        let later_back = back + Duration::from_millis(rng.random_range(500..=20_000));
        self.faults.push((begin, Fault::Cut(lost)));
        self.faults.push((back.min(CALM), Fault::Mend(lost)));
        if rng.random_bool(0.7) {
            self.faults.push((later, Fault::Cut(other)));
            self.faults.push((later_back.min(CALM), Fault::Mend(other)));
        }
    }
}

/// For a node to be lost meanwhile, or a clock to be set.
fn last_long(rng: &mut StdRng, wish: &mut Wish) {
    wish.script.epochs = rng.random_range(6..=10);
    wish.script.millis = rng.random_range(6_000..=12_000);
}
