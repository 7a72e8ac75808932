//! Which secret stands for which task, and which S3 keys. Keeps only hashes of secrets, and never writes to disk: the
//! agent registers its tasks again after a restart. Called by whoever starts and ends tasks, and by
//! `routes`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use trainyard_core::ids::JobId;
use trainyard_core::time::Timestamp;

use super::answers::Refusal;
use crate::dataset::Told;
use crate::objects::{KeyPair, TaskObjects};
use crate::spool::Spool;

/// Tells the time; the shell's clock, or a test's.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where the reports of one task go.
#[derive(Clone, Debug)]
pub struct TaskEndpoint {
    /// The job; reports for any other are refused.
    pub job: JobId,
    /// How many epochs the job is to run.
    pub total_epochs: u32,
    /// The task's outbox.
    pub spool: Spool,
    /// Where relative checkpoint paths start.
    pub checkpoint_root: PathBuf,
    /// What it sees as S3.
    pub objects: TaskObjects,
    /// The files that it has said are checkpoints.
    pub told: Told,
}

/// The tasks that may report. A cheap handle.
#[derive(Clone)]
pub struct Registry {
    /// None: the task is there, and is not ready to be reported for.
    tasks: Arc<RwLock<BTreeMap<[u8; 32], Option<TaskEndpoint>>>>,
    /// By access key.
    signers: Arc<RwLock<BTreeMap<String, Signer>>>,
    /// There are tasks whose secrets are not known at present.
    doubts: Arc<AtomicBool>,
    clock: Clock,
}

/// Who signs with an access key.
struct Signer {
    secret_key: String,
    /// None as with the tasks.
    objects: Option<TaskObjects>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// Without tasks.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            tasks: Arc::default(),
            signers: Arc::default(),
            doubts: Arc::default(),
            clock,
        }
    }

    /// `secret` will stand for a task that was found again: until then its trainer is told to wait,
    /// and not that there is no such task, upon which it would give up.
    pub fn expect(&self, secret: &str) {
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        tasks.entry(hash(secret)).or_insert(None);
        let keys = KeyPair::of(secret);
        let mut signers = self.signers();
        signers.entry(keys.access).or_insert(Signer {
            secret_key: keys.secret,
            objects: None,
        });
    }

    /// From now on `secret` stands for the task; an earlier meaning of it is forgotten.
    pub fn register(&self, secret: &str, task: TaskEndpoint) {
        let keys = KeyPair::of(secret);
        let signer = Signer {
            secret_key: keys.secret,
            objects: Some(task.objects.clone()),
        };
        self.signers().insert(keys.access, signer);
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(hash(secret), Some(task));
    }

    /// From now on `secret` stands for nothing. True when it stood for a task.
    pub fn unregister(&self, secret: &str) -> bool {
        self.remove(secret).is_some()
    }

    /// As `unregister`, for who goes on with the task that was ready to be reported for.
    #[must_use]
    pub fn take(&self, secret: &str) -> Option<TaskEndpoint> {
        self.remove(secret).flatten()
    }

    fn remove(&self, secret: &str) -> Option<Option<TaskEndpoint>> {
        self.signers().remove(&KeyPair::of(secret).access);
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        tasks.remove(&hash(secret))
    }

    /// One of this task alone, with the same clock.
    pub(super) fn alone(&self, secret: &str, task: TaskEndpoint) -> Self {
        let alone = Self::new(Arc::clone(&self.clock));
        alone.register(secret, task);
        alone
    }

    /// While there are tasks whose secrets are not known, whoever calls with an unknown one is told to wait.
    pub fn doubt(&self, doubts: bool) {
        self.doubts.store(doubts, Ordering::Relaxed);
    }

    /// Whether an unknown caller may be a trainer of this node.
    pub(crate) fn doubts(&self) -> bool {
        self.doubts.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, secret: &str) -> Result<TaskEndpoint, Refusal> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        match tasks.get(&hash(secret)) {
            Some(Some(task)) => Ok(task.clone()),
            Some(None) => Err(Refusal::Starting),
            None if self.doubts() => Err(Refusal::Starting),
            None => Err(Refusal::NoTask),
        }
    }

    /// With what the task that has this access key signs.
    pub(crate) fn secret_key(&self, access_key: &str) -> Option<String> {
        let signers = self.signers();
        let signer = signers.get(access_key)?;
        Some(signer.secret_key.clone())
    }

    /// What the task with this access key sees; the inner none where it is being found again.
    pub(crate) fn objects(&self, access_key: &str) -> Option<Option<TaskObjects>> {
        let signers = self.signers();
        let signer = signers.get(access_key)?;
        Some(signer.objects.clone())
    }

    fn signers(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Signer>> {
        self.signers.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// Looking up a hash tells nothing by the time it takes.
fn hash(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}
