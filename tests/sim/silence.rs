//! When the coordinator could not hear nodes, which losses that explains, and since when nothing holds a node up.
//!
//! Owns the spans. Pure: whoever tells says when. Written by the world, read by the check.

use std::{collections::BTreeSet, time::Duration};

use crate::plan::Fault;

/// Whoever was silenced is heard again so long after that at the latest: it starts, or tries to connect anew.
const RECOVERS: Duration = Duration::from_secs(10);
/// So much of a lease may be silence of no fault: heartbeats come once in two seconds, and take their way.
const BETWEEN: Duration = Duration::from_secs(3);

/// What is known of one node.
#[derive(Debug, Default)]
struct Node {
    /// What keeps its messages from the coordinator, or those of the coordinator from it.
    network: BTreeSet<&'static str>,
    /// Its disk is full, or about to be.
    crowded: bool,
    /// Since when it cannot be heard.
    silent: Option<Duration>,
    /// From when to when it could not.
    over: Vec<(Duration, Duration)>,
    /// Since when nothing at all holds it up.
    calm: Duration,
}

/// Of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    nodes: Vec<Node>,
    /// Since when the coordinator listens, each time.
    listens: Vec<Duration>,
    slow_store: Duration,
    slow_spools: Duration,
    /// By how much disks hold everybody up, since when.
    slow: Vec<(Duration, Duration)>,
    now: Duration,
}

impl Silences {
    pub(crate) fn of(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            ..Self::default()
        }
    }

    /// A fault, or its end.
    pub(crate) fn happens(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut(node) | Fault::Deaf(node) | Fault::Mute(node) => {
                self.network(*node, |all| all.insert("cut"));
            }
            Fault::Mend(node) => self.network(*node, |all| all.remove("cut")),
            Fault::Hold(node) => self.network(*node, |all| all.insert("held")),
            Fault::Release(node) => self.network(*node, |all| all.remove("held")),
            Fault::SlowStore(time) => self.slow_store = *time,
            Fault::SlowSpools(time) => self.slow_spools = *time,
            Fault::FillAgent(node, _) => self.crowded(*node, true),
            Fault::EmptyAgent(node) => self.crowded(*node, false),
            // Seen by who runs.
            Fault::KillAgent(_)
            | Fault::StartAgent(_)
            | Fault::KillNode(_)
            | Fault::StartNode(..)
            | Fault::FailAgent(..)
            | Fault::KillCoordinator
            | Fault::KillProgram
            | Fault::FailDisk(..)
            | Fault::FillDisk(_)
            | Fault::StartCoordinator
            | Fault::Spare => {}
            // Neither ends a trainer that is to go on, nor keeps anybody from speaking.
            Fault::KillTrainer(..) | Fault::Jump(_) | Fault::JumpAlone(..) => {}
        }
    }

    fn network(&mut self, node: usize, change: impl FnOnce(&mut BTreeSet<&'static str>) -> bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            change(&mut node.network);
        }
    }

    fn crowded(&mut self, node: usize, crowded: bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.crowded = crowded;
        }
    }

    /// After a step: which agents run, and whether the coordinator does.
    pub(crate) fn look(&mut self, now: Duration, agents: &[bool], listens: bool) {
        let listened = self.listens.len() % 2 == 1;
        if listened != listens {
            self.listens.push(now);
        }
        self.now = now;
        let slow = self.slow_store + self.slow_spools;
        if self.slow.last().map(|(_, slow)| *slow).unwrap_or_default() != slow {
            self.slow.push((now, slow));
        }
        let slow = slow > Duration::ZERO;
        for (node, runs) in self.nodes.iter_mut().zip(agents) {
            let silent = !runs || !node.network.is_empty();
            if silent {
                node.silent.get_or_insert(now);
            } else if let Some(since) = node.silent.take() {
                node.over.push((since, now));
            }
            if silent || node.crowded || slow || !listens {
                node.calm = now;
            }
        }
    }

    /// For how long nothing at all has held up this node, or what it and the coordinator say to each other.
    pub(crate) fn calm(&self, node: usize) -> Duration {
        let calm = self.nodes.get(node).map(|node| node.calm);
        self.now.saturating_sub(calm.unwrap_or(self.now))
    }

    /// Whether faults account for the loss of the node that is seen just now, by such a lease. A coordinator that ends in the
    /// commit of it may have written it nevertheless: then the next one shows it as soon as it is there.
    pub(crate) fn explain(&self, node: usize, lease: Duration) -> bool {
        let Some(node) = self.nodes.get(node) else {
            return false;
        };
        let begun = self.listens.last().copied().unwrap_or_default();
        let over = self.listens.chunks_exact(2).next_back();
        let over = over.filter(|_| self.now <= begun + BETWEEN);
        let before = over.and_then(|over| Some((*over.first()?, *over.last()?)));
        let moments = before.into_iter().chain([(begun, self.now)]);
        let mut moments = moments.filter(|moment| self.accounts_for(node, lease, *moment));
        moments.next().is_some()
    }

    /// The same of one that was lost at this moment, by a coordinator that listened since that one: a lease begins anew with
    /// each of them, and with the time that it takes to be heard again faults cover nearly all of it.
    fn accounts_for(
        &self,
        node: &Node,
        lease: Duration,
        (listens, lost): (Duration, Duration),
    ) -> bool {
        let begin = lost.saturating_sub(lease);
        if listens > begin + BETWEEN {
            return false;
        }
        let slow = self.slowest(begin);
        let going_on = node.silent.map(|since| (since, lost));
        let spans = node.over.iter().copied().chain(going_on);
        // Nor has a coordinator that has just begun heard anybody.
        let mut spans: Vec<_> = spans.chain([(listens, listens)]).collect();
        spans.sort_unstable();
        let (mut covered, mut until) = (Duration::ZERO, begin);
        for (from, to) in spans {
            let (from, to) = (from.max(until), (to + RECOVERS + slow).min(lost));
            covered += to.saturating_sub(from);
            until = until.max(to);
        }
        covered + BETWEEN >= lease
    }

    /// By how much disks have held everybody up since then, at most: a write that began when they were slow ends late, though
    /// they are fast by then.
    fn slowest(&self, since: Duration) -> Duration {
        let until = self.slow.iter().skip(1).map(|(from, _)| *from);
        let until = until.chain([self.now]);
        let spans = self.slow.iter().zip(until);
        let of_then = spans.filter(|((_, slow), until)| *until + *slow >= since);
        of_then
            .map(|((_, slow), _)| *slow)
            .max()
            .unwrap_or_default()
    }
}
