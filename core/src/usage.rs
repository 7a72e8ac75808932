//! What jobs have used and how long they have waited, from their rows alone: no counter that could drift.
//!
//! Pure: a report is told every job once, in any order, and is asked at the end. All times are cut to a window; an
//! attempt that still holds something counts until `now`. Called by the coordinator's service.

mod lately;

pub use lately::Lately;

use std::collections::BTreeMap;

use crate::{
    failure::FailureClass,
    job::{Attempt, Job, JobState, Part},
    time::Timestamp,
};

/// A span of time, from its first moment to before its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
}

impl Window {
    /// How much of a span lies in it, in microseconds.
    fn part_of(self, from: Timestamp, to: Timestamp) -> u128 {
        let (from, to) = (from.max(self.from), to.min(self.to));
        to.since(from).as_micros()
    }

    /// Whether a job that ended then may have something in it.
    #[must_use]
    pub fn may_have(self, ended_at: Timestamp) -> bool {
        ended_at >= self.from
    }

    fn has(self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }
}

/// By what jobs are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// One row a project; jobs of none together.
    #[default]
    Project,
    /// One row a user, whatever the project.
    User,
    /// One row a user of a project.
    Both,
}

impl By {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 3] = [
        ("project", Self::Project),
        ("user", Self::User),
        ("both", Self::Both),
    ];

    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, by)| by)
    }

    fn group(self, job: &Job) -> Group {
        let user = || Some(job.submitted_by.clone());
        match self {
            Self::Project => (job.spec.project_id, None),
            Self::User => (None, user()),
            Self::Both => (job.spec.project_id, user()),
        }
    }
}

/// A project's number and a user, as far as jobs are told apart by them.
type Group = (Option<i64>, Option<String>);

/// What the jobs of a row have used.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Of jobs of this project; none for jobs of no project, and where it is not asked by projects.
    pub project: Option<i64>,
    /// Of jobs of this user; none where it is not asked by users.
    pub user: Option<String>,
    /// Jobs that were submitted, waited or held something in the window.
    pub jobs: u64,
    /// GPUs times the hours for which they were held.
    pub gpu_hours: f64,
    /// CPU slots times the hours for which they were held.
    pub cpu_hours: f64,
    /// Of the GPU-hours those of attempts that failed, were lost or were preempted, and from which no later one went on.
    pub wasted_gpu_hours: f64,
    /// How long jobs waited for a place in the window, in seconds: all of them together.
    pub waited_s: f64,
    /// … one of them in the mean.
    pub wait_mean_s: f64,
    /// … nine of ten of them at most.
    pub wait_p90_s: f64,
    /// Attempts that ended in the window because another job needed their place, or because their node went out of
    /// service, whether their job allowed that or not.
    pub preemptions: u64,
    /// Attempts that failed or were lost in the window; not those that operators moved.
    pub failures: u64,
}

/// Sums of one row, exact: in microseconds times GPUs or CPUs.
#[derive(Clone, Debug, Default)]
struct Sums {
    gpus: u128,
    cpus: u128,
    wasted: u128,
    /// Of each job.
    waits: Vec<u128>,
    preemptions: u64,
    failures: u64,
}

/// A report that is being made.
#[derive(Clone, Debug)]
pub struct Usage {
    window: Window,
    by: By,
    now: Timestamp,
    rows: BTreeMap<Group, Sums>,
}

impl Usage {
    /// Without jobs yet. Nothing is counted that lies behind `now`.
    #[must_use]
    pub fn new(window: Window, by: By, now: Timestamp) -> Self {
        let to = window.to.min(now);
        Self {
            window: Window { to, ..window },
            by,
            now,
            rows: BTreeMap::new(),
        }
    }

    /// One job, told once. `came` is when the last of the jobs that it waits for had ended, or now while one of them has
    /// not; none when it waits for nobody.
    pub fn add(&mut self, job: &Job, came: Option<Timestamp>) {
        let waited: u128 = waits(job, (came, self.now))
            .into_iter()
            .map(|(from, to)| self.window.part_of(from, to))
            .sum();
        let mut sums = Sums::default();
        let mut held = 0;
        for (attempt, next) in with_next(&job.attempts) {
            held += self.attempt(job, (attempt, next), &mut sums);
        }
        let ended = sums.preemptions + sums.failures > 0;
        if waited == 0 && held == 0 && !ended && !self.window.has(job.created_at) {
            return;
        }
        let row = self.rows.entry(self.by.group(job)).or_default();
        row.gpus += sums.gpus;
        row.cpus += sums.cpus;
        row.wasted += sums.wasted;
        row.preemptions += sums.preemptions;
        row.failures += sums.failures;
        row.waits.push(waited);
    }

    /// Counts one attempt; answers with the time for which its tasks held something.
    fn attempt(
        &self,
        job: &Job,
        (attempt, next): (&Attempt, Option<&Attempt>),
        sums: &mut Sums,
    ) -> u128 {
        let (mut gpus, mut cpus, mut held) = (0, 0, 0);
        for (_, part) in attempt.parts() {
            let to = held_until(job, (attempt, part), self.now);
            let span = self.window.part_of(attempt.placed_at, to);
            let of_part = u128::try_from(part.allocation.gpus.len()).unwrap_or(u128::MAX);
            gpus += span * of_part;
            cpus += span * u128::from(part.allocation.cpus);
            held += span;
        }
        sums.gpus += gpus;
        sums.cpus += cpus;
        let class = attempt.outcome().and_then(|outcome| outcome.class);
        // Operators moved it: nothing of it failed, whether it allowed that or not.
        let moved = attempt.vacates.is_some() && class == Some(FailureClass::Infrastructure);
        let here = attempt.ended_at().is_some_and(|at| self.window.has(at));
        match class {
            Some(FailureClass::Preempted) => {
                sums.preemptions += u64::from(here);
                // What becomes of its work is known when the next one begins.
                sums.wasted += if next.is_some_and(|next| next.anew) {
                    gpus
                } else {
                    0
                };
            }
            Some(
                FailureClass::User
                | FailureClass::OutOfMemory
                | FailureClass::Infrastructure
                | FailureClass::Lost
                | FailureClass::Timeout,
            ) => {
                let counted = match moved {
                    true => &mut sums.preemptions,
                    false => &mut sums.failures,
                };
                *counted += u64::from(here);
                sums.wasted += if next.is_none_or(|next| next.anew) {
                    gpus
                } else {
                    0
                };
            }
            Some(FailureClass::Cancelled) | None => {}
        }
        held
    }

    /// The rows, by project and then by user.
    #[must_use]
    pub fn rows(self) -> Vec<Row> {
        let rows = self.rows.into_iter();
        rows.map(|(group, sums)| row(group, sums)).collect()
    }

    /// Of all jobs together.
    #[must_use]
    pub fn total(&self) -> Row {
        let mut all = Sums::default();
        for sums in self.rows.values() {
            all.gpus += sums.gpus;
            all.cpus += sums.cpus;
            all.wasted += sums.wasted;
            all.preemptions += sums.preemptions;
            all.failures += sums.failures;
            all.waits.extend(&sums.waits);
        }
        row((None, None), all)
    }
}

/// Until when a task held what it was given.
fn held_until(job: &Job, (attempt, part): (&Attempt, &Part), now: Timestamp) -> Timestamp {
    let is_live = job.live().is_some_and(|live| live.number == attempt.number);
    match part.ended_at {
        Some(at) => at,
        None if is_live => now,
        // A row of an old version may not say it.
        None => attempt.ended_at().unwrap_or(attempt.placed_at),
    }
}

/// Each attempt with the one after it.
fn with_next(attempts: &[Attempt]) -> impl Iterator<Item = (&Attempt, Option<&Attempt>)> {
    let later = attempts.iter().skip(1).map(Some);
    attempts.iter().zip(later.chain([None]))
}

/// The spans for which a job has waited for a place: from when it was asked for, or was queued again by itself, to its
/// place. What its user wanted it to wait for, a moment or other jobs, is no waiting for a place; once it has had one,
/// it waits for no other job. When a user ran it again for the last time but one is not in its row any more: that wait is
/// left out.
fn waits(job: &Job, (came, now): (Option<Timestamp>, Timestamp)) -> Vec<(Timestamp, Timestamp)> {
    let last = job.last_asked();
    let asked = last.at;
    let open = |from: Timestamp, again: bool| {
        let came = came.filter(|_| !again);
        from.max(job.spec.not_before.unwrap_or(from))
            .max(came.unwrap_or(from))
    };
    let mut spans = Vec::new();
    let mut before: Option<&Attempt> = None;
    for attempt in &job.attempts {
        let from = match before {
            None if last.is_before(attempt) => Some(job.created_at.max(asked)),
            None => Some(job.created_at),
            Some(before) if before.tried_again => {
                // Unless its user ran it again since.
                let over = before.ended_at();
                over.map(|over| match last.is_between(before, attempt) {
                    true => asked,
                    false => over,
                })
            }
            Some(before) => last.is_between(before, attempt).then_some(asked),
        };
        let again = before.is_some_and(|before| before.tried_again);
        spans.extend(from.map(|from| (open(from, again), attempt.placed_at)));
        before = Some(attempt);
    }
    let tried = before.filter(|newest| newest.tried_again && last.is_before(newest));
    match job.state {
        JobState::Pending | JobState::Queued => {
            // From the moment from which it will count once it has its place: two reports in a row add up.
            let since = match tried {
                Some(last) => last.ended_at().unwrap_or(job.state_since),
                None => asked.max(job.created_at),
            };
            spans.push((open(since, tried.is_some()), now));
        }
        // It ended before it had a place, or before it had one again.
        JobState::Cancelled | JobState::Failed if ended_waiting(job) => {
            let since = tried.and_then(Attempt::ended_at).unwrap_or(asked);
            let until = job.ended_at.unwrap_or(job.state_since);
            spans.push((open(since, tried.is_some()), until));
        }
        JobState::Starting
        | JobState::Running
        | JobState::Finishing
        | JobState::Completed
        | JobState::Failed
        | JobState::Cancelled => {}
    }
    spans
}

fn ended_waiting(job: &Job) -> bool {
    let newest = job.attempts.last();
    newest.is_none_or(|newest| newest.tried_again || !job.last_asked().is_before(newest))
}

fn row((project, user): Group, mut sums: Sums) -> Row {
    sums.waits.sort_unstable();
    let jobs = sums.waits.len();
    let waited: u128 = sums.waits.iter().sum();
    // The nearest rank.
    let nine_of_ten = (jobs * 9).div_ceil(10).saturating_sub(1);
    let p90 = sums.waits.get(nine_of_ten).copied().unwrap_or_default();
    Row {
        project,
        user,
        jobs: u64::try_from(jobs).unwrap_or(u64::MAX),
        gpu_hours: seconds(sums.gpus) / 3_600.0,
        cpu_hours: seconds(sums.cpus) / 3_600.0,
        wasted_gpu_hours: seconds(sums.wasted) / 3_600.0,
        waited_s: seconds(waited),
        wait_mean_s: seconds(waited) / count(jobs.max(1)),
        wait_p90_s: seconds(p90),
        preemptions: sums.preemptions,
        failures: sums.failures,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the sums are exact; a report has no use for the last digits of a century"
)]
fn seconds(micros: u128) -> f64 {
    micros as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "jobs are far below 2^53")]
fn count(jobs: usize) -> f64 {
    jobs as f64
}

#[cfg(test)]
mod tests;
