//! One task's records on their way: from its spool to the data stream, and its acknowledgements back
//! into the spool.
//!
//! Owns how far it has sent. Drops no record that can be read: what is not acknowledged is sent again. A task of
//! the data stream.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use trainyard_core::ids::TaskKey;
use trainyard_proto::v1::ConnectRequest;

use super::frames;
use crate::spool::{Spool, SpoolError};

/// Records and bytes of one frame.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 1 << 20;
/// Records under way at most.
const WINDOW: u64 = 4_096;
/// Silence after which what is under way counts as lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a pump that failed may be started again, and a read that failed is tried again.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// How often it is tried to read what the disk refuses; what is damaged is not tried again.
const TRIES: u32 = 60;
/// The spool knows the places of records that are so far apart.
const STRIDE: u64 = 256;

/// The records of one task.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) task: TaskKey,
    pub(super) spool: Spool,
    /// Which of the task's spools: it may get another.
    pub(super) number: u64,
    pub(super) outgoing: mpsc::Sender<ConnectRequest>,
    /// The newest acknowledgement of this session.
    pub(super) acks: watch::Receiver<u64>,
    /// Silence after which what is under way is sent again.
    pub(super) patience: Duration,
}

impl Pump {
    /// Sends until the stream or the task is gone; then says whose it was.
    pub(super) async fn run(mut self) -> (TaskKey, u64) {
        if let Err(error) = self.work().await {
            tracing::error!(task = %self.task, %error, "records cannot be delivered at present");
            tokio::time::sleep(AFTER_ERROR).await;
        }
        (self.task, self.number)
    }

    async fn work(&mut self) -> Result<(), SpoolError> {
        let mut state = self.spool.watch();
        let mut way = Way::from(self.spool.state().acked);
        loop {
            let last = state.borrow_and_update().last_seq;
            if way.may_send(last) {
                if !self.send_next(&mut way, last).await? {
                    return Ok(());
                }
            } else {
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return Ok(()) },
                    changed = self.acks.changed() => if changed.is_err() { return Ok(()) },
                    () = tokio::time::sleep_until(way.resend_at), if way.sent > way.acked => {
                        tracing::warn!(task = %self.task, from = way.acked + 1, to = way.sent, "no acknowledgement; sent again");
                        way.sent = way.acked;
                        way.stuck = false;
                        continue;
                    }
                }
            }
            let newest = *self.acks.borrow_and_update();
            if newest > way.acked {
                self.spool.ack(newest).await?;
                way.acked = newest;
                way.sent = way.sent.max(way.acked);
                way.resend_at = Instant::now() + self.patience;
            }
        }
    }

    /// False when the stream is gone.
    async fn send_next(&mut self, way: &mut Way, last: u64) -> Result<bool, SpoolError> {
        let read = self.spool.unsent_after(way.sent, way.batch, BATCH_BYTES);
        let records = match read.await {
            Ok(records) => records,
            Err(error) if !is_of_the_file(&error) => return Err(error),
            // The one that cannot be read is found one by one, and what is before it is delivered.
            Err(_) if way.batch > 1 => {
                way.batch = 1;
                return Ok(true);
            }
            Err(_) if way.sent > way.acked => {
                way.stuck = true;
                return Ok(true);
            }
            Err(error) => return self.pass_over(way, last, &error).await,
        };
        way.refused = 0;
        let Some(newest) = records.last().map(|record| record.seq) else {
            return Ok(true);
        };
        if way.sent == way.acked {
            way.resend_at = Instant::now() + self.patience;
        }
        way.sent = newest;
        let frame = frames::batch(self.task, way.acked + 1, records);
        Ok(super::send(&self.outgoing, frame).await.is_ok())
    }

    /// A record that cannot be read would be waited for until the end of time: it is let go of, with those behind it up to
    /// the next place that the spool knows. The coordinator hears of it by what is still kept. False when nobody waits any more.
    async fn pass_over(
        &mut self,
        way: &mut Way,
        last: u64,
        error: &SpoolError,
    ) -> Result<bool, SpoolError> {
        way.refused += 1;
        let damaged = matches!(error, SpoolError::Damaged { .. });
        if !damaged && way.refused < TRIES {
            tracing::error!(task = %self.task, %error, "records cannot be read at present; tried again");
            tokio::time::sleep(AFTER_ERROR).await;
            return Ok(self.acks.has_changed().is_ok());
        }
        let mut behind = way.sent;
        loop {
            behind = (behind / STRIDE + 1).saturating_mul(STRIDE).min(last);
            if behind >= last
                || self
                    .spool
                    .unsent_after(behind, 1, BATCH_BYTES)
                    .await
                    .is_ok()
            {
                break;
            }
        }
        tracing::error!(task = %self.task, from = way.sent + 1, to = behind, %error, "records cannot be read any more and are lost");
        self.spool.ack(behind).await?;
        let resend_at = way.resend_at;
        *way = Way {
            resend_at,
            ..Way::from(behind)
        };
        Ok(true)
    }
}

/// What is there is damaged, or the disk cannot read it. Anything else, such as too many open files, says nothing of what
/// is there: it is waited for.
fn is_of_the_file(error: &SpoolError) -> bool {
    let is_refused = |source: &std::io::Error| {
        source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
    };
    matches!(error, SpoolError::Damaged { .. })
        || matches!(error, SpoolError::File { source, .. } if is_refused(source))
}

/// How far a pump is.
#[derive(Debug)]
struct Way {
    acked: u64,
    sent: u64,
    resend_at: Instant,
    /// So many records are read at once: one at a time where one of them cannot be read.
    batch: usize,
    /// The next one cannot be read: what was sent before it is to be acknowledged first.
    stuck: bool,
    /// So often the next one could not be read.
    refused: u32,
}

impl Way {
    fn from(acked: u64) -> Self {
        Self {
            acked,
            sent: acked,
            resend_at: Instant::now(),
            batch: BATCH,
            stuck: false,
            refused: 0,
        }
    }

    fn may_send(&self, last: u64) -> bool {
        let waits = self.stuck && self.sent > self.acked;
        self.sent < last && self.sent - self.acked < WINDOW && !waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank},
        record::{LogLine, LogStream, Record},
        time::Timestamp,
    };
    use trainyard_proto::v1::connect_request::Frame;

    async fn spool(records: usize) -> (tempfile::TempDir, Spool) {
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
        spool.append(vec![(line, None); records]).await.unwrap();
        (folder, spool)
    }

    fn pump(spool: &Spool) -> (Pump, mpsc::Receiver<ConnectRequest>, watch::Sender<u64>) {
        let (outgoing, incoming) = mpsc::channel(1);
        let (ack, acks) = watch::channel(0);
        let task = TaskKey {
            job: JobId(1),
            attempt: AttemptNo(1),
            rank: Rank(0),
        };
        let pump = Pump {
            task,
            spool: spool.clone(),
            number: 1,
            outgoing,
            acks,
            patience: PATIENCE,
        };
        (pump, incoming, ack)
    }

    async fn next(incoming: &mut mpsc::Receiver<ConnectRequest>) -> (u64, u64) {
        let frame = incoming.recv().await.unwrap().frame.unwrap();
        let Frame::Batch(batch) = frame else {
            panic!("{frame:?}");
        };
        (batch.first_seq, batch.records.len() as u64)
    }

    #[tokio::test]
    async fn no_more_than_a_window_is_under_way_and_an_acknowledgement_opens_it() {
        let (_folder, spool) = spool(5_000).await;
        let (pump, mut incoming, ack) = pump(&spool);
        let check = async {
            let mut sent = 0;
            while sent < WINDOW {
                let (first, count) = next(&mut incoming).await;
                assert_eq!(first, sent + 1);
                sent += count;
            }
            assert_eq!(sent, WINDOW);
            ack.send_replace(1_000);
            assert_eq!(next(&mut incoming).await, (WINDOW + 1, 256));
            assert_eq!(spool.state().acked, 1_000);
            drop(ack);
            while incoming.recv().await.is_some() {}
        };
        tokio::join!(pump.run(), check);
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_in_time_is_sent_again() {
        let (_folder, spool) = spool(3).await;
        let (mut pump, mut incoming, ack) = pump(&spool);
        pump.patience = Duration::from_millis(10);
        let check = async {
            assert_eq!(next(&mut incoming).await, (1, 3));
            assert_eq!(next(&mut incoming).await, (1, 3));
            ack.send_replace(2);
            while next(&mut incoming).await != (3, 1) {}
            drop((ack, incoming));
        };
        tokio::join!(pump.run(), check);
        assert_eq!(spool.state().acked, 2);
    }

    /// Changes a byte of the record that has this text.
    fn damage(folder: &tempfile::TempDir, text: &str) {
        let path = folder.path().join("spool");
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(text.len());
        let at = found
            .into_iter()
            .position(|window| window == text.as_bytes());
        bytes[at.unwrap()] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    async fn numbered(records: u64) -> (tempfile::TempDir, Spool) {
        let (folder, spool) = spool(0).await;
        let line = |number| {
            let text = format!("record {number}.");
            Record::Log(LogLine {
                at: Timestamp(1),
                stream: LogStream::Stdout,
                level: String::new(),
                text,
            })
        };
        let lines = (1..=records).map(|number| (line(number), None));
        spool.append(lines.collect()).await.unwrap();
        (folder, spool)
    }

    #[tokio::test]
    async fn what_cannot_be_read_any_more_is_passed_over_once_what_is_before_it_is_delivered() {
        let (folder, spool) = numbered(600).await;
        damage(&folder, "record 300.");
        let (pump, mut incoming, ack) = pump(&spool);
        let check = async {
            let mut sent = 0;
            while sent < 299 {
                let (first, count) = next(&mut incoming).await;
                assert_eq!(first, sent + 1);
                sent += count;
            }
            assert_eq!((sent, spool.state().acked), (299, 0));
            ack.send_replace(299);
            let frame = incoming.recv().await.unwrap().frame.unwrap();
            let Frame::Batch(batch) = frame else {
                panic!("{frame:?}");
            };
            assert_eq!((batch.first_seq, batch.kept_from_seq), (513, 513));
            assert_eq!(batch.records.len(), 88);
            drop(ack);
        };
        let limit = Duration::from_secs(30);
        let both = async { tokio::join!(pump.run(), check) };
        tokio::time::timeout(limit, both).await.unwrap();
    }

    #[tokio::test]
    async fn a_spool_of_which_the_rest_cannot_be_read_is_not_waited_for() {
        let (folder, spool) = numbered(5).await;
        damage(&folder, "record 3.");
        let (pump, mut incoming, ack) = pump(&spool);
        let check = async {
            assert_eq!(next(&mut incoming).await, (1, 1));
            assert_eq!(next(&mut incoming).await, (2, 1));
            ack.send_replace(2);
            spool.delivered(5).await.unwrap();
            drop(ack);
        };
        let limit = Duration::from_secs(30);
        let both = async { tokio::join!(pump.run(), check) };
        tokio::time::timeout(limit, both).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_session_begins_behind_the_last_acknowledgement() {
        let (_folder, spool) = spool(5).await;
        spool.ack(2).await.unwrap();
        let (pump, mut incoming, ack) = pump(&spool);
        let check = async {
            assert_eq!(next(&mut incoming).await, (3, 3));
            drop(ack);
        };
        tokio::join!(pump.run(), check);
    }
}
