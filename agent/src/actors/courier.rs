//! The courier of a task: brings checkpoints to the store while the trainer works, so that another node can go on from
//! them if this one dies.
//!
//! Owns what is in the store already. Never holds up the trainer and never fails a job. A task of the run actor; at the
//! trainer's end what is left goes by the same hands.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use trainyard_core::record::Record;

use super::{
    node::Node,
    run::RunArgs,
    scribe::{Level, Scribe},
};
use crate::{
    dataset::{Sent, Told, Trip, When},
    folder::{Order, TaskFolder},
    link::LinkState,
};

/// So often the last checkpoints are looked for, where a store takes none and the coordinator comes and goes meanwhile.
const MOST_WALKS: u32 = 50;

/// What both the rounds and the last walk need. A cheap handle.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    node: Arc<Node>,
    order: Arc<Order>,
    sent: Arc<Mutex<Sent>>,
    told: Told,
    /// The run's.
    end: CancellationToken,
    rounds: CancellationToken,
    stopped: CancellationToken,
}

impl Courier {
    pub(super) fn new(args: &RunArgs, end: &CancellationToken) -> Self {
        Self {
            node: Arc::clone(&args.node),
            order: Arc::clone(&args.order),
            sent: Arc::default(),
            told: args.told.clone(),
            end: end.clone(),
            rounds: CancellationToken::new(),
            stopped: CancellationToken::new(),
        }
    }

    /// The job is to stop: from now on nothing is waited for much longer.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    /// The trainer has ended: what is stored from now on is stored by the last walk.
    pub(super) fn end_rounds(&self) {
        self.rounds.cancel();
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
            let wait = || self.rounds.run_until_cancelled(tokio::time::sleep(every));
            while wait().await.is_some() {
                let when = When::Working(own.path());
                let notes = self.walk(when, &self.rounds).await;
                // What was given up is told by the last walk.
                for (well, text) in notes.into_iter().filter(|_| !self.rounds.is_cancelled()) {
                    if told.replace(well) != Some(well) {
                        scribe.note(level(well), text);
                    }
                }
            }
        };
        self.end.run_until_cancelled(work).await;
    }

    /// The last walk: nobody writes any more. The words are for the log.
    pub(super) async fn finish(self) -> Vec<(Level, String)> {
        self.end_rounds();
        // What it still kept is lost, and its checkpoints are not.
        self.told.owing().end();
        if !self.is_wanted() {
            return Vec::new();
        }
        let given_up = CancellationToken::new();
        let notes = tokio::select! {
            notes = self.last_walk(&given_up) => notes,
            never = self.gives_up(&given_up) => match never {},
        };
        notes
            .into_iter()
            .map(|(well, text)| (level(well), text))
            .collect()
    }

    /// A coordinator that is away is waited for, for as long as it takes: patience is for a store that takes nothing. A
    /// further life of the agent begins here anew.
    async fn last_walk(&self, given_up: &CancellationToken) -> Vec<(bool, String)> {
        let mut link = self.node.link.clone();
        // What went well is not said again by the next walk.
        let mut well = Vec::new();
        let mut walks = 0;
        loop {
            walks += 1;
            if self.has_unsent().await {
                self.until_up(&mut link).await;
            }
            let notes = self.walk(When::Ended, given_up).await;
            let (done, notes): (Vec<_>, Vec<_>) = notes.into_iter().partition(|(well, _)| *well);
            well.extend(done);
            let all_well = notes.is_empty();
            // Also for a part of the walk.
            let was_away = link.has_changed().is_ok_and(|changed| changed);
            if all_well || !was_away || self.stopped.is_cancelled() || walks >= MOST_WALKS {
                well.extend(notes);
                return well;
            }
        }
    }

    async fn has_unsent(&self) -> bool {
        let sent = self.sent.lock().await;
        let datasets = &self.node.datasets;
        datasets.lacks(&self.folder(), &self.told, &sent).await
    }

    /// Returns also once the job is to stop, or where the coordinator does not take this agent any more.
    async fn until_up(&self, link: &mut watch::Receiver<LinkState>) {
        if *link.borrow() == LinkState::Down {
            let task = self.order.task;
            tracing::info!(%task, "its last checkpoints are stored when the coordinator is there again");
        }
        let up = link.wait_for(|state| *state != LinkState::Down);
        self.stopped.run_until_cancelled(up).await;
    }

    /// The checkpoints of a gang are those of its rank 0.
    fn is_wanted(&self) -> bool {
        self.node.datasets.options.upload_checkpoints && self.order.task.rank.0 == 0
    }

    /// A job that was told to stop waits for a store only so long.
    async fn gives_up(&self, given_up: &CancellationToken) -> Infallible {
        self.stopped.cancelled().await;
        tokio::time::sleep(self.node.datasets.options.checkpoints_after_stop).await;
        given_up.cancel();
        std::future::pending().await
    }

    /// Stores what has changed, and tells the coordinator where it is.
    async fn walk(&self, when: When<'_>, given_up: &CancellationToken) -> Vec<(bool, String)> {
        let (node, order) = (&self.node, &*self.order);
        let Some(spool) = node.board.spool_of(order.task) else {
            return Vec::new();
        };
        let mut sent = self.sent.lock().await;
        let trip = Trip {
            order,
            spool: &spool,
            told: &self.told,
            given_up,
        };
        let stored = node
            .datasets
            .store_checkpoints(trip, &self.folder(), (when, &mut sent))
            .await;
        if let Some(report) = stored.report
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
