//! Stands in for the coordinator's boot until the real one is merged. Never does anything.

use std::{future::Future, path::PathBuf};

use crate::config::Config;

/// What the coordinator is started with.
#[derive(Debug)]
pub struct CoordinatorOptions {
    /// The settings.
    pub config: Config,
    /// Makes the development user.
    pub dev: bool,
    /// Written once it serves.
    pub ready_file: Option<PathBuf>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
#[error("not there yet")]
pub struct BootError;

/// Serves until `stop`.
pub async fn run(
    options: CoordinatorOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BootError> {
    tracing::info!(?options, "stub");
    stop.await;
    Ok(())
}
