//! For whom nodes are kept under the default policy, and until when a promise stands.
//!
//! One gang has a promise at a time: the first in the order for which one is due (`Config::reserve`) and can be given, on
//! the nodes that by the medians of those who hold them are free soonest. It stands as it was given while those hold who are
//! expected to be gone by then; when somebody is late, the node is changed or another comes first, it is given anew. Those
//! behind may start on these nodes only if they are expected to be gone by then, and nobody is moved there for them who is
//! not; those before it in the order take what they find.
//!
//! For one that waits for what its project owns and others have borrowed the same nodes are kept from borrowers alone, though
//! nobody may know when they are free: who would not borrow starts there in its turn, behind it or before it, for it has as
//! good a claim. No borrower is moved there for anybody but the one they are kept for. Called by `pass` and `preempt`.

use super::{
    ask::Gang,
    cluster::{JobIx, Piece},
    config::{Reserve, Rule, Seconds},
    dense::Bits,
    job::State,
    lanes::LaneIx,
    pass::Head,
    plan::Reservation,
    reserve::{Kept, NEVER},
    scheduler::Scheduler,
};

/// So many are looked at to whom nothing can be promised, though the open nodes could hold them: a pass must not take long.
const TRIES: usize = 8;

impl Scheduler {
    /// Whether nodes are kept for anybody at all, in this way.
    fn keeps(&self) -> bool {
        self.config.rule == Rule::Gittins && self.config.reserve != Reserve::Off
    }

    /// Keeps nodes for one that does not fit, if it is the first for whom that is due.
    pub(super) fn keep_for(&mut self, now: Seconds, head: &Head, kept: &mut Kept) {
        let is_full = kept.first.is_some() || kept.tried_in_vain >= TRIES;
        if is_full || !(self.is_due(head) || self.is_owed(head)) {
            return;
        }
        // To one whom the open nodes could not even hold if all were free nothing can be promised: it takes no try from the next.
        if self.shuts_out(self.job(head.job).shape) {
            return;
        }
        let promise = self.standing_promise(now, head.job);
        if let Some(promise) = promise.or_else(|| self.promise_of(now, head.job)) {
            kept.keep(&self.cluster, promise);
        } else if self.is_owed(head) {
            // It may always have what its project owns, whoever knows when.
            self.reserve(now, head.job, kept);
        }
        // Nothing is kept for one to whom nothing can be promised: it takes nothing from the next.
        if kept.reservation.is_none() {
            kept.tried_in_vain += 1;
            return;
        }
        kept.from_borrowers = !self.is_due(head);
        kept.first = Some(*head);
        kept.at = now;
    }

    fn is_due(&self, head: &Head) -> bool {
        let due = match self.config.reserve {
            Reserve::Off => false,
            Reserve::Guard => head.is_guarded(),
            Reserve::Top => head.is_guarded() || self.is_wide(head.job),
        };
        due && self.keeps()
    }

    /// Whether it waits for what its project owns and others have borrowed: they shall not take all that becomes free.
    fn is_owed(&self, head: &Head) -> bool {
        let job = self.job(head.job);
        let lent = self.projects.lends(job.project);
        let could = self.cluster.free_gpus().saturating_add(lent);
        self.keeps() && !head.borrows() && lent > 0 && could >= self.least(job)
    }

    /// Whether nodes may have to be kept for the first of a lane, though none like it fits.
    pub(super) fn could_be_due(&self, lane: LaneIx) -> bool {
        let lane = &self.lanes.lanes[lane];
        let is_guarded = || lane.turns.first().is_some_and(|turn| turn.guarded.0);
        let due = match self.config.reserve {
            Reserve::Off => false,
            Reserve::Guard => is_guarded() || self.projects.lends(lane.project) > 0,
            Reserve::Top => true,
        };
        due && self.keeps()
    }

    /// Whether it asks for several nodes, or all GPUs of one.
    fn is_wide(&self, ix: JobIx) -> bool {
        let largest = self.cluster.largest_node();
        let several = match self.lanes.shapes[self.job(ix).shape].ask.gang {
            Gang::Each { nodes, .. } => nodes > 1,
            Gang::Packed { .. } => false,
        };
        several || largest > 0 && self.least(self.job(ix)) >= largest
    }

    /// What was promised to it before, if that can still be kept.
    fn standing_promise(&self, now: Seconds, ix: JobIx) -> Option<Reservation> {
        let promise = self.kept.reservation.as_ref()?;
        let known = promise.job == self.job(ix).id && promise.then >= now;
        let stays = |piece: &Piece| !self.is_closed(piece.node, promise.then, ix);
        let holds = known
            && promise.pieces.iter().all(stays)
            && self.suits(ix, &promise.pieces)
            && self.is_free_by(now, promise.then, ix, &promise.pieces);
        holds.then(|| promise.clone())
    }

    /// Whether all who are in the way on these nodes are expected to be gone then.
    fn is_free_by(&self, now: Seconds, then: Seconds, ix: JobIx, pieces: &[Piece]) -> bool {
        let shape = &self.lanes.shapes[self.job(ix).shape];
        pieces.iter().all(|piece| {
            let Some(node) = self.cluster.nodes.get(piece.node) else {
                return false;
            };
            let holders = node.holders.iter().copied();
            let stay: Vec<JobIx> = holders
                .filter(|other| self.expected_end(now, *other) > then)
                .collect();
            let total = node.slots.get(usize::from(piece.slot));
            let has = [
                total.map_or(0, |slot| slot.total.into()),
                node.offer.cpus.into(),
                node.offer.memory_bytes,
            ];
            let alone = !shape.ask.exclusive || stay.is_empty();
            alone && shape.nodes().has(piece.node) && self.leaves_enough(&stay, piece, has)
        })
    }

    /// Whether those who stay on a node leave enough of what it has: GPUs of one class, CPUs, and bytes.
    fn leaves_enough(&self, stay: &[JobIx], piece: &Piece, has: [u64; 3]) -> bool {
        let held = stay.iter().flat_map(|other| &self.job(*other).pieces);
        let here = held.filter(|held| held.node == piece.node);
        let mut left = has;
        for held in here {
            let gpus = if held.slot == piece.slot {
                held.gpus
            } else {
                0
            };
            let takes = [gpus.into(), held.cpus.into(), held.memory_bytes];
            for (left, takes) in left.iter_mut().zip(takes) {
                *left = left.saturating_sub(takes);
            }
        }
        let needs = [piece.gpus.into(), piece.cpus.into(), piece.memory_bytes];
        left.iter().zip(needs).all(|(left, needs)| *left >= needs)
    }

    /// The nodes that are free soonest, and when; nothing if nobody knows when.
    fn promise_of(&self, now: Seconds, ix: JobIx) -> Option<Reservation> {
        let nodes = self.cluster.nodes.iter();
        let mut holders: Vec<JobIx> = nodes.flat_map(|(_, node)| &node.holders).copied().collect();
        holders.sort_unstable();
        holders.dedup();
        let ends = holders
            .into_iter()
            .map(|ix| (self.expected_end(now, ix), ix));
        let mut ends: Vec<(Seconds, JobIx)> = ends.filter(|(end, _)| *end < NEVER).collect();
        ends.sort_unstable();
        let (end, pieces) = self.soonest(ix, &ends)?;
        Some(Reservation {
            job: self.job(ix).id,
            pieces,
            then: end.max(now),
        })
    }

    /// Where a job may go that is bound by what is kept: everywhere if it is not, or is expected to be gone by then.
    pub(super) fn bounds(&self, now: Seconds, ix: JobIx, bound: bool) -> Option<&Bits> {
        let again = match self.job(ix).state {
            State::Running => self.config.restart_cost,
            State::Later | State::Waiting(_) | State::Promised | State::Leaving => 0,
        };
        let kept = Some(&self.kept).filter(|_| bound)?;
        kept.within(|| self.expected_end(now, ix).saturating_add(again))
    }

    /// Others have made room for one for whom nodes were kept: it needs them no more.
    pub(super) fn keep_no_more(&mut self, ix: JobIx) {
        if self.kept.first.is_some_and(|first| first.job == ix) {
            self.kept = Kept::default();
        }
    }
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
