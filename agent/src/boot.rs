//! Stands in for the agent's boot until the real one is merged. Never does anything.

use std::{collections::BTreeMap, future::Future, path::PathBuf};

use crate::inventory::SimulatedGpu;

/// What the agent is started with.
#[derive(Debug)]
pub struct AgentOptions {
    /// The coordinator's URL.
    pub coordinator: String,
    /// The join token.
    pub token: String,
    /// The node's name.
    pub name: Option<String>,
    /// Where it remembers.
    pub data_dir: PathBuf,
    /// CPU slots.
    pub slots: Option<u32>,
    /// GPUs to pretend to have.
    pub simulated_gpus: Option<Vec<SimulatedGpu>>,
    /// The operator's own trainers.
    pub trainers_dir: Option<PathBuf>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How the shim is started.
    pub shim_command: Vec<String>,
    /// Written once it is registered.
    pub ready_file: Option<PathBuf>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
#[error("not there yet")]
pub struct BootError;

/// Runs until `stop`.
pub async fn run(
    options: AgentOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BootError> {
    tracing::info!(?options, "stub");
    stop.await;
    Ok(())
}
