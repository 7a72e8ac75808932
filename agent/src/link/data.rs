//! The data stream of a session: records of all tasks one way, acknowledgements the other.
//!
//! Owns a pump for each spool on the board. Never lives longer than its session. Called by the
//! session.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tonic::Streaming;
use trainyard_config::Secret;
use trainyard_core::ids::TaskKey;
use trainyard_proto::v1::{
    Attach, ConnectRequest, ConnectResponse, RecordAck, connect_request, connect_response::Frame,
};

use super::{
    Board, LinkArgs, frames,
    pump::{PATIENCE, Pump},
    session::SessionEnd,
    wire,
};

/// Frames of records that wait for the network.
const QUEUE: usize = 8;

/// A stream is closed when no task has had a spool for so long.
const IDLE: Duration = Duration::from_secs(60);

/// One data stream.
#[derive(Debug)]
struct Data {
    pumps: JoinSet<(TaskKey, u64)>,
    acks: BTreeMap<TaskKey, (u64, watch::Sender<u64>)>,
    outgoing: mpsc::Sender<ConnectRequest>,
}

/// Sends records in session `number` until a stream of it ends. There is none while no task has a spool: of thousands of
/// agents most may run nothing, and each connection costs the coordinator memory.
pub(super) async fn run(link: &LinkArgs, (number, credential): (u64, Secret)) -> SessionEnd {
    let mut board = link.board.watch();
    loop {
        while !link.board.has_spools() {
            if board.changed().await.is_err() {
                return SessionEnd::Lost("the agent stops".to_owned());
            }
        }
        if let Some(end) = stream(link, number, &credential).await {
            return end;
        }
    }
}

/// One stream; `None` when it was closed because there is nothing to send.
async fn stream(link: &LinkArgs, number: u64, credential: &Secret) -> Option<SessionEnd> {
    let (outgoing, requests) = mpsc::channel(QUEUE);
    let attach = Attach {
        node_name: link.identity.name.clone(),
        session: number,
        token: credential.expose().to_owned(),
    };
    let attach = frames::request(connect_request::Frame::Attach(attach));
    if outgoing.send(attach).await.is_err() {
        let why = "the data stream was not opened".to_owned();
        return Some(SessionEnd::Lost(why));
    }
    let mut data = Data {
        pumps: JoinSet::new(),
        acks: BTreeMap::new(),
        outgoing,
    };
    match wire::open(&link.access, requests).await {
        Ok(incoming) => data.work(link, incoming).await,
        Err(end) => Some(end.without_refusal()),
    }
}

impl Data {
    async fn work(
        &mut self,
        link: &LinkArgs,
        mut incoming: Streaming<ConnectResponse>,
    ) -> Option<SessionEnd> {
        let mut board = link.board.watch();
        board.mark_changed();
        let mut seen = None;
        let mut idle_at = Instant::now() + IDLE;
        loop {
            if !self.acks.is_empty() {
                idle_at = Instant::now() + IDLE;
            }
            tokio::select! {
                frame = incoming.message() => match frame {
                    Ok(Some(response)) => {
                        if trainyard_runtime::comes_twice() {
                            self.incoming(response.clone());
                        }
                        self.incoming(response);
                    }
                    ended => return Some(wire::ended(ended).without_refusal()),
                },
                changed = board.changed() => {
                    if changed.is_err() {
                        return Some(SessionEnd::Lost("the agent stops".to_owned()));
                    }
                    // Reports change often, and are none of this stream's.
                    let now = link.board.spools_changed();
                    if seen.replace(now) != Some(now) {
                        self.follow(&link.board);
                    }
                }
                Some(ended) = self.pumps.join_next() => {
                    if let Ok(ended) = ended {
                        self.has_ended(ended);
                        self.follow(&link.board);
                    }
                }
                () = tokio::time::sleep_until(idle_at), if self.acks.is_empty() => return None,
            }
        }
    }

    /// The pump of a spool that was replaced takes nothing from the one that came after it.
    fn has_ended(&mut self, (task, number): (TaskKey, u64)) {
        if self
            .acks
            .get(&task)
            .is_some_and(|(newest, _)| *newest == number)
        {
            self.acks.remove(&task);
        }
    }

    /// A pump for each spool, and none for what is gone.
    fn follow(&mut self, board: &Board) {
        let spools = board.spools();
        self.acks.retain(|task, (number, _)| {
            let there = spools.get(task);
            there.is_some_and(|(newest, _)| newest == number)
        });
        for (task, (number, spool)) in spools {
            self.acks.entry(task).or_insert_with(|| {
                let (ack, acks) = watch::channel(0);
                let pump = Pump {
                    task,
                    spool,
                    number,
                    outgoing: self.outgoing.clone(),
                    acks,
                    patience: PATIENCE,
                };
                self.pumps.spawn(pump.run());
                (number, ack)
            });
        }
    }

    fn incoming(&self, response: ConnectResponse) {
        match response.frame {
            Some(Frame::Ack(RecordAck {
                task: Some(task),
                seq,
            })) => {
                if let Some((_, ack)) = self.acks.get(&task.into()) {
                    ack.send_if_modified(|newest| {
                        let newer = seq > *newest;
                        *newest = seq.max(*newest);
                        newer
                    });
                }
            }
            Some(
                Frame::Ack(_)
                | Frame::Welcome(_)
                | Frame::Start(_)
                | Frame::Launch(_)
                | Frame::Stop(_)
                | Frame::Forget(_),
            )
            | None => {
                tracing::warn!("a frame that does not belong on a data stream");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank},
        task::{Phase, Report},
    };

    #[tokio::test]
    async fn the_pump_of_a_replaced_spool_leaves_the_next_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let task = TaskKey {
            job: JobId(1),
            attempt: AttemptNo(1),
            rank: Rank(0),
        };
        let (board, (outgoing, _requests)) = (Board::default(), mpsc::channel(1));
        board.report(Report {
            task,
            phase: Phase::Preparing,
            detail: String::new(),
            kept_from: 0,
        });
        let mut data = Data {
            pumps: JoinSet::new(),
            acks: BTreeMap::new(),
            outgoing,
        };
        for name in ["first", "second"] {
            let spool = Spool::open(folder.path().join(name), u64::MAX)
                .await
                .unwrap();
            board.spool(task, spool);
            data.follow(&board);
        }
        let (newest, _) = board.spools()[&task];
        let ended = data.pumps.join_next().await.unwrap().unwrap();
        assert!(ended.1 < newest, "the first one's pump ends");
        data.has_ended(ended);
        data.follow(&board);
        assert_eq!(data.pumps.len(), 1, "no third pump");
        assert_eq!(data.acks[&task].0, newest);
        assert!(data.pumps.try_join_next().is_none(), "the second goes on");
    }
}
