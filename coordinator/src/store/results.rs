//! Reads of validation results: one row a job and epoch, each of them up to some MiB.
//!
//! Owns those queries. Never has more than one result in memory unless all are asked for. Called by the
//! service.

use trainyard_core::ids::JobId;

use super::{
    ReadError, Store,
    codec::{self, Place},
    tables::VALIDATIONS,
};

impl Store {
    /// Validation results of a job by epoch, ascending.
    pub fn validations(&self, job: JobId) -> Result<Vec<(u32, String)>, ReadError> {
        let mut found = Vec::new();
        self.each_validation(job, 0, |epoch, text| {
            found.push((epoch, text));
            true
        })?;
        Ok(found)
    }

    /// How many validation results a job has.
    pub fn count_validations(&self, job: JobId) -> Result<usize, ReadError> {
        let table = self.read()?.open_table(VALIDATIONS)?;
        Ok(table.range((job.0, 0)..=(job.0, u32::MAX))?.count())
    }

    /// The last epoch of which a job has a validation result.
    pub fn last_validation(&self, job: JobId) -> Result<Option<u32>, ReadError> {
        let table = self.read()?.open_table(VALIDATIONS)?;
        let last = table.range((job.0, 0)..=(job.0, u32::MAX))?.next_back();
        Ok(last.transpose()?.map(|(key, _)| key.value().1))
    }

    /// Hands out validation results of a job from an epoch on, one by one, while `take` wants more.
    pub fn each_validation(
        &self,
        job: JobId,
        since: u32,
        mut take: impl FnMut(u32, String) -> bool,
    ) -> Result<(), ReadError> {
        let table = self.read()?.open_table(VALIDATIONS)?;
        for entry in table.range((job.0, since)..=(job.0, u32::MAX))? {
            let (key, bytes) = entry?;
            let epoch = key.value().1;
            let key = format!("{job}/{epoch}");
            let place = Place {
                table: "validations",
                key: &key,
            };
            if !take(epoch, codec::to_text(place, bytes.value())?) {
                break;
            }
        }
        Ok(())
    }
}
