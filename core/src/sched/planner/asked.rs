//! Whatever a job asks of nodes and of its start reaches the policy.

use super::*;
use crate::{
    resources::{Capacity, ResourceRequest, parse_gpus},
    spec::Placing,
};

const NOW: Timestamp = Timestamp(1_000_000_000);

/// Nodes of four GPUs each: two of rack 1, one of rack 2.
fn planner() -> Planner {
    let mut planner = Planner::default();
    for (name, rack) in [("n1", "rack=1"), ("n2", "rack=2"), ("n3", "rack=1")] {
        let capacity = Capacity {
            cpus: 8,
            memory_bytes: 64 << 30,
            gpus: parse_gpus("4xH100-80GB", name).unwrap(),
        };
        let name = NodeName(name.into());
        planner.set_node(NOW, &name, capacity, true);
        planner.set_address(NOW, &name, format!("10.0.0.{name}"));
        planner.set_labels(NOW, &name, [rack.to_owned()].into());
    }
    planner
}

fn job(id: u64, change: impl FnOnce(&mut QueuedJob)) -> QueuedJob {
    let mut queued = QueuedJob::plain(JobId(id), ResourceRequest::default(), NOW);
    change(&mut queued);
    queued
}

/// Where a job starts at once, with how many GPUs on each node.
fn starts(planner: &mut Planner, queued: QueuedJob) -> Vec<(String, usize)> {
    let id = queued.job;
    planner.queued(NOW, queued);
    let placements = planner.solve(NOW).placements;
    let placed = placements.into_iter().find(|placed| placed.job == id);
    let held = placed.into_iter().flat_map(|placed| placed.allocations);
    let mut held: Vec<_> = held.map(|held| (held.node.0, held.gpus.len())).collect();
    held.sort();
    held
}

fn on(nodes: &[(&str, usize)]) -> Vec<(String, usize)> {
    let nodes = nodes.iter();
    nodes
        .map(|(node, gpus)| ((*node).to_owned(), *gpus))
        .collect()
}

#[test]
fn gpus_in_all_lie_on_as_few_nodes_as_hold_them_and_within_one_fabric() {
    let total = |gpus, fabric: Option<&str>| {
        let placement = Placing {
            gpus_total: Some(gpus),
            fabric: fabric.map(str::to_owned),
            ..Placing::default()
        };
        starts(&mut planner(), job(1, |job| job.placement = placement))
    };
    assert_eq!(total(3, None).len(), 1);
    let six = total(6, None);
    let mut gpus: Vec<usize> = six.iter().map(|(_, gpus)| *gpus).collect();
    gpus.sort_unstable();
    assert_eq!(gpus, [2, 4]);
    assert_eq!(total(8, Some("rack")), on(&[("n1", 4), ("n3", 4)]));
    assert_eq!(total(9, Some("rack")), on(&[]));
}

#[test]
fn labels_the_upper_end_of_a_range_and_the_emptiest_node_are_heeded() {
    let mut planner = planner();
    let pinned = job(1, |job| job.placement.labels = ["rack=2".to_owned()].into());
    assert_eq!(starts(&mut planner, pinned), on(&[("n2", 0)]));
    let packed = job(2, |job| job.request.gpus = 1);
    let first = starts(&mut planner, packed);
    let spread = job(3, |job| {
        job.request.gpus = 1;
        job.placement.arrange = crate::spec::Arrange::Spread;
        job.placement.anti_labels = ["rack=2".to_owned()].into();
    });
    let second = starts(&mut planner, spread);
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    let small = job(4, |job| {
        job.request.gpus = 1;
        job.request.gpu_memory_max_bytes = 40_000_000_000;
    });
    assert_eq!(starts(&mut planner, small), on(&[]));
}

#[test]
fn who_wants_a_node_alone_gets_all_of_it_and_nobody_comes_there() {
    let mut planner = planner();
    let alone = |id| {
        job(id, |job| {
            job.nodes = 3;
            job.placement.exclusive = true;
        })
    };
    let held = starts(&mut planner, alone(1));
    assert_eq!(held, on(&[("n1", 4), ("n2", 4), ("n3", 4)]));
    assert_eq!(starts(&mut planner, job(2, |_| ())), on(&[]));
    planner.gone(NOW, JobId(1), Some(std::time::Duration::ZERO));
    assert_eq!(planner.solve(NOW).placements.len(), 1);
    assert_eq!(starts(&mut planner, alone(3)), on(&[]));
    let words = planner.reason(NOW, JobId(3)).unwrap();
    assert!(words.contains("2 of the 3 that it needs"), "{words}");
}

#[test]
fn a_job_is_not_considered_before_its_gate_opens_and_has_not_waited_until_then() {
    let mut planner = planner();
    let later = NOW.plus(std::time::Duration::from_secs(600));
    let gated = job(2, |job| {
        job.gate = Gate {
            after: vec![JobId(1)],
            not_before: Some(later),
            ..Gate::default()
        };
    });
    assert_eq!(starts(&mut planner, gated), on(&[]));
    let words = planner.reason(NOW, JobId(2)).unwrap();
    assert!(
        words.starts_with("waits for job 1 to succeed; not before"),
        "{words}"
    );
    assert!(planner.explain(NOW, JobId(2)).unwrap().changes.is_empty());
    planner.stands(JobId(1), Standing::Succeeded, Some(NOW));
    assert_eq!(planner.solve(NOW), Decisions::default());
    assert_eq!(planner.wake(NOW).map(|then| then <= later), Some(true));
    assert_eq!(planner.solve(later).placements.len(), 1);
    let never = job(3, |job| job.gate.after = vec![JobId(9)]);
    planner.queued(later, never);
    assert_eq!(
        planner.unknown(&Gate {
            after: vec![JobId(9)],
            ..Gate::default()
        }),
        [JobId(9)]
    );
    planner.stands(JobId(9), Standing::Unknown, None);
    let decisions = planner.solve(later);
    assert_eq!(decisions.never.len(), 1);
}
