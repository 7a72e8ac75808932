//! Since when nothing is in the way of a job any more: before that it has not waited for nodes.
//!
//! Owns that a start anew finds the same moments as those that were seen. Part of the gates.

use super::{Gates, Stage};
use crate::{ids::JobId, time::Timestamp};

impl Gates {
    /// When the last thing went that was in the way of a job: its moment came, who it waits for ended, or one of its
    /// array did, whose place it has.
    pub(super) fn moment(&self, job: JobId) -> Option<Timestamp> {
        let entry = self.jobs.get(&job)?;
        let gate = &entry.gate;
        let ends = gate
            .awaited()
            .filter_map(|other| self.standings.get(&other)?.1);
        let freed = gate.limited().and_then(|(array, index, at_most)| {
            let members = self.arrays.get(&array)?;
            // Who was seen to wait comes now, behind all that were let through.
            members.freed_at(at_most, entry.waited, index)
        });
        ends.chain(gate.not_before).chain(freed).max()
    }

    /// Notes since when nothing was in the way of one that had a place already, once that is known of all that it waited
    /// for; whether it was noted now.
    pub(super) fn date(&mut self, job: JobId) -> bool {
        let Some(entry) = self.jobs.get(&job) else {
            return false;
        };
        let Stage::Placed(at) = entry.stage else {
            return false;
        };
        let unknown = |other: JobId| !self.standings.contains_key(&other);
        if !entry.dated && entry.gate.awaited().any(unknown) {
            return false;
        }
        let since = match entry.dated {
            true => entry.since,
            false => self.moment(job).map(|since| since.min(at)),
        };
        self.unwatch(job);
        match self.jobs.get_mut(&job) {
            Some(entry) => {
                let news = entry.since != since;
                (entry.since, entry.dated) = (since, true);
                news
            }
            None => false,
        }
    }
}
