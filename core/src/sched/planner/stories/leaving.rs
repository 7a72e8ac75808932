//! What counts, and what is told, while nodes are being left for a job.

use super::*;

const HOUR: i64 = 3_600;

/// One node; project 7 has one GPU-hour, and may not borrow.
fn metered() -> Planner {
    let mut config = Config::default();
    let own = policy::ProjectRule {
        gpu_hours: Some(1.0),
        borrow: false,
        ..policy::ProjectRule::default()
    };
    config.projects.insert("7".into(), own);
    nodes_of(Planner::new(config), 1)
}

fn of_seven(queued: QueuedJob) -> QueuedJob {
    QueuedJob {
        project: Some(7),
        ..queued
    }
}

fn reason(planner: &Planner, now: i64, job: u64) -> String {
    planner.reason(at(now), JobId(job)).unwrap()
}

#[test]
fn gpu_hours_are_not_used_by_a_job_whose_place_others_have_still() {
    let mut planner = metered();
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), of_seven(urgent(2, 1, 2)));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    // What is left over of the room is chosen for another of them, and is as little free.
    planner.queued(at(401), of_seven(job(3, 1, 2)));
    planner.queued(at(401), of_seven(job(4, 1, 1)));
    for now in [401, HOUR, 5 * HOUR] {
        assert_eq!(solve(&mut planner, now), (vec![], vec![]));
        let words = reason(&planner, now, 4);
        assert!(!words.contains("GPU-hours"), "{words}");
    }
    planner.queued(at(5 * HOUR), job(1, 1, 4));
    assert_eq!(solve(&mut planner, 5 * HOUR).0, [2, 3]);
    // From then on they are: four GPUs for a quarter of an hour.
    solve(&mut planner, 5 * HOUR + 890);
    let words = reason(&planner, 5 * HOUR + 890, 4);
    assert!(!words.contains("GPU-hours"), "{words}");
    solve(&mut planner, 5 * HOUR + 901);
    let words = reason(&planner, 5 * HOUR + 901, 4);
    assert!(words.contains("has used 1.0 of its 1 GPU-hours"), "{words}");
}

#[test]
fn a_project_is_not_beyond_its_share_by_what_others_have_still() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), of_seven(urgent(2, 1, 4)));
    planner.queued(at(10), of_seven(job(3, 1, 1)));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    solve(&mut planner, 5 * HOUR);
    let why = planner.explain(at(5 * HOUR), JobId(3)).unwrap();
    let factor = why.place.unwrap().factor;
    assert!(factor < 0.8, "{factor}: it has used nothing");
}

#[test]
fn who_waits_for_others_to_go_is_told_by_when_they_have_and_when_that_has_passed() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    let place = planner.solve(at(0)).placements.remove(0);
    let slow = |leaves: Option<i64>| Held {
        grace: Duration::from_secs(1_800),
        leaves_for: leaves.map(|_| JobId(2)),
        leaves_since: leaves.map(at),
        ..held(job(1, 1, 4), &place, Some(0))
    };
    planner.holds(at(0), slow(None));
    planner.queued(at(10), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    // A start from the store knows it, too.
    let mut after = cluster(1);
    after.holds(at(500), slow(Some(402)));
    after.queued(at(500), urgent(2, 1, 4));
    assert_eq!(solve(&mut after, 500), (vec![], vec![]));
    planner.holds(at(500), slow(Some(402)));
    let last = 402 + 1_800 + 60;
    for planner in [&planner, &after] {
        let expected = |now| planner.explain(at(now), JobId(2)).unwrap().expected;
        assert_eq!(expected(420), Some([at(420), at(462), at(last)]));
        let [early, middle, late] = expected(2_000).unwrap();
        assert!(early < middle && middle < late && late == at(last));
        assert!(!reason(planner, 2_000, 2).contains("should have"));
        assert_eq!(expected(last), None, "nobody knows");
        let words = reason(planner, last, 2);
        let until = at(last).moment(at(last));
        let wanted = format!("; job 1 should have gone by {until}, and nobody knows when it will");
        assert!(words.ends_with(&wanted), "{words}");
    }
}

#[test]
fn a_job_that_was_told_to_go_is_asked_again_when_its_limit_reaches_into_a_window_planned_meanwhile()
{
    use crate::service::{Scope, Window};
    let mut planner = cluster(1);
    let limited = |queued: QueuedJob| QueuedJob {
        limit: Some(Duration::from_secs(3_600)),
        ..queued
    };
    planner.queued(at(0), limited(job(1, 1, 4)));
    solve(&mut planner, 0);
    planner.queued(at(10), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    let window = Window {
        id: 1,
        scope: Scope::Nodes([name(0)].into()),
        from: at(5 * HOUR),
        until: at(6 * HOUR),
        why: "new fans".into(),
        made_by: "ops@example.com".into(),
        made_at: at(410),
    };
    planner.set_windows(at(410), vec![window]);
    solve(&mut planner, 410);
    planner.queued(at(420), limited(job(1, 1, 4)));
    assert_eq!(solve(&mut planner, 420).0, [2]);
    // It could have started until an hour before the window, and nothing else happens until then.
    let late = 4 * HOUR + 60;
    solve(&mut planner, late);
    let asked = planner.policy.asks(1).unwrap();
    assert!(!asked.avoid.is_empty(), "it would not end in time");
    let words = reason(&planner, late, 1);
    planner.gone(at(late), JobId(2), Some(Duration::from_secs(60)));
    assert_eq!(solve(&mut planner, late + 1).0, [0; 0], "{words}");
}

#[test]
fn after_a_restart_a_project_is_charged_for_gpus_that_a_node_has_not_any_more() {
    let mut config = Config::default();
    let own = policy::ProjectRule {
        gpus: Some(5),
        borrow: false,
        ..policy::ProjectRule::default()
    };
    config.projects.insert("7".into(), own);
    let mut before = nodes_of(Planner::new(config.clone()), 1);
    let mut alone = of_seven(job(1, 1, 1));
    alone.placement.exclusive = true;
    before.queued(at(0), alone.clone());
    let place = before.solve(at(0)).placements.remove(0);
    assert_eq!(place.allocations[0].gpus.len(), 4, "it has all of its node");
    let mut after = Planner::new(config);
    set(&mut after, 0, 0, 1, false);
    set(&mut after, 0, 1, 4, true);
    after.holds(at(10), held(alone, &place, Some(0)));
    after.queued(at(10), of_seven(job(2, 1, 2)));
    after.queued(at(10), of_seven(job(3, 1, 1)));
    assert_eq!(solve(&mut after, 10).0, [3], "of five it has four");
}

#[test]
fn nodes_that_were_kept_for_one_are_anybodys_as_soon_as_others_make_room_for_it_elsewhere() {
    let mut planner = nodes_of(
        Planner::new(Config {
            reserve: policy::Reserve::Top,
            ..Config::default()
        }),
        2,
    );
    let hour = |queued: QueuedJob| QueuedJob {
        limit: Some(Duration::from_secs(3_600)),
        preemptible: false,
        ..queued
    };
    planner.queued(at(0), job(1, 1, 4));
    planner.queued(at(0), hour(job(2, 1, 1)));
    assert_eq!(solve(&mut planner, 0).0, [1, 2]);
    // Of the node with one job it is known when it is free.
    planner.queued(at(10), hour(urgent(3, 1, 4)));
    planner.queued(at(10), job(4, 1, 1));
    assert_eq!(solve(&mut planner, 10), (vec![], vec![]));
    let words = planner.reason(at(10), JobId(4)).unwrap();
    assert!(words.contains("are kept for job 3"), "{words}");
    assert_eq!(solve(&mut planner, 400), (vec![4], vec![(1, 3)]));
    assert_eq!(planner.solve(at(400)), Decisions::default());
}
