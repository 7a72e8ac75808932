//! When a job that waits may be considered, and what is said of it until then.

use std::time::Duration;

use super::*;
use crate::spec::ArrayPlace;

const NOON: Timestamp = Timestamp(1_795_608_000_000_000);

fn later(seconds: u64) -> Timestamp {
    NOON.plus(Duration::from_secs(seconds))
}

fn after(jobs: &[u64]) -> Gate {
    Gate {
        after: jobs.iter().copied().map(JobId).collect(),
        ..Gate::default()
    }
}

fn member(index: u32, at_most: u32) -> Gate {
    let place = ArrayPlace {
        id: JobId(10),
        index,
        size: 5,
        at_most: Some(at_most),
    };
    Gate {
        array: Some(place),
        ..Gate::default()
    }
}

fn ended(gates: &mut Gates, job: JobId, how: Standing) {
    gates.gone(job, NOON);
    gates.stands(job, how, Some(NOON));
}

fn numbers(jobs: &[JobId]) -> Vec<u64> {
    jobs.iter().map(|job| job.0).collect()
}

#[test]
fn a_job_without_conditions_is_not_held_back() {
    let mut gates = Gates::default();
    assert!(!gates.queued(JobId(1), Gate::default()));
    let unlimited = ArrayPlace {
        id: JobId(1),
        index: 0,
        size: 9,
        at_most: None,
    };
    let gate = Gate {
        array: Some(unlimited),
        ..Gate::default()
    };
    assert!(!gates.queued(JobId(2), gate));
    assert_eq!(gates.open(NOON), Opened::default());
    assert_eq!(gates.why(JobId(1), NOON), None);
}

#[test]
fn a_job_goes_when_its_time_has_come_and_not_before() {
    let mut gates = Gates::default();
    let gate = Gate {
        not_before: Some(later(7_200)),
        ..Gate::default()
    };
    assert!(gates.queued(JobId(1), gate.clone()));
    // Told again, it is held back once.
    gates.queued(JobId(1), gate);
    assert_eq!(gates.open(later(7_199)), Opened::default());
    assert_eq!(gates.next_look(), Some(later(7_200)));
    let words = gates.why(JobId(1), NOON);
    assert_eq!(words.as_deref(), Some("not before 14:00 UTC"));
    let words = gates.why(JobId(1), NOON.minus(Duration::from_secs(86_400)));
    assert_eq!(words.as_deref(), Some("not before 2026-11-25 14:00 UTC"));
    assert_eq!(numbers(&gates.open(later(7_200)).go), [1]);
    assert_eq!(gates.next_look(), None);
    assert_eq!(gates.open(later(9_000)), Opened::default());
}

#[test]
fn a_job_goes_when_all_that_it_waits_for_has_ended_as_it_wants() {
    let mut gates = Gates::default();
    let gate = Gate {
        after_any: vec![JobId(3)],
        ..after(&[2])
    };
    assert!(gates.queued(JobId(5), gate));
    assert_eq!(gates.open(NOON), Opened::default());
    let words = gates.why(JobId(5), NOON);
    let both = "waits for job 2 to succeed and for job 3 to end";
    assert_eq!(words.as_deref(), Some(both));
    ended(&mut gates, JobId(3), Standing::Failed);
    assert_eq!(gates.open(NOON), Opened::default());
    ended(&mut gates, JobId(2), Standing::Succeeded);
    assert_eq!(numbers(&gates.open(NOON).go), [5]);
}

#[test]
fn a_job_never_goes_whose_dependency_did_not_succeed() {
    for (standing, words) in [
        (Standing::Failed, "and that has failed"),
        (Standing::Cancelled, "and that was cancelled"),
        (Standing::Unknown, "and that is not there any more"),
    ] {
        let mut gates = Gates::default();
        gates.queued(JobId(5), after(&[2]));
        gates.stands(JobId(2), standing, None);
        let opened = gates.open(NOON);
        assert_eq!(opened.go, []);
        let (job, why) = &opened.never[0];
        assert_eq!(*job, JobId(5));
        assert!(why.starts_with("it was to start when job 2"), "{why}");
        assert!(why.ends_with(words), "{why}");
        // It is said again until the job is gone.
        assert!(gates.holds(JobId(5)));
        assert_eq!(gates.never(JobId(5)), Some(why.as_str()));
        gates.queued(JobId(5), after(&[2]));
        assert_eq!(gates.open(NOON), Opened::default());
        assert_eq!(gates.nevers().count(), 1);
        gates.gone(JobId(5), NOON);
        assert_eq!(gates.nevers().count(), 0);
    }
}

#[test]
fn who_waits_for_one_that_never_goes_never_goes_either() {
    let mut gates = Gates::default();
    gates.queued(JobId(5), after(&[2]));
    gates.queued(JobId(6), after(&[5]));
    ended(&mut gates, JobId(2), Standing::Failed);
    let opened = gates.open(NOON);
    assert_eq!(
        opened.never.len(),
        1,
        "the other hears of it when it has ended"
    );
    ended(&mut gates, JobId(5), Standing::Cancelled);
    let (job, why) = gates.open(NOON).never.remove(0);
    assert_eq!(job, JobId(6));
    assert!(
        why.ends_with("job 5 has succeeded, and that was cancelled"),
        "{why}"
    );
}

#[test]
fn a_dependency_that_is_run_again_is_waited_for_again() {
    let mut gates = Gates::default();
    let gate = Gate {
        not_before: Some(later(60)),
        ..after(&[2])
    };
    gates.queued(JobId(5), gate);
    gates.stands(JobId(2), Standing::Succeeded, None);
    assert_eq!(gates.open(NOON), Opened::default());
    gates.queued(JobId(2), Gate::default());
    assert_eq!(gates.open(later(60)), Opened::default());
    let words = gates.why(JobId(5), later(60));
    assert_eq!(words.as_deref(), Some("waits for job 2 to succeed"));
    ended(&mut gates, JobId(2), Standing::Succeeded);
    assert_eq!(numbers(&gates.open(later(61)).go), [5]);
    // It has no place yet, and so it is as if the coordinator had been started anew.
    gates.queued(JobId(2), Gate::default());
    assert_eq!(numbers(&gates.open(later(70)).back), [5]);
    assert!(gates.holds(JobId(5)));
    ended(&mut gates, JobId(2), Standing::Succeeded);
    assert_eq!(numbers(&gates.open(later(80)).go), [5]);
    // Once it has a place it goes on whatever becomes of that.
    gates.placed(JobId(5), &after(&[2]), later(90));
    gates.queued(JobId(2), Gate::default());
    ended(&mut gates, JobId(2), Standing::Failed);
    assert_eq!(gates.open(later(100)), Opened::default());
}

/// What a start anew is told of a job and of those that it waits for.
fn anew(gate: &Gate, placed: Option<Timestamp>, ends: &[(u64, u64)]) -> Gates {
    let mut gates = Gates::default();
    match placed {
        Some(at) => gates.placed(JobId(5), gate, at),
        None => drop(gates.queued(JobId(5), gate.clone())),
    }
    gates.open(later(900));
    for (job, at) in ends {
        gates.stands(JobId(*job), Standing::Succeeded, Some(later(*at)));
    }
    gates.open(later(901));
    gates
}

#[test]
fn a_job_waits_for_nodes_since_the_last_thing_went_that_was_in_its_way_and_a_start_anew_finds_the_same()
 {
    let gate = Gate {
        not_before: Some(later(50)),
        after_any: vec![JobId(3)],
        ..after(&[2])
    };
    let mut live = Gates::default();
    live.queued(JobId(5), gate.clone());
    live.stands(JobId(2), Standing::Succeeded, Some(later(100)));
    live.open(later(101));
    assert_eq!(live.since(JobId(5)), None);
    live.stands(JobId(3), Standing::Failed, Some(later(70)));
    // The coordinator was busy meanwhile.
    live.open(later(130));
    assert_eq!(live.since(JobId(5)), Some(later(100)));
    let ends = [(2, 100), (3, 70)];
    let waits = anew(&gate, None, &ends);
    assert_eq!(waits.since(JobId(5)), Some(later(100)));
    // One that had a place is considered at once, and dated when it is known.
    let runs = anew(&gate, Some(later(400)), &ends);
    assert!(!runs.holds(JobId(5)));
    assert_eq!(runs.since(JobId(5)), Some(later(100)));
    // Somebody has run one of them again since: that was after its place.
    let runs = anew(&gate, Some(later(400)), &[(2, 100), (3, 800)]);
    assert_eq!(runs.since(JobId(5)), Some(later(400)));
    assert!(runs.waiters.is_empty() && runs.standings.is_empty() && runs.due.is_empty());
}

#[test]
fn one_of_an_array_waits_for_nodes_since_the_end_of_the_one_whose_place_it_has() {
    let mut live = Gates::default();
    for index in 0..3 {
        live.queued(JobId(10 + u64::from(index)), member(index, 2));
    }
    live.open(NOON);
    live.placed(JobId(10), &member(0, 2), NOON);
    assert_eq!(live.since(JobId(11)), None, "since it was asked for");
    live.gone(JobId(10), later(60));
    live.open(later(61));
    assert_eq!(live.since(JobId(12)), Some(later(60)));
    let mut anew = Gates::default();
    anew.member_ended(JobId(10), 0, later(60));
    anew.placed(JobId(11), &member(1, 2), later(1));
    anew.queued(JobId(12), member(2, 2));
    anew.open(later(500));
    assert_eq!(anew.since(JobId(12)), Some(later(60)));
    assert_eq!(anew.since(JobId(11)), None, "since it was asked for");
}

#[test]
fn after_a_start_anew_each_of_an_array_is_dated_as_it_was_when_it_was_let_through() {
    let mut live = Gates::default();
    let of = |index: u64| JobId(10 + index);
    for index in 0..6 {
        live.queued(of(u64::from(index)), member(index, 3));
    }
    live.open(NOON);
    for index in 0..2 {
        live.placed(of(u64::from(index)), &member(index, 3), later(1));
    }
    // 2 and 3 wait for nodes when 4 has had some already, and ended.
    for (index, end) in [(0, 60), (1, 90)] {
        live.gone(of(index), later(end));
        live.open(later(end + 1));
    }
    live.placed(of(4), &member(4, 3), later(100));
    live.gone(of(4), later(120));
    live.open(later(121));
    live.placed(of(5), &member(5, 3), later(130));
    let mut anew = Gates::default();
    for (index, end) in [(4, 120), (1, 90), (0, 60)] {
        anew.member_ended(JobId(10), index, later(end));
    }
    anew.placed(of(5), &member(5, 3), later(130));
    for index in [3, 2] {
        anew.queued(of(u64::from(index)), member(index, 3));
    }
    anew.open(later(500));
    for (index, since) in [(2, None), (3, Some(60)), (5, Some(120))] {
        assert_eq!(live.since(of(index)), since.map(later), "{index}");
        assert_eq!(anew.since(of(index)), since.map(later), "{index} anew");
    }
}

#[test]
fn of_an_array_as_many_go_as_may_by_index_and_one_that_ends_lets_the_next_through() {
    let mut gates = Gates::default();
    for (job, index) in [(12, 2), (10, 0), (11, 1), (13, 3)] {
        assert!(gates.queued(JobId(job), member(index, 2)));
    }
    assert_eq!(numbers(&gates.open(NOON).go), [10, 11]);
    let words = gates.why(JobId(12), NOON).unwrap();
    assert!(words.starts_with("2 of its array run"), "{words}");
    assert!(words.ends_with("2 at once is its limit"), "{words}");
    // One that is tried again keeps its place, and takes no second one.
    gates.placed(JobId(10), &member(0, 2), NOON);
    gates.queued(JobId(10), member(0, 2));
    assert_eq!(numbers(&gates.open(NOON).go), [10], "its place is kept");
    assert_eq!(gates.open(NOON), Opened::default());
    ended(&mut gates, JobId(11), Standing::Failed);
    assert_eq!(numbers(&gates.open(NOON).go), [12]);
    ended(&mut gates, JobId(13), Standing::Cancelled);
    ended(&mut gates, JobId(10), Standing::Succeeded);
    assert_eq!(gates.open(NOON), Opened::default(), "nobody is left");
}

#[test]
fn after_a_start_anew_those_that_run_count_against_their_array() {
    let mut gates = Gates::default();
    gates.placed(JobId(10), &member(0, 2), NOON);
    gates.placed(JobId(11), &member(1, 2), NOON);
    gates.queued(JobId(12), member(2, 2));
    gates.queued(JobId(13), member(3, 2));
    assert_eq!(gates.open(NOON), Opened::default());
    // The store knows better: it has a place, and is next for none.
    gates.placed(JobId(12), &member(2, 2), NOON);
    ended(&mut gates, JobId(10), Standing::Succeeded);
    assert!(gates.open(NOON).go.is_empty(), "two run still");
    ended(&mut gates, JobId(11), Standing::Succeeded);
    assert_eq!(numbers(&gates.open(NOON).go), [13]);
}

#[test]
fn a_member_that_waits_for_another_job_leaves_its_place_to_the_next() {
    let mut gates = Gates::default();
    let gate = Gate {
        after: vec![JobId(2)],
        ..member(0, 1)
    };
    gates.queued(JobId(10), gate);
    gates.queued(JobId(11), member(1, 1));
    assert_eq!(numbers(&gates.open(NOON).go), [11]);
    ended(&mut gates, JobId(2), Standing::Succeeded);
    assert_eq!(gates.open(NOON), Opened::default());
    ended(&mut gates, JobId(11), Standing::Succeeded);
    assert_eq!(numbers(&gates.open(NOON).go), [10]);
}

#[test]
fn a_moment_that_has_come_has_come_though_the_clock_is_set_back_afterwards() {
    let mut gates = Gates::default();
    let gate = Gate {
        not_before: Some(later(60)),
        ..after(&[2])
    };
    gates.queued(JobId(5), gate);
    gates.stands(JobId(2), Standing::Open, None);
    assert_eq!(gates.open(later(60)), Opened::default(), "2 still runs");
    ended(&mut gates, JobId(2), Standing::Succeeded);
    assert_eq!(numbers(&gates.open(NOON).go), [5]);
    // So do those of an array who waited for their turn.
    let mut gates = Gates::default();
    for index in 0..2 {
        let gate = Gate {
            not_before: Some(later(60)),
            ..member(index, 1)
        };
        gates.queued(JobId(10 + u64::from(index)), gate);
    }
    assert_eq!(numbers(&gates.open(later(60)).go), [10]);
    gates.gone(JobId(10), later(61));
    assert_eq!(numbers(&gates.open(NOON).go), [11]);
}

/// A clock that is set forward opens a gate between two looks: until the next one there is a reason too.
#[test]
fn a_job_that_is_held_back_always_says_why_also_when_its_time_has_just_come() {
    let mut gates = Gates::default();
    let gate = Gate {
        not_before: Some(later(60)),
        ..after(&[2])
    };
    gates.queued(JobId(5), gate);
    ended(&mut gates, JobId(2), Standing::Succeeded);
    for now in [NOON, later(59), later(60), later(90)] {
        let why = gates.why(JobId(5), now).expect("it is held back");
        assert!(!why.is_empty(), "{now:?}");
    }
    assert_eq!(numbers(&gates.open(later(90)).go), [5]);
    assert_eq!(gates.why(JobId(5), later(90)), None);
}
