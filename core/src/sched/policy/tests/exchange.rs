//! A project at its limit makes room among its own jobs.

use super::*;

const HOUR: Seconds = 3_600;

/// What holds a project to sixteen GPUs, or to two jobs.
fn limits() -> [ProjectRule; 2] {
    let gpus = ProjectRule {
        gpus: Some(16),
        borrow: false,
        ..ProjectRule::default()
    };
    let running = ProjectRule {
        running: Some(2),
        ..ProjectRule::default()
    };
    [gpus, running]
}

fn limited(rule: ProjectRule, nodes: u32) -> Scheduler {
    let mut config = Config::default();
    config.projects.insert("a".into(), rule);
    scheduler(config, nodes)
}

fn of_a(asked: Submission) -> Submission {
    of_project("a", asked)
}

#[test]
fn one_of_a_higher_priority_goes_before_the_lowest_of_its_project_that_is_at_its_limit() {
    for rule in limits() {
        let mut scheduler = limited(rule, 4);
        scheduler.submit(0, &of_a(of_priority(2, job(1, 8))));
        scheduler.submit(0, &of_a(of_priority(1, job(2, 8))));
        scheduler.submit(0, &of_project("b", job(3, 8)));
        settle(&mut scheduler, 0);
        scheduler.submit(400, &of_a(of_priority(9, job(4, 8))));
        let plan = scheduler.pass(400);
        assert_eq!((started(&plan), gone(&plan)), (vec![], vec![2]), "{rule:?}");
        // A node is free, and it is not to be had while its project has as much.
        assert!(scheduler.pass(500).is_empty(), "{rule:?}");
        scheduler.released(600, 2);
        assert_eq!(settle(&mut scheduler, 600).0, [4], "{rule:?}");
        scheduler.finished(700, 4);
        assert_eq!(settle(&mut scheduler, 700).0, [2], "{rule:?}: it goes on");
    }
}

#[test]
fn of_one_priority_whoever_ranks_better_by_far_goes_before_its_projects_worst_job_and_nobody_elses()
{
    for rule in limits() {
        let mut scheduler = limited(rule, 3);
        scheduler.submit(0, &of_project("b", job(1, 8)));
        scheduler.submit(0, &of_a(job(2, 8)));
        settle(&mut scheduler, 0);
        scheduler.submit(10 * HOUR, &of_a(job(3, 8)));
        settle(&mut scheduler, 10 * HOUR);
        scheduler.submit(10 * HOUR + 1, &of_a(job(4, 8)));
        let soon = settle(&mut scheduler, 10 * HOUR + 200);
        assert_eq!(soon, (vec![4], vec![2]), "{rule:?}");
        let alike = settle(&mut scheduler, 10 * HOUR + 600);
        assert_eq!(alike, (vec![], vec![]), "{rule:?}: those two are alike");
    }
}

#[test]
fn nobody_goes_for_one_that_its_project_may_not_have_all_the_same() {
    let rule = ProjectRule {
        gpu_hours: Some(8.0),
        gpus: Some(16),
        borrow: false,
        ..ProjectRule::default()
    };
    let mut spent = limited(rule, 4);
    spent.submit(0, &of_a(job(1, 8)));
    settle(&mut spent, 0);
    spent.submit(2 * HOUR, &of_a(of_priority(9, job(2, 8))));
    assert_eq!(settle(&mut spent, 2 * HOUR), (vec![], vec![]));
    for rule in limits() {
        let mut scheduler = limited(rule, 4);
        let pinned = Submission {
            preemptible: false,
            ..job(1, 8)
        };
        scheduler.submit(0, &of_a(pinned.clone()));
        scheduler.submit(0, &of_a(of_priority(9, job(2, 8))));
        settle(&mut scheduler, 0);
        // One cannot save its work, the other is of a higher priority.
        scheduler.submit(400, &of_a(of_priority(5, job(3, 8))));
        assert_eq!(settle(&mut scheduler, 400), (vec![], vec![]), "{rule:?}");
        // More than its project may ever have.
        let wide = of_a(of_priority(99, job(4, 24)));
        scheduler.submit(500, &wide);
        let goes = settle(&mut scheduler, 500).1;
        assert!(rule.running.is_some() || goes.is_empty(), "{rule:?}");
    }
}

#[test]
fn no_more_go_than_have_to_and_while_they_do_nobody_else() {
    let [rule, _] = limits();
    let mut scheduler = limited(rule, 3);
    for number in 1..=4 {
        scheduler.submit(0, &of_a(job(number, 4)));
    }
    settle(&mut scheduler, 0);
    scheduler.submit(400, &of_a(of_priority(9, job(5, 8))));
    let plan = scheduler.pass(400);
    assert_eq!(gone(&plan).len(), 2);
    scheduler.submit(410, &of_a(of_priority(9, job(6, 8))));
    assert!(scheduler.pass(470).is_empty(), "some are going");
    for number in gone(&plan) {
        scheduler.released(480, number);
    }
    assert_eq!(settle(&mut scheduler, 480), (vec![5], vec![]));
    let (starts, goes) = settle(&mut scheduler, 540);
    assert_eq!((starts, goes.len()), (vec![6], 2));
}

#[test]
fn where_the_nodes_are_full_too_whoever_goes_makes_room_and_keeps_its_project_within_its_limit() {
    let [rule, _] = limits();
    let mut scheduler = limited(rule, 3);
    // Two of its own are on one node, beside each other; whose go from elsewhere would not help.
    for number in 1..=4 {
        scheduler.submit(0, &of_a(of_priority(3, job(number, 4))));
    }
    scheduler.submit(0, &of_project("b", of_priority(20, job(5, 8))));
    settle(&mut scheduler, 0);
    scheduler.submit(400, &of_a(of_priority(9, job(6, 8))));
    let (starts, mut goes) = settle(&mut scheduler, 400);
    goes.sort_unstable();
    assert_eq!(starts, [6]);
    assert!(goes == [1, 2] || goes == [3, 4], "{goes:?}");
}

#[test]
fn what_a_project_has_borrowed_it_owes_to_others_and_not_to_its_own() {
    // One of its two jobs would give back more than the newcomer needs, which would then borrow nothing.
    let rule = ProjectRule {
        gpus: Some(2),
        running: Some(2),
        ..ProjectRule::default()
    };
    let mut scheduler = limited(rule, 1);
    scheduler.submit(0, &of_a(of_priority(5, job(1, 1))));
    scheduler.submit(0, &of_a(job(2, 2)));
    settle(&mut scheduler, 0);
    scheduler.submit(400, &of_a(job(3, 1)));
    let alike = settle(&mut scheduler, 400);
    assert_eq!(alike, (vec![], vec![]), "those two are alike");
    scheduler.submit(500, &of_a(of_priority(9, job(4, 1))));
    let plan = scheduler.pass(500);
    assert_eq!(gone(&plan), [2]);
    assert!(plan.preempts.iter().all(|preempt| !preempt.borrowed));
}

#[test]
fn where_only_jobs_are_too_many_the_one_that_costs_least_goes_however_few_gpus_it_has() {
    let [_, rule] = limits();
    let mut scheduler = limited(rule, 2);
    let unsaved = |number, gpus| Submission {
        saved: false,
        ..of_priority(1, job(number, gpus))
    };
    scheduler.submit(0, &of_a(unsaved(1, 1)));
    settle(&mut scheduler, 0);
    scheduler.submit(100, &of_a(unsaved(2, 8)));
    settle(&mut scheduler, 100);
    scheduler.submit(420, &of_a(of_priority(9, job(3, 1))));
    assert_eq!(settle(&mut scheduler, 420).1, [1]);
}
