//! When to try again what the network has refused. Called by the manifest's reader, the downloads and
//! the uploads.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);

/// Whether another try may help against a refusal of the coordinator.
pub(super) fn may_pass(status: &Status) -> bool {
    let passing = [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Unknown,
        Code::Internal,
    ];
    passing.contains(&status.code())
}

/// Waits between tries, until there was no progress for too long.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Duration,
    since: Instant,
    failures: u32,
}

impl Retry {
    /// Gives up after `patience` without progress.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: Instant::now(),
            failures: 0,
        }
    }

    /// Something went well.
    pub(super) fn progress(&mut self) {
        self.since = Instant::now();
        self.failures = 0;
    }

    /// Waits; false when it has been tried for long enough.
    pub(super) async fn again(&mut self) -> bool {
        if self.since.elapsed() >= self.patience {
            return false;
        }
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(most.mul_f64(rand::random_range(0.5..=1.0))).await;
        true
    }
}
