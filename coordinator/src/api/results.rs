//! What is read of a job's validation results.
//!
//! Part of the service; bounded as its other pages are. Never has more than one result in memory for a
//! summary. Called by the REST door.

use trainyard_core::ids::JobId;

use super::{ApiError, Caller, Service, reads::TEXT};

/// What is told of a job's validation results at once.
#[derive(Debug)]
pub struct Summary<T> {
    /// By epoch.
    pub rows: Vec<T>,
    /// How many there are, told or not.
    pub total: usize,
    /// The last epoch of them.
    pub last: Option<u32>,
}

impl Service {
    /// Validation results from an epoch on, as JSON, and how many the job has in all. A page ends
    /// early when its text would grow beyond [`TEXT`].
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn validations(
        &self,
        caller: &Caller,
        id: JobId,
        (since, limit): (u32, usize),
    ) -> Result<(Vec<(u32, String)>, usize), ApiError> {
        self.readable(caller, id)?;
        let limit = self.page(limit);
        self.blocking(move |store| {
            let mut rows = Vec::new();
            let mut size = 0;
            store.each_validation(id, since, |epoch, text| {
                size += text.len();
                if !rows.is_empty() && size > TEXT {
                    return false;
                }
                rows.push((epoch, text));
                rows.len() < limit
            })?;
            Ok((rows, store.count_validations(id)?))
        })
        .await
    }

    /// What `read` finds in each validation result from an epoch on, and of how many epochs in all and up to which
    /// one there are results; one result is in memory at a time.
    ///
    /// # Errors
    /// When there is no such job, or none that the caller may read.
    pub async fn validation_summary<T: Send + 'static>(
        &self,
        caller: &Caller,
        id: JobId,
        (since, limit): (u32, usize),
        read: impl Fn(u32, &str) -> T + Send + 'static,
    ) -> Result<Summary<T>, ApiError> {
        self.readable(caller, id)?;
        let limit = self.page(limit);
        self.blocking(move |store| {
            let mut rows = Vec::new();
            store.each_validation(id, since, |epoch, text| {
                rows.push(read(epoch, &text));
                rows.len() < limit
            })?;
            let (total, last) = (store.count_validations(id)?, store.last_validation(id)?);
            Ok(Summary { rows, total, last })
        })
        .await
    }
}
