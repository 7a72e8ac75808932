//! Whether what the coordinator holds against a node is some fault's doing: that it lost it, and that it gives it nothing more.
//!
//! Changes nothing. Called by the check.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use trainyard_proto::v1::{self, FailureClass};

use crate::{orders::micros, plan::LEASE, record::Record};

/// So many launches of a node have to fail in a row before it gets no more jobs.
const FAILURES: usize = 3;

/// Lost though its node was heard: it began anew and has no trace of it.
pub(crate) const FORGOTTEN: &str = "came back without a trace of the attempt";

/// What one node has of an attempt.
struct Part<'a> {
    node: &'a str,
    started: bool,
    ended: Option<i128>,
    how: &'a v1::Outcome,
}

/// Those of all nodes that have said how theirs ended.
fn parts(attempt: &v1::Attempt) -> Vec<Part<'_>> {
    let whole = attempt.outcome.iter().map(|how| Part {
        node: &attempt.node,
        started: attempt.started_at.is_some(),
        ended: micros(attempt.ended_at),
        how,
    });
    let whole = whole.filter(|_| attempt.tasks.is_empty());
    let ranks = attempt.tasks.iter().filter_map(|task| {
        Some(Part {
            node: &task.node,
            started: task.started_at.is_some(),
            ended: micros(task.ended_at),
            how: task.outcome.as_ref()?,
        })
    });
    whole.chain(ranks).collect()
}

/// Nobody is lost whose node no fault kept silent for as long as its lease lasts.
pub(crate) fn explained(job: &v1::Job, record: &Record) -> Result<()> {
    for attempt in &job.attempts {
        for part in parts(attempt) {
            let silent = format!("node {} was silent", part.node);
            let lost = part.how.failure_class() == FailureClass::Lost;
            if !lost || part.how.message.contains(FORGOTTEN) {
                continue;
            }
            ensure!(
                part.how.message.contains(&silent),
                "attempt {} was lost with {} for a reason that is not known here: {}",
                attempt.number,
                part.node,
                part.how.message
            );
            record.count("losses that a fault explains");
            let host = part.node.strip_prefix('n').map(str::parse);
            let known = matches!((&host, part.ended), (Some(Ok(host)), Some(ended))
                if record.lock().silences.explain(*host, ended, LEASE.1));
            ensure!(
                known,
                "attempt {} was lost with {} at {:?}, which no fault has kept silent for so long",
                attempt.number,
                part.node,
                part.ended
            );
        }
    }
    Ok(())
}

/// A node is taken out of service for launches that failed there, and for nothing else. That each of these failed by a
/// fault is judged with its attempt.
pub(crate) fn drains(jobs: &BTreeMap<u64, v1::Job>, record: &Record) -> Result<()> {
    let mut failed: BTreeMap<&str, usize> = BTreeMap::new();
    let attempts = jobs.values().flat_map(|job| &job.attempts);
    for part in attempts.flat_map(parts) {
        let infrastructure = part.how.failure_class() == FailureClass::Infrastructure;
        if infrastructure && !part.started {
            *failed.entry(part.node).or_default() += 1;
        }
    }
    for (node, reason) in &record.lock().drains {
        let left = failed.entry(node).or_default();
        ensure!(
            reason.contains("launches in a row failed") && *left >= FAILURES,
            "{node} was out of service ({reason}), and {left} launches had failed there"
        );
        *left -= FAILURES;
    }
    Ok(())
}
