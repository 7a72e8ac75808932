//! Up to which number jobs were named when rows of jobs are gone: what is left of such a job still says its number.
//!
//! Only reads. A number far beyond those of sound jobs is damage, and no number that was given. Called by the mending.

use redb::{ReadableTable as _, WriteTransaction};

use crate::store::{
    error::ReadError,
    numbers::NEAR,
    tables::{CHANGED_OF, CURSORS, EVENTS_OF_JOB, LOGS, POINTS, VALIDATIONS},
};

/// The highest number of these and of what is known of jobs, `known` at least. `gone` are keys of rows that were taken out.
pub(super) fn highest(
    txn: &WriteTransaction,
    known: u64,
    gone: impl IntoIterator<Item = u64>,
) -> Result<u64, ReadError> {
    let most = known.saturating_add(NEAR);
    let mut found: Vec<u64> = gone.into_iter().filter(|job| *job <= most).collect();
    let changed = txn.open_table(CHANGED_OF)?;
    let last = changed.range(..=most)?.next_back();
    found.extend(last.transpose()?.map(|row| row.0.value()));
    let cursors = txn.open_table(CURSORS)?;
    let last = cursors.range(..=(most, u32::MAX, u32::MAX))?.next_back();
    found.extend(last.transpose()?.map(|row| row.0.value().0));
    let validations = txn.open_table(VALIDATIONS)?;
    let last = validations.range(..=(most, u32::MAX))?.next_back();
    found.extend(last.transpose()?.map(|row| row.0.value().0));
    let events = txn.open_table(EVENTS_OF_JOB)?;
    let last = events.range(..=(most, u64::MAX))?.next_back();
    found.extend(last.transpose()?.map(|row| row.0.value().0));
    for series in [POINTS, LOGS] {
        let index = txn.open_table(series.by_job)?;
        let last = index.range(..=(most, u64::MAX))?.next_back();
        found.extend(last.transpose()?.map(|row| row.0.value().0));
    }
    Ok(found.into_iter().fold(known, u64::max))
}
