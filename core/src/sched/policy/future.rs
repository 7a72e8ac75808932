//! Nodes as they will be: who ends when, which of them are out of service then, and who has started since.
//!
//! Whoever starts there keeps the rules: projects have no more than they may, what is kept for one is kept from others, and
//! in strict order nobody goes before one who does not fit. Looks only, on a copy. Called by `forecast`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cluster::{Cluster, JobIx, NodeIx, Piece},
    config::{Rule, Seconds},
    dense::Bits,
    job::State,
    lanes::ShapeIx,
    place::Shape,
    projects::Limits,
    scheduler::Scheduler,
};

/// A node is out of service for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Which.
    pub node: NodeIx,
    /// Whoever holds something there goes then.
    pub from: Seconds,
    /// It takes jobs again.
    pub until: Seconds,
}

impl Outage {
    /// Those that overlap or follow without a gap as one: what opens a node that another keeps closed opens nothing.
    #[must_use]
    pub fn joined(mut rows: Vec<Self>) -> Vec<Self> {
        rows.sort_unstable_by_key(|row| (row.node, row.from, row.until));
        let mut joined: Vec<Self> = Vec::with_capacity(rows.len());
        for row in rows {
            match joined.last_mut() {
                Some(last) if last.node == row.node && row.from <= last.until => {
                    last.until = last.until.max(row.until);
                }
                Some(_) | None => joined.push(row),
            }
        }
        joined
    }
}

/// All of them, as one job meets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outages {
    /// In any order; of one node they neither overlap nor touch.
    pub rows: Vec<Outage>,
    /// So long the job has to have of a node.
    pub span: Seconds,
    /// The nodes that it shuns for other reasons.
    pub shuns: BTreeSet<NodeIx>,
}

/// Nodes that are kept for the first of those who wait, until it has started.
struct Promise {
    first: JobIx,
    /// Who may not delay it.
    bound: BTreeSet<JobIx>,
    /// Nobody knows when they are free.
    open: bool,
}

/// Whether there is room for one who waits.
enum Found {
    At(Vec<Piece>),
    No,
    /// And none behind it is looked at.
    Blocks,
}

/// What is to come.
pub(super) struct Future<'a> {
    scheduler: &'a Scheduler,
    /// Who is asked about.
    me: Option<JobIx>,
    /// As far as it has been followed.
    pub(super) then: Seconds,
    cluster: Cluster,
    held: BTreeMap<JobIx, Vec<Piece>>,
    ends: BTreeSet<(Seconds, JobIx)>,
    outages: &'a Outages,
    /// When nodes close or open, the next one last.
    changes: Vec<(Seconds, NodeIx, bool)>,
    /// What is asked, where nodes change; else it is as in the lanes.
    shapes: BTreeMap<ShapeIx, Shape>,
    /// What the one asks for that is asked about.
    mine: Option<Shape>,
    limits: Limits,
    promise: Option<Promise>,
    /// Whether what is asked fits not even on empty nodes, as far as that was looked at and nodes have not changed since.
    shut_out: BTreeMap<ShapeIx, bool>,
}

impl<'a> Future<'a> {
    /// The last of those who wait is the one that is asked about.
    pub(super) fn new(
        scheduler: &'a Scheduler,
        now: Seconds,
        waiting: &[JobIx],
        outages: &'a Outages,
    ) -> Self {
        let rows = outages.rows.iter();
        let both = rows.flat_map(|row| [(row.from, row.node, false), (row.until, row.node, true)]);
        let mut changes: Vec<(Seconds, NodeIx, bool)> = both.collect();
        changes.sort_unstable_by(|a, b| b.cmp(a));
        let asked = waiting.iter().map(|ix| scheduler.job(*ix).shape);
        let asked = asked.filter(|_| !changes.is_empty());
        let shapes = asked.map(|ix| (ix, scheduler.lanes.shapes[ix].clone()));
        let shapes: BTreeMap<ShapeIx, Shape> = shapes.collect();
        let me = waiting.last().copied();
        let my_shape = me.map(|me| scheduler.job(me).shape);
        let mine = my_shape.and_then(|me| shapes.get(&me)).map(|shape| {
            let mut ask = shape.ask.clone();
            ask.avoid.clone_from(&outages.shuns);
            Shape::new(&scheduler.cluster, ask)
        });
        let mut future = Self {
            scheduler,
            me,
            then: now,
            cluster: scheduler.cluster.clone(),
            held: BTreeMap::new(),
            ends: BTreeSet::new(),
            outages,
            shapes,
            mine,
            changes,
            limits: scheduler.projects.limits(scheduler.config.half_life),
            promise: Promise::of(scheduler, waiting),
            shut_out: BTreeMap::new(),
        };
        future.begin();
        future
    }

    /// Those who have something now.
    fn begin(&mut self) {
        let (scheduler, now) = (self.scheduler, self.then);
        for ix in &scheduler.running {
            self.held.insert(*ix, scheduler.job(*ix).pieces.clone());
            let left = scheduler.likely_left(now, *ix);
            self.ends.insert((now + left, *ix));
        }
        self.begin_promised();
        if self.limits.is_empty() {
            return;
        }
        let jobs = scheduler.jobs.iter();
        let charged = jobs.filter_map(|(ix, job)| Some((ix, job.as_ref()?)));
        for (ix, job) in charged.filter(|(_, job)| job.charged.is_some()) {
            self.limits.counts(ix, job);
            // What it held is another's already, but its project is charged until it has gone.
            if job.state == State::Leaving && job.pieces.is_empty() {
                self.ends.insert((now + scheduler.config.restart_cost, ix));
            }
        }
    }

    /// Those whose nodes are chosen start when these have been left.
    fn begin_promised(&mut self) {
        let (scheduler, now) = (self.scheduler, self.then);
        let nodes = scheduler.cluster.keys();
        let holders = nodes.flat_map(|node| scheduler.cluster.holders(node));
        for ix in holders {
            let job = scheduler.job(*ix);
            if !job.pieces.is_empty() && !self.held.contains_key(ix) {
                self.held.insert(*ix, job.pieces.clone());
                let lasts = scheduler.config.restart_cost + scheduler.likely_left(now, *ix);
                self.ends.insert((now + lasts, *ix));
            }
        }
    }

    /// Whether nobody knows when the one starts who is asked about.
    pub(super) fn is_open(&self) -> bool {
        let promise = self.promise.as_ref();
        promise.is_some_and(|promise| promise.open && self.me == Some(promise.first))
    }

    /// Those who wait start as far as there is room, in their order; whether the one does who is asked about. Whoever does not
    /// waits still.
    pub(super) fn let_in(&mut self, waiting: &mut Vec<JobIx>) -> bool {
        let mut full: BTreeSet<(ShapeIx, bool)> = BTreeSet::new();
        let mut all = std::mem::take(waiting).into_iter();
        while let Some(ix) = all.next() {
            match self.room(ix, &mut full) {
                Found::At(_) if self.me == Some(ix) => return true,
                Found::At(pieces) => self.start(ix, pieces),
                Found::No => waiting.push(ix),
                Found::Blocks => {
                    waiting.push(ix);
                    waiting.extend(all);
                    return false;
                }
            }
        }
        false
    }

    /// Room for one of those who wait, of what its project may have and what is not kept from it. `full` are those of whose
    /// like none fits, anywhere or beside what is kept.
    fn room(&mut self, ix: JobIx, full: &mut BTreeSet<(ShapeIx, bool)>) -> Found {
        let job = self.scheduler.job(ix);
        let (shape, project) = (job.shape, job.project);
        let least = self.scheduler.least(job);
        if !self.limits.may_start(self.then, project, least) {
            return Found::No;
        }
        let me = self.me == Some(ix);
        let within = self.beside(ix);
        let known = full.contains(&(shape, false)) || full.contains(&(shape, within.is_some()));
        // What the one needs that is asked about may differ from what others of its shape do.
        let found = match known && !(me && self.mine.is_some()) {
            true => None,
            false => self.find(shape, me, within),
        };
        let Some(pieces) = found else {
            full.insert((shape, within.is_some()));
            let strict = self.scheduler.config.rule == Rule::Fifo;
            let blocks = strict && !self.is_shut_out(shape);
            return if blocks { Found::Blocks } else { Found::No };
        };
        let gpus = pieces.iter().map(|piece| piece.gpus).sum();
        match self.limits.may_start(self.then, project, gpus) {
            true => Found::At(pieces),
            false => Found::No,
        }
    }

    /// The nodes on which one may start that would delay the one for whom others are kept.
    fn beside(&self, ix: JobIx) -> Option<&'a Bits> {
        let promise = self.promise.as_ref()?;
        let bound = promise.bound.contains(&ix);
        let kept = Some(&self.scheduler.kept).filter(|_| bound)?;
        kept.within(|| self.scheduler.expected_end(self.then, ix))
    }

    /// Nodes for a job of this shape; for the one that is asked about those that stay for as long as it needs them.
    pub(super) fn find(
        &self,
        shape: ShapeIx,
        me: bool,
        within: Option<&Bits>,
    ) -> Option<Vec<Piece>> {
        let Some(shape) = self.mine.as_ref().filter(|_| me) else {
            return self.shape(shape).find_but(&self.cluster, within);
        };
        let end = self.then.saturating_add(self.outages.span);
        let mut stay = Bits::default();
        for node in self.cluster.keys() {
            stay.set(node, within.is_none_or(|within| within.has(node)));
        }
        let rows = self.outages.rows.iter();
        for row in rows.filter(|row| row.from < end && row.until > self.then) {
            stay.set(row.node, false);
        }
        shape.find_but(&self.cluster, Some(&stay))
    }

    fn shape(&self, ix: ShapeIx) -> &Shape {
        let known = self.shapes.get(&ix);
        known.unwrap_or(&self.scheduler.lanes.shapes[ix])
    }

    /// Whether nodes as they are then could not even hold such a job if nobody were there.
    fn is_shut_out(&mut self, shape: ShapeIx) -> bool {
        if let Some(known) = self.shut_out.get(&shape) {
            return *known;
        }
        let shut = match self.shapes.get(&shape) {
            Some(shape) => {
                let empty = self.cluster.emptied();
                Shape::new(&empty, shape.ask.clone()).find(&empty).is_none()
            }
            None => self.scheduler.is_shut_out(shape),
        };
        self.shut_out.insert(shape, shut);
        shut
    }

    /// A job starts, and lasts as those like it do.
    fn start(&mut self, ix: JobIx, pieces: Vec<Piece>) {
        let lasts = self.scheduler.likely_left(self.then, ix);
        let project = self.scheduler.job(ix).project;
        let gpus = pieces.iter().map(|piece| piece.gpus).sum();
        self.limits.start(self.then, (ix, project), gpus);
        self.cluster.take(ix, &pieces);
        self.held.insert(ix, pieces);
        self.ends.insert((self.then + lasts, ix));
        self.keep_no_more(ix);
    }

    /// One has started for whom nodes were kept: they are anybody's, but for the one that is asked about where nobody knows
    /// when that is.
    fn keep_no_more(&mut self, ix: JobIx) {
        let Some(promise) = self.promise.take_if(|promise| promise.first == ix) else {
            return;
        };
        let me = self.me.filter(|me| promise.bound.contains(me));
        self.promise = me.filter(|_| promise.open).map(|me| Promise {
            bound: [me].into(),
            ..promise
        });
    }

    /// To the next moment at which something ends or changes; nothing if there is none.
    pub(super) fn go_on(&mut self) -> Option<()> {
        let end = self.ends.first().map_or(Seconds::MAX, |(end, _)| *end);
        let renewal = self.limits.renewal(self.then);
        let change = self.changes.last().map_or(end, |(then, ..)| end.min(*then));
        if let Some(renewal) = renewal.filter(|renewal| *renewal < change) {
            self.then = renewal;
            return Some(());
        }
        match self
            .changes
            .last()
            .copied()
            .filter(|(then, ..)| *then <= end)
        {
            Some((then, node, opens)) => {
                self.changes.pop();
                self.then = self.then.max(then);
                self.change(node, opens);
            }
            None => {
                let (end, ix) = self.ends.pop_first()?;
                self.then = end;
                self.leave(ix);
            }
        }
        Some(())
    }

    fn leave(&mut self, ix: JobIx) {
        self.limits.end(self.then, ix);
        if let Some(pieces) = self.held.remove(&ix) {
            self.cluster.give(ix, &pieces);
        }
    }

    fn change(&mut self, node: NodeIx, opens: bool) {
        for ix in self.cluster.holders(node).to_vec() {
            self.ends.retain(|(_, other)| *other != ix);
            self.leave(ix);
        }
        let mut offer = self.cluster.nodes[node].offer.as_ref().clone();
        offer.open = opens;
        self.cluster.change(node, offer, &[]);
        self.shut_out.clear();
        // It was shunned since it would close.
        let stays = opens && !self.changes.iter().any(|(_, other, _)| *other == node);
        for shape in self.shapes.values_mut() {
            if stays {
                shape.ask.avoid.remove(&node);
            }
            shape.refresh(&self.cluster);
        }
        if let Some(mine) = &mut self.mine {
            mine.refresh(&self.cluster);
        }
    }
}

impl Promise {
    /// What the last pass kept, if that binds any of these.
    fn of(scheduler: &Scheduler, waiting: &[JobIx]) -> Option<Self> {
        let reservation = scheduler.kept()?;
        let first = scheduler.kept.first?.job;
        let bound = waiting.iter().copied().filter(|ix| {
            let head = scheduler.head_of(*ix);
            head.is_some_and(|head| scheduler.kept.binds(&head))
        });
        Some(Self {
            first,
            bound: bound.collect(),
            open: reservation.known().is_none() && !scheduler.goes_by_limits(),
        })
    }
}
