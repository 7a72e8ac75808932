//! Makes room: who has to go so that a job fits on real nodes.
//!
//! Two ways. A job that ranks behind is pushed out, if what is won by it is more than what is lost. A job that does not
//! is moved, if it finds a place elsewhere at once: so small jobs make nodes whole again. Nobody is touched who has run
//! for less than its restart costs, and nothing is done unless the gang then really fits. Called by `Scheduler::pass`,
//! once a round.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{
    clearing::Room,
    cluster::{JobIx, NodeIx, Piece},
    config::Seconds,
    dense::Table,
    exchange::Stuck,
    job::{Job, State},
    pass::{Head, Heads},
    plan::{Plan, Preempt},
    projects::ProjectIx,
    scheduler::Scheduler,
};

/// So many gangs get room in one round: a pass must not take long, and the next is a minute away.
const MOST_IN_A_ROUND: usize = 256;
/// Who has waited for so long looks past those who are too wide for it, though they would cost less: most short waits are
/// better left to whoever ends first.
const LOOKS_PAST: Seconds = 3_600;
/// A running job, as one who could go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Completions per second, as far as is known.
    pub(super) rate: f64,
    pub(super) rank: f64,
    pub(super) guarded: bool,
    pub(super) priority: u32,
    pub(super) borrows: bool,
    pub(super) project: ProjectIx,
    /// GPU-seconds that are lost if it goes.
    pub(super) at_stake: f64,
    /// GPUs that its project has by it.
    pub(super) gpus: u32,
    /// It looks past those who are too wide for it.
    pub(super) looks_past: bool,
    /// It runs, and none of a better rank pushes it out yet.
    pub(super) settles: bool,
    /// Some of its own project go for it, which has no more by it.
    pub(super) exchanges: bool,
}

impl Standing {
    /// Whether one of two has a claim to what the other holds by what their projects own. Whatever a project has borrowed,
    /// those of its jobs that go for one another owe it to others.
    fn is_owed_by(&self, victim: &Self) -> bool {
        let within = self.exchanges && self.project == victim.project;
        !within && self.borrows != victim.borrows
    }
}

/// Running jobs that may be touched.
pub(super) type Standings = Table<JobIx, Option<Standing>>;

/// For whom room is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant {
    pub(super) now: Seconds,
    pub(super) job: JobIx,
    pub(super) standing: Standing,
    /// How many may be moved for it: they shall not lose more time together than it has lost.
    moves: usize,
    /// Nodes are kept for one who comes before it.
    pub(super) bound: bool,
}

/// One for whom no room could be made in this round.
pub(super) struct Failed {
    standing: Standing,
    bound: bool,
    /// With so many who may be moved it would have been in vain, too.
    moves: usize,
}

impl Failed {
    /// For one like this nobody could go, whoever moves.
    pub(super) fn whoever_moves(standing: Standing) -> Self {
        Self {
            standing,
            bound: false,
            moves: usize::MAX,
        }
    }

    fn of(claimant: &Claimant, rooms: &[Room]) -> Self {
        let moved = rooms.iter().map(|room| room.moved.len());
        let more = moved.filter(|count| *count > claimant.moves).min();
        Self {
            standing: claimant.standing,
            bound: claimant.bound,
            moves: more.map_or(usize::MAX, |more| more - 1),
        }
    }

    /// Whether another who asks for the same need not try: it may push out nobody whom this one may not, and move no more.
    pub(super) fn speaks_for(&self, other: &Claimant) -> bool {
        let (this, that) = (&self.standing, &other.standing);
        this.priority >= that.priority
            && (this.guarded || !that.guarded)
            && (this.looks_past || !that.looks_past)
            && (!this.borrows || that.borrows)
            && this.rank <= that.rank
            && (!self.bound || other.bound)
            && other.moves <= self.moves
    }
}

impl Scheduler {
    /// A round of preemption.
    pub(super) fn make_room(&mut self, now: Seconds, plan: &mut Plan) {
        let fresh = std::mem::take(&mut self.lanes.fresh);
        let all = self
            .last_try
            .is_none_or(|last| now >= last + self.config.round);
        let heads = self.heads(|lane| all || fresh.contains(&lane));
        if heads.is_empty() {
            return;
        }
        if all {
            self.last_try = Some(now);
        }
        if let Some(mut standings) = self.standings(now) {
            self.make_rooms(now, heads, &mut standings, plan);
            // Who has left it is out of it already.
            for ix in &self.running {
                standings.set(*ix, None);
            }
            self.standings = standings;
        }
    }

    /// Makes room for those whose turn it is, in order.
    fn make_rooms(
        &mut self,
        now: Seconds,
        mut heads: Heads,
        standings: &mut Standings,
        plan: &mut Plan,
    ) {
        let worst = self.worst(standings);
        let shapes = self.lanes.shapes.keys();
        let mut failed: Table<_, Vec<Failed>> = shapes.map(|_| Vec::new()).collect();
        let mut left = MOST_IN_A_ROUND;
        let mut stuck = Stuck::default();
        while let Some(head) = self.next_of(&mut heads) {
            let lane = &self.lanes.lanes[head.lane];
            let (shape, project) = (lane.shape, lane.project);
            let gpus = self.least(self.job(head.job));
            let claim = match self.projects.may_start(project, gpus) {
                true => Some((self.claimant(now, &head), Room::default())),
                false => self.exchange(now, &head, standings, &mut stuck),
            };
            let Some((claimant, own)) = claim else {
                continue;
            };
            if failed[shape]
                .iter()
                .any(|before| before.speaks_for(&claimant))
            {
                continue;
            }
            let rooms = self.rooms((&claimant, &own), standings, &worst);
            let mut tried = rooms.iter();
            if !tried.any(|room| self.clear(&claimant, room, standings, plan)) {
                // One for whom some of its project have to go anyway speaks for nobody else.
                if own.is_empty() {
                    failed[shape].push(Failed::of(&claimant, &rooms));
                }
                continue;
            }
            left -= 1;
            if left == 0 {
                return;
            }
            let next = self.lanes.lanes[head.lane].turns.first().copied();
            heads.extend(next.map(|turn| Reverse(self.head(head.lane, &turn))));
        }
    }

    /// Who runs, may be touched, and how it stands; nothing if there is nobody. The table is as long as all jobs that
    /// are known, and a pass must not be: it is kept from one to the next.
    fn standings(&mut self, now: Seconds) -> Option<Standings> {
        let least = self.config.left_alone();
        let old_enough = |job: &Job| !job.prepares && now - job.since >= job.untouched(least);
        let touchable = |ix: &&JobIx| {
            let job = self.job(**ix);
            job.preemptible && old_enough(job)
        };
        let touchable: Vec<JobIx> = self.running.iter().filter(touchable).copied().collect();
        if touchable.is_empty() {
            return None;
        }
        let mut standings = std::mem::take(&mut self.standings);
        for ix in touchable {
            let standing = self.standing(now, self.job(ix));
            standings.set(ix, Some(standing));
        }
        Some(standings)
    }

    fn standing(&self, now: Seconds, job: &Job) -> Standing {
        let rank = self.rank(now, job) * self.factor(job.project);
        let gpus = self.least(job);
        let waited = job.waited(now, self.config.restart_cost);
        Standing {
            rate: f64::from(gpus.max(1)) / rank,
            rank,
            guarded: self.guards() && waited >= self.config.guard,
            priority: job.priority,
            borrows: gpus > 0 && self.projects.borrowed(job.project) > 0,
            project: job.project,
            at_stake: job.at_stake(now, self.config.restart_cost),
            gpus: job.charged.unwrap_or(gpus),
            settles: now - job.since < job.left_alone(self.config.left_alone()),
            looks_past: waited >= LOOKS_PAST,
            exchanges: false,
        }
    }

    pub(super) fn claimant(&self, now: Seconds, head: &Head) -> Claimant {
        let job = self.job(head.job);
        let waited = job.waited(now, self.config.restart_cost);
        let moves = waited / self.config.restart_cost.max(1);
        let mut standing = self.standing(now, job);
        standing.borrows = self.projects.borrows(job.project, self.least(job));
        Claimant {
            now,
            job: head.job,
            standing,
            moves: usize::try_from(moves).unwrap_or(0),
            bound: self.kept.binds(head),
        }
    }

    /// Whether `victim` may be pushed out for `claimant`.
    pub(super) fn may_push(&self, claimant: &Standing, victim: &Standing) -> bool {
        if claimant.priority != victim.priority {
            return claimant.priority > victim.priority;
        }
        if claimant.is_owed_by(victim) {
            return victim.borrows;
        }
        if claimant.guarded || victim.guarded {
            return !victim.guarded;
        }
        !victim.settles
            && victim.rank > claimant.rank * self.config.margin
            && (!claimant.looks_past || self.may_idle(claimant, victim.gpus))
    }

    /// Whether those who go for a better rank may have so many GPUs: little of the cluster is left idle by it, or less than
    /// a node.
    fn may_idle(&self, claimant: &Standing, emptied: u32) -> bool {
        let idle = emptied.saturating_sub(claimant.gpus);
        idle < self.cluster.largest_node()
            || f64::from(idle) <= f64::from(self.cluster.total_gpus()) * self.config.most_idle
    }

    /// Whoever need not go stays after all, those first by whom most would be lost: who goes from one node may free
    /// another, for which somebody else was to go.
    fn spare(&mut self, claimant: &Claimant, room: &Room) -> Room {
        let mut room = room.clone();
        let mut all = room.all();
        let pieces = all.iter().flat_map(|ix| &self.job(*ix).pieces);
        let nodes: BTreeSet<NodeIx> = pieces.map(|piece| piece.node).collect();
        // Of one node none goes in vain but whoever goes so that its project keeps to its limit.
        if all.len() < 2 || nodes.len() < 2 && self.is_within_limits(claimant) {
            return room;
        }
        all.sort_by_key(|ix| Reverse((room.price_of(*ix), *ix)));
        self.vacate(&all);
        for ix in all {
            let less = room.but(ix);
            self.come_back(&[ix]);
            if self.fits(claimant, &less) {
                room = less;
            } else {
                self.vacate(&[ix]);
            }
        }
        self.come_back(&room.all());
        room
    }

    /// Nodes as they are when these have gone.
    fn vacate(&mut self, jobs: &[JobIx]) {
        for ix in jobs {
            let pieces = self.job(*ix).pieces.clone();
            self.cluster.give(*ix, &pieces);
        }
    }

    /// Nodes as they were.
    fn come_back(&mut self, jobs: &[JobIx]) {
        for ix in jobs {
            let pieces = self.job(*ix).pieces.clone();
            self.cluster.take(*ix, &pieces);
        }
    }

    /// Whether the claimant and all who move have a place as nodes are now.
    fn fits(&mut self, claimant: &Claimant, room: &Room) -> bool {
        let Some((pieces, places)) = self.resettle(claimant, room) else {
            return false;
        };
        for (ix, place) in &places {
            self.cluster.give(*ix, place);
        }
        self.cluster.give(claimant.job, &pieces);
        true
    }

    /// Clears the room if the claimant then fits, those who move have a place, and more is won than lost.
    fn clear(
        &mut self,
        claimant: &Claimant,
        room: &Room,
        standings: &mut Standings,
        plan: &mut Plan,
    ) -> bool {
        // All whom the cheapest nodes would cost count here, though some of them stay: gangs as wide as the pool, which that
        // makes dear, would else push one another out again and again.
        if room.moved.len() > claimant.moves || !self.pays(claimant, room) {
            return false;
        }
        let room = self.spare(claimant, room);
        let leaving = room.all();
        self.vacate(&leaving);
        let Some((pieces, places)) = self.resettle(claimant, &room) else {
            self.come_back(&leaving);
            return false;
        };
        self.promise(claimant.now, claimant.job, pieces, &leaving);
        for ix in leaving {
            let place = places.iter().find(|(job, _)| *job == ix);
            let place = place.map(|(_, pieces)| pieces.clone());
            // As it was before anything is given back, or charged to whom it is for.
            let standing = room.out.get(&ix).or_else(|| room.moved.get(&ix));
            let owed = |victim: &Standing| victim.borrows && claimant.standing.is_owed_by(victim);
            let borrowed = standing.is_some_and(owed);
            self.send_off(claimant, (ix, borrowed), place, plan);
            standings.set(ix, None);
        }
        self.lanes.reopen();
        true
    }

    /// Whether more is won than lost, and little is left idle.
    fn pays(&self, claimant: &Claimant, room: &Room) -> bool {
        // Whoever has waited for so long has its turn, by whatever that costs.
        if claimant.standing.guarded {
            return true;
        }
        // Whoever goes for a higher priority, or gives back what it has borrowed, goes whatever is left over.
        let by_right = |victim: &Standing| {
            claimant.standing.priority > victim.priority || claimant.standing.is_owed_by(victim)
        };
        let by_rank = room.out.iter().filter(|(_, victim)| !by_right(victim));
        let (mut lost, mut emptied) = (0.0, 0);
        for (_, victim) in by_rank {
            lost += victim.rate;
            emptied += victim.gpus;
        }
        lost * self.config.margin <= claimant.standing.rate
            && self.may_idle(&claimant.standing, emptied)
    }

    /// Takes nodes for the claimant and for all who move; nothing when one of them has none.
    #[expect(clippy::type_complexity, reason = "said once, read once")]
    fn resettle(
        &mut self,
        claimant: &Claimant,
        room: &Room,
    ) -> Option<(Vec<Piece>, Vec<(JobIx, Vec<Piece>)>)> {
        let find = |this: &Self, ix: JobIx, bound: bool| {
            let within = this.bounds(claimant.now, ix, bound);
            this.lanes.shapes[this.job(ix).shape].find_but(&this.cluster, within)
        };
        let ix = claimant.job;
        let pieces = find(self, ix, claimant.bound);
        let pieces = pieces.filter(|pieces| self.may_hold_after(ix, pieces, room))?;
        self.cluster.take(ix, &pieces);
        let mut places: Vec<(JobIx, Vec<Piece>)> = Vec::new();
        let movers = room.moved.iter();
        let mut movers: Vec<(JobIx, bool)> = movers
            .map(|(ix, standing)| (*ix, standing.borrows))
            .collect();
        movers.sort_by_key(|(ix, _)| (Reverse(self.job(*ix).gpus), *ix));
        for (ix, borrows) in movers {
            let bound = claimant.bound || self.kept.keeps_out(claimant.job, borrows);
            let Some(place) = find(self, ix, bound) else {
                for (ix, place) in &places {
                    self.cluster.give(*ix, place);
                }
                self.cluster.give(claimant.job, &pieces);
                return None;
            };
            self.cluster.take(ix, &place);
            places.push((ix, place));
        }
        Some((pieces, places))
    }

    /// A job's nodes are chosen; it starts when all of these are gone.
    fn promise(&mut self, now: Seconds, ix: JobIx, pieces: Vec<Piece>, leaving: &[JobIx]) {
        self.keep_no_more(ix);
        self.job_mut(ix).pieces = pieces;
        self.unqueue(now, ix);
        self.counts_as_used(now, ix, false);
        let job = self.job_mut(ix);
        job.state = State::Promised;
        job.since = now;
        job.awaits = leaving.to_vec();
        for other in leaving {
            self.awaited.entry(*other).or_default().push(ix);
        }
        self.settle(ix);
    }

    /// Tells a running job to go, to a place of its own or back to its lane.
    fn send_off(
        &mut self,
        claimant: &Claimant,
        (ix, borrowed): (JobIx, bool),
        place: Option<Vec<Piece>>,
        plan: &mut Plan,
    ) {
        let for_job = self.job(claimant.job).id;
        self.running.remove(&ix);
        let job = self.job_mut(ix);
        job.state = State::Leaving;
        let moves = place.is_some();
        job.pieces = place.unwrap_or_default();
        plan.preempts.push(Preempt {
            job: job.id,
            for_job,
            borrowed,
            moves,
        });
        if !moves {
            self.gives_up(ix);
        }
    }
}
