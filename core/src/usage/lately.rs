//! What jobs have used lately, for fair shares: half of it is forgotten in every half-life.
//!
//! As a scheduler that had never stopped would have counted it. Pure: it is told every job once, in any order.

use std::collections::BTreeMap;

use super::held_until;
use crate::{job::Job, sched::payer, time::Timestamp};

/// What ended so many half-lives ago is left out: a sixty-fourth of it is left at most.
const HALF_LIVES: f64 = 6.0;

/// Sums by who pays, as of a moment.
#[derive(Clone, Debug)]
pub struct Lately {
    at: Timestamp,
    half_life_s: f64,
    sums: BTreeMap<String, f64>,
}

impl Lately {
    /// Without jobs yet. What was used after `at` is not counted.
    #[must_use]
    pub fn new(at: Timestamp, half_life_s: u32) -> Self {
        Self {
            at,
            half_life_s: f64::from(half_life_s.max(1)),
            sums: BTreeMap::new(),
        }
    }

    /// The moment as of which they are.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Whether a job that ended then counts still.
    #[must_use]
    pub fn may_have(&self, ended_at: Timestamp) -> bool {
        self.half_lives_since(ended_at) < HALF_LIVES
    }

    fn half_lives_since(&self, then: Timestamp) -> f64 {
        self.at.since(then).as_secs_f64() / self.half_life_s
    }

    /// One job, told once.
    pub fn add(&mut self, job: &Job) {
        let parts = job.attempts.iter().flat_map(|attempt| {
            let parts = attempt.parts();
            parts.map(move |(_, part)| (attempt, part))
        });
        let used: f64 = parts
            .map(|(attempt, part)| {
                let until = held_until(job, (attempt, part), self.at);
                let gpus = u32::try_from(part.allocation.gpus.len()).unwrap_or(u32::MAX);
                f64::from(gpus) * self.left_of(attempt.placed_at, until)
            })
            .sum();
        if used > 0.0 {
            let payer = payer(job.spec.project_id, &job.submitted_by);
            *self.sums.entry(payer).or_default() += used;
        }
    }

    /// Seconds of a span that are not forgotten: each fades by itself.
    fn left_of(&self, from: Timestamp, until: Timestamp) -> f64 {
        let left = |then: Timestamp| 0.5f64.powf(self.half_lives_since(then));
        let faded = left(until.min(self.at)) - left(from.min(self.at));
        faded.max(0.0) * self.half_life_s / std::f64::consts::LN_2
    }

    /// GPU-seconds that are not forgotten, by who pays.
    #[must_use]
    pub fn sums(&self) -> &BTreeMap<String, f64> {
        &self.sums
    }
}

#[cfg(test)]
mod tests;
