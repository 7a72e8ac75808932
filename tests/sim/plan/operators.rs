//! What plan 6 has more: operators who take nodes out of service and back, at any moment.
//!
//! Pure. Drawn from numbers of its own. Called by the plan.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};
use trainyard_core::service::AtDeadline;

use super::{CALM, Plan};

/// So long after the last fault the operator looks again: a node on whose full disk tasks failed to begin is closed when that
/// is reported, and that may be after the disk has space again.
const ONCE_MORE: Duration = Duration::from_secs(30);

/// What an operator does to a node, or to all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It gets nothing more.
    Cordon(usize),
    /// The same, and so many seconds later this becomes of who is left.
    Drain(usize, u32, AtDeadline),
    /// It gets jobs again.
    Resume(usize),
    /// Maintenance, of all nodes where none is named: in so many seconds, and for so many.
    Maintain(Option<usize>, u32, u32),
    /// The window that begins first is taken back.
    TakeBack,
    /// Nothing is drained any more, and all windows are taken back.
    OpenAll,
}

impl Plan {
    /// Draws them; at the end all nodes are in service, or jobs would wait for ever.
    pub(super) fn serve(&mut self, rng: &mut StdRng) {
        let nodes = self.cluster.nodes.len();
        for _ in 0..rng.random_range(1..=8) {
            let at = Duration::from_millis(rng.random_range(1_000..=200_000));
            self.acts.push((at, act(rng, nodes)));
        }
        self.acts.sort_by_key(|(at, _)| *at);
        self.acts.push((CALM, Act::OpenAll));
        self.acts.push((CALM + ONCE_MORE, Act::OpenAll));
    }
}

fn act(rng: &mut StdRng, nodes: usize) -> Act {
    let node = rng.random_range(0..nodes);
    let soon = rng.random_bool(0.4);
    let seconds = rng.random_range(0..=if soon { 3 } else { 40 });
    let lasts = rng.random_range(1..=60);
    let all = rng.random_bool(0.2);
    match rng.random_range(0..10) {
        0 | 1 => Act::Cordon(node),
        2 | 3 => Act::Drain(node, seconds, AtDeadline::Preempt),
        4 => Act::Drain(node, seconds, AtDeadline::Wait),
        5 | 6 => Act::Resume(node),
        7 | 8 => Act::Maintain(Some(node).filter(|_| !all), seconds, lasts),
        _ => Act::TakeBack,
    }
}
