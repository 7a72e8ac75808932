//! What projects that have limits may have as time goes on: a copy, for a guess.
//!
//! Owns nothing. Called by `future`.

use std::collections::BTreeMap;

use super::{Change, Part, Project, ProjectIx, Projects};
use crate::sched::policy::{cluster::JobIx, config::Seconds, job::Job};

/// For what a project is charged by a job.
#[derive(Clone, Copy, Debug)]
struct Charge {
    project: ProjectIx,
    gpus: u32,
    /// Those of them that others have still.
    unused: u32,
}

/// Projects that may not have all that they ask for.
#[derive(Clone, Debug)]
pub(in crate::sched::policy) struct Limits {
    rows: BTreeMap<ProjectIx, Project>,
    charges: BTreeMap<JobIx, Charge>,
    ahead: Seconds,
    half_life: Seconds,
}

impl Projects {
    /// Those that have limits, as they are.
    pub(in crate::sched::policy) fn limits(&self, half_life: Seconds) -> Limits {
        let rows = self.rows.iter().filter(|(_, row)| row.has_limits());
        Limits {
            rows: rows.map(|(ix, row)| (ix, row.clone())).collect(),
            charges: BTreeMap::new(),
            ahead: self.ahead,
            half_life,
        }
    }

    /// A project that has used its GPU-hours up, and has to do with them, starts nothing before they are its own again:
    /// that moment.
    pub(in crate::sched::policy) fn spent_until(
        &self,
        now: Seconds,
        ix: ProjectIx,
        gpus: u32,
    ) -> Option<Seconds> {
        let mut row = self.rows[ix].clone();
        // Half of what fades is of no matter here, and a half-life of any length will do.
        row.age(now, 1, self.ahead);
        let spent = gpus > 0 && row.waits_for_renewal();
        spent.then(|| row.span(now, self.ahead).1)
    }
}

impl Project {
    fn has_limits(&self) -> bool {
        let rule = &self.rule;
        let own = rule.gpus.is_some() || rule.gpu_hours.is_some();
        rule.running.is_some() || !rule.borrow && own
    }

    /// It has to do with its GPU-hours, has used them up, and will have some again.
    fn waits_for_renewal(&self) -> bool {
        let some = self.rule.gpu_hours.is_some_and(|hours| hours > 0.0);
        some && !self.rule.borrow && self.is_spent()
    }
}

impl Limits {
    pub(in crate::sched::policy) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A job for which its project is charged already.
    pub(in crate::sched::policy) fn counts(&mut self, ix: JobIx, job: &Job) {
        let row = self.rows.contains_key(&job.project);
        if let Some(gpus) = job.charged.filter(|_| row) {
            let charge = Charge {
                project: job.project,
                gpus,
                unused: job.unused,
            };
            self.charges.insert(ix, charge);
        }
    }

    /// Whether a project may have one more job, with so many GPUs.
    pub(in crate::sched::policy) fn may_start(
        &mut self,
        then: Seconds,
        project: ProjectIx,
        gpus: u32,
    ) -> bool {
        let (half_life, ahead) = (self.half_life, self.ahead);
        self.rows.get_mut(&project).is_none_or(|row| {
            row.age(then, half_life, ahead);
            row.may_start(gpus, Part::default())
        })
    }

    /// It has one more.
    pub(in crate::sched::policy) fn start(
        &mut self,
        then: Seconds,
        (ix, project): (JobIx, ProjectIx),
        gpus: u32,
    ) {
        if self.rows.contains_key(&project) {
            let charge = Charge {
                project,
                gpus,
                unused: 0,
            };
            self.charges.insert(ix, charge);
            self.change(then, project, Change::Take(gpus));
        }
    }

    /// A job has gone.
    pub(in crate::sched::policy) fn end(&mut self, then: Seconds, ix: JobIx) {
        let Some(charge) = self.charges.remove(&ix) else {
            return;
        };
        self.change(then, charge.project, Change::Give(charge.gpus));
        if let Some(row) = self.rows.get_mut(&charge.project) {
            row.unused = row.unused.saturating_sub(charge.unused);
        }
    }

    fn change(&mut self, then: Seconds, project: ProjectIx, change: Change) {
        if let Some(row) = self.rows.get_mut(&project) {
            row.age(then, self.half_life, self.ahead);
            row.gpus = change.of(row.gpus);
            row.running = change.of_jobs(row.running);
        }
    }

    /// When GPU-hours are a project's own again that are used up then.
    pub(in crate::sched::policy) fn renewal(&mut self, then: Seconds) -> Option<Seconds> {
        let (half_life, ahead) = (self.half_life, self.ahead);
        let rows = self.rows.values_mut();
        let spent = rows.filter_map(|row| {
            row.age(then, half_life, ahead);
            let spent = row.waits_for_renewal();
            spent.then(|| row.span(then, ahead).1)
        });
        spent.min()
    }
}
