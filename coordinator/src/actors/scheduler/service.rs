//! What the scheduler does when nodes change, go out of service, or will.
//!
//! Decides nothing: core says what a node does, and the supervisor of nodes tells it. Called by the scheduler.

use std::collections::BTreeSet;

use trainyard_core::{ids::NodeName, job::Event, service::Window};

use super::State;
use crate::{actors::job::JobMsg, clock};

impl State {
    /// Told again and again; who goes already need not hear of it.
    pub(super) fn vacate(&self, name: &NodeName, why: &str) {
        let on_it = self.jobs_on(name).into_iter();
        for job in on_it.filter(|job| !self.going.contains(job)) {
            if let Some(attempt) = self.attempts.get(&job).copied() {
                let event = Event::Vacate(attempt, why.to_owned());
                self.tell(job, JobMsg::Event(event, None));
            }
        }
    }

    pub(super) fn set_windows(&mut self, windows: Vec<Window>) {
        self.planner.set_windows(clock::now(), windows);
        self.dirty = true;
    }

    pub(super) fn set_address(&mut self, name: &NodeName, address: String) {
        self.planner.set_address(clock::now(), name, address);
        self.dirty = true;
    }

    pub(super) fn block(&mut self, name: &NodeName, gpus: BTreeSet<String>) {
        self.planner.block(clock::now(), name, gpus);
        self.dirty = true;
    }

    pub(super) fn set_labels(&mut self, name: &NodeName, labels: BTreeSet<String>) {
        self.planner.set_labels(clock::now(), name, labels);
        self.dirty = true;
    }
}
