//! What operators see of the trackers. Only reads. Called by both doors.

use trainyard_core::access::Permission;

use super::{ApiError, Caller, Service, access::Target, service::stopping};
use crate::trackers::Status;

impl Service {
    /// Every tracker with its lag, also those that are off.
    ///
    /// # Errors
    /// When the caller may not operate the cluster, or the store cannot be read.
    pub async fn trackers(&self, caller: &Caller) -> Result<Vec<Status>, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let (board, store) = (self.board().clone(), self.store().clone());
        let read = trainyard_runtime::blocking(move || board.with_lag(&store)).await;
        Ok(read.ok().ok_or_else(stopping)??)
    }
}
