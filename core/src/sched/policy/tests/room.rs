//! Who makes room for whom.

use proptest::prelude::*;

use super::*;

#[test]
fn the_lowest_priority_makes_room_though_more_is_lost_by_it() {
    const HOUR: Seconds = 3_600;
    let mut scheduler = scheduler(Config::default(), 2);
    scheduler.submit(0, &of_priority(400, job(1, 8)));
    settle(&mut scheduler, 0);
    scheduler.submit(10 * HOUR, &job(2, 8));
    settle(&mut scheduler, 10 * HOUR);
    scheduler.submit(10 * HOUR + 600, &of_priority(500, job(3, 8)));
    let (starts, goes) = settle(&mut scheduler, 10 * HOUR + 600);
    assert_eq!((starts, goes), (vec![3], vec![2]));
    // On one node, too.
    let mut scheduler = self::scheduler(Config::default(), 1);
    scheduler.submit(0, &of_priority(400, job(1, 4)));
    settle(&mut scheduler, 0);
    scheduler.submit(10 * HOUR, &job(2, 4));
    settle(&mut scheduler, 10 * HOUR);
    scheduler.submit(10 * HOUR + 600, &of_priority(500, job(3, 4)));
    let (starts, goes) = settle(&mut scheduler, 10 * HOUR + 600);
    assert_eq!((starts, goes), (vec![3], vec![2]));
}

#[test]
fn a_borrower_makes_room_before_a_job_of_its_projects_own_though_that_ranks_worse() {
    const HOUR: Seconds = 3_600;
    let mut scheduler = scheduler(owned(&[("a", 8), ("b", 0), ("c", 8)]), 2);
    scheduler.submit(0, &of_project("a", job(1, 8)));
    settle(&mut scheduler, 0);
    scheduler.submit(20 * HOUR, &of_project("b", job(2, 8)));
    settle(&mut scheduler, 20 * HOUR);
    // It may push out either.
    scheduler.submit(20 * HOUR + 600, &of_project("c", job(3, 8)));
    let (starts, goes) = settle(&mut scheduler, 20 * HOUR + 600);
    assert_eq!((starts, goes), (vec![3], vec![2]));
}

#[test]
fn of_those_who_are_chosen_one_by_one_on_a_node_nobody_goes_in_vain() {
    let mut scheduler = scheduler(Config::default(), 1);
    // What costs least by GPU ran longest.
    for (at, number, gpus) in [(0, 1, 1), (3_600, 2, 2), (7_200, 3, 5)] {
        scheduler.submit(at, &job(number, gpus));
        settle(&mut scheduler, at);
    }
    scheduler.submit(8_000, &of_priority(9, job(4, 6)));
    let (starts, mut goes) = settle(&mut scheduler, 8_000);
    goes.sort_unstable();
    assert_eq!((starts.first(), goes), (Some(&4), vec![1, 3]), "2 stays");
}

#[test]
fn a_gang_that_has_to_go_from_one_node_frees_all_of_its_nodes() {
    let mut scheduler = racks(Config::default(), &[1, 1, 1, 1]);
    let gang = |number, racks: [u32; 2]| Submission {
        ask: Ask {
            gang: Gang::Each { nodes: 2, gpus: 8 },
            anti_labels: racks.map(|rack| format!("rack={rack}")).into(),
            ..Ask::packed(0)
        },
        ..job(number, 0)
    };
    scheduler.submit(0, &gang(1, [1, 3]));
    scheduler.submit(0, &gang(2, [0, 2]));
    assert_eq!(settle(&mut scheduler, 0).0, [1, 2]);
    let urgent = Submission {
        ask: Ask {
            gang: Gang::Each { nodes: 2, gpus: 8 },
            ..Ask::packed(0)
        },
        ..of_priority(9, job(3, 0))
    };
    scheduler.submit(1_000, &urgent);
    let (starts, goes) = settle(&mut scheduler, 1_000);
    assert_eq!((starts, goes.len()), (vec![3], 1), "{goes:?}");
}

#[test]
fn whoever_has_shown_a_checkpoint_makes_room_before_one_who_would_lose_all_that_it_ran() {
    const HOUR: Seconds = 3_600;
    let mut scheduler = scheduler(Config::default(), 2);
    let unsaved = Submission {
        saved: false,
        ..job(1, 8)
    };
    // What ranks worst costs least by rank.
    scheduler.submit(0, &unsaved);
    settle(&mut scheduler, 0);
    scheduler.submit(10 * HOUR, &job(2, 8));
    settle(&mut scheduler, 10 * HOUR);
    let mut after = scheduler.clone();
    for (scheduler, gone) in [(&mut scheduler, 2), (&mut after, 1)] {
        scheduler.saved(1, gone == 1);
        scheduler.submit(10 * HOUR + 600, &of_priority(9, job(3, 8)));
        let (starts, goes) = settle(scheduler, 10 * HOUR + 600);
        assert_eq!((starts, goes), (vec![3], vec![gone]));
    }
}

#[test]
fn nobody_is_moved_who_would_begin_anew() {
    // Nobody is pushed out.
    let config = Config {
        margin: 1.0e9,
        ..Config::default()
    };
    let mut scheduler = scheduler(config, 2);
    for number in 1..=4 {
        scheduler.submit(0, &job(number, 4));
        scheduler.saved(number, false);
    }
    settle(&mut scheduler, 0);
    scheduler.finished(1_000, 1);
    scheduler.finished(1_000, 3);
    scheduler.submit(1_000, &job(9, 8));
    assert_eq!(settle(&mut scheduler, 1_800), (vec![], vec![]));
    scheduler.saved(2, true);
    scheduler.saved(4, true);
    assert_eq!(settle(&mut scheduler, 1_900).1.len(), 1);
}

proptest! {
    #![proptest_config(crate::cases::cases(64))]
    #[test]
    fn of_those_who_make_room_nobody_could_stay(
        jobs in prop::collection::vec((1u32..3, 1u32..9, 0u32..4, 0i64..20_000), 4..20),
        (nodes, gpus) in (1u32..5, 1u32..9),
    ) {
        let mut scheduler = scheduler(Config::default(), 6);
        let asks = |nodes, gpus| Ask { gang: Gang::Each { nodes, gpus }, ..Ask::packed(0) };
        let mut now = 0;
        for (number, (nodes, gpus, priority, gap)) in (1u64..).zip(jobs) {
            now += gap;
            let one = Submission { ask: asks(nodes, gpus), ..of_priority(priority, job(number, 0)) };
            scheduler.submit(now, &one);
            settle(&mut scheduler, now);
        }
        let urgent = Submission { ask: asks(nodes, gpus), ..of_priority(9, job(999, 0)) };
        now += 1_000;
        // Others make room for nobody meanwhile.
        settle(&mut scheduler, now);
        scheduler.submit(now + 400, &urgent);
        let before = scheduler.clone();
        let plan = scheduler.pass(now + 400);
        let gone: Vec<u64> = gone(&plan);
        let shape = super::super::place::Shape::new(&before.cluster, urgent.ask.clone());
        let room_without = |stays: Option<u64>| {
            let mut after = before.cluster.clone();
            for number in gone.iter().filter(|number| Some(**number) != stays) {
                let ix = before.number(*number).unwrap();
                after.give(ix, &before.job(ix).pieces);
            }
            shape.find(&after).is_some()
        };
        if !gone.is_empty() && plan.preempts.iter().all(|gone| gone.for_job == 999) {
            prop_assert!(room_without(None));
            for stays in &gone {
                prop_assert!(!room_without(Some(*stays)), "{stays} of {gone:?} goes in vain");
            }
        }
    }
}

#[test]
fn room_for_a_total_is_gathered_from_nodes_of_several_sizes_too() {
    let mut scheduler = Scheduler::new(Config::default());
    for gpus in [4, 8, 4, 4] {
        scheduler.add_node(NodeOffer::of_gpus(gpus));
    }
    for (number, gpus, preemptible) in [(1, 8, true), (2, 4, true), (3, 4, false), (4, 3, true)] {
        let one = Submission {
            preemptible,
            ..job(number, gpus)
        };
        scheduler.submit(0, &one);
        settle(&mut scheduler, 0);
    }
    let urgent = |number, gpus| Submission {
        priority: 9,
        ..job(number, gpus)
    };
    scheduler.submit(10, &urgent(8, 17));
    assert_eq!(settle(&mut scheduler, 1_000), (vec![], vec![]), "3 stays");
    scheduler.submit(2_000, &urgent(9, 16));
    let (starts, mut goes) = settle(&mut scheduler, 2_000);
    goes.sort_unstable();
    assert_eq!((starts, goes), (vec![9], vec![1, 2, 4]));
}

/// So many whole nodes of one rack.
fn within_a_rack(number: u64, nodes: u32) -> Submission {
    let ask = Ask {
        gang: Gang::Each { nodes, gpus: 8 },
        fabric: Some("rack".into()),
        ..Ask::packed(0)
    };
    Submission {
        ask,
        ..job(number, 0)
    }
}

#[test]
fn room_for_a_gang_of_one_fabric_is_made_within_the_one_where_least_is_lost() {
    let mut scheduler = racks(Config::default(), &[2, 2]);
    for number in 1..=4 {
        let preemptible = number != 4;
        let one = Submission {
            preemptible,
            ..job(number, 8)
        };
        scheduler.submit(0, &one);
    }
    settle(&mut scheduler, 0);
    // 1 and 3 rank worst, and are of two racks: together they are no room.
    scheduler.finished(50_000, 2);
    scheduler.submit(50_000, &job(5, 8));
    settle(&mut scheduler, 50_000);
    let urgent = Submission {
        priority: 9,
        ..within_a_rack(9, 2)
    };
    scheduler.submit(60_000, &urgent);
    let (starts, mut goes) = settle(&mut scheduler, 60_000);
    goes.sort_unstable();
    assert_eq!((starts, goes), (vec![9], vec![1, 5]), "4 stays");
}

#[test]
fn room_for_one_alone_is_a_node_from_which_all_have_gone_and_none_where_one_stays() {
    let mut scheduler = racks(Config::default(), &[1, 1]);
    let on = |number, rack: u32, gpus, cpus, preemptible| Submission {
        preemptible,
        ask: Ask {
            labels: [format!("rack={rack}")].into(),
            cpus,
            ..Ask::packed(gpus)
        },
        ..job(number, 0)
    };
    for one in [
        on(1, 0, 1, 1, true),
        on(2, 0, 0, 1, false),
        on(3, 1, 6, 1, true),
        on(4, 1, 0, 1, true),
    ] {
        scheduler.submit(0, &one);
    }
    settle(&mut scheduler, 0);
    let alone = Submission {
        priority: 9,
        ask: Ask {
            exclusive: true,
            cpus: 1,
            ..Ask::packed(2)
        },
        ..job(9, 0)
    };
    scheduler.submit(10, &alone);
    let (starts, mut goes) = settle(&mut scheduler, 1_000);
    goes.sort_unstable();
    assert_eq!(starts.first(), Some(&9));
    assert_eq!(goes, [3, 4], "who holds only CPUs goes too; 2 stays");
}

#[test]
fn one_for_whom_nobody_goes_does_not_speak_for_another_project_that_has_its_own_back() {
    const HOUR: Seconds = 3_600;
    let config = Config {
        patience: 0,
        margin: 1.0e9,
        ..owned(&[("b", 8)])
    };
    let mut scheduler = scheduler(config, 1);
    let pinned = Submission {
        preemptible: false,
        ..job(1, 8)
    };
    scheduler.submit(0, &pinned);
    settle(&mut scheduler, 0);
    scheduler.submit(1, &of_project("c", job(2, 8)));
    scheduler.submit(2, &of_project("a", job(3, 8)));
    scheduler.finished(58 * HOUR, 1);
    assert_eq!(settle(&mut scheduler, 58 * HOUR).0, [2]);
    // Both have waited for two days, and neither owns anything: the first in the order pushes nobody out.
    let now = 58 * HOUR + 600;
    scheduler.submit(now, &of_project("b", job(4, 8)));
    assert_eq!(settle(&mut scheduler, now), (vec![4], vec![2]));
}

#[test]
fn who_has_waited_has_others_moved_though_a_better_one_that_has_not_may_not() {
    // Nobody goes for a better rank.
    let config = Config {
        margin: 1.0e9,
        ..Config::default()
    };
    let mut scheduler = half_full(config);
    let old = Submission {
        done: 36_000,
        since: Some(1_000 - 36_000),
        ..job(9, 8)
    };
    scheduler.submit(1_000, &of_project("b", old));
    scheduler.submit(2_000, &of_project("a", job(10, 8)));
    let (starts, goes) = settle(&mut scheduler, 2_000);
    assert_eq!(goes.len(), 1, "one of the two moves");
    assert!(starts.contains(&9), "{starts:?}");
}
