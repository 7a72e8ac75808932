//! Submissions with a key that are on their way to the disk: whoever comes with the same key waits for the first one's job.
//!
//! Owns who waits, not which keys there are: that stands in the store. Never answers before the commit. The supervisor of
//! jobs begins and joins; the committing thread ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ractor::RpcReplyPort;
use trainyard_core::job::Job;

use crate::actors::scheduler::answer;

type Waiting = Vec<RpcReplyPort<Job>>;

/// The keys under way, with those who came second. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(super) struct UnderWay(Arc<Mutex<BTreeMap<String, Waiting>>>);

/// One submission under way. Dropped without its job, since its commit has failed, it drops whoever waits: that tells them.
#[derive(Debug)]
pub(super) struct First {
    all: UnderWay,
    key: String,
}

impl UnderWay {
    /// Waits with the first one of this key; where there is none, the reply comes back.
    pub(super) fn join(&self, key: &str, reply: RpcReplyPort<Job>) -> Option<RpcReplyPort<Job>> {
        match self.lock().get_mut(key) {
            Some(waiting) => {
                waiting.push(reply);
                None
            }
            None => Some(reply),
        }
    }

    /// From now on this key is under way.
    pub(super) fn begin(&self, key: String) -> First {
        self.lock().insert(key.clone(), Vec::new());
        First {
            all: self.clone(),
            key,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl First {
    /// It is on disk: whoever asks from now on finds it there.
    pub(super) fn stored(self, job: &Job) {
        for reply in self.take() {
            answer(reply, job.clone());
        }
    }

    fn take(&self) -> Waiting {
        self.all.lock().remove(&self.key).unwrap_or_default()
    }
}

impl Drop for First {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use ractor::concurrency::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_submission_that_fails_takes_those_who_wait_for_it_along_and_the_next_is_a_first_one()
    {
        let all = UnderWay::default();
        let first = all.begin("k".to_owned());
        let (reply, answered) = oneshot::<Job>();
        assert!(all.join("k", reply.into()).is_none(), "it waits");
        drop(first);
        assert!(answered.await.is_err(), "it hears that there is no job");
        let (reply, _next) = oneshot::<Job>();
        assert!(all.join("k", reply.into()).is_some(), "nobody is under way");
    }
}
