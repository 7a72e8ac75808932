//! Trainers that are to be gone: of attempts that are over, of jobs that are cancelled, and of those whose time is over.
//! None lives on for long where nothing holds up its node.
//!
//! Owns since when each is to be gone. Called by the check once a second.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use trainyard_core::{ids::Rank, job::Job};

use crate::{
    plan::Plan,
    silence::Silences,
    yard::{Process, Yard},
};

/// For so long a trainer that is to be gone may live while nothing holds up its node: a connection that is dead is noticed
/// after ten seconds and made anew within some, the grace of jobs is three.
const MOST: Duration = Duration::from_secs(30);

/// A rank of an attempt on a node.
type Key = (usize, (u64, u32), u32);

#[derive(Debug, Default)]
pub(crate) struct Strays {
    since: BTreeMap<Key, Duration>,
    /// How many there were.
    seen: usize,
    /// The longest that one has lived on where nothing held up its node.
    longest: Duration,
}

impl Strays {
    pub(crate) fn look(
        &mut self,
        (now, jobs): (Duration, &[Job]),
        (plan, silences): (&Plan, &Silences),
        yards: &[Yard],
    ) -> Result<()> {
        let mut living = BTreeMap::new();
        for (node, yard) in yards.iter().enumerate() {
            yard.look(|processes| {
                for process in processes {
                    let job = jobs.iter().find(|job| job.id.0 == process.of.0);
                    let lives = process.lives_for(now);
                    // An agent that was started anew knows the beginning by a clock that was set; no other looks at one.
                    let known = !plan.sets_clocks() || silences.calm(node) >= lives;
                    let late = known && is_late(job, lives);
                    if late || job.is_none_or(|job| is_over(job, process)) {
                        let key = (node, process.of, process.rank.0);
                        let since = self.since.get(&key).copied().unwrap_or(now);
                        living.insert(key, since);
                    }
                }
            });
        }
        let new = living.keys().filter(|key| !self.since.contains_key(key));
        self.seen += new.count();
        self.since = living;
        for ((node, (job, attempt), rank), since) in &self.since {
            let lives = now.saturating_sub(*since).min(silences.calm(*node));
            self.longest = self.longest.max(lives);
            ensure!(
                lives <= MOST,
                "the trainer of {job}/{attempt} rank {rank} is to be gone since {since:?}, and lives on node-{node}, which nothing holds up for {lives:?}"
            );
        }
        Ok(())
    }

    /// How many there were, and for how long one has lived on at most where nothing held up its node.
    pub(crate) fn seen(&self) -> (usize, Duration) {
        (self.seen, self.longest)
    }
}

/// Nothing wants this trainer any more.
fn is_over(job: &Job, process: &Process) -> bool {
    let live = job.live().filter(|live| live.number.0 == process.of.1);
    let Some(live) = live else {
        return true;
    };
    let ended = live
        .part(Rank(process.rank.0))
        .is_none_or(|part| part.end.is_some());
    ended || job.cancel_requested || live.leaves() || live.blame.is_some()
}

/// It runs longer than it may.
fn is_late(job: Option<&Job>, lives: Duration) -> bool {
    let limit = job.and_then(|job| job.spec.time_limit);
    limit.is_some_and(|limit| lives > limit)
}
