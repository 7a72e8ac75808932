//! The coordinator's figures as they are now: what the store and the actors know, counted.
//!
//! The part of the service that `/metrics` asks. Owns no counter: those are `telemetry`.

use trainyard_core::node::NodeState;

use super::{ApiError, Service};
use crate::{store::Store, telemetry::Now};

/// Jobs by state, as they were at so many commits.
pub(super) type Counted = tokio::sync::Mutex<Option<(u64, Vec<(&'static str, u64)>)>>;

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
        let jobs = self.states().await?;
        let broken = self.tree().broken.counts();
        let mut now = self
            .blocking(move |store| {
                let (points, lines) = store.totals()?;
                Ok(Now {
                    jobs,
                    nodes: Vec::new(),
                    commits: store.commits(),
                    points,
                    lines,
                    broken,
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

    /// How many jobs are in each state. Anyone may ask, so they are counted once for all who ask at once, and
    /// not again while nothing was committed.
    async fn states(&self) -> Result<Vec<(&'static str, u64)>, ApiError> {
        let mut counted = self.counted().lock().await;
        // Before the rows: what is committed meanwhile makes them be counted again.
        let commits = self.store().commits();
        if let Some((of, states)) = counted.as_ref()
            && *of == commits
        {
            return Ok(states.clone());
        }
        let states = self.blocking(Store::count_states).await?.into_iter();
        let states: Vec<_> = states.map(|(state, count)| (state.name(), count)).collect();
        *counted = Some((commits, states.clone()));
        Ok(states)
    }
}
