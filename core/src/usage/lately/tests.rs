//! Against the sums of a scheduler that never stopped.

use super::*;
use crate::{
    failure::TaskEnd,
    ids::{JobId, NodeName, Rank},
    job::Event,
    sched::Allocation,
    spec::JobSpec,
};

const DAY: i64 = 86_400;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

/// A job that holds so many GPUs from then on.
fn holds(project: Option<i64>, gpus: usize, from: i64) -> Job {
    let spec = JobSpec {
        project_id: project,
        ..JobSpec::default()
    };
    let job = Job::accepted(JobId(1), spec, "ada".into(), at(from));
    let job = job.step(at(from), Event::Prepared).unwrap().job;
    let placed = Event::Placed {
        queued_at: at(from),
        allocations: vec![Allocation {
            node: NodeName("n1".into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: (0..gpus).map(|gpu| gpu.to_string()).collect(),
            address: String::new(),
        }],
        secret: "s".to_owned().into(),
    };
    job.step(at(from), placed).unwrap().job
}

fn ended(job: &Job, at_second: i64) -> Job {
    let task = job.task(job.attempt().unwrap().number, Rank(0));
    let end = TaskEnd {
        exit_code: Some(0),
        ..TaskEnd::default()
    };
    job.step(at(at_second), Event::Ended(task, end))
        .unwrap()
        .job
}

/// Second by second: what was held in one is added, and all fades.
fn one_by_one(gpus: f64, (from, until): (i64, i64), (now, half_life): (i64, f64)) -> f64 {
    let fades = 0.5f64.powf(1.0 / half_life);
    (from..now).fold(0.0, |sum, second| {
        let held = if second < until { gpus } else { 0.0 };
        sum * fades + held
    })
}

fn is_near(one: f64, other: f64) -> bool {
    (one - other).abs() <= other.abs() * 0.001
}

#[test]
fn what_was_used_is_what_a_scheduler_that_never_stopped_would_have_counted() {
    let half_life = 3_600;
    let now = 5 * 3_600;
    let mut found = Lately::new(at(now), half_life);
    let first = holds(Some(7), 4, 0);
    found.add(&ended(&first, 7_200));
    found.add(&holds(Some(8), 2, 9_000));
    found.add(&ended(&holds(None, 1, 3_000), 4_000));
    let sums = found.sums();
    let counted = |gpus, span| one_by_one(gpus, span, (now, f64::from(half_life)));
    assert!(is_near(sums["7"], counted(4.0, (0, 7_200))), "{sums:?}");
    assert!(
        is_near(sums["8"], counted(2.0, (9_000, now))),
        "it holds them still: {sums:?}"
    );
    assert!(
        is_near(sums["user ada"], counted(1.0, (3_000, 4_000))),
        "{sums:?}"
    );
}

#[test]
fn what_is_long_over_or_yet_to_come_does_not_count() {
    let mut found = Lately::new(at(10 * DAY), 86_400);
    assert!(found.may_have(at(5 * DAY)) && !found.may_have(at(3 * DAY)));
    assert!(found.may_have(at(11 * DAY)), "the clock was set back");
    found.add(&holds(Some(7), 4, 11 * DAY));
    assert!(found.sums().is_empty());
    let waits = Job::accepted(JobId(1), JobSpec::default(), "ada".into(), at(0));
    found.add(&waits);
    assert!(found.sums().is_empty());
}
