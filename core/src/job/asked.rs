//! Which of a job's attempts a user has last asked for.

use super::attempt::Attempt;
use crate::{ids::AttemptNo, time::Timestamp};

/// When a user last asked for a job to run. The clock may have been set back since, or forward before: which attempts
/// came later is told by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAsked {
    /// When.
    pub at: Timestamp,
    /// The newest attempt by then, 0 for none; a row of an older version does not say it.
    pub had: Option<AttemptNo>,
}

impl LastAsked {
    /// Whether the attempt was placed since.
    #[must_use]
    pub fn is_before(self, attempt: &Attempt) -> bool {
        match self.had {
            Some(had) => attempt.number > had,
            None => attempt.placed_at >= self.at,
        }
    }

    /// Whether it was asked for when this attempt was over, and before the next one.
    #[must_use]
    pub fn is_between(self, over: &Attempt, next: &Attempt) -> bool {
        match self.had {
            Some(had) => over.number <= had && next.number > had,
            None => {
                let ended = over.ended_at().unwrap_or(over.placed_at);
                ended <= self.at && self.at <= next.placed_at
            }
        }
    }

    /// When the first of these attempts was placed that came since.
    #[must_use]
    pub fn placed(self, attempts: &[Attempt]) -> Option<Timestamp> {
        let mut since = attempts.iter().filter(|attempt| self.is_before(attempt));
        since.next().map(|attempt| attempt.placed_at)
    }
}
