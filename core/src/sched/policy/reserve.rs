//! Keeps nodes for a gang that does not fit yet: those that will be free first.
//!
//! Others may start beside it on other nodes, or on the same ones if they are expected to end before. For whom, and until
//! when a promise stands, says `pass` for `easy`, and `keep` for the default policy.

use super::{
    cluster::{Cluster, JobIx, NodeIx, Piece},
    config::{Rule, Seconds},
    dense::Bits,
    future::Outage,
    job::{Job, State},
    lanes::Turn,
    pass::Head,
    place::Shape,
    plan::Reservation,
    scheduler::Scheduler,
};

/// What is kept in a pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) reservation: Option<Reservation>,
    /// For whom something is kept.
    pub(super) first: Option<Head>,
    /// So many were due before it, and nothing could be promised to them.
    pub(super) tried_in_vain: usize,
    /// Only who would borrow is kept from them: for others of its project it is no more than the first.
    pub(super) from_borrowers: bool,
    /// When that was said.
    pub(super) at: Seconds,
    /// All other nodes.
    others: Bits,
}

impl Kept {
    /// Keeps these nodes, of all that there are.
    pub(super) fn keep(&mut self, cluster: &Cluster, reservation: Reservation) {
        self.others = Bits::default();
        for node in cluster.keys() {
            self.others.set(node, true);
        }
        for piece in &reservation.pieces {
            self.others.set(piece.node, false);
        }
        self.reservation = Some(reservation);
    }

    /// Where a job may start that is expected to end then; `None` is everywhere. Of whom nobody knows when it ends may be
    /// later than whatever is promised, even where nobody knows when that is.
    pub(super) fn within(&self, end: impl Fn() -> Seconds) -> Option<&Bits> {
        let reservation = self.reservation.as_ref()?;
        let end = end();
        (end >= NEVER || end > reservation.then).then_some(&self.others)
    }

    /// Whether it may keep one of this kind from its nodes.
    pub(super) fn concerns(&self, head: &Head) -> bool {
        head.borrows() || !self.from_borrowers
    }

    /// Whether it keeps one that borrows from being moved there, for whomever but the first.
    pub(super) fn keeps_out(&self, for_job: JobIx, borrows: bool) -> bool {
        let another = self.first.is_some_and(|first| first.job != for_job);
        self.from_borrowers && borrows && another
    }

    /// Whether somebody comes behind the one for whom nodes are kept, and may not delay it.
    pub(super) fn binds(&self, head: &Head) -> bool {
        let behind = |first: Head| head.job != first.job && *head > first;
        self.reservation.is_some() && self.first.is_some_and(behind) && self.concerns(head)
    }
}

impl Scheduler {
    /// When a job is expected to end if it starts now, or goes on; what its restart costs is part of it.
    pub(super) fn expected_end(&self, now: Seconds, ix: JobIx) -> Seconds {
        let job = self.job(ix);
        let cost = match job.state {
            State::Running if job.runs > 1 => self.config.restart_cost - (now - job.since),
            State::Running => 0,
            // Whoever leaves with a place of its own begins there anew.
            State::Later | State::Waiting(_) | State::Promised | State::Leaving => {
                self.config.restart_cost * i64::from(job.runs.min(1))
            }
        };
        let left = self.expected_left(now, job);
        now.saturating_add(left).saturating_add(cost.max(0))
    }

    /// When one that waits is expected to end if it starts now.
    pub(super) fn end_of(&self, now: Seconds, turn: &Turn) -> Seconds {
        match turn.lasts {
            Some(lasts) => now.saturating_add(lasts),
            None => self.expected_end(now, turn.job),
        }
    }

    /// Where limits alone say it: how long one that waits would last, with what its restart costs.
    pub(super) fn lasts_at_most(&self, job: &Job) -> Option<Seconds> {
        match self.config.rule {
            Rule::Fifo | Rule::Easy => {
                let cost = self.config.restart_cost * i64::from(job.runs.min(1));
                Some(job.limit.unwrap_or(NEVER).max(0).saturating_add(cost))
            }
            Rule::Gittins | Rule::Throughput => None,
        }
    }

    /// How long a job is expected to run still.
    pub(super) fn expected_left(&self, now: Seconds, job: &Job) -> Seconds {
        let ran = job.ran(now, self.config.restart_cost);
        // Each run has the whole of its limit.
        let of_this_run = ran - if job.pieces.is_empty() { ran } else { job.done };
        let limit = job.limit.map(|limit| (limit - of_this_run).max(0));
        match self.config.rule {
            Rule::Fifo | Rule::Easy => limit.unwrap_or(NEVER),
            Rule::Gittins | Rule::Throughput => {
                let median = self.history.median_left(job.class, ran);
                limit.into_iter().chain(median).min().unwrap_or(NEVER)
            }
        }
    }

    /// Keeps the nodes for `first` that will be free first.
    pub(super) fn reserve(&self, now: Seconds, first: JobIx, kept: &mut Kept) {
        let running = self.running.iter();
        let mut ends: Vec<(Seconds, JobIx)> = running
            .map(|ix| (self.expected_end(now, *ix), *ix))
            .collect();
        ends.sort_unstable();
        let Some((end, pieces)) = self.soonest(first, &ends) else {
            return;
        };
        let reservation = Reservation {
            job: self.job(first).id,
            pieces,
            then: end.max(now),
        };
        kept.keep(&self.cluster, reservation);
    }

    /// When nodes are out of service: none of them is kept for a job that would run there then. `rows` are all that are on or
    /// to come.
    pub fn set_closures(&mut self, rows: Vec<Outage>) {
        self.closures = rows;
    }

    /// Whether a node is out of service while a job that starts there then would still run; one without a limit has to have as
    /// much of it as its restart costs.
    pub(super) fn is_closed(&self, node: NodeIx, then: Seconds, ix: JobIx) -> bool {
        let mut rows = self.closures.iter();
        rows.any(|row| row.node == node && self.meets(row, then, ix))
    }

    fn meets(&self, row: &Outage, then: Seconds, ix: JobIx) -> bool {
        let limit = self.job(ix).limit.unwrap_or(0);
        let end = then
            .saturating_add(limit)
            .saturating_add(self.config.restart_cost);
        row.from < end && row.until > then
    }

    /// The nodes that stay in service for a job that starts then; nothing where all do.
    fn in_service(&self, then: Seconds, ix: JobIx) -> Option<Bits> {
        let rows = self.closures.iter();
        let mut closed = rows.filter(|row| self.meets(row, then, ix)).peekable();
        closed.peek()?;
        let mut stay = Bits::default();
        for node in self.cluster.keys() {
            stay.set(node, true);
        }
        closed.for_each(|row| stay.set(row.node, false));
        Some(stay)
    }

    /// When a job that does not fit now will, if those end in this order, and where: on nodes that stay in service for it.
    pub(super) fn soonest(
        &self,
        first: JobIx,
        ends: &[(Seconds, JobIx)],
    ) -> Option<(Seconds, Vec<Piece>)> {
        let mut later = Later {
            scheduler: self,
            shape: &self.lanes.shapes[self.job(first).shape],
            cluster: self.cluster.clone(),
            ends,
            gone: 0,
        };
        let fewest = later.fewest()?;
        // Nodes that close are fewer at some later moments, so these are not looked for by halves.
        (fewest..=ends.len()).take(LOOKS).find_map(|gone| {
            let (end, _) = ends.get(gone.checked_sub(1)?)?;
            later.go_to(gone);
            let within = self.in_service(*end, first);
            let found = later.shape.find_but(&later.cluster, within.as_ref());
            Some((*end, found?))
        })
    }
}

/// Nodes as they will be when so many have ended.
struct Later<'a> {
    scheduler: &'a Scheduler,
    shape: &'a Shape,
    cluster: Cluster,
    ends: &'a [(Seconds, JobIx)],
    gone: usize,
}

impl Later<'_> {
    fn go_to(&mut self, gone: usize) {
        let (from, to) = (self.gone.min(gone), self.gone.max(gone));
        for (_, ix) in self.ends.get(from..to).unwrap_or_default() {
            let pieces = &self.scheduler.job(*ix).pieces;
            match gone > self.gone {
                true => self.cluster.give(*ix, pieces),
                false => self.cluster.take(*ix, pieces),
            }
        }
        self.gone = gone;
    }

    fn find(&self) -> Option<Vec<Piece>> {
        self.shape.find(&self.cluster)
    }

    fn fits(&mut self, gone: usize) -> bool {
        self.go_to(gone);
        self.find().is_some()
    }

    /// How few have to end. To look after each one would take as long as all that run, for each gang: steps double until it
    /// fits, and are halved from there.
    fn fewest(&mut self) -> Option<usize> {
        let (mut not, mut step) = (self.too_few(), 1);
        let mut fits = loop {
            let next = (not + step).min(self.ends.len());
            if next == not {
                return None;
            }
            if self.fits(next) {
                break next;
            }
            (not, step) = (next, step * 2);
        };
        while fits - not > 1 {
            let middle = not + (fits - not) / 2;
            match self.fits(middle) {
                true => fits = middle,
                false => not = middle,
            }
        }
        Some(fits)
    }

    /// So many leave fewer GPUs than it asks for.
    fn too_few(&self) -> usize {
        let mut free = self.cluster.free_gpus();
        let wanted = self.shape.ask.gang.gpus();
        let short = self.ends.iter().take_while(|(_, ix)| {
            let held = self.scheduler.job(*ix).pieces.iter();
            free = free.saturating_add(held.map(|piece| piece.gpus).sum());
            free < wanted
        });
        short.count()
    }
}

/// So many moments are looked at for nodes that stay in service: a pass must not take long.
const LOOKS: usize = 512;

/// Nobody knows when; so is whatever lies behind it.
pub(super) const NEVER: Seconds = Seconds::MAX / 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sched::policy::{
        Config, Submission,
        ask::{Ask, Gang},
        cluster::NodeOffer,
    };

    proptest! {
        #![proptest_config(crate::cases::cases(64))]
        #[test]
        fn the_moment_that_is_found_by_halves_is_the_one_that_is_found_one_by_one(
            running in prop::collection::vec((1u32..9, 1i64..1_000), 1..20),
            (nodes, gpus) in (1u32..5, 1u32..9),
        ) {
            let mut scheduler = Scheduler::new(Config { rule: Rule::Easy, ..Config::default() });
            for _ in 0..4 {
                scheduler.add_node(NodeOffer::of_gpus(8));
            }
            for (job, (gpus, limit)) in (1u64..).zip(running) {
                let asked = Submission::packed(job, gpus);
                scheduler.submit(0, &Submission { limit: Some(limit), ..asked });
            }
            scheduler.pass(0);
            let gang = Gang::Each { nodes, gpus };
            let asked = Submission { ask: Ask { gang, ..Ask::packed(0) }, ..Submission::packed(99, 0) };
            scheduler.submit(0, &asked);
            let first = scheduler.number(99).unwrap();
            let shape = &scheduler.lanes.shapes[scheduler.job(first).shape];
            prop_assume!(shape.find(&scheduler.cluster).is_none());
            let ends = scheduler.running.iter().map(|ix| (scheduler.expected_end(0, *ix), *ix));
            let mut ends: Vec<(Seconds, JobIx)> = ends.collect();
            ends.sort_unstable();
            let mut later = scheduler.cluster.clone();
            let one_by_one = ends.iter().find_map(|(end, ix)| {
                later.give(*ix, &scheduler.job(*ix).pieces);
                Some((*end, shape.find(&later)?))
            });
            prop_assert_eq!(scheduler.soonest(first, &ends), one_by_one);
        }
    }
}
