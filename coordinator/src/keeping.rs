//! Keeps the store small: seals what nobody writes on any more, and removes what has been kept for long enough.
//!
//! Owns the pace: one bounded piece of work at a time, off the committing thread, with a pause behind each, and none
//! while much waits to be committed. Never decides what goes (`core::retention`) and never touches a row by itself (the
//! store does). Started and ended by `boot`.

use std::{collections::BTreeSet, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trainyard_core::{
    ids::{AttemptNo, JobId},
    record::{LogLine, LogStream},
    resources::format_bytes,
    retention::{self, Belief, Due, Retention, Why},
    time::Timestamp,
};

use crate::{
    actors::jobs::RequestKey,
    clock,
    store::{Change, Document as _, ReadError, Rows, Store, TrimError, Trimming},
    trackers::{self, Board, State},
};

/// How often it is looked for chunks to seal.
const SEAL_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked for what has been kept for long enough.
const TRIM_EVERY: Duration = Duration::from_secs(600);
/// How often the clock is looked at meanwhile: one that is set is not believed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Where the time stands at which the clock was last believed, in microseconds.
const BELIEVED: &str = "clock.believed";
/// Behind each piece of work: others have the machine most of the time.
const PAUSE: Duration = Duration::from_millis(20);
/// Writes that wait for the committing thread; above it this waits too.
const BUSY: usize = 64;

/// The two tasks, until they are closed.
#[derive(Debug)]
pub(crate) struct Keeping {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Keeping {
    pub(crate) fn start(store: &Store, asked: Retention, trackers: Board) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (until, store_) = (stop.clone(), store.clone());
        tasks.spawn(async move {
            let mut sealer = Sealer::new(store_);
            let sealing = async {
                loop {
                    // Not at once: a start has better things to do.
                    tokio::time::sleep(SEAL_EVERY).await;
                    sealer.pass().await;
                }
            };
            until.run_until_cancelled(sealing).await
        });
        if asked != Retention::default() {
            let (until, store) = (stop.clone(), store.clone());
            tasks.spawn(async move {
                let mut clock = Belief::from(known(&store), clock::now());
                let trimming = async {
                    tokio::time::sleep(SEAL_EVERY).await;
                    loop {
                        trim_and_wait(&store, &asked, &trackers, &mut clock).await;
                    }
                };
                until.run_until_cancelled(trimming).await
            });
        }
        Self { stop, tasks }
    }

    /// Ends both; what they were about to do is done after the next start.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Seals, and remembers which jobs it cannot seal.
struct Sealer {
    store: Store,
    unread: BTreeSet<(Rows, JobId)>,
}

impl Sealer {
    fn new(store: Store) -> Self {
        Self {
            store,
            unread: BTreeSet::new(),
        }
    }

    /// All that is to be sealed now.
    async fn pass(&mut self) {
        for rows in Rows::ALL {
            let mut from = JobId(0);
            while let Some(job) = self.next(rows, from).await {
                if !self.block(rows, job).await {
                    from = JobId(job.0.saturating_add(1));
                    continue;
                }
                from = job;
                tokio::time::sleep(PAUSE).await;
                while self.store.waiting() > BUSY {
                    tokio::time::sleep(50 * PAUSE).await;
                }
            }
        }
    }

    async fn next(&self, rows: Rows, from: JobId) -> Option<JobId> {
        let store = self.store.clone();
        match blocking(move || store.sealable(rows, from)).await? {
            Ok(job) => job,
            Err(error) => {
                tracing::warn!(%error, "it cannot be seen what is to be sealed; it is tried again later");
                None
            }
        }
    }

    /// Seals one block; false when there is none, or it cannot be made.
    async fn block(&mut self, rows: Rows, job: JobId) -> bool {
        if self.unread.contains(&(rows, job)) {
            return false;
        }
        let store = self.store.clone();
        match blocking(move || store.sealing(rows, job)).await {
            Some(Ok(Some(change))) => self.store.commit_and_wait(vec![change]).await.is_ok(),
            Some(Ok(None)) | None => false,
            Some(Err(error)) => {
                tracing::warn!(%job, ?rows, %error, "rows of this job are not sealed; the others are");
                self.unread.insert((rows, job));
                false
            }
        }
    }
}

/// Once, and waits for the next time.
async fn trim_and_wait(store: &Store, asked: &Retention, trackers: &Board, clock: &mut Belief) {
    let going = believed(store, asked, clock).await;
    if let Err(error) = trim(store, &going, trackers).await {
        tracing::warn!(%error, "what has been kept for long enough could not be removed; it is tried again later");
    }
    for _ in 0..TRIM_EVERY.as_secs() / LOOK_EVERY.as_secs() {
        tokio::time::sleep(LOOK_EVERY).await;
        clock.look(clock::now());
    }
}

/// When a clock was last believed; where that was never noted, when the newest of what is stored was written. What a clock
/// that is wrong has stored since does not make it right.
fn known(store: &Store) -> Timestamp {
    let noted = store.meta(BELIEVED).unwrap_or_else(|error| {
        tracing::warn!(%error, "it cannot be read when the clock was last believed");
        None
    });
    let noted = noted.and_then(|text| text.parse().ok()).map(Timestamp);
    noted.unwrap_or_else(|| store.newest_at_open())
}

/// What may go by the clock of now: it would be gone for good.
async fn believed(store: &Store, asked: &Retention, clock: &mut Belief) -> Retention {
    let now = clock::now();
    clock.look(now);
    if clock.is_given(now) {
        let noted = Change::PutMeta {
            key: BELIEVED.to_owned(),
            value: now.0.to_string(),
        };
        if let Err(error) = store.commit_and_wait(vec![noted]).await {
            tracing::warn!(%error, "it cannot be noted that the clock is believed");
        }
        return *asked;
    }
    tracing::warn!(
        "the clock is far ahead of all that is stored; nothing is removed by its age until it has gone on for an hour"
    );
    asked.by_size()
}

/// Removes what has been kept for long enough, once.
async fn trim(store: &Store, asked: &Retention, trackers: &Board) -> Result<(), TrimError> {
    // A row that cannot be read must not keep all else: neither here nor below.
    if let Err(error) = trim_keys(store, asked).await {
        tracing::error!(%error, "keys of old submissions cannot be removed");
    }
    let before = asked.events.map(|span| clock::now().minus(span));
    match store.trim_events(before, asked.events_most).await {
        Ok(true) => tracing::info!("what was decided long ago was forgotten"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "what was decided long ago cannot be forgotten"),
    }
    if asked.keeps_rows() {
        return Ok(());
    }
    finish_begun(store).await?;
    let (asked, of, board) = (*asked, store.clone(), trackers.clone());
    let found = blocking(move || due(&of, &asked, &board)).await;
    let Some(found) = found else { return Ok(()) };
    for due in found? {
        match trim_job(store, &due).await {
            Ok(()) => {}
            Err(TrimError::Read(error)) => {
                tracing::error!(job = %due.job, %error, "what this job has told cannot be removed; others are looked at");
            }
            Err(error @ TrimError::Store(_)) => return Err(error),
        }
    }
    Ok(())
}

/// Of these the log says already that they are gone: what a crash has left of them goes, however small all is.
async fn finish_begun(store: &Store) -> Result<(), TrimError> {
    let of = store.clone();
    let begun = blocking(move || of.trims_begun()).await;
    for (job, rows) in begun.transpose()?.unwrap_or_default() {
        let attempt = AttemptNo(0);
        let line = None;
        let what = Trimming {
            job,
            rows,
            attempt,
            line,
        };
        match store.trim(what).await {
            Ok(_) => tracing::info!(%job, ?rows, "the rest of what this job has told was removed"),
            Err(TrimError::Read(error)) => {
                tracing::error!(%job, %error, "the rest of what this job has told cannot be removed");
            }
            Err(error @ TrimError::Store(_)) => return Err(error),
        }
    }
    Ok(())
}

/// What goes of one job.
async fn trim_job(store: &Store, due: &Due) -> Result<(), TrimError> {
    let attempt = store.job(due.job)?;
    let attempt = attempt.as_ref().and_then(|job| job.attempt());
    let attempt = attempt.map_or(AttemptNo(0), |attempt| attempt.number);
    // The line about the points comes last, and stays.
    for (rows, why) in [(Rows::Lines, due.lines), (Rows::Points, due.points)] {
        let Some(why) = why else { continue };
        // The line that said so goes with the log.
        let before = rows == Rows::Lines && store.was_trimmed(due.job, Rows::Points)?;
        let what = Trimming {
            job: due.job,
            rows,
            attempt,
            line: Some(line(rows, why, before)),
        };
        if store.trim(what).await? {
            tracing::info!(job = %due.job, ?rows, ?why, "what this job has told was removed");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Removes the keys of submissions that nobody repeats any more.
async fn trim_keys(store: &Store, asked: &Retention) -> Result<(), TrimError> {
    let Some(before) = asked.keys_before(clock::now()) else {
        return Ok(());
    };
    let mut from = String::new();
    loop {
        let (of, after) = (store.clone(), from.clone());
        let found = blocking(move || of.old_request_keys(before, &after)).await;
        let Some(found) = found.transpose()? else {
            return Ok(());
        };
        let Some((last, _)) = found.last() else {
            return Ok(());
        };
        from.clone_from(last);
        let document = RequestKey::KIND;
        let gone =
            found
                .into_iter()
                .map(|(key, job)| Change::DropRequestKey { key, job, document });
        store.commit_and_wait(gone.collect()).await?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// What goes now. A job of which a tracker lacks something keeps all.
fn due(store: &Store, asked: &Retention, trackers: &Board) -> Result<Vec<Due>, ReadError> {
    let fed = |job| {
        for tracker in trackers.snapshot() {
            let off = tracker.state == State::Off;
            if !off && !trackers::has_all(store, &tracker.name, job)? {
                tracing::debug!(%job, tracker = tracker.name, "this job is kept for a tracker");
                return Ok(false);
            }
        }
        Ok(true)
    };
    retention::due(asked, clock::now(), store.holdings()?, fed)
}

/// What a job's log says of what is gone; its points may have gone before.
fn line(rows: Rows, why: Why, before: bool) -> LogLine {
    let (what, key) = match rows {
        Rows::Points => ("points of this job", "points_days"),
        Rows::Lines => ("lines of this job up to here", "logs_days"),
    };
    let why = match why {
        Why::Age(span) => {
            let days = span.as_secs() / 86_400;
            format!("it ended more than {days} days ago (retention.{key})")
        }
        Why::Size(bytes) => {
            let most = format_bytes(bytes);
            format!(
                "all jobs together had more than {most} of points and lines (retention.max_gib)"
            )
        }
    };
    LogLine {
        at: clock::now(),
        stream: LogStream::System,
        level: "INFO".to_owned(),
        text: format!(
            "the {what} were removed{}: {why}",
            if before { ", its points before" } else { "" }
        ),
    }
}

/// Work that blocks, on a thread for it; none when the runtime is ending.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    trainyard_runtime::blocking(work).await.ok()
}

#[cfg(test)]
mod tests;
