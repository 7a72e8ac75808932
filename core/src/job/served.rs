//! What the attempts of a job that are over have come to: for how long those ran by which it goes on, and how many were in
//! vain. Derived from what is stored of them, so that it is the same after a restart of the coordinator.

use std::{collections::BTreeMap, time::Duration};

use super::{asked::LastAsked, attempt::Attempt};
use crate::{ids::AttemptNo, record::Checkpoint};

/// What attempts have come to that were tried again since a user asked for the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// For how long the trainers of those ran that led to the checkpoint from which the job goes on.
    pub has_run: Duration,
    /// How many made room for another since, and had saved nothing.
    pub in_vain: u32,
}

/// From where a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoesOn {
    /// From the beginning.
    Anew,
    /// From a checkpoint of this attempt.
    From(AttemptNo),
    /// From a checkpoint of which a row of an old version does not say whose it is.
    Somewhere,
}

impl GoesOn {
    /// By the checkpoint that is known to be in the artifact store, if it is to go on from one, and who has saved which.
    #[must_use]
    pub fn of(checkpoint: Option<&Checkpoint>, saved_in: &BTreeMap<String, AttemptNo>) -> Self {
        let saved = checkpoint.map(|saved| saved_in.get(&saved.path).copied());
        match saved {
            None => Self::Anew,
            Some(None) => Self::Somewhere,
            Some(Some(attempt)) => Self::From(attempt),
        }
    }
}

/// What those of these attempts have come to that are over, for a job that was asked for then.
#[must_use]
pub fn served(attempts: &[Attempt], asked: LastAsked, goes_on: GoesOn) -> Served {
    let since = attempts.iter().rev();
    let mut since = since.filter(|attempt| asked.is_before(attempt)).peekable();
    let mut served = Served::default();
    let mut newest = match goes_on {
        GoesOn::Anew => AttemptNo(0),
        GoesOn::From(attempt) => attempt,
        GoesOn::Somewhere => AttemptNo(u32::MAX),
    };
    while let Some(vain) = since.next_if(|attempt| attempt.number > newest) {
        served.in_vain += u32::from(vain.tried_again && vain.makes_room_for.is_some());
    }
    for attempt in since {
        if attempt.number > newest {
            continue;
        }
        let span = attempt.ended_at().zip(attempt.started_at());
        let span = span.filter(|_| attempt.tried_again);
        served.has_run += span.map_or(Duration::ZERO, |(end, start)| end.since(start));
        if attempt.anew && goes_on != GoesOn::Somewhere {
            break;
        }
        // Those in between have saved nothing.
        newest = attempt.goes_on_from.unwrap_or(newest);
    }
    served
}
