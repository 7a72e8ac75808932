//! Waiting for a condition, bounded. No test sleeps for a guess.

use std::{future::Future, time::Duration};

/// How long a condition may take before the test fails. Generous: a busy machine is no error.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks `probe` until it answers, every few milliseconds; fails with `what` after [`LIMIT`].
///
/// # Panics
/// When the condition does not come true in time.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, probe: impl FnMut() -> F) -> T {
    until_within(LIMIT, what, probe).await
}

/// As [`until`], for what takes longer: a server that imports half of Python.
///
/// # Panics
/// When the condition does not come true in time.
pub async fn until_within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let asking = async {
        loop {
            tick.tick().await;
            if let Some(found) = probe().await {
                return found;
            }
        }
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(found) => found,
        Err(_) => panic!("after {limit:?} still not: {what}"),
    }
}
