//! One task's records on their way: from its spool to the data stream, and its acknowledgements back
//! into the spool.
//!
//! Owns how far it has sent. Never drops a record: what is not acknowledged is sent again. A task of
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
/// How soon a pump that failed may be started again.
const AFTER_ERROR: Duration = Duration::from_secs(5);

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
        let mut acked = self.spool.state().acked;
        let mut sent = acked;
        let mut resend_at = Instant::now();
        loop {
            let last = state.borrow_and_update().last_seq;
            if sent < last && sent - acked < WINDOW {
                let records = self.spool.unsent_after(sent, BATCH, BATCH_BYTES).await?;
                if let Some(newest) = records.last().map(|record| record.seq) {
                    if sent == acked {
                        resend_at = Instant::now() + self.patience;
                    }
                    sent = newest;
                    let frame = frames::batch(self.task, acked + 1, records);
                    if super::send(&self.outgoing, frame).await.is_err() {
                        return Ok(());
                    }
                }
            } else {
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return Ok(()) },
                    changed = self.acks.changed() => if changed.is_err() { return Ok(()) },
                    () = tokio::time::sleep_until(resend_at), if sent > acked => {
                        tracing::warn!(task = %self.task, from = acked + 1, to = sent, "no acknowledgement; sent again");
                        sent = acked;
                        continue;
                    }
                }
            }
            let newest = *self.acks.borrow_and_update();
            if newest > acked {
                self.spool.ack(newest).await?;
                acked = newest;
                sent = sent.max(acked);
                resend_at = Instant::now() + self.patience;
            }
        }
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
