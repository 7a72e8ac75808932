//! The spool for async code: a thread per task does the file work, and all that waits shares one
//! flush. Never answers before the disk does. Called by the callback endpoint, the reader of the
//! trainer's output and the sender.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

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
    /// The same progress or completion is there.
    ByWord,
    /// The last body had this identity.
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
}

/// A handle on the spool of one task; the file is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct Spool {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<SpoolState>,
    path: Arc<PathBuf>,
    room: u64,
}

impl Spool {
    /// Opens or creates the spool on a thread of its own. Beyond half of `room` bytes that wait, reports of metrics
    /// are thinned.
    pub async fn open(path: PathBuf, room: u64) -> Result<Self, SpoolError> {
        let (ready, opened) = oneshot::channel();
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, state) = watch::channel(SpoolState::default());
        let file = path.clone();
        if trainyard_runtime::is_simulated() {
            let mut spool = TaskSpool::open(&file)?;
            spool.room = room;
            publish.send_replace(state_of(&spool));
            drop(trainyard_runtime::in_place(work_in_place(
                spool, inbox, publish,
            )));
            return Ok(Self {
                requests,
                state,
                path: Arc::new(path),
                room,
            });
        }
        start_thread(&path, move || match TaskSpool::open(&file) {
            Ok(mut spool) => {
                spool.room = room;
                publish.send_replace(state_of(&spool));
                if ready.send(Ok(())).is_ok() {
                    work(spool, inbox, &publish);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        })?;
        opened.await.unwrap_or(Err(SpoolError::Closed))?;
        Ok(Self {
            requests,
            state,
            path: Arc::new(path),
            room,
        })
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

    /// As `append`, unless the body of this identity was the last one already; answered once that one is on
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
        answer.await.unwrap_or(Err(SpoolError::Closed))
    }

    /// A front on a spool that a test has prepared.
    #[cfg(test)]
    pub(crate) fn on(spool: TaskSpool) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, state) = watch::channel(state_of(&spool));
        let room = spool.room;
        start_thread(&PathBuf::new(), move || work(spool, inbox, &publish)).unwrap();
        Self {
            requests,
            state,
            path: Arc::default(),
            room,
        }
    }
}

fn start_thread(
    path: &std::path::Path,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), SpoolError> {
    thread::Builder::new()
        .name("spool".to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|source| SpoolError::from_io("start the thread for", path, source))
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

/// Takes what waits, writes it, flushes once, answers all. No lingering: under load the queue fills
/// by itself while the disk works.
fn work(
    mut spool: TaskSpool,
    mut inbox: mpsc::Receiver<Request>,
    publish: &watch::Sender<SpoolState>,
) {
    while let Some(first) = inbox.blocking_recv() {
        work_off(&mut spool, first, &mut inbox, publish);
    }
}

/// The same where there are no threads.
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
        drop(requests);
        work(spool, inbox, &publish);
        for (answer, seq) in answers.into_iter().zip(1..) {
            let outcome = answer.blocking_recv().unwrap().unwrap();
            assert_eq!(outcome, Appended::Stored(seq));
        }
        assert_eq!((state.borrow().syncs, state.borrow().last_seq), (1, 100));
    }
}
