//! Lays a gang on nodes, part by part: the best node of those where parts may still go, and what is taken of it.
//!
//! Changes nothing. Called by `Shape::find`.

use std::cmp::Reverse;

use super::{Layout, Shape};
use crate::sched::policy::{
    ask::Arrange,
    cluster::{Cluster, GroupIx, NodeIx, Piece, Slot},
    dense::Bits,
};

/// A gang that is being laid.
pub(super) struct Search<'a> {
    shape: &'a Shape,
    cluster: &'a Cluster,
    /// Where parts may still go.
    pub(super) nodes: Bits,
    pub(super) found: Vec<Piece>,
}

impl<'a> Search<'a> {
    pub(super) fn of(shape: &'a Shape, cluster: &'a Cluster) -> Self {
        Self {
            shape,
            cluster,
            nodes: Bits::default(),
            found: Vec::new(),
        }
    }

    pub(super) fn lay(&mut self, layout: Layout) -> bool {
        (0..layout.nodes).all(|_| self.part(layout.gpus))
            && (layout.rest == 0 || self.part(layout.rest))
    }

    /// So many on whatever nodes there are, on as few of them as can be.
    pub(super) fn gather(&mut self, gpus: u32) -> bool {
        let mut left = gpus;
        while left > 0 {
            let groups = self.shape.groups.iter();
            let most = groups.filter_map(|(group, accepted)| {
                let total = self.cluster.groups[*group].total;
                let mut sizes = (1..=total.min(left)).rev();
                let fits = |gpus: u32| Some((gpus, self.best(*group, accepted, gpus)?));
                let (gpus, (node, accepted)) = sizes.find_map(fits)?;
                let empty = match self.shape.ask.arrange {
                    Arrange::Pack => None,
                    Arrange::Spread => Some(self.emptiness(node, accepted, gpus)),
                };
                Some(((gpus, empty, Reverse(*group)), (node, accepted)))
            });
            let Some(((gpus, ..), (node, accepted))) = most.max_by_key(|(order, _)| *order) else {
                return false;
            };
            let pieces = self.carve(node, accepted, gpus);
            self.found.extend(pieces);
            self.nodes.set(node, false);
            left -= gpus;
        }
        true
    }

    /// One part on one more node.
    fn part(&mut self, gpus: u32) -> bool {
        let groups = self.shape.groups.iter();
        let mut nodes = groups.filter_map(|(group, accepted)| self.best(*group, accepted, gpus));
        let node = match self.shape.ask.arrange {
            Arrange::Pack => nodes.next(),
            // The emptiest of all, whatever its GPUs are worth.
            Arrange::Spread => {
                nodes.max_by_key(|(node, accepted)| self.emptiness(*node, accepted, gpus))
            }
        };
        let Some((node, accepted)) = node else {
            return false;
        };
        let pieces = self.carve(node, accepted, gpus);
        self.found.extend(pieces);
        self.nodes.set(node, false);
        true
    }

    /// The best node of a group.
    fn best<'s>(
        &self,
        ix: GroupIx,
        accepted: &'s [bool],
        gpus: u32,
    ) -> Option<(NodeIx, &'s [bool])> {
        let group = &self.cluster.groups[ix];
        let least = usize::try_from(gpus).unwrap_or(usize::MAX);
        let levels = group.levels.iter().skip(least);
        let fits = |node: &NodeIx| {
            let node = &self.cluster.nodes[*node];
            let free = node.slots.iter().zip(accepted).filter(|(_, yes)| **yes);
            let free: u32 = free.map(|(slot, _)| slot.free()).sum();
            free >= gpus && node.has(self.shape.ask.cpus, self.shape.ask.memory_bytes)
        };
        let first = |level: &Bits| level.both::<NodeIx>(&self.nodes).find(fits);
        let emptiness = |node: &NodeIx| self.emptiness(*node, accepted, gpus);
        let node = match self.shape.ask.arrange {
            // Without GPUs the node with the fewest free CPUs is the fullest.
            Arrange::Pack if gpus == 0 => levels
                .flat_map(|level| level.both::<NodeIx>(&self.nodes))
                .filter(fits)
                .min_by_key(|node| self.cluster.nodes[*node].cpus()),
            Arrange::Pack => levels.filter_map(first).next(),
            // Where the free GPUs of a node are not all of those that count, their number says nothing of how empty it is.
            Arrange::Spread if gpus == 0 || accepted.contains(&false) => levels
                .flat_map(|level| level.both::<NodeIx>(&self.nodes))
                .filter(fits)
                .max_by_key(emptiness),
            Arrange::Spread => levels.rev().filter_map(first).next(),
        };
        node.map(|node| (node, accepted))
    }

    /// More is emptier: the free GPUs that count, where any do; then the free CPUs; the first of nodes that are alike.
    fn emptiness(&self, ix: NodeIx, accepted: &[bool], gpus: u32) -> (u32, u32, Reverse<NodeIx>) {
        let node = &self.cluster.nodes[ix];
        let counts = |(_, yes): &(&Slot, &bool)| gpus > 0 && **yes;
        let free = node.slots.iter().zip(accepted).filter(counts);
        let free = free.map(|(slot, _)| slot.free()).sum();
        (free, node.cpus(), Reverse(ix))
    }

    /// What is taken of a node: the smallest class first; all of it for one who wants to be alone.
    fn carve(&self, ix: NodeIx, accepted: &[bool], gpus: u32) -> Vec<Piece> {
        let node = &self.cluster.nodes[ix];
        let alone = self.shape.ask.exclusive;
        let mut left = gpus;
        let mut pieces = Vec::new();
        let mut cpus = if alone {
            node.cpus()
        } else {
            self.shape.ask.cpus
        };
        let mut memory_bytes = if alone {
            node.memory_bytes()
        } else {
            self.shape.ask.memory_bytes
        };
        for (slot, (gpus, yes)) in (0u8..).zip(node.slots.iter().map(Slot::free).zip(accepted)) {
            let wanted = if *yes { left.min(gpus) } else { 0 };
            left -= wanted;
            let taken = if alone { gpus } else { wanted };
            if taken > 0 {
                pieces.push(Piece {
                    node: ix,
                    slot,
                    gpus: taken,
                    cpus: std::mem::take(&mut cpus),
                    memory_bytes: std::mem::take(&mut memory_bytes),
                });
            }
        }
        if pieces.is_empty() {
            pieces.push(Piece {
                node: ix,
                slot: 0,
                gpus: 0,
                cpus,
                memory_bytes,
            });
        }
        pieces
    }
}
