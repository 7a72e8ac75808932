//! When to try again what the network has refused. Called by the manifest's reader, the downloads and
//! the uploads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);
/// How often bytes that moved, and came to nothing, are sent again when patience is over.
const MOST_SENT: u32 = 5;

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

/// When bytes last moved. A clone tells of the same ones.
#[derive(Clone, Debug)]
pub(super) struct Moved(Arc<Mutex<Instant>>);

impl Moved {
    /// Some have.
    pub(super) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When they did.
    pub(super) fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits between tries, until there was no progress for too long. A transfer may take longer than patience
/// does: one that broke off while it moved is tried again, some times.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Duration,
    since: Instant,
    moved: Moved,
    sent: u32,
    failures: u32,
}

impl Retry {
    /// Gives up after `patience` without progress.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: Instant::now(),
            moved: Moved(Arc::new(Mutex::new(Instant::now()))),
            sent: 0,
            failures: 0,
        }
    }

    /// To be told of bytes that move.
    pub(super) fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Something went well.
    pub(super) fn progress(&mut self) {
        self.since = Instant::now();
        self.sent = 0;
        self.failures = 0;
    }

    /// Waits; false when it has been tried for long enough.
    pub(super) async fn again(&mut self) -> bool {
        if self.since.elapsed() >= self.patience {
            let moves = self.moved.at().elapsed() < self.patience;
            if !moves || self.sent >= MOST_SENT {
                return false;
            }
            self.sent += 1;
        }
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(most.mul_f64(rand::random_range(0.5..=1.0))).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A retry that began so long ago.
    fn begun(ago: u64, patience: u64) -> Retry {
        let mut retry = Retry::new(Duration::from_secs(patience));
        let then = Instant::now().checked_sub(Duration::from_secs(ago));
        retry.since = then.unwrap();
        *retry.moved.0.lock().unwrap() = retry.since;
        retry
    }

    #[tokio::test]
    async fn what_moved_for_longer_than_patience_is_tried_again_and_not_for_ever() {
        let mut still = begun(1_000, 600);
        assert!(!still.again().await, "nothing has moved");
        let mut retry = begun(1_000, 600);
        for _ in 0..MOST_SENT {
            retry.moved().now();
            retry.failures = 0;
            assert!(retry.again().await);
        }
        retry.moved().now();
        assert!(!retry.again().await, "it comes to nothing each time");
        retry.progress();
        assert!(retry.again().await);
    }
}
