//! Why a job waits: its place in the order, and what would start it now. Changes nothing.

use super::{
    ask::Ask,
    cluster::{JobIx, Piece},
    config::{Rule, Seconds},
    job::State,
    pass::Head,
    place::Shape,
    plan::Reservation,
    scheduler::Scheduler,
};

/// Where a waiting job stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Jobs that are looked at before it.
    pub ahead: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// It has waited so long that it goes before all others of its priority.
    pub guarded: bool,
    /// More than its project's own would be used.
    pub borrows: bool,
    /// Lower goes first: GPU-seconds until a job like it ends, at best.
    pub rank: f64,
    /// By what its project is beyond its share its rank is multiplied.
    pub factor: f64,
    /// Ended jobs by which its rank is known; none when it goes by how long it has run.
    pub known_by: Option<usize>,
    /// Those are of its user, project, name and width, and not of its width alone.
    pub own: bool,
    /// How long it runs still, in 10, 50 and 90 % of cases, in seconds.
    pub left: Option<[f64; 3]>,
}

impl Scheduler {
    /// Where a waiting job stands; nothing for one that does not wait.
    #[must_use]
    pub fn place(&self, now: Seconds, number: u64) -> Option<Place> {
        let ix = self.number(number)?;
        let head = self.head_of(ix)?;
        let job = self.job(ix);
        let ran = job.ran(now, self.config.restart_cost);
        let known = self.history.basis(job.class);
        Some(Place {
            ahead: self.heads_before(&head).count(),
            waiting: self.lanes.waiting,
            guarded: head.is_guarded(),
            borrows: head.borrows(),
            rank: self.rank(now, job),
            factor: self.projects.factor(job.project),
            known_by: known.map(|(ends, _)| ends),
            own: known.is_some_and(|(_, own)| own),
            left: self.history.left(job.class, ran),
        })
    }

    /// Where a job that asks for this would start now, were it asked for in place of one that waits. Whoever is ahead has
    /// been looked at already, so under the rules that pass over what does not fit it is enough that it fits.
    #[must_use]
    pub fn would_start(&self, number: u64, ask: &Ask) -> Option<Vec<Piece>> {
        let ix = self.number(number)?;
        let passes = match self.config.rule {
            Rule::Gittins | Rule::Throughput => true,
            Rule::Fifo | Rule::Easy => self
                .heads_before(&self.head_of(ix)?)
                .all(|head| self.is_shut_out(self.lanes.lanes[head.lane].shape)),
        };
        let project = self.job(ix).project;
        let shape = Shape::new(&self.cluster, ask.clone());
        let bound = self.head_of(ix).is_some_and(|head| self.kept.binds(&head));
        if !passes || !self.projects.may_start(project, shape.least()) {
            return None;
        }
        let within = self.bounds(self.kept.at, ix, bound);
        let found = shape.find_but(&self.cluster, within);
        found.filter(|pieces| self.may_hold(ix, pieces))
    }

    /// What the last pass kept for a job that waits.
    #[must_use]
    pub fn kept_for(&self, number: u64) -> Option<&Reservation> {
        let kept = self.kept.reservation.as_ref();
        kept.filter(|kept| kept.job == number && self.waits(number))
    }

    /// What is kept for another, where a job that waits would start if it were gone in time.
    #[must_use]
    pub fn kept_from(&self, number: u64) -> Option<&Reservation> {
        let ix = self.number(number)?;
        let bound = self.kept.binds(&self.head_of(ix)?);
        let within = self.bounds(self.kept.at, ix, bound)?;
        let shape = &self.lanes.shapes[self.job(ix).shape];
        let beside = shape.find_but(&self.cluster, Some(within)).is_some();
        let held = !beside && shape.find(&self.cluster).is_some();
        self.kept.reservation.as_ref().filter(|_| held)
    }

    /// Whether its project may have no more now, and why, in words.
    #[must_use]
    pub fn limit(&self, number: u64) -> Option<String> {
        let job = self.number(number).map(|ix| self.job(ix))?;
        self.projects.limit(job.project, self.least(job))
    }

    fn head_of(&self, ix: JobIx) -> Option<Head> {
        let job = self.job(ix);
        match &job.state {
            State::Waiting(turn) => Some(self.head(job.lane, turn)),
            State::Later | State::Promised | State::Running | State::Leaving => None,
        }
    }

    fn heads_before<'a>(&'a self, head: &'a Head) -> impl Iterator<Item = Head> + 'a {
        let lanes = self.lanes.lanes.iter();
        let heads = lanes
            .flat_map(move |(ix, lane)| lane.turns.iter().map(move |turn| self.head(ix, turn)));
        heads.filter(move |other| other < head)
    }

    /// Who is looked at before a waiting job, in order: so many of them.
    pub(super) fn ahead_of(&self, ix: JobIx, most: usize) -> Option<Vec<JobIx>> {
        let head = self.head_of(ix)?;
        let mut before: Vec<Head> = self.heads_before(&head).collect();
        if before.len() > most {
            before.select_nth_unstable(most);
            before.truncate(most);
        }
        before.sort_unstable();
        Some(before.into_iter().map(|head| head.job).collect())
    }
}
