//! Lanes, nodes as they will be, and guesses, each by itself.

use super::*;
use crate::sched::policy::{
    Reserve,
    cluster::{Cluster, JobIx, NodeIx},
    forecast::Forecasts,
    future::{Future, Outage, Outages},
    lanes::{Lanes, Rank, Turn},
    projects::ProjectIx,
};

fn turn(number: u32, rank: f64) -> Turn {
    Turn {
        priority: std::cmp::Reverse(0),
        guarded: std::cmp::Reverse(false),
        rank: Rank(rank),
        submitted: 0,
        number: number.into(),
        job: JobIx(number),
        lasts: None,
    }
}

#[test]
fn a_lane_is_of_one_ask_and_one_project_and_of_nobody_any_more_is_used_for_the_next() {
    let cluster = Cluster::uniform(1, 8);
    let mut lanes = Lanes::default();
    let (of_two, first) = lanes.join(&cluster, &Ask::packed(2), ProjectIx(0));
    let (same_ask, second) = lanes.join(&cluster, &Ask::packed(2), ProjectIx(1));
    assert_eq!(of_two, same_ask);
    assert_ne!(first, second);
    assert_eq!(
        lanes.join(&cluster, &Ask::packed(2), ProjectIx(0)),
        (of_two, first)
    );
    lanes.insert(first, turn(1, 2.0));
    lanes.insert(first, turn(2, 1.0));
    let order: Vec<u64> = lanes.lanes[first]
        .turns
        .iter()
        .map(|turn| turn.number)
        .collect();
    assert_eq!((order, lanes.waiting), (vec![2, 1], 2));
    for number in [(1, 2.0), (2, 1.0)] {
        lanes.remove(first, &turn(number.0, number.1));
        lanes.part(first);
    }
    assert_eq!(lanes.waiting, 0);
    // The ask is still somebody's, the lane is nobody's.
    let (of_four, third) = lanes.join(&cluster, &Ask::packed(4), ProjectIx(0));
    assert_ne!(of_four, of_two);
    assert_eq!(third, first);
    lanes.part(second);
    let (again, _) = lanes.join(&cluster, &Ask::packed(5), ProjectIx(0));
    assert_eq!(again, of_two, "nobody asks for two any more");
}

/// Two nodes of eight GPUs, of which jobs 1 and 2 have one each, and job 3, which waits for one.
fn both_taken() -> Scheduler {
    let mut scheduler = scheduler(Config::default(), 2);
    for (number, limit) in [(1, 300), (2, 5_000)] {
        let limited = Submission {
            limit: Some(limit),
            preemptible: false,
            ..job(number, 8)
        };
        scheduler.submit(0, &limited);
    }
    settle(&mut scheduler, 0);
    scheduler.submit(0, &job(3, 8));
    settle(&mut scheduler, 0);
    scheduler
}

#[test]
fn nodes_will_be_free_when_those_end_who_run_there_and_not_while_they_are_out_of_service() {
    let scheduler = both_taken();
    let waits = scheduler.number(3).unwrap();
    let first = scheduler.job(scheduler.number(1).unwrap()).pieces[0].node;
    let other = NodeIx(1 - first.0);
    let found = |outages: &Outages| {
        let mut future = Future::new(&scheduler, 0, &[waits], outages);
        let shape = scheduler.job(waits).shape;
        while future.find(shape, true, None).is_none() {
            future.go_on()?;
        }
        let place = future.find(shape, true, None)?;
        Some((future.then, place[0].node))
    };
    let left = scheduler.likely_left(0, scheduler.number(1).unwrap());
    assert_eq!(found(&Outages::default()), Some((left, first)));
    // Its node closes as soon as it is free, and opens before the other is.
    let closes = |until| Outages {
        rows: vec![Outage {
            node: first,
            from: left,
            until,
        }],
        span: 60,
        shuns: [].into(),
    };
    assert_eq!(found(&closes(left + 100)), Some((left + 100, first)));
    let shuns = Outages {
        shuns: [first].into(),
        ..closes(left + 100)
    };
    assert_eq!(found(&shuns).map(|(_, node)| node), Some(other));
}

#[test]
fn an_interval_is_as_wide_as_guesses_were_bad_and_one_that_is_withdrawn_teaches_nothing() {
    let mut scheduler = both_taken();
    let around = |scheduler: &Scheduler| scheduler.expect(0, 3, &Outages::default()).unwrap();
    let [early, middle, late] = around(&scheduler);
    assert!(early < middle && middle < late, "nothing is known yet");
    // Each guess was right to the second.
    let mut right = Forecasts::default();
    for number in 10..40 {
        right.note(JobIx(number), 0, middle);
        right.settle(middle, JobIx(number), true);
    }
    right.note(JobIx(40), 0, middle);
    right.settle(5 * middle, JobIx(40), false);
    scheduler.forecasts = right;
    // A few guesses that are right say little of the next, since all have waited for the same; many say more.
    let [early, same, late] = around(&scheduler);
    assert!(early < middle - 60 && same == middle && late > middle + 60);
    assert_eq!(scheduler.coverage(), (30, 30));
    for number in 100..160 {
        scheduler.forecasts.note(JobIx(number), 0, middle);
        scheduler.forecasts.settle(middle, JobIx(number), true);
    }
    assert_eq!(around(&scheduler), [middle; 3]);
    assert_eq!(scheduler.coverage(), (90, 90));
    // A quarter of them waited for four times as long.
    for number in 50..80 {
        scheduler.forecasts.note(JobIx(number), 0, middle);
        scheduler.forecasts.settle(4 * middle, JobIx(number), true);
    }
    let [early, _, late] = around(&scheduler);
    assert!(early <= middle && late > 3 * middle, "{early} {late}");
    assert_eq!(scheduler.coverage(), (120, 90));
}

/// When a job is expected to start, of which nothing but a guess is known.
fn middle(scheduler: &Scheduler, now: Seconds, number: u64) -> Option<Seconds> {
    let expected = scheduler.expect(now, number, &Outages::default());
    expected.map(|[_, middle, _]| middle)
}

#[test]
fn in_strict_order_nobody_is_expected_to_start_before_one_who_does_not_fit_but_could() {
    let mut scheduler = scheduler(
        Config {
            rule: Rule::Fifo,
            ..Config::default()
        },
        1,
    );
    for (number, gpus) in [(1, 6), (2, 16), (3, 8), (4, 1)] {
        scheduler.submit(0, &job(number, gpus));
    }
    assert_eq!(settle(&mut scheduler, 0).0, [1], "job 2 is wider than all");
    // Each lasts for ten minutes where nothing is known.
    let expected = [2, 3, 4].map(|number| middle(&scheduler, 0, number));
    assert_eq!(expected, [None, Some(600), Some(1_200)]);
    // With a window that changes nothing who is shut out is looked for on nodes as they will be.
    let elsewhen = Outages {
        rows: vec![Outage {
            node: NodeIx(0),
            from: 100_000,
            until: 100_001,
        }],
        ..Outages::default()
    };
    let expected = scheduler.expect(0, 4, &elsewhen);
    assert_eq!(expected.map(|[_, middle, _]| middle), Some(1_200));
}

#[test]
fn who_has_to_wait_for_what_is_kept_for_another_is_not_expected_to_start_before_it() {
    for rule in [Rule::Easy, Rule::Gittins] {
        let config = Config {
            rule,
            reserve: Reserve::Top,
            ..Config::default()
        };
        let mut scheduler = scheduler(config, 2);
        let lasts = |asked: Submission, limit| Submission {
            limit: Some(limit),
            preemptible: false,
            ..asked
        };
        scheduler.submit(0, &lasts(job(1, 8), 500));
        settle(&mut scheduler, 0);
        let gang = Submission {
            priority: 9,
            ..job(2, 16)
        };
        for asked in [
            lasts(gang, 500),
            lasts(job(3, 8), 5_000),
            lasts(job(4, 8), 400),
        ] {
            scheduler.submit(0, &asked);
        }
        assert_eq!(settle(&mut scheduler, 0).0, [4], "it is gone in time");
        let expected = [2, 3].map(|number| middle(&scheduler, 0, number));
        assert_eq!(expected, [Some(500), Some(1_000)], "{rule:?}");
        scheduler.finished(1, 4);
        settle(&mut scheduler, 1);
        assert_eq!(middle(&scheduler, 1, 3), Some(1_000), "{rule:?}");
    }
}

#[test]
fn nobody_is_told_when_it_starts_where_nobody_knows_when_what_is_kept_is_free() {
    let mut scheduler = scheduler(owned(&[("one", 16), ("two", 0)]), 2);
    let of = |number, gpus, project: &str| Submission {
        project: project.into(),
        preemptible: false,
        ..job(number, gpus)
    };
    scheduler.submit(0, &of(1, 8, "two"));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &of(2, 16, "one"));
    scheduler.submit(1, &of(3, 8, "two"));
    assert_eq!(settle(&mut scheduler, 1).0, [0u64; 0]);
    assert!(scheduler.kept_for(2).unwrap().known().is_none());
    let expected = [2, 3].map(|number| middle(&scheduler, 1, number));
    assert_eq!(expected, [None, None]);
}

#[test]
fn who_has_its_nodes_as_soon_as_others_have_left_them_gives_them_back_too() {
    let mut scheduler = scheduler(Config::default(), 1);
    scheduler.submit(0, &job(1, 8));
    settle(&mut scheduler, 0);
    let urgent = Submission {
        priority: 9,
        ..job(2, 8)
    };
    scheduler.submit(400, &urgent);
    assert_eq!(gone(&scheduler.pass(400)), [1]);
    scheduler.submit(400, &job(3, 8));
    // A minute until it has gone, and ten that the other lasts.
    assert_eq!(middle(&scheduler, 400, 3), Some(400 + 660));
}
