//! What a job is told that is tried again, and goes around the node that failed it.

use super::*;

/// Two nodes, of which job 1 has one; job 2 has failed on the other, which is idle.
fn failed(gpus: u32) -> Planner {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    let mut again = job(2, 1, gpus);
    let held = &planner.ledger().held_by(JobId(1))[0].node;
    again.avoid = [name(u32::from(*held == name(0)))].into();
    planner.queued(at(10), again);
    assert_eq!(solve(&mut planner, 10), (vec![], vec![]));
    planner
}

#[test]
fn who_goes_around_an_idle_node_that_failed_it_is_told_so_and_that_the_same_would_start_there_anew()
{
    let mut planner = failed(4);
    let why = planner.explain(at(10), JobId(2)).unwrap();
    let told = "waits for gpus: asks for 4, has 0 free on node n0; node n1 is left out, since an attempt of it failed there; cancelled and submitted again as it is, it would start now";
    assert_eq!(why.words, told);
    assert!(why.again && why.changes.is_empty() && why.together.is_empty());
    let short = why.short.iter();
    let short: Vec<_> = short
        .map(|one| (one.node.0.as_str(), one.lacks.as_str()))
        .collect();
    let left_out = "left out, since an attempt of it failed there";
    let lacks = "gpus: asks for 4, has 0";
    assert_eq!(short, [("n0", lacks), ("n1", left_out)]);
    planner.gone(at(11), JobId(2), None);
    planner.queued(at(11), job(3, 1, 4));
    assert_eq!(solve(&mut planner, 11).0, [3]);
}

#[test]
fn who_would_lose_what_it_has_done_by_being_submitted_again_is_told_how_it_does_not() {
    let mut planner = failed(4);
    let mut worked = planner.queue().get(JobId(2)).unwrap().clone();
    worked.has_run = Duration::from_secs(3_600);
    planner.queued(at(11), worked);
    assert_eq!(solve(&mut planner, 11), (vec![], vec![]));
    let why = planner.explain(at(11), JobId(2)).unwrap();
    let told = "; cancelled and submitted again as it is, it would start now, but from the beginning unless resume_from names its checkpoint";
    assert!(why.again && why.words.ends_with(told), "{}", why.words);
}

#[test]
fn less_is_advised_where_even_the_same_would_not_start_on_the_node_that_failed_it() {
    let mut planner = failed(4);
    planner.queued(at(11), job(3, 1, 1));
    assert_eq!(solve(&mut planner, 11).0, [3]);
    let why = planner.explain(at(11), JobId(2)).unwrap();
    assert!(!why.again && !why.words.contains("submitted again"));
    let told: Vec<_> = why
        .changes
        .iter()
        .map(|change| (change.field, change.to.as_str()))
        .collect();
    assert_eq!(told, [("resources.gpus", "3")]);
}
