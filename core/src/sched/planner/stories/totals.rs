//! For what a job is told to wait that asks for GPUs in all, or for nodes of one fabric.

use super::*;
use crate::service::{Scope, Window};

fn total(id: u64, gpus: u32) -> QueuedJob {
    let mut queued = job(id, 1, 0);
    queued.placement.gpus_total = Some(gpus);
    queued
}

/// Its words, and of each node what is short there and who has it.
fn told(planner: &Planner, job: u64) -> (String, Vec<(String, String, Vec<u64>)>) {
    let why = planner.explain(at(10), JobId(job)).unwrap();
    let short = why.short.into_iter().map(|short| {
        let holders = short.holders.into_iter().map(|job| job.0);
        (short.node.0, short.lacks, holders.collect())
    });
    (why.words, short.collect())
}

#[test]
fn who_asks_for_gpus_in_all_is_told_on_which_nodes_they_are_short_and_who_has_them() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 4));
    planner.queued(at(0), job(2, 1, 3));
    assert_eq!(solve(&mut planner, 0).0, [1, 2]);
    planner.queued(at(1), total(3, 8));
    assert_eq!(solve(&mut planner, 1), (vec![], vec![]));
    let lacks = |node: &str, free: u32, job| {
        let lacks = format!("gpus: {free} of 4 free");
        (node.to_owned(), lacks, vec![job])
    };
    let (words, short) = told(&planner, 3);
    assert_eq!(words, "waits for 8 GPUs in all; 1 are free");
    assert_eq!(short, [lacks("n0", 0, 1), lacks("n1", 1, 2)]);
}

#[test]
fn a_total_that_is_free_in_parts_alone_or_beside_no_cpus_is_told_so() {
    let mut planner = cluster(3);
    for id in 1..=3 {
        planner.queued(at(0), job(id, 1, 3));
    }
    solve(&mut planner, 0);
    planner.queued(at(1), total(4, 3));
    solve(&mut planner, 1);
    let parts = "waits for 3 GPUs in all; 3 are free, but not on as few nodes as it takes";
    let (words, short) = told(&planner, 4);
    assert_eq!(words, parts);
    assert_eq!(short.len(), 3);
    // Behind one who does not fit in strict order one that fits waits for its turn.
    let mut planner = nodes_of(
        Planner::new(Config {
            rule: Rule::Fifo,
            ..Config::default()
        }),
        1,
    );
    for queued in [job(1, 1, 1), job(2, 1, 4), total(3, 2)] {
        planner.queued(at(0), queued);
    }
    assert_eq!(solve(&mut planner, 0).0, [1]);
    assert_eq!(told(&planner, 3).0, "waits for its turn");
    // All CPUs of one node are taken.
    let mut planner = cluster(2);
    let mut busy = job(1, 1, 0);
    busy.request.cpus = 8;
    planner.queued(at(0), busy);
    solve(&mut planner, 0);
    planner.queued(at(1), total(2, 8));
    solve(&mut planner, 1);
    let (words, short) = told(&planner, 2);
    let told = "waits for 8 GPUs in all; 4 are free, and 4 more where CPUs or memory are short";
    assert_eq!(words, told);
    assert_eq!(short[0].1, "cpus: asks for 1, has 0");
}

#[test]
fn of_nodes_that_are_free_only_those_of_one_fabric_are_counted_together() {
    let mut planner = cluster(6);
    for node in 0..6 {
        let rack = format!("rack={}", node / 2);
        planner.set_labels(at(0), &name(node), [rack].into());
    }
    // One node of each rack is taken.
    for id in 0..3u32 {
        let mut one = job(u64::from(id) + 1, 1, 4);
        one.placement.labels = [format!("rack={id}")].into();
        planner.queued(at(0), one);
    }
    solve(&mut planner, 0);
    let mut gang = job(4, 2, 4);
    gang.placement.fabric = Some("rack".into());
    let mut alone = gang.clone();
    (alone.job, alone.placement.exclusive) = (JobId(5), true);
    planner.queued(at(1), gang);
    planner.queued(at(1), alone);
    assert_eq!(solve(&mut planner, 1), (vec![], vec![]));
    let (words, _) = told(&planner, 4);
    let start = "1 of 2 nodes with one value of rack are free; waits for gpus: asks for 4, has 0 ";
    assert!(words.starts_with(start), "{words}");
    let (words, _) = told(&planner, 5);
    let all = "waits for nodes with one value of rack that nobody else uses: 1 of the 2 that it needs are there";
    assert_eq!(words, all);
    // Of the racks the one with most of it counts, and one of which all are free is waited for no more than for its turn.
    planner.gone(at(2), JobId(2), None);
    let (words, _) = told(&planner, 4);
    assert_eq!(words, "waits for its turn");
}

#[test]
fn a_node_in_maintenance_that_has_no_free_gpu_would_not_hold_a_total() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 4));
    planner.queued(at(0), job(2, 1, 4));
    assert_eq!(solve(&mut planner, 0).0, [1, 2]);
    let closed = planner.ledger().held_by(JobId(1))[0].node.clone();
    let window = Window {
        id: 1,
        scope: Scope::Nodes([closed.clone()].into()),
        from: at(5),
        until: at(3_600),
        why: "new fan".into(),
        made_by: "o@example.com".into(),
        made_at: at(0),
    };
    planner.set_windows(at(5), vec![window]);
    set(&mut planner, 5, u32::from(closed == name(1)), 4, false);
    planner.queued(at(6), total(3, 4));
    assert_eq!(solve(&mut planner, 6), (vec![], vec![]));
    let (words, _) = told(&planner, 3);
    assert!(!words.contains("maintenance"), "{words}");
    planner.gone(at(7), JobId(1), Some(Duration::from_secs(7)));
    assert_eq!(solve(&mut planner, 7), (vec![], vec![]));
    let (words, _) = told(&planner, 3);
    let told = format!("; maintenance of node {} until ", closed.0);
    assert!(words.contains(&told), "{words}");
}
