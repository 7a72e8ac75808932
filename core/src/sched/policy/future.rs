//! Nodes as they will be: who ends when, which of them are out of service then, and who has started since.
//!
//! Looks only, on a copy. Called by `forecast`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cluster::{Cluster, JobIx, NodeIx, Piece},
    config::Seconds,
    dense::Bits,
    lanes::ShapeIx,
    place::Shape,
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

/// What is to come.
pub(super) struct Future<'a> {
    scheduler: &'a Scheduler,
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
}

impl<'a> Future<'a> {
    /// The last of those who wait is the one that is asked about.
    pub(super) fn new(
        scheduler: &'a Scheduler,
        now: Seconds,
        waiting: &[JobIx],
        outages: &'a Outages,
    ) -> Self {
        let mut held = BTreeMap::new();
        let mut ends = BTreeSet::new();
        for ix in &scheduler.running {
            held.insert(*ix, scheduler.job(*ix).pieces.clone());
            ends.insert((now + scheduler.likely_left(now, *ix), *ix));
        }
        let rows = outages.rows.iter();
        let both = rows.flat_map(|row| [(row.from, row.node, false), (row.until, row.node, true)]);
        let mut changes: Vec<(Seconds, NodeIx, bool)> = both.collect();
        changes.sort_unstable_by(|a, b| b.cmp(a));
        let asked = waiting.iter().map(|ix| scheduler.job(*ix).shape);
        let asked = asked.filter(|_| !changes.is_empty());
        let shapes = asked.map(|ix| (ix, scheduler.lanes.shapes[ix].clone()));
        let shapes: BTreeMap<ShapeIx, Shape> = shapes.collect();
        let me = waiting.last().map(|ix| scheduler.job(*ix).shape);
        let mine = me.and_then(|me| shapes.get(&me)).map(|shape| {
            let mut ask = shape.ask.clone();
            ask.avoid.clone_from(&outages.shuns);
            Shape::new(&scheduler.cluster, ask)
        });
        Self {
            scheduler,
            then: now,
            cluster: scheduler.cluster.clone(),
            held,
            ends,
            outages,
            shapes,
            mine,
            changes,
        }
    }

    /// Nodes for a job of this shape; for the one that is asked about those that stay for as long as it needs them.
    pub(super) fn find(&self, shape: ShapeIx, me: bool) -> Option<Vec<Piece>> {
        let Some(shape) = self.mine.as_ref().filter(|_| me) else {
            let known = self.shapes.get(&shape);
            let shape = known.unwrap_or(&self.scheduler.lanes.shapes[shape]);
            return shape.find(&self.cluster);
        };
        let end = self.then + self.outages.span;
        let mut stay = Bits::default();
        for node in self.cluster.keys() {
            stay.set(node, true);
        }
        let rows = self.outages.rows.iter();
        for row in rows.filter(|row| row.from < end && row.until > self.then) {
            stay.set(row.node, false);
        }
        shape.find_but(&self.cluster, Some(&stay))
    }

    /// Whether what the one needs that is asked about differs from what others of its shape do.
    pub(super) fn knows_me(&self) -> bool {
        self.mine.is_some()
    }

    /// A job starts, and lasts for so long.
    pub(super) fn start(&mut self, ix: JobIx, pieces: Vec<Piece>, lasts: Seconds) {
        self.cluster.take(ix, &pieces);
        self.held.insert(ix, pieces);
        self.ends.insert((self.then + lasts, ix));
    }

    /// To the next moment at which something ends or changes; nothing if there is none.
    pub(super) fn go_on(&mut self) -> Option<()> {
        let end = self.ends.first().map_or(Seconds::MAX, |(end, _)| *end);
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
