//! The coordinator's figures as they are now: what the store and the actors know, counted.
//!
//! The part of the service that `/metrics` asks. Owns no counter: those are `telemetry`.

use trainyard_core::{job::JobState, node::NodeState};

use super::{ApiError, Service};
use crate::telemetry::Now;

impl Service {
    /// Everything as the text of Prometheus.
    ///
    /// # Errors
    /// When the store cannot be read or the actors do not answer.
    pub async fn figures(&self) -> Result<String, ApiError> {
        let nodes = self.all_nodes().await?;
        let state = |wanted: NodeState| {
            let of_state = nodes.iter().filter(|node| node.info.state == wanted);
            u64::try_from(of_state.count()).unwrap_or(u64::MAX)
        };
        let open = JobState::ALL
            .into_iter()
            .filter(|state| !state.is_terminal());
        let mut now = self
            .blocking(move |store| {
                let jobs = store.open_jobs()?;
                let of_state = |state: JobState| {
                    let of_state = jobs.iter().filter(|job| job.state == state);
                    (
                        state.name(),
                        u64::try_from(of_state.count()).unwrap_or(u64::MAX),
                    )
                };
                let (points, lines) = store.totals()?;
                Ok(Now {
                    jobs: open.map(of_state).collect(),
                    nodes: Vec::new(),
                    commits: store.commits(),
                    points,
                    lines,
                })
            })
            .await?;
        now.nodes = vec![
            ("ready", state(NodeState::Ready)),
            ("suspect", state(NodeState::Suspect)),
            ("lost", state(NodeState::Lost)),
        ];
        Ok(self.telemetry().text(&now))
    }
}
