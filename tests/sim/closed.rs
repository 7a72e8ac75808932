//! What must be true of nodes that are out of service: nothing more is placed there.
//!
//! Owns since when each is closed, by what is stored and by the clock on the wall. Called by the check.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use trainyard_coordinator::store::Store;
use trainyard_core::{
    ids::NodeName,
    job::Job,
    label,
    service::{self, Duty, Window},
    time::Timestamp,
};

use crate::nature;

/// What was decided just before is stored by then, however slow the disk is.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Closed {
    since: BTreeMap<NodeName, Duration>,
    /// Attempts that have their places.
    placed: BTreeSet<(u64, u32)>,
}

impl Closed {
    /// After a commit.
    pub(crate) fn look(&mut self, store: &Store, jobs: &[Job]) -> Result<()> {
        let now = nature::since_begin();
        self.keep(store, now)?;
        for job in jobs {
            let Some(attempt) = job.attempts.last() else {
                continue;
            };
            let (id, number) = (job.id.0, attempt.number.0);
            if !self.placed.insert((id, number)) {
                continue;
            }
            for (_, part) in attempt.parts() {
                let node = &part.allocation.node;
                let since = self.since.get(node);
                ensure!(
                    since.is_none_or(|since| now.saturating_sub(*since) <= ON_ITS_WAY),
                    "attempt {id}/{number} is placed on {node}, which is out of service since {since:?}"
                );
            }
        }
        Ok(())
    }

    fn keep(&mut self, store: &Store, now: Duration) -> Result<()> {
        let windows: Vec<Window> = store.documents("")?;
        let wall = Timestamp(i64::try_from(nature::wall_us())?);
        for row in store.nodes()? {
            let labels = label::texts(&row.all_labels());
            let windows = windows.iter();
            let mine = windows.filter(|window| window.covers(&row.name, &labels));
            let drain = row.drain();
            match service::duty(wall, &row.name, drain.as_ref(), mine) {
                Duty::Open => {
                    self.since.remove(&row.name);
                }
                Duty::Draining | Duty::Vacating(_) => {
                    self.since.entry(row.name).or_insert(now);
                }
            }
        }
        Ok(())
    }
}
