//! What is in the way of a job, in words. Changes nothing.

use super::{Gate, Gates, Standing};
use crate::{ids::JobId, time::Timestamp};

impl Gates {
    /// Why a job is held back, for people; none when it is not.
    #[must_use]
    pub fn why(&self, job: JobId, now: Timestamp) -> Option<String> {
        if let Some(words) = self.never(job) {
            return Some(format!("never starts: {words}"));
        }
        let entry = self.jobs.get(&job).filter(|_| self.holds(job))?;
        let gate = &entry.gate;
        let mut words = Vec::new();
        let unmet: Vec<String> = self.unmet(gate).collect();
        if let Some(shown) = unmet.get(..3).filter(|_| unmet.len() > 3) {
            words.push(format!(
                "waits for {} and {} others",
                shown.join(", "),
                unmet.len() - 3
            ));
        } else if !unmet.is_empty() {
            words.push(format!("waits for {}", unmet.join(" and for ")));
        }
        let early = gate.not_before.filter(|then| now < *then && !entry.come);
        if let Some(then) = early {
            words.push(format!("not before {}", then.moment(now)));
        }
        if let (Some((array, _, at_most)), true) = (gate.limited(), words.is_empty()) {
            let out = self
                .arrays
                .get(&array)
                .map_or(0, |members| members.out.len());
            words.push(format!(
                "{out} of its array run or are next, and {at_most} at once is its limit"
            ));
        }
        if words.is_empty() {
            // A clock that is set, or the end of another job, has opened it since: the next look lets it through.
            words.push("what it waited for has come; it goes on within a minute".to_owned());
        }
        Some(words.join("; "))
    }

    /// The moment before which a job is held back, where nothing else holds it back.
    #[must_use]
    pub fn only_date(&self, job: JobId, now: Timestamp) -> Option<Timestamp> {
        let entry = self.jobs.get(&job)?;
        let gate = &entry.gate;
        let alone = self.never(job).is_none()
            && gate.limited().is_none()
            && self.unmet(gate).next().is_none();
        gate.not_before
            .filter(|then| alone && now < *then && !entry.come)
    }

    /// What a job waits for of others, each in words.
    pub(super) fn unmet<'g>(&'g self, gate: &'g Gate) -> impl Iterator<Item = String> + 'g {
        let open = |job: &&JobId| {
            let standing = self.standings.get(*job).map(|(standing, _)| standing);
            matches!(standing, None | Some(Standing::Open))
        };
        let after = gate.after.iter().filter(open);
        let any = gate.after_any.iter().filter(open);
        after
            .map(|job| format!("job {job} to succeed"))
            .chain(any.map(|job| format!("job {job} to end")))
    }

    /// Why the job will never start.
    pub(super) fn hopeless(&self, gate: &Gate) -> Option<String> {
        gate.after.iter().find_map(|job| {
            let became = match self.standings.get(job)?.0 {
                Standing::Open | Standing::Succeeded => return None,
                Standing::Failed => "has failed",
                Standing::Cancelled => "was cancelled",
                Standing::Unknown => "is not there any more",
            };
            Some(format!(
                "it was to start when job {job} has succeeded, and that {became}"
            ))
        })
    }
}
