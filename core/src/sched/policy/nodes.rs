//! What happens to nodes, and to those who hold something there.
//!
//! Owns that what the policy believes of a node is what its caller says. Never places: `pass` does.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ask::Ask,
    cluster::{GpuClass, JobIx, Node, NodeIx, NodeOffer, Piece, Slot},
    config::Seconds,
    job::{State, Submission},
    scheduler::Scheduler,
};

/// A job that holds something already when the policy first hears of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The job.
    pub asked: Submission,
    /// What it holds.
    pub pieces: Vec<Piece>,
    /// How many GPUs it was given: its project is charged for those, too, that its nodes do not show any more.
    pub given: u32,
    /// Since when it has its place.
    pub placed: Seconds,
    /// Since when it runs there; nothing of one that is still being prepared.
    pub since: Option<Seconds>,
    /// It was told to go: nobody waits for it here, and what it holds counts as free.
    pub leaving: bool,
}

impl Scheduler {
    /// Adds a node.
    pub fn add_node(&mut self, offer: NodeOffer) -> NodeIx {
        self.cluster.add(offer)
    }

    /// Opens or closes a node, or changes what it offers. `held` is what jobs that run hold there, whatever was believed;
    /// promises of nodes that are closed now, offer other GPUs, or are not as labelled or as large as was asked, are taken
    /// back.
    pub fn change_node(
        &mut self,
        now: Seconds,
        node: NodeIx,
        offer: NodeOffer,
        held: &[(u64, Vec<Piece>)],
    ) {
        let holders: BTreeSet<JobIx> = self.cluster.holders(node).iter().copied().collect();
        let mut rows: Vec<(JobIx, Vec<Piece>)> = Vec::new();
        let mut given: BTreeMap<JobIx, u32> = BTreeMap::new();
        for ix in holders.iter().copied() {
            match self.job(ix).state {
                State::Promised | State::Leaving if self.stays_good(ix, (node, &offer)) => {
                    let pieces = self.job(ix).pieces.iter();
                    let here = pieces.filter(|piece| piece.node == node).copied();
                    rows.push((ix, here.collect()));
                }
                State::Promised | State::Leaving => self.revoke(now, ix),
                State::Running | State::Later | State::Waiting(_) => {
                    let pieces = self.job(ix).pieces.iter();
                    let here = pieces.filter(|piece| piece.node == node);
                    given.insert(ix, here.map(|piece| piece.gpus).sum());
                    self.job_mut(ix).pieces.retain(|piece| piece.node != node);
                }
            }
        }
        for (number, pieces) in held {
            let known = self.number(*number);
            let Some(ix) = known.filter(|ix| self.job(*ix).state == State::Running) else {
                continue;
            };
            self.job_mut(ix).pieces.extend(pieces);
            // What a node lacks of it may come back: it is not given.
            given.remove(&ix);
            rows.push((ix, pieces.clone()));
        }
        let touched: BTreeSet<JobIx> = holders
            .iter()
            .copied()
            .chain(rows.iter().map(|(ix, _)| *ix))
            .collect();
        for ix in touched {
            let job = self.job_mut(ix);
            if job.state != State::Running {
                continue;
            }
            let has: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
            job.partial = has < job.gpus;
            self.recharge(now, ix, given.get(&ix).copied().unwrap_or(0));
        }
        self.cluster.change(node, offer, &rows);
    }

    /// Whether a place that is chosen and not taken yet is one still if that node offers this from now on.
    fn stays_good(&self, ix: JobIx, (node, offer): (NodeIx, &NodeOffer)) -> bool {
        let (job, before) = (self.job(ix), &self.cluster.nodes[node].offer);
        let ask = &self.lanes.shapes[job.shape].ask;
        // Of who is alone, others would fit into what has been added.
        let grown = (before.cpus, before.memory_bytes) != (offer.cpus, offer.memory_bytes);
        let same = offer.open && before.gpus == offer.gpus && !(ask.exclusive && grown);
        let nodes: BTreeSet<NodeIx> = job.pieces.iter().map(|piece| piece.node).collect();
        let offers = nodes.iter().filter_map(|ix| match *ix == node {
            true => Some(offer),
            false => self.offer(*ix),
        });
        let offers: Vec<&NodeOffer> = offers.collect();
        same && ask.admits_all(&offers)
    }

    /// The same of a job by its caller's number.
    #[must_use]
    pub fn place_stays_good(&self, number: u64, node: NodeIx, offer: &NodeOffer) -> bool {
        let ix = self.number(number);
        ix.is_some_and(|ix| self.stays_good(ix, (node, offer)))
    }

    /// Whether a job may lie on the nodes of these pieces as they are.
    pub(super) fn suits(&self, ix: JobIx, pieces: &[Piece]) -> bool {
        let nodes: BTreeSet<NodeIx> = pieces.iter().map(|piece| piece.node).collect();
        let offers: Vec<&NodeOffer> = nodes.iter().filter_map(|ix| self.offer(*ix)).collect();
        self.lanes.shapes[self.job(ix).shape]
            .ask
            .admits_all(&offers)
    }

    /// A job that held something before the policy knew of it.
    pub fn adopt(&mut self, now: Seconds, holding: &Holding) {
        if self.number(holding.asked.job).is_some() {
            return;
        }
        let ix = self.note(now, &holding.asked);
        let job = self.job_mut(ix);
        job.runs += 1;
        job.since = holding.since.unwrap_or(holding.placed).min(now);
        job.starts_in = (job.since - holding.placed).max(0);
        job.prepares = holding.since.is_none();
        job.pieces.clone_from(&holding.pieces);
        if holding.leaving {
            job.state = State::Leaving;
            self.charge_at_least(now, ix, holding.given);
            self.gives_up(ix);
            self.job_mut(ix).pieces.clear();
            return;
        }
        job.state = State::Running;
        let has: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
        job.partial = has < job.gpus;
        self.cluster.take(ix, &holding.pieces);
        self.charge_at_least(now, ix, holding.given);
        self.running.insert(ix);
    }

    /// A job that was started has its place, and does not run yet: how long it was left alone is counted from when it does.
    pub fn prepares(&mut self, now: Seconds, number: u64) {
        if let Some(ix) = self.number(number) {
            let job = self.job_mut(ix);
            job.prepares = true;
            job.since = now;
            self.counts_as_used(now, ix, true);
        }
    }

    /// The place of a job that was started is not free yet: its project is charged, but has not used anything.
    pub fn is_not_free_yet(&mut self, now: Seconds, number: u64) {
        if let Some(ix) = self.number(number) {
            self.counts_as_used(now, ix, false);
        }
    }

    /// Whether it has shown a checkpoint.
    pub fn saved(&mut self, number: u64, saved: bool) {
        if let Some(ix) = self.number(number) {
            self.job_mut(ix).saved = saved;
        }
    }

    /// It runs, since then.
    pub fn began(&mut self, now: Seconds, number: u64, since: Seconds) {
        let Some(ix) = self.number(number) else {
            return;
        };
        let job = self.job_mut(ix);
        if job.prepares {
            job.prepares = false;
            let since = since.min(now);
            // A moment that its agent has told may lie before its place, by a clock that is set.
            job.starts_in = (since - job.since).max(0);
            job.since = since;
        }
    }

    /// What a node offers.
    #[must_use]
    pub fn offer(&self, node: NodeIx) -> Option<&NodeOffer> {
        self.cluster.nodes.get(node).map(|node| node.offer.as_ref())
    }

    /// Bytes of memory of a node that nobody holds and nobody is promised.
    #[must_use]
    pub fn free_memory(&self, node: NodeIx) -> u64 {
        let node = self.cluster.nodes.get(node);
        node.map_or(0, Node::memory_bytes)
    }

    /// What of a node nobody holds and nobody is promised: CPU slots, bytes of memory, and GPUs by class.
    #[must_use]
    pub fn left_on(&self, node: NodeIx) -> Option<(u32, u64, BTreeMap<GpuClass, u32>)> {
        let node = self.cluster.nodes.get(node)?;
        let classes = node.offer.gpus.keys().cloned();
        let gpus = classes.zip(node.slots.iter().map(Slot::free)).collect();
        Some((node.cpus(), node.memory_bytes(), gpus))
    }

    /// Who holds something of a node or is promised it, but for those who leave it.
    #[must_use]
    pub fn holders(&self, node: NodeIx) -> Vec<u64> {
        let holders = self.cluster.holders(node).iter();
        holders.map(|ix| self.job(*ix).id).collect()
    }

    /// Whether a job runs, or leaves what it held.
    #[must_use]
    pub fn holds(&self, number: u64) -> bool {
        let state = self.number(number).map(|ix| &self.job(ix).state);
        matches!(state, Some(State::Running | State::Leaving))
    }

    /// Whether a job was told to go and has not gone yet, and asks for this.
    #[must_use]
    pub fn leaves_for(&self, number: u64, ask: &Ask) -> bool {
        let ix = self.number(number);
        ix.is_some_and(|ix| {
            let job = self.job(ix);
            job.state == State::Leaving && self.lanes.shapes[job.shape].ask == *ask
        })
    }

    /// Whether a job waits and nothing is chosen for it.
    #[must_use]
    pub fn waits(&self, number: u64) -> bool {
        let state = self.number(number).map(|ix| &self.job(ix).state);
        matches!(state, Some(State::Waiting(_) | State::Later))
    }

    /// What a job asks for.
    #[must_use]
    pub fn asks(&self, number: u64) -> Option<&Ask> {
        let job = self.job(self.number(number)?);
        Some(&self.lanes.shapes[job.shape].ask)
    }

    /// The nodes that are cleared for a job.
    #[must_use]
    pub fn promised(&self, number: u64) -> Option<BTreeSet<NodeIx>> {
        let job = self.number(number).map(|ix| self.job(ix))?;
        let pieces = job.pieces.iter().map(|piece| piece.node);
        (job.state == State::Promised).then(|| pieces.collect())
    }

    /// For whom a job waits that has its nodes: those who are there still, and those of its project who have to go first.
    #[must_use]
    pub fn awaits(&self, number: u64) -> Vec<u64> {
        let job = self.number(number).map(|ix| self.job(ix));
        let awaits = job.iter().flat_map(|job| &job.awaits);
        awaits.map(|ix| self.job(*ix).id).collect()
    }

    /// It is known only now since when a job could have had nodes.
    pub fn waits_since(&mut self, now: Seconds, number: u64, since: Seconds) {
        let Some(ix) = self.number(number) else {
            return;
        };
        let (state, lane) = (self.job(ix).state.clone(), self.job(ix).lane);
        match state {
            // That is when its time comes.
            State::Later => {}
            State::Waiting(turn) => {
                self.dequeue(ix, lane, &turn);
                self.job_mut(ix).submitted = since.min(now);
                self.enqueue(now, ix);
            }
            State::Promised | State::Running | State::Leaving => {
                self.job_mut(ix).submitted = since.min(now);
            }
        }
    }

    /// Rounds of preemption begin one round from now: what is known at a start is not all yet.
    pub fn hold_off(&mut self, now: Seconds) {
        self.last_round = Some(now);
        self.last_try = Some(now);
    }

    /// The place that was promised to a job is not to be had any more. One that still leaves another has that until it has
    /// gone.
    fn revoke(&mut self, now: Seconds, ix: JobIx) {
        if self.job(ix).state != State::Promised {
            self.free(ix);
            self.gives_up(ix);
            return;
        }
        self.give_back(now, ix);
        self.ready.remove(&ix);
        for waiting in self.awaited.values_mut() {
            waiting.retain(|job| *job != ix);
        }
        let job = self.job_mut(ix);
        job.awaits.clear();
        let project = job.project;
        self.projects.queue(project, true);
        self.enqueue(now, ix);
    }
}
