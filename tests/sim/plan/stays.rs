//! What plan 9 has more: trainers that end only when they are stopped, time limits, memory that runs out, what users say
//! of retries, clocks that are set on one machine alone, and ends amid a write that are awaited until they come.
//!
//! Pure. Drawn from numbers of its own. Called by the plan.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

use super::{CALM, Fault, Plan, Wish};
use crate::script::Finish;

impl Plan {
    /// Draws them; a calm run stays calm.
    pub(super) fn stay(&mut self, rng: &mut StdRng) {
        self.cluster.patient = true;
        for wish in &mut self.wishes {
            match rng.random_range(0..20) {
                0..3 => endless(rng, wish),
                3..5 => without_memory(wish),
                5..7 => wish.terms.seconds = rng.random_range(2..=60),
                _ => {}
            }
            if rng.random_bool(0.2) {
                wish.terms.limit = Some(rng.random_range(0..=5));
            }
            wish.terms.waits = rng.random_bool(0.2);
        }
        if self.faults.is_empty() {
            return;
        }
        self.faults.push((CALM, Fault::Spare));
        for _ in 0..rng.random_range(0..=2) {
            let node = rng.random_range(0..self.cluster.nodes.len());
            let at = Duration::from_millis(rng.random_range(1_000..=180_000));
            let spans = [-7_200, -90, -15, -1, 1, 15, 90, 7_200];
            let seconds = spans.get(rng.random_range(0..spans.len()));
            let seconds = seconds.copied().unwrap_or(1);
            self.faults.push((at, Fault::JumpAlone(node, seconds)));
        }
    }
}

/// It has said all soon, and goes on until it is cancelled or its time is over.
fn endless(rng: &mut StdRng, wish: &mut Wish) {
    wish.script.finish = Finish::Never;
    wish.script.code = 0;
    wish.script.epochs = wish.script.epochs.min(3);
    wish.script.millis = wish.script.millis.min(3_000);
    // A cancel in a state that it may never come to is none.
    wish.cancel_in = None;
    let whole = wish.order.array.0 > 0;
    if whole || rng.random_bool(0.4) {
        wish.terms.seconds = rng.random_range(5..=40);
    } else {
        let after = rng.random_range(3_000..=60_000);
        wish.cancel_after = Some(Duration::from_millis(after));
        wish.again.clear();
    }
}

fn without_memory(wish: &mut Wish) {
    wish.script.finish = Finish::NoMemory;
    wish.script.code = 0;
    wish.script.millis = wish.script.millis.min(4_000);
}
