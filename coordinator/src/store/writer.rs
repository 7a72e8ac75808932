//! The one thread that commits.
//!
//! Takes everything that waits, up to 1,024 changes, into one transaction and one fsync, then tells
//! the watchers and the callers. Never lingers for more. A failed commit ends it, and through
//! `Fatal` the process: redb refuses every write after one. Started by the store.

use std::{
    any::Any,
    collections::BTreeSet,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::mpsc;
use trainyard_core::ids::JobId;

use super::{Change, Committed, Fatal, FatalStoreError, ReadError, Shared, Then, apply::Batch};

/// The most changes that a group takes in before it commits.
const GROUP: usize = 1_024;

/// Changes that are stored together, and what to do then.
pub(super) struct Request {
    pub(super) changes: Vec<Change>,
    pub(super) then: Then,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    fatal: Fatal,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        fatal: Fatal,
    ) -> Self {
        Self {
            shared,
            requests,
            fatal,
        }
    }

    /// Commits until the store is dropped or a commit fails.
    pub(super) fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.commit_all()));
        self.ended(ended);
    }

    /// The same where there are no threads.
    pub(super) async fn run_in_place(mut self) {
        while let Some(first) = self.requests.recv().await {
            let group = self.group(first);
            trainyard_runtime::Disk::Store.is_waited_for().await;
            let ended = catch_unwind(AssertUnwindSafe(|| self.commit(group)));
            if !matches!(ended, Ok(Ok(()))) {
                return self.ended(ended);
            }
        }
    }

    fn ended(&self, ended: std::thread::Result<Result<(), ReadError>>) {
        let path = self.shared.path.clone();
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => (self.fatal)(classify(error, &path)),
            Err(panic) => (self.fatal)(FatalStoreError::Panicked {
                path,
                reason: panic_text(panic.as_ref()),
            }),
        }
    }

    fn commit_all(&mut self) -> Result<(), ReadError> {
        while let Some(first) = self.requests.blocking_recv() {
            let group = self.group(first);
            self.commit(group)?;
        }
        Ok(())
    }

    /// The request and those that wait behind it.
    fn group(&mut self, first: Request) -> Vec<Request> {
        let mut size = first.changes.len();
        let mut group = vec![first];
        while size < GROUP
            && let Ok(next) = self.requests.try_recv()
        {
            size += next.changes.len().max(1);
            group.push(next);
        }
        group
    }

    fn commit(&self, group: Vec<Request>) -> Result<(), ReadError> {
        if group.iter().all(|request| request.changes.is_empty()) {
            // Nothing to write: they only wait for what was committed before.
            let commit = self.shared.commits.load(Ordering::Relaxed);
            for request in group {
                let first_rows = Vec::new();
                (request.then)(&Committed { commit, first_rows });
            }
            return Ok(());
        }
        let mut txn = self.shared.db.begin_write()?;
        txn.set_quick_repair(true);
        let mut touched: BTreeSet<JobId> = BTreeSet::new();
        let mut answers: Vec<(Then, Vec<u64>)> = Vec::with_capacity(group.len());
        let mut batch = Batch::begin(&txn)?;
        for request in group {
            touched.extend(request.changes.iter().filter_map(Change::job));
            let mut first_rows = Vec::new();
            for change in request.changes {
                first_rows.extend(batch.apply(change)?);
            }
            answers.push((request.then, first_rows));
        }
        let open_jobs = batch.count_open()?;
        let last_event = batch.last_event;
        let changed = batch.finish()?;
        txn.commit()?;
        if let Some(count) = open_jobs {
            self.shared.open_jobs.store(count, Ordering::Relaxed);
        }
        let commit = self.shared.commits.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(number) = last_event {
            self.shared.events.send_replace(number);
        }
        if let Some(number) = changed {
            self.shared.changed.send_replace(number);
        }
        self.shared.watches.bump(&touched);
        for (then, first_rows) in answers {
            then(&Committed { commit, first_rows });
        }
        Ok(())
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "redb's errors are open-ended; only a full disk has words of its own"
)]
fn classify(error: ReadError, path: &Path) -> FatalStoreError {
    let path = path.to_path_buf();
    match error {
        ReadError::Storage(source) => match source.as_ref() {
            redb::Error::Io(io) if is_full(io) => FatalStoreError::DiskFull { path },
            _ => FatalStoreError::Commit { path, source },
        },
        source @ (ReadError::Checksum { .. }
        | ReadError::Decode { .. }
        | ReadError::Contradiction { .. }) => FatalStoreError::Row { path, source },
    }
}

/// Whether there is no space left.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Reads what may be damaged: redb panics on some pages that it cannot read instead of returning an error.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let error = redb::Error::Corrupted(panic_text(panic.as_ref()));
        Err(ReadError::Storage(Box::new(error)))
    })
}

/// The text of a panic, when it has one.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}
