//! The store: every durable row of the coordinator, in one redb file.
//!
//! Owns the file, the one thread that commits (all that waits goes into one commit and one fsync),
//! the ids of points and log lines, and the watches on jobs. Never decides anything about a job and
//! knows neither the API nor the actors. Called by the actors to write and by their readers to read.

mod apply;
mod block;
pub mod care;
mod changed;
mod codec;
mod digest;
mod documents;
mod error;
mod events;
mod held;
mod keys;
mod migrate;
mod numbers;
mod open;
mod opened;
mod page;
mod parts;
mod read;
mod results;
mod rows;
mod seal;
mod series;
mod sweep;
mod tables;
mod trim;
mod watches;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use redb::{Builder, Database, DatabaseError};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use trainyard_core::{ids::JobId, time::Timestamp};

pub use digest::TableDigest;
pub use documents::Document;
pub use error::{CareError, FatalStoreError, NoRoom, OpenError, ReadError, StoreError};
pub use events::{EventsOf, StoredEvent};
pub(crate) use numbers::NEAR;
pub use page::Most;
pub(crate) use page::{Filling, Sizable};
pub use read::{Bounds, FoundJobs};
pub use rows::{
    Change, Committed, NodeRow, Profile, Sample, StoredLine, StoredPoint, UserRow, Whose,
};
pub use seal::{Sealing, UNSEALED};
pub use tables::Rows;
pub(crate) use tables::SESSIONS_KEY;
pub use trim::{TrimError, Trimming};

use self::{
    watches::Watches,
    writer::{Request, Writer},
};

/// Requests that may wait for the committing thread: four full groups. Beyond it callers wait.
const QUEUE: usize = 4_096;

/// What is called when a commit has failed; it is expected to end the process.
pub type Fatal = Box<dyn Fn(FatalStoreError) + Send + Sync>;

/// What is called on the committing thread once the changes are on disk; it only sends messages.
pub type Then = Box<dyn FnOnce(&Committed) + Send>;

/// Where the store lies and what it may take.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The file, usually `trainyard.redb` in the data folder, which is created if missing.
    pub path: PathBuf,
    /// Memory for cached pages.
    pub cache_bytes: usize,
    /// Free space below which [`Store::room`] refuses.
    pub reserve_bytes: u64,
}

impl StoreOptions {
    /// The defaults for a file: 64 MiB of cache, 256 MiB of reserve.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
        }
    }
}

/// The open store. A clone is cheap; the file is closed when the last one is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What readers and the committing thread share.
struct Shared {
    db: Database,
    path: PathBuf,
    watches: Watches,
    changed: watch::Sender<u64>,
    /// The number of the last event.
    events: watch::Sender<u64>,
    commits: AtomicU64,
    /// Jobs that have not ended.
    open_jobs: AtomicU64,
    copying: Arc<Semaphore>,
}

struct Inner {
    shared: Arc<Shared>,
    reserve_bytes: u64,
    instance: String,
    newest: Timestamp,
    queue: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the committing thread ended with a panic");
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.shared.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the store and starts its committing thread. Blocks; call it before serving.
    ///
    /// # Errors
    /// Names the path and the way out.
    pub fn open(options: StoreOptions, fatal: Fatal) -> Result<Self, OpenError> {
        let opened = open::open(&options)?;
        Self::start(opened, options, fatal)
    }

    /// A store on a database that lies elsewhere, such as on the disk of a simulation; `make` makes it. The path
    /// names it in messages, and its folder is where room is looked for.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        make: impl Fn(&Builder) -> Result<Database, DatabaseError>,
        options: StoreOptions,
        fatal: Fatal,
    ) -> Result<Self, OpenError> {
        let opened = open::open_on(&make, &options)?;
        Self::start(opened, options, fatal)
    }

    fn start(opened: open::Opened, options: StoreOptions, fatal: Fatal) -> Result<Self, OpenError> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            db: opened.db,
            path: options.path.clone(),
            watches: Watches::default(),
            changed: watch::Sender::new(0),
            events: watch::Sender::new(0),
            commits: AtomicU64::new(0),
            open_jobs: AtomicU64::new(opened.open_jobs),
            copying: Arc::new(Semaphore::new(1)),
        });
        let writer = Writer::new(Arc::clone(&shared), requests, fatal);
        let thread = if trainyard_runtime::is_simulated() {
            drop(trainyard_runtime::in_place(writer.run_in_place()));
            None
        } else {
            let thread = thread::Builder::new().name("store-commit".to_owned());
            let started = thread.spawn(move || writer.run());
            Some(started.map_err(|source| OpenError::Thread {
                path: options.path,
                source,
            })?)
        };
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                reserve_bytes: options.reserve_bytes,
                instance: opened.instance,
                newest: opened.newest,
                queue: Some(queue),
                thread,
            }),
        })
    }

    /// Puts the changes into the queue, in the order of the calls, waiting only while it is full.
    /// `then` runs on the committing thread after the fsync; it is dropped unrun if the commit fails.
    ///
    /// # Errors
    /// When the store has stopped after a failed commit.
    pub async fn commit(&self, changes: Vec<Change>, then: Then) -> Result<(), StoreError> {
        let request = Request { changes, then };
        let sent = self.queue()?.send(request).await;
        sent.ok().ok_or(StoreError::Stopped)
    }

    /// [`Store::commit`] for those who cannot wait.
    ///
    /// # Errors
    /// When the queue is full or the store has stopped; the changes are not taken.
    pub fn try_commit(&self, changes: Vec<Change>, then: Then) -> Result<(), StoreError> {
        match self.queue()?.try_send(Request { changes, then }) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(StoreError::Busy { waiting: QUEUE }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Stopped),
        }
    }

    /// Commits the changes and returns once they are on disk.
    ///
    /// # Errors
    /// When the commit failed or the store has stopped; the process is then about to end.
    pub async fn commit_and_wait(&self, changes: Vec<Change>) -> Result<Committed, StoreError> {
        let (answer, stored) = oneshot::channel();
        let then = move |committed: &Committed| {
            // A caller that no longer waits has its changes stored all the same.
            answer.send(committed.clone()).ok();
        };
        self.commit(changes, Box::new(then)).await?;
        stored.await.ok().ok_or(StoreError::Stopped)
    }

    /// Whether there is room to accept more work.
    ///
    /// # Errors
    /// When the free space of the data folder is below the reserve, or cannot be read.
    pub fn room(&self) -> Result<(), NoRoom> {
        let path = open::folder(&self.inner.shared.path).to_path_buf();
        let stat = match rustix::fs::statvfs(&path) {
            Ok(stat) => stat,
            Err(error) => {
                let source = error.into();
                return Err(NoRoom::Unseen { path, source });
            }
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve = self.inner.reserve_bytes;
        if free < reserve {
            return Err(NoRoom::Full {
                path,
                free,
                reserve,
            });
        }
        Ok(())
    }

    /// Bytes that stay free on the disk of the data folder.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        self.inner.reserve_bytes
    }

    /// A number that grows after each commit that touched the job; what it means is read from here.
    #[must_use]
    pub fn changes(&self, job: JobId) -> watch::Receiver<u64> {
        self.inner.shared.watches.watch(job)
    }

    /// Who copies the store takes this: one copy at a time is load enough.
    #[must_use]
    pub fn copy_turn(&self) -> Arc<Semaphore> {
        Arc::clone(&self.inner.shared.copying)
    }

    /// Writes that wait to be committed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let queue = self.inner.queue.as_ref();
        queue.map_or(0, |queue| QUEUE.saturating_sub(queue.capacity()))
    }

    /// The folder of the file.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        open::folder(&self.inner.shared.path)
    }

    /// Commits since this store was opened.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.inner.shared.commits.load(Ordering::Relaxed)
    }

    /// When the newest of what is stored was written before it was opened: the last decision, or the last job. The clock
    /// of now has no part in it. The beginning of time where that is not known.
    #[must_use]
    pub fn newest_at_open(&self) -> Timestamp {
        self.inner.newest
    }

    /// The id drawn when the file was created.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    fn queue(&self) -> Result<&mpsc::Sender<Request>, StoreError> {
        self.inner.queue.as_ref().ok_or(StoreError::Stopped)
    }
}

#[cfg(test)]
pub(crate) mod for_tests;
#[cfg(test)]
mod tests;
