//! From counts to names: which of equal GPUs a task gets, and what stands in the way of a place that is chosen.

use std::collections::{BTreeMap, BTreeSet};

use super::{Planner, names::class_of};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        Placement, QueuedJob,
        ledger::{Allocation, NodeEntry},
        policy::cluster::{GpuClass, NodeIx, Piece},
    },
    time::Timestamp,
};

/// Whether what the policy has chosen can be had.
enum Seat {
    Free(Vec<Allocation>),
    /// Somebody is still leaving.
    Later,
    /// The books differ.
    Gone,
}

impl Planner {
    /// Gives places to those for whom they are free; whether the books differed.
    pub(super) fn seat_all(&mut self, at: Timestamp, placements: &mut Vec<Placement>) -> bool {
        let now = self.seconds(at);
        let mut differed = false;
        let chosen: Vec<JobId> = self.seats.keys().copied().collect();
        for job in chosen {
            let (Some(pieces), Some(queued)) = (self.seats.get(&job).cloned(), self.queue.get(job))
            else {
                continue;
            };
            match self.seat(queued, &pieces) {
                Seat::Later => self.policy.is_not_free_yet(now, job.0),
                Seat::Free(allocations) if self.ledger.take(job, allocations.clone()).is_ok() => {
                    let queued_at = queued.queued_at;
                    let gate = queued.gate.clone();
                    self.gates.placed(job, &gate, at);
                    self.seats.remove(&job);
                    self.policy.prepares(now, job.0);
                    self.queue.remove(job);
                    self.shy.remove(&job);
                    placements.push(Placement {
                        job,
                        queued_at,
                        allocations,
                        why: self.why.remove(&job).unwrap_or_default(),
                    });
                }
                Seat::Free(_) | Seat::Gone => {
                    differed = true;
                    let nodes: BTreeSet<NodeIx> = pieces.iter().map(|piece| piece.node).collect();
                    self.unseat(now, job);
                    let names = nodes.iter().filter_map(|ix| self.names.get(ix));
                    for name in names.cloned().collect::<Vec<_>>() {
                        self.refresh(now, &name);
                    }
                }
            }
        }
        let seats = &self.seats;
        self.why.retain(|job, _| seats.contains_key(job));
        differed
    }

    /// Whether nobody has to leave a place first, of nodes that do not close.
    pub(super) fn is_free(&self, queued: &QueuedJob, pieces: &[Piece]) -> bool {
        matches!(self.on(queued, pieces), Seat::Free(_))
    }

    /// Which GPUs, of those that the policy has counted.
    fn seat(&self, queued: &QueuedJob, pieces: &[Piece]) -> Seat {
        match self.closes_on(queued, pieces) {
            true => Seat::Gone,
            false => self.on(queued, pieces),
        }
    }

    fn on(&self, queued: &QueuedJob, pieces: &[Piece]) -> Seat {
        let mut nodes: BTreeMap<NodeIx, Vec<&Piece>> = BTreeMap::new();
        for piece in pieces {
            nodes.entry(piece.node).or_default().push(piece);
        }
        let mut allocations = Vec::new();
        let mut entries = Vec::new();
        for (ix, pieces) in nodes {
            let Some((name, entry)) = self
                .names
                .get(&ix)
                .and_then(|name| Some((name, self.ledger.node(name)?)))
            else {
                return Seat::Gone;
            };
            entries.push(entry);
            // Whoever wants it alone waits for the last one there, even if that holds no more than a process.
            let alone = !queued.placement.exclusive || entry.jobs().next().is_none();
            let carved = self.carve(name, entry, ix, &pieces);
            match carved.filter(|_| entry.open && alone) {
                Some(allocation) => allocations.push(allocation),
                None if entry.jobs().any(|job| self.leaving.contains_key(&job)) => {
                    return Seat::Later;
                }
                None => return Seat::Gone,
            }
        }
        if !queued.wish().admits_all(&entries) {
            return Seat::Gone;
        }
        if queued.nodes < 2 && allocations.len() < 2 {
            allocations.iter_mut().for_each(|held| held.address.clear());
        }
        // The order of ranks: the same nodes have the same ranks, however full they are.
        allocations
            .sort_by(|one, other| (&one.address, &one.node).cmp(&(&other.address, &other.node)));
        Seat::Free(allocations)
    }

    fn carve(
        &self,
        name: &NodeName,
        entry: &NodeEntry,
        ix: NodeIx,
        pieces: &[&Piece],
    ) -> Option<Allocation> {
        let free = entry.free();
        let classes: Vec<&GpuClass> = self.policy.offer(ix)?.gpus.keys().collect();
        let mut allocation = Allocation {
            node: name.clone(),
            cpus: pieces.iter().map(|piece| piece.cpus).sum(),
            memory_bytes: pieces.iter().map(|piece| piece.memory_bytes).sum(),
            gpus: Vec::new(),
            address: entry.address().to_owned(),
        };
        if allocation.cpus > free.cpus || allocation.memory_bytes > free.memory_bytes {
            return None;
        }
        for piece in pieces.iter().filter(|piece| piece.gpus > 0) {
            let class = *classes.get(usize::from(piece.slot))?;
            let wanted = usize::try_from(piece.gpus).ok()?;
            let of_class = free.gpus.iter().filter(|gpu| class_of(gpu) == *class);
            let uuids: Vec<String> = of_class.take(wanted).map(|gpu| gpu.uuid.clone()).collect();
            if uuids.len() < wanted {
                return None;
            }
            allocation.gpus.extend(uuids);
        }
        Some(allocation)
    }

    /// Of a job for which nodes are chosen that are not free yet: whom it waits for.
    #[must_use]
    pub fn chosen(&self, job: JobId) -> Option<String> {
        let nodes = self.chosen_nodes(job)?;
        let names: Vec<&NodeName> = nodes.iter().filter_map(|ix| self.names.get(ix)).collect();
        let leaving = self.leavers(job, &nodes);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let names = names.join(", ");
        let jobs: Vec<String> = leaving.iter().map(|job| format!("job {job}")).collect();
        let have = if jobs.len() == 1 {
            "has saved its"
        } else {
            "have saved their"
        };
        let jobs = jobs.join(" and ");
        // They have gone since: the next look gives it its place.
        if jobs.is_empty() {
            return Some(format!("has a place on {names}, and starts at once"));
        }
        Some(format!(
            "has a place on {names} as soon as {jobs} {have} work and gone"
        ))
    }
}
