//! A circuit breaker: a service that fails again and again is left alone for a while, then tried by one
//! call. Pure but for its lock; time comes in as an argument. Called by the client of the Labeler.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The breaker. A clone shares its state.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    most: u32,
    span: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

/// Leave to call; what came of it is told by [`Permit::done`].
#[derive(Debug)]
pub(super) struct Permit {
    breaker: Breaker,
    probe: bool,
}

impl Breaker {
    /// Opens for `span` after `most` failures in a row.
    pub(super) fn new(most: u32, span: Duration) -> Self {
        Self {
            most,
            span,
            state: Arc::default(),
        }
    }

    /// Whether a call would be let through now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .open_until
            .is_some_and(|until| now < until || state.probing)
    }

    /// Leave to call; none while it is open, or another call is trying.
    pub(super) fn admit(&self, now: Instant) -> Option<Permit> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let probe = match state.open_until {
            None => false,
            Some(until) if now >= until && !state.probing => {
                state.probing = true;
                true
            }
            Some(_) => return None,
        };
        Some(Permit {
            breaker: self.clone(),
            probe,
        })
    }
}

impl Permit {
    /// What came of the call.
    pub(super) fn done(self, well: bool, now: Instant) {
        let breaker = self.breaker.clone();
        let mut state = breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
        if well {
            state.failures = 0;
            state.open_until = None;
        } else {
            state.failures = state.failures.saturating_add(1);
            if self.probe || state.failures >= breaker.most {
                state.open_until = Some(now + breaker.span);
            }
        }
        drop(state);
    }
}

impl Drop for Permit {
    /// A call that was given up says nothing, but the next one may try.
    fn drop(&mut self) {
        if self.probe {
            let state = self.breaker.state.lock();
            state.unwrap_or_else(PoisonError::into_inner).probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_call_tries_again() {
        let (breaker, start) = (Breaker::new(2, Duration::from_secs(30)), Instant::now());
        breaker.admit(start).unwrap().done(false, start);
        breaker.admit(start).unwrap().done(true, start);
        breaker.admit(start).unwrap().done(false, start);
        assert!(!breaker.is_open(start));
        breaker.admit(start).unwrap().done(false, start);
        assert!(breaker.is_open(start) && breaker.admit(start).is_none());
        let later = start + Duration::from_secs(30);
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_none(), "only one call tries");
        drop(probe);
        breaker.admit(later).unwrap().done(false, later);
        assert!(
            breaker.admit(later).is_none(),
            "a failed try opens it again"
        );
        let last = later + Duration::from_secs(30);
        breaker.admit(last).unwrap().done(true, last);
        assert!(!breaker.is_open(last));
    }
}
