//! The courier of a task: brings checkpoints to the store while the trainer works, so that another node can go on from
//! them if this one dies.
//!
//! Owns what is in the store already. Never holds up the trainer and never fails a job. A task of the run actor; at the
//! trainer's end what is left goes by the same hands.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use trainyard_core::record::Record;

use super::{
    node::Node,
    scribe::{Level, Scribe},
};
use crate::{
    dataset::{Sent, When},
    folder::{Order, TaskFolder},
};

/// What both the rounds and the last walk need. A cheap handle.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    node: Arc<Node>,
    order: Arc<Order>,
    sent: Arc<Mutex<Sent>>,
    rounds: CancellationToken,
}

impl Courier {
    pub(super) fn new(node: Arc<Node>, order: Arc<Order>, end: &CancellationToken) -> Self {
        Self {
            node,
            order,
            sent: Arc::default(),
            rounds: end.child_token(),
        }
    }

    /// Goes round until the trainer has ended.
    pub(super) async fn go_round(self, scribe: Scribe) {
        let every = self.node.datasets.options.checkpoints_every;
        let Some(every) = every.filter(|_| self.is_wanted()) else {
            return;
        };
        let work = async {
            // Told once, and again when it changes: a line for each round would fill the log.
            let mut told = None;
            let own = TaskFolder::of(&self.node.tasks(), self.order.task);
            loop {
                tokio::time::sleep(every).await;
                for (well, text) in self.walk(When::Working(own.path())).await {
                    if told.replace(well) != Some(well) {
                        scribe.note(level(well), text);
                    }
                }
            }
        };
        self.rounds.run_until_cancelled(work).await;
    }

    /// The last walk: nobody writes any more. The words are for the log.
    pub(super) async fn finish(self) -> Vec<(Level, String)> {
        self.rounds.cancel();
        if !self.is_wanted() {
            return Vec::new();
        }
        let notes = self.walk(When::Ended).await;
        notes
            .into_iter()
            .map(|(well, text)| (level(well), text))
            .collect()
    }

    /// The checkpoints of a gang are those of its rank 0.
    fn is_wanted(&self) -> bool {
        self.node.datasets.options.upload_checkpoints && self.order.task.rank.0 == 0
    }

    /// Stores what has changed, and tells the coordinator where it is.
    async fn walk(&self, when: When<'_>) -> Vec<(bool, String)> {
        let (node, order) = (&self.node, &self.order);
        let mut sent = self.sent.lock().await;
        let stored = node
            .datasets
            .store_checkpoints(order, &self.folder(), (when, &mut sent))
            .await;
        if let (Some(report), Some(spool)) = (stored.report, node.board.spool_of(order.task))
            && let Err(error) = spool.append(vec![(Record::Stored(report), None)]).await
        {
            tracing::warn!(task = %order.task, %error, "where the checkpoints are stored cannot be told");
            // Told with the next walk, which finds them as new.
            *sent = Sent::default();
        }
        stored.notes
    }

    fn folder(&self) -> PathBuf {
        self.node
            .working_folder(self.order.task)
            .join("checkpoints")
    }
}

fn level(well: bool) -> Level {
    if well { Level::Info } else { Level::Warning }
}
