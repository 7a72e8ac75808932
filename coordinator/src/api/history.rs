//! The history of the cluster, for who replays it: every job that has run, and the nodes.
//!
//! Owns how the rows are gone through: the place of a report is held while rows are read, and never while whoever asked
//! takes them. What of a job counts is decided in `core::past`. Called by the gRPC door.

use futures::Stream;
use trainyard_core::{access::Permission, ids::JobId, past::PastJob, time::Timestamp};

use super::{ApiError, Caller, Service, access::Target};
use crate::{clock, store::NodeRow};

/// Rows that are read in one transaction, and told in one message.
const AT_ONCE: usize = 1_000;

/// A piece of it.
#[derive(Debug)]
pub enum Past {
    /// All nodes; the first piece.
    Nodes(Vec<NodeRow>),
    /// Some jobs, by number.
    Jobs(Vec<PastJob>),
}

impl Service {
    /// Nodes, then jobs that were submitted at `since` or later and have run.
    ///
    /// # Errors
    /// When the caller may not operate the cluster; within the stream, when other reports take all places for too long.
    pub fn history(
        &self,
        caller: &Caller,
        since: Option<Timestamp>,
    ) -> Result<impl Stream<Item = Result<Past, ApiError>> + Send + use<>, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let permit = self.stream(caller)?;
        let service = self.clone();
        Ok(async_stream::try_stream! {
            let _held = permit;
            let now = clock::now();
            let mut nodes = service.store().nodes()?;
            // Who is revoked may never be back.
            nodes.retain(|node| !node.revoked);
            yield Past::Nodes(nodes);
            let mut after = Some(JobId(0));
            while let Some(from) = after {
                let piece = service.blocking(move |store| {
                    let mut jobs = Vec::new();
                    let wants = |ended| since.is_none_or(|since| ended >= since);
                    let next = store.sweep_jobs((from, AT_ONCE), wants, |job| {
                        jobs.extend(PastJob::of(&job, now));
                    })?;
                    jobs.retain(|job| since.is_none_or(|since| job.submitted_at >= since));
                    Ok((jobs, next))
                });
                let (jobs, next) = service.reporting(piece).await?;
                after = next;
                if !jobs.is_empty() {
                    yield Past::Jobs(jobs);
                }
            }
        })
    }
}
