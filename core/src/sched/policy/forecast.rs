//! When a waiting job is expected to start.
//!
//! A guess by medians: those who run end when jobs like them do, those ahead start in their order as far as the rule, the
//! limits of their projects and what is kept for others let them, nobody makes room.
//! It is wrong by a factor, and by which is learnt: every so often the newest job that waits is guessed at, and when it
//! starts its true wait is set against the guess. An interval is the guess times the factors of the last guesses, so it
//! is as wide as guesses were bad; and it gets wider with each job that starts outside of it, and narrower with each
//! that does not, so that four of five start within (adaptive conformal inference, Gibbs and Candès, 2021).

use std::collections::{BTreeMap, VecDeque};

use super::{
    cluster::JobIx,
    config::Seconds,
    future::{Future, Outages},
    gittins::whole,
    job::State,
    scheduler::Scheduler,
};

/// So many of those ahead are looked at: further ones change little, and cost much.
const AHEAD: usize = 256;
/// So many starts and ends are looked at.
const STEPS: usize = 4_096;
/// So many of the last factors count.
const REMEMBERED: usize = 200;
/// So many must be known before they are believed.
const ENOUGH: usize = 10;
/// A wait is never told more exactly than this.
const BLUR: Seconds = 60;
/// Of a class of which nothing is known jobs run on for as long as they have, and never less than this.
const LEAST: Seconds = 600;
/// An interval reaches at least from the middle by this to the middle times this, unless too few start outside of it: those
/// who wait in one queue wait for the same, so many guesses in a row are as good as one another, and say little of the next.
const LEAST_WIDE: f64 = 3.0;
/// Before enough is known: a tenth of the guess to ten times.
const UNKNOWN: [f64; 3] = [0.1, 1.0, 10.0];

/// When a job is expected to start: in one case of ten before the first, in five before the second, in nine before the
/// third.
pub type Expected = [Seconds; 3];

/// A guess that is not settled.
#[derive(Clone, Copy, Debug)]
struct Open {
    made: Seconds,
    wait: Seconds,
    told: Expected,
}

/// So many of ten starts are meant to lie outside of their interval, and so much does one more or less change that.
const MEANT: f64 = 0.2;
const STEP: f64 = 0.02;
/// No more of the known factors are left out.
const MOST_OUTSIDE: f64 = 0.5;

/// Guesses, and how good they were.
#[derive(Clone, Debug)]
pub(super) struct Forecasts {
    /// The part of the known factors that an interval leaves out.
    outside: f64,
    /// The one to be guessed at next.
    pub(super) newest: Option<JobIx>,
    last: Option<Seconds>,
    open: BTreeMap<JobIx, Open>,
    factors: BTreeMap<u32, VecDeque<f64>>,
    /// Intervals whose job has started, and those in which it did.
    settled: u64,
    within: u64,
}

impl Default for Forecasts {
    fn default() -> Self {
        Self {
            outside: MEANT,
            newest: None,
            last: None,
            open: BTreeMap::new(),
            factors: BTreeMap::new(),
            settled: 0,
            within: 0,
        }
    }
}

impl Forecasts {
    /// So long is a job expected to wait from a moment on, and this was told of it.
    fn made(&mut self, ix: JobIx, (made, wait): (Seconds, Seconds), told: Expected) {
        self.open.insert(ix, Open { made, wait, told });
    }

    /// The same, where nothing but the guess was told.
    #[cfg(test)]
    pub(super) fn note(&mut self, ix: JobIx, now: Seconds, wait: Seconds) {
        self.made(ix, (now, wait), [now + wait; 3]);
    }

    /// A job has started, or waits no longer.
    pub(super) fn settle(&mut self, now: Seconds, ix: JobIx, started: bool) {
        let Some(open) = self.open.remove(&ix) else {
            return;
        };
        if !started {
            return;
        }
        let [early, _, late] = open.told;
        self.settled += 1;
        let within = (early..=late).contains(&now);
        self.within += u64::from(within);
        let missed = if within { 0.0 } else { 1.0 };
        self.outside = (self.outside + STEP * (MEANT - missed)).clamp(0.01, MOST_OUTSIDE);
        let factors = self.factors.entry(size(open.wait)).or_default();
        factors.push_back(factor(now - open.made, open.wait));
        if factors.len() > REMEMBERED {
            factors.pop_front();
        }
    }

    /// 1 as long as no more start within their intervals than are meant to, and 0 where too many do though half of the
    /// known factors are left out.
    fn doubt(&self) -> f64 {
        ((MOST_OUTSIDE - self.outside) / (MOST_OUTSIDE - MEANT)).clamp(0.0, 1.0)
    }

    /// By which guesses of about this size were wrong in one, five and nine cases of ten.
    fn spread(&self, now: Seconds, wait: Seconds) -> [f64; 3] {
        let of_size = self.factors.get(&size(wait)).into_iter().flatten();
        let mut known: Vec<f64> = of_size.copied().collect();
        // Who waits already for longer than was guessed will have waited longer still.
        let late = self
            .open
            .values()
            .filter(|open| size(open.wait) == size(wait));
        let late = late.map(|open| factor(now - open.made, open.wait));
        known.extend(late.filter(|factor| *factor > 1.0));
        if known.len() < ENOUGH {
            known = self.factors.values().flatten().copied().collect();
        }
        if known.len() < ENOUGH {
            return UNKNOWN;
        }
        known.sort_by(f64::total_cmp);
        let tail = self.outside / 2.0;
        let [early, middle, late] = [tail, 0.5, 1.0 - tail].map(|part| {
            let at = place(known.len() - 1, part);
            known.get(at).copied().unwrap_or(1.0)
        });
        let least = LEAST_WIDE.powf(self.doubt());
        [early.min(middle / least), middle, late.max(middle * least)]
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a few hundred"
)]
fn place(last: usize, part: f64) -> usize {
    (last as f64 * part).round() as usize
}

/// Guesses of like size are wrong alike.
fn size(wait: Seconds) -> u32 {
    u64::try_from(wait / BLUR + 1).map_or(0, u64::ilog2) / 2
}

#[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
fn factor(truth: Seconds, guess: Seconds) -> f64 {
    (truth + BLUR) as f64 / (guess + BLUR) as f64
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "seconds are far below 2^53, and a factor of a wait is a wait"
)]
fn times(guess: Seconds, factor: f64) -> Seconds {
    ((guess + BLUR) as f64 * factor) as Seconds - BLUR
}

impl Scheduler {
    /// When a waiting job is expected to start, if nodes are out of service then; nothing if that cannot be told.
    #[must_use]
    pub fn expect(&self, now: Seconds, number: u64, outages: &Outages) -> Option<Expected> {
        let ix = self.number(number)?;
        let wait = self.guess(now, ix, outages)?;
        let (_, told) = self.around(now, ix, wait);
        Some(told)
    }

    /// The part of a guess that may be wrong, from which moment on, and what is told of it: until its project's GPU-hours are
    /// its own again a job waits for certain.
    fn around(&self, now: Seconds, ix: JobIx, wait: Seconds) -> ((Seconds, Seconds), Expected) {
        let job = self.job(ix);
        let spent = self.projects.spent_until(now, job.project, self.least(job));
        let from = spent.unwrap_or(now);
        let wait = (now + wait - from).max(0);
        let spread = self.forecasts.spread(now, wait);
        let told = spread.map(|factor| from + times(wait, factor).max(0));
        ((from, wait), told)
    }

    /// Intervals that were told and are settled, and those of them in which the job did start.
    #[must_use]
    pub fn coverage(&self) -> (u64, u64) {
        (self.forecasts.settled, self.forecasts.within)
    }

    /// Guesses at the newest job that waits, if that is due.
    pub(super) fn learn_to_guess(&mut self, now: Seconds) {
        let every = self.config.forecast_every;
        let due = self.forecasts.last.is_none_or(|last| now >= last + every);
        if every <= 0 || !due {
            return;
        }
        let newest = self.forecasts.newest.take();
        let Some(ix) = newest.filter(|ix| self.is_waiting(*ix)) else {
            return;
        };
        // Also one that cannot be made: to find that out costs as much.
        self.forecasts.last = Some(now);
        let Some(wait) = self.guess(now, ix, &Outages::default()) else {
            return;
        };
        let (guess, told) = self.around(now, ix, wait);
        self.forecasts.made(ix, guess, told);
    }

    fn is_waiting(&self, ix: JobIx) -> bool {
        let job = self.jobs.get(ix).and_then(Option::as_ref);
        job.is_some_and(|job| matches!(job.state, State::Waiting(_)))
    }

    /// For how long a job still waits if all goes as it does in the median.
    fn guess(&self, now: Seconds, me: JobIx, outages: &Outages) -> Option<Seconds> {
        let mut waiting = self.ahead_of(me, AHEAD)?;
        // Who is far behind is bound all the same by what is kept for one.
        let bound = self.kept().is_some() && self.kept.binds(&self.head_of(me)?);
        let first = self.kept.first.filter(|_| bound).map(|first| first.job);
        waiting.extend(first.filter(|first| !waiting.contains(first)));
        waiting.push(me);
        let mut future = Future::new(self, now, &waiting, outages);
        if future.is_open() {
            return None;
        }
        for _ in 0..STEPS {
            if future.let_in(&mut waiting) {
                return Some(future.then - now);
            }
            future.go_on()?;
        }
        None
    }

    /// How long a job runs on, as those like it do.
    pub(super) fn likely_left(&self, now: Seconds, ix: JobIx) -> Seconds {
        let job = self.job(ix);
        let ran = job.ran(now, self.config.restart_cost);
        let known = self.history.left(job.class, ran);
        let left = known.map_or_else(|| ran.max(LEAST), |[_, middle, _]| whole(middle));
        let limit = job.limit.map_or(Seconds::MAX, |limit| (limit - ran).max(1));
        left.clamp(1, limit)
    }
}
