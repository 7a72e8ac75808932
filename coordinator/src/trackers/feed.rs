//! What a tracker of runs still lacks of a job, sent in order and noted step by step.
//!
//! Owns the order of the steps of an attempt: created, described, points, end. A step is noted once
//! it was taken; all may be repeated. Never waits for a job, and no job waits for it. Called by the
//! tracker's actor.

use trainyard_core::{
    ids::{AttemptNo, JobId, Rank},
    job::{Event, Job, Tracker},
};

use super::{
    http::Failure,
    names::Names,
    refusals::Refusals,
    rows::RunRow,
    runs::{End, Run},
};
use crate::{
    actors::{
        ask,
        job::JobMsg,
        jobs::{JobsMsg, JobsRef},
    },
    api::access::ProjectRow,
    store::{Change, Store, StoredPoint},
};

/// Points that are read and sent at once, unless their texts are long.
const PAGE: usize = 500;

/// What is new of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct News<'a> {
    /// In order.
    pub(super) points: &'a [StoredPoint],
    /// One a point; it grows, and no two points of the attempt share one.
    pub(super) iterations: &'a [u64],
    /// The best checkpoint, if it is another one.
    pub(super) best: Option<&'a str>,
    /// The last checkpoint, if it is another one.
    pub(super) last: Option<&'a str>,
}

/// What is remembered of an attempt from one call to the next.
#[derive(Debug)]
pub(super) struct Notes {
    /// What it does not take.
    pub(super) refusals: Refusals,
    /// Under which names its metrics stand there.
    pub(super) names: Names,
}

impl Notes {
    fn of(row: &RunRow) -> Self {
        Self {
            refusals: Refusals::after(row.refused.clone()),
            names: row.names.clone(),
        }
    }
}

/// A tracker of runs. Each call may be repeated.
pub(super) trait Sink: Send + 'static {
    /// The run's id is shown on the job as one of this tracker.
    const TRACKER: Tracker;

    /// The id of a run that may have been created before.
    fn find(
        &mut self,
        run: &Run<'_>,
    ) -> impl Future<Output = Result<Option<String>, Failure>> + Send;

    /// Creates the run, and says its id.
    fn create(
        &mut self,
        run: &Run<'_>,
        notes: &mut Notes,
    ) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Sends its parameters and tags.
    fn describe(
        &mut self,
        id: &str,
        run: &Run<'_>,
        notes: &mut Notes,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sends points and checkpoints.
    fn tell(
        &mut self,
        id: &str,
        news: News<'_>,
        notes: &mut Notes,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sends its end.
    fn finish(
        &mut self,
        id: &str,
        run: &Run<'_>,
        end: &End,
        notes: &mut Notes,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What a step of the tracker came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Points or deliveries that were taken.
    pub(super) taken: u64,
    /// Attempts, parts of them or deliveries that were given up.
    pub(super) dropped: u64,
    /// The tracker took something.
    pub(super) success: bool,
}

/// Sends jobs to one tracker of runs.
#[derive(Debug)]
pub(super) struct Feed<S> {
    pub(super) name: String,
    /// A mark of the tracker's address: runs of another one are not there.
    pub(super) server: String,
    pub(super) store: Store,
    pub(super) jobs: JobsRef,
    pub(super) sink: S,
}

impl<S: Sink> Feed<S> {
    /// Sends all that the tracker lacks of a job.
    pub(super) async fn job(&mut self, id: JobId, tally: &mut Tally) -> Result<(), Failure> {
        // Read before its points: when it is over, all of them are there.
        let Some(job) = self.store.job(id)? else {
            return Ok(());
        };
        let project = self.project(&job)?;
        let mut earlier = 0;
        for attempt in &job.attempts {
            let mut row = self.row(&job, attempt.number, earlier)?;
            if !row.is_over() {
                let instance = self.store.instance().to_owned();
                let run = Run {
                    instance: &instance,
                    project: project.as_deref(),
                    job: &job,
                    attempt,
                };
                self.attempt(run, &mut row, tally).await?;
            }
            earlier = row.last_point;
        }
        Ok(())
    }

    /// An attempt that will never be taken is given up. What is refused of one is lost by itself.
    async fn attempt(
        &mut self,
        run: Run<'_>,
        row: &mut RunRow,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        match self.steps(run, row, tally).await {
            Err(Failure::Never(words)) => {
                let (job, attempt) = (row.job, row.attempt.0);
                tracing::warn!(tracker = self.name, %job, attempt, error = words,
                    "the tracker does not take this attempt; nothing more of it is sent");
                tally.dropped += 1;
                row.given_up = Some(words);
                self.note(row).await
            }
            other => other,
        }
    }

    async fn steps(
        &mut self,
        run: Run<'_>,
        row: &mut RunRow,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        self.here(&run, row).await?;
        let id = self.create(&run, row, tally).await?;
        self.note_run(&run, &id).await?;
        if !row.described {
            let mut notes = Notes::of(row);
            self.sink.describe(&id, &run, &mut notes).await?;
            self.lost(notes, row, tally);
            row.described = true;
            tally.success = true;
            self.note(row).await?;
        }
        self.points(&id, &run, row, tally).await?;
        if let Some(end) = run.end() {
            let mut notes = Notes::of(row);
            self.sink.finish(&id, &run, &end, &mut notes).await?;
            self.lost(notes, row, tally);
            row.done = true;
            tally.success = true;
            self.note(row).await?;
        }
        Ok(())
    }

    /// A run that stands on another server is begun anew on this one, from its first point, unless it is found
    /// here: then only the address is another one.
    async fn here(&mut self, run: &Run<'_>, row: &mut RunRow) -> Result<(), Failure> {
        if row.server == self.server {
            return Ok(());
        }
        // Rows from before servers were told apart are of this one.
        if !row.server.is_empty() && row.run.is_some() && self.sink.find(run).await? != row.run {
            let (job, attempt) = (row.job, row.attempt.0);
            tracing::info!(tracker = self.name, %job, attempt,
                "this attempt stands on the server of an earlier address; it begins anew on this one");
            *row = RunRow {
                begun: true,
                ..RunRow::new(&self.name, row.job, row.attempt)
            };
        }
        row.server.clone_from(&self.server);
        self.note(row).await
    }

    /// Creation cannot be repeated: that it was begun is noted first, and then it is looked for.
    async fn create(
        &mut self,
        run: &Run<'_>,
        row: &mut RunRow,
        tally: &mut Tally,
    ) -> Result<String, Failure> {
        if let Some(id) = &row.run {
            return Ok(id.clone());
        }
        let found = match row.begun {
            true => self.sink.find(run).await?,
            false => {
                row.begun = true;
                self.note(row).await?;
                None
            }
        };
        let mut notes = Notes::of(row);
        let id = match found {
            Some(id) => id,
            None => self.sink.create(run, &mut notes).await?,
        };
        self.lost(notes, row, tally);
        row.run = Some(id.clone());
        self.note(row).await?;
        Ok(id)
    }

    async fn points(
        &mut self,
        id: &str,
        run: &Run<'_>,
        row: &mut RunRow,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let (best, last) = run.checkpoints();
        loop {
            let page = self.store.points(row.job, row.last_point, PAGE)?;
            let (own, upto) = own(page, row.attempt, row.last_point);
            let mut counted = row.iterations.clone();
            let iteration = |point: &StoredPoint| {
                let report = &point.progress;
                counted.next(report.epoch, report.step)
            };
            let iterations: Vec<_> = own.iter().map(iteration).collect();
            let is_new = |now: &Option<String>, told: &Option<String>| now.is_some() && now != told;
            let news = News {
                points: &own,
                iterations: &iterations,
                best: best.as_deref().filter(|_| is_new(&best, &row.best)),
                last: last.as_deref().filter(|_| is_new(&last, &row.last)),
            };
            let nothing = own.is_empty() && news.best.is_none() && news.last.is_none();
            if nothing && upto == row.last_point {
                return Ok(());
            }
            if !nothing {
                let mut notes = Notes::of(row);
                self.sink.tell(id, news, &mut notes).await?;
                self.lost(notes, row, tally);
                tally.taken += u64::try_from(own.len()).unwrap_or(u64::MAX);
                tally.success = true;
            }
            row.last_point = upto;
            row.iterations = counted;
            row.best = best.clone().or_else(|| row.best.take());
            row.last = last.clone().or_else(|| row.last.take());
            // A page may be short and not the last: the next one says so by being empty.
            self.note(row).await?;
        }
    }

    /// What was refused is told once, and kept with what the tracker has.
    fn lost(&self, notes: Notes, row: &mut RunRow, tally: &mut Tally) {
        let (known, news) = notes.refusals.end();
        row.refused = known;
        row.names = notes.names;
        for (what, why) in news {
            let (job, attempt) = (row.job, row.attempt.0);
            tracing::warn!(tracker = self.name, %job, attempt, what, error = why,
                "the tracker does not take this; the rest of the attempt is sent");
            tally.dropped += 1;
        }
    }

    /// Answered once it is stored. A job that was queued anew shows nothing of its earlier run.
    async fn note_run(&self, run: &Run<'_>, id: &str) -> Result<(), Failure> {
        let job = run.job;
        let shown = match S::TRACKER {
            Tracker::Mlflow => &job.mlflow_run_id,
            Tracker::Clearml => &job.clearml_task_id,
        };
        if !run.is_newest() || shown.as_deref() == Some(id) {
            return Ok(());
        }
        let event = Event::Tracked(run.attempt.number, S::TRACKER, id.to_owned());
        let question = |reply| JobsMsg::Route(job.id, JobMsg::Event(event, Some(reply)));
        match ask(&self.jobs, question).await {
            Ok(Ok(_) | Err(_)) => Ok(()),
            Err(error) => Err(Failure::Ours(error.to_string())),
        }
    }

    fn row(&self, job: &Job, attempt: AttemptNo, earlier: u64) -> Result<RunRow, Failure> {
        let key = RunRow::key_of(&self.name, job.id, attempt);
        let known = self.store.document::<RunRow>(&key)?;
        Ok(known.unwrap_or_else(|| RunRow {
            last_point: earlier,
            server: self.server.clone(),
            ..RunRow::new(&self.name, job.id, attempt)
        }))
    }

    fn project(&self, job: &Job) -> Result<Option<String>, Failure> {
        let Some(id) = job.spec.project_id else {
            return Ok(None);
        };
        let row = self.store.document::<ProjectRow>(&format!("{id:020}"))?;
        Ok(Some(
            row.map_or_else(|| format!("project-{id}"), |row| row.name),
        ))
    }

    async fn note(&self, row: &RunRow) -> Result<(), Failure> {
        self.store.commit_and_wait(vec![Change::put(row)]).await?;
        Ok(())
    }
}

/// By which a server is known again; the address itself is no matter of the store.
pub(super) fn server(url: &str) -> String {
    let hash = blake3::hash(url.trim_end_matches('/').as_bytes()).to_hex();
    hash.chars().take(16).collect()
}

/// The points of an attempt's rank 0, which speaks for the job, and up to where the page is settled: those of an older attempt are
/// passed over, those of a newer one are not for this one to pass.
fn own(page: Vec<StoredPoint>, attempt: AttemptNo, after: u64) -> (Vec<StoredPoint>, u64) {
    let mut settled = after;
    let mut own = Vec::with_capacity(page.len());
    for point in page {
        if point.attempt > attempt {
            break;
        }
        settled = point.id;
        if point.attempt == attempt && point.rank == Rank(0) {
            own.push(point);
        }
    }
    (own, settled)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trainyard_core::{record::Progress, time::Timestamp};

    use super::*;

    fn point(id: u64, attempt: u32) -> StoredPoint {
        StoredPoint {
            id,
            attempt: AttemptNo(attempt),
            rank: Rank(0),
            progress: Progress {
                at: Timestamp(0),
                epoch: 1,
                total_epochs: 1,
                step: None,
                values: BTreeMap::new(),
                has_metrics: true,
                checkpoint: None,
                best_checkpoint: None,
            },
        }
    }

    #[test]
    fn points_of_an_older_attempt_are_passed_over_and_those_of_a_newer_one_are_left() {
        let page = vec![point(3, 1), point(5, 2), point(6, 2), point(9, 3)];
        let (found, settled) = own(page.clone(), AttemptNo(2), 2);
        let ids: Vec<_> = found.iter().map(|point| point.id).collect();
        assert_eq!((ids, settled), (vec![5, 6], 6));
        let (found, settled) = own(page, AttemptNo(1), 4);
        assert_eq!((found.len(), settled), (1, 3));
        assert_eq!(own(Vec::new(), AttemptNo(1), 4), (Vec::new(), 4));
    }
}
