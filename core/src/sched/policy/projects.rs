//! Projects: what each has, what it may have, and how far it is beyond its fair share.
//!
//! Owns usage that fades with time, quotas and limits. Never places or preempts: it says who may, and who only borrows.

mod limits;

pub(super) use limits::Limits;

use std::collections::BTreeMap;

use super::{
    config::{Config, ProjectRule, Seconds},
    dense::{Table, dense},
};

dense!(
    /// A project.
    ProjectIx
);

/// A project's rank suffers by no more than this factor, either way.
const MOST: f64 = 4.0;

#[derive(Clone, Debug)]
struct Project {
    rule: ProjectRule,
    /// GPUs that are its own. Where any project has some, one without a rule of it has none: what others own could not be
    /// had back from it else.
    own: Option<u32>,
    /// GPUs that it holds, or that are chosen for it.
    gpus: u32,
    /// Those of them that others have still: they count for its limits, and nothing of them is used yet.
    unused: u32,
    /// Those of them whose jobs were told to go: they count until these have gone, but nobody has to give them back again.
    going: u32,
    /// How many jobs these are.
    leaving: u32,
    running: u32,
    queued: u32,
    /// GPU-seconds, half of which is forgotten every half-life; as of `since`.
    faded: f64,
    /// GPU-seconds of the span in which its GPU-hours are counted.
    used: f64,
    since: Seconds,
}

/// What a job does to its project's GPUs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Take(u32),
    Give(u32),
    /// It has so many instead of so many.
    Resize(u32, u32),
}

impl Change {
    /// What becomes of so many by it.
    fn of(self, gpus: u32) -> u32 {
        match self {
            Self::Take(more) => gpus.saturating_add(more),
            Self::Give(less) => gpus.saturating_sub(less),
            Self::Resize(from, to) => gpus.saturating_sub(from).saturating_add(to),
        }
    }

    /// What becomes of so many jobs.
    fn of_jobs(self, jobs: u32) -> u32 {
        match self {
            Self::Take(_) => jobs.saturating_add(1),
            Self::Give(_) => jobs.saturating_sub(1),
            Self::Resize(..) => jobs,
        }
    }
}

/// So many jobs of a project with so many GPUs in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) jobs: u32,
    pub(super) gpus: u32,
}

impl Part {
    /// One more job, of so many GPUs.
    pub(super) fn with(self, gpus: u32) -> Self {
        Self {
            jobs: self.jobs.saturating_add(1),
            gpus: self.gpus.saturating_add(gpus),
        }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.jobs >= other.jobs && self.gpus >= other.gpus
    }
}

/// All projects.
#[derive(Clone, Debug, Default)]
pub struct Projects {
    rows: Table<ProjectIx, Project>,
    known: BTreeMap<String, ProjectIx>,
    /// Those of which GPU-hours are counted.
    metered: Vec<ProjectIx>,
    /// By so much the time that is told is ahead of the calendar's, by which GPU-hours are renewed.
    pub(super) ahead: Seconds,
    factors: Table<ProjectIx, f64>,
}

fn seconds(value: Seconds) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
    let float = value as f64;
    float
}

/// What is left of one after so many seconds.
fn fades(span: f64, half_life: Seconds) -> f64 {
    0.5f64.powf(span / seconds(half_life.max(1)))
}

impl Projects {
    /// The number of a project.
    pub(super) fn number(&mut self, name: &str, config: &Config) -> ProjectIx {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let rule = config.projects.get(name).copied().unwrap_or_default();
        let some = config.projects.values().any(|rule| rule.gpus.is_some());
        let ix = self.rows.push(Project {
            rule,
            own: rule.gpus.or_else(|| some.then_some(0)),
            gpus: 0,
            unused: 0,
            going: 0,
            leaving: 0,
            running: 0,
            queued: 0,
            faded: 0.0,
            used: 0.0,
            since: 0,
        });
        self.factors.push(1.0);
        self.metered.extend(rule.gpu_hours.map(|_| ix));
        self.known.insert(name.to_owned(), ix);
        ix
    }

    /// A job takes GPUs, or gives them back.
    pub(super) fn hold(&mut self, ix: ProjectIx, change: Change, now: Seconds, half_life: Seconds) {
        let project = self.aged(ix, now, half_life);
        project.gpus = change.of(project.gpus);
        project.running = change.of_jobs(project.running);
    }

    /// A job that has so many was told to go, or has gone.
    pub(super) fn goes(&mut self, ix: ProjectIx, change: Change) {
        let project = &mut self.rows[ix];
        project.going = change.of(project.going);
        project.leaving = change.of_jobs(project.leaving);
    }

    /// GPUs that are chosen for a job are not free yet, or are from now on.
    pub(super) fn waits_for(
        &mut self,
        ix: ProjectIx,
        change: Change,
        now: Seconds,
        half_life: Seconds,
    ) {
        let project = self.aged(ix, now, half_life);
        project.unused = change.of(project.unused);
    }

    /// What a project had used by a moment before its jobs were known, in GPU-seconds of which half are forgotten in every
    /// half-life.
    pub(super) fn had_used_lately(
        &mut self,
        ix: ProjectIx,
        gpu_seconds: f64,
        (then, now): (Seconds, Seconds),
        half_life: Seconds,
    ) {
        let project = self.aged(ix, now, half_life);
        project.faded += gpu_seconds * fades(seconds((now - then).max(0)), half_life);
    }

    /// What a project has used of its span before it was known, in GPU-seconds.
    pub(super) fn has_used(&mut self, ix: ProjectIx, gpu_seconds: f64, now: Seconds) {
        let project = &mut self.rows[ix];
        project.used = gpu_seconds;
        project.since = now;
    }

    fn aged(&mut self, ix: ProjectIx, now: Seconds, half_life: Seconds) -> &mut Project {
        let project = &mut self.rows[ix];
        project.age(now, half_life, self.ahead);
        project
    }

    /// Counts GPU-hours up to now; what was used up is its project's own again when a span has begun.
    pub(super) fn meter(&mut self, now: Seconds, half_life: Seconds) {
        for ix in &self.metered {
            self.rows[*ix].age(now, half_life, self.ahead);
        }
    }

    /// When GPU-hours are renewed for which somebody waits.
    pub(super) fn renewal(&self, now: Seconds) -> Option<Seconds> {
        let rows = self.metered.iter().map(|ix| &self.rows[*ix]);
        let waits = rows.filter(|project| project.queued > 0);
        waits.map(|project| project.span(now, self.ahead).1).min()
    }

    /// A job waits, or no longer does.
    pub(super) fn queue(&mut self, ix: ProjectIx, on: bool) {
        let queued = &mut self.rows[ix].queued;
        *queued = if on {
            *queued + 1
        } else {
            queued.saturating_sub(1)
        };
    }

    /// Works the factors out anew.
    pub(super) fn weigh(&mut self, now: Seconds, config: &Config) {
        let mut all = 0.0;
        let mut shares = 0.0;
        for (_, project) in self.rows.iter_mut() {
            project.age(now, config.half_life, self.ahead);
            if project.queued > 0 || project.running > 0 {
                all += project.faded;
                shares += project.rule.share;
            }
        }
        for (ix, factor) in self.factors.iter_mut() {
            let project = &self.rows[ix];
            let part = if all > 0.0 { project.faded / all } else { 0.0 };
            let fair = project.rule.share / f64::max(shares, f64::MIN_POSITIVE);
            *factor = (part / fair).clamp(1.0 / MOST, MOST).powf(config.fairness);
        }
    }

    /// By which the rank of its jobs is multiplied.
    pub(super) fn factor(&self, ix: ProjectIx) -> f64 {
        self.factors[ix]
    }

    /// Whether it would hold more than its own with `more` GPUs, once those have gone who were told to.
    pub(super) fn borrows(&self, ix: ProjectIx, more: u32) -> bool {
        self.borrows_after(ix, more, 0)
    }

    /// The same once it has given so many others back.
    pub(super) fn borrows_after(&self, ix: ProjectIx, more: u32, given: u32) -> bool {
        let project = &self.rows[ix];
        let stays = project.stays().saturating_sub(given);
        more > 0 && project.is_beyond(project.own, stays.saturating_add(more))
    }

    /// GPUs that it holds, is not about to give back, and that are not its own: all of them once its GPU-hours are used up.
    pub(super) fn borrowed(&self, ix: ProjectIx) -> u32 {
        let project = &self.rows[ix];
        match project.own {
            _ if project.is_spent() => project.stays(),
            Some(own) => project.stays().saturating_sub(own),
            None => 0,
        }
    }

    /// GPUs that others have borrowed; none of one that has none of its own.
    pub(super) fn lends(&self, ix: ProjectIx) -> u32 {
        if self.rows[ix].own.is_none_or(|own| own == 0) {
            return 0;
        }
        let others = self.rows.keys().filter(|other| *other != ix);
        others.map(|other| self.borrowed(other)).sum()
    }

    /// Whether it has more jobs or, where one has GPUs, more of those than its rules allow, not counting these.
    pub(super) fn is_over(&self, ix: ProjectIx, gpus: bool, but: Part) -> bool {
        let project = &self.rows[ix];
        let running = project.running.saturating_sub(but.jobs);
        let has = project.gpus.saturating_sub(but.gpus);
        let borrowed = project.is_beyond(project.rule.gpus, has);
        project.rule.running.is_some_and(|most| running > most)
            || gpus && !project.rule.borrow && borrowed
    }

    /// Whether any of them has to do with what is its own.
    pub(super) fn any_may_not_borrow(&self) -> bool {
        self.rows.iter().any(|(_, project)| !project.rule.borrow)
    }

    /// Whether one more of its jobs may start.
    pub(super) fn may_start(&self, ix: ProjectIx, gpus: u32) -> bool {
        self.may_start_after(ix, gpus, Part::default())
    }

    /// The same once so much of it has gone.
    pub(super) fn may_start_after(&self, ix: ProjectIx, gpus: u32, gone: Part) -> bool {
        self.rows[ix].may_start(gpus, gone)
    }

    /// What of a project that is at its limit would have to go before one more of its jobs may start. Nothing where that is
    /// not for what it has, or where some of it goes already: that is waited for.
    pub(super) fn excess(&self, ix: ProjectIx, gpus: u32) -> Option<Part> {
        let project = &self.rows[ix];
        let (own, most) = (project.rule.gpus, project.rule.running);
        let own = own.filter(|_| gpus > 0 && !project.rule.borrow);
        let never = own.is_some_and(|own| gpus > own) || most == Some(0);
        let spent = gpus > 0 && !project.rule.borrow && project.is_spent();
        if never || spent || project.leaving > 0 {
            return None;
        }
        let all = project.gpus.saturating_add(gpus);
        let running = project.running.saturating_add(1);
        Some(Part {
            jobs: most.map_or(0, |most| running.saturating_sub(most)),
            gpus: own.map_or(0, |own| all.saturating_sub(own)),
        })
    }

    /// Why none of its jobs may start, in words.
    pub(super) fn limit(&self, ix: ProjectIx, gpus: u32) -> Option<String> {
        let project = &self.rows[ix];
        if project
            .rule
            .running
            .is_some_and(|most| project.running >= most)
        {
            let running = project.running;
            return Some(format!(
                "{running} jobs of its project run, which is its limit"
            ));
        }
        if !project.may_not_have(gpus, project.gpus) {
            return None;
        }
        match project
            .rule
            .gpus
            .filter(|own| project.gpus.saturating_add(gpus) > *own)
        {
            Some(own) => Some(format!(
                "its project has {} of its own {own} GPUs in use, and may not borrow more",
                project.gpus
            )),
            None => Some(project.spent(self.ahead)),
        }
    }

    /// Whether one more may wait.
    #[must_use]
    pub fn may_submit(&self, name: &str) -> bool {
        let project = self.known.get(name).map(|ix| &self.rows[*ix]);
        project.is_none_or(|project| project.rule.queued.is_none_or(|most| project.queued < most))
    }
}

#[cfg(test)]
impl Projects {
    /// From now on it may have so many and no more, whatever it has.
    pub(super) fn limit_to(&mut self, name: &str, gpus: u32) {
        let rule = &mut self.rows[self.known[name]].rule;
        (rule.gpus, rule.borrow) = (Some(gpus), false);
    }
}

impl Project {
    /// Whether one more of its jobs may start once so much of it has gone.
    fn may_start(&self, gpus: u32, gone: Part) -> bool {
        let running = self.running.saturating_sub(gone.jobs);
        let rest = self.gpus.saturating_sub(gone.gpus);
        let most = self.rule.running;
        most.is_none_or(|most| running < most) && !self.may_not_have(gpus, rest)
    }

    /// Whether so many are more than it owns.
    fn is_beyond(&self, own: Option<u32>, gpus: u32) -> bool {
        own.is_some_and(|own| gpus > own) || self.is_spent()
    }

    /// GPUs that it holds, but for those that are about to be given back.
    fn stays(&self) -> u32 {
        self.gpus.saturating_sub(self.going)
    }

    /// Whether so many more than it has would be borrowed, which it may not. Who has GPU-hours alone may use them up on free
    /// nodes.
    fn may_not_have(&self, more: u32, has: u32) -> bool {
        let all = has.saturating_add(more);
        more > 0 && !self.rule.borrow && self.is_beyond(self.rule.gpus, all)
    }

    /// Its GPU-hours are used up, to the last one.
    fn is_spent(&self) -> bool {
        let own = self.rule.gpu_hours;
        own.is_some_and(|own| self.used >= own * 3_600.0)
    }

    fn spent(&self, ahead: Seconds) -> String {
        let (own, per) = (
            self.rule.gpu_hours.unwrap_or_default(),
            self.rule.gpu_hours_per,
        );
        format!(
            "its project has used {:.1} of its {own} GPU-hours of this {}, which are its own again on {}, and may not borrow more",
            self.used / 3_600.0,
            per.name(),
            per.renewal(self.since - ahead)
        )
    }

    /// The span in which its GPU-hours are counted: when it began and when the next one does, by the clock that is told.
    fn span(&self, now: Seconds, ahead: Seconds) -> (Seconds, Seconds) {
        let (begun, next) = self.rule.gpu_hours_per.around(now - ahead);
        (begun + ahead, next + ahead)
    }

    fn age(&mut self, now: Seconds, half_life: Seconds, ahead: Seconds) {
        let (begun, _) = self.span(now, ahead);
        if self.since < begun {
            self.used = 0.0;
        }
        let here = seconds((now - self.since.max(begun)).max(0));
        let gpus = f64::from(self.gpus.saturating_sub(self.unused));
        self.used += here * gpus;
        let span = seconds((now - self.since).max(0));
        self.faded = self.faded * fades(span, half_life) + span * gpus;
        self.since = now;
    }
}

#[cfg(test)]
#[path = "projects_tests.rs"]
mod tests;
