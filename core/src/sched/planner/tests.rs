//! Placement: order, fit, refusal, and the properties that no queue may break.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    resources::{Capacity, ResourceRequest, parse_gpus},
    sched::{largest_node_misfit, reason},
};

const NOW: Timestamp = Timestamp(1_000_000_000);

fn node(planner: &mut Planner, name: &str, cpus: u32, gpus: &str) {
    let gpus = if gpus.is_empty() {
        Vec::new()
    } else {
        parse_gpus(gpus, name).unwrap()
    };
    let capacity = Capacity {
        cpus,
        memory_bytes: 64 << 30,
        gpus,
    };
    planner.set_node(NOW, &NodeName(name.into()), capacity, true);
}

/// Closes a node.
fn close(planner: &mut Planner, name: &str) {
    let name = NodeName(name.into());
    let capacity = planner.ledger().node(&name).unwrap().capacity.clone();
    planner.set_node(NOW, &name, capacity, false);
}

fn job(id: u64, cpus: u32, gpus: u32, priority: i32) -> QueuedJob {
    let request = ResourceRequest {
        cpus,
        gpus,
        ..ResourceRequest::default()
    };
    QueuedJob {
        priority,
        ..QueuedJob::plain(JobId(id), request, Timestamp(i64::try_from(id).unwrap()))
    }
}

/// Solves for these jobs alone, in whatever order they come.
fn solve<'q>(
    planner: &mut Planner,
    now: Timestamp,
    queue: impl IntoIterator<Item = &'q QueuedJob>,
) -> Vec<Placement> {
    let before: Vec<JobId> = planner.queue().iter().map(|queued| queued.job).collect();
    for job in before {
        planner.gone(now, job, None);
    }
    for queued in queue {
        planner.queued(now, queued.clone());
    }
    let mut placements = planner.solve(now).placements;
    placements.sort_by_key(|placement| placement.job);
    placements
}

fn ends(planner: &mut Planner, id: u64) {
    planner.gone(NOW, JobId(id), Some(Duration::from_secs(60)));
}

fn held(name: &str, cpus: u32) -> Allocation {
    Allocation {
        node: NodeName(name.into()),
        cpus,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    }
}

/// As a start from the store finds it.
fn holds(planner: &mut Planner, id: u64, allocation: Allocation) {
    let held = Held {
        asked: job(id, allocation.cpus, 0, 0),
        allocations: vec![allocation],
        since: NOW,
        runs_since: Some(NOW),
        saved: true,
        leaves_for: None,
        leaves_since: None,
        grace: Duration::from_secs(10),
    };
    planner.holds(NOW, held);
}

fn placed(placements: &[Placement]) -> Vec<(u64, &str)> {
    placements
        .iter()
        .map(|p| (p.job.0, p.allocations[0].node.0.as_str()))
        .collect()
}

#[test]
fn priority_goes_before_age_and_the_oldest_before_the_rest() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 2, "");
    let queue = [job(3, 1, 0, 0), job(1, 1, 0, 0), job(2, 1, 0, 5)];
    let placements = solve(&mut planner, NOW, &queue);
    assert_eq!(placed(&placements), [(1, "a"), (2, "a")]);
}

#[test]
fn a_blocked_gpu_goes_to_nobody_and_whoever_needs_it_waits() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 4, "2xH100-80GB");
    let name = NodeName("a".into());
    let uuids = |planner: &Planner| -> BTreeSet<String> {
        let free = planner.ledger().node(&name).unwrap().free();
        free.gpus.into_iter().map(|gpu| gpu.uuid).collect()
    };
    let all = uuids(&planner);
    let one: BTreeSet<_> = all.iter().take(1).cloned().collect();
    planner.block(NOW, &name, one.clone());
    assert_eq!(solve(&mut planner, NOW, &[job(1, 1, 2, 0)]), []);
    let request = job(1, 1, 2, 0).request;
    assert_eq!(largest_node_misfit(planner.ledger(), &request, 1), None);
    // The node says what it has once more: that does not unblock it.
    node(&mut planner, "a", 4, "2xH100-80GB");
    assert!(uuids(&planner).is_disjoint(&one));
    planner.block(NOW, &name, BTreeSet::new());
    assert_eq!(uuids(&planner), all);
    assert_eq!(solve(&mut planner, NOW, &[job(1, 1, 2, 0)]).len(), 1);
}

#[test]
fn what_does_not_fit_holds_up_nothing_that_does_however_much_of_it_waits() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 2, "");
    let mut queue: Vec<QueuedJob> = (1..100).map(|id| job(id, 3, 0, 0)).collect();
    queue.extend([job(100, 1, 0, 0), job(101, 2, 0, 0), job(102, 1, 0, 0)]);
    let placements = solve(&mut planner, NOW, &queue);
    assert_eq!(placed(&placements), [(100, "a"), (102, "a")]);
}

#[test]
fn a_node_that_gives_more_than_it_has_is_told_of_once_where_only_news_are_asked_for() {
    let mut ledger = Ledger::default();
    for name in ["a", "b"] {
        let capacity = Capacity {
            cpus: 2,
            ..Capacity::default()
        };
        ledger.set_node(NodeName(name.into()), capacity, true);
    }
    assert_eq!(ledger.newly_violated(), None);
    ledger.take(JobId(1), vec![held("b", 3)]).unwrap();
    let broken = ledger.newly_violated();
    assert!(broken.is_some_and(|words| words.contains("INV-02: b")));
    assert_eq!(ledger.newly_violated(), None);
    assert!(ledger.violated().is_some(), "it still is");
}

#[test]
fn a_cpu_job_leaves_gpu_nodes_free() {
    let mut planner = Planner::default();
    node(&mut planner, "a-gpu", 8, "4xH100-80GB");
    node(&mut planner, "b-cpu", 8, "");
    let placements = solve(&mut planner, NOW, &[job(1, 4, 0, 0)]);
    assert_eq!(placed(&placements), [(1, "b-cpu")]);
}

#[test]
fn the_smallest_gpu_that_does_is_taken_and_the_model_is_heeded() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 8, "1xA100-80GB,1xA100-40GB,1xT4-16GB");
    let mut wanted = job(1, 1, 1, 0);
    wanted.request.gpu_model = "a100".into();
    let placements = solve(&mut planner, NOW, &[wanted]);
    assert_eq!(placements[0].allocations[0].gpus, ["GPU-SIM-a-1"]);
}

#[test]
fn a_job_larger_than_any_node_is_told_the_shortage_and_the_nearest_node() {
    let mut planner = Planner::default();
    let mut wanted = job(1, 1, 8, 0).request;
    assert_eq!(
        largest_node_misfit(planner.ledger(), &wanted, 1),
        None,
        "no node yet"
    );
    assert_eq!(
        reason(planner.ledger(), &wanted, 1),
        "no node has registered yet"
    );
    node(&mut planner, "big", 64, "4xH100-80GB");
    node(&mut planner, "small", 8, "");
    let unfit = largest_node_misfit(planner.ledger(), &wanted, 1).unwrap();
    let words = "no node could ever hold the job: gpus: asks for 8, has 4; the nearest is big with 64 CPUs, 64 GiB, 4 GPUs (H100)";
    assert_eq!(
        (unfit.field(), unfit.to_string().as_str()),
        ("resources", words)
    );
    wanted.gpus = 4;
    assert_eq!(largest_node_misfit(planner.ledger(), &wanted, 1), None);
}

#[test]
fn the_nearest_node_is_the_one_that_lacks_least_and_not_the_largest() {
    let mut planner = Planner::default();
    node(&mut planner, "many", 64, "8xT4-16GB");
    node(&mut planner, "wide", 96, "2xT4-16GB");
    let mut wanted = job(1, 1, 2, 0).request;
    wanted.cpus = 100;
    let words = |planner: &Planner, wanted: &ResourceRequest| {
        let unfit = largest_node_misfit(planner.ledger(), wanted, 1);
        unfit.unwrap().to_string()
    };
    let nearest = words(&planner, &wanted);
    assert_eq!(
        nearest,
        "no node could ever hold the job: cpus: asks for 100, has 96; the nearest is wide with 96 CPUs, 64 GiB, 2 GPUs (T4)"
    );
    // All that is short is named, and what there is of GPUs.
    wanted.gpu_model = "H100".into();
    let nearest = words(&planner, &wanted);
    assert_eq!(
        nearest,
        "no node could ever hold the job: cpus: asks for 100, has 96, and gpus: asks for 2 of model H100, has 0 (nodes have T4 14.9 GiB); the nearest is wide with 96 CPUs, 64 GiB, 2 GPUs (T4)"
    );
}

#[test]
fn a_closed_node_gets_nothing_and_the_job_says_so() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 8, "");
    close(&mut planner, "a");
    assert_eq!(solve(&mut planner, NOW, &[job(1, 1, 0, 0)]), []);
    let words = reason(planner.ledger(), &job(1, 1, 0, 0).request, 1);
    assert_eq!(words, "1 nodes could hold it, but none is ready");
}

#[test]
fn a_node_that_came_back_smaller_breaks_nothing_and_gets_nothing_until_it_fits_again() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 4, "");
    let queue = [job(1, 2, 0, 0), job(2, 2, 0, 0)];
    assert_eq!(solve(&mut planner, NOW, &queue).len(), 2);
    node(&mut planner, "a", 2, "");
    assert_eq!(planner.ledger().violated(), None);
    assert!(solve(&mut planner, NOW, &[job(3, 1, 0, 0)]).is_empty());
    ends(&mut planner, 1);
    assert_eq!(planner.ledger().violated(), None);
    ends(&mut planner, 2);
    assert_eq!(
        placed(&solve(&mut planner, NOW, &[job(3, 2, 0, 0)])),
        [(3, "a")]
    );
    // Beyond its capacity, and nobody has shrunk it: that is a bug of ours.
    let mut ledger = planner.ledger().clone();
    ledger.take(JobId(4), vec![held("a", 1)]).unwrap();
    assert_eq!(
        ledger.violated().unwrap(),
        "INV-02: a gives more than it has"
    );
}

#[test]
fn what_the_store_says_is_held_on_a_node_that_came_back_smaller_breaks_nothing() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 4, "");
    holds(&mut planner, 1, held("a", 8));
    assert_eq!(planner.ledger().violated(), None);
    // A rank of a gang is over: what is left is held anew.
    holds(&mut planner, 1, held("a", 6));
    assert_eq!(planner.newly_violated(), None);
    assert!(solve(&mut planner, NOW, &[job(2, 1, 0, 0)]).is_empty());
    ends(&mut planner, 1);
    assert_eq!(solve(&mut planner, NOW, &[job(2, 4, 0, 0)]).len(), 1);
}

#[test]
fn what_is_released_can_be_had_again() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 1, "");
    let queue = [job(1, 1, 0, 0), job(2, 1, 0, 0)];
    assert_eq!(placed(&solve(&mut planner, NOW, &queue)), [(1, "a")]);
    let words = reason(planner.ledger(), &queue[1].request, 1);
    assert_eq!(words, "waits for cpus: asks for 1, has 0 free on node a");
    ends(&mut planner, 1);
    ends(&mut planner, 1);
    assert_eq!(placed(&solve(&mut planner, NOW, &queue[1..])), [(2, "a")]);
}

proptest! {
    #[test]
    fn no_queue_breaks_the_invariants_and_solving_twice_changes_nothing(
        nodes in prop::collection::vec((1u32..16, 0u32..5), 1..6),
        jobs in prop::collection::vec((1u32..8, 0u32..4, -3i32..3), 0..40),
    ) {
        let mut planner = Planner::default();
        for (index, (cpus, gpus)) in nodes.iter().enumerate() {
            let gpus = if *gpus == 0 { String::new() } else { format!("{gpus}xT4-16GB") };
            node(&mut planner, &format!("n{index}"), *cpus, &gpus);
        }
        let mut queue: Vec<_> = (1u64..)
            .zip(&jobs)
            .map(|(id, (cpus, gpus, priority))| job(id, *cpus, *gpus, *priority))
            .collect();
        let placements = solve(&mut planner, NOW, &queue);
        prop_assert_eq!(planner.ledger().violated(), None);
        queue.retain(|queued| placements.iter().all(|p| p.job != queued.job));
        prop_assert_eq!(solve(&mut planner, NOW, &queue), []);
        for placement in &placements {
            planner.gone(NOW, placement.job, Some(Duration::from_secs(60)));
        }
        let free: u32 = planner.ledger().nodes().map(|(_, entry)| entry.free().cpus).sum();
        let all: u32 = nodes.iter().map(|(cpus, _)| cpus).sum();
        prop_assert_eq!(free, all);
    }
}

#[test]
fn a_job_that_is_tried_again_waits_its_time_and_goes_elsewhere_while_there_is_an_elsewhere() {
    let mut planner = Planner::default();
    node(&mut planner, "a", 1, "");
    let mut again = job(1, 1, 0, 0);
    again.not_before = Some(Timestamp(NOW.0 + 5_000_000));
    again.avoid.insert(NodeName("a".into()));
    assert_eq!(solve(&mut planner, NOW, [&again]), []);
    // Later, and beside another node that could hold it but is full.
    let later = Timestamp(NOW.0 + 5_000_000);
    node(&mut planner, "b", 1, "");
    holds(&mut planner, 9, held("b", 1));
    assert_eq!(solve(&mut planner, later, [&again]), []);
    ends(&mut planner, 9);
    let elsewhere = solve(&mut planner.clone(), later, [&again]);
    assert_eq!(placed(&elsewhere), [(1, "b")]);
    // A node that is closed is no elsewhere.
    close(&mut planner, "b");
    let back = solve(&mut planner, later, [&again]);
    assert_eq!(placed(&back), [(1, "a")]);
}

#[test]
fn a_clock_that_was_set_back_keeps_no_job_waiting() {
    let mut again = job(1, 1, 0, 0);
    again.not_before = Some(Timestamp(NOW.0 + 3_600_000_000));
    assert!(again.is_due(NOW));
    again.not_before = Some(Timestamp(NOW.0 + 600_000_000));
    assert!(!again.is_due(NOW));
}

#[test]
fn oldest_waits_least_when_all_else_is_equal() {
    // Forty jobs of the same wish for a node that holds three at once; one ends at a time.
    let mut planner = Planner::default();
    node(&mut planner, "a", 3, "");
    let mut queue: Vec<_> = (1..=40).rev().map(|id| job(id, 1, 0, 0)).collect();
    let mut order = Vec::new();
    while !queue.is_empty() {
        for placement in solve(&mut planner, NOW, &queue) {
            queue.retain(|queued| queued.job != placement.job);
            order.push(placement.job);
        }
        let ended = order
            .iter()
            .find(|job| !planner.ledger().held_by(**job).is_empty());
        planner.gone(NOW, *ended.unwrap(), Some(Duration::from_secs(60)));
    }
    assert_eq!(order, (1..=40).map(JobId).collect::<Vec<_>>());
}

/// Nodes with four CPUs each, whose addresses are not in the order of their names.
fn reachable(names: &[(&str, &str)]) -> Planner {
    let mut planner = Planner::default();
    for (name, address) in names {
        node(&mut planner, name, 4, "");
        planner.set_address(NOW, &NodeName((*name).into()), (*address).into());
    }
    planner
}

fn gang(id: u64, nodes: u32, cpus: u32) -> QueuedJob {
    QueuedJob {
        nodes,
        ..job(id, cpus, 0, 0)
    }
}

#[test]
fn a_gang_gets_all_of_its_nodes_or_none_in_the_order_of_their_addresses() {
    let mut planner = reachable(&[("a", "10.0.0.9"), ("b", "10.0.0.10"), ("c", "10.0.0.3")]);
    assert_eq!(solve(&mut planner, NOW, &[job(1, 1, 0, 0)]).len(), 1);
    // Three whole nodes are not free, and nothing is held of those that are.
    assert_eq!(solve(&mut planner, NOW, &[gang(2, 3, 4)]), []);
    let words = reason(planner.ledger(), &gang(2, 3, 4).request, 3);
    assert_eq!(
        words,
        "2 of 3 nodes are free; waits for cpus: asks for 4, has 3 free on node a"
    );
    let placements = solve(&mut planner, NOW, &[gang(2, 3, 4), gang(3, 3, 3)]);
    let placed = placements[0].allocations.iter();
    let ranks: Vec<_> = placed
        .map(|held| (held.node.0.as_str(), held.address.as_str()))
        .collect();
    assert_eq!(placements[0].job, JobId(3));
    assert_eq!(
        ranks,
        [("b", "10.0.0.10"), ("c", "10.0.0.3"), ("a", "10.0.0.9")]
    );
    assert_eq!(planner.ledger().held_by(JobId(3)).len(), 3);
    ends(&mut planner, 3);
    assert!(planner.ledger().held_by(JobId(3)).is_empty());
}

#[test]
fn a_total_lies_on_one_node_or_on_several_that_others_reach() {
    let total = |id, gpus| {
        let mut queued = job(id, 1, 0, 0);
        queued.placement.gpus_total = Some(gpus);
        queued
    };
    let mut planner = Planner::default();
    for name in ["a", "b"] {
        node(&mut planner, name, 8, "4xH100-80GB");
    }
    let wide = total(2, 6);
    let told = wide
        .wish()
        .misfit(planner.ledger())
        .map(|unfit| unfit.to_string());
    assert!(
        told.is_some_and(|told| told.contains("give 4")),
        "none of both is reached"
    );
    let placements = solve(&mut planner, NOW, &[total(1, 4), wide.clone()]);
    assert_eq!(placed(&placements), [(1, "a")]);
    ends(&mut planner, 1);
    for name in ["a", "b"] {
        planner.set_address(NOW, &NodeName(name.into()), name.into());
    }
    let placements = solve(&mut planner, NOW, &[wide]);
    let [placement] = placements.as_slice() else {
        panic!("{placements:?}")
    };
    let held = placement.allocations.iter();
    let held = held.map(|held| (held.node.0.as_str(), held.gpus.len(), held.address.as_str()));
    assert_eq!(held.collect::<Vec<_>>(), [("a", 4, "a"), ("b", 2, "b")]);
}

#[test]
fn a_gang_that_no_set_of_nodes_could_hold_is_told_how_many_there_are() {
    let mut planner = reachable(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    // One that nobody reaches.
    node(&mut planner, "c", 4, "");
    let unfit = largest_node_misfit(planner.ledger(), &gang(1, 3, 4).request, 3).unwrap();
    let words = "asks for 3 nodes that each hold its resources, and there are 2; give 2, or ask for less on each";
    assert_eq!(
        (unfit.field(), unfit.to_string().as_str()),
        ("nodes", words)
    );
    assert_eq!(
        largest_node_misfit(planner.ledger(), &gang(1, 2, 4).request, 2),
        None
    );
    assert!(largest_node_misfit(planner.ledger(), &gang(1, 2, 5).request, 2).is_some());
}

#[test]
fn a_gang_goes_around_nodes_that_failed_it_while_there_are_enough_others() {
    let mut planner = reachable(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let mut again = gang(1, 2, 4);
    again.avoid.insert(NodeName("a".into()));
    let placements = solve(&mut planner.clone(), NOW, &[again.clone()]);
    let nodes = placements[0].allocations.iter();
    let nodes: Vec<_> = nodes.map(|held| held.node.0.as_str()).collect();
    assert_eq!(nodes, ["b", "c"]);
    // Busy for now is no reason to go back.
    assert_eq!(solve(&mut planner, NOW, &[job(2, 1, 0, 0)]).len(), 1);
    assert_eq!(solve(&mut planner, NOW, &[job(3, 4, 0, 0)]).len(), 1);
    assert_eq!(solve(&mut planner, NOW, &[again.clone()]), []);
    ends(&mut planner, 2);
    ends(&mut planner, 3);
    close(&mut planner, "b");
    assert_eq!(solve(&mut planner, NOW, &[again]).len(), 1);
}

#[test]
fn a_gang_that_has_too_few_nodes_without_those_that_failed_it_takes_as_few_of_them_as_it_must() {
    let mut planner = reachable(&[("a", "1"), ("b", "2"), ("c", "3")]);
    // Those that failed it fit better.
    node(&mut planner, "b", 8, "");
    let mut again = gang(1, 2, 4);
    let failed = ["a", "c"].map(|name| NodeName(name.into()));
    again.avoid.extend(failed);
    let placements = solve(&mut planner, NOW, &[again]);
    let nodes = placements[0].allocations.iter();
    let nodes: Vec<_> = nodes.map(|held| held.node.0.as_str()).collect();
    assert_eq!(nodes, ["a", "b"]);
}
