//! When those are expected to start whose project is at its limit, and those behind them.

use super::*;

/// From the start of these stories to the next midnight in UTC.
const MIDNIGHT: i64 = 80_000;

fn under(rule: policy::ProjectRule, nodes: u32) -> Planner {
    let mut config = Config::default();
    config.projects.insert("7".into(), rule);
    nodes_of(Planner::new(config), nodes)
}

fn of_seven(id: u64) -> QueuedJob {
    QueuedJob {
        project: Some(7),
        ..pinned(id)
    }
}

/// One that is not to be stopped.
fn pinned(id: u64) -> QueuedJob {
    QueuedJob {
        preemptible: false,
        ..job(id, 1, 4)
    }
}

fn daily(hours: f64) -> policy::ProjectRule {
    policy::ProjectRule {
        gpu_hours: Some(hours),
        gpu_hours_per: policy::Period::Day,
        borrow: false,
        ..policy::ProjectRule::default()
    }
}

fn expected(planner: &Planner, now: i64, job: u64) -> Option<[Timestamp; 3]> {
    match planner.explain(at(now), JobId(job)) {
        Some(why) => why.expected,
        None => panic!("job {job} does not wait"),
    }
}

#[test]
fn a_project_at_its_limit_is_expected_to_start_its_next_when_one_of_its_own_has_ended() {
    let one_at_a_time = policy::ProjectRule {
        running: Some(1),
        ..policy::ProjectRule::default()
    };
    let own_alone = policy::ProjectRule {
        gpus: Some(4),
        borrow: false,
        ..policy::ProjectRule::default()
    };
    for rule in [one_at_a_time, own_alone] {
        let mut planner = under(rule, 3);
        planner.queued(at(0), of_seven(1));
        let short = |id| QueuedJob {
            limit: Some(Duration::from_secs(300)),
            ..pinned(id)
        };
        planner.queued(at(0), short(5));
        assert_eq!(solve(&mut planner, 0).0, [1, 5]);
        planner.queued(at(0), of_seven(2));
        assert_eq!(solve(&mut planner, 0).0, [0; 0], "a node is idle");
        // Ten minutes is what is taken of one of whom nothing is known.
        let [_, middle, _] = expected(&planner, 0, 2).unwrap();
        assert_eq!(middle, at(600), "{rule:?}");
        let foreseen = planner.foresee(at(0), of_seven(8)).1.unwrap();
        assert_eq!(foreseen.expected.unwrap()[1], at(1_200));
        // Who stands behind does not wait for one that may not start.
        planner.queued(at(1), pinned(3));
        assert_eq!(solve(&mut planner, 1).0, [3]);
        planner.queued(at(2), pinned(4));
        solve(&mut planner, 2);
        let [_, middle, _] = expected(&planner, 0, 4).unwrap();
        assert_eq!(middle, at(300), "{rule:?}");
    }
}

#[test]
fn a_project_whose_gpu_hours_are_used_up_is_not_expected_to_start_before_they_are_its_own_again() {
    let mut planner = under(daily(1.0), 1);
    planner.has_used(at(0), 7, 4_000.0);
    planner.queued(at(0), of_seven(1));
    planner.queued(at(0), of_seven(2));
    assert_eq!(solve(&mut planner, 0).0, [0; 0]);
    assert_eq!(expected(&planner, 0, 1).unwrap()[..2], [at(MIDNIGHT); 2]);
    // The second waits for the first from then on, within the hour that is theirs.
    let [early, middle, _] = expected(&planner, 0, 2).unwrap();
    assert_eq!(middle, at(MIDNIGHT + 600));
    assert!(early >= at(MIDNIGHT));
    // With less than what those have to do who run they are used up until then.
    let mut planner = under(daily(0.5), 1);
    planner.queued(at(0), of_seven(1));
    assert_eq!(solve(&mut planner, 0).0, [1]);
    planner.queued(at(0), of_seven(2));
    solve(&mut planner, 0);
    assert_eq!(expected(&planner, 0, 2).unwrap()[1], at(MIDNIGHT));
    // What it never has it never starts with.
    let mut planner = under(daily(0.0), 1);
    planner.queued(at(0), of_seven(1));
    solve(&mut planner, 0);
    assert_eq!(expected(&planner, 0, 1), None);
}

#[test]
fn who_was_told_to_go_counts_for_its_project_until_it_is_expected_to_have_gone() {
    let rule = policy::ProjectRule {
        running: Some(1),
        ..policy::ProjectRule::default()
    };
    let mut planner = under(rule, 2);
    planner.queued(
        at(0),
        QueuedJob {
            preemptible: true,
            ..of_seven(1)
        },
    );
    solve(&mut planner, 0);
    planner.queued(at(0), pinned(2));
    solve(&mut planner, 0);
    planner.queued(at(400), urgent(3, 1, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 3)]);
    planner.gone(at(400), JobId(2), None);
    planner.queued(at(400), of_seven(4));
    solve(&mut planner, 400);
    assert_eq!(expected(&planner, 400, 4).unwrap()[1], at(460));
}

#[test]
fn under_limits_alone_who_waits_beside_another_is_told_so_and_when_it_starts_all_the_same() {
    let config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let mut planner = nodes_of(Planner::new(config), 2);
    planner.queued(at(0), pinned(1));
    solve(&mut planner, 0);
    let gang = QueuedJob {
        nodes: 2,
        ..pinned(2)
    };
    planner.queued(at(1), gang);
    planner.queued(at(2), pinned(3));
    assert_eq!(solve(&mut planner, 2).0, [0; 0]);
    let why = planner.explain(at(2), JobId(3)).unwrap();
    let told = "waits beside another: nodes n0, n1 are kept for job 2, and no time limit says when they are free";
    assert_eq!(why.words, told);
    assert_eq!(why.expected.unwrap()[1], at(1_202));
}
