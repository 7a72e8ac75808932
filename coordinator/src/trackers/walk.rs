//! The walk of a tracker over the jobs that changed, and over those that it left behind.
//!
//! The part of the actor's state that moves its cursor: a job is passed when the tracker has it, or when it
//! is left behind by a row of its own, never otherwise. Called by the actor.

use trainyard_core::ids::JobId;

use super::{actor::State, feed::Tally, http::Failure, rows::ParkedRow, status, waits::wait_after};
use crate::{clock, store::Change};

/// Jobs that are walked in one step.
const STEP: usize = 32;

impl State {
    /// Whether nothing has changed beyond what was walked. A job that is not taken is left behind.
    pub(super) async fn walk(&mut self, tally: &mut Tally) -> Result<bool, Failure> {
        let changed = self.store.changed_jobs(self.cursor.change, STEP)?;
        let before = self.cursor.clone();
        if !(changed.is_empty() && self.parked.is_empty()) {
            self.cursor.behind_since.get_or_insert_with(clock::now);
        }
        let behind_since = self.cursor.behind_since;
        // Who sees that it lacks nothing and is idle sees all that it took, too.
        self.board.change(&self.name, |shown| {
            shown.behind_since = behind_since;
            if !changed.is_empty() && shown.state == status::State::Idle {
                shown.state = status::State::Sending;
            }
        });
        let mut walked = Ok(());
        for (number, job) in &changed {
            // One that is left behind is tried by itself, with all that changed since.
            let result = match self.parked.holds(*job) {
                true => Ok(()),
                false => self.attend(*job, tally).await,
            };
            if let Err(failure) = result {
                let stands = !self.parked.may_take(&failure);
                if !stands {
                    self.park(*job, *number, &failure).await?;
                }
                if self.parked.failing_mut().failed(*job, &failure, false) || stands {
                    walked = Err(failure);
                    break;
                }
                self.note_failure(&failure);
            }
            self.cursor.change = *number;
        }
        let everything = walked.is_ok() && changed.len() < STEP;
        if everything && self.parked.is_empty() {
            self.cursor.behind_since = None;
        }
        if self.cursor != before {
            self.note_cursor().await?;
        }
        walked.map(|()| everything)
    }

    /// Nothing has changed beyond what was walked: it lacks nothing if nothing is left behind either.
    pub(super) async fn caught_up(&mut self) -> Result<(), Failure> {
        if self.parked.is_empty() && self.cursor.behind_since.take().is_some() {
            self.note_cursor().await?;
        }
        Ok(())
    }

    /// Tries those that were left behind and are due.
    pub(super) async fn retry(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        let now = clock::now();
        for job in self.parked.due(now, STEP) {
            match self.attend(job, tally).await {
                Ok(()) => self.unpark(job).await?,
                Err(failure) => {
                    self.parked
                        .put(job, now, |tries| wait_after(&failure, tries));
                    if self.parked.failing_mut().failed(job, &failure, true) {
                        return Err(failure);
                    }
                    self.note_failure(&failure);
                }
            }
        }
        Ok(())
    }

    /// Sends what is lacking of one job.
    async fn attend(&mut self, job: JobId, tally: &mut Tally) -> Result<(), Failure> {
        let mut own = Tally::default();
        let result = self.worker.job(job, &mut own).await;
        tally.taken += own.taken;
        tally.dropped += own.dropped;
        tally.success |= own.success;
        if own.success {
            self.recovered();
        }
        result
    }

    /// The job's row and the cursor behind it are one commit.
    async fn park(&mut self, job: JobId, change: u64, failure: &Failure) -> Result<(), Failure> {
        let error = failure.words();
        tracing::warn!(tracker = self.name, %job, error,
            "the tracker does not take this job; the others go on, and it is tried again");
        self.cursor.change = change;
        let row = ParkedRow {
            tracker: self.name.clone(),
            job,
            change,
        };
        let changes = vec![Change::put(&row), Change::put(&self.cursor)];
        self.store.commit_and_wait(changes).await?;
        self.parked
            .put(job, clock::now(), |tries| wait_after(failure, tries));
        Ok(())
    }

    async fn unpark(&mut self, job: JobId) -> Result<(), Failure> {
        let name = &self.name;
        tracing::info!(tracker = name, %job, "the tracker has a job that it did not take before");
        let gone = Change::remove::<ParkedRow>(ParkedRow::key_of(name, job));
        self.store.commit_and_wait(vec![gone]).await?;
        self.parked.remove(job);
        Ok(())
    }
}
