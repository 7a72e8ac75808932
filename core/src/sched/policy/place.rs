//! Finds nodes for one gang: which, and how many GPUs on each.
//!
//! Best fit: the node that is left fullest by it, so that whole nodes stay whole; the smallest class of GPU that does.
//! Changes nothing. Called by the policy, the anchors of the replay, and for what would be if others went.

mod search;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ask::{Ask, Gang, fabric_of},
    cluster::{Cluster, GroupIx, NodeIx, Piece},
    dense::Bits,
};
use search::Search;

/// What can be said of an ask as long as no node changes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What is asked.
    pub ask: Ask,
    /// Groups with GPUs that will do, the cheapest first, and which of their classes.
    groups: Vec<(GroupIx, Vec<bool>)>,
    /// Nodes that could ever hold a part.
    nodes: Bits,
    /// Sets of nodes, one of which holds all: the fabrics, or all nodes.
    fabrics: Vec<Bits>,
    /// The same of nodes that can be one of several.
    together: Vec<Bits>,
    /// GPUs that it holds at least: whoever is alone on its nodes has all of theirs.
    least: u32,
    version: u64,
}

impl Shape {
    /// Works it out.
    #[must_use]
    pub fn new(cluster: &Cluster, ask: Ask) -> Self {
        let mut shape = Self {
            groups: Vec::new(),
            nodes: Bits::default(),
            fabrics: Vec::new(),
            together: Vec::new(),
            least: ask.gang.gpus(),
            ask,
            version: u64::MAX,
        };
        shape.refresh(cluster);
        shape
    }

    /// Works it out again if nodes have changed.
    pub fn refresh(&mut self, cluster: &Cluster) {
        if self.version == cluster.version {
            return;
        }
        self.version = cluster.version;
        let wants_gpus = self.ask.gang.gpus() > 0;
        let ask = &self.ask;
        let classes = |gpus: &BTreeMap<_, u32>| gpus.keys().map(|c| ask.gpu.accepts(c)).collect();
        let groups = cluster.groups.iter();
        let mut groups: Vec<(GroupIx, Vec<bool>)> = groups
            .map(|(ix, group)| (ix, classes(&group.gpus)))
            .collect();
        groups.retain(|(_, classes)| !wants_gpus || classes.contains(&true));
        groups.sort_by_key(|(ix, _)| {
            let group = &cluster.groups[*ix];
            let largest = group.gpus.keys().map(|class| class.memory_bytes).max();
            (largest, group.total, *ix)
        });
        self.groups = groups;
        self.nodes = Bits::default();
        let fitting: BTreeSet<GroupIx> = self.groups.iter().map(|(ix, _)| *ix).collect();
        let admitted = cluster.nodes.iter().filter(|(ix, node)| {
            node.offer.open
                && fitting.contains(&node.group)
                && self.ask.admits(&node.offer)
                && !self.ask.avoid.contains(ix)
        });
        let mut fabrics: BTreeMap<&str, Bits> = BTreeMap::new();
        for (ix, node) in admitted {
            self.nodes.set(ix, true);
            if let Some(key) = &self.ask.fabric
                && let Some(label) = fabric_of(key, &node.offer.labels)
            {
                fabrics.entry(label).or_default().set(ix, true);
            }
        }
        self.fabrics = match self.ask.fabric {
            Some(_) => fabrics.into_values().collect(),
            None => vec![self.nodes.clone()],
        };
        self.together = self.of_several(cluster);
        self.least = self.least_held(cluster);
    }

    fn of_several(&self, cluster: &Cluster) -> Vec<Bits> {
        let mut fabrics = self.fabrics.clone();
        if self.ask.together.is_empty() {
            return fabrics;
        }
        for fabric in &mut fabrics {
            let nodes = fabric.iter::<NodeIx>();
            let apart = |ix: &NodeIx| {
                !self
                    .ask
                    .together
                    .is_subset(&cluster.nodes[*ix].offer.labels)
            };
            let apart: Vec<NodeIx> = nodes.filter(apart).collect();
            apart.into_iter().for_each(|ix| fabric.set(ix, false));
        }
        fabrics
    }

    /// GPUs that a job holds at least: all of its nodes if it wants them alone.
    #[must_use]
    pub fn least(&self) -> u32 {
        self.least
    }

    /// Of nodes for itself alone it has the smallest at least, of those that hold a part of it. Of a total that may be
    /// gathered from nodes of several sizes that is one node; the rest is judged when they are chosen.
    fn least_held(&self, cluster: &Cluster) -> u32 {
        let asked = self.ask.gang.gpus();
        if !self.ask.exclusive {
            return asked;
        }
        let total = |node: NodeIx| cluster.groups[cluster.nodes[node].group].total;
        if self.gathers(cluster).is_some() {
            let nodes = self.fabrics.iter().flat_map(Bits::iter::<NodeIx>);
            let smallest = nodes.map(total).filter(|total| *total > 0).min();
            return smallest.map_or(asked, |smallest| smallest.max(asked));
        }
        let mut least: Option<u32> = None;
        for layout in self.layouts(cluster) {
            let held = self
                .fabrics(layout.is_several())
                .iter()
                .filter_map(|fabric| {
                    let mut totals: Vec<u32> = fabric.iter::<NodeIx>().map(total).collect();
                    totals.sort_unstable();
                    layout.least_of(&totals)
                });
            least = least.into_iter().chain(held).min();
        }
        least.map_or(asked, |least| least.max(asked))
    }

    /// Sets of nodes, one of which holds all of it, be it on one node or on several.
    pub(super) fn fabrics(&self, several: bool) -> &[Bits] {
        match several {
            true => &self.together,
            false => &self.fabrics,
        }
    }

    /// Which classes of GPUs of a group will do.
    pub(super) fn accepted(&self, group: GroupIx) -> &[bool] {
        let groups = self.groups.iter();
        let mut accepted = groups.filter(|(ix, _)| *ix == group);
        accepted.next().map_or(&[], |(_, accepted)| accepted)
    }

    /// Nodes that could hold a part of it when empty.
    #[must_use]
    pub fn nodes(&self) -> &Bits {
        &self.nodes
    }

    /// Sizes of nodes that are in question, for a gang that is packed.
    fn sizes(&self, cluster: &Cluster) -> BTreeSet<u32> {
        let sizes = self.groups.iter().map(|(ix, accepted)| {
            let totals = cluster.groups[*ix].gpus.values().zip(accepted);
            totals
                .filter(|(_, yes)| **yes)
                .map(|(total, _)| total)
                .sum()
        });
        sizes.filter(|size| *size > 0).collect()
    }

    /// Of a total that may lie on nodes of several sizes: how much that is, and about how many nodes it takes at most.
    pub(super) fn gathers(&self, cluster: &Cluster) -> Option<(u32, u32)> {
        let sizes = self.sizes(cluster);
        match self.ask.gang {
            Gang::Packed { gpus } if sizes.len() > 1 && gpus > 0 => {
                Some((gpus, gpus.div_ceil(*sizes.first()?)))
            }
            Gang::Packed { .. } | Gang::Each { .. } => None,
        }
    }

    /// How many whole nodes and how many GPUs beside them: `(whole nodes, their size, rest)`, the best first.
    #[must_use]
    pub fn layouts(&self, cluster: &Cluster) -> Vec<Layout> {
        match self.ask.gang {
            Gang::Each { nodes, gpus } => vec![Layout {
                nodes,
                gpus,
                rest: 0,
            }],
            Gang::Packed { gpus } => {
                let sizes = self.sizes(cluster);
                let one = |_: &u32| Layout {
                    nodes: 1,
                    gpus,
                    rest: 0,
                };
                let single = (gpus == 0).then(|| one(&0));
                let single = single.or_else(|| sizes.iter().find(|size| **size >= gpus).map(one));
                let several = sizes.iter().rev().filter(|size| **size < gpus);
                let several = several.map(|size| Layout {
                    nodes: gpus / size,
                    gpus: *size,
                    rest: gpus % size,
                });
                single.into_iter().chain(several).collect()
            }
        }
    }

    /// Nodes and counts for it, as things are.
    #[must_use]
    pub fn find(&self, cluster: &Cluster) -> Option<Vec<Piece>> {
        self.find_but(cluster, None)
    }

    /// As [`Shape::find`], on nodes of `within` only.
    #[must_use]
    pub fn find_but(&self, cluster: &Cluster, within: Option<&Bits>) -> Option<Vec<Piece>> {
        if self.ask.gang.gpus() > cluster.free_gpus() {
            return None;
        }
        let mut search = Search::of(self, cluster);
        let nodes_of = |fabric: &Bits| {
            let nodes = within.map_or_else(|| fabric.clone(), |only| fabric.and(only));
            match self.ask.exclusive {
                true => nodes.and(&cluster.idle),
                false => nodes,
            }
        };
        for layout in self.layouts(cluster) {
            for fabric in self.fabrics(layout.is_several()) {
                search.found.clear();
                search.nodes = nodes_of(fabric);
                if search.lay(layout) {
                    return Some(search.found);
                }
            }
        }
        // Nodes of several sizes: whole nodes of one of them may not be enough.
        let (gpus, _) = self.gathers(cluster)?;
        for fabric in self.fabrics(true) {
            search.found.clear();
            search.nodes = nodes_of(fabric);
            if search.gather(gpus) {
                return Some(search.found);
            }
        }
        None
    }
}

/// A gang as so many equal parts and one rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Equal parts, each on a node of its own.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus: u32,
    /// GPUs of the rest, on one more node.
    pub rest: u32,
}

impl Layout {
    pub(super) fn is_several(self) -> bool {
        self.nodes > 1 || self.rest > 0
    }

    /// GPUs of the smallest nodes that could hold it, of nodes with so many each, in ascending order; nothing if these are
    /// too few.
    fn least_of(self, totals: &[u32]) -> Option<u32> {
        let parts = usize::try_from(self.nodes).ok()?;
        let from = totals.partition_point(|total| *total < self.gpus);
        let whole = totals.get(from..from.checked_add(parts)?)?;
        // The rest takes the smallest node that is left.
        let before = totals.partition_point(|total| *total < self.rest)..from;
        let behind = totals.get(from + parts..).unwrap_or_default();
        let rest = match self.rest {
            0 => 0,
            _ => *totals
                .get(before)
                .into_iter()
                .flatten()
                .chain(behind)
                .next()?,
        };
        Some(whole.iter().sum::<u32>().saturating_add(rest))
    }
}
