//! What a trainer reports to the coordinator itself, without an agent between.
//!
//! Such reports have no numbers, so the metrics of each epoch and the completion count once by what they say. They
//! need the secret of the live attempt and never leave a terminal state. Called by the job's actor.

use std::collections::BTreeSet;

use ractor::ActorProcessingErr;
use trainyard_core::{
    ids::Rank,
    job::{Event, Told},
    record::Record,
    secret::Secret,
};

use super::{ActError, ActReply, Done, State, records::Sorted};
use crate::{actors::scheduler::answer, clock, store::ReadError};

/// Rows read at once when the reported epochs are looked up.
const PAGE: usize = 10_000;

/// Epochs, and steps within them.
pub(super) type Reported = BTreeSet<(u32, Option<u64>)>;

/// One call of a trainer.
#[derive(Debug)]
pub struct DirectReport {
    /// What it says; the first says whether it was said before.
    pub records: Vec<Record>,
    /// Tells a body of lines from any other, if it can be told.
    pub identity: Option<u64>,
}

/// Compared as hashes, so that the time tells nothing.
fn hash(secret: &Secret) -> blake3::Hash {
    blake3::hash(secret.expose().as_bytes())
}

impl State {
    pub(super) async fn direct(
        &mut self,
        secret: &Secret,
        report: DirectReport,
        reply: ActReply,
    ) -> Result<(), ActorProcessingErr> {
        let live = self
            .job
            .attempt()
            .filter(|live| hash(&live.secret) == hash(secret));
        let Some(number) = live
            .map(|live| live.number)
            .filter(|_| self.job.state.holds_resources())
        else {
            let refused = Err(ActError::NotFound);
            return Ok(self.once_stored(move || answer(reply, refused)).await?);
        };
        if self.said_before(&report).await? {
            // The first one may still be under way: nothing is promised before it is on disk.
            self.peers.store.commit_and_wait(Vec::new()).await?;
            answer(reply, Ok(self.job.clone()));
            return Ok(());
        }
        // Whoever of a gang says it.
        let task = self.job.task(number, Rank(0));
        let mut sorted = Sorted::of(report.records.into_iter());
        let progress = sorted.progress();
        let changes = sorted.take_changes(task);
        let told = Told {
            seq: 0,
            progress,
            completion: sorted.completion,
            first_epoch: sorted.first_epoch,
            kept: sorted.kept,
        };
        let event = Event::Stored(task, Box::new(told));
        let step = self.job.step(clock::now(), event)?;
        self.take(step, changes, Done::Answer(Some(reply))).await?;
        Ok(())
    }

    async fn said_before(&mut self, report: &DirectReport) -> Result<bool, ActorProcessingErr> {
        let attempt = self.job.attempt();
        Ok(match report.records.first() {
            Some(Record::Progress(said)) if said.has_metrics => {
                let key = (said.epoch, said.step);
                !self.reported().await?.insert(key)
            }
            Some(Record::Completion(_)) => attempt.is_some_and(|live| live.completion.is_some()),
            Some(Record::Log(_)) => {
                // Lines have no numbers; but the same body directly again is the same call, sent again.
                let said = report.identity.zip(attempt.map(|live| live.number));
                let before = std::mem::replace(&mut self.last_body, said);
                said.is_some() && said == before
            }
            Some(Record::Progress(_) | Record::Stored(_) | Record::Validation { .. }) | None => {
                false
            }
        })
    }

    /// The epochs that the live attempt has reported, by whichever way.
    async fn reported(&mut self) -> Result<&mut Reported, ActorProcessingErr> {
        let live = self
            .job
            .attempt()
            .ok_or("a report without an attempt")?
            .number;
        let known = self.reported.take().filter(|(of, _)| *of == live);
        let reported = match known {
            Some(reported) => reported,
            None => {
                self.peers.store.commit_and_wait(Vec::new()).await?;
                (live, self.stored_keys(live)?)
            }
        };
        Ok(&mut self.reported.insert(reported).1)
    }

    fn stored_keys(&self, live: trainyard_core::ids::AttemptNo) -> Result<Reported, ReadError> {
        let mut keys = Reported::new();
        let mut after = 0;
        loop {
            let points = self.peers.store.points(self.job.id, after, PAGE)?;
            let Some(last) = points.last() else {
                return Ok(keys);
            };
            after = last.id;
            let of_live = points
                .iter()
                .filter(|point| point.attempt == live && point.rank == Rank(0));
            keys.extend(of_live.map(|point| (point.progress.epoch, point.progress.step)));
        }
    }
}
