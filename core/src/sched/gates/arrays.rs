//! The places of arrays that have a limit: who has one, and who is next.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gates, Opened};
use crate::{ids::JobId, time::Timestamp};

/// The jobs of an array that has a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// Let through, and not ended; with their indexes.
    pub(super) out: BTreeMap<JobId, u32>,
    /// Held back by the limit alone, by index.
    ready: BTreeSet<(u32, JobId)>,
    /// When those ended that had a place, in order; with their indexes.
    ends: Vec<(Timestamp, u32)>,
}

impl Members {
    /// Whose end gave its place to one that is out: as many have ended since as were let through after it. They are in the
    /// order of their indexes, unless it is known that it was the last.
    pub(super) fn freed_at(&self, at_most: u32, last: bool, index: u32) -> Option<Timestamp> {
        let most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let out = self.out.values().filter(|other| **other > index).count();
        let ended = self.ends.iter().filter(|(_, other)| *other > index).count();
        let later = if last { 0 } else { out + ended };
        let back = most.saturating_add(later).saturating_sub(self.out.len());
        let place = self.ends.len().checked_sub(back.saturating_add(1))?;
        self.ends.get(place).map(|(at, _)| *at)
    }
}

impl Gates {
    /// One of an array that had a place has ended.
    pub fn member_ended(&mut self, array: JobId, index: u32, at: Timestamp) {
        let ends = &mut self.arrays.entry(array).or_default().ends;
        let place = ends.partition_point(|end| *end <= (at, index));
        ends.insert(place, (at, index));
    }

    /// Gives the places of an array that are free to its next ones.
    pub(super) fn refill(&mut self, array: JobId, now: Timestamp, opened: &mut Opened) {
        while let Some(members) = self.arrays.get_mut(&array) {
            let Some((index, job)) = members.ready.first().copied() else {
                if members.out.is_empty() {
                    self.arrays.remove(&array);
                }
                return;
            };
            members.ready.remove(&(index, job));
            if !self.is_met(job, now) {
                continue;
            }
            if !self.has_place(job) {
                return;
            }
            self.pass(job, now, opened);
        }
    }

    /// A place of the array, which the job has taken then; one without a limit always has one.
    pub(super) fn has_place(&mut self, job: JobId) -> bool {
        let limited = self.jobs.get(&job).and_then(|entry| entry.gate.limited());
        let Some((array, index, at_most)) = limited else {
            return true;
        };
        let members = self.arrays.entry(array).or_default();
        let most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let has = members.out.contains_key(&job) || members.out.len() < most;
        if has {
            members.out.insert(job, index);
            members.ready.remove(&(index, job));
        } else {
            members.ready.insert((index, job));
        }
        has
    }

    /// It takes no place of its array any more, and waits for none.
    pub(super) fn leave_array(&mut self, job: JobId) {
        let limited = self.jobs.get(&job).and_then(|entry| entry.gate.limited());
        let Some((array, index, _)) = limited else {
            return;
        };
        if let Some(members) = self.arrays.get_mut(&array) {
            members.ready.remove(&(index, job));
            if members.out.remove(&job).is_some() {
                self.freed.insert(array);
            }
        }
    }
}
