//! What must hold after every pass, whatever was decided. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ask::{Ask, Gang, in_one_fabric},
    cluster::{JobIx, NodeIx, Piece},
    job::{Job, State},
    plan::{Because, Plan, Preempt, Start},
    projects::{Part, ProjectIx},
    scheduler::Scheduler,
};

/// What jobs hold of a node.
#[derive(Clone, Debug, Default)]
struct Held {
    slots: BTreeMap<u8, u32>,
    cpus: u64,
    bytes: u64,
}

impl Held {
    fn add(&mut self, piece: &Piece) {
        let gpus = self.slots.entry(piece.slot).or_default();
        *gpus = gpus.saturating_add(piece.gpus);
        self.cpus = self.cpus.saturating_add(piece.cpus.into());
        self.bytes = self.bytes.saturating_add(piece.memory_bytes);
    }

    fn gpus(&self) -> u32 {
        self.slots.values().sum()
    }
}

fn by_node<'a>(pieces: impl Iterator<Item = &'a Piece>) -> BTreeMap<NodeIx, Held> {
    let mut held: BTreeMap<NodeIx, Held> = BTreeMap::new();
    for piece in pieces {
        held.entry(piece.node).or_default().add(piece);
    }
    held
}

impl Scheduler {
    /// The first post-condition that does not hold, in words that begin with the invariant's name where it is one. In a
    /// build for tests all is counted anew; else what the plan names is.
    pub(super) fn broken(&self, plan: &Plan) -> Option<String> {
        let starts: BTreeSet<u64> = plan.starts.iter().map(|start| start.job).collect();
        if starts.len() != plan.starts.len() {
            return Some("a job starts twice".into());
        }
        if let Some(both) = plan.preempts.iter().find(|gone| starts.contains(&gone.job)) {
            return Some(format!("job {} starts and goes in one plan", both.job));
        }
        let not_whole = plan.starts.iter().find_map(|start| self.not_whole(start));
        let not_whole = not_whole
            .or_else(|| plan.starts.iter().find_map(|start| self.not_there(start)))
            .or_else(|| plan.starts.iter().find_map(|start| self.not_allowed(start)))
            .or_else(|| plan.preempts.iter().find_map(|gone| self.not_to_go(gone)))
            .or_else(|| self.overdrawn(plan));
        // It looks at all jobs that are known.
        not_whole.or_else(|| cfg!(debug_assertions).then(|| self.torn()).flatten())
    }

    fn known(&self) -> impl Iterator<Item = (JobIx, &Job)> {
        let jobs = self.jobs.iter();
        jobs.filter_map(|(ix, job)| Some((ix, job.as_ref()?)))
    }

    /// A job that starts with less than it asks for, or on other than as many nodes.
    fn not_whole(&self, start: &Start) -> Option<String> {
        let job = self.number(start.job).map(|ix| self.job(ix))?;
        let ask = &self.lanes.shapes[job.shape].ask;
        let nodes = by_node(start.pieces.iter());
        let enough = |gpus: u32, asked: u32| gpus == asked || ask.exclusive && gpus > asked;
        let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let gpus = match ask.gang {
            Gang::Packed { gpus } => enough(nodes.values().map(Held::gpus).sum(), gpus),
            Gang::Each { nodes: asked, gpus } => {
                count == asked && nodes.values().all(|held| enough(held.gpus(), gpus))
            }
        };
        let others = |held: &Held| held.cpus >= ask.cpus.into() && held.bytes >= ask.memory_bytes;
        if gpus && nodes.values().all(others) {
            return None;
        }
        let (job, pieces) = (start.job, &start.pieces);
        Some(format!(
            "INV-05: job {job} starts with {pieces:?} of {ask:?}"
        ))
    }

    /// A job that starts on a node where it may not be.
    fn not_there(&self, start: &Start) -> Option<String> {
        let ix = self.number(start.job)?;
        let ask = &self.lanes.shapes[self.job(ix).shape].ask;
        let nodes: BTreeSet<NodeIx> = start.pieces.iter().map(|piece| piece.node).collect();
        let several = nodes.len() > 1;
        let mut pieces = start.pieces.iter();
        let wrong = pieces.find_map(|piece| self.wrong_with(ix, ask, piece, several));
        let wrong = wrong.or_else(|| self.is_torn_apart(ask, &nodes).then_some("two fabrics"));
        let (job, pieces) = (start.job, &start.pieces);
        wrong.map(|what| format!("job {job} starts on {what}: {pieces:?} of {ask:?}"))
    }

    fn wrong_with(
        &self,
        ix: JobIx,
        ask: &Ask,
        piece: &Piece,
        several: bool,
    ) -> Option<&'static str> {
        let Some(node) = self.cluster.nodes.get(piece.node) else {
            return Some("a node that is not known");
        };
        let offer = &node.offer;
        let together = !several || ask.together.is_subset(&offer.labels);
        let class = offer.gpus.keys().nth(piece.slot.into());
        // Who is alone has the others of its nodes, too.
        let will_do =
            piece.gpus == 0 || ask.exclusive || class.is_some_and(|class| ask.gpu.accepts(class));
        let alone = !ask.exclusive || node.holders.iter().all(|holder| *holder == ix);
        let wrong = [
            (offer.open, "a closed node"),
            (!ask.avoid.contains(&piece.node), "a node that it shuns"),
            (ask.admits(offer) && together, "a node of other labels"),
            (will_do, "GPUs that will not do"),
            (alone, "a node with others"),
        ];
        let mut wrong = wrong.into_iter().filter(|(holds, _)| !holds);
        wrong.next().map(|(_, what)| what)
    }

    /// Whether nodes of one job have no value of its fabric's label in common.
    fn is_torn_apart(&self, ask: &Ask, nodes: &BTreeSet<NodeIx>) -> bool {
        let labels = || nodes.iter().map(|ix| &self.cluster.nodes[*ix].offer.labels);
        let key = ask.fabric.as_ref();
        key.is_some_and(|key| !in_one_fabric(key, labels()))
    }

    /// A job by whose start its project has more than it may.
    fn not_allowed(&self, start: &Start) -> Option<String> {
        let job = self.number(start.job).map(|ix| self.job(ix))?;
        // That was asked when others were told to go for it.
        let asked = start.because != Because::Room;
        let over = |wait: Part| self.projects.is_over(job.project, job.gpus > 0, wait);
        let over = asked && over(Part::default()) && over(self.wait_for_others(job.project));
        over.then(|| format!("job {} starts beyond what its project may have", job.id))
    }

    /// Of a project those for whom nodes are chosen that others have still: they may be instead of these.
    fn wait_for_others(&self, project: ProjectIx) -> Part {
        let waiting: BTreeSet<&JobIx> = self.awaited.values().flatten().collect();
        let jobs = waiting.into_iter();
        let jobs = jobs.filter_map(|ix| self.jobs.get(*ix)?.as_ref());
        let jobs = jobs.filter(|job| job.project == project && !job.awaits.is_empty());
        jobs.fold(Part::default(), |sum, job| {
            sum.with(job.charged.unwrap_or(0))
        })
    }

    /// A job that is told to go and may not be, or was not to go at all.
    fn not_to_go(&self, gone: &Preempt) -> Option<String> {
        let job = self.number(gone.job).map(|ix| self.job(ix));
        let may = job.is_some_and(|job| job.preemptible && job.state == State::Leaving);
        (!may).then(|| format!("job {} is told to go, and may not be", gone.job))
    }

    /// A node that gives more than it has, or thinks that it has more left than it does.
    fn overdrawn(&self, plan: &Plan) -> Option<String> {
        let named = plan.starts.iter().flat_map(|start| &start.pieces);
        let named: BTreeSet<NodeIx> = named.map(|piece| piece.node).collect();
        let looked_at = |piece: &&Piece| cfg!(debug_assertions) || named.contains(&piece.node);
        let held = if cfg!(debug_assertions) {
            by_node(self.known().flat_map(|(_, job)| &job.pieces))
        } else {
            let holders = named.iter().flat_map(|node| self.cluster.holders(*node));
            let holders: BTreeSet<&JobIx> = holders.collect();
            let jobs = holders.iter().map(|ix| self.job(**ix));
            by_node(jobs.flat_map(|job| &job.pieces).filter(looked_at))
        };
        let mut held = held.iter();
        held.find_map(|(node, held)| self.overdrawn_at(*node, held))
    }

    fn overdrawn_at(&self, ix: NodeIx, held: &Held) -> Option<String> {
        let node = self.cluster.nodes.get(ix)?;
        for (slot, gpus) in &held.slots {
            let Some(slot) = node.slots.get(usize::from(*slot)) else {
                continue;
            };
            if slot.free() + gpus != slot.total.max(*gpus) {
                let (free, total) = (slot.free(), slot.total);
                return Some(format!(
                    "INV-02: of node {ix:?} {gpus} of {total} GPUs are held, and {free} are left"
                ));
            }
        }
        let counts = [
            (
                "CPUs",
                held.cpus,
                node.cpus().into(),
                node.offer.cpus.into(),
            ),
            (
                "bytes",
                held.bytes,
                node.memory_bytes(),
                node.offer.memory_bytes,
            ),
        ];
        let mut wrong = counts
            .iter()
            .filter(|(_, held, left, total)| left.saturating_add(*held) != *total.max(held));
        wrong.next().map(|(what, held, left, total)| {
            format!("INV-02: of node {ix:?} {held} of {total} {what} are held, and {left} are left")
        })
    }

    /// A gang that has only a part of what it asks for.
    fn torn(&self) -> Option<String> {
        let mut known = self.known();
        let torn = known.find(|(_, job)| {
            let held: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
            let nothing = matches!(job.state, State::Waiting(_) | State::Later | State::Leaving);
            let alone = self.lanes.shapes[job.shape].ask.exclusive;
            let whole = held == job.gpus || alone && held > job.gpus || job.partial;
            !(whole || nothing && held == 0)
        });
        torn.map(|(_, job)| {
            let (id, pieces, gpus) = (job.id, &job.pieces, job.gpus);
            format!("INV-05: job {id} holds {pieces:?} of {gpus} GPUs")
        })
    }
}

#[cfg(test)]
impl Scheduler {
    /// What a job holds is taken once more, by a mistake.
    pub(crate) fn take_again(&mut self, number: u64) {
        let ix = self.number(number).expect("a job that is known");
        let pieces = self.job(ix).pieces.clone();
        self.cluster.take(ix, &pieces);
    }
}
