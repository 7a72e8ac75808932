//! Who waits, in lanes: jobs of one ask and one project stand behind one another, in the order of their turns.
//!
//! Owns that order. When the first of a lane does not fit, none behind it does, and a pass looks at heads of lanes only,
//! however many wait.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
};

use super::{
    ask::Ask,
    cluster::{Cluster, JobIx},
    config::Seconds,
    dense::{Table, dense},
    place::Shape,
    projects::ProjectIx,
};

dense!(
    /// Jobs of one ask.
    ShapeIx
);
dense!(
    /// Jobs of one ask and one project.
    LaneIx
);

/// Lower goes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rank(pub f64);

impl Eq for Rank {}
impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A job's place in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) priority: Reverse<u32>,
    /// It has waited as long as anybody may.
    pub(super) guarded: Reverse<bool>,
    pub(super) rank: Rank,
    pub(super) submitted: Seconds,
    /// The caller's number: the older first among equals.
    pub(super) number: u64,
    pub(super) job: JobIx,
    /// How long it lasts, where its limit says: a long queue is looked through without looking up each job.
    pub(super) lasts: Option<Seconds>,
}

/// One lane.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) shape: ShapeIx,
    pub(super) project: ProjectIx,
    pub(super) turns: BTreeSet<Turn>,
    /// Jobs that are known, whether they wait or not.
    jobs: usize,
}

/// All lanes and the shapes of asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes {
    pub(super) shapes: Table<ShapeIx, Shape>,
    /// Nothing was given back since this shape was tried in vain.
    pub(super) closed: Table<ShapeIx, bool>,
    known: BTreeMap<Ask, ShapeIx>,
    /// Whether nodes as they are could not even hold one of this shape if they were empty, as far as that was asked.
    pub(super) shut_out: BTreeMap<ShapeIx, bool>,
    /// These nodes, on which nobody is, once somebody has asked for that.
    empty: Option<Cluster>,
    pub(super) lanes: Table<LaneIx, Lane>,
    by_key: BTreeMap<(ShapeIx, ProjectIx), LaneIx>,
    pub(super) waiting: usize,
    /// Of no job any more: for the next that asks for something else.
    vacant_shapes: Vec<ShapeIx>,
    vacant_lanes: Vec<LaneIx>,
    /// The version of the cluster that shapes are of.
    seen: u64,
    /// Lanes of each shape.
    users: Table<ShapeIx, usize>,
    /// Lanes that somebody has come to since room was made last.
    pub(super) fresh: BTreeSet<LaneIx>,
}

impl Lanes {
    /// One more job in the lane of such jobs.
    pub(super) fn join(
        &mut self,
        cluster: &Cluster,
        ask: &Ask,
        project: ProjectIx,
    ) -> (ShapeIx, LaneIx) {
        let shape = self.shape(cluster, ask);
        let lane = match self.by_key.get(&(shape, project)) {
            Some(lane) => *lane,
            None => {
                let lane = self.open(shape, project);
                self.by_key.insert((shape, project), lane);
                self.users[shape] += 1;
                lane
            }
        };
        self.lanes[lane].jobs += 1;
        (shape, lane)
    }

    fn shape(&mut self, cluster: &Cluster, ask: &Ask) -> ShapeIx {
        if let Some(known) = self.known.get(ask) {
            return *known;
        }
        let new = Shape::new(cluster, ask.clone());
        let ix = match self.vacant_shapes.pop() {
            Some(ix) => {
                self.shapes[ix] = new;
                self.closed[ix] = false;
                ix
            }
            None => {
                self.closed.push(false);
                self.users.push(0);
                self.shapes.push(new)
            }
        };
        self.known.insert(ask.clone(), ix);
        ix
    }

    fn open(&mut self, shape: ShapeIx, project: ProjectIx) -> LaneIx {
        let lane = Lane {
            shape,
            project,
            turns: BTreeSet::new(),
            jobs: 0,
        };
        match self.vacant_lanes.pop() {
            Some(ix) => {
                self.lanes[ix] = lane;
                ix
            }
            None => self.lanes.push(lane),
        }
    }

    /// Whether these nodes could not even hold one of this shape if nobody were there; found out once for nodes as they are,
    /// since a head that is blocked is asked about in each pass.
    pub(super) fn shuts_out(&mut self, cluster: &Cluster, shape: ShapeIx) -> bool {
        if let Some(known) = self.shut_out.get(&shape) {
            return *known;
        }
        let ask = self.shapes[shape].ask.clone();
        let empty = self.empty.get_or_insert_with(|| cluster.emptied());
        let shut = Shape::new(empty, ask).find(empty).is_none();
        self.shut_out.insert(shape, shut);
        shut
    }

    /// One job less in a lane. A pass looks at each lane, so those of nobody are used again.
    pub(super) fn part(&mut self, lane: LaneIx) {
        let row = &mut self.lanes[lane];
        row.jobs = row.jobs.saturating_sub(1);
        if row.jobs > 0 {
            return;
        }
        let (shape, project) = (row.shape, row.project);
        self.by_key.remove(&(shape, project));
        self.vacant_lanes.push(lane);
        self.fresh.remove(&lane);
        self.users[shape] -= 1;
        if self.users[shape] == 0 {
            self.known.remove(&self.shapes[shape].ask);
            self.shut_out.remove(&shape);
            self.vacant_shapes.push(shape);
        }
    }

    pub(super) fn insert(&mut self, lane: LaneIx, turn: Turn) {
        if self.lanes[lane].turns.insert(turn) {
            self.waiting += 1;
            self.fresh.insert(lane);
        }
    }

    pub(super) fn remove(&mut self, lane: LaneIx, turn: &Turn) {
        if self.lanes[lane].turns.remove(turn) {
            self.waiting -= 1;
        }
    }

    /// Something was given back: all may be tried again.
    pub(super) fn reopen(&mut self) {
        for (_, closed) in self.closed.iter_mut() {
            *closed = false;
        }
    }

    /// Nodes may have changed: what somebody asks for is looked at anew, once for all changes since the last time.
    pub(super) fn refresh(&mut self, cluster: &Cluster) {
        if self.seen == cluster.version {
            return;
        }
        self.seen = cluster.version;
        self.shut_out.clear();
        self.empty = None;
        for (ix, shape) in self.shapes.iter_mut() {
            if self.users[ix] > 0 {
                shape.refresh(cluster);
            }
        }
        self.reopen();
    }
}
