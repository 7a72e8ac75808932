//! Nodes by dense number: what they offer, what is free, and who holds it, in counts.
//!
//! Owns the index by free GPUs, so that a fitting node is found without looking at all of them. Never chooses one:
//! `place` does. Called by the policy and by the anchors of the replay.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::dense::{Bits, Table, dense};

dense!(
    /// A node.
    NodeIx
);
dense!(
    /// A job of the policy.
    JobIx
);
dense!(
    /// Nodes that offer the same GPUs.
    GroupIx
);

/// GPUs of one model and size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuClass {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The model's name.
    pub model: String,
}

/// What a node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeOffer {
    /// CPU slots.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// GPUs by class, the smallest first.
    pub gpus: BTreeMap<GpuClass, u32>,
    /// Labels, `key=value`.
    pub labels: BTreeSet<String>,
    /// Jobs may be placed here.
    pub open: bool,
}

impl NodeOffer {
    /// A node of `gpus` equal GPUs.
    #[must_use]
    pub fn of_gpus(gpus: u32) -> Self {
        let class = GpuClass {
            memory_bytes: 0,
            model: String::new(),
        };
        Self {
            gpus: BTreeMap::from([(class, gpus)]),
            open: true,
            ..Self::default()
        }
    }
}

/// A part of what a job holds: GPUs of one class on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The node.
    pub node: NodeIx,
    /// Which of the node's classes of GPUs, the smallest being 0.
    pub slot: u8,
    /// GPUs.
    pub gpus: u32,
    /// CPU slots.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// GPUs of one class on one node.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) total: u32,
    /// More than there are, where a node came back smaller.
    held: u32,
}

impl Slot {
    pub(super) fn free(&self) -> u32 {
        self.total.saturating_sub(self.held)
    }
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Shared by copies of the cluster, of which a pass makes many.
    pub(super) offer: Arc<NodeOffer>,
    pub(super) group: GroupIx,
    pub(super) slots: Vec<Slot>,
    held_cpus: u64,
    held_bytes: u64,
    /// Free GPUs of all classes.
    pub(super) free: u32,
    /// Who holds something here.
    pub(super) holders: Vec<JobIx>,
}

/// Nodes with the same GPUs.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) gpus: BTreeMap<GpuClass, u32>,
    pub(super) total: u32,
    /// Open nodes by the number of their free GPUs.
    pub(super) levels: Vec<Bits>,
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub(super) nodes: Table<NodeIx, Node>,
    pub(super) groups: Table<GroupIx, Group>,
    /// Open nodes where nobody holds anything.
    pub(super) idle: Bits,
    /// Rises when a node is added or changed: what was derived from offers is stale.
    pub(super) version: u64,
    free: u32,
    total: u32,
}

impl Cluster {
    /// Nodes of `gpus` equal GPUs each.
    #[must_use]
    pub fn uniform(nodes: u32, gpus: u32) -> Self {
        Self::of((0..nodes).map(|_| NodeOffer::of_gpus(gpus)))
    }

    /// Nodes that offer this, on which nobody is.
    #[must_use]
    pub fn of(offers: impl IntoIterator<Item = NodeOffer>) -> Self {
        let mut cluster = Self::default();
        for offer in offers {
            cluster.add(offer);
        }
        cluster
    }

    /// The same nodes, on which nobody is.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self::of(self.offers().cloned())
    }

    /// Adds a node.
    pub fn add(&mut self, offer: NodeOffer) -> NodeIx {
        self.version += 1;
        let group = self.group(&offer.gpus);
        let slots: Vec<Slot> = offer.gpus.values().map(|&total| full(total)).collect();
        let node = Node {
            group,
            free: slots.iter().map(Slot::free).sum(),
            slots,
            held_cpus: 0,
            held_bytes: 0,
            offer: Arc::new(offer),
            holders: Vec::new(),
        };
        let ix = self.nodes.push(node);
        self.index(ix, true);
        ix
    }

    /// Opens or closes a node, or changes what it offers. Whoever holds something here holds what `held` says, in the
    /// order of its classes as they are now.
    pub fn change(&mut self, ix: NodeIx, offer: NodeOffer, held: &[(JobIx, Vec<Piece>)]) {
        self.version += 1;
        self.index(ix, false);
        let group = self.group(&offer.gpus);
        let node = &mut self.nodes[ix];
        node.group = group;
        node.slots = offer.gpus.values().map(|&total| full(total)).collect();
        (node.held_cpus, node.held_bytes) = (0, 0);
        node.offer = Arc::new(offer);
        node.free = node.slots.iter().map(Slot::free).sum();
        node.holders = held.iter().map(|(job, _)| *job).collect();
        for piece in held.iter().flat_map(|(_, pieces)| pieces) {
            node.take(piece);
        }
        self.index(ix, true);
    }

    fn group(&mut self, gpus: &BTreeMap<GpuClass, u32>) -> GroupIx {
        let known = self.groups.iter().find(|(_, group)| group.gpus == *gpus);
        if let Some((ix, _)) = known {
            return ix;
        }
        let total: u32 = gpus.values().sum();
        let levels = (0..=total).map(|_| Bits::default()).collect();
        self.groups.push(Group {
            gpus: gpus.clone(),
            total,
            levels,
        })
    }

    /// Puts a node into the index, or takes it out.
    fn index(&mut self, ix: NodeIx, on: bool) {
        let node = &self.nodes[ix];
        if !node.offer.open {
            return;
        }
        let total: u32 = node.slots.iter().map(|slot| slot.total).sum();
        if on {
            self.free += node.free;
            self.total += total;
        } else {
            self.free -= node.free;
            self.total -= total;
        }
        self.idle.set(ix, on && node.holders.is_empty());
        let level = usize::try_from(node.free).unwrap_or(usize::MAX);
        if let Some(level) = self.groups[node.group].levels.get_mut(level) {
            level.set(ix, on);
        }
    }

    /// Takes what a placement names.
    pub fn take(&mut self, job: JobIx, pieces: &[Piece]) {
        for piece in pieces {
            self.index(piece.node, false);
            let node = &mut self.nodes[piece.node];
            node.take(piece);
            if !node.holders.contains(&job) {
                node.holders.push(job);
            }
            self.index(piece.node, true);
        }
    }

    /// Gives back what was taken.
    pub fn give(&mut self, job: JobIx, pieces: &[Piece]) {
        for piece in pieces {
            self.index(piece.node, false);
            let node = &mut self.nodes[piece.node];
            node.give(piece);
            node.holders.retain(|holder| *holder != job);
            self.index(piece.node, true);
        }
    }

    /// Free GPUs of open nodes.
    #[must_use]
    pub fn free_gpus(&self) -> u32 {
        self.free
    }

    /// All GPUs of open nodes.
    #[must_use]
    pub fn total_gpus(&self) -> u32 {
        self.total
    }

    /// GPUs of the largest node that was ever known.
    pub(super) fn largest_node(&self) -> u32 {
        let groups = self.groups.iter();
        groups.map(|(_, group)| group.total).max().unwrap_or(0)
    }

    /// All nodes.
    pub fn keys(&self) -> impl Iterator<Item = NodeIx> + use<> {
        self.nodes.keys()
    }

    /// What nodes offer, in the order of their numbers.
    pub fn offers(&self) -> impl Iterator<Item = &NodeOffer> {
        self.nodes.iter().map(|(_, node)| node.offer.as_ref())
    }

    /// Nodes that were ever added.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Who holds something on a node.
    #[must_use]
    pub fn holders(&self, node: NodeIx) -> &[JobIx] {
        self.nodes.get(node).map_or(&[], |node| &node.holders)
    }
}

fn full(total: u32) -> Slot {
    Slot { total, held: 0 }
}

impl Node {
    fn slot(&mut self, piece: &Piece) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(piece.slot))
    }

    /// CPU slots that are left.
    pub(super) fn cpus(&self) -> u32 {
        let held = u32::try_from(self.held_cpus).unwrap_or(u32::MAX);
        self.offer.cpus.saturating_sub(held)
    }

    /// Bytes of memory that are left.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.offer.memory_bytes.saturating_sub(self.held_bytes)
    }

    fn take(&mut self, piece: &Piece) {
        if let Some(slot) = self.slot(piece) {
            slot.held += piece.gpus;
        }
        self.held_cpus += u64::from(piece.cpus);
        self.held_bytes = self.held_bytes.saturating_add(piece.memory_bytes);
        self.free = self.slots.iter().map(Slot::free).sum();
    }

    fn give(&mut self, piece: &Piece) {
        if let Some(slot) = self.slot(piece) {
            slot.held = slot.held.saturating_sub(piece.gpus);
        }
        self.held_cpus = self.held_cpus.saturating_sub(piece.cpus.into());
        self.held_bytes = self.held_bytes.saturating_sub(piece.memory_bytes);
        self.free = self.slots.iter().map(Slot::free).sum();
    }

    /// Whether CPUs and memory are left for one part.
    pub(super) fn has(&self, cpus: u32, memory_bytes: u64) -> bool {
        cpus <= self.cpus() && memory_bytes <= self.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back() {
        let mut cluster = Cluster::uniform(2, 8);
        let piece = Piece {
            node: NodeIx(1),
            slot: 0,
            gpus: 3,
            cpus: 0,
            memory_bytes: 0,
        };
        cluster.take(JobIx(7), &[piece]);
        assert_eq!((cluster.free_gpus(), cluster.total_gpus()), (13, 16));
        assert_eq!(cluster.holders(NodeIx(1)), [JobIx(7)]);
        cluster.give(JobIx(7), &[piece]);
        assert_eq!(cluster.free_gpus(), 16);
        assert!(cluster.idle.has(NodeIx(1)) && cluster.holders(NodeIx(1)).is_empty());
    }

    #[test]
    fn a_closed_node_counts_for_nothing_and_comes_back_with_what_is_held() {
        let mut cluster = Cluster::uniform(1, 8);
        let piece = Piece {
            node: NodeIx(0),
            slot: 0,
            gpus: 3,
            cpus: 0,
            memory_bytes: 0,
        };
        cluster.take(JobIx(0), &[piece]);
        let mut offer = NodeOffer::of_gpus(8);
        offer.open = false;
        let held = [(JobIx(0), vec![piece])];
        cluster.change(NodeIx(0), offer, &held);
        assert_eq!((cluster.free_gpus(), cluster.total_gpus()), (0, 0));
        cluster.change(NodeIx(0), NodeOffer::of_gpus(2), &held);
        assert_eq!(cluster.free_gpus(), 0, "it came back smaller");
        cluster.give(JobIx(0), &[piece]);
        assert_eq!(cluster.free_gpus(), 2);
    }
}
