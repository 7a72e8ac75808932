//! The states of a job and the one table of legal edges.

use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; what it needs is being found out.
    Pending,
    /// Waits for a node.
    Queued,
    /// Placed; its node fetches, builds and launches.
    Starting,
    /// The trainer process runs.
    Running,
    /// The trainer is gone; its last records are on their way.
    Finishing,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Stopped by a user.
    Cancelled,
}

use JobState::{Cancelled, Completed, Failed, Finishing, Pending, Queued, Running, Starting};

/// Every edge that exists. What is not here never happens. From finishing to queued goes a job that is tried again by
/// itself; the three last rows are a user's restart.
pub const EDGES: [(JobState, JobState); 17] = [
    (Pending, Queued),
    (Pending, Cancelled),
    (Queued, Starting),
    (Queued, Cancelled),
    (Starting, Running),
    (Starting, Finishing),
    (Starting, Failed),
    (Running, Finishing),
    (Running, Failed),
    (Finishing, Completed),
    (Finishing, Failed),
    (Finishing, Cancelled),
    (Finishing, Queued),
    (Starting, Cancelled),
    (Completed, Queued),
    (Failed, Queued),
    (Cancelled, Queued),
];

impl JobState {
    /// Every state, in the order of life.
    pub const ALL: [Self; 8] = [
        Pending, Queued, Starting, Running, Finishing, Completed, Failed, Cancelled,
    ];

    /// The name in tables and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Pending => "pending",
            Queued => "queued",
            Starting => "starting",
            Running => "running",
            Finishing => "finishing",
            Completed => "completed",
            Failed => "failed",
            Cancelled => "cancelled",
        }
    }

    /// The five words of the HTTP contract.
    #[must_use]
    pub fn contract_name(self) -> &'static str {
        match self {
            Pending | Queued | Starting => "pending",
            Running | Finishing => "running",
            Completed | Failed | Cancelled => self.name(),
        }
    }

    /// Completed, failed or cancelled.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Completed | Failed | Cancelled)
    }

    /// An attempt of it may hold GPUs, CPUs and memory.
    #[must_use]
    pub fn holds_resources(self) -> bool {
        matches!(self, Starting | Running | Finishing)
    }
}
