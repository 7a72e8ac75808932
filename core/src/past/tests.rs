//! Runs of jobs as rows of a trace.

use super::*;
use crate::{
    failure::TaskEnd,
    ids::{NodeName, Rank},
    job::Event,
    sched::Allocation,
    spec::JobSpec,
};

fn at(second: i64) -> Timestamp {
    Timestamp(second * 1_000_000)
}

fn asked(change: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = JobSpec::default();
    spec.retry.limit = 2;
    spec.resources.gpus = 4;
    change(&mut spec);
    let job = Job::accepted(JobId(3), spec, "ada".into(), at(10));
    job.step(at(10), Event::Prepared).unwrap().job
}

/// It is placed, starts a second later, and ends; without an end it goes on.
fn ran(job: Job, (from, to): (i64, Option<i64>), change: impl Fn(&mut TaskEnd)) -> Job {
    let allocation = Allocation {
        node: NodeName("n1".into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    let placed = Event::Placed {
        queued_at: job.state_since,
        allocations: vec![allocation],
        secret: "s".to_owned().into(),
    };
    let job = job.step(at(from), placed).unwrap().job;
    let number = job.attempt().unwrap().number;
    let task = job.task(number, Rank(0));
    let started = Event::Started(task, at(from + 1));
    let job = job.step(at(from + 1), started).unwrap().job;
    let Some(to) = to else { return job };
    let mut end = TaskEnd::default();
    change(&mut end);
    job.step(at(to), Event::Ended(task, end)).unwrap().job
}

fn broken(end: &mut TaskEnd) {
    end.error = Some("the disk is full".into());
    end.infrastructure = true;
}

fn well(end: &mut TaskEnd) {
    end.exit_code = Some(0);
}

/// Submitted, GPUs, and for how long it ran.
fn rows(job: &Job, now: i64) -> Vec<(i64, u32, u64)> {
    let rows = PastJob::of(job, at(now)).into_iter();
    let rows = rows.map(|row| (row.submitted_at.0 / 1_000_000, row.gpus, row.ran.as_secs()));
    rows.collect()
}

#[test]
fn attempts_of_one_run_are_one_row_with_the_time_that_trainers_ran_for_what_was_kept() {
    let job = ran(asked(|_| ()), (20, Some(51)), broken);
    let mut job = ran(job, (60, Some(81)), well);
    // The second began anew: what the first had done was lost, and is no work that the job needs.
    assert_eq!(rows(&job, 1_000), [(10, 4, 20)]);
    job.attempts[1].anew = false;
    assert_eq!(rows(&job, 1_000), [(10, 4, 30 + 20)]);
}

#[test]
fn a_file_tells_until_when_a_job_that_runs_in_it_is_known_to_have_run() {
    let job = ran(asked(|_| ()), (20, None), well);
    let newest = PastJob::newest(&job);
    assert!(newest >= at(21) && newest < at(60), "{newest:?}");
}

#[test]
fn what_still_runs_has_run_so_far_and_what_waits_has_not() {
    let job = ran(asked(|_| ()), (20, None), well);
    assert_eq!(rows(&job, 31), [(10, 4, 10)]);
    assert_eq!(rows(&asked(|_| ()), 31), []);
}

#[test]
fn a_user_who_runs_a_job_again_makes_another_row() {
    let job = ran(asked(|_| ()), (20, Some(41)), well);
    let again = job.step(at(500), Event::RestartRequested).unwrap().job;
    let twice = ran(again, (520, Some(531)), well);
    assert_eq!(rows(&twice, 1_000), [(10, 4, 20), (500, 4, 10)]);
    let again = twice.step(at(900), Event::RestartRequested).unwrap().job;
    let thrice = ran(again, (910, Some(921)), well);
    let known = [(10, 4, 20), (520, 4, 10), (900, 4, 10)];
    assert_eq!(rows(&thrice, 1_000), known);
}

#[test]
fn a_job_that_was_cancelled_before_it_had_a_place_is_submitted_when_it_is_asked_for_again() {
    let job = asked(|_| ()).step(at(100), Event::CancelRequested);
    let job = job.unwrap().job;
    let again = job.step(at(500), Event::RestartRequested).unwrap().job;
    let job = ran(again, (520, Some(531)), well);
    assert_eq!(rows(&job, 1_000), [(500, 4, 10)]);
}

#[test]
fn a_gang_has_nodes_with_as_many_gpus_each_and_a_total_is_only_that() {
    let asks = |spec: &mut JobSpec| (spec.nodes, spec.priority) = (2, 700);
    let gang = ran(asked(asks), (20, Some(41)), well);
    let row = &PastJob::of(&gang, at(99))[0];
    assert_eq!((row.nodes, row.gpus, row.priority), (2, 8, 700));
    let total = asked(|spec| spec.placement.gpus_total = Some(12));
    let row = &PastJob::of(&ran(total, (20, Some(41)), well), at(99))[0];
    assert_eq!((row.nodes, row.gpus), (0, 12));
}

/// One that had its nodes to itself, with so many GPUs on each.
fn alone(on: &[usize], change: impl FnOnce(&mut JobSpec)) -> PastJob {
    let job = asked(|spec| {
        (spec.placement.exclusive, spec.resources.gpus) = (true, 0);
        change(spec);
    });
    let mut job = ran(job, (20, Some(41)), well);
    let attempt = &mut job.attempts[0];
    let part = |gpus: &usize| {
        let mut part = attempt.lead.clone();
        part.allocation.gpus = (0..*gpus).map(|gpu| format!("GPU-{gpu}")).collect();
        part
    };
    let mut parts = on.iter().map(part).collect::<Vec<_>>().into_iter();
    attempt.lead = parts.next().unwrap();
    attempt.others = parts.collect();
    PastJob::of(&job, at(99)).remove(0)
}

#[test]
fn one_that_had_its_nodes_to_itself_is_replayed_with_all_gpus_of_theirs() {
    let size = |row: PastJob| (row.nodes, row.gpus);
    assert_eq!(size(alone(&[8], |_| ())), (1, 8), "it asked for none");
    let one = |spec: &mut JobSpec| spec.resources.gpus = 1;
    assert_eq!(size(alone(&[8], one)), (1, 8));
    let two = |spec: &mut JobSpec| (spec.nodes, spec.resources.gpus) = (2, 1);
    assert_eq!(size(alone(&[8, 8], two)), (2, 16));
    assert_eq!(size(alone(&[8, 4], two)), (0, 12), "not as many on each");
    let total = |spec: &mut JobSpec| spec.placement.gpus_total = Some(10);
    assert_eq!(size(alone(&[8, 4], total)), (0, 12));
    assert_eq!(size(alone(&[8, 8], total)), (0, 16));
    // On nodes without any it has none, and an old row may not say.
    assert_eq!(size(alone(&[0], |_| ())), (1, 0));
    assert_eq!(size(alone(&[0], one)), (1, 1));
}
