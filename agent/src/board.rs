//! What Runs and Link share: the newest report and the spool of each task.
//!
//! Owns no decision. Who writes is the task's own run; who reads sees the newest of each and nothing
//! in between, so no message between the two can be lost. Called by the actors and by the link.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;
use trainyard_core::{
    ids::TaskKey,
    task::{Phase, Report},
};

use crate::{exec::ProcIdent, spool::Spool};

#[derive(Debug)]
struct Entry {
    report: Report,
    spool: Option<(u64, Spool)>,
    changed: u64,
}

impl Entry {
    /// The report, with what the spool says at this moment. Without one it says for itself what is kept.
    fn told(&self) -> Report {
        let mut told = self.report.clone();
        if let Some((_, spool)) = &self.spool {
            let state = spool.state();
            told.kept_from = state.acked.saturating_add(1);
            // The disk has lost the last of what it told, or all. Not said before the rest is delivered.
            if let Phase::Ended(ended) = &told.phase
                && state.acked >= state.last_seq
                && state.last_seq < ended.end.last_seq
            {
                told.kept_from = ended.end.last_seq.saturating_add(1);
            }
        }
        told
    }
}

/// Why a GPU gets no jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// For people.
    pub reason: String,
    /// Who held it last and has not ended.
    pub processes: Vec<ProcIdent>,
    /// The folder of the task that held it, where its processes could not be looked at.
    pub unseen: Option<PathBuf>,
}

/// The newest of every task, and the GPUs that get none. A cheap handle.
#[derive(Clone, Debug)]
pub struct Board {
    blocked: Arc<Mutex<BTreeMap<String, Blocked>>>,
    condition: Arc<Mutex<String>>,
    entries: Arc<Mutex<BTreeMap<TaskKey, Entry>>>,
    spools: Arc<AtomicU64>,
    version: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            blocked: Arc::default(),
            condition: Arc::default(),
            entries: Arc::default(),
            spools: Arc::default(),
            version: watch::channel(0).0,
        }
    }
}

impl Board {
    /// Replaces the report of its task.
    pub fn report(&self, report: Report) {
        self.change(|entries, version| match entries.get_mut(&report.task) {
            Some(entry) => {
                if entry.report != report {
                    entry.report = report;
                    entry.changed = version;
                }
            }
            None => {
                let entry = Entry {
                    spool: None,
                    changed: version,
                    report,
                };
                entries.insert(entry.report.task, entry);
            }
        });
    }

    /// Replaces the spool of a task that has a report.
    pub fn spool(&self, task: TaskKey, spool: Spool) {
        self.change(|entries, version| {
            if let Some(entry) = entries.get_mut(&task) {
                entry.spool = Some((version, spool));
                self.spools.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    /// Takes a task away.
    pub fn remove(&self, task: TaskKey) {
        self.change(|entries, _| {
            entries.remove(&task);
            self.spools.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// The newest report of a task.
    #[must_use]
    pub fn report_of(&self, task: TaskKey) -> Option<Report> {
        self.lock().get(&task).map(|entry| entry.report.clone())
    }

    /// The reports that changed after `version`; all for 0. An acknowledgement alone is no change.
    #[must_use]
    pub fn reports_after(&self, version: u64) -> Vec<Report> {
        let entries = self.lock();
        let news = entries.values().filter(|entry| entry.changed > version);
        news.map(Entry::told).collect()
    }

    /// The spool of a task.
    #[must_use]
    pub fn spool_of(&self, task: TaskKey) -> Option<Spool> {
        let entries = self.lock();
        let (_, spool) = entries.get(&task)?.spool.as_ref()?;
        Some(spool.clone())
    }

    /// How often spools have come or gone.
    #[must_use]
    pub fn spools_changed(&self) -> u64 {
        self.spools.load(Ordering::SeqCst)
    }

    /// Whether any task has a spool.
    #[must_use]
    pub fn has_spools(&self) -> bool {
        self.lock().values().any(|entry| entry.spool.is_some())
    }

    /// The spools of all tasks that have one. The number changes when a task gets another.
    #[must_use]
    pub fn spools(&self) -> BTreeMap<TaskKey, (u64, Spool)> {
        let entries = self.lock();
        let with = |(key, entry): (&TaskKey, &Entry)| Some((*key, entry.spool.clone()?));
        entries.iter().filter_map(with).collect()
    }

    /// From now on this GPU gets no jobs.
    pub fn block(&self, uuid: String, why: Blocked) {
        self.lock_blocked().insert(uuid, why);
        self.version.send_modify(|version| *version += 1);
    }

    /// It does again.
    pub fn unblock(&self, uuid: &str) {
        self.lock_blocked().remove(uuid);
        self.version.send_modify(|version| *version += 1);
    }

    /// The GPUs that get no jobs.
    #[must_use]
    pub fn blocked(&self) -> BTreeMap<String, Blocked> {
        self.lock_blocked().clone()
    }

    /// Why the node takes no work; empty when it does.
    #[must_use]
    pub fn condition(&self) -> String {
        let condition = self.condition.lock();
        condition.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is the reason.
    pub fn set_condition(&self, words: String) {
        let condition = self.condition.lock();
        *condition.unwrap_or_else(PoisonError::into_inner) = words;
        self.version.send_modify(|version| *version += 1);
    }

    fn lock_blocked(&self) -> MutexGuard<'_, BTreeMap<String, Blocked>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every change, with the number of the newest.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<TaskKey, Entry>, u64)) {
        // The number is told while the entries are held: who has seen it finds the change.
        let mut entries = self.lock();
        let version = *self.version.borrow() + 1;
        change(&mut entries, version);
        self.version.send_replace(version);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::{
        failure::TaskEnd,
        ids::{AttemptNo, JobId, Rank},
        record::{LogLine, LogStream, Record},
        task::Ended,
        time::Timestamp,
    };

    fn report(job: u64, detail: &str) -> Report {
        Report {
            task: TaskKey {
                job: JobId(job),
                attempt: AttemptNo(1),
                rank: Rank(0),
            },
            phase: Phase::Preparing,
            detail: detail.to_owned(),
            kept_from: 0,
        }
    }

    #[test]
    fn only_the_newest_of_what_changed_is_told() {
        let board = Board::default();
        board.report(report(1, "a"));
        board.report(report(2, "a"));
        let seen = *board.watch().borrow();
        assert_eq!(board.reports_after(seen), []);
        board.report(report(2, "a"));
        assert_eq!(board.reports_after(seen), [], "nothing has changed");
        board.report(report(2, "b"));
        board.report(report(2, "c"));
        assert_eq!(board.reports_after(seen), [report(2, "c")]);
        assert_eq!(board.reports_after(0).len(), 2);
        board.remove(report(2, "").task);
        assert_eq!(board.reports_after(0), [report(1, "a")]);
    }

    /// A spool with three records.
    async fn spool() -> (tempfile::TempDir, Spool) {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path().join("spool"), u64::MAX)
            .await
            .unwrap();
        let line = Record::Log(LogLine {
            at: Timestamp(1),
            stream: LogStream::Stdout,
            level: String::new(),
            text: "x".into(),
        });
        spool.append(vec![(line, None); 3]).await.unwrap();
        (folder, spool)
    }

    #[tokio::test]
    async fn an_end_says_that_its_last_records_are_lost_once_all_before_them_are_delivered() {
        let (_folder, spool) = spool().await;
        let board = Board::default();
        let task = report(1, "").task;
        let ended = |last_seq| {
            let end = TaskEnd {
                last_seq,
                ..TaskEnd::default()
            };
            let (started, at) = (None, Timestamp(1));
            let mut report = report(1, "");
            report.phase = Phase::Ended(Box::new(Ended { started, at, end }));
            report
        };
        board.report(ended(5));
        board.spool(task, spool.clone());
        let told = || board.reports_after(0).pop().unwrap().kept_from;
        assert_eq!(told(), 1);
        spool.ack(2).await.unwrap();
        assert_eq!(told(), 3);
        spool.ack(3).await.unwrap();
        assert_eq!(told(), 6);
        // One that lacks nothing says no more than how far it is delivered, and a trainer that runs may go on.
        board.report(ended(3));
        assert_eq!(told(), 4);
        board.report(report(1, ""));
        assert_eq!(told(), 4);
    }

    #[tokio::test]
    async fn what_a_task_has_let_go_of_is_told_also_when_nothing_is_left_to_send() {
        let (_folder, spool) = spool().await;
        let board = Board::default();
        let task = report(1, "").task;
        board.report(report(1, "a"));
        board.spool(task, spool.clone());
        let told = || board.reports_after(0).pop().unwrap().kept_from;
        assert_eq!(told(), 1);
        spool.ack(3).await.unwrap();
        assert_eq!(told(), 4);
        // It is told with others, and makes no news.
        let seen = *board.watch().borrow();
        board.report(report(1, "a"));
        assert_eq!(board.reports_after(seen), []);
    }
}
