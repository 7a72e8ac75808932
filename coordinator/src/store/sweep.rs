//! Every job that may matter to a report, a bounded number at a time.
//!
//! Owns the order, which is that of the numbers, and that no transaction lasts long. Decides nothing. Called by the
//! service's reports.

use trainyard_core::{ids::JobId, job::Job, time::Timestamp};

use super::{
    ReadError, Store,
    codec::{self, Place},
    error::spared,
    read::decode_job,
    tables::JOBS,
};

impl Store {
    /// Hands out jobs behind `after`, in the order of their numbers, of the next `most` rows; those that had ended when
    /// `wants` says that they do not matter are not read any further, and those that cannot be read are left out. The number to go on behind; none at the end. Blocks.
    pub fn sweep_jobs(
        &self,
        (after, most): (JobId, usize),
        wants: impl Fn(Timestamp) -> bool,
        take: impl FnMut(Job),
    ) -> Result<Option<JobId>, ReadError> {
        let wanted = |place: Place<'_>, bytes: &[u8]| {
            let ended = codec::ended_from_json(place, bytes)?;
            Ok(ended.is_none_or(&wants))
        };
        self.sweep((after, most), wanted, take)
    }

    /// The same of those that ever had a place. Blocks.
    pub fn sweep_placed(
        &self,
        (after, most): (JobId, usize),
        wants: impl Fn(Timestamp) -> bool,
        take: impl FnMut(Job),
    ) -> Result<Option<JobId>, ReadError> {
        let wanted = |place: Place<'_>, bytes: &[u8]| {
            let (ended, placed) = codec::placed_from_json(place, bytes)?;
            Ok(placed && ended.is_none_or(&wants))
        };
        self.sweep((after, most), wanted, take)
    }

    fn sweep(
        &self,
        (after, most): (JobId, usize),
        wanted: impl Fn(Place<'_>, &[u8]) -> Result<bool, ReadError>,
        mut take: impl FnMut(Job),
    ) -> Result<Option<JobId>, ReadError> {
        let table = self.read()?.open_table(JOBS)?;
        let mut last = None;
        for entry in table.range(after.0.saturating_add(1)..)?.take(most) {
            let (id, bytes) = entry?;
            let id = id.value();
            last = Some(JobId(id));
            let place = Place {
                table: "jobs",
                key: &id,
            };
            if spared(wanted(place, bytes.value()))? == Some(true) {
                spared(decode_job(id, bytes.value()))?.map(&mut take);
            }
        }
        Ok(last)
    }
    /// When a job ended; none of one that has not, or is not there. Reads no more of its row. Blocks.
    pub fn ended_at(&self, id: JobId) -> Result<Option<Timestamp>, ReadError> {
        let table = self.read()?.open_table(JOBS)?;
        let Some(bytes) = table.get(id.0)? else {
            return Ok(None);
        };
        let place = Place {
            table: "jobs",
            key: &id.0,
        };
        codec::ended_from_json(place, bytes.value())
    }
}
