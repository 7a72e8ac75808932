//! Which orders are new, and what becomes of the tasks that the coordinator has all of.
//!
//! Owns that no two tasks have one folder: numbers come twice where the coordinator's store was restored from a backup.
//! Called by Runs alone.

use std::sync::Arc;

use trainyard_core::{failure::StopCause, ids::TaskKey, task::Phase};

use super::{RunsMsg, RunsRef, State, has_ended};
use crate::{
    actors::run::blocking,
    folder::{Order, TaskFolder},
};

impl State {
    /// What is to be run of an order, unless it is known, or has to wait. From here on the coordinator is told of it: one
    /// that comes back meanwhile and hears of no such task takes it for gone, and may give its place away.
    pub(super) fn takes(&mut self, myself: &RunsRef, order: Arc<Order>) -> Option<Arc<Order>> {
        let task = order.task;
        let known = self.entries.get(&task);
        if let Some(entry) = known {
            // Of an order that cannot be read nobody can say.
            let other = |known: &Arc<Order>| known.secret.expose() != order.secret.expose();
            if !entry.order.as_ref().is_some_and(other) {
                return None;
            }
            if !self.is_given_way(myself, task) {
                return None;
            }
        }
        self.tell(task, Phase::Preparing, String::new());
        if let Some(waits) = self.going.get_mut(&task) {
            *waits = Some(order);
            return None;
        }
        tracing::info!(%task, framework = order.spec.framework, "task begins");
        Some(order)
    }

    /// Numbers come twice where the coordinator's store was restored from a backup: it does not mean the task that is here
    /// by this number. One that has ended is forgotten for it. One that runs is stopped, and what is told of its end says
    /// so: upon that the coordinator begins another attempt, which has a number of its own.
    fn is_given_way(&mut self, myself: &RunsRef, task: TaskKey) -> bool {
        tracing::warn!(%task, "another task of this number is here, from before the coordinator's store was restored");
        if has_ended(&self.node, task) {
            self.forget(myself, task);
            return true;
        }
        self.stop(task, StopCause::Fenced, None);
        false
    }

    /// Only what has ended is forgotten. What the job made lies elsewhere and stays.
    pub(super) fn forget(&mut self, myself: &RunsRef, task: TaskKey) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        if !has_ended(&self.node, task) {
            tracing::warn!(%task, "is to be forgotten but has not ended; it stays");
            return;
        }
        let node = &self.node;
        if let Some(order) = &entry.order {
            node.registry.unregister(order.secret.expose());
        }
        let spool = node.board.spool_of(task);
        node.board.remove(task);
        // One that has failed may have left another spool open.
        let whole = entry.failures == 0;
        self.entries.remove(&task);
        self.doubt();
        let (node, folder) = (Arc::clone(node), TaskFolder::of(&node.tasks(), task));
        self.going.insert(task, None);
        let myself = myself.clone();
        self.tasks.spawn(async move {
            let closed = match spool {
                Some(spool) => spool.close().await.is_ok(),
                None => false,
            };
            let remove = move || folder.remove(Some(&node.spares).filter(|_| whole && closed));
            if let Err(error) = blocking(remove).await {
                tracing::warn!(%task, %error, "the folder of a forgotten task cannot be removed now");
            }
            // Nobody is there any more only when the agent ends.
            myself.cast(RunsMsg::Removed(task)).ok();
        });
    }
}
