//! The virtual clock: submits jobs when the trace does, ends them when they have run as long as they did, and asks the
//! policy after each.
//!
//! Owns time, what a restart costs and how long jobs still run; the policy is told none of it before the end.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::trace::TraceJob;

/// What a policy does at one moment, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Starts or resumes a job.
    Start(usize),
    /// Takes a running job's GPUs away; it keeps what it has done.
    Preempt(usize),
}

/// What is replayed against. Jobs are told by their place in the trace.
pub trait Player {
    /// A job was submitted.
    fn submit(&mut self, now: i64, job: usize);
    /// A job has ended.
    fn finish(&mut self, now: i64, job: usize);
    /// All that happened at `now` has been told.
    fn pass(&mut self, now: i64) -> Vec<Action>;
    /// When it wants to be asked again although nothing happens.
    fn wake(&self, now: i64) -> Option<i64>;
}

/// `(when, jobs waiting, GPUs that they ask for, GPUs in use)`.
pub type Sample = (i64, u32, u64, u32);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// When each job ended.
    pub ended: Vec<i64>,
    /// When each job started first.
    pub started: Vec<i64>,
    /// How often a job was preempted.
    pub preemptions: u64,
    /// Occupied GPU-seconds between the first and the last submission.
    pub occupied: i64,
    /// Time of each pass.
    pub passes: Vec<Duration>,
    /// Whenever something changed.
    pub queue: Vec<Sample>,
    /// Jobs that never ran: no nodes could hold them.
    pub stuck: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Still to run, with what the restart costs.
    left: i64,
    since: i64,
    running: bool,
    ran: bool,
    /// Rises with each start: ends of earlier ones are stale.
    run: u32,
}

/// Replays `jobs`. `stopwatch` measures passes, and decides nothing.
pub fn replay(
    jobs: &[TraceJob],
    restart_cost: i64,
    player: &mut dyn Player,
    stopwatch: &dyn Fn() -> Duration,
) -> Outcome {
    let mut engine = Engine {
        jobs,
        restart_cost,
        progress: jobs.iter().map(Progress::of).collect(),
        ends: BinaryHeap::new(),
        outcome: Outcome {
            ended: vec![i64::MIN; jobs.len()],
            started: vec![i64::MIN; jobs.len()],
            ..Outcome::default()
        },
        used: 0,
        waiting: (0, 0),
        used_since: jobs.first().map_or(0, |job| job.submit),
        last: jobs.last().map_or(0, |job| job.submit),
    };
    engine.run(player, stopwatch);
    let never = i64::MIN;
    let ended = engine.outcome.ended.iter();
    engine.outcome.stuck = ended.filter(|ended| **ended == never).count();
    engine.outcome
}

impl Progress {
    fn of(job: &TraceJob) -> Self {
        Self {
            left: job.duration,
            ..Self::default()
        }
    }
}

struct Engine<'a> {
    jobs: &'a [TraceJob],
    restart_cost: i64,
    progress: Vec<Progress>,
    ends: BinaryHeap<Reverse<(i64, usize, u32)>>,
    outcome: Outcome,
    used: u32,
    waiting: (u32, u64),
    used_since: i64,
    last: i64,
}

impl Engine<'_> {
    fn run(&mut self, player: &mut dyn Player, stopwatch: &dyn Fn() -> Duration) {
        let mut next = 0;
        let mut now = i64::MIN;
        let mut moved = i64::MIN;
        loop {
            let submit = self.jobs.get(next).map(|job| job.submit);
            let end = self.ends.peek().map(|Reverse((end, _, _))| *end);
            let wake = player.wake(now).filter(|then| *then > now);
            let Some(then) = [submit, end, wake].into_iter().flatten().min() else {
                return;
            };
            if submit.is_some() || end.is_some() {
                moved = then;
            } else if then > moved.saturating_add(MOST_PATIENCE) {
                // Nothing runs and nobody comes: who still waits will wait for ever.
                return;
            }
            now = then;
            self.finish(now, player);
            while let Some(job) = self.jobs.get(next).filter(|job| job.submit <= now) {
                player.submit(now, next);
                self.waiting.0 += 1;
                self.waiting.1 += u64::from(job.gpus);
                next += 1;
            }
            let before = stopwatch();
            let actions = player.pass(now);
            self.outcome.passes.push(stopwatch().saturating_sub(before));
            self.account(now);
            for action in actions {
                self.act(now, action);
            }
            let (jobs, gpus) = self.waiting;
            self.outcome.queue.push((now, jobs, gpus, self.used));
        }
    }

    fn finish(&mut self, now: i64, player: &mut dyn Player) {
        while let Some(Reverse((end, job, run))) = self.ends.peek().copied() {
            if end > now {
                break;
            }
            self.ends.pop();
            let gpus = self.jobs.get(job).map_or(0, |job| job.gpus);
            let Some(progress) = self.progress.get_mut(job) else {
                continue;
            };
            if progress.run != run || !progress.running {
                continue;
            }
            progress.running = false;
            if let Some(ended) = self.outcome.ended.get_mut(job) {
                *ended = now;
            }
            self.account(now);
            self.used -= gpus;
            player.finish(now, job);
        }
    }

    /// Occupied time up to now.
    fn account(&mut self, now: i64) {
        let span = now.min(self.last) - self.used_since.min(self.last);
        self.outcome.occupied += span * i64::from(self.used);
        self.used_since = now;
    }

    fn act(&mut self, now: i64, action: Action) {
        let (Action::Start(job) | Action::Preempt(job)) = action;
        let gpus = self.jobs.get(job).map_or(0, |job| job.gpus);
        let Some(progress) = self.progress.get_mut(job) else {
            return;
        };
        match action {
            Action::Start(_) => {
                if progress.ran {
                    progress.left += self.restart_cost;
                } else if let Some(started) = self.outcome.started.get_mut(job) {
                    *started = now;
                }
                progress.ran = true;
                progress.running = true;
                progress.since = now;
                progress.run += 1;
                self.ends
                    .push(Reverse((now + progress.left, job, progress.run)));
                self.used += gpus;
                self.waiting.0 -= 1;
                self.waiting.1 -= u64::from(gpus);
            }
            Action::Preempt(_) => {
                progress.left -= now - progress.since;
                progress.running = false;
                self.outcome.preemptions += 1;
                self.used -= gpus;
                self.waiting.0 += 1;
                self.waiting.1 += u64::from(gpus);
            }
        }
    }
}

/// So long a policy may ask to be asked again when nothing else will ever happen.
const MOST_PATIENCE: i64 = 7 * 86_400;
