//! Who waits for changes of which job.
//!
//! Owns one level-triggered number per watched job; entries that nobody watches are removed. Never
//! says what changed. Used by the store: readers subscribe, the committing thread bumps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use trainyard_core::ids::JobId;

/// Below this number of entries nothing is swept.
const SWEEP_FROM: usize = 64;

#[derive(Default)]
struct Entries {
    by_job: BTreeMap<JobId, watch::Sender<u64>>,
    sweep_at: usize,
}

#[derive(Default)]
pub(super) struct Watches(Mutex<Entries>);

impl Watches {
    pub(super) fn watch(&self, job: JobId) -> watch::Receiver<u64> {
        let mut entries = self.lock();
        if entries.by_job.len() >= entries.sweep_at.max(SWEEP_FROM) {
            entries
                .by_job
                .retain(|_, sender| sender.receiver_count() > 0);
            entries.sweep_at = entries.by_job.len() * 2;
        }
        let sender = entries
            .by_job
            .entry(job)
            .or_insert_with(|| watch::Sender::new(0));
        sender.subscribe()
    }

    pub(super) fn bump(&self, jobs: &BTreeSet<JobId>) {
        let mut entries = self.lock();
        for job in jobs {
            match entries.by_job.get(job) {
                Some(sender) if sender.receiver_count() > 0 => sender.send_modify(|n| *n += 1),
                Some(_) => drop(entries.by_job.remove(job)),
                None => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().by_job.len()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing that holds the lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
