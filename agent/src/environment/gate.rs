//! One builder at a time for a name, in this process and among all processes that share the data
//! folder. Never looks at what is built. Called by `environment` and `environment::tools`.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::error::EnvironmentError;

/// How soon a gate that another process holds is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// The gates by lock file. They stay: there are as many as environments.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<BTreeMap<PathBuf, Arc<AsyncMutex<()>>>>);

/// Held while building; opens again when dropped.
#[derive(Debug)]
pub(super) struct Held {
    // Dropped in this order: other processes first, then the next one here.
    file: File,
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
        let file = lock(&lock_file)
            .await
            .map_err(EnvironmentError::file("lock", lock_file))?;
        Ok(Held { file, _here: here })
    }
}

impl Held {
    /// Has the program hold the gate too, as its stdin: should this process be killed, the next one
    /// waits for the end of what the program does.
    pub(super) fn share(&self, command: &mut Command) -> Result<(), EnvironmentError> {
        let failed = EnvironmentError::file("share", "the lock of an environment");
        command.stdin(self.file.try_clone().map_err(failed)?);
        Ok(())
    }
}

/// Asks again and again: a thread that waits for the kernel could not be told to give up.
async fn lock(path: &Path) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    tracing::info!(lock = %path.display(), "another process builds; waiting for its end");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_builder_that_outlives_its_agent_keeps_the_gate_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Gates::default().enter(path.clone()).await.unwrap();
        let mut command = Command::new("sleep");
        held.share(command.arg("1000")).unwrap();
        let mut builder = command.spawn().unwrap();
        // All that a killed agent held is closed.
        drop((command, held));
        let next = File::open(&path).unwrap();
        assert!(matches!(next.try_lock(), Err(TryLockError::WouldBlock)));
        builder.kill().await.unwrap();
        Gates::default().enter(path).await.unwrap();
    }
}
