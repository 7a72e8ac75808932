//! For what a job's project is charged, and what of that counts as used.
//!
//! Owns that every charge is taken back once. A project is charged from when nodes are chosen for its job until that has
//! gone; GPU-hours and fair share count only while the job has them, and nobody else. Part of the scheduler.

use super::{cluster::JobIx, config::Seconds, projects::Change, scheduler::Scheduler};

impl Scheduler {
    /// From now on its project is charged for it, or is not; told twice, it counts once.
    pub(super) fn charge(&mut self, now: Seconds, ix: JobIx, on: bool) {
        self.recount(now, ix, on.then_some(0));
    }

    /// As above, for no fewer GPUs than so many: of a gang of which a part has ended, for what it has still.
    pub(super) fn charge_at_least(&mut self, now: Seconds, ix: JobIx, least: u32) {
        self.recount(now, ix, Some(least));
    }

    fn recount(&mut self, now: Seconds, ix: JobIx, least: Option<u32>) {
        let job = self.job(ix);
        let held: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
        let project = job.project;
        let (charged, change) = match (job.charged, least) {
            (None, Some(least)) => {
                let gpus = held.max(least);
                (Some(gpus), Change::Take(gpus))
            }
            (Some(gpus), None) => (None, Change::Give(gpus)),
            (Some(_), Some(_)) | (None, None) => return,
        };
        self.counts_as_used(now, ix, true);
        self.job_mut(ix).charged = charged;
        let half_life = self.config.half_life;
        self.projects.hold(project, change, now, half_life);
        if let Some(going) = self.job_mut(ix).going.take() {
            self.projects.goes(project, Change::Give(going));
        }
    }

    /// A job was told to go. Its project is charged until it has gone; what it has counts as given back.
    pub(super) fn gives_up(&mut self, ix: JobIx) {
        let job = self.job_mut(ix);
        let project = job.project;
        let gpus = job.charged.unwrap_or(0);
        let change = match job.going.replace(gpus) {
            Some(before) => Change::Resize(before, gpus),
            None => Change::Take(gpus),
        };
        self.projects.goes(project, change);
    }

    /// A job that runs has given so many back, or is known only now to have more than it asked for: its project is charged
    /// for what it has.
    pub(super) fn recharge(&mut self, now: Seconds, ix: JobIx, given: u32) {
        let job = self.job_mut(ix);
        let project = job.project;
        let has: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
        let Some(before) = job.charged else {
            return;
        };
        let rest = before.saturating_sub(given).max(has);
        if rest == before {
            return;
        }
        job.charged = Some(rest);
        let (change, half_life) = (Change::Resize(before, rest), self.config.half_life);
        self.projects.hold(project, change, now, half_life);
        if self.job(ix).unused > 0 {
            self.counts_as_used(now, ix, false);
        }
    }

    /// What its project is charged for by a job counts as used from now on, or does not yet, as others hold it still.
    pub(super) fn counts_as_used(&mut self, now: Seconds, ix: JobIx, on: bool) {
        let half_life = self.config.half_life;
        let job = self.job_mut(ix);
        let unused = job.charged.filter(|_| !on).unwrap_or(0);
        let before = std::mem::replace(&mut job.unused, unused);
        let project = job.project;
        if before != unused {
            let change = Change::Resize(before, unused);
            self.projects.waits_for(project, change, now, half_life);
        }
    }
}
