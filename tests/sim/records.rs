//! INV-06 while it happens: what comes into the store of a rank follows what was there, without gap or double. And
//! INV-07: nothing comes from an attempt that another one has followed.
//!
//! Owns how far each job was read. Never judges what is missing at the end: `ends` does. Called by the check after each
//! commit.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use trainyard_coordinator::store::Store;
use trainyard_core::{job::Job, record::LogStream};

use crate::script::Script;

/// Rows that are read of one job: more than come with one commit.
const ROWS: usize = 10_000;

/// What was read of one job.
#[derive(Debug, Default)]
struct Read {
    /// The newest point and the newest line.
    points: u64,
    lines: u64,
    /// The newest attempt, as of the look before, and the newest point and line of then.
    attempt: u32,
    known: (u64, u64),
    /// The attempts of the newest point and of the newest line.
    rising: (u32, u32),
    /// The newest epoch and the newest line of each attempt and rank.
    last: BTreeMap<(u32, u32), (Option<u32>, Option<u32>)>,
}

/// What was read of all.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<u64, Read>);

impl Records {
    /// A coordinator begins with what is there: all of it is read once more.
    pub(crate) fn forget(&mut self) {
        for read in self.0.values_mut() {
            *read = Read {
                attempt: read.attempt,
                known: read.known,
                ..Read::default()
            };
        }
    }

    pub(crate) fn look(&mut self, store: &Store, job: &Job) -> Result<()> {
        let id = job.id;
        let read = self.0.entry(id.0).or_default();
        for point in store.points(id, read.points, ROWS)? {
            read.points = point.id;
            let of = (point.attempt.0, point.rank.0);
            let fenced = point.id > read.known.0 && of.0 < read.attempt;
            let falls = of.0 < std::mem::replace(&mut read.rising.0, of.0);
            ensure!(
                !fenced && !falls,
                "INV-07: a point of job {id} {of:?} was taken after a newer attempt was placed"
            );
            let (last, _) = read.last.entry(of).or_default();
            let epoch = point.progress.epoch;
            let follows = last.replace(epoch).is_none_or(|last| last + 1 == epoch);
            ensure!(
                follows,
                "INV-06: epoch {epoch} of job {id} {of:?} is out of its order"
            );
        }
        for line in store.logs(id, read.lines, ROWS)? {
            read.lines = line.id;
            if line.line.stream != LogStream::Stdout {
                continue;
            }
            let of = (line.attempt.0, line.rank.0);
            let fenced = line.id > read.known.1 && of.0 < read.attempt;
            let falls = of.0 < std::mem::replace(&mut read.rising.1, of.0);
            ensure!(
                !fenced && !falls,
                "INV-07: a line of job {id} {of:?} was taken after a newer attempt was placed"
            );
            let (_, last) = read.last.entry(of).or_default();
            let next =
                last.map_or_else(|| Script::epoch_in(&line.line.text), |last| Some(last + 1));
            let as_told = next.is_some_and(|next| line.line.text == Script::line(next));
            ensure!(
                as_told,
                "INV-06: a line of job {id} {of:?} is out of its order: {}",
                line.line.text
            );
            *last = next;
        }
        read.known = (read.points, read.lines);
        read.attempt = job.attempts.last().map_or(0, |last| last.number.0);
        Ok(())
    }
}
