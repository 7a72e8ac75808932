//! Records of a task: each is stored once, then acknowledged.
//!
//! Owns telling new records from known ones by their numbers, and turning them into rows. Called by
//! the job's actor.

use ractor::ActorProcessingErr;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use trainyard_core::{
    ids::TaskKey,
    job::Event,
    record::{Checkpoint, Completion, LogLine, Progress, Record},
};

use super::{Done, State};
use crate::{clock, store::Change};

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
    /// The number of the first record.
    pub first_seq: u64,
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
        let live = self
            .job
            .attempt()
            .filter(|live| live.number == task.attempt);
        let Some(stored) = live.map(|live| live.stored_seq) else {
            tracing::info!(%task, "records of an attempt that is over are dropped");
            let done = done(last);
            return Ok(self.once_stored(move || done.carry_out()).await?);
        };
        if self.job.allocation().is_none() || last <= stored {
            // Over, or known already and only the acknowledgement was lost; it may be under way still.
            let done = done(last);
            return Ok(self.once_stored(move || done.carry_out()).await?);
        }
        if batch.first_seq > stored + 1 {
            tracing::warn!(%task, first = batch.first_seq, stored, "records are missing; not taken");
            return Ok(());
        }
        let known = usize::try_from(stored + 1 - batch.first_seq)?;
        let sorted = Sorted::of(batch.records.into_iter().skip(known));
        let mut changes = sorted.changes(task);
        changes.push(Change::PutCursor { task, seq: last });
        let event = Event::Stored {
            attempt: task.attempt,
            seq: last,
            progress: sorted.progress,
            completion: sorted.completion,
            first_epoch: sorted.first_epoch,
            kept: sorted.kept,
        };
        let step = self.job.step(clock::now(), event)?;
        self.take(step, changes, done(last)).await?;
        Ok(())
    }
}

/// Records by kind, in order.
#[derive(Default)]
pub(super) struct Sorted {
    points: Vec<Progress>,
    lines: Vec<LogLine>,
    validations: Vec<(u32, String)>,
    pub(super) progress: Option<Box<Progress>>,
    pub(super) completion: Option<Box<Completion>>,
    pub(super) first_epoch: Option<u32>,
    pub(super) kept: Option<Checkpoint>,
}

impl Sorted {
    pub(super) fn of(records: impl Iterator<Item = Record>) -> Self {
        let mut sorted = Self::default();
        for record in records {
            match record {
                Record::Log(line) => sorted.lines.push(line),
                Record::Progress(report) if report.only_checkpoints() => sorted.stored(report),
                Record::Progress(report) => sorted.told(report),
                Record::Completion(word) => sorted.completion = Some(Box::new(word)),
                Record::Validation { epoch, body } => sorted.validations.push((epoch, body)),
            }
        }
        sorted
    }

    /// The newest report counts, but a checkpoint that it does not name is still there.
    fn told(&mut self, mut report: Progress) {
        if report.has_metrics {
            self.first_epoch.get_or_insert(report.epoch);
            self.points.push(report.clone());
        }
        if let Some(before) = self.progress.take() {
            report.checkpoint = report.checkpoint.or(before.checkpoint);
            report.best_checkpoint = report.best_checkpoint.or(before.best_checkpoint);
        }
        self.progress = Some(Box::new(report));
    }

    /// Checkpoints that the trainer has told of before, now in the store.
    fn stored(&mut self, report: Progress) {
        if report.checkpoint.is_some() {
            self.kept.clone_from(&report.checkpoint);
        }
        if let Some(word) = &mut self.completion {
            let (best, last) = (report.best_checkpoint.clone(), report.checkpoint.clone());
            word.best_checkpoint = best.or_else(|| word.best_checkpoint.take());
            word.last_checkpoint = last.or_else(|| word.last_checkpoint.take());
        }
        match &mut self.progress {
            Some(before) => {
                before.best_checkpoint = report
                    .best_checkpoint
                    .or_else(|| before.best_checkpoint.take());
                before.checkpoint = report.checkpoint.or_else(|| before.checkpoint.take());
            }
            None => self.progress = Some(Box::new(report)),
        }
    }

    pub(super) fn changes(&self, task: TaskKey) -> Vec<Change> {
        let (job, attempt) = (task.job, task.attempt);
        let mut changes = Vec::new();
        if !self.points.is_empty() {
            let points = self.points.clone();
            changes.push(Change::AppendPoints {
                job,
                attempt,
                points,
            });
        }
        if !self.lines.is_empty() {
            let lines = self.lines.clone();
            changes.push(Change::AppendLogs {
                job,
                attempt,
                lines,
            });
        }
        for (epoch, body) in self.validations.clone() {
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
        let said = sorted.progress.unwrap();
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
            Record::Progress(progress(0, "s3://b/best.pt")),
        ];
        let sorted = Sorted::of(records.into_iter());
        let (word, said) = (sorted.completion.unwrap(), sorted.progress.unwrap());
        assert_eq!(word.best_checkpoint, place("s3://b/best.pt"));
        assert_eq!(word.last_checkpoint, place("/d/last.pt"));
        assert_eq!(
            (said.epoch, said.best_checkpoint),
            (3, place("s3://b/best.pt"))
        );
        assert_eq!(sorted.points.len(), 1);
    }
}
