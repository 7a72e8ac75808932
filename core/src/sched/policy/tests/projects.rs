//! What projects own, what they borrow, and how they get their own back.

use super::*;
use crate::sched::policy::{
    Holding,
    cluster::{Cluster, NodeIx, Piece},
    place::Shape,
};

#[test]
fn jobs_that_run_once_the_gpu_hours_of_their_project_are_used_up_make_room_whatever_their_rank() {
    const HOUR: Seconds = 3_600;
    let rule = ProjectRule {
        gpu_hours: Some(8.0),
        ..ProjectRule::default()
    };
    // Nobody goes for a better rank.
    let mut config = Config {
        margin: 1.0e9,
        ..Config::default()
    };
    config.projects.insert("a".into(), rule);
    let mut scheduler = scheduler(config, 1);
    scheduler.submit(0, &of_project("a", job(1, 8)));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &of_project("b", job(2, 8)));
    assert_eq!(settle(&mut scheduler, HOUR - 60), (vec![], vec![]));
    assert_eq!(settle(&mut scheduler, HOUR + 1), (vec![2], vec![1]));
}

#[test]
fn in_one_pass_no_project_takes_gpus_that_another_owns_and_waits_for() {
    let rigid = |number, gpus, cpus| Submission {
        ask: Ask {
            cpus,
            ..Ask::packed(gpus)
        },
        preemptible: false,
        ..job(number, gpus)
    };
    let mut scheduler = racks(owned(&[("a", 4), ("b", 4)]), &[1]);
    // Two lanes of one project, and one who is submitted after both.
    scheduler.submit(0, &of_project("a", rigid(1, 4, 1)));
    scheduler.submit(0, &of_project("a", rigid(2, 4, 2)));
    scheduler.submit(0, &of_project("b", rigid(3, 4, 1)));
    assert_eq!(settle(&mut scheduler, 0).0, [1, 3]);
}

#[test]
fn in_one_round_a_project_gets_no_more_than_its_own_before_others_have_theirs() {
    let mut scheduler = racks(owned(&[("a", 8), ("b", 8)]), &[2]);
    for number in 1..=4 {
        // Whoever comes goes before these by its rank, too.
        let worse = Submission {
            done: 36_000,
            ..job(number, 4)
        };
        scheduler.submit(0, &of_project("c", worse));
    }
    assert_eq!(settle(&mut scheduler, 0).0.len(), 4);
    let wanted = |number, cpus| Submission {
        ask: Ask {
            cpus,
            ..Ask::packed(8)
        },
        ..job(number, 8)
    };
    scheduler.submit(400, &of_project("a", wanted(5, 1)));
    scheduler.submit(400, &of_project("a", wanted(6, 2)));
    scheduler.submit(400, &of_project("b", wanted(7, 1)));
    assert_eq!(settle(&mut scheduler, 400).0, [5, 7]);
}

#[test]
fn who_was_told_to_go_counts_for_its_project_until_it_has_gone() {
    let runs_one = ProjectRule {
        running: Some(1),
        ..ProjectRule::default()
    };
    let owns_eight = ProjectRule {
        gpus: Some(8),
        borrow: false,
        ..ProjectRule::default()
    };
    for rule in [runs_one, owns_eight] {
        let mut config = Config::default();
        config.projects.insert("a".into(), rule);
        let mut scheduler = scheduler(config, 1);
        scheduler.submit(0, &of_project("a", job(1, 8)));
        settle(&mut scheduler, 0);
        scheduler.submit(400, &of_priority(10, of_project("b", job(2, 4))));
        scheduler.submit(400, &of_project("a", job(3, 4)));
        assert_eq!(gone(&scheduler.pass(400)), [1]);
        assert!(
            scheduler.pass(400).is_empty(),
            "{rule:?}: the first has not gone"
        );
        assert!(
            scheduler.pass(900).is_empty(),
            "{rule:?}: however long that takes"
        );
        scheduler.released(900, 1);
        assert_eq!(settle(&mut scheduler, 900).0, [2, 3], "{rule:?}");
    }
}

#[test]
fn gpu_hours_are_counted_until_who_was_told_to_go_has_gone() {
    const HOUR: Seconds = 3_600;
    let rule = ProjectRule {
        gpu_hours: Some(8.0),
        borrow: false,
        ..ProjectRule::default()
    };
    let mut config = Config::default();
    config.projects.insert("a".into(), rule);
    let mut scheduler = scheduler(config, 1);
    scheduler.submit(0, &of_project("a", job(1, 8)));
    settle(&mut scheduler, 0);
    scheduler.submit(HOUR / 2, &of_priority(10, of_project("b", job(2, 8))));
    assert_eq!(gone(&scheduler.pass(HOUR / 2)), [1]);
    scheduler.released(HOUR, 1);
    settle(&mut scheduler, HOUR);
    scheduler.finished(HOUR + 1, 2);
    assert_eq!(settle(&mut scheduler, HOUR + 1).0, [] as [u64; 0]);
}

#[test]
fn what_a_project_is_about_to_give_back_is_not_asked_of_it_once_more() {
    let mut config = owned(&[("a", 8), ("b", 8), ("c", 8)]);
    config.margin = 1.0e9;
    let mut scheduler = scheduler(config, 2);
    scheduler.submit(0, &of_project("c", job(1, 8)));
    scheduler.submit(0, &of_project("c", job(2, 8)));
    settle(&mut scheduler, 0);
    scheduler.submit(400, &of_project("a", job(3, 8)));
    let plan = scheduler.pass(400);
    assert_eq!(gone(&plan).len(), 1);
    scheduler.submit(460, &of_project("b", job(4, 8)));
    assert!(
        scheduler.pass(460).is_empty(),
        "c keeps no more than its own"
    );
    scheduler.released(600, gone(&plan)[0]);
    assert_eq!(settle(&mut scheduler, 600), (vec![3], vec![]));
}

#[test]
fn a_project_is_charged_for_what_a_gang_has_still() {
    let mut config = owned(&[("a", 16)]);
    if let Some(rule) = config.projects.get_mut("a") {
        rule.borrow = false;
    }
    let mut scheduler = scheduler(config, 3);
    let gang = Ask {
        gang: Gang::Each { nodes: 2, gpus: 8 },
        ..Ask::packed(0)
    };
    let gang = Submission {
        ask: gang,
        ..job(1, 0)
    };
    scheduler.submit(0, &of_project("a", gang));
    let plan = scheduler.pass(0);
    scheduler.submit(1, &of_project("a", job(2, 8)));
    assert_eq!(settle(&mut scheduler, 1).0, [] as [u64; 0]);
    // The task of one rank has ended, and the other goes on.
    let node = plan.starts[0].pieces[0].node;
    scheduler.change_node(2, node, NodeOffer::of_gpus(8), &[]);
    assert_eq!(settle(&mut scheduler, 2).0, [2]);
    scheduler.submit(3, &of_project("a", job(3, 8)));
    assert_eq!(settle(&mut scheduler, 3).0, [] as [u64; 0]);
    scheduler.finished(4, 1);
    assert_eq!(settle(&mut scheduler, 4).0, [3]);
}

#[test]
fn after_a_start_a_project_is_charged_for_what_a_gang_has_still() {
    let rule = ProjectRule {
        gpus: Some(16),
        borrow: false,
        ..ProjectRule::default()
    };
    let mut config = Config::default();
    config.projects.insert("a".into(), rule);
    let mut scheduler = scheduler(config, 3);
    let gang = Ask {
        gang: Gang::Each { nodes: 2, gpus: 8 },
        ..Ask::packed(0)
    };
    let asked = Submission {
        ask: gang,
        ..job(1, 0)
    };
    // The task of one rank has ended before, and the other goes on.
    let piece = Piece {
        node: NodeIx(0),
        slot: 0,
        gpus: 8,
        cpus: 0,
        memory_bytes: 0,
    };
    let holding = Holding {
        asked: of_project("a", asked),
        pieces: vec![piece],
        given: 8,
        placed: 0,
        since: Some(0),
        leaving: false,
    };
    scheduler.adopt(1, &holding);
    scheduler.submit(1, &of_project("a", job(2, 8)));
    scheduler.submit(2, &of_project("a", job(3, 8)));
    assert_eq!(settle(&mut scheduler, 2).0, [2]);
}

#[test]
fn where_a_project_owns_gpus_it_has_them_back_from_one_that_has_no_rule() {
    let mut config = owned(&[("a", 8)]);
    config.margin = 1.0e9;
    let hours = ProjectRule {
        gpu_hours: Some(900.0),
        borrow: false,
        ..ProjectRule::default()
    };
    config.projects.insert("hours".into(), hours);
    let mut scheduler = scheduler(config, 2);
    scheduler.submit(0, &of_project("user one", job(1, 8)));
    scheduler.submit(0, &of_project("hours", job(2, 8)));
    assert_eq!(settle(&mut scheduler, 0).0, [1, 2]);
    scheduler.submit(400, &of_project("a", job(3, 8)));
    let (starts, goes) = settle(&mut scheduler, 400);
    assert_eq!((starts, goes.len()), (vec![3], 1));
    scheduler.submit(1_000, &of_project("a", job(4, 8)));
    assert_eq!(
        settle(&mut scheduler, 1_000),
        (vec![], vec![]),
        "that would be borrowed, too"
    );
}

#[test]
fn a_project_gives_back_what_it_has_borrowed_and_no_more_of_it_in_one_round() {
    let mut config = owned(&[("a", 8), ("b", 24)]);
    config.margin = 1.0e9;
    let full = || {
        let mut scheduler = scheduler(config.clone(), 3);
        for number in 1..=3 {
            scheduler.submit(0, &of_project("a", job(number, 8)));
        }
        assert_eq!(settle(&mut scheduler, 0).0.len(), 3);
        scheduler
    };
    // One after another.
    let mut several = full();
    for number in 4..=6 {
        several.submit(400, &of_project("b", job(number, 8)));
    }
    let (starts, goes) = settle(&mut several, 400);
    assert_eq!((starts, goes.len()), (vec![4, 5], 2));
    // A gang.
    let wide = |number, nodes| {
        let ask = Ask {
            gang: Gang::Each { nodes, gpus: 8 },
            ..Ask::packed(0)
        };
        of_project(
            "b",
            Submission {
                ask,
                ..job(number, 0)
            },
        )
    };
    let mut gang = full();
    gang.submit(400, &wide(4, 3));
    assert_eq!(settle(&mut gang, 400), (vec![], vec![]));
    gang.submit(1_000, &wide(5, 2));
    let (starts, goes) = settle(&mut gang, 1_000);
    assert_eq!((starts, goes.len()), (vec![5], 2));
    // On one node.
    let mut config = owned(&[("a", 2), ("b", 8)]);
    config.margin = 1.0e9;
    let mut one = scheduler(config, 1);
    for number in 1..=4 {
        one.submit(0, &of_project("a", job(number, 2)));
    }
    settle(&mut one, 0);
    one.submit(400, &of_project("b", job(5, 8)));
    assert_eq!(settle(&mut one, 400), (vec![], vec![]));
    one.submit(1_000, &of_project("b", job(6, 6)));
    let (starts, goes) = settle(&mut one, 1_000);
    assert_eq!((starts, goes.len()), (vec![6], 3));
}

#[test]
fn of_equal_jobs_those_of_the_project_that_had_least_of_its_share_start_first() {
    const HOUR: Seconds = 3_600;
    let start = |fairness, rich: f64| {
        let mut config = Config {
            fairness,
            ..Config::default()
        };
        let rule = ProjectRule {
            share: rich,
            ..ProjectRule::default()
        };
        config.projects.insert("busy".into(), rule);
        let mut scheduler = scheduler(config, 1);
        scheduler.submit(0, &of_project("busy", job(1, 8)));
        scheduler.submit(0, &of_project("idle", job(2, 1)));
        settle(&mut scheduler, 0);
        scheduler.finished(10 * HOUR, 1);
        assert_eq!(settle(&mut scheduler, 10 * HOUR).0, [2]);
        scheduler.submit(10 * HOUR, &of_project("busy", job(3, 8)));
        scheduler.submit(10 * HOUR + 1, &of_project("idle", job(4, 8)));
        settle(&mut scheduler, 10 * HOUR + 120);
        scheduler.finished(10 * HOUR + 121, 2);
        settle(&mut scheduler, 10 * HOUR + 121).0
    };
    assert_eq!(start(0.25, 1.0), [4]);
    assert_eq!(start(0.0, 1.0), [3], "in the order of submission");
    assert_eq!(start(0.25, 1.0e9), [3], "its share is as large");
}

#[test]
fn what_a_project_has_borrowed_is_given_back_first() {
    // Fair share says nothing here, and b's job ranks behind those of a.
    let config = Config {
        fairness: 0.0,
        ..owned(&[("a", 8), ("b", 8)])
    };
    let mut scheduler = scheduler(config, 2);
    let of = |number, project| of_project(project, job(number, 8));
    let worse = Submission {
        done: 36_000,
        ..of(3, "b")
    };
    scheduler.submit(0, &of(1, "a"));
    scheduler.submit(0, &of(2, "a"));
    assert_eq!(settle(&mut scheduler, 0).0.len(), 2, "b has nobody");
    scheduler.submit(400, &worse);
    let (starts, goes) = settle(&mut scheduler, 400);
    assert_eq!((starts, goes.len()), (vec![3], 1));
    scheduler.submit(900, &of(4, "b"));
    assert_eq!(
        settle(&mut scheduler, 900),
        (vec![], vec![]),
        "a has no more than its own"
    );
}

#[test]
fn who_goes_gives_back_what_was_borrowed_until_its_project_has_only_its_own() {
    let mut scheduler = scheduler(owned(&[("a", 8), ("b", 16)]), 2);
    let of = |number, project: &str, gpus| of_project(project, job(number, gpus));
    scheduler.submit(0, &of(1, "a", 8));
    scheduler.submit(0, &of(2, "a", 8));
    settle(&mut scheduler, 0);
    scheduler.submit(400, &of(3, "b", 16));
    let plan = scheduler.pass(400);
    let gone = plan.preempts.iter().map(|gone| (gone.job, gone.borrowed));
    // The second has no more than is its project's own, and goes since it ranks behind.
    assert_eq!(gone.collect::<Vec<_>>(), [(1, true), (2, false)]);
}

#[test]
fn who_is_alone_on_its_nodes_is_charged_for_all_of_them() {
    let mut config = Config::default();
    let own = ProjectRule {
        gpus: Some(10),
        borrow: false,
        ..ProjectRule::default()
    };
    config.projects.insert("one".into(), own);
    let mut scheduler = racks(config, &[3]);
    let of_one = |asked| of_project("one", asked);
    let alone = |number| {
        of_one(Submission {
            ask: Ask {
                exclusive: true,
                cpus: 1,
                ..Ask::packed(1)
            },
            ..job(number, 0)
        })
    };
    scheduler.submit(0, &alone(1));
    scheduler.submit(0, &alone(2));
    assert_eq!(settle(&mut scheduler, 0).0, [1], "two would have 16 of 10");
    let words = scheduler.limit(2).unwrap();
    assert!(words.contains("8 of its own 10 GPUs"), "{words}");
    scheduler.submit(0, &of_one(job(3, 2)));
    scheduler.submit(0, &of_one(job(4, 1)));
    assert_eq!(settle(&mut scheduler, 0).0, [3]);
    scheduler.finished(100, 1);
    assert_eq!(settle(&mut scheduler, 100).0, [2]);
}

#[test]
fn what_a_job_holds_at_least_is_what_the_smallest_nodes_have_on_which_it_can_be_alone() {
    let nodes = |sizes: &[u32]| Cluster::of(sizes.iter().map(|size| NodeOffer::of_gpus(*size)));
    let least = |nodes: &Cluster, ask: &Ask| Shape::new(nodes, ask.clone()).least();
    let alone = |gang| Ask {
        gang,
        exclusive: true,
        ..Ask::packed(0)
    };
    let each = |nodes, gpus| alone(Gang::Each { nodes, gpus });
    let mixed = nodes(&[8, 4, 8, 2]);
    for (ask, held) in [
        (each(1, 1), 2),
        (each(1, 3), 4),
        // One node of four is not two.
        (each(2, 3), 12),
        (each(3, 3), 20),
        (each(3, 1), 14),
        // More than there are: what it asks for.
        (each(5, 1), 5),
        (Ask::packed(3), 3),
    ] {
        assert_eq!(least(&mixed, &ask), held, "{ask:?}");
    }
    // A total that may be gathered has one of the nodes whole.
    let pair = nodes(&[16, 8]);
    for (gpus, held) in [(4, 8), (12, 12)] {
        assert_eq!(least(&pair, &alone(Gang::Packed { gpus })), held);
    }
    let equal = nodes(&[8; 3]);
    assert_eq!(least(&equal, &alone(Gang::Packed { gpus: 9 })), 16);
    assert_eq!(least(&equal, &alone(Gang::Packed { gpus: 25 })), 25);
}
