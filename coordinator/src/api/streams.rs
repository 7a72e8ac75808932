//! Places for streams: how many may be followed at once, in all and by one caller.
//!
//! Owns the counts and the words of the refusal. Never reads a stream. Called by the service; a stream
//! holds its [`Following`] until its end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller};

/// All places for streams.
#[derive(Debug)]
pub(super) struct Streams {
    all: Arc<Semaphore>,
    most: usize,
    each: usize,
    /// By the number of the user; all who are not known are one.
    by_caller: Mutex<BTreeMap<u64, usize>>,
}

/// One stream's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Following {
    _all: OwnedSemaphorePermit,
    streams: Arc<Streams>,
    user: u64,
}

impl Streams {
    /// `most` in all, `each` for a caller.
    pub(super) fn new(most: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(most)),
            most,
            each,
            by_caller: Mutex::default(),
        })
    }

    /// A place, if there is one.
    ///
    /// # Errors
    /// Names the setting that is reached.
    pub(super) fn take(self: &Arc<Self>, caller: &Caller) -> Result<Following, ApiError> {
        let refused = |words| Err(ApiError::new(Kind::Exhausted, words));
        let user = caller.user.id;
        let mut taken = self
            .by_caller
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if taken.get(&user).is_some_and(|count| *count >= self.each) {
            return refused(format!(
                "you follow {} streams already (limits.streams_per_caller); close some",
                self.each
            ));
        }
        let Ok(all) = Arc::clone(&self.all).try_acquire_owned() else {
            return refused(format!(
                "{} streams are followed already (limits.streams); close some",
                self.most
            ));
        };
        *taken.entry(user).or_default() += 1;
        Ok(Following {
            _all: all,
            streams: Arc::clone(self),
            user,
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let by_caller = &self.streams.by_caller;
        let mut taken = by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.user);
            }
        }
    }
}
