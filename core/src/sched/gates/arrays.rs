//! The places of arrays that have a limit: who has one, and who is next.

use std::collections::BTreeSet;

use super::{Gates, Opened};
use crate::{ids::JobId, time::Timestamp};

/// The jobs of an array that has a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// Let through, and not ended.
    pub(super) out: BTreeSet<JobId>,
    /// Held back by the limit alone, by index.
    ready: BTreeSet<(u32, JobId)>,
    /// When one of them ended last.
    pub(super) freed_at: Option<Timestamp>,
}

impl Gates {
    /// One of an array has ended.
    pub fn member_ended(&mut self, array: JobId, at: Timestamp) {
        let members = self.arrays.entry(array).or_default();
        members.freed_at = members.freed_at.max(Some(at));
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
        let has = members.out.contains(&job) || members.out.len() < most;
        if has {
            members.out.insert(job);
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
            if members.out.remove(&job) {
                self.freed.insert(array);
            }
        }
    }
}
