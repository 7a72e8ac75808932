//! Records of a task: each is stored once, then acknowledged.
//!
//! Owns telling new records from known ones by their numbers, and turning them into rows. Called by
//! the job's actor.

use std::ops::RangeInclusive;

use ractor::ActorProcessingErr;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use trainyard_core::{
    ids::{NodeName, Rank, TaskKey},
    job::{Event, Told},
    record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record},
};

use super::{Done, State};
use crate::{clock, datasets::Beginning, store::Change};

/// What acknowledges a batch: it travels to the data stream's writer, and the permit that bounds
/// the batches in flight is given back there.
#[derive(Debug)]
pub struct Ack {
    /// Of which task.
    pub task: TaskKey,
    /// All up to this number is stored.
    pub seq: u64,
    /// Held while the batch is in flight.
    pub permit: OwnedSemaphorePermit,
}

/// A batch of records of one task.
#[derive(Debug)]
pub struct Batch {
    /// Of which task.
    pub task: TaskKey,
    /// Who sends it.
    pub node: NodeName,
    /// The number of the first record.
    pub first_seq: u64,
    /// The first record that the agent still has; 0 where it does not say so.
    pub kept_from: u64,
    /// In order, without gaps.
    pub records: Vec<Record>,
    /// Where the acknowledgement goes; its room equals the number of permits.
    pub acks: mpsc::Sender<Ack>,
    /// Bounds the batches in flight.
    pub permit: OwnedSemaphorePermit,
}

impl Batch {
    /// The number of the last record; that before the first if there is none.
    pub(crate) fn last_seq(&self) -> u64 {
        let count = u64::try_from(self.records.len()).unwrap_or(u64::MAX);
        self.first_seq.saturating_add(count).saturating_sub(1)
    }
}

impl State {
    pub(super) async fn records(&mut self, batch: Batch) -> Result<(), ActorProcessingErr> {
        let task = batch.task;
        let last = batch.last_seq();
        let done = |seq| {
            Done::Ack(
                batch.acks,
                Ack {
                    task,
                    seq,
                    permit: batch.permit,
                },
            )
        };
        let part = self.part(task);
        let own = part.filter(|part| part.allocation.node == batch.node);
        let Some(stored) = own.map(|part| part.stored_seq) else {
            match part.map(|part| &part.allocation.node) {
                None => tracing::info!(%task, "records of an attempt that is over are dropped"),
                Some(of) => {
                    tracing::warn!(%task, from = %batch.node, %of, "records of a task that is not on this node are dropped");
                }
            }
            let done = done(last);
            return Ok(self.once_stored(move || done.carry_out()).await?);
        };
        if last <= stored {
            // Known already, and only the acknowledgement was lost; it may be under way still.
            let done = done(last);
            return Ok(self.once_stored(move || done.carry_out()).await?);
        }
        // Whoever acknowledged the ones between had another store than this one: it was restored from a backup. Or its
        // agent cannot read them any more.
        let mut lost = Vec::new();
        let gone = batch.kept_from.saturating_sub(1).max(stored);
        if gone > stored {
            lost.push(self.lost(task, &(stored + 1..=gone)));
        }
        let stored = gone;
        if batch.first_seq > stored + 1 {
            tracing::warn!(%task, first = batch.first_seq, stored, "records are missing; not taken");
            return Ok(());
        }
        let known = usize::try_from(stored + 1 - batch.first_seq)?;
        let mut sorted = Sorted::of(batch.records.into_iter().skip(known));
        let progress = sorted.progress();
        sorted.kept = sorted.kept.filter(|kept| self.is_own(kept));
        let mut changes = lost;
        changes.extend(sorted.take_changes(task));
        changes.push(Change::PutCursor { task, seq: last });
        let told = Told {
            seq: last,
            progress,
            completion: sorted.completion,
            first_epoch: sorted.first_epoch,
            kept: sorted.kept,
        };
        let event = Event::Stored(task, Box::new(told));
        let step = self.job.step(clock::now(), event)?;
        self.take(step, changes, done(last)).await?;
        Ok(())
    }

    /// Records up to this number that are not here were acknowledged by another store, or cannot be read any more: they are
    /// waited for no longer.
    pub(super) async fn never_comes(
        &mut self,
        task: TaskKey,
        upto: u64,
    ) -> Result<(), ActorProcessingErr> {
        let stored = self.part(task).map_or(0, |part| part.stored_seq);
        let line = self.lost(task, &(stored + 1..=upto));
        let told = Told {
            seq: upto,
            ..Told::default()
        };
        let step = self
            .job
            .step(clock::now(), Event::Stored(task, Box::new(told)))?;
        let changes = vec![line, Change::PutCursor { task, seq: upto }];
        self.take(step, changes, Done::Answer(None)).await?;
        Ok(())
    }

    /// The line of the job's log that says which records nobody has any more.
    pub(super) fn lost(&self, task: TaskKey, which: &RangeInclusive<u64>) -> Change {
        let (from, to) = (*which.start(), *which.end());
        tracing::warn!(%task, from, to, "records are not in this store, and the agent has them no more; they are waited for no longer");
        let part = self.part(task);
        let node = part.map_or_else(String::new, |part| part.allocation.node.to_string());
        let count = to.saturating_sub(from).saturating_add(1);
        let text = format!(
            "of what {} has told, {count} records are lost, numbers {from} to {to}: they are not stored, and node {node} cannot read them or has let go of them",
            task.rank
        );
        let line = LogLine {
            at: clock::now(),
            stream: LogStream::System,
            level: "WARNING".to_owned(),
            text,
        };
        Change::AppendLogs {
            task,
            lines: vec![line],
        }
    }

    /// Another attempt goes on from it without anybody being asked, so it has to be one of this very job.
    fn is_own(&self, kept: &Checkpoint) -> bool {
        let found = Beginning::of(&self.peers.artifacts, &kept.path);
        let own = matches!(found, Beginning::Stored(job, _) if job == self.job.id);
        if !own {
            tracing::warn!(job = %self.job.id, path = kept.path, "an agent calls this a stored checkpoint of the job; it is none");
        }
        own
    }
}

/// Records by kind, in order.
#[derive(Default)]
pub(super) struct Sorted {
    points: Vec<Progress>,
    lines: Vec<LogLine>,
    validations: Vec<(u32, String)>,
    newest: Option<Newest>,
    checkpoint: Option<Checkpoint>,
    best_checkpoint: Option<Checkpoint>,
    pub(super) completion: Option<Completion>,
    pub(super) first_epoch: Option<u32>,
    pub(super) kept: Option<Checkpoint>,
}

/// The newest report. Most are points, of which there may be thousands: none is copied but the last.
enum Newest {
    /// One of the points.
    Point(usize),
    /// It is none.
    Only(Progress),
}

impl Sorted {
    pub(super) fn of(records: impl Iterator<Item = Record>) -> Self {
        let mut sorted = Self::default();
        for record in records {
            match record {
                Record::Log(line) => sorted.lines.push(line),
                Record::Stored(report) => {
                    sorted.kept = report.checkpoint.clone().or_else(|| sorted.kept.take());
                    sorted.places(report);
                }
                Record::Progress(report) if report.only_checkpoints() => sorted.places(report),
                Record::Progress(report) => sorted.told(report),
                Record::Completion(word) => sorted.completion = Some(word),
                Record::Validation { epoch, body } => sorted.validations.push((epoch, body)),
            }
        }
        sorted
    }

    /// The newest report counts, but a checkpoint that it does not name is still there.
    fn told(&mut self, report: Progress) {
        self.names(&report);
        if report.has_metrics {
            self.first_epoch.get_or_insert(report.epoch);
            self.newest = Some(Newest::Point(self.points.len()));
            self.points.push(report);
        } else {
            self.newest = Some(Newest::Only(report));
        }
    }

    /// Where checkpoints are of which the trainer may have told before.
    fn places(&mut self, report: Progress) {
        if let Some(word) = &mut self.completion {
            let (best, last) = (report.best_checkpoint.clone(), report.checkpoint.clone());
            word.best_checkpoint = best.or_else(|| word.best_checkpoint.take());
            word.last_checkpoint = last.or_else(|| word.last_checkpoint.take());
        }
        self.names(&report);
        self.newest.get_or_insert(Newest::Only(report));
    }

    fn names(&mut self, report: &Progress) {
        for (known, named) in [
            (&mut self.checkpoint, &report.checkpoint),
            (&mut self.best_checkpoint, &report.best_checkpoint),
        ] {
            if named.is_some() {
                known.clone_from(named);
            }
        }
    }

    /// The newest report, with the checkpoints that are known by then.
    pub(super) fn progress(&self) -> Option<Progress> {
        let mut newest = match self.newest.as_ref()? {
            Newest::Point(at) => self.points.get(*at)?.clone(),
            Newest::Only(report) => report.clone(),
        };
        newest.checkpoint.clone_from(&self.checkpoint);
        newest.best_checkpoint.clone_from(&self.best_checkpoint);
        Some(newest)
    }

    /// The rows, which are in here no more.
    pub(super) fn take_changes(&mut self, task: TaskKey) -> Vec<Change> {
        let job = task.job;
        let mut changes = Vec::new();
        let points = std::mem::take(&mut self.points);
        if !points.is_empty() {
            changes.push(Change::AppendPoints { task, points });
        }
        let lines = std::mem::take(&mut self.lines);
        if !lines.is_empty() {
            changes.push(Change::AppendLogs { task, lines });
        }
        // There is one row an epoch, and rank 0 speaks for the job.
        let mut validations = std::mem::take(&mut self.validations);
        validations.retain(|_| task.rank == Rank(0));
        for (epoch, body) in validations {
            changes.push(Change::PutValidation { job, epoch, body });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::time::Timestamp;

    #[test]
    fn a_checkpoint_outlives_a_later_report_of_the_same_batch_that_names_none() {
        let place = |path: &str| {
            Some(Checkpoint {
                path: path.into(),
                size_bytes: None,
            })
        };
        let progress = |epoch, checkpoint, best_checkpoint| {
            Record::Progress(Progress {
                at: Timestamp(1),
                epoch,
                total_epochs: 3,
                step: None,
                values: [].into(),
                has_metrics: true,
                checkpoint,
                best_checkpoint,
            })
        };
        let records = [
            progress(1, place("/d/last.pt"), place("/d/best.pt")),
            progress(2, place("/d/last2.pt"), None),
            progress(3, None, None),
        ];
        let sorted = Sorted::of(records.into_iter());
        let said = sorted.progress().unwrap();
        assert_eq!(
            (said.epoch, said.checkpoint, said.best_checkpoint),
            (3, place("/d/last2.pt"), place("/d/best.pt"))
        );
        let own = sorted.points.last().unwrap();
        assert_eq!((sorted.points.len(), &own.checkpoint), (3, &None));
    }

    #[test]
    fn a_stored_checkpoint_goes_before_the_path_that_the_trainer_told_in_the_same_batch() {
        let place = |path: &str| {
            Some(Checkpoint {
                path: path.into(),
                size_bytes: None,
            })
        };
        let progress = |epoch, best: &str| Progress {
            at: Timestamp(1),
            epoch,
            total_epochs: 3,
            step: None,
            values: [].into(),
            has_metrics: epoch > 0,
            checkpoint: None,
            best_checkpoint: place(best),
        };
        let word = Completion {
            best_checkpoint: place("/d/best.pt"),
            last_checkpoint: place("/d/last.pt"),
            ..Completion::default()
        };
        let records = [
            Record::Progress(progress(3, "/d/best.pt")),
            Record::Completion(word),
            Record::Stored(progress(0, "s3://b/best.pt")),
        ];
        let sorted = Sorted::of(records.into_iter());
        let said = sorted.progress().unwrap();
        let points = sorted.points.len();
        let word = sorted.completion.unwrap();
        assert_eq!(word.best_checkpoint, place("s3://b/best.pt"));
        assert_eq!(word.last_checkpoint, place("/d/last.pt"));
        assert_eq!(
            (said.epoch, said.best_checkpoint),
            (3, place("s3://b/best.pt"))
        );
        assert_eq!(points, 1);
    }
}
