//! Who goes so that another of its project may start: a project at its limit has no more by it.
//!
//! Looks only: `preempt` decides whether the claimant then fits, and who of them may stay after all. Called by `preempt`.

use std::cmp::Reverse;

use super::{
    clearing::{Cost, Room},
    cluster::{JobIx, Piece},
    config::Seconds,
    pass::Head,
    preempt::{Claimant, Standing, Standings},
    projects::Part,
    scheduler::Scheduler,
};

impl Scheduler {
    /// The first of a lane whose project is at its limit, and the cheapest of its project's jobs that would have to go for it:
    /// those whom it may push out as if there were no limit. Nothing where these are too few.
    pub(super) fn exchange(
        &self,
        now: Seconds,
        head: &Head,
        standings: &Standings,
    ) -> Option<(Claimant, Room)> {
        let (project, gpus) = {
            let job = self.job(head.job);
            (job.project, self.least(job))
        };
        let excess = self.projects.excess(project, gpus)?;
        let mut claimant = self.claimant(now, head);
        let running = self.running.iter();
        let standing = |ix: &JobIx| Some((*ix, *standings.get(*ix)?.as_ref()?));
        let own = running.filter_map(standing);
        let own = own.filter(|(_, standing)| standing.project == project);
        let mut line: Vec<(JobIx, Standing)> = own.collect();
        line.sort_by_key(|(ix, of)| (Cost::of(of, false).for_each(of.gpus), *ix));
        let mut gone = Part::default();
        let mut chosen: Vec<(JobIx, Standing)> = Vec::new();
        for (ix, standing) in line {
            if gone.covers(excess) {
                break;
            }
            let after = gone.with(standing.gpus);
            // What it gives back for this it does not borrow any more.
            let given = after.gpus.max(excess.gpus);
            claimant.standing.borrows = self.projects.borrows_after(project, gpus, given);
            let helps = standing.gpus > 0 || gone.jobs < excess.jobs;
            if helps && self.may_push(&claimant.standing, &standing) {
                gone = after;
                chosen.push((ix, standing));
            }
        }
        if !gone.covers(excess) {
            return None;
        }
        let room = fewest(chosen, excess);
        let given = room.part_of(project).gpus;
        claimant.standing.borrows = self.projects.borrows_after(project, gpus, given);
        Some((claimant, room))
    }

    /// Whether its project may have one more as things are.
    pub(super) fn is_within_limits(&self, claimant: &Claimant) -> bool {
        let job = self.job(claimant.job);
        self.projects.may_start(job.project, self.least(job))
    }

    /// Whether its project may have these once those have gone who are to.
    pub(super) fn may_hold_after(&self, ix: JobIx, pieces: &[Piece], room: &Room) -> bool {
        let project = self.job(ix).project;
        let gpus = pieces.iter().map(|piece| piece.gpus).sum();
        self.projects
            .may_start_after(project, gpus, room.part_of(project))
    }
}

/// The last of them may bring so much that an earlier one is not needed; the dearest stay first.
fn fewest(chosen: Vec<(JobIx, Standing)>, excess: Part) -> Room {
    let mut stay: Vec<JobIx> = Vec::new();
    let mut order: Vec<(JobIx, Standing)> = chosen.clone();
    order.sort_by_key(|(ix, of)| (Reverse(Cost::of(of, false)), *ix));
    let without = |stay: &[JobIx]| {
        let rest = chosen.iter().filter(|(ix, _)| !stay.contains(ix));
        rest.fold(Part::default(), |sum, (_, of)| sum.with(of.gpus))
    };
    for (ix, _) in order {
        stay.push(ix);
        if !without(&stay).covers(excess) {
            stay.pop();
        }
    }
    let mut room = Room::default();
    for (ix, standing) in chosen.iter().filter(|(ix, _)| !stay.contains(ix)) {
        room.push_out(*ix, *standing);
    }
    room
}
