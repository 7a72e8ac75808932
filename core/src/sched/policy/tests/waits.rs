//! Nobody waits without end.

use super::*;
use crate::sched::policy::config::Reserve;

const HOUR: Seconds = 3_600;

fn pinned(asked: Submission) -> Submission {
    Submission {
        preemptible: false,
        ..asked
    }
}

#[test]
fn past_the_guard_one_who_is_wider_makes_room_however_much_is_left_idle() {
    let mut scheduler = scheduler(Config::default(), 6);
    scheduler.submit(0, &job(1, 24));
    scheduler.submit(0, &job(2, 24));
    assert_eq!(settle(&mut scheduler, 0).0, [1, 2]);
    scheduler.submit(100, &job(3, 4));
    assert_eq!(settle(&mut scheduler, 100 + 47 * HOUR), (vec![], vec![]));
    let (starts, goes) = settle(&mut scheduler, 100 + 48 * HOUR);
    assert_eq!((starts, goes.len()), (vec![3], 1));
}

#[test]
fn on_a_small_cluster_a_small_job_pushes_out_one_that_has_a_node() {
    let mut scheduler = scheduler(Config::default(), 2);
    scheduler.submit(0, &job(1, 8));
    scheduler.submit(0, &job(2, 8));
    settle(&mut scheduler, 0);
    let now = 20 * HOUR;
    scheduler.submit(now, &job(3, 4));
    let (starts, goes) = settle(&mut scheduler, now);
    assert_eq!((starts, goes.len()), (vec![3], 1));
}

#[test]
fn a_gang_that_is_too_wide_to_go_hides_none_who_could() {
    // What the gang does in a second is the least, all of it together.
    const DAY: Seconds = 24 * HOUR;
    let story = |now| {
        let mut scheduler = scheduler(Config::default(), 6);
        let users = [("ann", 40, 90 * DAY), ("bob", 8, DAY), ("cid", 8, 600)];
        for ((number, (user, gpus, lasts)), at) in (1u64..).zip(users).zip([0, 0, 1_000]) {
            let class = scheduler.history.class(user, "", "", gpus);
            (0..40).for_each(|_| scheduler.history.ended(class, lasts));
            let asked = Submission {
                user: user.into(),
                ..job(number, gpus)
            };
            scheduler.submit(at, &asked);
            scheduler.pass(at);
        }
        settle(&mut scheduler, now)
    };
    assert_eq!(story(1_000 + HOUR - 60), (vec![], vec![]));
    assert_eq!(story(1_000 + HOUR), (vec![3], vec![2]));
}

#[test]
fn a_gang_waits_no_longer_than_the_guard_and_what_runs_then_though_small_jobs_keep_coming() {
    let limited = |number| Submission {
        limit: Some(600),
        ..pinned(job(number, 8))
    };
    let mut scheduler = scheduler(Config::default(), 2);
    scheduler.submit(0, &job(1_000, 16));
    // One ends when another has begun: the two nodes are never free together.
    let begins = |turn: u64| 300 * Seconds::try_from(turn).unwrap();
    scheduler.finished(0, 1_000);
    scheduler.submit(0, &limited(1));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &pinned(job(1_000, 16)));
    let mut started_at = None;
    for turn in 1..600 {
        let now = begins(turn);
        if turn >= 2 {
            scheduler.finished(now, turn - 1);
        }
        scheduler.submit(now, &limited(turn + 1));
        if settle(&mut scheduler, now).0.contains(&1_000) {
            started_at = Some(now);
            break;
        }
    }
    let waited = started_at.unwrap_or(Seconds::MAX);
    assert!(
        (48 * HOUR..=48 * HOUR + 1_200).contains(&waited),
        "{waited}"
    );
}

/// What a project owns is held by another, whose next job waits too, and never ends at once.
fn lent(reserve: Reserve, limit: Option<Seconds>) -> Scheduler {
    let config = Config {
        reserve,
        ..owned(&[("a", 16)])
    };
    let mut scheduler = scheduler(config, 2);
    let of_others = |number| Submission {
        limit,
        ..of_project("b", pinned(job(number, 8)))
    };
    scheduler.submit(0, &of_others(1));
    scheduler.submit(0, &of_others(2));
    settle(&mut scheduler, 0);
    scheduler.submit(10, &of_project("a", pinned(job(3, 16))));
    scheduler.submit(10, &of_others(4));
    settle(&mut scheduler, 10);
    scheduler.finished(100, 1);
    scheduler
}

#[test]
fn nodes_are_kept_for_what_a_project_owns_while_others_have_borrowed_it() {
    for limit in [None, Some(600)] {
        let mut scheduler = lent(Reserve::Guard, limit);
        let plan = scheduler.pass(100);
        assert_eq!(started(&plan), [] as [u64; 0], "{limit:?}");
        let kept = plan.reservation.unwrap();
        assert_eq!((kept.job, kept.known()), (3, limit));
        scheduler.finished(200, 2);
        assert_eq!(settle(&mut scheduler, 200).0, [3]);
    }
    let mut off = lent(Reserve::Off, None);
    assert_eq!(settle(&mut off, 100).0, [4]);
}

#[test]
fn what_is_kept_from_borrowers_is_not_kept_from_others_of_the_project() {
    let mut scheduler = lent(Reserve::Guard, None);
    let own = of_project("a", pinned(job(5, 8)));
    scheduler.submit(100, &own);
    assert_eq!(settle(&mut scheduler, 100).0, [5]);
}

#[test]
fn nothing_is_kept_for_a_project_of_which_nobody_has_borrowed() {
    let mut scheduler = scheduler(owned(&[("a", 16)]), 2);
    scheduler.submit(0, &of_project("a", pinned(job(1, 8))));
    settle(&mut scheduler, 0);
    scheduler.submit(10, &of_project("a", pinned(job(2, 16))));
    scheduler.submit(10, &of_project("b", pinned(job(3, 8))));
    assert_eq!(settle(&mut scheduler, 10).0, [3]);
}

#[test]
fn under_the_strict_rules_one_whose_only_nodes_are_closed_holds_up_nobody() {
    for rule in [Rule::Fifo, Rule::Easy] {
        let config = Config {
            rule,
            ..Config::default()
        };
        let mut scheduler = scheduler(config, 1);
        let large = scheduler.add_node(NodeOffer::of_gpus(16));
        let offer = |open| NodeOffer {
            open,
            ..NodeOffer::of_gpus(16)
        };
        scheduler.change_node(0, large, offer(false), &[]);
        let wide = Submission {
            ask: Ask {
                gang: Gang::Each { nodes: 1, gpus: 16 },
                ..Ask::packed(0)
            },
            ..job(1, 0)
        };
        scheduler.submit(0, &wide);
        scheduler.submit(1, &job(2, 8));
        assert_eq!(settle(&mut scheduler, 1).0, [2], "{rule:?}");
        // It is first again when the node is there, though another has it yet.
        let held = |scheduler: &mut Scheduler| settle(scheduler, 3).0;
        scheduler.change_node(2, large, offer(true), &[]);
        scheduler.submit(2, &job(3, 8));
        assert_eq!(held(&mut scheduler).first(), Some(&1), "{rule:?}");
    }
}

#[test]
fn a_borrower_is_not_moved_onto_nodes_that_are_kept_from_borrowers() {
    let mut scheduler = racks(owned(&[("a", 24)]), &[1, 1, 1]);
    let on = |rack: u32, gpus| Ask {
        labels: [format!("rack={rack}")].into(),
        ..Ask::packed(gpus)
    };
    let asks = |number, ask| Submission {
        ask,
        ..job(number, 0)
    };
    let of_b = |asked| of_project("b", asked);
    scheduler.submit(0, &of_b(pinned(asks(1, on(0, 8)))));
    scheduler.submit(0, &of_b(pinned(asks(2, on(1, 8)))));
    settle(&mut scheduler, 0);
    scheduler.submit(0, &of_b(of_priority(5, job(3, 4))));
    settle(&mut scheduler, 0);
    // What its project owns is lent out, and the first of its two nodes becomes free.
    scheduler.submit(10, &of_project("a", pinned(job(4, 16))));
    scheduler.finished(100, 1);
    // It may take that node itself, and wants another, from which the third would have to go.
    scheduler.submit(100, &of_project("a", asks(5, on(2, 6))));
    let mut unkept = scheduler.clone();
    let plan = scheduler.pass(600);
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.reservation.map(|kept| kept.job), Some(4));
    unkept.finished(600, 4);
    let (starts, goes) = settle(&mut unkept, 700);
    assert!(starts.contains(&5) && goes == [3], "{starts:?} {goes:?}");
}

/// Two racks of one node: the holder of the one never says when it ends, that of the half of the other does.
fn half_known(config: Config) -> Scheduler {
    let mut scheduler = racks(config, &[1, 1]);
    scheduler.submit(0, &pinned(asks_on(1, 0, 8)));
    let limit = Some(1_000);
    let known = Submission {
        limit,
        ..pinned(asks_on(2, 1, 4))
    };
    scheduler.submit(0, &known);
    assert_eq!(settle(&mut scheduler, 0).0, [1, 2]);
    scheduler
}

fn asks_on(number: u64, rack: u32, gpus: u32) -> Submission {
    Submission {
        ask: Ask {
            labels: [format!("rack={rack}")].into(),
            ..Ask::packed(gpus)
        },
        ..job(number, 0)
    }
}

#[test]
fn one_to_whom_nothing_can_be_promised_takes_no_promise_from_the_next() {
    // Both are past the guard, the first for longer.
    let mut guarded = half_known(Config::default());
    for (number, rack, hours) in [(3, 0, 60), (4, 1, 50)] {
        let since = Some(-hours * HOUR);
        let asked = Submission {
            since,
            ..pinned(asks_on(number, rack, 8))
        };
        guarded.submit(10, &asked);
    }
    // Both wait for what their projects own, the first for a node that is not there.
    let mut owed = half_known(owned(&[("a", 8), ("c", 8)]));
    owed.submit(10, &of_project("a", pinned(asks_on(3, 7, 8))));
    owed.submit(11, &of_project("c", pinned(asks_on(4, 1, 8))));
    for mut scheduler in [guarded, owed] {
        scheduler.submit(20, &of_project("b", pinned(asks_on(5, 1, 4))));
        let plan = scheduler.pass(20);
        assert_eq!(started(&plan), [] as [u64; 0], "it would be late");
        let kept = plan.reservation.map(|kept| (kept.job, kept.then));
        assert_eq!(kept, Some((4, 1_000)));
    }
}
