//! An agent's data stream: batches of records in, acknowledgements out.
//!
//! Owns the bound on batches in flight: a batch is read only when a permit is free, so a store that
//! cannot keep up slows the agents down instead of filling the memory.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};
use trainyard_core::{
    ids::NodeName,
    record::{LogLine, LogStream, Record},
};
use trainyard_proto::{
    convert::{WireError, time},
    v1::{self, connect_request::Frame, connect_response},
};

use crate::{
    actors::{
        job::{Ack, Batch, JobMsg},
        jobs::{JobsMsg, JobsRef},
    },
    clock,
};

/// Batches of one stream that may be on their way to the disk.
pub(super) const IN_FLIGHT: usize = 64;

/// Reads batches until the stream ends.
pub(super) async fn read(
    mut frames: Streaming<v1::ConnectRequest>,
    jobs: JobsRef,
    acks: mpsc::Sender<Ack>,
    node: NodeName,
) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let wire = match frames.message().await {
            Ok(Some(v1::ConnectRequest {
                frame: Some(Frame::Batch(batch)),
            })) => batch,
            Ok(Some(_)) => {
                tracing::warn!(%node, "a frame that does not belong on a data stream");
                continue;
            }
            Ok(None) | Err(_) => return,
        };
        let kept_from = wire.kept_from_seq;
        let (task, first_seq, records) = match parse(wire) {
            Ok(parsed) => parsed,
            Err(error) => {
                // Sent again it would be no better: the stream ends, and the agent's log says so.
                tracing::error!(%node, %error, "a batch was not understood; the stream ends");
                return;
            }
        };
        let batch = Batch {
            task,
            node: node.clone(),
            first_seq,
            kept_from,
            records,
            acks: acks.clone(),
            permit,
        };
        let message = JobsMsg::Route(task.job, JobMsg::Records(batch));
        if jobs.cast(message).is_err() {
            return;
        }
    }
}

type Parsed = (trainyard_core::ids::TaskKey, u64, Vec<Record>);

fn parse(wire: v1::RecordBatch) -> Result<Parsed, WireError> {
    let task = wire.task.ok_or(WireError::Missing("batch.task"))?;
    let records: Result<Vec<_>, _> = wire.records.into_iter().map(record).collect();
    Ok((task.into(), wire.first_seq, records?))
}

/// One of a kind that only a newer agent knows leaves a word in its place: its number is taken, so that what follows it
/// is too.
fn record(wire: v1::Record) -> Result<Record, WireError> {
    if wire.body.is_some() {
        return Record::try_from(wire);
    }
    let text = "the agent told something that this version of the coordinator does not know; it is left out";
    Ok(Record::Log(LogLine {
        at: wire.recorded_at.as_ref().map_or_else(clock::now, time),
        stream: LogStream::System,
        level: "WARNING".to_owned(),
        text: text.to_owned(),
    }))
}

/// The frame for the agent; with it the permit of the batch is given back.
pub(super) fn acknowledge(ack: Ack) -> Result<v1::ConnectResponse, Status> {
    let frame = connect_response::Frame::Ack(v1::RecordAck {
        task: Some(ack.task.into()),
        seq: ack.seq,
    });
    drop(ack.permit);
    Ok(v1::ConnectResponse { frame: Some(frame) })
}
