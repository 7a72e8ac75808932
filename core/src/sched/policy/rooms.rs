//! From where room could come: on which nodes who would have to go, the cheapest first. Looks only; `preempt` decides.

use super::{
    clearing::{Clearing, Cost, Look, Room},
    cluster::{JobIx, NodeIx},
    dense::Bits,
    lanes::Rank,
    place::Layout,
    preempt::{Claimant, Standing, Standings},
    scheduler::Scheduler,
};

/// Of so many nodes all are looked at; of more, those that promise most.
const FEW_NODES: usize = 256;

/// How the GPUs of a gang lie on the nodes that are looked for.
#[derive(Clone, Copy, Debug)]
enum Parts {
    /// As many on each, and a rest.
    Equal(Layout),
    /// So many in all, on about so many nodes.
    Any { gpus: u32, nodes: u32 },
}

impl Parts {
    fn are_several(self) -> bool {
        match self {
            Self::Equal(layout) => layout.is_several(),
            Self::Any { .. } => true,
        }
    }
}

impl Scheduler {
    /// Nodes of those who rank worst, the worst first: of the lowest priority, and who have borrowed, before others.
    pub(super) fn worst(&self, standings: &Standings) -> Vec<NodeIx> {
        if self.cluster.len() <= FEW_NODES {
            return Vec::new();
        }
        let standing = |ix: &JobIx| Some((*ix, standings.get(*ix)?.as_ref()?));
        let standings = self.running.iter().filter_map(standing);
        let key = |of: &Standing| (of.priority, !of.borrows, Rank(-of.rank));
        let mut order: Vec<_> = standings.map(|(ix, of)| (key(of), ix)).collect();
        order.sort_unstable();
        let pieces = order.iter().flat_map(|(_, ix)| &self.job(*ix).pieces);
        pieces.map(|piece| piece.node).collect()
    }

    /// The nodes that are looked at for so many: of few, all; of many, the freest and those of the worst.
    fn candidates(&self, nodes: &Bits, count: u32, worst: &[NodeIx]) -> Bits {
        if self.cluster.len() <= FEW_NODES {
            return nodes.clone();
        }
        let parts = usize::try_from(count.saturating_add(1)).unwrap_or(usize::MAX);
        let wanted = parts.saturating_mul(4).max(32);
        let mut chosen = Bits::default();
        let freest = self.cluster.groups.iter().flat_map(|(_, group)| {
            group
                .levels
                .iter()
                .skip(1)
                .rev()
                .flat_map(|level| level.both::<NodeIx>(nodes))
        });
        for node in freest.take(wanted) {
            chosen.set(node, true);
        }
        let worst = worst.iter().copied().filter(|node| nodes.has(*node));
        let mut count = 0;
        for node in worst {
            if !chosen.has(node) {
                chosen.set(node, true);
                count += 1;
                if count >= wanted {
                    break;
                }
            }
        }
        chosen
    }

    /// Of each fabric the nodes that cost least to clear, and who has to go from there, beside `own`, who go anyway; the
    /// cheapest fabric first. Behind them, for a total, GPUs that are gathered from nodes of several sizes.
    pub(super) fn rooms(
        &self,
        (claimant, own): (&Claimant, &Room),
        standings: &Standings,
        worst: &[NodeIx],
    ) -> Vec<Room> {
        let shape = &self.lanes.shapes[self.job(claimant.job).shape];
        let within = self.bounds(claimant.now, claimant.job, claimant.bound);
        let of = |parts: Parts| {
            let fabrics = shape.fabrics(parts.are_several()).iter();
            let rooms = fabrics.filter_map(|fabric| {
                let beside = within.map(|within| fabric.and(within));
                let fabric = beside.as_ref().unwrap_or(fabric);
                match parts {
                    Parts::Equal(layout) => {
                        let looked_at = self.candidates(fabric, layout.nodes, worst);
                        self.room((claimant, own), standings, looked_at, layout)
                    }
                    Parts::Any { gpus, nodes } => {
                        let looked_at = self.candidates(fabric, nodes, worst);
                        self.gathered((claimant, standings), own, (&looked_at, gpus))
                    }
                }
            });
            let mut rooms: Vec<(Cost, usize, Room)> = rooms
                .map(|room| {
                    let count = room.out.len() + room.moved.len();
                    (room.price(), count, room)
                })
                .collect();
            rooms.sort_by_key(|(price, count, _)| (*price, *count));
            rooms.into_iter().map(|(_, _, room)| room).collect()
        };
        let layouts = shape.layouts(&self.cluster).into_iter();
        let mut rooms = layouts
            .map(|layout| of(Parts::Equal(layout)))
            .filter(|rooms: &Vec<Room>| !rooms.is_empty());
        let mut rooms = rooms.next().unwrap_or_default();
        let any = shape.gathers(&self.cluster);
        let any = any.map(|(gpus, nodes)| of(Parts::Any { gpus, nodes }));
        rooms.extend(any.unwrap_or_default());
        rooms
    }

    /// The same of one fabric: one node after another, the cheapest first. Who goes from one goes from all its nodes, so
    /// those cost less from then on.
    fn room(
        &self,
        (claimant, own): (&Claimant, &Room),
        standings: &Standings,
        looked_at: Bits,
        layout: Layout,
    ) -> Option<Room> {
        let mut room = own.clone();
        let who = (claimant, standings);
        let mut nodes = self.costs(Look::of(who, &room), &looked_at, layout.gpus);
        let count = usize::try_from(layout.nodes).unwrap_or(usize::MAX);
        if nodes.len() < count {
            return None;
        }
        if layout.rest == 0 && count == 1 {
            let best = nodes.into_iter().min_by(Clearing::order)?;
            best.add(&mut room);
            return Some(room);
        }
        let dearest_first = |a: &Clearing, b: &Clearing| b.order(a);
        nodes.sort_by(dearest_first);
        let mut others = looked_at;
        for _ in 0..count {
            let node = nodes.pop()?;
            others.set(node.node, false);
            node.add(&mut room);
            let touched = match self.gives_no_more(&node, &room) {
                true => others.clone(),
                false => self.also_at(node.out(), &others),
            };
            if touched.is_empty() {
                continue;
            }
            nodes.retain(|other| !touched.has(other.node));
            nodes.extend(self.costs(Look::of(who, &room), &touched, layout.gpus));
            nodes.sort_by(dearest_first);
        }
        if layout.rest > 0 {
            let rest = self.costs(Look::of(who, &room), &others, layout.rest);
            rest.into_iter().min_by(Clearing::order)?.add(&mut room);
        }
        Some(room)
    }

    /// Of some nodes those where these jobs hold something, too.
    fn also_at(&self, jobs: impl Iterator<Item = JobIx>, of: &Bits) -> Bits {
        let mut touched = Bits::default();
        let pieces = jobs.flat_map(|job| &self.job(job).pieces);
        for piece in pieces.filter(|piece| of.has(piece.node)) {
            touched.set(piece.node, true);
        }
        touched
    }
}
