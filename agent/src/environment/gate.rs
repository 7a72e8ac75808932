//! One builder at a time for a name, in this process and among all processes that share the data
//! folder. Never looks at what is built. Called by `environment` and `environment::tools`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::error::EnvironmentError;

/// The gates by lock file. They stay: there are as many as environments.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<BTreeMap<PathBuf, Arc<AsyncMutex<()>>>>);

/// Held while building; opens again when dropped.
#[derive(Debug)]
pub(super) struct Held {
    // Dropped in this order: other processes first, then the next one here.
    _file: File,
    _here: OwnedMutexGuard<()>,
}

impl Gates {
    /// Waits until nobody else holds `lock_file`, whose folder must exist.
    pub(super) async fn enter(&self, lock_file: PathBuf) -> Result<Held, EnvironmentError> {
        let gate = {
            let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(gates.entry(lock_file.clone()).or_default())
        };
        let here = gate.lock_owned().await;
        let path = lock_file.clone();
        let file = tokio::task::spawn_blocking(move || {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)?;
            file.lock().map(|()| file)
        })
        .await
        .map_err(std::io::Error::other)
        .and_then(|locked| locked)
        .map_err(EnvironmentError::file("lock", lock_file))?;
        Ok(Held {
            _file: file,
            _here: here,
        })
    }
}
