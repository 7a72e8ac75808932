//! What every run needs to know of the node that it is on. Never changes while the agent runs. Made
//! at boot.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::sync::watch;
use trainyard_config::Secret;
use trainyard_core::{ids::TaskKey, node::Room};

use crate::{
    board::Board,
    callbacks::{Registry, callback_url},
    dataset::Datasets,
    devices::Gpus,
    embedded::Extracted,
    environment::EnvironmentStore,
    exec::trainers::Trainers,
    link::LinkState,
    ports::Ports,
    slots::Slots,
    spares::Spares,
};

/// This node, for its runs.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Absolute.
    pub data_dir: PathBuf,
    /// Who runs its trainers.
    pub trainers: Arc<dyn Trainers>,
    /// The agent's own PATH.
    pub path: String,
    /// Trainers and SDK of the binary.
    pub extracted: Extracted,
    /// The operator's own trainers.
    pub trainers_dir: Option<PathBuf>,
    /// Python environments.
    pub environments: EnvironmentStore,
    /// Who may call back.
    pub registry: Registry,
    /// Where trainers call back.
    pub callbacks: SocketAddr,
    /// How the link to the coordinator stands.
    pub link: watch::Receiver<LinkState>,
    /// Where reports and spools are shown.
    pub board: Board,
    /// Folders for the next tasks.
    pub spares: Spares,
    /// What a task may tell before the coordinator takes it, in bytes.
    pub spool_bytes: u64,
    /// What its trainers take of it.
    pub slots: Slots,
    /// Where gangs meet on it.
    pub ports: Ports,
    /// Its GPUs, and when one that was held is free.
    pub gpus: Gpus,
    /// What has to be free on the disk of `data_dir`.
    pub room: Room,
    /// Datasets of snapshots, and where checkpoints go.
    pub datasets: Arc<Datasets>,
}

/// Everything in it is shown elsewhere or of no use.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Holds a folder for each task.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.data_dir.join("tasks")
    }

    /// Where a task works; stays when the task is forgotten.
    #[must_use]
    pub fn working_folder(&self, task: TaskKey) -> PathBuf {
        let attempt = format!("attempt-{}", task.attempt.0);
        let jobs = self.data_dir.join("jobs");
        jobs.join(task.job.0.to_string()).join(attempt)
    }

    /// Whom the trainer with this secret calls back.
    #[must_use]
    pub fn callback_url(&self, secret: &Secret) -> String {
        callback_url(self.callbacks, secret.expose())
    }

    /// The frameworks that jobs can be run with here.
    #[must_use]
    pub fn frameworks(&self) -> Vec<String> {
        let mut names = vec![COMMAND.to_owned()];
        let folders = [
            Some(&self.extracted.trainers_dir),
            self.trainers_dir.as_ref(),
        ];
        for folder in folders.into_iter().flatten() {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let trainers = entries.filter(|entry| entry.path().join("train.py").is_file());
            names.extend(trainers.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        names.sort();
        names.dedup();
        names
    }
}

/// The framework that runs any program.
pub const COMMAND: &str = "command";
