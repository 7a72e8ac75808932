//! Jobs and nodes of a file, for who replays its history.
//!
//! Only reads. A row that is damaged is passed over and counted.

use redb::{ReadableDatabase as _, ReadableTable as _};
use trainyard_core::job::Job;

use super::Care;
use crate::store::{
    NodeRow,
    codec::{self, Place},
    error::{CareError, ReadError},
    read::decode_job,
    tables::{JOBS, NODES},
};

impl Care {
    /// Hands out every job in the order of their numbers; answers with how many cannot be read. Blocks.
    ///
    /// # Errors
    /// When the table cannot be read at all.
    pub fn each_job(&self, take: impl FnMut(Job)) -> Result<u64, CareError> {
        self.jobs(take).map_err(|source| self.unread(source))
    }

    /// Every node by name, but for those that cannot be read. Blocks.
    ///
    /// # Errors
    /// When the table cannot be read at all.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, CareError> {
        self.rows_of_nodes().map_err(|source| self.unread(source))
    }

    fn unread(&self, source: ReadError) -> CareError {
        CareError::Read {
            path: self.path.clone(),
            source,
        }
    }

    fn jobs(&self, mut take: impl FnMut(Job)) -> Result<u64, ReadError> {
        let mut damaged = 0;
        for row in self.db.begin_read()?.open_table(JOBS)?.iter()? {
            let (id, bytes) = row?;
            match decode_job(id.value(), bytes.value()) {
                Ok(job) => take(job),
                Err(error) => {
                    tracing::warn!(job = id.value(), %error, "a job cannot be read");
                    damaged += 1;
                }
            }
        }
        Ok(damaged)
    }

    fn rows_of_nodes(&self) -> Result<Vec<NodeRow>, ReadError> {
        let mut found = Vec::new();
        for row in self.db.begin_read()?.open_table(NODES)?.iter()? {
            let (name, bytes) = row?;
            let name = String::from_utf8_lossy(name.value()).into_owned();
            let place = Place {
                table: "nodes",
                key: &name,
            };
            found.extend(codec::from_json::<NodeRow>(place, bytes.value()).ok());
        }
        Ok(found)
    }
}
