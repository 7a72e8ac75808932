//! Placement: order, fit, refusal, and the properties that no queue may break.

use proptest::prelude::*;

use super::*;
use crate::resources::{Capacity, parse_gpus};

const NOW: Timestamp = Timestamp(1_000_000_000);

fn node(ledger: &mut Ledger, name: &str, cpus: u32, gpus: &str) {
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
    ledger.set_node(NodeName(name.into()), capacity, true);
}

fn job(id: u64, cpus: u32, gpus: u32, priority: i32) -> QueuedJob {
    QueuedJob {
        job: JobId(id),
        request: ResourceRequest {
            cpus,
            gpus,
            ..ResourceRequest::default()
        },
        nodes: 1,
        priority,
        queued_at: Timestamp(i64::try_from(id).unwrap()),
        age: Timestamp(i64::try_from(id).unwrap()),
        not_before: None,
        avoid: BTreeSet::new(),
    }
}

/// Solves for jobs in whatever order they come.
fn solve<'q>(
    ledger: &mut Ledger,
    now: Timestamp,
    queue: impl IntoIterator<Item = &'q QueuedJob>,
) -> Vec<Placement> {
    super::solve(ledger, now, &queue.into_iter().cloned().collect())
}

fn placed(placements: &[Placement]) -> Vec<(u64, &str)> {
    placements
        .iter()
        .map(|p| (p.job.0, p.allocations[0].node.0.as_str()))
        .collect()
}

#[test]
fn priority_goes_before_age_and_the_oldest_before_the_rest() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 2, "");
    let queue = [job(3, 1, 0, 0), job(1, 1, 0, 0), job(2, 1, 0, 5)];
    let placements = solve(&mut ledger, NOW, &queue);
    assert_eq!(placed(&placements), [(2, "a"), (1, "a")]);
}

#[test]
fn a_blocked_gpu_goes_to_nobody_and_whoever_needs_it_waits() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 4, "2xH100-80GB");
    let name = NodeName("a".into());
    let uuids = |ledger: &Ledger| -> BTreeSet<String> {
        let free = ledger.node(&name).unwrap().free();
        free.gpus.into_iter().map(|gpu| gpu.uuid).collect()
    };
    let all = uuids(&ledger);
    let one: BTreeSet<_> = all.iter().take(1).cloned().collect();
    ledger.block(name.clone(), one.clone());
    assert_eq!(solve(&mut ledger, NOW, &[job(1, 1, 2, 0)]), []);
    let request = job(1, 1, 2, 0).request;
    assert_eq!(largest_node_misfit(&ledger, &request, 1), None);
    // The node says what it has once more: that does not unblock it.
    node(&mut ledger, "a", 4, "2xH100-80GB");
    assert!(uuids(&ledger).is_disjoint(&one));
    ledger.block(name.clone(), BTreeSet::new());
    assert_eq!(uuids(&ledger), all);
    assert_eq!(solve(&mut ledger, NOW, &[job(1, 1, 2, 0)]).len(), 1);
}

#[test]
fn what_does_not_fit_holds_up_nothing_that_does_however_much_of_it_waits() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 2, "");
    let mut queue: Vec<QueuedJob> = (1..100).map(|id| job(id, 3, 0, 0)).collect();
    queue.extend([job(100, 1, 0, 0), job(101, 2, 0, 0), job(102, 1, 0, 0)]);
    let placements = solve(&mut ledger, NOW, &queue);
    assert_eq!(placed(&placements), [(100, "a"), (102, "a")]);
}

#[test]
fn a_node_that_gives_more_than_it_has_is_told_of_once_where_only_news_are_asked_for() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 2, "");
    node(&mut ledger, "b", 2, "");
    assert_eq!(ledger.newly_violated(), None);
    let allocation = |name: &str| Allocation {
        node: NodeName(name.into()),
        cpus: 3,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    ledger.take(JobId(1), vec![allocation("b")]).unwrap();
    let broken = ledger.newly_violated();
    assert!(broken.is_some_and(|words| words.contains("INV-02: b")));
    assert_eq!(ledger.newly_violated(), None);
    assert!(ledger.violated().is_some(), "it still is");
}

#[test]
fn a_cpu_job_leaves_gpu_nodes_free() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a-gpu", 8, "4xH100-80GB");
    node(&mut ledger, "b-cpu", 8, "");
    let placements = solve(&mut ledger, NOW, &[job(1, 4, 0, 0)]);
    assert_eq!(placed(&placements), [(1, "b-cpu")]);
}

#[test]
fn the_smallest_gpu_that_does_is_taken_and_the_model_is_heeded() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 8, "1xA100-80GB,1xA100-40GB,1xT4-16GB");
    let mut wanted = job(1, 1, 1, 0);
    wanted.request.gpu_model = "a100".into();
    let placements = solve(&mut ledger, NOW, &[wanted]);
    assert_eq!(placements[0].allocations[0].gpus, ["GPU-SIM-a-1"]);
}

#[test]
fn a_job_larger_than_any_node_is_told_the_shortage_and_the_largest_node() {
    let mut ledger = Ledger::default();
    let mut wanted = job(1, 1, 8, 0).request;
    assert_eq!(
        largest_node_misfit(&ledger, &wanted, 1),
        None,
        "no node yet"
    );
    assert_eq!(reason(&ledger, &wanted, 1), "no node has registered yet");
    node(&mut ledger, "big", 64, "4xH100-80GB");
    node(&mut ledger, "small", 8, "");
    let unfit = largest_node_misfit(&ledger, &wanted, 1).unwrap();
    let words = "no node could ever hold the job: gpus: asks for 8, has 4; the largest is big with 64 CPUs, 64 GiB, 4 GPUs (H100)";
    assert_eq!(
        (unfit.field(), unfit.to_string().as_str()),
        ("resources", words)
    );
    wanted.gpus = 4;
    assert_eq!(largest_node_misfit(&ledger, &wanted, 1), None);
}

#[test]
fn a_closed_node_gets_nothing_and_the_job_says_so() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 8, "");
    let capacity = ledger.node(&NodeName("a".into())).unwrap().capacity.clone();
    ledger.set_node(NodeName("a".into()), capacity, false);
    assert_eq!(solve(&mut ledger, NOW, &[job(1, 1, 0, 0)]), []);
    let words = reason(&ledger, &job(1, 1, 0, 0).request, 1);
    assert_eq!(words, "1 nodes could hold it, but none is ready");
}

#[test]
fn a_node_that_came_back_smaller_breaks_nothing_and_gets_nothing_until_it_fits_again() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 4, "");
    let queue = [job(1, 2, 0, 0), job(2, 2, 0, 0)];
    assert_eq!(solve(&mut ledger, NOW, &queue).len(), 2);
    node(&mut ledger, "a", 2, "");
    assert_eq!(ledger.violated(), None);
    assert!(solve(&mut ledger, NOW, &[job(3, 1, 0, 0)]).is_empty());
    ledger.release(JobId(1));
    assert_eq!(ledger.violated(), None);
    ledger.release(JobId(2));
    assert_eq!(
        placed(&solve(&mut ledger, NOW, &[job(3, 2, 0, 0)])),
        [(3, "a")]
    );
    // Beyond its capacity, and nobody has shrunk it: that is a bug of ours.
    let more = Allocation {
        node: NodeName("a".into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    ledger.take(JobId(4), vec![more]).unwrap();
    assert_eq!(
        ledger.violated().unwrap(),
        "INV-02: a gives more than it has"
    );
}

#[test]
fn what_the_store_says_is_held_on_a_node_that_came_back_smaller_breaks_nothing() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 4, "");
    let held = |cpus| Allocation {
        node: NodeName("a".into()),
        cpus,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    ledger.restore(JobId(1), vec![held(8)]).unwrap();
    assert_eq!(ledger.violated(), None);
    // A rank of a gang is over: what is left is held anew.
    ledger.release(JobId(1));
    ledger.restore(JobId(1), vec![held(6)]).unwrap();
    assert_eq!(ledger.newly_violated(), None);
    assert!(solve(&mut ledger, NOW, &[job(2, 1, 0, 0)]).is_empty());
    ledger.release(JobId(1));
    assert_eq!(solve(&mut ledger, NOW, &[job(2, 4, 0, 0)]).len(), 1);
}

#[test]
fn what_is_released_can_be_had_again() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 1, "");
    let queue = [job(1, 1, 0, 0), job(2, 1, 0, 0)];
    assert_eq!(placed(&solve(&mut ledger, NOW, &queue)), [(1, "a")]);
    let words = reason(&ledger, &queue[1].request, 1);
    assert_eq!(words, "waits for cpus: asks for 1, has 0 free on node a");
    assert_eq!(ledger.release(JobId(1)).len(), 1);
    assert_eq!(ledger.release(JobId(1)), []);
    assert_eq!(placed(&solve(&mut ledger, NOW, &queue[1..])), [(2, "a")]);
}

proptest! {
    #[test]
    fn no_queue_breaks_the_invariants_and_solving_twice_changes_nothing(
        nodes in prop::collection::vec((1u32..16, 0u32..5), 1..6),
        jobs in prop::collection::vec((1u32..8, 0u32..4, -3i32..3), 0..40),
    ) {
        let mut ledger = Ledger::default();
        for (index, (cpus, gpus)) in nodes.iter().enumerate() {
            let gpus = if *gpus == 0 { String::new() } else { format!("{gpus}xT4-16GB") };
            node(&mut ledger, &format!("n{index}"), *cpus, &gpus);
        }
        let mut queue: Vec<_> = (1u64..)
            .zip(&jobs)
            .map(|(id, (cpus, gpus, priority))| job(id, *cpus, *gpus, *priority))
            .collect();
        let placements = solve(&mut ledger, NOW, &queue);
        prop_assert_eq!(ledger.violated(), None);
        queue.retain(|queued| placements.iter().all(|p| p.job != queued.job));
        prop_assert_eq!(solve(&mut ledger, NOW, &queue), []);
        for placement in &placements {
            ledger.release(placement.job);
        }
        let free: u32 = ledger.nodes().map(|(_, entry)| entry.free().cpus).sum();
        let all: u32 = nodes.iter().map(|(cpus, _)| cpus).sum();
        prop_assert_eq!(free, all);
    }
}

#[test]
fn a_job_that_is_tried_again_waits_its_time_and_goes_elsewhere_while_there_is_an_elsewhere() {
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 1, "");
    let mut again = job(1, 1, 0, 0);
    again.not_before = Some(Timestamp(NOW.0 + 5_000_000));
    again.avoid.insert(NodeName("a".into()));
    assert_eq!(solve(&mut ledger, NOW, [&again]), []);
    // Later, and beside another node that could hold it but is full.
    let later = Timestamp(NOW.0 + 5_000_000);
    node(&mut ledger, "b", 1, "");
    let other = Allocation {
        node: NodeName("b".into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: vec![],
        address: String::new(),
    };
    ledger.take(JobId(9), vec![other]).unwrap();
    assert_eq!(solve(&mut ledger, later, [&again]), []);
    ledger.release(JobId(9));
    let elsewhere = solve(&mut ledger.clone(), later, [&again]);
    assert_eq!(placed(&elsewhere), [(1, "b")]);
    // A node that is closed is no elsewhere.
    let capacity = ledger.node(&NodeName("b".into())).unwrap().capacity.clone();
    ledger.set_node(NodeName("b".into()), capacity, false);
    let back = solve(&mut ledger, later, [&again]);
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
    let mut ledger = Ledger::default();
    node(&mut ledger, "a", 3, "");
    let mut queue: Vec<_> = (1..=40).rev().map(|id| job(id, 1, 0, 0)).collect();
    let mut order = Vec::new();
    while !queue.is_empty() {
        for placement in solve(&mut ledger, NOW, &queue) {
            queue.retain(|queued| queued.job != placement.job);
            order.push(placement.job);
        }
        let ended = order.iter().find(|job| !ledger.held_by(**job).is_empty());
        ledger.release(*ended.unwrap());
    }
    assert_eq!(order, (1..=40).map(JobId).collect::<Vec<_>>());
}

/// Nodes with four CPUs each, whose addresses are not in the order of their names.
fn reachable(names: &[(&str, &str)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (name, address) in names {
        node(&mut ledger, name, 4, "");
        ledger.set_address(NodeName((*name).into()), (*address).into());
    }
    ledger
}

fn gang(id: u64, nodes: u32, cpus: u32) -> QueuedJob {
    QueuedJob {
        nodes,
        ..job(id, cpus, 0, 0)
    }
}

#[test]
fn a_gang_gets_all_of_its_nodes_or_none_in_the_order_of_their_addresses() {
    let mut ledger = reachable(&[("a", "10.0.0.9"), ("b", "10.0.0.10"), ("c", "10.0.0.3")]);
    assert_eq!(solve(&mut ledger, NOW, &[job(1, 1, 0, 0)]).len(), 1);
    // Three whole nodes are not free, and nothing is held of those that are.
    assert_eq!(solve(&mut ledger, NOW, &[gang(2, 3, 4)]), []);
    let words = reason(&ledger, &gang(2, 3, 4).request, 3);
    assert_eq!(
        words,
        "2 of 3 nodes are free; waits for cpus: asks for 4, has 3 free on node a"
    );
    let placements = solve(&mut ledger, NOW, &[gang(2, 3, 4), gang(3, 3, 3)]);
    let placed = placements[0].allocations.iter();
    let ranks: Vec<_> = placed
        .map(|held| (held.node.0.as_str(), held.address.as_str()))
        .collect();
    assert_eq!(placements[0].job, JobId(3));
    assert_eq!(
        ranks,
        [("b", "10.0.0.10"), ("c", "10.0.0.3"), ("a", "10.0.0.9")]
    );
    assert_eq!(ledger.held_by(JobId(3)).len(), 3);
    assert_eq!(ledger.release(JobId(3)).len(), 3);
}

#[test]
fn a_gang_that_no_set_of_nodes_could_hold_is_told_how_many_there_are() {
    let mut ledger = reachable(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    // One that nobody reaches.
    node(&mut ledger, "c", 4, "");
    let unfit = largest_node_misfit(&ledger, &gang(1, 3, 4).request, 3).unwrap();
    let words = "asks for 3 nodes that each hold its resources, and there are 2; give 2, or ask for less on each";
    assert_eq!(
        (unfit.field(), unfit.to_string().as_str()),
        ("nodes", words)
    );
    assert_eq!(
        largest_node_misfit(&ledger, &gang(1, 2, 4).request, 2),
        None
    );
    assert!(largest_node_misfit(&ledger, &gang(1, 2, 5).request, 2).is_some());
}

#[test]
fn a_gang_goes_around_nodes_that_failed_it_while_there_are_enough_others() {
    let mut ledger = reachable(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let mut again = gang(1, 2, 4);
    again.avoid.insert(NodeName("a".into()));
    let placements = solve(&mut ledger.clone(), NOW, &[again.clone()]);
    let nodes = placements[0].allocations.iter();
    let nodes: Vec<_> = nodes.map(|held| held.node.0.as_str()).collect();
    assert_eq!(nodes, ["b", "c"]);
    // Busy for now is no reason to go back.
    assert_eq!(solve(&mut ledger, NOW, &[job(2, 1, 0, 0)]).len(), 1);
    assert_eq!(solve(&mut ledger, NOW, &[job(3, 4, 0, 0)]).len(), 1);
    assert_eq!(solve(&mut ledger, NOW, &[again.clone()]), []);
    let capacity = ledger.node(&NodeName("b".into())).unwrap().capacity.clone();
    ledger.release(JobId(2));
    ledger.release(JobId(3));
    ledger.set_node(NodeName("b".into()), capacity, false);
    assert_eq!(solve(&mut ledger, NOW, &[again]).len(), 1);
}

#[test]
fn a_gang_that_has_too_few_nodes_without_those_that_failed_it_takes_as_few_of_them_as_it_must() {
    let mut ledger = reachable(&[("a", "1"), ("b", "2"), ("c", "3")]);
    // Those that failed it fit better.
    node(&mut ledger, "b", 8, "");
    let mut again = gang(1, 2, 4);
    again
        .avoid
        .extend(["a", "c"].map(|name| NodeName(name.into())));
    let placements = solve(&mut ledger, NOW, &[again]);
    let nodes = placements[0].allocations.iter();
    let nodes: Vec<_> = nodes.map(|held| held.node.0.as_str()).collect();
    assert_eq!(nodes, ["a", "b"]);
}
