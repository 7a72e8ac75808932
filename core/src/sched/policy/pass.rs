//! One pass: fills free nodes in the order of turns, and makes room where that is due.
//!
//! Owns the order between lanes. Called through `Scheduler::pass`.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    beside::Beside,
    cluster::{JobIx, Piece},
    config::{Rule, Seconds},
    job::State,
    lanes::{LaneIx, Rank, ShapeIx, Turn},
    plan::{Because, Plan, Start},
    reserve::Kept,
    scheduler::Scheduler,
};

/// So many are passed over who would stay too long beside what is kept: a pass must not take long.
const PASSED_OVER: usize = 512;

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

    /// The same, if it would use more than its project's own or no more.
    pub(super) fn borrowing(self, borrows: bool) -> Self {
        Self { borrows, ..self }
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
        self.kept = self.fill_up(now, &mut plan);
        if due && self.preempts() && self.lanes.waiting > 0 {
            self.make_room(now, &mut plan);
            // Only what pushed somebody out counts: who comes later need not wait for a round that did nothing.
            if !plan.preempts.is_empty() || self.last_round.is_none() {
                self.last_round = Some(now);
            }
        }
        plan.reservation.clone_from(&self.kept.reservation);
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
            rank: Rank(turn.rank.0 * self.factor(row.project)),
            submitted: turn.submitted,
            number: turn.number,
            job: turn.job,
            lane,
        }
    }

    /// Heads of the lanes for which `open` holds.
    pub(super) fn heads(&self, open: impl Fn(LaneIx) -> bool) -> Heads {
        let lanes = self.lanes.lanes.iter();
        let firsts = lanes.filter_map(|(ix, lane)| Some((ix, lane.turns.first()?)));
        firsts
            .filter(|(ix, _)| open(*ix))
            .map(|(ix, turn)| Reverse(self.head(ix, turn)))
            .collect()
    }

    /// The next in the order as it is now. Whoever would only borrow by what its project was given since the heads were
    /// compared goes behind those who would not: its others are in lanes of their own.
    pub(super) fn next_of(&self, heads: &mut Heads) -> Option<Head> {
        while let Some(Reverse(head)) = heads.pop() {
            let job = self.job(head.job);
            let borrows = self.projects.borrows(job.project, self.least(job));
            if borrows == head.borrows || !borrows {
                return Some(Head { borrows, ..head });
            }
            heads.push(Reverse(Head { borrows, ..head }));
        }
        None
    }

    /// Starts what fits, in order.
    pub(super) fn fill(&mut self, now: Seconds, plan: &mut Plan) -> Kept {
        let (mut kept, nothing) = (Kept::default(), Kept::default());
        let mut beside = Beside::of(PASSED_OVER);
        // One for whom nodes are to be kept is among those who do not fit.
        let closed = |lane: LaneIx| self.lanes.closed[self.lanes.lanes[lane].shape];
        let mut heads = self.heads(|lane| !closed(lane) || self.could_be_due(lane));
        while let Some(head) = self.next_of(&mut heads) {
            let (shape, project) = {
                let lane = &self.lanes.lanes[head.lane];
                (lane.shape, lane.project)
            };
            let gpus = self.least(self.job(head.job));
            if !self.projects.may_start(project, gpus) {
                continue;
            }
            if self.lanes.closed[shape] {
                self.keep_for(now, &head, &mut kept);
                continue;
            }
            let before = match kept.concerns(&head) {
                true => &kept,
                false => &nothing,
            };
            let held = before.within(|| self.expected_end(now, head.job)).is_some();
            let found = match held && beside.is_full(shape) {
                true => None,
                false => self.find(now, head.job, before),
            };
            match (found, self.config.rule) {
                (Some(pieces), _) => {
                    if self.may_hold(head.job, &pieces) {
                        let turn = self.job(head.job).turn();
                        self.start(now, &head, (pieces, before), plan);
                        let next = self.behind(now, (head.lane, turn), before, &mut beside);
                        heads.extend(next.map(|turn| Reverse(self.head(head.lane, &turn))));
                    }
                }
                (None, _) if held => {
                    beside.fill(shape);
                    let turn = self.job(head.job).turn();
                    let next = self.behind(now, (head.lane, turn), before, &mut beside);
                    heads.extend(next.map(|turn| Reverse(self.head(head.lane, &turn))));
                }
                (None, Rule::Fifo) if !self.shuts_out(shape) => return kept,
                (None, Rule::Easy) if !self.shuts_out(shape) => {
                    self.reserve(now, head.job, &mut kept);
                    (kept.first, kept.at) = (Some(head), now);
                    self.backfill(now, &kept, plan);
                    return kept;
                }
                // Of the strict rules one who fits not even with all others gone: nobody waits for it.
                (None, Rule::Fifo | Rule::Easy | Rule::Gittins | Rule::Throughput) => {
                    self.lanes.closed[shape] = true;
                    self.keep_for(now, &head, &mut kept);
                }
            }
        }
        kept
    }

    /// Starts the one whose turn it is, and says why.
    fn start(
        &mut self,
        now: Seconds,
        head: &Head,
        (pieces, kept): (Vec<Piece>, &Kept),
        plan: &mut Plan,
    ) {
        self.cluster.take(head.job, &pieces);
        self.run(now, head.job, pieces, plan);
        if head.is_guarded() {
            plan.because(Because::Guard);
        } else if let Some(first) = &kept.reservation {
            plan.because(Because::Beside(first.job));
        }
    }

    /// Whether the nodes that are open, and that such jobs do not shun, are none on which they could ever start.
    pub(super) fn is_shut_out(&self, shape: ShapeIx) -> bool {
        let known = self.lanes.shut_out.get(&shape).copied();
        known.unwrap_or_else(|| !self.could_ever(&self.lanes.shapes[shape].ask))
    }

    /// The same, kept in mind for nodes as they are.
    pub(super) fn shuts_out(&mut self, shape: ShapeIx) -> bool {
        self.lanes.shuts_out(&self.cluster, shape)
    }

    /// Nodes for a job, of those that are not kept for another.
    pub(super) fn find(&self, now: Seconds, ix: JobIx, kept: &Kept) -> Option<Vec<Piece>> {
        let job = self.job(ix);
        let shape = &self.lanes.shapes[job.shape];
        let within = kept.within(|| self.expected_end(now, ix));
        shape.find_but(&self.cluster, within)
    }

    /// Whether its project may have that: who is alone on its nodes may get larger ones than it needs.
    pub(super) fn may_hold(&self, ix: JobIx, pieces: &[Piece]) -> bool {
        let gpus = pieces.iter().map(|piece| piece.gpus).sum();
        self.projects.may_start(self.job(ix).project, gpus)
    }

    /// Starts a job on nodes that are taken for it.
    pub(super) fn run(&mut self, now: Seconds, ix: JobIx, pieces: Vec<Piece>, plan: &mut Plan) {
        let borrows = self.borrows_by(ix);
        // Its project is charged for what it holds.
        self.job_mut(ix).pieces.clone_from(&pieces);
        self.unqueue(now, ix);
        self.counts_as_used(now, ix, true);
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
