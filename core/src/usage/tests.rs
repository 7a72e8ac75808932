//! Reports over scripted histories: exact sums.

#![expect(clippy::float_cmp, reason = "whole minutes are exact")]

use super::*;
use crate::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, JobId, NodeName, Rank},
    job::{Event, Told},
    record::Checkpoint,
    sched::Allocation,
    spec::JobSpec,
};

/// A minute of the story.
fn at(minute: i64) -> Timestamp {
    Timestamp(minute * 60_000_000)
}

fn on(node: &str, gpus: usize, cpus: u32) -> Allocation {
    Allocation {
        node: NodeName(node.into()),
        cpus,
        memory_bytes: 0,
        gpus: (0..gpus).map(|gpu| format!("{node}-{gpu}")).collect(),
        address: String::new(),
    }
}

/// A job, and what happens to it.
struct Story(Job);

impl Story {
    fn of(id: u64, user: &str, project: Option<i64>, minute: i64) -> Self {
        let mut spec = JobSpec {
            project_id: project,
            ..JobSpec::default()
        };
        spec.retry.limit = 3;
        let job = Job::accepted(JobId(id), spec, user.into(), at(minute));
        Self(job).then(minute, Event::Prepared)
    }

    fn then(mut self, minute: i64, event: Event) -> Self {
        self.0 = self.0.step(at(minute), event).unwrap().job;
        self
    }

    fn placed(self, minute: i64, allocations: Vec<Allocation>) -> Self {
        let event = Event::Placed {
            queued_at: self.0.state_since,
            allocations,
            secret: "s".to_owned().into(),
        };
        self.then(minute, event)
    }

    fn number(&self) -> AttemptNo {
        self.0.attempt().unwrap().number
    }

    fn started(self, minute: i64) -> Self {
        let task = self.0.task(self.number(), Rank(0));
        self.then(minute, Event::Started(task, at(minute)))
    }

    fn ended(self, minute: i64, change: impl Fn(&mut TaskEnd)) -> Self {
        let mut end = TaskEnd::default();
        change(&mut end);
        let task = self.0.task(self.number(), Rank(0));
        self.then(minute, Event::Ended(task, end))
    }

    /// Its work up to here is where other nodes can go on from.
    fn saved(self, minute: i64) -> Self {
        let told = Told {
            kept: Some(Checkpoint {
                path: "checkpoints/1/last.pt".into(),
                ..Checkpoint::default()
            }),
            ..Told::default()
        };
        let task = self.0.task(self.number(), Rank(0));
        self.then(minute, Event::Stored(task, Box::new(told)))
    }
}

fn well(end: &mut TaskEnd) {
    end.exit_code = Some(0);
}

fn badly(end: &mut TaskEnd) {
    end.exit_code = Some(3);
}

fn of_the_platform(end: &mut TaskEnd) {
    end.error = Some("the disk is full".into());
    end.infrastructure = true;
}

fn report(jobs: &[Story], (from, to): (i64, i64), by: By, now: i64) -> Vec<Row> {
    let window = Window {
        from: at(from),
        to: at(to),
    };
    let mut usage = Usage::new(window, by, at(now));
    jobs.iter().for_each(|story| usage.add(&story.0, None));
    usage.rows()
}

fn only(jobs: &[Story], window: (i64, i64), now: i64) -> Row {
    let rows = report(jobs, window, By::Project, now);
    let [row] = rows.as_slice() else {
        panic!("one row: {rows:?}");
    };
    row.clone()
}

fn is(row: &Row, gpu_minutes: f64, cpu_minutes: f64, waited_minutes: f64) {
    assert_eq!(row.gpu_hours * 60.0, gpu_minutes, "{row:?}");
    assert_eq!(row.cpu_hours * 60.0, cpu_minutes, "{row:?}");
    assert_eq!(row.waited_s / 60.0, waited_minutes, "{row:?}");
}

#[test]
fn a_job_counts_for_what_it_held_from_its_place_to_its_end() {
    let job = Story::of(1, "ada", None, 10)
        .placed(30, vec![on("n1", 2, 4)])
        .started(35)
        .ended(90, well);
    let row = only(&[job], (0, 1_000), 2_000);
    is(&row, 120.0, 240.0, 20.0);
    assert_eq!((row.jobs, row.failures, row.preemptions), (1, 0, 0));
    assert!(row.wasted_gpu_hours == 0.0);
}

#[test]
fn a_window_cuts_attempts_and_waits() {
    let jobs = || {
        vec![
            Story::of(1, "ada", None, 10)
                .placed(30, vec![on("n1", 2, 1)])
                .started(35)
                .ended(90, well),
        ]
    };
    is(&only(&jobs(), (20, 60), 2_000), 60.0, 30.0, 10.0);
    is(&only(&jobs(), (60, 100), 2_000), 60.0, 30.0, 0.0);
    // It was submitted then, and neither waited nor ran before the end of it.
    is(&only(&jobs(), (0, 11), 2_000), 0.0, 0.0, 1.0);
    assert_eq!(report(&jobs(), (90, 200), By::Project, 2_000), []);
    assert_eq!(report(&jobs(), (0, 10), By::Project, 2_000), []);
    // Windows side by side have together what one over both has.
    let whole = only(&jobs(), (0, 100), 2_000).gpu_hours;
    let parts = only(&jobs(), (0, 47), 2_000).gpu_hours + only(&jobs(), (47, 100), 2_000).gpu_hours;
    assert!((whole - parts).abs() < 1e-9);
}

#[test]
fn what_still_runs_or_waits_counts_until_now_and_not_longer() {
    let jobs = [
        Story::of(1, "ada", None, 0)
            .placed(10, vec![on("n1", 4, 1)])
            .started(12),
        Story::of(2, "ada", None, 5),
    ];
    let row = only(&jobs, (0, 10_000), 40);
    is(&row, 120.0, 30.0, 10.0 + 35.0);
    assert_eq!(row.jobs, 2);
    is(&only(&jobs, (20, 30), 40), 40.0, 10.0, 10.0);
}

#[test]
fn a_job_that_failed_and_was_tried_again_has_wasted_what_nothing_went_on_from() {
    let failed = || {
        Story::of(1, "ada", None, 0)
            .placed(0, vec![on("n1", 1, 1)])
            .started(0)
    };
    let again = |story: Story| {
        let story = story.ended(30, of_the_platform);
        assert_eq!(story.0.state, JobState::Queued);
        story
            .placed(40, vec![on("n2", 1, 1)])
            .started(40)
            .ended(60, well)
    };
    let anew = only(&[again(failed())], (0, 100), 200);
    is(&anew, 50.0, 50.0, 10.0);
    assert_eq!((anew.jobs, anew.failures), (1, 1));
    assert!(anew.wasted_gpu_hours == 0.5);
    let went_on = only(&[again(failed().saved(20))], (0, 100), 200);
    assert!(went_on.wasted_gpu_hours == 0.0, "{went_on:?}");
    assert_eq!(went_on.failures, 1);
    let last = only(&[failed().ended(30, badly)], (0, 100), 200);
    assert!(last.wasted_gpu_hours == 0.5, "{last:?}");
}

#[test]
fn who_made_room_waits_again_and_is_counted_as_preempted_and_not_as_failed() {
    let preempted = |story: Story| {
        let number = story.number();
        story
            .then(20, Event::MakeRoom(number, JobId(9)))
            .ended(25, |end| end.stop_cause = Some(StopCause::Preempted))
    };
    let begun = || {
        Story::of(1, "ada", None, 0)
            .placed(5, vec![on("n1", 2, 1)])
            .started(5)
    };
    // What becomes of its work is not known while it waits.
    let waits = only(&[preempted(begun())], (0, 100), 35);
    is(&waits, 40.0, 20.0, 5.0 + 10.0);
    assert_eq!((waits.preemptions, waits.failures), (1, 0));
    assert!(waits.wasted_gpu_hours == 0.0);
    let anew = preempted(begun()).placed(45, vec![on("n1", 2, 1)]);
    let anew = only(&[anew], (0, 100), 50);
    is(&anew, 50.0, 25.0, 5.0 + 20.0);
    assert!((anew.wasted_gpu_hours - 40.0 / 60.0).abs() < 1e-12);
    let went_on = preempted(begun().saved(15)).placed(45, vec![on("n1", 2, 1)]);
    let went_on = only(&[went_on], (0, 100), 50);
    assert!(went_on.wasted_gpu_hours == 0.0, "{went_on:?}");
}

#[test]
fn a_job_that_its_user_ran_again_waits_from_then_on() {
    let job = Story::of(1, "ada", None, 0)
        .placed(10, vec![on("n1", 1, 1)])
        .started(10)
        .ended(20, badly)
        .then(500, Event::RestartRequested)
        .placed(530, vec![on("n1", 1, 1)])
        .started(530)
        .ended(540, well);
    let row = only(&[job], (0, 1_000), 2_000);
    is(&row, 20.0, 20.0, 10.0 + 30.0);
    assert_eq!((row.jobs, row.failures), (1, 1));
}

#[test]
fn a_job_that_was_cancelled_while_it_waited_has_waited_until_then() {
    let job = Story::of(1, "ada", None, 0).then(15, Event::CancelRequested);
    is(&only(&[job], (0, 100), 200), 0.0, 0.0, 15.0);
    let mut later = Story::of(2, "ada", None, 0);
    later.0.spec.not_before = Some(at(10));
    let later = later.then(15, Event::CancelRequested);
    is(&only(&[later], (0, 100), 200), 0.0, 0.0, 5.0);
}

#[test]
fn what_a_job_was_to_wait_for_is_no_waiting_for_a_place_but_a_new_try_is() {
    let waited = |story: &Story, came: i64| {
        let window = Window {
            from: at(0),
            to: at(1_000),
        };
        let mut usage = Usage::new(window, By::Project, at(100));
        usage.add(&story.0, Some(at(came)));
        usage.total().waited_s / 60.0
    };
    let waits = Story::of(1, "ada", None, 0);
    assert_eq!(waited(&waits, 100), 0.0, "one of them has not ended");
    assert_eq!(waited(&waits, 70), 30.0);
    let cancelled = Story::of(1, "ada", None, 0).then(90, Event::CancelRequested);
    assert_eq!(waited(&cancelled, 70), 20.0);
    let again = waits
        .placed(80, vec![on("n1", 1, 1)])
        .started(80)
        .ended(85, of_the_platform);
    assert_eq!(waited(&again, 70), 10.0 + 15.0);
    // What it waited for was run again when it had had its place: that is nothing to it.
    let placed = again.placed(95, vec![on("n1", 1, 1)]);
    assert_eq!(waited(&placed, 92), 10.0);
}

#[test]
fn each_task_of_a_gang_counts_until_its_own_end() {
    let gang = Story::of(1, "ada", None, 0).placed(0, vec![on("n1", 2, 1), on("n2", 2, 1)]);
    let number = gang.number();
    let task = |rank| gang.0.task(number, Rank(rank));
    let (lead, other) = (task(0), task(1));
    let end = |code: i32| TaskEnd {
        exit_code: Some(code),
        ..TaskEnd::default()
    };
    let gang = gang
        .then(10, Event::Ended(other, end(0)))
        .then(30, Event::Ended(lead, end(0)));
    is(&only(&[gang], (0, 100), 200), 20.0 + 60.0, 10.0 + 30.0, 0.0);
}

#[test]
fn rows_are_by_project_by_user_or_by_both_and_the_total_is_of_all() {
    let job = |id, user: &str, project, wait: i64| {
        Story::of(id, user, project, 0)
            .placed(wait, vec![on("n1", 1, 1)])
            .started(wait)
            .ended(wait + 60, well)
    };
    let jobs: Vec<Story> = [
        job(1, "ada", Some(7), 1),
        job(2, "bob", Some(7), 2),
        job(3, "ada", None, 3),
    ]
    .into();
    let names = |by| {
        let rows = report(&jobs, (0, 1_000), by, 2_000).into_iter();
        let rows = rows.map(|row| (row.project, row.user, row.jobs));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(names(By::Project), [(None, None, 1), (Some(7), None, 2)]);
    let (ada, bob) = (|| Some("ada".to_owned()), || Some("bob".to_owned()));
    assert_eq!(names(By::User), [(None, ada(), 2), (None, bob(), 1)]);
    assert_eq!(
        names(By::Both),
        [(None, ada(), 1), (Some(7), ada(), 1), (Some(7), bob(), 1)]
    );
    let many: Vec<Story> = (1..=10).map(|id| job(10, "ada", None, id)).collect();
    let row = only(&many, (0, 1_000), 2_000);
    assert!(row.wait_p90_s == 9.0 * 60.0 && row.wait_mean_s == 5.5 * 60.0);
    let mut usage = Usage::new(
        Window {
            from: at(0),
            to: at(1_000),
        },
        By::Both,
        at(2_000),
    );
    jobs.iter().for_each(|story| usage.add(&story.0, None));
    let total = usage.total();
    assert!(total.jobs == 3 && total.gpu_hours == 3.0, "{total:?}");
    assert!(total.waited_s == 6.0 * 60.0);
}

#[test]
fn the_wait_of_a_job_in_two_reports_in_a_row_is_its_wait_in_one() {
    let mut spec = JobSpec::default();
    spec.retry.limit = 3;
    // It is asked for at 0, and is ready at 4.
    let job = Job::accepted(JobId(1), spec, "ann".into(), at(0));
    let queued = || Story(job.clone()).then(4, Event::Prepared);
    let early = only(&[queued()], (0, 6), 6);
    is(&early, 0.0, 0.0, 6.0);
    let placed = || queued().placed(10, vec![on("n1", 1, 1)]);
    is(&only(&[placed()], (0, 6), 10), 0.0, 0.0, 6.0);
    is(&only(&[placed()], (6, 10), 10), 0.0, 0.0, 4.0);
}

#[test]
fn a_job_that_operators_move_has_not_failed_whether_it_allows_that_or_not() {
    for allowed in [false, true] {
        let mut story = Story::of(1, "ann", Some(7), 0)
            .placed(0, vec![on("n1", 1, 1)])
            .started(0);
        let vacates = crate::job::Vacates {
            why: "node n1 is drained: new fans".into(),
            allowed,
        };
        story.0.attempts[0].vacates = Some(vacates);
        let moved = story.ended(10, |end| end.stop_cause = Some(StopCause::Preempted));
        let class = moved.0.attempts[0].outcome().unwrap().class;
        let expected = match allowed {
            true => FailureClass::Preempted,
            false => FailureClass::Infrastructure,
        };
        assert_eq!(class, Some(expected));
        let row = only(&[moved], (0, 20), 20);
        assert_eq!((row.preemptions, row.failures), (1, 0));
    }
}
