//! Why a job waits: its place in the order, and what would start it now. Changes nothing.

use std::collections::BTreeMap;

use super::{
    ask::Ask,
    cluster::{JobIx, Piece},
    config::{RankBy, Rule, Seconds},
    dense::Bits,
    forecast::Expected,
    job::{State, Submission},
    lanes::ShapeIx,
    pass::Head,
    place::Shape,
    plan::Reservation,
    scheduler::{Scheduler, TRIAL, TURN},
};

/// Where a waiting job stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// By what jobs go first.
    pub rule: Rule,
    /// What ranks jobs, under the default one.
    pub rank_by: RankBy,
    /// Its own; higher goes first, whatever else.
    pub priority: i64,
    /// Jobs that are looked at before it.
    pub ahead: usize,
    /// Those of them that have a higher priority.
    pub above: usize,
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
    /// So many times as well does it rank by how long it has waited.
    pub by_waiting: f64,
    /// Ended jobs by which its rank is known; none when it goes by how long it has run.
    pub known_by: Option<usize>,
    /// Those are of its user, project, name and width, and not of its width alone.
    pub own: bool,
    /// How long it runs still, in 10, 50 and 90 % of cases, in seconds.
    pub left: Option<[f64; 3]>,
}

impl Place {
    /// Why it stands there, in words.
    #[must_use]
    pub fn because(&self) -> String {
        let mut words = Vec::new();
        if self.above > 0 {
            let (above, own) = (self.above, self.priority);
            words.push(format!(
                "{above} of those ahead have a higher priority than its {own}"
            ));
        }
        if self.guarded {
            words.push(
                "it has waited so long that it goes before others of its priority".to_owned(),
            );
        }
        if self.borrows {
            words.push("its project would use more than its own".to_owned());
        }
        words.push(self.order());
        if self.rule == Rule::Gittins && self.by_waiting > 1.05 {
            words.push(format!(
                "by how long it has waited it ranks {:.1} times as well",
                self.by_waiting
            ));
        }
        let ranks = matches!(self.rule, Rule::Gittins | Rule::Throughput);
        if ranks && self.factor > 1.05 {
            words.push(format!(
                "its project has had {:.1} times its share lately",
                self.factor
            ));
        }
        words.join("; ")
    }

    /// By what those of a priority go.
    fn order(&self) -> String {
        match (self.rule, self.rank_by) {
            (Rule::Fifo | Rule::Easy, _) | (Rule::Gittins, RankBy::Arrival) => {
                "those of a priority go in the order in which they were submitted".to_owned()
            }
            (Rule::Throughput, _) => format!(
                "whoever has run for the fewest turns of {} h goes first, and after {} h whoever runs longest still; {}",
                TURN / 3_600,
                TRIAL / 3_600,
                self.known()
            ),
            (Rule::Gittins, RankBy::Gittins) => self.known(),
            (Rule::Gittins, RankBy::Attained) => {
                "it goes by how long it has run, times its GPUs".to_owned()
            }
        }
    }

    /// What is known of jobs like it.
    fn known(&self) -> String {
        let like = match self.own {
            true => "jobs like it",
            false => "jobs of its width",
        };
        match (self.known_by, self.left) {
            (Some(ends), Some([_, middle, _])) => format!(
                "{ends} {like} have ended, half of those that got as far within {} s more",
                middle.round()
            ),
            (_, _) => {
                "nothing is known yet of jobs like it, so it goes by how long it has run".to_owned()
            }
        }
    }
}

impl Scheduler {
    /// Where a waiting job stands; nothing for one that does not wait. One for whom nodes are chosen already stands before
    /// all others.
    #[must_use]
    pub fn place(&self, now: Seconds, number: u64) -> Option<Place> {
        let ix = self.number(number)?;
        let job = self.job(ix);
        let head = match &job.state {
            State::Waiting(turn) => Some(self.head(job.lane, turn)),
            State::Promised | State::Running => None,
            State::Later | State::Leaving => return None,
        };
        let ran = job.ran(now, self.config.restart_cost);
        let known = self.history.basis(job.class);
        let (mut ahead, mut above) = (0, 0);
        for other in head.iter().flat_map(|head| self.heads_before(head)) {
            ahead += 1;
            above += usize::from(self.job(other.job).priority > job.priority);
        }
        let waited = job.waited(now, self.config.restart_cost);
        Some(Place {
            rule: self.config.rule,
            rank_by: self.config.rank,
            priority: Submission::priority_of(job.priority),
            ahead,
            above,
            waiting: self.lanes.waiting + usize::from(head.is_none()),
            guarded: head.as_ref().is_some_and(Head::is_guarded),
            borrows: head.as_ref().is_some_and(Head::borrows),
            rank: self.rank(now, job),
            factor: self.factor(job.project),
            by_waiting: match self.config.rank {
                RankBy::Gittins | RankBy::Attained => 1.0 / self.steps(waited),
                RankBy::Arrival => 1.0,
            },
            known_by: known.map(|(ends, _)| ends),
            own: known.is_some_and(|(_, own)| own),
            left: self.history.left(job.class, ran),
        })
    }

    /// When a job starts for whom nodes are chosen, once those who were told then to save their work have gone: within what
    /// a restart costs as a rule, and by `until` at the latest. Nothing once that has passed: nobody knows.
    #[must_use]
    pub fn expect_chosen(&self, now: Seconds, told: Seconds, until: Seconds) -> Option<Expected> {
        let middle = (told + self.config.restart_cost).min(until);
        let middle = match middle > now {
            true => middle,
            false => now + (until - now) / 2,
        };
        (until > now).then_some([now, middle, until])
    }

    /// Whether there is room for a job that asks for this, whosever turn it is.
    #[must_use]
    pub fn has_room(&self, ask: &Ask) -> bool {
        let shape = Shape::new(&self.cluster, ask.clone());
        shape.find(&self.cluster).is_some()
    }

    /// Where a job that asks for this would start now, at its own turn. Whoever is ahead has been looked at already, so
    /// under the rules that pass over what does not fit it is enough that it fits.
    #[must_use]
    pub fn would_start(&self, number: u64, ask: &Ask) -> Option<Vec<Piece>> {
        let ix = self.number(number)?;
        let head = self.head_of(ix);
        let passes = match self.config.rule {
            Rule::Gittins | Rule::Throughput => true,
            Rule::Fifo | Rule::Easy => {
                let head = head?;
                self.are_passed_over(self.heads_before(&head))
            }
        };
        let bound = head.is_some_and(|head| self.kept.binds(&head));
        let within = self.bounds(self.kept.at, ix, bound);
        self.found(ix, ask, within).filter(|_| passes)
    }

    /// Where a new job that asks for this, and may not run for longer than until `ends`, would start, once this one is
    /// cancelled: it has waited for nothing yet, and stands behind all others.
    #[must_use]
    pub fn would_start_anew(&self, number: u64, ask: &Ask, ends: Seconds) -> Option<Vec<Piece>> {
        let ix = self.number(number)?;
        let others = || self.heads_all().filter(|head| head.job != ix);
        // Who is held up by it, or is kept from nodes for it, starts as soon as it is gone.
        let kept = &self.kept;
        let mine = kept.first.is_some_and(|first| first.job == ix)
            || kept
                .reservation
                .as_ref()
                .is_some_and(|one| one.job == number);
        let passes = match self.config.rule {
            Rule::Gittins | Rule::Throughput => !mine || others().next().is_none(),
            Rule::Fifo | Rule::Easy => self.are_passed_over(others()),
        };
        // Where it may run for longer than that, beside what is kept for another, and not on it.
        let within = self.kept.within(|| ends).filter(|_| !mine);
        self.found(ix, ask, within).filter(|_| passes)
    }

    fn found(&self, ix: JobIx, ask: &Ask, within: Option<&Bits>) -> Option<Vec<Piece>> {
        let shape = Shape::new(&self.cluster, ask.clone());
        let may = self.projects.may_start(self.job(ix).project, shape.least());
        let found = may.then(|| shape.find_but(&self.cluster, within))?;
        found.filter(|pieces| self.may_hold(ix, pieces))
    }

    /// Under the strict rules only who could not start even if all others were gone is passed over.
    fn are_passed_over(&self, mut heads: impl Iterator<Item = Head>) -> bool {
        let mut known: BTreeMap<ShapeIx, bool> = BTreeMap::new();
        heads.all(|head| {
            let shape = self.lanes.lanes[head.lane].shape;
            *known
                .entry(shape)
                .or_insert_with(|| self.is_shut_out(shape))
        })
    }

    /// What the last pass kept for a job, if that still waits.
    #[must_use]
    pub fn kept(&self) -> Option<&Reservation> {
        let kept = self.kept.reservation.as_ref();
        kept.filter(|kept| self.waits(kept.job))
    }

    /// Whether nothing but time limits says for how long nodes are kept, though more is known of those who run.
    #[must_use]
    pub fn goes_by_limits(&self) -> bool {
        match self.config.rule {
            Rule::Easy => true,
            Rule::Gittins | Rule::Fifo | Rule::Throughput => false,
        }
    }

    /// Whether that is kept from none but those who would borrow.
    #[must_use]
    pub fn keeps_from_borrowers(&self) -> bool {
        self.kept.from_borrowers
    }

    /// What the last pass kept for a job that waits.
    #[must_use]
    pub fn kept_for(&self, number: u64) -> Option<&Reservation> {
        self.kept().filter(|kept| kept.job == number)
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

    pub(super) fn head_of(&self, ix: JobIx) -> Option<Head> {
        let job = self.job(ix);
        match &job.state {
            State::Waiting(turn) => Some(self.head(job.lane, turn)),
            State::Later | State::Promised | State::Running | State::Leaving => None,
        }
    }

    fn heads_before<'a>(&'a self, head: &'a Head) -> impl Iterator<Item = Head> + 'a {
        self.heads_all().filter(move |other| other < head)
    }

    /// All who wait.
    fn heads_all(&self) -> impl Iterator<Item = Head> + '_ {
        let lanes = self.lanes.lanes.iter();
        lanes.flat_map(move |(ix, lane)| lane.turns.iter().map(move |turn| self.head(ix, turn)))
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
