//! What a job says of records that are waited for no longer because their node is gone.
//!
//! Pure but for the time. Called by the actor when it takes a step; of what a living node cannot read any more `records`
//! says so.

use trainyard_core::{
    job::Job,
    record::{LogLine, LogStream},
};

use crate::{clock, store::Change};

/// A line for the log of each task that had ended, of which not all is stored, and which `after` takes for whole.
pub(super) fn given_up(before: &Job, after: &Job) -> Vec<Change> {
    let Some((live, next)) = before.live().zip(after.attempts.last()) else {
        return Vec::new();
    };
    if live.number != next.number {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for (rank, part) in live.parts() {
        let told = part.end.as_ref().map(|end| end.last_seq);
        let waited = next.part(rank).and_then(|part| part.end.as_ref());
        let Some((told, waited)) = told.zip(waited.map(|end| end.last_seq)) else {
            continue;
        };
        let stored = part.stored_seq;
        if told <= stored || waited > stored {
            continue;
        }
        let node = &part.allocation.node;
        let text = format!(
            "of what {rank} has told, {} records are lost, numbers {} to {told}: they had not arrived when node {node} was lost",
            told - stored,
            stored + 1
        );
        lines.push(Change::AppendLogs {
            task: before.task(live.number, rank),
            lines: vec![LogLine {
                at: clock::now(),
                stream: LogStream::System,
                level: "WARNING".to_owned(),
                text,
            }],
        });
    }
    lines
}
