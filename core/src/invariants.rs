//! The invariants of the design by their names, and those that a step of one job can break.
//!
//! Pure. A step that breaks one is a bug of ours: the coordinator counts it and goes on. INV-01 and INV-02 are the
//! ledger's, which knows all jobs; INV-06, INV-08 and INV-09 are about more than one moment, and checked in simulation.

use crate::job::{Job, JobState};

/// What holds at every moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A GPU belongs to at most one live attempt.
    OneHolder,
    /// What is given of a node never exceeds what it has.
    Capacity,
    /// An accepted job exists after any crash.
    Accepted,
    /// A terminal state is never left.
    Final,
    /// A gang starts whole or not at all.
    Whole,
    /// Results of a fenced attempt change nothing.
    Fenced,
}

impl Invariant {
    /// Those that a coordinator can see broken while it works.
    pub const ALL: [Self; 6] = [
        Self::OneHolder,
        Self::Capacity,
        Self::Accepted,
        Self::Final,
        Self::Whole,
        Self::Fenced,
    ];

    /// As the design and the figures call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OneHolder => "INV-01",
            Self::Capacity => "INV-02",
            Self::Accepted => "INV-03",
            Self::Final => "INV-04",
            Self::Whole => "INV-05",
            Self::Fenced => "INV-07",
        }
    }

    /// The one whose name words begin with, as the ledger's do.
    #[must_use]
    pub fn named_in(words: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| words.starts_with(one.name()))
    }
}

/// Those that a step from `before` to `after` has broken; none, unless there is a bug.
#[must_use]
pub fn broken_by(before: &Job, after: &Job) -> Vec<Invariant> {
    let mut broken = Vec::new();
    let left = before.state.is_terminal() && after.state != before.state;
    // A user's wish to run it again is no report.
    if left && after.asked_at == before.asked_at {
        broken.push(Invariant::Final);
    }
    let over = before.attempts.len().saturating_sub(1);
    let mut fenced = before.attempts.iter().zip(&after.attempts).take(over);
    if after.attempts.len() < before.attempts.len() || fenced.any(|(old, new)| old != new) {
        broken.push(Invariant::Fenced);
    }
    let placed = after.attempts.len() > before.attempts.len();
    let runs = after.state == JobState::Running && before.state != JobState::Running;
    let partly = after.live().is_some_and(|live| {
        // How many nodes a total of GPUs takes is the policy's to say.
        let counted = after.spec.placement.gpus_total.is_none();
        let too_few = placed && counted && live.world_size() != after.spec.nodes.max(1);
        too_few || (runs && live.started_at().is_none())
    });
    if partly {
        broken.push(Invariant::Whole);
    }
    broken
}
