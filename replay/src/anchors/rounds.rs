//! Preemption in rounds: all jobs in one order, the first that fit by number of GPUs run, the others do not.
//!
//! Orders: attained service in queues (LAS, Tiresias), its Gittins index, and what is left, for those who know.

use std::collections::{BTreeMap, BTreeSet};

use super::{Floor, past::Kinds};
use crate::engine::{Action, Player};

/// Rounds are so far apart.
const ROUND: i64 = 60;
/// A job that has just started is left alone so long; oracles need no such rule.
const SETTLED: i64 = 300;
/// Who has waited for so long goes first, where that is asked for.
const STARVING: i64 = 48 * 3_600;

/// What the order goes by.
pub(super) enum Order {
    Tiresias,
    Las,
    Gittins(Kinds),
    TimeLeft,
    ServiceLeft,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// GPU-seconds, up to `since` when it runs.
    attained: i64,
    /// Still to run, up to `since` when it runs.
    left: i64,
    since: Option<i64>,
    ran: bool,
}

pub(super) struct Rounds<'a> {
    floor: Floor<'a>,
    order: Order,
    restart_cost: i64,
    starving: bool,
    live: BTreeMap<usize, State>,
    waiting: BTreeSet<usize>,
    round: Option<i64>,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(floor: Floor<'a>, order: Order, restart_cost: i64) -> Self {
        Self {
            floor,
            order,
            restart_cost,
            starving: false,
            live: BTreeMap::new(),
            waiting: BTreeSet::new(),
            round: None,
        }
    }

    /// With those first who have waited for 48 h in all, whether they run since or not.
    pub(super) fn starving(mut self) -> Self {
        self.starving = true;
        self
    }

    fn settled(&self) -> i64 {
        match self.order {
            Order::TimeLeft | Order::ServiceLeft => 0,
            Order::Tiresias | Order::Las | Order::Gittins(_) => SETTLED,
        }
    }

    /// Lower first.
    fn turn(&self, now: i64, job: usize, state: &State) -> (i64, i64, usize) {
        let row = self.floor.job(job);
        let gpus = i64::from(row.gpus);
        let ran = state.since.map_or(0, |since| now - since);
        let attained = state.attained + ran * gpus;
        let left = state.left - ran;
        let served = attained / gpus.max(1);
        if self.starving && now - row.submit - served >= STARVING {
            return (i64::MIN, row.submit, job);
        }
        let rank = match &self.order {
            Order::Tiresias => i64::from(attained >= 18_000),
            Order::Las => {
                let borders = [3_600, 8 * 3_600, 64 * 3_600];
                i64::try_from(borders.iter().filter(|border| attained >= **border).count())
                    .unwrap_or(0)
            }
            Order::Gittins(kinds) => kinds.rank(job, row.gpus, served),
            Order::TimeLeft => left,
            Order::ServiceLeft => left * gpus,
        };
        (rank, row.submit, job)
    }

    fn start(&mut self, now: i64, job: usize, actions: &mut Vec<Action>) -> bool {
        if !self.floor.start(job) {
            return false;
        }
        if let Some(state) = self.live.get_mut(&job) {
            if state.ran {
                state.left += self.restart_cost;
            }
            state.ran = true;
            state.since = Some(now);
        }
        self.waiting.remove(&job);
        actions.push(Action::Start(job));
        true
    }

    /// Starts what fits, in order.
    fn fill(&mut self, now: i64, actions: &mut Vec<Action>) {
        if self.floor.cluster.free_gpus() == 0 {
            return;
        }
        let waiting = self
            .waiting
            .iter()
            .filter_map(|job| self.live.get_key_value(job));
        let mut order: Vec<_> = waiting
            .map(|(job, state)| self.turn(now, *job, state))
            .collect();
        order.sort_unstable();
        let mut closed = BTreeSet::new();
        for (_, _, job) in order {
            let gang = self.floor.job(job).gang();
            if !closed.contains(&gang) && !self.start(now, job, actions) {
                closed.insert(gang);
            }
        }
    }

    /// Who of `out` must go, the last of the order first, for `job` to fit; nobody when it would not.
    fn make_room(&mut self, job: usize, out: &mut Vec<usize>) -> Vec<usize> {
        let mut then = self.floor.clone();
        let mut gone = Vec::new();
        let mut left = out.clone();
        while !then.start(job) {
            let Some(victim) = left.pop() else {
                return Vec::new();
            };
            then.stop(victim);
            gone.push(victim);
        }
        *out = left;
        gone
    }

    fn stop(&mut self, now: i64, job: usize, actions: &mut Vec<Action>) {
        let gpus = i64::from(self.floor.job(job).gpus);
        self.floor.stop(job);
        if let Some(state) = self.live.get_mut(&job)
            && let Some(since) = state.since.take()
        {
            state.attained += (now - since) * gpus;
            state.left -= now - since;
        }
        self.waiting.insert(job);
        actions.push(Action::Preempt(job));
    }
}

impl Player for Rounds<'_> {
    fn submit(&mut self, _now: i64, job: usize) {
        let left = self.floor.job(job).duration;
        let state = State {
            left,
            ..State::default()
        };
        self.live.insert(job, state);
        self.waiting.insert(job);
    }

    fn finish(&mut self, _now: i64, job: usize) {
        self.floor.stop(job);
        self.live.remove(&job);
        match &mut self.order {
            Order::Gittins(kinds) => kinds.ended(job, self.floor.job(job)),
            Order::Tiresias | Order::Las | Order::TimeLeft | Order::ServiceLeft => {}
        }
    }

    fn pass(&mut self, now: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.fill(now, &mut actions);
        if self.round.is_some_and(|last| now < last + ROUND) || self.waiting.is_empty() {
            return actions;
        }
        self.round = Some(now);
        let live = self.live.iter();
        let mut order: Vec<_> = live
            .map(|(job, state)| self.turn(now, *job, state))
            .collect();
        order.sort_unstable();
        let fresh = |state: &State| {
            state
                .since
                .is_some_and(|since| now < since + self.settled())
        };
        let mut budget = self.floor.cluster.total_gpus();
        for (job, state) in &self.live {
            if fresh(state) {
                budget = budget.saturating_sub(self.floor.job(*job).gpus);
            }
        }
        let mut chosen = Vec::new();
        let mut out = Vec::new();
        for (_, _, job) in order {
            let gpus = self.floor.job(job).gpus;
            let state = self.live.get(&job).copied().unwrap_or_default();
            if fresh(&state) {
                continue;
            }
            if gpus <= budget {
                budget -= gpus;
                if state.since.is_none() {
                    chosen.push(job);
                }
            } else if state.since.is_some() {
                out.push(job);
            }
        }
        for job in chosen {
            let gone = self.make_room(job, &mut out);
            for victim in gone {
                self.stop(now, victim, &mut actions);
            }
            self.start(now, job, &mut actions);
        }
        actions
    }

    fn wake(&self, _now: i64) -> Option<i64> {
        let waits = !self.waiting.is_empty();
        self.round.filter(|_| waits).map(|last| last + ROUND)
    }
}
