//! For how long a job that runs is left alone.

use super::*;

#[test]
fn a_job_is_left_alone_while_it_is_prepared_and_for_so_long_after_it_began_to_run() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    let place = planner.solve(at(0)).placements.remove(0);
    planner.holds(at(1), held(job(1, 1, 4), &place, None));
    planner.queued(at(10), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 400), (vec![], vec![]), "it is prepared");
    let runs = |since| held(job(1, 1, 4), &place, Some(since));
    // A start from the store knows it, too.
    let mut after = cluster(1);
    after.holds(at(400), held(job(1, 1, 4), &place, None));
    after.queued(at(400), urgent(2, 1, 4));
    for planner in [&mut planner, &mut after] {
        assert_eq!(solve(planner, 410), (vec![], vec![]));
    }
    planner.holds(at(420), runs(250));
    assert_eq!(solve(&mut planner, 540), (vec![], vec![]), "just started");
    assert_eq!(solve(&mut planner, 610), (vec![], vec![(1, 2)]));
    after.holds(at(420), runs(415));
    assert_eq!(solve(&mut after, 710), (vec![], vec![]), "just started");
    assert_eq!(solve(&mut after, 840), (vec![], vec![(1, 2)]));
}

#[test]
fn a_job_that_took_long_to_start_is_left_alone_for_as_long_since_that_is_what_its_restart_costs() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    let place = planner.solve(at(0)).placements.remove(0);
    planner.holds(at(1), held(job(1, 1, 4), &place, None));
    let runs = held(job(1, 1, 4), &place, Some(900));
    planner.holds(at(901), runs.clone());
    let mut after = cluster(1);
    after.holds(at(1_000), runs);
    for planner in [&mut planner, &mut after] {
        planner.queued(at(1_000), urgent(2, 1, 4));
        assert_eq!(
            solve(planner, 1_790),
            (vec![], vec![]),
            "it would lose 900 s"
        );
        assert_eq!(solve(planner, 1_860), (vec![], vec![(1, 2)]));
    }
    // One that took a day waited for something.
    let mut planner = cluster(1);
    planner.holds(at(100_000), held(job(1, 1, 4), &place, Some(90_000)));
    planner.queued(at(100_000), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 100_000), (vec![], vec![(1, 2)]));
}
