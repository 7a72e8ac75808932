//! What projects own, what they borrow, and how they get their own back.

use super::*;

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
