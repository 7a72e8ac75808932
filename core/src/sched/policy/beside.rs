//! Who starts beside what is kept: who stands behind one who would stay there too long may not.
//!
//! Called by `pass`.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    ops::Bound,
};

use super::{
    cluster::JobIx,
    config::{Rule, Seconds},
    lanes::{LaneIx, ShapeIx, Turn},
    plan::{Because, Plan, Reservation, Start},
    reserve::Kept,
    scheduler::Scheduler,
};

/// What was found out in a pass. What is left only shrinks in it: of those who would stay too long one speaks for all of
/// its shape.
#[derive(Debug)]
pub(super) struct Beside {
    /// Shapes of which none fits on the nodes that are not kept.
    full: BTreeSet<ShapeIx>,
    /// So many more are passed over.
    left: usize,
}

impl Beside {
    pub(super) fn of(left: usize) -> Self {
        Self {
            full: BTreeSet::new(),
            left,
        }
    }

    pub(super) fn fill(&mut self, shape: ShapeIx) {
        self.full.insert(shape);
    }

    pub(super) fn is_full(&self, shape: ShapeIx) -> bool {
        self.full.contains(&shape)
    }
}

impl Scheduler {
    /// Starts what fits, and looks again as long as that can change what fits for others.
    pub(super) fn fill_up(&mut self, now: Seconds, plan: &mut Plan) -> Kept {
        loop {
            let before = plan.starts.len();
            let kept = self.fill(now, plan);
            let new = plan.starts.get(before..).unwrap_or_default();
            if new.is_empty() || !self.could_find_more(now, &kept, new) {
                return kept;
            }
        }
    }

    /// What is left only shrinks in a look, so as a rule who did not fit does not after it either. But by those who start
    /// beside what is kept it may be kept elsewhere, or for another; and who wants nodes alone and may not have those that it
    /// finds first may have others once these are taken. Nobody waits for one whose project has come to its limits by them.
    fn could_find_more(&self, now: Seconds, kept: &Kept, new: &[Start]) -> bool {
        let beside = || {
            new.iter()
                .any(|start| matches!(start.because, Because::Beside(_)))
        };
        let easy = self.config.rule == Rule::Easy;
        let moves = match &kept.reservation {
            Some(_) if !easy => true,
            Some(reservation) => beside() && !self.stands(now, reservation),
            None => false,
        };
        let is_out = kept
            .first
            .as_ref()
            .is_some_and(|first| self.is_out(first.job));
        moves || is_out || self.projects.any_may_not_borrow() && self.anybody_wants_to_be_alone()
    }

    /// Others of its project have come to its limits: then nothing is kept for it.
    fn is_out(&self, ix: JobIx) -> bool {
        let job = self.job(ix);
        !self.projects.may_start(job.project, self.least(job))
    }

    /// Whether under `easy` the same nodes would be kept for the same job again, now that others have started beside it. One
    /// that would borrow by now may come behind another.
    fn stands(&self, now: Seconds, reservation: &Reservation) -> bool {
        let Some(first) = self.number(reservation.job) else {
            return false;
        };
        let (project, gpus) = (self.job(first).project, self.least(self.job(first)));
        let mut again = Kept::default();
        self.reserve(now, first, &mut again);
        !self.projects.borrows(project, gpus) && again.reservation.as_ref() == Some(reservation)
    }

    fn anybody_wants_to_be_alone(&self) -> bool {
        let mut lanes = self.lanes.lanes.iter();
        lanes.any(|(_, lane)| !lane.turns.is_empty() && self.lanes.shapes[lane.shape].ask.exclusive)
    }

    /// Who is next in a lane behind a turn: of those who do not fit anyway, as they would stay too long, none.
    pub(super) fn behind(
        &self,
        now: Seconds,
        (lane, turn): (LaneIx, Option<Turn>),
        kept: &Kept,
        beside: &mut Beside,
    ) -> Option<Turn> {
        let lane = &self.lanes.lanes[lane];
        let behind = (Bound::Excluded(turn?), Bound::Unbounded);
        let mut behind = lane.turns.range(behind);
        if !beside.is_full(lane.shape) {
            return behind.next().copied();
        }
        for turn in behind {
            if beside.left == 0 {
                return None;
            }
            if kept.within(|| self.end_of(now, turn)).is_none() {
                return Some(*turn);
            }
            beside.left -= 1;
        }
        None
    }

    /// All who wait, one by one, beside what is kept. Of a lane of which one cannot start anywhere none can.
    pub(super) fn backfill(&mut self, now: Seconds, kept: &Kept, plan: &mut Plan) {
        let lanes = self.lanes.lanes.iter();
        let firsts = lanes.filter_map(|(ix, lane)| Some(Reverse((*lane.turns.first()?, ix))));
        let mut turns: BinaryHeap<Reverse<(Turn, LaneIx)>> = firsts.collect();
        let mut beside = Beside::of(usize::MAX);
        let mut shut: BTreeSet<ShapeIx> = BTreeSet::new();
        while let Some(Reverse((turn, lane))) = turns.pop() {
            let job = self.job(turn.job);
            let (shape, project) = (job.shape, job.project);
            let may = self.projects.may_start(project, self.least(job));
            if !may || shut.contains(&shape) {
                continue;
            }
            let held = kept.within(|| self.end_of(now, &turn)).is_some();
            let found = match held && beside.is_full(shape) {
                true => None,
                false => self.find(now, turn.job, kept),
            };
            match found {
                Some(pieces) if self.may_hold(turn.job, &pieces) => {
                    self.cluster.take(turn.job, &pieces);
                    self.run(now, turn.job, pieces, plan);
                    if let Some(first) = &kept.reservation {
                        plan.because(Because::Beside(first.job));
                    }
                }
                Some(_) => {}
                None if held => beside.fill(shape),
                None => {
                    shut.insert(shape);
                    continue;
                }
            }
            let next = self.behind(now, (lane, Some(turn)), kept, &mut beside);
            turns.extend(next.map(|turn| Reverse((turn, lane))));
        }
    }
}
