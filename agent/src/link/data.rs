//! The data stream of a session: records of all tasks one way, acknowledgements the other.
//!
//! Owns a pump for each spool on the board. Never lives longer than its session. Called by the
//! session.

use std::collections::BTreeMap;

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tonic::Streaming;
use trainyard_core::ids::TaskKey;
use trainyard_proto::v1::{
    Attach, ConnectRequest, ConnectResponse, RecordAck, connect_request, connect_response::Frame,
};

use super::{LinkArgs, frames, pump::Pump, session::SessionEnd, wire};

/// Frames of records that wait for the network.
const QUEUE: usize = 8;

/// One data stream.
#[derive(Debug)]
struct Data {
    pumps: JoinSet<TaskKey>,
    acks: BTreeMap<TaskKey, (u64, watch::Sender<u64>)>,
    outgoing: mpsc::Sender<ConnectRequest>,
}

/// Sends records in session `number` until the stream ends.
pub(super) async fn run(link: &LinkArgs, number: u64) -> SessionEnd {
    let (outgoing, requests) = mpsc::channel(QUEUE);
    let attach = Attach {
        node_name: link.identity.name.clone(),
        session: number,
        token: link.identity.token.expose().to_owned(),
    };
    let attach = frames::request(connect_request::Frame::Attach(attach));
    if outgoing.send(attach).await.is_err() {
        return SessionEnd::Lost("the data stream was not opened".to_owned());
    }
    let mut data = Data {
        pumps: JoinSet::new(),
        acks: BTreeMap::new(),
        outgoing,
    };
    match wire::open(&link.endpoint, requests).await {
        Ok(incoming) => data.work(link, incoming).await,
        Err(end) => end.without_refusal(),
    }
}

impl Data {
    async fn work(
        &mut self,
        link: &LinkArgs,
        mut incoming: Streaming<ConnectResponse>,
    ) -> SessionEnd {
        let mut board = link.board.watch();
        board.mark_changed();
        loop {
            tokio::select! {
                frame = incoming.message() => match frame {
                    Ok(Some(response)) => self.incoming(response),
                    ended => return wire::ended(ended).without_refusal(),
                },
                changed = board.changed() => {
                    if changed.is_err() {
                        return SessionEnd::Lost("the agent stops".to_owned());
                    }
                    self.follow(link);
                }
                Some(ended) = self.pumps.join_next() => {
                    if let Ok(task) = ended {
                        self.acks.remove(&task);
                        self.follow(link);
                    }
                }
            }
        }
    }

    /// A pump for each spool, and none for what is gone.
    fn follow(&mut self, link: &LinkArgs) {
        let spools = link.board.spools();
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
                    outgoing: self.outgoing.clone(),
                    acks,
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
                | Frame::Stop(_)
                | Frame::Forget(_),
            )
            | None => {
                tracing::warn!("a frame that does not belong on a data stream");
            }
        }
    }
}
