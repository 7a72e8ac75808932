//! Who asks for the emptiest nodes gets them, whatever kinds of node there are.

use super::*;
use crate::sched::policy::{
    ask::Arrange,
    cluster::{Cluster, JobIx, NodeIx, Piece},
    place::Shape,
};

const GB: u64 = 1 << 30;

/// A node of so many CPUs, with GPUs of so many GB each.
fn node(cpus: u32, gpus: &[(u64, u32)]) -> NodeOffer {
    let class = |gb: u64| GpuClass {
        memory_bytes: gb * GB,
        model: String::new(),
    };
    NodeOffer {
        cpus,
        gpus: gpus.iter().map(|(gb, many)| (class(*gb), *many)).collect(),
        open: true,
        ..NodeOffer::default()
    }
}

/// Somebody holds so many GPUs of this class, the smallest being 0, and so many CPUs.
fn hold(cluster: &mut Cluster, node: u32, (slot, gpus): (u8, u32), cpus: u32) {
    let piece = Piece {
        node: NodeIx(node),
        slot,
        gpus,
        cpus,
        memory_bytes: 0,
    };
    cluster.take(JobIx(0), &[piece]);
}

/// Nodes, and how many GPUs on each.
fn found(cluster: &Cluster, ask: Ask) -> Vec<(u32, u32)> {
    let ask = Ask {
        arrange: Arrange::Spread,
        cpus: 1,
        ..ask
    };
    let pieces = Shape::new(cluster, ask).find(cluster).unwrap_or_default();
    let found = pieces.iter().map(|piece| (piece.node.0, piece.gpus));
    found.collect()
}

#[test]
fn jobs_without_gpus_go_to_the_node_with_the_most_free_cpus_one_after_another() {
    let mut cluster = Cluster::of([node(8, &[]), node(8, &[]), node(9, &[(16, 4)])]);
    let mut went = Vec::new();
    for _ in 0..5 {
        let place = found(&cluster, Ask::packed(0));
        went.extend(place.iter().map(|(node, _)| *node));
        hold(&mut cluster, place[0].0, (0, 0), 1);
    }
    assert_eq!(went, [2, 0, 1, 2, 0]);
}

#[test]
fn kinds_of_node_are_compared_by_their_free_gpus_and_then_by_their_free_cpus() {
    let mut cluster = Cluster::of([node(8, &[(16, 4)]), node(8, &[(80, 8)])]);
    assert_eq!(found(&cluster, Ask::packed(1)), [(1, 1)], "8 are free");
    hold(&mut cluster, 1, (0, 5), 0);
    assert_eq!(found(&cluster, Ask::packed(1)), [(0, 1)], "3 are");
    hold(&mut cluster, 0, (0, 1), 1);
    assert_eq!(found(&cluster, Ask::packed(1)), [(1, 1)], "8 CPUs are free");
    hold(&mut cluster, 1, (0, 0), 1);
    assert_eq!(found(&cluster, Ask::packed(1)), [(0, 1)], "they are alike");
}

#[test]
fn only_gpus_that_will_do_make_a_node_an_empty_one() {
    let both = || node(8, &[(16, 4), (80, 2)]);
    let mut cluster = Cluster::of([both(), both()]);
    hold(&mut cluster, 0, (1, 1), 0);
    hold(&mut cluster, 1, (0, 4), 0);
    let large = Ask {
        gpu: GpuWish {
            at_least: 80 * GB,
            ..GpuWish::default()
        },
        ..Ask::packed(1)
    };
    assert_eq!(found(&cluster, large), [(1, 1)]);
    assert_eq!(found(&cluster, Ask::packed(1)), [(0, 1)]);
}

#[test]
fn each_part_of_a_gang_and_of_a_total_goes_to_the_emptiest_node_that_is_left() {
    let mut cluster = Cluster::of([8, 8, 8, 4].map(|gpus| node(8, &[(16, gpus)])));
    for (node, gpus) in [(0, 2), (1, 3), (2, 6), (3, 1)] {
        hold(&mut cluster, node, (0, gpus), 0);
    }
    let gang = Ask {
        gang: Gang::Each { nodes: 3, gpus: 1 },
        ..Ask::packed(0)
    };
    assert_eq!(found(&cluster, gang), [(0, 1), (1, 1), (3, 1)]);
    // No equal parts of 12 are free: as many as can be on each, and the last on the emptier of two.
    assert_eq!(found(&cluster, Ask::packed(12)), [(0, 6), (1, 5), (3, 1)]);
}
