//! Who makes room for whom.

use super::*;

/// Rules of projects that own so many GPUs.
fn owned(rules: &[(&str, u32)]) -> Config {
    let mut config = Config::default();
    for (name, gpus) in rules {
        let rule = ProjectRule {
            gpus: Some(*gpus),
            ..ProjectRule::default()
        };
        config.projects.insert((*name).into(), rule);
    }
    config
}

fn of_project(project: &str, asked: Submission) -> Submission {
    Submission {
        project: project.into(),
        ..asked
    }
}

fn of_priority(priority: u32, asked: Submission) -> Submission {
    Submission { priority, ..asked }
}

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
