//! Reports of what was used: every job that the caller may read, from the rows as they are.
//!
//! Owns how the rows are gone through: a bounded number at a time, on a thread that may wait, and by few reports at once.
//! What counts is decided in `core::usage`. Called by both doors.

use std::time::Duration;

use trainyard_core::{
    ids::JobId,
    time::Timestamp,
    usage::{By, Row, Usage, Window},
};

use super::{ApiError, Caller, Service, service::stopping, users::not_authenticated};
use crate::clock;

/// Rows that are read in one transaction.
const AT_ONCE: usize = 1_000;
/// How far a report goes back when nothing else is asked for.
const USUAL: Duration = Duration::from_secs(30 * 86_400);

/// What a report is to be about.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsageAsked {
    /// From when on; 30 days before the end when it is left out.
    pub from: Option<Timestamp>,
    /// Until when; until now when it is left out.
    pub to: Option<Timestamp>,
    /// How jobs are put together.
    pub by: By,
}

/// A row with the name of its project.
#[derive(Clone, Debug)]
pub struct UsageRow {
    /// What was used.
    pub used: Row,
    /// Of its project; none without one, or when that is gone.
    pub project_name: Option<String>,
}

/// A report.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// What was counted.
    pub window: Window,
    /// By project, then by user.
    pub rows: Vec<UsageRow>,
    /// Of all of them together.
    pub total: Row,
}

impl Service {
    /// What jobs have used that the caller may read: all of them for whoever administers, else those of the caller's
    /// projects and the caller's own.
    ///
    /// # Errors
    /// When nobody is logged in, or the store cannot be read.
    pub async fn usage(&self, caller: &Caller, asked: UsageAsked) -> Result<UsageReport, ApiError> {
        if caller.is_anonymous() {
            return Err(not_authenticated());
        }
        let now = clock::now();
        let window = window(asked, now);
        let permit = self.reports().acquire().await;
        let _permit = permit.map_err(|_closed| stopping())?;
        let mut usage = Usage::new(window, asked.by, now);
        let mut after = Some(JobId(0));
        while let Some(from) = after {
            let reader = self.reader(caller);
            // Between two pieces whoever asked may have gone.
            let piece = self.blocking(move |store| {
                let next = store.sweep_jobs(
                    (from, AT_ONCE),
                    |ended| window.may_have(ended),
                    |job| {
                        if reader.accounts_for(store, &job) {
                            usage.add(&job);
                        }
                    },
                )?;
                reader.checked((usage, next))
            });
            (usage, after) = piece.await?;
        }
        let total = usage.total();
        let mut rows = Vec::new();
        for used in usage.rows() {
            let name = used.project.map(|id| self.project_name(id));
            rows.push(UsageRow {
                project_name: name.transpose()?.flatten(),
                used,
            });
        }
        Ok(UsageReport {
            window,
            rows,
            total,
        })
    }
}

/// A span that begins behind its end has nothing in it.
fn window(asked: UsageAsked, now: Timestamp) -> Window {
    let to = asked.to.unwrap_or(now).min(now);
    let from = asked.from.unwrap_or_else(|| to.minus(USUAL));
    Window { from, to }
}
