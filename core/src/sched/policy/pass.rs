//! One pass: fills free nodes in the order of turns, and makes room where that is due.
//!
//! Owns the order between lanes. Called through `Scheduler::pass`.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::{
    cluster::{JobIx, Piece},
    config::{Rule, Seconds},
    job::State,
    lanes::{LaneIx, Rank, ShapeIx, Turn},
    plan::{Because, Plan, Start},
    reserve::Kept,
    scheduler::Scheduler,
};

/// Where the first of a lane stands among those of all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    priority: Reverse<u32>,
    guarded: Reverse<bool>,
    /// More than its project's own would be used.
    borrows: bool,
    rank: Rank,
    submitted: Seconds,
    number: u64,
    pub(super) job: JobIx,
    pub(super) lane: LaneIx,
}

impl Head {
    pub(super) fn is_guarded(&self) -> bool {
        self.guarded.0
    }

    pub(super) fn borrows(&self) -> bool {
        self.borrows
    }
}

/// Heads of lanes, the first on top.
pub(super) type Heads = BinaryHeap<Reverse<Head>>;

impl Scheduler {
    /// Decides what is to be done now. Asked again at the same moment, once the plan was carried out, it has nothing to add.
    pub fn pass(&mut self, now: Seconds) -> Plan {
        let mut plan = Plan::default();
        self.wake_due(now);
        self.projects.meter(now, self.config.half_life);
        self.lanes.refresh(&self.cluster);
        for ix in std::mem::take(&mut self.ready) {
            let pieces = self.job(ix).pieces.clone();
            self.run(now, ix, pieces, &mut plan);
            plan.because(Because::Room);
        }
        let due = self
            .last_round
            .is_none_or(|last| now >= last + self.config.round);
        if due {
            self.projects.weigh(now, &self.config);
        }
        let kept = self.fill(now, &mut plan);
        if due && self.preempts() && self.lanes.waiting > 0 {
            self.make_room(now, &kept, &mut plan);
            // Only what pushed somebody out counts: who comes later need not wait for a round that did nothing.
            if !plan.preempts.is_empty() || self.last_round.is_none() {
                self.last_round = Some(now);
            }
        }
        plan.reservation = kept.reservation;
        self.learn_to_guess(now);
        plan.broken = self.broken(&plan);
        plan
    }

    pub(super) fn head(&self, lane: LaneIx, turn: &Turn) -> Head {
        let row = &self.lanes.lanes[lane];
        let gpus = self.least(self.job(turn.job));
        Head {
            guarded: turn.guarded,
            priority: turn.priority,
            borrows: self.projects.borrows(row.project, gpus),
            rank: Rank(turn.rank.0 * self.projects.factor(row.project)),
            submitted: turn.submitted,
            number: turn.number,
            job: turn.job,
            lane,
        }
    }

    /// Heads of the lanes for which `open` holds.
    pub(super) fn heads(&self, open: impl Fn(LaneIx) -> bool) -> Heads {
        let lanes = self.lanes.lanes.iter().filter(|(ix, _)| open(*ix));
        let firsts = lanes.filter_map(|(ix, lane)| Some((ix, lane.turns.first()?)));
        firsts
            .map(|(ix, turn)| Reverse(self.head(ix, turn)))
            .collect()
    }

    /// Starts what fits, in order.
    fn fill(&mut self, now: Seconds, plan: &mut Plan) -> Kept {
        let mut kept = Kept::default();
        let mut heads = self.heads(|lane| !self.lanes.closed[self.lanes.lanes[lane].shape]);
        while let Some(Reverse(head)) = heads.pop() {
            let (shape, project) = {
                let lane = &self.lanes.lanes[head.lane];
                (lane.shape, lane.project)
            };
            let gpus = self.least(self.job(head.job));
            if self.lanes.closed[shape] || !self.projects.may_start(project, gpus) {
                continue;
            }
            if let Some(pieces) = self.find(now, head.job, &kept) {
                if !self.may_hold(head.job, &pieces) {
                    continue;
                }
                self.cluster.take(head.job, &pieces);
                self.run(now, head.job, pieces, plan);
                if head.is_guarded() {
                    plan.because(Because::Guard);
                }
                let next = self.lanes.lanes[head.lane].turns.first().copied();
                heads.extend(next.map(|turn| Reverse(self.head(head.lane, &turn))));
                continue;
            }
            match self.config.rule {
                // Not even with all others gone: nobody waits for it.
                Rule::Fifo | Rule::Easy if self.is_shut_out(shape) => {
                    self.lanes.closed[shape] = true;
                }
                Rule::Fifo => return kept,
                Rule::Easy if kept.reservation.is_none() => {
                    self.lanes.closed[shape] = false;
                    self.reserve(now, head.job, &mut kept);
                    self.backfill(now, &kept, plan);
                    return kept;
                }
                Rule::Easy | Rule::Gittins | Rule::Throughput => {
                    self.lanes.closed[shape] = true;
                }
            }
        }
        kept
    }

    /// Whether the nodes that such jobs shun, as those that are about to be closed, leave none on which they could ever
    /// start.
    pub(super) fn is_shut_out(&self, shape: ShapeIx) -> bool {
        let ask = &self.lanes.shapes[shape].ask;
        !ask.avoid.is_empty() && !self.could_ever(ask)
    }

    /// All who wait, one by one, beside what is kept.
    fn backfill(&mut self, now: Seconds, kept: &Kept, plan: &mut Plan) {
        let lanes = self.lanes.lanes.iter();
        let turns: BTreeSet<(Turn, LaneIx)> = lanes
            .flat_map(|(ix, lane)| lane.turns.iter().map(move |turn| (*turn, ix)))
            .collect();
        // What is left only shrinks here.
        let mut full: BTreeSet<(ShapeIx, bool)> = BTreeSet::new();
        for (turn, _) in turns {
            let job = self.job(turn.job);
            if !self.projects.may_start(job.project, self.least(job)) {
                continue;
            }
            let anywhere = kept.within(|| now + self.expected_left(now, job)).is_none();
            if full.contains(&(job.shape, anywhere)) {
                continue;
            }
            full.insert((job.shape, anywhere));
            let found = self.find(now, turn.job, kept);
            if let Some(pieces) = found.filter(|pieces| self.may_hold(turn.job, pieces)) {
                full.remove(&(job.shape, anywhere));
                self.cluster.take(turn.job, &pieces);
                self.run(now, turn.job, pieces, plan);
                if let Some(first) = &kept.reservation {
                    plan.because(Because::Beside(first.job));
                }
            }
        }
    }

    /// Nodes for a job, of those that are not kept for another.
    fn find(&self, now: Seconds, ix: JobIx, kept: &Kept) -> Option<Vec<Piece>> {
        let job = self.job(ix);
        let shape = &self.lanes.shapes[job.shape];
        let within = kept.within(|| now + self.expected_left(now, job));
        shape.find_but(&self.cluster, within)
    }

    /// Whether its project may have that: who is alone on its nodes may get larger ones than it needs.
    pub(super) fn may_hold(&self, ix: JobIx, pieces: &[Piece]) -> bool {
        let gpus = pieces.iter().map(|piece| piece.gpus).sum();
        self.projects.may_start(self.job(ix).project, gpus)
    }

    /// Starts a job on nodes that are taken for it.
    fn run(&mut self, now: Seconds, ix: JobIx, pieces: Vec<Piece>, plan: &mut Plan) {
        let borrows = self.borrows_by(ix);
        // Its project is charged for what it holds.
        self.job_mut(ix).pieces.clone_from(&pieces);
        self.unqueue(now, ix);
        self.forecasts.settle(now, ix, true);
        let job = self.job_mut(ix);
        job.state = State::Running;
        job.since = now;
        job.prepares = false;
        job.runs += 1;
        plan.starts.push(Start {
            job: job.id,
            pieces,
            because: Because::Turn,
            borrows,
        });
        self.running.insert(ix);
    }

    /// Whether its project uses, or would use, more than its own by a job. One that waits does not count yet.
    fn borrows_by(&self, ix: JobIx) -> bool {
        let job = self.job(ix);
        match job.state {
            State::Waiting(_) => self.projects.borrows(job.project, job.gpus),
            State::Later | State::Promised | State::Running | State::Leaving => {
                job.gpus > 0 && self.projects.borrowed(job.project) > 0
            }
        }
    }

    /// A job that waits no longer, and holds what it was given.
    pub(super) fn unqueue(&mut self, now: Seconds, ix: JobIx) {
        let job = self.job(ix);
        let (lane, project) = (job.lane, job.project);
        if let State::Waiting(turn) = job.state.clone() {
            self.dequeue(ix, lane, &turn);
            self.projects.queue(project, false);
            self.charge(now, ix, true);
        }
    }
}
