//! Which orders are new, and what becomes of the tasks that the coordinator has all of.
//!
//! Owns that no two tasks have one folder: numbers come twice where the coordinator's store was restored from a backup.
//! Called by Runs alone.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::TaskKey,
    task::{Ended, Phase},
};

use super::{
    Entry, RunsMsg, RunsRef, State, has_ended,
    trouble::{ALONE_AT_LATEST, BORNE, RESTART_AFTER},
};
use crate::{
    actors::{node::Node, run::blocking},
    clock,
    dataset::Told,
    folder::{Order, TaskFolder},
};

/// A forgotten task whose folder has not gone yet.
#[derive(Debug, Default)]
pub(super) struct Going {
    /// The order that waits for its place, and since when.
    waits: Option<(Arc<Order>, Instant)>,
}

impl Going {
    /// A repeated order has waited for as long as the first one.
    fn park(&mut self, order: Arc<Order>) {
        let since = self.waits.take().map(|(_, since)| since);
        self.waits = Some((order, since.unwrap_or_else(Instant::now)));
    }

    /// Whether what waits has waited for too long; none where nothing does.
    fn is_late(&self, now: Instant) -> Option<bool> {
        let (_, since) = self.waits.as_ref()?;
        Some(now.duration_since(*since) >= BORNE)
    }

    fn take(&mut self) -> Option<Arc<Order>> {
        self.waits.take().map(|(order, _)| order)
    }
}

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
        if let Some(going) = self.going.get_mut(&task) {
            going.park(order);
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
        if self.going.contains_key(&task) {
            // An order that had no folder: the one that is there is being removed already.
            return;
        }
        self.going.insert(task, Going::default());
        let (node, myself, end) = (Arc::clone(&self.node), myself.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let closed = match spool {
                Some(spool) => spool.close().await.is_ok(),
                None => false,
            };
            remove(task, (node, whole && closed), (myself, end)).await;
        });
    }

    /// Folders of no task that a start could not remove: no order begins in one of them.
    pub(super) fn remove_left(&mut self, myself: &RunsRef, left: Vec<TaskKey>) {
        for task in left {
            self.going.insert(task, Going::default());
            let (node, myself, end) = (Arc::clone(&self.node), myself.clone(), self.end.clone());
            self.tasks.spawn(async move {
                remove(task, (node, false), (myself, end)).await;
            });
        }
    }

    /// The folder of a forgotten task has gone: the order that has waited for its place.
    pub(super) fn has_gone(&mut self, task: TaskKey) -> Option<Arc<Order>> {
        self.going.remove(&task)?.take()
    }

    /// The folder of a forgotten task cannot be removed. What waits for its place must not begin in it, among what the other
    /// one has left; it waits for as long as any task that cannot begin.
    pub(super) fn stays(&mut self, task: TaskKey, why: &str) {
        let words =
            format!("the folder of an earlier task of this number cannot be removed: {why}");
        let going = self.going.get(&task);
        match going.and_then(|going| going.is_late(Instant::now())) {
            None => {}
            Some(false) => self.tell(task, Phase::Preparing, words),
            Some(true) => {
                let end = TaskEnd {
                    error: Some(format!(
                        "node {} cannot begin this task: {words}",
                        self.node.name
                    )),
                    infrastructure: true,
                    node_fault: true,
                    ..TaskEnd::default()
                };
                self.end_waiting(task, end);
            }
        }
    }

    /// What waits for its place ends as it is told to.
    pub(super) fn stop_waiting(&mut self, task: TaskKey, cause: StopCause) {
        let end = TaskEnd {
            stop_cause: Some(cause),
            ..TaskEnd::default()
        };
        self.end_waiting(task, end);
    }

    /// It has neither a run nor a folder, and so no records that anybody would wait for.
    fn end_waiting(&mut self, task: TaskKey, end: TaskEnd) {
        let going = self.going.get_mut(&task);
        let Some(order) = going.and_then(Going::take) else {
            return;
        };
        tracing::info!(%task, "task ends before it has begun");
        let ended = Ended {
            started: None,
            at: clock::now(),
            end,
        };
        self.entries
            .insert(task, Entry::new(Some(order), Told::default()));
        self.tell(task, Phase::Ended(Box::new(ended)), String::new());
    }
}

/// Removes a folder, however often that has to be tried, and says that it has gone.
async fn remove(
    task: TaskKey,
    (node, reuse): (Arc<Node>, bool),
    (runs, end): (RunsRef, CancellationToken),
) {
    let mut pause = RESTART_AFTER;
    loop {
        let on = Arc::clone(&node);
        let work = move || {
            let folder = TaskFolder::of(&on.tasks(), task);
            let removed = folder.remove(Some(&on.spares).filter(|_| reuse));
            if removed.is_err() {
                // Else the next life of this agent would tell the end of the task that was forgotten, perhaps as that of
                // the order that waits for its place.
                folder.void().ok();
            }
            removed
        };
        let Err(error) = blocking(work).await else {
            // Nobody is there any more only when the agent ends.
            runs.cast(RunsMsg::Removed(task)).ok();
            return;
        };
        if pause == RESTART_AFTER {
            tracing::warn!(%task, %error, "the folder of a forgotten task cannot be removed now; it is tried again");
        }
        runs.cast(RunsMsg::Stays(task, error.to_string())).ok();
        let waited = end.run_until_cancelled(tokio::time::sleep(pause)).await;
        if waited.is_none() {
            return;
        }
        pause = pause.saturating_mul(2).min(ALONE_AT_LATEST);
    }
}

#[cfg(test)]
mod tests {
    use trainyard_config::Secret;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank},
        spec::JobSpec,
    };

    use super::*;

    #[test]
    fn an_order_waits_for_a_folder_to_go_as_long_as_any_task_that_cannot_begin_however_often_it_is_repeated()
     {
        let order = Arc::new(Order {
            task: TaskKey {
                job: JobId(1),
                attempt: AttemptNo(1),
                rank: Rank(0),
            },
            spec: JobSpec::default(),
            gpu_uuids: Vec::new(),
            world_size: 1,
            secret: Secret::new("secret".into()),
            snapshot: None,
        });
        let mut going = Going::default();
        assert_eq!(going.is_late(Instant::now()), None);
        let before = Instant::now();
        going.park(Arc::clone(&order));
        let after = Instant::now();
        going.park(Arc::clone(&order));
        let early = BORNE - std::time::Duration::from_millis(1);
        assert_eq!(going.is_late(before + early), Some(false));
        assert_eq!(going.is_late(after + BORNE), Some(true));
        assert_eq!(going.take(), Some(order));
        assert_eq!(going.is_late(after + BORNE), None);
    }
}
