//! What it costs to have so much free on a node, and who would have to go from there. Looks only; `preempt` decides.

use std::collections::BTreeSet;

use super::{
    cluster::{JobIx, NodeIx},
    dense::Bits,
    job::Job,
    preempt::{Claimant, Standings},
    scheduler::Scheduler,
};

/// What moving a job costs, as a part of what pushing it out would: it goes on at once, but pays for a restart.
const MOVING: f64 = 0.1;

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
            cost: 0.0,
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
        let by_gpu = |one: &(f64, Amount, JobIx, bool)| one.0 / f64::from(one.1.gpus.max(1));
        leave.sort_by(|a, b| by_gpu(a).total_cmp(&by_gpu(b)).then(a.2.cmp(&b.2)));
        for (cost, here, job, moves) in leave {
            if clearing.free.holds(&needs) {
                break;
            }
            if !here.helps(&clearing.free, &needs) {
                continue;
            }
            clearing.free = clearing.free.with(&here);
            clearing.without(job, cost, moves);
        }
        clearing.free.holds(&needs).then_some(clearing)
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
        for (cost, _, job, moves) in leave {
            clearing.without(job, cost, moves);
        }
        Some(clearing)
    }

    /// Who of those on a node could go or move: what that costs, what it brings, and whether it moves.
    fn who_could_leave(
        &self,
        claimant: &Claimant,
        standings: &Standings,
        ix: NodeIx,
    ) -> Vec<(f64, Amount, JobIx, bool)> {
        let node = &self.cluster.nodes[ix];
        let shape = &self.lanes.shapes[self.job(claimant.job).shape];
        let accepted = shape.accepted(node.group);
        let total: u32 = node.slots.iter().map(|slot| slot.total).sum();
        let mut leave: Vec<(f64, Amount, JobIx, bool)> = Vec::new();
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
            if self.may_push(&claimant.standing, standing) {
                leave.push((standing.rate, here, *holder, false));
            } else if self.small(job, ix, total) {
                leave.push((standing.rate * MOVING, here, *holder, true));
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

    /// So many GPUs in all, on nodes of whatever size, from where they cost least: of each node all that it could give.
    pub(super) fn gathered(
        &self,
        claimant: &Claimant,
        standings: &Standings,
        nodes: &Bits,
        gpus: u32,
    ) -> Option<Room> {
        let shape = &self.lanes.shapes[self.job(claimant.job).shape];
        let gives = nodes.iter::<NodeIx>().filter_map(|node| {
            let accepted = shape.accepted(self.cluster.nodes[node].group);
            let slots = self.cluster.nodes[node].slots.iter().zip(accepted);
            let total: u32 = slots
                .filter(|(_, yes)| **yes)
                .map(|(slot, _)| slot.total)
                .sum();
            (1..=total.min(gpus)).rev().find_map(|gpus| {
                let clearing = self.clearing(claimant, standings, node, gpus)?;
                Some((clearing.cost / f64::from(gpus), gpus, clearing))
            })
        });
        let mut gives: Vec<(f64, u32, Clearing)> = gives.collect();
        gives.sort_by(|a, b| {
            let cost = a.0.total_cmp(&b.0);
            cost.then(b.1.cmp(&a.1)).then(a.2.node.cmp(&b.2.node))
        });
        let mut room = Room::default();
        let mut left = gpus;
        for (_, given, clearing) in gives {
            let rest = given.min(left);
            let fewer = self.clearing(claimant, standings, clearing.node, rest);
            fewer.unwrap_or(clearing).add(&mut room);
            left -= rest;
            if left == 0 {
                return Some(room);
            }
        }
        None
    }

    /// What a room costs.
    pub(super) fn price(&self, room: &Room, standings: &Standings) -> f64 {
        let rate = |ix: &JobIx| {
            standings
                .get(*ix)
                .copied()
                .flatten()
                .map_or(0.0, |standing| standing.rate)
        };
        let out: f64 = room.out.iter().map(rate).sum();
        out + room.moved.iter().map(rate).sum::<f64>() * MOVING
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
    cost: f64,
    free: Amount,
    out: Vec<JobIx>,
    moved: Vec<JobIx>,
}

impl Clearing {
    /// The cheapest first; of those the fullest, the first.
    pub(super) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let cost = self.cost.total_cmp(&other.cost);
        cost.then(self.free.gpus.cmp(&other.free.gpus))
            .then(self.node.cmp(&other.node))
    }

    fn without(&mut self, job: JobIx, cost: f64, moves: bool) {
        self.cost += cost;
        if moves {
            self.moved.push(job);
        } else {
            self.out.push(job);
        }
    }

    pub(super) fn add(&self, room: &mut Room) {
        room.out.extend(&self.out);
        room.moved.extend(&self.moved);
    }
}
