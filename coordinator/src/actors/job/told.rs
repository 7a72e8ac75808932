//! In which sessions of their nodes the tasks of a job were last told of.
//!
//! Owns what tells a node that lost a task from one that heard of it since it registered: numbers of sessions ascend, times
//! of a clock that is set do not. Outlives the job's actor, whose failure must not make a task look lost. Kept by the
//! supervisor of jobs, written by the job's actor.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use trainyard_core::ids::{SessionNo, TaskKey};

/// Of the newest attempt. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<BTreeMap<TaskKey, SessionNo>>>);

impl Told {
    /// The task was told of in this session.
    pub(super) fn note(&self, task: TaskKey, session: SessionNo) {
        let mut told = self.lock();
        told.retain(|told, _| told.attempt == task.attempt);
        let last = told.entry(task).or_default();
        *last = session.max(*last);
    }

    /// Whether the task was told of in this session, or in a later one.
    pub(super) fn since(&self, task: TaskKey, session: SessionNo) -> bool {
        self.lock().get(&task).is_some_and(|told| *told >= session)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskKey, SessionNo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
