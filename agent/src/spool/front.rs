//! The spool for async code: one thread at a time, of those that may block, does a task's file work while there is
//! some, and all that waits shares one flush. Never answers before the disk does. Called by the callback endpoint, the
//! reader of the trainer's output and the sender.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use trainyard_core::record::Record;

use super::error::SpoolError;
use super::file::{Appended, TaskSpool};
use super::frame::Spooled;

/// Calls that may wait; more make the caller wait, so a talkative trainer cannot fill the memory.
const QUEUE: usize = 256;

/// How far a spool is, on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolState {
    /// The number of the last record; 0 when there is none.
    pub last_seq: u64,
    /// The last acknowledged one.
    pub acked: u64,
    /// Where the trainer's output is to be read on.
    pub source_offset: u64,
    /// Whether the trainer's completion is there.
    pub completed: bool,
    /// How often the disk was waited for.
    pub syncs: u64,
    /// Bytes that are not acknowledged.
    pub waiting: u64,
}

type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// When records are not written because they are there already.
#[derive(Clone, Copy, Debug)]
enum Once {
    /// Never.
    No,
    /// Never, but there may be no room for them.
    IfRoom,
    /// The same progress or completion is there.
    ByWord,
    /// One of the last bodies had this identity.
    ByBody(u64),
}

#[derive(Debug)]
enum Request {
    Append {
        records: Vec<(Record, Option<u64>)>,
        once: Once,
        reply: Reply<Appended>,
    },
    Read {
        after: u64,
        max_records: usize,
        max_bytes: u64,
        reply: Reply<Vec<Spooled>>,
    },
    Ack {
        seq: u64,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// A handle on the spool of one task; the file is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct Spool {
    requests: mpsc::Sender<Request>,
    /// None in a simulation, where the work has a task of its own.
    worker: Option<Arc<Worker>>,
    state: watch::Receiver<SpoolState>,
    path: Arc<PathBuf>,
    room: u64,
}

/// What works off the requests, on whichever thread.
#[derive(Debug)]
struct Worker {
    /// It is at work or about to be.
    called: AtomicBool,
    desk: Mutex<Desk>,
}

#[derive(Debug)]
struct Desk {
    spool: TaskSpool,
    inbox: mpsc::Receiver<Request>,
    publish: watch::Sender<SpoolState>,
}

impl Worker {
    /// Has the requests worked off, unless somebody is at it. Called after a request was sent.
    fn call(self: &Arc<Self>) {
        if !self.called.swap(true, Ordering::SeqCst) {
            let worker = Arc::clone(self);
            // Its answers are waited for, not its end.
            drop(trainyard_runtime::blocking(move || worker.work()));
        }
    }

    fn work(&self) {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            desk.work();
            self.called.store(false, Ordering::SeqCst);
            // Whoever sent one before the line above has called nobody.
            if desk.inbox.is_empty() || self.called.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

impl Desk {
    /// Takes what waits, writes it, flushes once, answers all; until nothing waits. No lingering: under load the queue
    /// fills by itself while the disk works.
    fn work(&mut self) {
        while let Ok(first) = self.inbox.try_recv() {
            work_off(&mut self.spool, first, &mut self.inbox, &self.publish);
        }
    }
}

impl Spool {
    /// Opens or creates the spool. Beyond half of `room` bytes that wait, reports of metrics are thinned.
    pub async fn open(path: PathBuf, room: u64) -> Result<Self, SpoolError> {
        let file = path.clone();
        let opened = trainyard_runtime::blocking(move || TaskSpool::open(&file)).await;
        let mut spool = opened.unwrap_or(Err(SpoolError::Closed))?;
        spool.room = room;
        Ok(Self::over(spool, path))
    }

    fn over(spool: TaskSpool, path: PathBuf) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, state) = watch::channel(state_of(&spool));
        let room = spool.room;
        let worker = if trainyard_runtime::is_simulated() {
            drop(trainyard_runtime::in_place(work_in_place(
                spool, inbox, publish,
            )));
            None
        } else {
            let desk = Desk {
                spool,
                inbox,
                publish,
            };
            Some(Arc::new(Worker {
                called: AtomicBool::new(false),
                desk: Mutex::new(desk),
            }))
        };
        Self {
            requests,
            worker,
            state,
            path: Arc::new(path),
            room,
        }
    }

    /// Appends the records, all or none; returns the last number once all are on disk.
    pub async fn append(&self, records: Vec<(Record, Option<u64>)>) -> Result<u64, SpoolError> {
        match self.write(records, Once::No).await? {
            Appended::Stored(seq) => Ok(seq),
            Appended::AlreadyThere | Appended::LeftOut => Err(SpoolError::Closed),
        }
    }

    /// As `append`, unless the first record is a progress or completion that is there already.
    /// Also "already there" is answered only once that one is on disk.
    pub async fn append_once(
        &self,
        records: Vec<(Record, Option<u64>)>,
    ) -> Result<Appended, SpoolError> {
        self.write(records, Once::ByWord).await
    }

    /// As `append`, without what there is no room for.
    pub async fn append_sifted(
        &self,
        records: Vec<(Record, Option<u64>)>,
    ) -> Result<Appended, SpoolError> {
        self.write(records, Once::IfRoom).await
    }

    /// As `append_sifted`, unless the body of this identity is one of the last already; answered once that one is on
    /// disk.
    pub async fn append_body(
        &self,
        records: Vec<(Record, Option<u64>)>,
        identity: u64,
    ) -> Result<Appended, SpoolError> {
        self.write(records, Once::ByBody(identity)).await
    }

    /// Records on disk that follow number `after`, see [`TaskSpool::unsent_after`].
    pub async fn unsent_after(
        &self,
        after: u64,
        max_records: usize,
        max_bytes: u64,
    ) -> Result<Vec<Spooled>, SpoolError> {
        self.ask(|reply| Request::Read {
            after,
            max_records,
            max_bytes,
            reply,
        })
        .await
    }

    /// Notes that the coordinator keeps everything up to `seq`.
    pub async fn ack(&self, seq: u64) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Ack { seq, reply }).await
    }

    /// From now on nothing is written by any handle: the files are another's.
    pub async fn close(&self) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Close { reply }).await
    }

    /// How far the spool is now.
    #[must_use]
    pub fn state(&self) -> SpoolState {
        *self.state.borrow()
    }

    /// Tells of every change: the sender waits on it for new records.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<SpoolState> {
        self.state.clone()
    }

    /// Waits until the coordinator keeps everything up to `seq`.
    ///
    /// # Errors
    /// When the spool is closed before.
    pub async fn delivered(&self, seq: u64) -> Result<(), SpoolError> {
        let mut states = self.state.clone();
        let reached = states.wait_for(|state| state.acked >= seq).await;
        reached.map(drop).map_err(|_gone| SpoolError::Closed)
    }

    /// Waits until what is not acknowledged leaves room for more.
    pub async fn has_room(&self) {
        let mut states = self.state.clone();
        let room = self.room;
        // A spool that is gone says so to whoever writes to it.
        states.wait_for(|state| state.waiting < room).await.ok();
    }

    /// The spool's file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    async fn write(
        &self,
        records: Vec<(Record, Option<u64>)>,
        once: Once,
    ) -> Result<Appended, SpoolError> {
        self.ask(|reply| Request::Append {
            records,
            once,
            reply,
        })
        .await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        if sent.is_err() {
            return Err(SpoolError::Closed);
        }
        if let Some(worker) = &self.worker {
            worker.call();
        }
        answer.await.unwrap_or(Err(SpoolError::Closed))
    }

    /// A front on a spool that a test has prepared.
    #[cfg(test)]
    pub(crate) fn on(spool: TaskSpool) -> Self {
        Self::over(spool, PathBuf::new())
    }
}

fn state_of(spool: &TaskSpool) -> SpoolState {
    SpoolState {
        last_seq: spool.last_seq(),
        acked: spool.acked(),
        source_offset: spool.source_offset(),
        completed: spool.completed(),
        syncs: spool.syncs(),
        waiting: spool.waiting(),
    }
}

/// What a worker does, where there are no threads.
async fn work_in_place(
    mut spool: TaskSpool,
    mut inbox: mpsc::Receiver<Request>,
    publish: watch::Sender<SpoolState>,
) {
    while let Some(first) = inbox.recv().await {
        trainyard_runtime::Disk::Spools.is_waited_for().await;
        work_off(&mut spool, first, &mut inbox, &publish);
    }
}

/// Writes the first and what waits behind it.
fn work_off(
    spool: &mut TaskSpool,
    first: Request,
    inbox: &mut mpsc::Receiver<Request>,
    publish: &watch::Sender<SpoolState>,
) {
    let mut waiting = Waiting::default();
    let mut next = Some(first);
    while let Some(request) = next {
        carry_out(spool, request, &mut waiting);
        next = if waiting.appends.len() < QUEUE {
            inbox.try_recv().ok()
        } else {
            None
        };
    }
    let synced = spool.sync();
    publish.send_if_modified(|state| {
        let before = std::mem::replace(state, state_of(spool));
        before != *state
    });
    // Whoever is answered sees the state that the answer speaks of. A caller may have gone; its
    // records stay.
    for (reply, outcome) in waiting.acks {
        drop(reply.send(outcome));
    }
    for (reply, outcome) in waiting.appends {
        drop(reply.send(synced.clone().and(outcome)));
    }
}

/// What was done and is not answered yet.
#[derive(Default)]
struct Waiting {
    appends: Vec<(Reply<Appended>, Result<Appended, SpoolError>)>,
    acks: Vec<(Reply<()>, Result<(), SpoolError>)>,
}

fn carry_out(spool: &mut TaskSpool, request: Request, waiting: &mut Waiting) {
    match request {
        Request::Append {
            records,
            once,
            reply,
        } => {
            let outcome = match once {
                Once::No => spool.append(&records).map(Appended::Stored),
                Once::IfRoom => spool.append_sifted(&records),
                Once::ByWord => spool.append_once(&records),
                Once::ByBody(identity) => spool.append_body(&records, identity),
            };
            waiting.appends.push((reply, outcome));
        }
        Request::Read {
            after,
            max_records,
            max_bytes,
            reply,
        } => drop(reply.send(spool.unsent_after(after, max_records, max_bytes))),
        Request::Ack { seq, reply } => waiting.acks.push((reply, spool.ack(seq))),
        Request::Close { reply } => {
            spool.close();
            waiting.acks.push((reply, Ok(())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::line;

    #[test]
    fn all_that_waits_shares_one_flush() {
        let folder = tempfile::tempdir().unwrap();
        let spool = TaskSpool::open(&folder.path().join("spool")).unwrap();
        let (publish, state) = watch::channel(SpoolState::default());
        let (requests, inbox) = mpsc::channel(QUEUE);
        let mut answers = Vec::new();
        for number in 0..100 {
            let (reply, answer) = oneshot::channel();
            let records = vec![(line(&number.to_string()), None)];
            let request = Request::Append {
                records,
                once: Once::No,
                reply,
            };
            requests.try_send(request).unwrap();
            answers.push(answer);
        }
        let mut desk = Desk {
            spool,
            inbox,
            publish,
        };
        desk.work();
        for (answer, seq) in answers.into_iter().zip(1..) {
            let outcome = answer.blocking_recv().unwrap().unwrap();
            assert_eq!(outcome, Appended::Stored(seq));
        }
        assert_eq!((state.borrow().syncs, state.borrow().last_seq), (1, 100));
    }
}
