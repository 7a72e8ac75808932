//! What happens to a job while it is watched: its reports, its lines, its end.
//!
//! The part of the service behind live updates. It follows the store by cursors, as every follower does:
//! nothing that is stored after the beginning is lost or told twice, however slow the watcher is, and no
//! more than a page is held. Reads on threads that may wait. Stays with the job over restarts. Called by the REST door's WebSocket.

use futures::Stream;
use trainyard_core::{
    ids::{JobId, Rank},
    job::Job,
    time::Timestamp,
};

use super::{ApiError, Caller, Service};
use crate::store::{Most, Sample, StoredLine, StoredPoint};

/// Rows that are read at once, unless their texts are long.
const PAGE: usize = 200;

/// Something that happened to a job.
#[derive(Debug)]
pub(super) enum Update {
    /// It has another status, or a point was stored.
    Progress(Box<Job>, Option<Box<StoredPoint>>),
    /// A line was stored.
    Line(Box<StoredLine>),
    /// It is over; with its best point by its primary metric.
    Ended(Box<Job>, Option<Box<StoredPoint>>),
}

/// Where a watcher stands.
struct Cursor {
    point: u64,
    line: u64,
    status: &'static str,
    told: Option<Timestamp>,
}

impl Service {
    /// What happens to a job from now on, without an end; a job that is over already is told at once.
    /// The caller's rights are looked at again each time.
    ///
    /// # Errors
    /// When there is no such job, none that the caller may read, or too much is followed already.
    pub(super) fn live(
        &self,
        caller: Caller,
        id: JobId,
    ) -> Result<impl Stream<Item = Result<Update, ApiError>> + Send + use<>, ApiError> {
        let permit = self.stream(&caller)?;
        let mut changes = self.store().changes(id);
        let mut at = self.begin(&caller, id)?;
        let service = self.clone();
        Ok(async_stream::try_stream! {
            let _held = permit;
            loop {
                changes.borrow_and_update();
                // Before the rows: a job that is over now has all its rows stored.
                let job = service.readable(&service.still(&caller)?, id)?;
                let status = job.state.contract_name();
                if std::mem::replace(&mut at.status, status) != status && !job.state.is_terminal() {
                    yield Update::Progress(Box::new(job.clone()), None);
                }
                loop {
                    let after = at.point;
                    let points = service.blocking(move |store| store.points(id, after, PAGE)).await?;
                    let Some(last) = points.last() else { break };
                    at.point = last.id;
                    // Rank 0 speaks for the job.
                    for point in points.into_iter().filter(|point| point.rank == Rank(0)) {
                        yield Update::Progress(Box::new(job.clone()), Some(Box::new(point)));
                    }
                }
                loop {
                    let after = at.line;
                    let lines = service.blocking(move |store| store.logs(id, after, PAGE)).await?;
                    let Some(last) = lines.last() else { break };
                    at.line = last.id;
                    for line in lines {
                        yield Update::Line(Box::new(line));
                    }
                }
                if job.state.is_terminal() && at.told != job.ended_at {
                    at.told = job.ended_at;
                    let best = service.best_point(&job).await?.map(Box::new);
                    yield Update::Ended(Box::new(job), best);
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { break },
                    () = service.stop().cancelled() => break,
                }
            }
        })
    }

    fn begin(&self, caller: &Caller, id: JobId) -> Result<Cursor, ApiError> {
        let job = self.readable(caller, id)?;
        let points = self.store().newest_points(id, Most::rows(1), |_, _| true)?;
        let lines = self.store().newest_logs(id, Most::rows(1), |_| true)?;
        Ok(Cursor {
            point: points.last().map_or(0, |point| point.id),
            line: lines.last().map_or(0, |line| line.id),
            status: job.state.contract_name(),
            told: None,
        })
    }

    /// The best point that counts by the primary metric; the earliest of equal ones.
    async fn best_point(&self, job: &Job) -> Result<Option<StoredPoint>, ApiError> {
        let (metric, mode) = job.spec.primary();
        let curve = job.curve();
        let id = job.id;
        let better = move |new: f64, old: f64| match mode.as_str() {
            "min" => new < old,
            _ => new > old,
        };
        self.blocking(move |store| {
            let mut best: Option<Sample> = None;
            store.each_value(id, &metric, |new| {
                let counts = new.value.is_finite() && curve.has(new.attempt, new.rank, new.epoch);
                if counts && best.is_none_or(|old| better(new.value, old.value)) {
                    best = Some(new);
                }
                true
            })?;
            let Some(best) = best else { return Ok(None) };
            // The first row behind the one before it.
            let points = store.points(id, best.id.saturating_sub(1), 1)?;
            Ok(points.into_iter().find(|point| point.id == best.id))
        })
        .await
    }
}
