//! What plan 5 has more: jobs that make room, arrays, jobs that wait for others or for a moment, and priorities.
//!
//! Pure. Drawn from numbers of its own. Called by the plan.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

use super::{Plan, Terms, Wish};
use crate::script::{Finish, Script};

/// Of somebody who cannot wait; nobody else has more.
const URGENT: i32 = 50;

/// What else a user says of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// It may be told to go, and goes on from its last checkpoint.
    pub(crate) preemptible: bool,
    pub(crate) priority: i32,
    /// It is an array of so many jobs, of which so many may run at once; 0 is no array, and no limit.
    pub(crate) array: (u32, u32),
    /// Wishes before it that are to succeed first; of an array its first job.
    pub(crate) after: Vec<usize>,
    /// Wishes before it that are to end first.
    pub(crate) after_any: Vec<usize>,
    /// Not before so long after the beginning of the run.
    pub(crate) not_before: Option<Duration>,
}

impl Order {
    /// How many jobs it makes.
    pub(crate) fn jobs(&self) -> u64 {
        self.array.0.max(1).into()
    }

    /// Its indices, as users write them.
    pub(crate) fn indices(&self) -> String {
        match self.array {
            (0, _) => String::new(),
            (jobs, 0) => format!("0-{}", jobs.saturating_sub(1)),
            (jobs, at_most) => format!("0-{}%{at_most}", jobs.saturating_sub(1)),
        }
    }
}

impl Plan {
    /// Draws it for each wish, and adds some that cannot wait.
    pub(super) fn order(&mut self, rng: &mut StdRng) {
        self.cluster.prompt = true;
        for (number, wish) in self.wishes.iter_mut().enumerate() {
            order(rng, number, wish);
        }
        for _ in 0..rng.random_range(0..=2) {
            let node = rng.random_range(0..self.cluster.nodes.len());
            let cpus = self.cluster.nodes.get(node).map_or(1, |node| node.0);
            self.wishes.push(urgent(rng, cpus));
        }
    }
}

fn order(rng: &mut StdRng, number: usize, wish: &mut Wish) {
    if rng.random_bool(0.5) {
        wish.order.priority = rng.random_range(0..=6);
    }
    if rng.random_bool(0.45) {
        wish.order.preemptible = true;
        // Long enough that somebody comes meanwhile.
        wish.script.epochs = rng.random_range(4..=12);
        wish.script.millis = rng.random_range(1_000..=6_000);
        wish.script.saves = rng.random_range(1..=2);
    }
    if rng.random_bool(0.2) {
        wish.order.array = (rng.random_range(2..=5), rng.random_range(0..=2));
        wish.script.epochs = wish.script.epochs.min(3);
    }
    if rng.random_bool(0.2) {
        let later = Duration::from_millis(rng.random_range(0..=60_000));
        wish.order.not_before = Some(wish.at + later);
    }
    if number > 0 && rng.random_bool(0.35) {
        let any = rng.random_bool(0.4);
        for _ in 0..rng.random_range(1..=2) {
            let before = rng.random_range(0..number);
            let of = if any {
                &mut wish.order.after_any
            } else {
                &mut wish.order.after
            };
            if !of.contains(&before) {
                of.push(before);
            }
        }
    }
}

/// It wants all CPUs of some node, and is soon over.
fn urgent(rng: &mut StdRng, cpus: u32) -> Wish {
    Wish {
        at: Duration::from_millis(rng.random_range(10_000..=120_000)),
        script: Script {
            epochs: rng.random_range(1..=4),
            millis: rng.random_range(100..=5_000),
            code: 0,
            stubborn: false,
            saves: 0,
            finish: Finish::Done,
        },
        cpus,
        gpus: 0,
        memory_gib: 0,
        nodes: 1,
        cancel_after: None,
        cancel_in: None,
        again: Vec::new(),
        order: Order {
            priority: URGENT,
            ..Order::default()
        },
        terms: Terms::default(),
    }
}
