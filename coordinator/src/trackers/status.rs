//! What is shown of each tracker: state, lag, last success, last error.
//!
//! Owns the board on which each tracker's actor writes and which anyone reads, so that nobody ever
//! waits for a tracker's actor. Never sends. Read by both doors, by health and by the metrics.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use trainyard_core::{ids::JobId, time::Timestamp};

use super::rows::{CursorRow, ParkedRow, RunRow, WaitingRow};
use crate::{
    clock,
    store::{ReadError, Store},
};

/// Jobs that are looked at for the lag in points; those beyond count as jobs only.
const LOOKED_AT: usize = 1_000;

/// What sort of tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An MLflow tracking server.
    Mlflow,
    /// A ClearML server.
    Clearml,
    /// A receiver of changes.
    Webhook,
}

impl Kind {
    /// Its name on the wire and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mlflow => "mlflow",
            Self::Clearml => "clearml",
            Self::Webhook => "webhook",
        }
    }
}

/// How a tracker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not configured.
    Off,
    /// It has everything.
    Idle,
    /// It is being told.
    Sending,
    /// The last try failed; another follows.
    Retrying,
    /// It does not take our credentials; tried seldom.
    Refused,
}

impl State {
    /// Its name on the wire and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Idle => "idle",
            Self::Sending => "sending",
            Self::Retrying => "retrying",
            Self::Refused => "refused",
        }
    }
}

/// A tracker as it is shown. Errors hold no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Unique.
    pub name: String,
    /// What sort.
    pub kind: Kind,
    /// How it does.
    pub state: State,
    /// Jobs of which it lacks something.
    pub jobs_pending: u64,
    /// Points (of a webhook: deliveries) that it lacks, of the first 1,000 pending jobs.
    pub points_pending: u64,
    /// Since when it lacks something, in seconds; 0 when it has everything.
    pub seconds_behind: u64,
    /// When its actor saw that it lacks something; none while it has everything.
    pub behind_since: Option<Timestamp>,
    /// Points or deliveries that it took, ever.
    pub delivered: u64,
    /// Attempts, parts of them or deliveries that were given up, ever.
    pub dropped: u64,
    /// Calls that failed since the coordinator started.
    pub failures: u64,
    /// When it last took something, since the coordinator started.
    pub last_success: Option<Timestamp>,
    /// Why the last failed call failed, since the coordinator started.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<Timestamp>,
}

impl Status {
    pub(super) fn new(name: &str, kind: Kind, state: State) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            state,
            jobs_pending: 0,
            points_pending: 0,
            seconds_behind: 0,
            behind_since: None,
            delivered: 0,
            dropped: 0,
            failures: 0,
            last_success: None,
            last_error: None,
            last_error_at: None,
        }
    }
}

/// The states of all trackers. A clone is cheap and shows the same.
#[derive(Clone, Debug, Default)]
pub struct Board {
    inner: Arc<Mutex<Vec<Status>>>,
}

impl Board {
    /// All trackers without their lag, at once: for metrics and health.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Status> {
        self.lock().clone()
    }

    /// All trackers with their lag. Reads the store; call it where blocking is allowed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn with_lag(&self, store: &Store) -> Result<Vec<Status>, ReadError> {
        let mut all = self.snapshot();
        for status in all.iter_mut().filter(|status| status.state != State::Off) {
            add_lag(status, store)?;
        }
        Ok(all)
    }

    pub(super) fn put(&self, status: Status) {
        let mut all = self.lock();
        match all.iter_mut().find(|known| known.name == status.name) {
            // A tracker that starts again after a fault still shows what failed before.
            Some(known) => {
                *known = Status {
                    failures: known.failures,
                    last_success: known.last_success,
                    last_error: known.last_error.take(),
                    last_error_at: known.last_error_at,
                    ..status
                }
            }
            None => all.push(status),
        }
    }

    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Status)) {
        if let Some(known) = self.lock().iter_mut().find(|known| known.name == name) {
            change(known);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Status>> {
        // Nothing that holds the lock can leave a status half changed that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add_lag(status: &mut Status, store: &Store) -> Result<(), ReadError> {
    let cursor = store.document::<CursorRow>(&status.name)?;
    let cursor = cursor.unwrap_or_default();
    let changed = store.changed_jobs(cursor.change, usize::MAX)?;
    let mut pending: BTreeSet<JobId> = changed.into_iter().map(|(_, job)| job).collect();
    let own = format!("{}/", status.name);
    if status.kind == Kind::Webhook {
        let waiting = store.documents::<WaitingRow>(&own)?;
        pending.extend(waiting.iter().map(|delivery| delivery.job));
        status.points_pending = count(waiting.len());
        let oldest = waiting.iter().map(|delivery| delivery.since);
        status.behind_since = oldest.chain(status.behind_since).min();
    } else {
        let parked = store.documents::<ParkedRow>(&own)?;
        pending.extend(parked.iter().map(|row| row.job));
        for job in pending.iter().take(LOOKED_AT) {
            status.points_pending += points_behind(store, &status.name, *job)?;
        }
    }
    status.jobs_pending = count(pending.len());
    if status.jobs_pending > 0 {
        // A change that its actor has not looked at yet is none to worry about.
        let since = status.behind_since;
        status.seconds_behind = since.map_or(0, |since| clock::now().since(since).as_secs());
    }
    Ok(())
}

/// Whether a tracker lacks nothing of a job: its cursor has passed the job's last change, and the job was not left
/// behind on the way.
///
/// # Errors
/// When the store cannot be read.
pub fn has_all(store: &Store, tracker: &str, job: JobId) -> Result<bool, ReadError> {
    let cursor = store.document::<CursorRow>(tracker)?.unwrap_or_default();
    if cursor.change < store.last_change_of(job)? {
        return Ok(false);
    }
    let parked = store.document::<ParkedRow>(&ParkedRow::key_of(tracker, job))?;
    Ok(parked.is_none())
}

fn points_behind(store: &Store, tracker: &str, job: JobId) -> Result<u64, ReadError> {
    let rows = store.documents::<RunRow>(&format!("{tracker}/{:020}/", job.0))?;
    let sent = rows.last().map_or(0, |row| row.last_point);
    store.count_points_after(job, sent)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A tracker and what it has, for tests of those who ask.
#[cfg(test)]
pub(crate) mod for_tests {
    use super::{Board, CursorRow, Kind, ParkedRow, State, Status};
    use crate::store::Change;
    use trainyard_core::ids::JobId;

    pub(crate) fn board(name: &str) -> Board {
        let board = Board::default();
        board.put(Status::new(name, Kind::Mlflow, State::Retrying));
        board.put(Status::new("another", Kind::Clearml, State::Off));
        board
    }

    pub(crate) fn cursor(name: &str, change: u64) -> Change {
        Change::put(&CursorRow {
            tracker: name.to_owned(),
            change,
            ..CursorRow::default()
        })
    }

    pub(crate) fn parked(name: &str, job: JobId) -> Change {
        Change::put(&ParkedRow {
            tracker: name.to_owned(),
            job,
            change: 1,
        })
    }

    pub(crate) fn unparked(name: &str, job: JobId) -> Change {
        Change::remove::<ParkedRow>(ParkedRow::key_of(name, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_before_a_tracker_started_again_is_still_shown() {
        let board = Board::default();
        board.put(Status::new("ops", Kind::Webhook, State::Sending));
        board.change("ops", |shown| {
            shown.failures = 3;
            shown.last_error = Some("a fault".to_owned());
            shown.last_error_at = Some(Timestamp(5));
            shown.last_success = Some(Timestamp(4));
        });
        board.put(Status::new("ops", Kind::Webhook, State::Idle));
        let all = board.snapshot();
        let shown = (all[0].failures, all[0].last_error.as_deref());
        assert_eq!(shown, (3, Some("a fault")));
        let times = (all[0].last_error_at, all[0].last_success);
        assert_eq!(times, (Some(Timestamp(5)), Some(Timestamp(4))));
        assert_eq!((all.len(), all[0].state), (1, State::Idle));
    }
}
