//! Drains and windows over time.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{window::SHORT, *};

fn n1() -> NodeName {
    NodeName("n1".into())
}

fn window(id: u64, from: i64, until: i64) -> Window {
    Window {
        id,
        scope: Scope::All,
        from: Timestamp(from),
        until: Timestamp(until),
        why: String::new(),
        made_by: String::new(),
        made_at: Timestamp(0),
    }
}

fn drain(at: Option<i64>, then: AtDeadline) -> Drain {
    Drain {
        reason: "new fan".into(),
        deadline: at.map(|at| Deadline {
            at: Timestamp(at),
            then,
        }),
    }
}

#[test]
fn a_drained_node_empties_itself_at_its_deadline_unless_it_is_to_wait() {
    let at = |now, drain: &Drain| duty(Timestamp(now), &n1(), Some(drain), []);
    let goes = drain(Some(10), AtDeadline::Preempt);
    assert_eq!(at(9, &goes), Duty::Draining);
    let words = "node n1 is drained: new fan".to_owned();
    assert_eq!(at(10, &goes), Duty::Vacating(words));
    assert_eq!(at(99, &drain(Some(10), AtDeadline::Wait)), Duty::Draining);
    assert_eq!(at(99, &drain(None, AtDeadline::Preempt)), Duty::Draining);
    assert_eq!(duty(Timestamp(99), &n1(), None, []), Duty::Open);
}

#[test]
fn a_window_closes_its_nodes_from_its_first_moment_to_its_last_whatever_operators_say() {
    let on = window(1, 10, 20);
    let waits = drain(Some(5), AtDeadline::Wait);
    let at = |now, drain| duty(Timestamp(now), &n1(), drain, [&on]);
    assert_eq!(at(9, None), Duty::Open);
    assert!(matches!(at(10, None), Duty::Vacating(_)));
    assert!(matches!(at(19, Some(&waits)), Duty::Vacating(_)));
    assert_eq!(at(20, Some(&waits)), Duty::Draining);
    assert_eq!(at(20, None), Duty::Open);
}

#[test]
fn a_window_is_on_the_nodes_that_it_names_by_name_or_by_all_of_its_labels() {
    let mut one = window(1, 0, 1);
    let labels = BTreeSet::from(["rack=1".to_owned(), "zone=a".to_owned()]);
    one.scope = Scope::Nodes([n1()].into());
    assert!(one.covers(&n1(), &labels) && !one.covers(&NodeName("n2".into()), &labels));
    one.scope = Scope::Labels(["zone=a".to_owned()].into());
    assert!(one.covers(&n1(), &labels) && !one.covers(&n1(), &BTreeSet::new()));
    one.scope = Scope::Labels(["zone=a".to_owned(), "rack=2".to_owned()].into());
    assert!(!one.covers(&n1(), &labels));
}

#[test]
fn of_windows_that_overlap_one_is_named_and_the_node_is_closed_until_the_last_is_over() {
    let windows = [
        window(1, 10, 30),
        window(2, 12, 20),
        window(3, 30, 40),
        window(4, 41, 60),
        window(5, 45, 50),
    ];
    let at = |now, windows: &[Window]| {
        let told = closure(Timestamp(now), windows)?;
        Some((told.id, told.closed_until.0, told.others))
    };
    let named = |now, id, until, others: &[u64]| {
        let mut backwards = windows.to_vec();
        backwards.reverse();
        let told = Some((id, until, others.to_vec()));
        assert_eq!(at(now, &windows), told, "{now}");
        assert_eq!(at(now, &backwards), told, "{now}");
    };
    named(0, 1, 40, &[2, 3]);
    named(15, 1, 40, &[2, 3]);
    named(25, 1, 40, &[3]);
    named(30, 3, 40, &[]);
    named(40, 4, 60, &[5]);
    assert_eq!(at(60, &windows), None);
    // What a node does is said of the same one.
    for now in (10..40).chain(41..60) {
        let told = foremost(Timestamp(now), &windows).unwrap();
        let words = format!("maintenance of node n1 {}", told.words(Timestamp(now)));
        let does = duty(Timestamp(now), &n1(), None, &windows);
        assert_eq!(does, Duty::Vacating(words), "{now}");
    }
    let twins = [window(1, 10, 20), window(2, 10, 20)];
    assert_eq!(at(15, &twins), Some((2, 20, vec![1])));
}

#[test]
fn windows_are_forgotten_a_day_after_their_end_and_by_no_clock_that_was_just_set() {
    let minutes = |minutes: u32| Timestamp(0).plus(Duration::from_secs(60) * minutes);
    let windows = [window(1, 0, 1), window(2, 0, minutes(60).0)];
    let mut steady = Steady::from(minutes(0));
    let day = 24 * 60;
    // Each look, and who is forgotten by it.
    let mut look = |at: u32| {
        steady.look(minutes(at));
        steady.forgotten(&windows)
    };
    assert_eq!(look(10_000), [0; 0], "it is set ahead");
    assert_eq!(look(10_001), [0; 0]);
    assert_eq!(look(1), [0; 0], "and back");
    assert_eq!(look(day + 1), [0; 0], "nobody looked for a day");
    let looks = (1..12).map(|look| day + 5 * look);
    assert!(looks.map(&mut look).all(|gone| gone.is_empty()));
    assert_eq!(look(day + 59), [0; 0]);
    assert_eq!(look(day + 61), [1, 2]);
}

#[test]
fn what_is_told_of_a_window_beside_each_of_its_nodes_is_short() {
    let nodes = (0..1_000).map(|node| NodeName(format!("node-{node}")));
    let mut one = window(7, 10, 20);
    one.scope = Scope::Nodes(nodes.collect());
    one.why = "ü".repeat(1_000);
    let told = closure(Timestamp(15), [&one]).unwrap();
    assert_eq!((told.id, told.why.chars().count()), (7, SHORT + 1));
    assert!(one.words(Timestamp(15)).chars().count() < SHORT + 40);
    one.why = "new fan".into();
    assert_eq!(closure(Timestamp(15), [&one]).unwrap().why, "new fan");
    assert_eq!(one.words(Timestamp(15)), "until 00:00 UTC (new fan)");
}

#[test]
fn a_job_whose_limit_ends_with_the_first_moment_of_a_window_does_not_reach_it() {
    let one = window(1, 10_000_000, 20_000_000);
    let reaches = |now, seconds| {
        let limit = Some(Duration::from_secs(seconds));
        one.is_reached(Timestamp(now), span(limit, Duration::from_secs(1)))
    };
    assert!(!reaches(0, 9) && reaches(1, 9) && reaches(0, 10));
    assert!(reaches(15_000_000, 1) && !reaches(20_000_000, 99));
    let without = |now| one.is_reached(Timestamp(now), span(None, Duration::from_secs(2)));
    assert!(!without(8_000_000) && without(8_000_001));
}

fn any_windows() -> impl Strategy<Value = Vec<Window>> {
    let spans = prop::collection::vec((0i64..60, 1i64..40), 0..5);
    spans.prop_map(|spans| {
        let spans = (1..).zip(spans);
        spans
            .map(|(id, (from, long))| window(id, from, from + long))
            .collect()
    })
}

fn any_drain() -> impl Strategy<Value = Option<Drain>> {
    let then = prop_oneof![Just(AtDeadline::Preempt), Just(AtDeadline::Wait)];
    prop::option::of((prop::option::of(0i64..100), then).prop_map(|(at, then)| drain(at, then)))
}

proptest! {
    #[test]
    fn a_node_does_one_thing_at_each_moment_and_another_only_when_it_was_said_that_it_would(
        windows in any_windows(),
        drain in any_drain(),
    ) {
        let at = |now| duty(Timestamp(now), &n1(), drain.as_ref(), &windows);
        let backwards = |now| duty(Timestamp(now), &n1(), drain.as_ref(), windows.iter().rev());
        let kind = |duty: &Duty| std::mem::discriminant(duty);
        let next = |now| next_change(Timestamp(now), drain.as_ref(), &windows);
        for now in 0i64..120 {
            let does = at(now);
            prop_assert_eq!(&does, &backwards(now), "whatever the order");
            let covered = windows.iter().any(|window| window.is_on(Timestamp(now)));
            prop_assert_eq!(does == Duty::Open, drain.is_none() && !covered);
            if covered {
                prop_assert!(matches!(does, Duty::Vacating(_)));
            }
            let changes = kind(&does) != kind(&at(now + 1));
            prop_assert!(!changes || next(now) == Some(Timestamp(now + 1)), "{now}");
        }
        let after = at(1_000);
        for now in 0i64..120 {
            let told = closure(Timestamp(now), &windows);
            let until = told.filter(|told| told.from.0 <= now).map(|told| told.closed_until.0);
            let on = |now| windows.iter().any(|window| window.is_on(Timestamp(now)));
            let wanted = on(now).then(|| (now..).find(|then| !on(*then)));
            prop_assert_eq!(until, wanted.flatten(), "closed until then, at {}", now);
        }
        prop_assert_eq!(after == Duty::Open, drain.is_none(), "it is resumed by itself");
        prop_assert_eq!(next(1_000), None);
    }

    #[test]
    fn a_job_that_keeps_its_limit_and_was_let_start_is_never_met_by_a_window(
        windows in any_windows(),
        start in 0i64..100,
        limit in 1i64..40,
    ) {
        let span = Duration::from_micros(limit.unsigned_abs());
        let now = Timestamp(start);
        let may = !windows.iter().any(|window| window.is_reached(now, span));
        let met = (start..start + limit)
            .any(|then| windows.iter().any(|window| window.is_on(Timestamp(then))));
        prop_assert_eq!(may, !met);
    }
}
