//! When faults kept hosts from being heard, and which losses that explains.
//!
//! Owns the spans. Pure: whoever tells says when. Written by the world and the fleet, read by the check.

use std::collections::{BTreeMap, BTreeSet};

/// Microseconds since 1970.
pub(crate) type Micros = i128;

const SECOND: Micros = 1_000_000;
/// Whoever was silenced is heard again so long after that at the latest: it starts, or tries to connect anew.
const RECOVERS: Micros = 4 * SECOND;
/// So much of a lease may be silence of no fault: heartbeats come once in a while.
const BETWEEN: Micros = SECOND;

/// What keeps a host from being heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// Its program is gone.
    Death,
    Freeze,
    Network,
    /// All of this machine stood still, as one does that has too much to do.
    Machine,
}

/// Of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    /// What goes on, and since when anything does.
    now: BTreeMap<usize, (BTreeSet<By>, Micros)>,
    /// From when to when, by host.
    over: BTreeMap<usize, Vec<(Micros, Micros)>>,
}

impl Silences {
    pub(crate) fn begins(&mut self, host: usize, by: By, at: Micros) {
        let (all, since) = self.now.entry(host).or_default();
        if all.is_empty() {
            *since = at;
        }
        all.insert(by);
    }

    pub(crate) fn ends(&mut self, host: usize, by: By, at: Micros) {
        let Some((all, since)) = self.now.get_mut(&host) else {
            return;
        };
        if all.remove(&by) && all.is_empty() {
            self.over.entry(host).or_default().push((*since, at));
        }
    }

    /// Whether faults account for a loss of the host at that time by a lease of so many seconds: with the time that it
    /// takes to be heard again they cover nearly all of the lease.
    pub(crate) fn explain(&self, host: usize, lost: Micros, lease: u32) -> bool {
        let lease = Micros::from(lease) * SECOND;
        let begin = lost - lease;
        let going_on = self.now.get(&host).filter(|(all, _)| !all.is_empty());
        let going_on = going_on.map(|(_, since)| (*since, lost));
        let over = self.over.get(&host).into_iter().flatten().copied();
        let mut spans: Vec<_> = over.chain(going_on).collect();
        spans.sort_unstable();
        let (mut covered, mut until) = (0, begin);
        for (from, to) in spans {
            let (from, to) = (from.max(until), (to + RECOVERS).min(lost));
            covered += (to - from).max(0);
            until = until.max(to);
        }
        covered + BETWEEN >= lease
    }
}
