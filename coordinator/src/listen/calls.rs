//! What one connection is doing: which calls are open, and whether their answers are being taken.
//!
//! Owns when a connection counts as idle or as stalled. Closes nothing and never looks into an answer.
//! Called by `connection`.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// A call is open and its answer moves, or one ended a moment ago.
    Something,
    /// Nothing was asked for a while.
    Nothing,
    /// What was answered is not being taken.
    Stalled,
}

/// How long a connection may do nothing, and how long an answer may lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) idle: Duration,
    pub(super) stall: Duration,
}

impl Patience {
    /// How often connections are looked at.
    pub(super) fn look(self) -> Duration {
        let least = Duration::from_millis(100);
        (self.idle.min(self.stall) / 4).clamp(least, Duration::from_secs(15))
    }
}

/// The calls of a connection.
#[derive(Debug)]
pub(super) struct Calls(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    next: u64,
    /// Of each open call, since when a part of its answer lies there.
    open: BTreeMap<u64, Option<Instant>>,
    quiet_since: Instant,
}

/// One open call.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    number: u64,
}

/// The answer of a call, which is open until all of it was handed over.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) call: Call,
}

impl Calls {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            next: 0,
            open: BTreeMap::new(),
            quiet_since: Instant::now(),
        })))
    }

    pub(super) fn begin(self: &Arc<Self>) -> Call {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next = number.wrapping_add(1);
        inner.open.insert(number, None);
        Call {
            calls: Arc::clone(self),
            number,
        }
    }

    pub(super) fn doing(&self, now: Instant, patience: Patience) -> Doing {
        let inner = self.inner();
        let late = |since: &Instant| now.saturating_duration_since(*since) > patience.stall;
        if inner.open.values().flatten().any(late) {
            return Doing::Stalled;
        }
        if !inner.open.is_empty() {
            return Doing::Something;
        }
        // Answers that were handed over whole may still lie in buffers: then closing it in order has
        // no end.
        let quiet = now.saturating_duration_since(inner.quiet_since);
        if quiet > patience.idle.saturating_add(patience.stall) {
            Doing::Stalled
        } else if quiet > patience.idle {
            Doing::Nothing
        } else {
            Doing::Something
        }
    }

    fn lies(&self, number: u64, since: Option<Instant>) {
        if let Some(state) = self.inner().open.get_mut(&number) {
            *state = since;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut inner = self.calls.inner();
        inner.open.remove(&self.number);
        inner.quiet_since = Instant::now();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    /// The next part is asked for when there is room for it: until then the last one lies.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let handed = matches!(polled, Poll::Ready(Some(Ok(_))));
        let since = handed.then(Instant::now);
        self.call.calls.lies(self.call.number, since);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(600),
        stall: Duration::from_secs(60),
    };

    #[tokio::test]
    async fn a_stream_without_news_is_no_stall_and_an_answer_that_lies_is_one() {
        let calls = Calls::new();
        let call = calls.begin();
        let much_later = Instant::now() + Duration::from_secs(86_400);
        assert_eq!(calls.doing(much_later, PATIENCE), Doing::Something);
        calls.lies(call.number, Some(Instant::now()));
        let soon = Instant::now() + Duration::from_secs(30);
        assert_eq!(calls.doing(soon, PATIENCE), Doing::Something);
        assert_eq!(calls.doing(much_later, PATIENCE), Doing::Stalled);
        calls.lies(call.number, None);
        assert_eq!(calls.doing(much_later, PATIENCE), Doing::Something);
    }

    #[tokio::test]
    async fn a_connection_without_calls_is_idle_and_then_ended() {
        let calls = Calls::new();
        drop(calls.begin());
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(calls.doing(after(500), PATIENCE), Doing::Something);
        assert_eq!(calls.doing(after(630), PATIENCE), Doing::Nothing);
        assert_eq!(calls.doing(after(700), PATIENCE), Doing::Stalled);
    }
}
