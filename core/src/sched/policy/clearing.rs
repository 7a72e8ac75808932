//! What it costs to have so much free on a node, and who would have to go from there. Looks only; `preempt` decides.

use std::collections::BTreeSet;

use super::{
    cluster::{JobIx, NodeIx},
    dense::Bits,
    job::Job,
    lanes::Rank,
    preempt::{Claimant, Standing, Standings},
    scheduler::Scheduler,
};

/// What moving a job costs, as a part of what pushing it out would: it goes on at once, but pays for a restart.
const MOVING: f64 = 0.1;

/// What it costs that some go. Compared field by field: a higher priority is not given up for any gain among lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// The highest priority of those who go.
    priority: Option<u32>,
    /// Not all of them have borrowed what they hold.
    own: bool,
    /// Completions per second.
    rate: Rank,
}

impl Cost {
    const NOTHING: Self = Self {
        priority: None,
        own: false,
        rate: Rank(0.0),
    };

    /// Of one who goes, or only moves.
    pub(super) fn of(standing: &Standing, moves: bool) -> Self {
        let part = if moves { MOVING } else { 1.0 };
        Self {
            priority: Some(standing.priority),
            own: !standing.borrows,
            rate: Rank(standing.rate * part),
        }
    }

    fn and(self, more: Self) -> Self {
        Self {
            priority: self.priority.max(more.priority),
            own: self.own || more.own,
            rate: Rank(self.rate.0 + more.rate.0),
        }
    }

    fn for_each(self, gpus: u32) -> Self {
        Self {
            rate: Rank(self.rate.0 / f64::from(gpus.max(1))),
            ..self
        }
    }
}

/// One who could go from a node.
struct Leaver {
    job: JobIx,
    cost: Cost,
    /// What it holds there.
    here: Amount,
    moves: bool,
}

/// Who has to go.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// Pushed out.
    pub(super) out: BTreeSet<JobIx>,
    /// Moved; and whether it may also be pushed out.
    pub(super) moved: BTreeSet<JobIx>,
}

impl Scheduler {
    /// What it costs to have `gpus` free on each node where that can be; all of a node for one who wants it alone.
    pub(super) fn costs(
        &self,
        claimant: &Claimant,
        standings: &Standings,
        nodes: &Bits,
        gpus: u32,
    ) -> Vec<Clearing> {
        let nodes = nodes.iter::<NodeIx>();
        nodes
            .filter_map(|node| self.clearing(claimant, standings, node, gpus))
            .collect()
    }

    fn clearing(
        &self,
        claimant: &Claimant,
        standings: &Standings,
        ix: NodeIx,
        gpus: u32,
    ) -> Option<Clearing> {
        let node = &self.cluster.nodes[ix];
        let shape = &self.lanes.shapes[self.job(claimant.job).shape];
        let (ask, accepted) = (&shape.ask, shape.accepted(node.group));
        let of_slot = |slot: u8| accepted.get(usize::from(slot)) == Some(&true);
        let slots = || (0u8..).zip(&node.slots).filter(|(slot, _)| of_slot(*slot));
        let needs = Amount {
            gpus,
            cpus: ask.cpus,
            bytes: ask.memory_bytes,
        };
        let mut clearing = Clearing {
            node: ix,
            cost: Cost::NOTHING,
            free: Amount {
                gpus: slots().map(|(_, slot)| slot.free()).sum(),
                cpus: node.cpus(),
                bytes: node.memory_bytes(),
            },
            out: Vec::new(),
            moved: Vec::new(),
        };
        let total: u32 = slots().map(|(_, slot)| slot.total).sum();
        if ask.exclusive {
            return (total >= gpus)
                .then(|| self.emptied(claimant, standings, clearing))
                .flatten();
        }
        if clearing.free.holds(&needs) {
            return Some(clearing);
        }
        if total < gpus {
            return None;
        }
        let mut leave = self.who_could_leave(claimant, standings, ix);
        // The cheapest by GPU first.
        leave.sort_by_key(|one| (one.cost.for_each(one.here.gpus), one.job));
        let mut chosen: Vec<Leaver> = Vec::new();
        for one in leave {
            if clearing.free.holds(&needs) {
                break;
            }
            if one.here.helps(&clearing.free, &needs) {
                clearing.free = clearing.free.with(&one.here);
                chosen.push(one);
            }
        }
        if !clearing.free.holds(&needs) {
            return None;
        }
        // The next one may bring so much that an earlier one is not needed any more.
        for one in chosen.iter().rev() {
            let free = clearing.free.less(&one.here);
            if free.holds(&needs) {
                clearing.free = free;
            } else {
                clearing.without(one);
            }
        }
        Some(clearing)
    }

    /// All who hold something on the node, whatever that is; nothing if one of them stays.
    fn emptied(
        &self,
        claimant: &Claimant,
        standings: &Standings,
        mut clearing: Clearing,
    ) -> Option<Clearing> {
        let leave = self.who_could_leave(claimant, standings, clearing.node);
        if leave.len() < self.cluster.holders(clearing.node).len() {
            return None;
        }
        for one in &leave {
            clearing.without(one);
        }
        Some(clearing)
    }

    /// Who of those on a node could go or move.
    fn who_could_leave(
        &self,
        claimant: &Claimant,
        standings: &Standings,
        ix: NodeIx,
    ) -> Vec<Leaver> {
        let node = &self.cluster.nodes[ix];
        let shape = &self.lanes.shapes[self.job(claimant.job).shape];
        let accepted = shape.accepted(node.group);
        let total: u32 = node.slots.iter().map(|slot| slot.total).sum();
        let mut leave: Vec<Leaver> = Vec::new();
        for holder in &node.holders {
            let Some(standing) = standings.get(*holder).and_then(Option::as_ref) else {
                continue;
            };
            let job = self.job(*holder);
            let pieces = || job.pieces.iter().filter(|piece| piece.node == ix);
            let here = pieces().map(|piece| Amount {
                gpus: if accepted.get(usize::from(piece.slot)) == Some(&true) {
                    piece.gpus
                } else {
                    0
                },
                cpus: piece.cpus,
                bytes: piece.memory_bytes,
            });
            let here = here.fold(Amount::default(), |sum, piece| sum.with(&piece));
            let moves = !self.may_push(&claimant.standing, standing);
            if !moves || self.small(job, ix, total) {
                leave.push(Leaver {
                    job: *holder,
                    cost: Cost::of(standing, moves),
                    here,
                    moves,
                });
            }
        }
        leave
    }

    /// Whether all of a job lies on the node and is less than the whole of it: moving whole nodes about wins nothing.
    fn small(&self, job: &Job, ix: NodeIx, total: u32) -> bool {
        let held: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
        let cpus: u32 = job.pieces.iter().map(|piece| piece.cpus).sum();
        let all_here = job.pieces.iter().all(|piece| piece.node == ix);
        let offered = self.cluster.nodes[ix].offer.cpus;
        let less = if total > 0 {
            held < total
        } else {
            cpus < offered
        };
        all_here && !job.partial && less && !self.lanes.shapes[job.shape].ask.exclusive
    }

    /// What a room costs.
    pub(super) fn price(&self, room: &Room, standings: &Standings) -> Cost {
        let cost = |ix: &JobIx, moves| {
            let standing = standings.get(*ix).and_then(Option::as_ref);
            standing.map_or(Cost::NOTHING, |standing| Cost::of(standing, moves))
        };
        let out = room.out.iter().map(|ix| cost(ix, false));
        let moved = room.moved.iter().map(|ix| cost(ix, true));
        out.chain(moved).fold(Cost::NOTHING, Cost::and)
    }
}

/// What a node has left, or somebody holds or needs there.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    gpus: u32,
    cpus: u32,
    bytes: u64,
}

impl Amount {
    fn with(self, more: &Self) -> Self {
        Self {
            gpus: self.gpus.saturating_add(more.gpus),
            cpus: self.cpus.saturating_add(more.cpus),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    fn less(self, fewer: &Self) -> Self {
        Self {
            gpus: self.gpus.saturating_sub(fewer.gpus),
            cpus: self.cpus.saturating_sub(fewer.cpus),
            bytes: self.bytes.saturating_sub(fewer.bytes),
        }
    }

    fn holds(&self, needs: &Self) -> bool {
        self.gpus >= needs.gpus && self.cpus >= needs.cpus && self.bytes >= needs.bytes
    }

    /// Whether to have this too brings `free` nearer to what is needed.
    fn helps(&self, free: &Self, needs: &Self) -> bool {
        self.gpus > 0 && free.gpus < needs.gpus
            || self.cpus > 0 && free.cpus < needs.cpus
            || self.bytes > 0 && free.bytes < needs.bytes
    }
}

/// What has to happen on a node.
#[derive(Clone, Debug)]
pub(super) struct Clearing {
    pub(super) node: NodeIx,
    cost: Cost,
    free: Amount,
    out: Vec<JobIx>,
    moved: Vec<JobIx>,
}

impl Clearing {
    /// The cheapest first; of those the fullest, the first.
    pub(super) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |of: &Self| (of.cost, of.free.gpus, of.node);
        key(self).cmp(&key(other))
    }

    fn without(&mut self, one: &Leaver) {
        self.cost = self.cost.and(one.cost);
        if one.moves {
            self.moved.push(one.job);
        } else {
            self.out.push(one.job);
        }
    }

    pub(super) fn add(&self, room: &mut Room) {
        room.out.extend(&self.out);
        room.moved.extend(&self.moved);
    }
}
