//! The figures of the traces' README, from what a replay left.
//!
//! Owns their definitions. Never runs anything.

use serde::Serialize;

use crate::{engine::Outcome, trace::TraceJob};

/// One line of the table. Seconds and percent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Which policy.
    pub policy: String,
    /// Completion since submission.
    pub jct_mean: f64,
    /// Its median.
    pub jct_p50: f64,
    /// Its 99th percentile.
    pub jct_p99: f64,
    /// Completion since submission, less the duration.
    pub wait_mean: f64,
    /// Its median.
    pub wait_p50: f64,
    /// Its 99th percentile.
    pub wait_p99: f64,
    /// Its 99.9th percentile.
    pub wait_p999: f64,
    /// The longest.
    pub wait_max: f64,
    /// Of jobs of 8 GPUs and more.
    pub wait_mean_8gpu: f64,
    /// Completion by duration, of 60 s at least.
    pub bsld_mean: f64,
    /// Occupied between the first and the last submission.
    pub util_window: f64,
    /// Jobs that took longer than in a fair share of the time.
    pub ftf_unfair: f64,
    /// Jobs that took longer than in their own part of the cluster.
    pub iso_unfair: Option<f64>,
    /// From the first submission to the last end.
    pub makespan: f64,
    /// How often a job was preempted.
    pub preemptions: u64,
    /// Microseconds of a pass.
    pub pass_p99_us: f64,
    /// Seconds of the whole replay.
    pub wall_s: f64,
    /// Jobs that no nodes could hold.
    pub stuck: usize,
    /// How good predictions were, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
}

/// Predictions of when a job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Predicted {
    /// Jobs that had to wait, of which it was predicted.
    pub jobs: u64,
    /// Those that started between what was told for one and for nine cases of ten.
    pub within: u64,
}

/// Finish-time fairness and isolation allow so much.
const ALLOWED: f64 = 1.05;

fn float(value: i64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of a trace are far below 2^53"
    )]
    let float = value as f64;
    float
}

/// Works the figures out. `isolated` has the completion times of jobs in their own part.
#[must_use]
pub fn figures(
    policy: &str,
    jobs: &[TraceJob],
    capacity: u32,
    outcome: &Outcome,
    isolated: Option<&[i64]>,
) -> Figures {
    let done = || {
        let ended = jobs.iter().zip(&outcome.ended);
        ended.filter(|(_, ended)| **ended != i64::MIN)
    };
    let completion = |(job, ended): (&TraceJob, &i64)| float(ended - job.submit);
    let wait = |(job, ended): (&TraceJob, &i64)| float(ended - job.submit - job.duration);
    let mut jct: Vec<f64> = done().map(completion).collect();
    let mut waits: Vec<f64> = done().map(wait).collect();
    let wide: Vec<f64> = done().filter(|(job, _)| job.gpus >= 8).map(wait).collect();
    let slow: Vec<f64> = done()
        .map(|(job, ended)| (float(ended - job.submit) / float(job.duration.max(60))).max(1.0))
        .collect();
    let (jct_mean, wait_mean) = (mean(&jct), mean(&waits));
    jct.sort_by(f64::total_cmp);
    waits.sort_by(f64::total_cmp);
    let first = jobs.first().map_or(0, |job| job.submit);
    let last = jobs.last().map_or(0, |job| job.submit);
    let end = done().map(|(_, ended)| *ended).max().unwrap_or(first);
    let window = float(last - first) * f64::from(capacity);
    let mut passes: Vec<f64> = outcome
        .passes
        .iter()
        .map(|took| took.as_secs_f64() * 1e6)
        .collect();
    passes.sort_by(f64::total_cmp);
    Figures {
        policy: policy.to_owned(),
        jct_mean,
        jct_p50: percentile(&jct, 50.0),
        jct_p99: percentile(&jct, 99.0),
        wait_mean,
        wait_p50: percentile(&waits, 50.0),
        wait_p99: percentile(&waits, 99.0),
        wait_p999: percentile(&waits, 99.9),
        wait_max: percentile(&waits, 100.0),
        wait_mean_8gpu: mean(&wide),
        bsld_mean: mean(&slow),
        util_window: if window > 0.0 {
            100.0 * float(outcome.occupied) / window
        } else {
            0.0
        },
        ftf_unfair: 100.0 * unfair(jobs, capacity, outcome),
        iso_unfair: isolated.map(|alone| 100.0 * later_than_alone(jobs, outcome, alone)),
        makespan: float(end - first),
        preemptions: outcome.preemptions,
        pass_p99_us: percentile(&passes, 99.0),
        wall_s: 0.0,
        stuck: outcome.stuck,
        predicted: None,
    }
}

fn mean(values: &[f64]) -> f64 {
    let count = float(i64::try_from(values.len()).unwrap_or(i64::MAX));
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / count
    }
}

/// Between the two values that are nearest, in proportion.
#[must_use]
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = percent / 100.0 * float(i64::try_from(last).unwrap_or(i64::MAX));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let below = place.floor() as usize;
    let at = |place: usize| sorted.get(place.min(last)).copied().unwrap_or(0.0);
    at(below) + (at(below + 1) - at(below)) * (place - place.floor())
}

/// Share of jobs with rho over the limit: completion by what it would be in a fair share of the cluster.
fn unfair(jobs: &[TraceJob], capacity: u32, outcome: &Outcome) -> f64 {
    let demand = Demand::of(jobs, outcome);
    let rho = |(job, ended): (&TraceJob, &i64)| {
        let life = float(ended - job.submit);
        let demanded = demand.until(*ended) - demand.until(job.submit);
        let crowd = if life > 0.0 {
            demanded / life / f64::from(capacity)
        } else {
            0.0
        };
        life / (float(job.duration.max(60)) * crowd.max(1.0))
    };
    let ended = jobs.iter().zip(&outcome.ended);
    let rhos = ended.filter(|(_, ended)| **ended != i64::MIN).map(rho);
    let unfair: Vec<f64> = rhos
        .map(|rho| if rho > ALLOWED { 1.0 } else { 0.0 })
        .collect();
    mean(&unfair)
}

fn later_than_alone(jobs: &[TraceJob], outcome: &Outcome, alone: &[i64]) -> f64 {
    let all = jobs.iter().zip(&outcome.ended).zip(alone);
    let done = all.filter(|((_, ended), _)| **ended != i64::MIN);
    let later = done.map(|((job, ended), alone)| {
        let late = float(ended - job.submit) > ALLOWED * float(alone - job.submit);
        if late { 1.0 } else { 0.0 }
    });
    mean(&later.collect::<Vec<f64>>())
}

/// GPUs that jobs ask for from their submission to their end, summed over time.
struct Demand(Vec<(i64, f64, f64)>);

impl Demand {
    fn of(jobs: &[TraceJob], outcome: &Outcome) -> Self {
        let mut changes: Vec<(i64, i64)> = Vec::new();
        for (job, ended) in jobs.iter().zip(&outcome.ended) {
            if *ended != i64::MIN {
                changes.push((job.submit, i64::from(job.gpus)));
                changes.push((*ended, -i64::from(job.gpus)));
            }
        }
        changes.sort_unstable();
        let (mut at, mut level, mut sum) = (0, 0i64, 0.0);
        let mut steps = Vec::new();
        for (then, change) in changes {
            sum += float(level) * float(then - at);
            level += change;
            at = then;
            steps.push((at, sum, float(level)));
        }
        Self(steps)
    }

    /// GPU-seconds from the beginning to `then`.
    fn until(&self, then: i64) -> f64 {
        let place = self.0.partition_point(|(at, _, _)| *at <= then);
        let step = place.checked_sub(1).and_then(|place| self.0.get(place));
        step.map_or(0.0, |(at, sum, level)| sum + level * float(then - at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trainyard_core::sched::policy::cluster::Cluster;

    use super::*;
    use crate::{anchors::Anchor, engine, trace::sample::job};

    #[test]
    fn a_percentile_lies_between_its_neighbours() {
        let values = [0.0, 10.0, 20.0];
        assert!((percentile(&values, 50.0) - 10.0).abs() < 1e-9);
        assert!((percentile(&values, 75.0) - 15.0).abs() < 1e-9);
        assert!((percentile(&values, 100.0) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn a_job_that_shares_a_full_cluster_fairly_is_not_unfair() {
        // Two jobs want the one GPU for 100 s each: done after 100 s and 200 s. The second had 1.5 GPUs demanded.
        let jobs = [job(1, 0, 1, 100), job(2, 0, 1, 100)];
        let outcome = Outcome {
            ended: vec![100, 200],
            ..Outcome::default()
        };
        let share = unfair(&jobs, 1, &outcome);
        assert!((share - 0.5).abs() < 1e-9, "200 / (100 * 1.5) > 1.05");
        let share = unfair(&jobs, 2, &outcome);
        assert!((share - 0.5).abs() < 1e-9);
    }

    fn near(value: f64, by_hand: f64) {
        assert!((value - by_hand).abs() < 1e-9, "{value}, by hand {by_hand}");
    }

    #[test]
    fn the_figures_of_five_jobs_are_those_that_are_worked_out_by_hand() {
        // Two nodes of eight. The first takes both until 100, when all who wait start; the last need not wait.
        let jobs = [
            job(1, 0, 16, 100),
            job(2, 10, 8, 50),
            job(3, 20, 1, 10),
            job(4, 60, 4, 600),
            job(5, 200, 1, 30),
        ];
        let mut player = Anchor::FifoStrict.player(&jobs, &[], Cluster::uniform(2, 8), 60);
        let went = engine::replay(&jobs, 60, player.as_mut(), &|| Duration::ZERO);
        assert_eq!(went.ended, [100, 150, 110, 700, 230]);
        let figures = figures("", &jobs, 16, &went, None);
        // 0, 0, 40, 80, 90: of four steps 3.96 and 3.996 lie between 80 and 90.
        near(figures.wait_mean, 42.0);
        near(figures.wait_p99, 89.6);
        near(figures.wait_p999, 89.96);
        near(figures.wait_max, 90.0);
        // The first and the second.
        near(figures.wait_mean_8gpu, 45.0);
        // 100 / 100, 140 / 60, 90 / 60, 640 / 600, and 30 / 60, which counts as 1.
        near(figures.bsld_mean, 6.9 / 5.0);
        // Until 200, the last submission: 16 for 100 s, 8 for 50 s, 1 for 10 s, 4 for 100 s, of 16.
        near(figures.util_window, 100.0 * 2_410.0 / 3_200.0);
        near(figures.makespan, 700.0);
        assert_eq!(figures.iso_unfair, None);
    }

    #[test]
    fn a_job_is_later_than_alone_from_a_twentieth_on_and_one_that_never_ran_does_not_count() {
        let jobs = [
            job(1, 50, 1, 100),
            job(2, 50, 1, 100),
            job(3, 50, 1, 100),
            job(4, 50, 1, 100),
            job(5, 50, 9, 100),
        ];
        let went = Outcome {
            ended: vec![155, 156, 140, 1_000_000, i64::MIN],
            stuck: 1,
            ..Outcome::default()
        };
        // The fourth would never have run alone.
        let alone = [150, 150, 150, i64::MAX / 2, i64::MAX / 2];
        let figures = figures("", &jobs, 8, &went, Some(&alone));
        assert_eq!(figures.iso_unfair, Some(25.0));
    }
}
