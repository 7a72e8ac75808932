//! Who goes so that another of its project may start: a project at its limit has no more by it.
//!
//! Looks only: `preempt` decides whether the claimant then fits, and who of them may stay after all. Called by `preempt`.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    clearing::{Cost, Room},
    cluster::{JobIx, Piece},
    config::Seconds,
    pass::Head,
    preempt::{Claimant, Failed, Standing, Standings},
    projects::{Part, ProjectIx},
    scheduler::Scheduler,
};

/// What would have had to go of a project in this round and could not, and for whom: nobody who may push out no more of them
/// is tried again.
pub(super) type Stuck = BTreeMap<ProjectIx, Vec<(Part, Failed)>>;

impl Scheduler {
    /// The first of a lane whose project is at its limit, and the cheapest of its project's jobs that would have to go for it:
    /// those whom it may push out as if there were no limit. Nothing where these are too few.
    pub(super) fn exchange(
        &self,
        now: Seconds,
        head: &Head,
        standings: &Standings,
        stuck: &mut Stuck,
    ) -> Option<(Claimant, Room)> {
        let (project, gpus) = {
            let job = self.job(head.job);
            (job.project, self.least(job))
        };
        let excess = self.projects.excess(project, gpus)?;
        let mut claimant = self.claimant(now, head);
        claimant.standing.exchanges = true;
        let stuck = stuck.entry(project).or_default();
        let known =
            |(part, failed): &(Part, Failed)| excess.covers(*part) && failed.speaks_for(&claimant);
        if stuck.iter().any(known) {
            return None;
        }
        let running = self.running.iter();
        let standing = |ix: &JobIx| Some((*ix, *standings.get(*ix)?.as_ref()?));
        let own = running.filter_map(standing);
        let own = own.filter(|(_, standing)| standing.project == project);
        let mut line: Vec<(JobIx, Standing)> = own.collect();
        // Where only jobs are too many each brings as much.
        let brings = |of: &Standing| if excess.gpus == 0 { 1 } else { of.gpus };
        line.sort_by_key(|(ix, of)| (Cost::of(of, false).for_each(brings(of)), *ix));
        let mut gone = Part::default();
        let mut chosen: Vec<(JobIx, Standing)> = Vec::new();
        for (ix, standing) in line {
            if gone.covers(excess) {
                break;
            }
            let after = gone.with(standing.gpus);
            let helps = standing.gpus > 0 || gone.jobs < excess.jobs;
            if helps && self.may_push(&claimant.standing, &standing) {
                gone = after;
                chosen.push((ix, standing));
            }
        }
        if !gone.covers(excess) {
            stuck.push((excess, Failed::whoever_moves(claimant.standing)));
            return None;
        }
        let room = fewest(chosen, excess);
        let given = room.part_of(project).gpus;
        // What is given back for this is not borrowed any more, and it stands in the order as one who has only that.
        let borrows = self.projects.borrows_after(project, gpus, given);
        claimant.standing.borrows = borrows;
        claimant.bound = self.kept.binds(&head.borrowing(borrows));
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
