//! What a pass decides. Complete: nothing is left to choose for whoever carries it out.

use super::{cluster::Piece, config::Seconds, reserve::NEVER};

/// Why a job starts now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Because {
    /// It was the first in the order that fitted.
    #[default]
    Turn,
    /// It had waited for so long that it went before others of its priority.
    Guard,
    /// It fits beside what is kept for this job, by the caller's number.
    Beside(u64),
    /// Others have made room for it.
    Room,
}

/// A job that starts now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which, by the caller's number.
    pub job: u64,
    /// What it holds: a piece of a node, in the order of ranks. Pieces of one node belong to one task.
    pub pieces: Vec<Piece>,
    /// Why now.
    pub because: Because,
    /// Its project uses more than its own by it.
    pub borrows: bool,
}

/// A job that is to save its work and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempt {
    /// Which, by the caller's number.
    pub job: u64,
    /// For whom.
    pub for_job: u64,
    /// What it holds was borrowed when it was chosen, after those who were chosen before it.
    pub borrowed: bool,
    /// It is expected to start again at once on other nodes.
    pub moves: bool,
}

/// Nodes that are kept for a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// For whom.
    pub job: u64,
    /// What it will hold.
    pub pieces: Vec<Piece>,
    /// When it is expected to start.
    pub then: Seconds,
}

impl Reservation {
    /// When it is expected to start; nothing where nobody knows when those who run there end.
    #[must_use]
    pub fn known(&self) -> Option<Seconds> {
        (self.then < NEVER).then_some(self.then)
    }
}

/// All that a pass decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// These start.
    pub starts: Vec<Start>,
    /// These make room; whoever they make room for starts in the pass after they are gone.
    pub preempts: Vec<Preempt>,
    /// Kept for a gang at the top.
    pub reservation: Option<Reservation>,
    /// A post-condition that does not hold, in words: a bug. Such a plan is not to be carried out.
    pub broken: Option<String>,
}

impl Plan {
    /// Why the job that was started last is.
    pub(super) fn because(&mut self, because: Because) {
        if let Some(start) = self.starts.last_mut() {
            start.because = because;
        }
    }

    /// Nothing to carry out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.preempts.is_empty()
    }
}
