//! Maintenance windows that are to come: which nodes a job shuns since it would still run there when they close.
//!
//! Owns which nodes close when, and when a job has to be asked anew. Never opens or closes a node: the supervisor of nodes
//! does, and tells the planner. Pure. Called by the planner.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Planner, advice::Change, names::whole};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        QueuedJob,
        ledger::NodeEntry,
        policy::{
            Outage, Outages, Reservation, Seconds,
            cluster::{NodeIx, Piece},
        },
    },
    service::{self, Window},
    time::Timestamp,
};

/// From when on which nodes close, each with those that close before.
type Closing = Vec<(Timestamp, BTreeSet<NodeIx>)>;

/// What is about to close at the moment of a question, which may be later than all that has happened.
pub(super) struct Outlook<'p> {
    pub(super) now: Timestamp,
    closing: Cow<'p, Closing>,
}

impl Outlook<'_> {
    /// The nodes that close within this span.
    fn reached(&self, span: Duration) -> Option<&BTreeSet<NodeIx>> {
        reached(&self.closing, self.now.plus(span))
    }
}

fn reached(closing: &Closing, end: Timestamp) -> Option<&BTreeSet<NodeIx>> {
    let mut reached = closing.iter().rev().filter(|(from, _)| *from < end);
    reached.next().map(|(_, nodes)| nodes)
}

/// Windows as nodes have them.
#[derive(Clone, Debug, Default)]
pub(super) struct Upkeep {
    windows: Vec<Window>,
    closing: Closing,
    /// Jobs that have fewer nodes from these moments on.
    crossing: BTreeSet<(Timestamp, JobId)>,
    /// Until when `closing` is good: a window is over then.
    until: Option<Timestamp>,
    /// Nodes or windows have changed.
    pub(super) stale: bool,
    /// The clock was set back: who was asked under the other one is asked again.
    turned: bool,
    now: Timestamp,
    /// So much a job without a limit has to have of a node.
    least: Duration,
}

impl Upkeep {
    pub(super) fn with(least: Seconds) -> Self {
        Self {
            least: Duration::from_secs(u64::try_from(least).unwrap_or(0)),
            ..Self::default()
        }
    }

    pub(super) fn tick(&mut self, now: Timestamp) {
        self.turned |= now < self.now;
        self.now = now;
    }

    /// For how long it is taken to run.
    fn span(&self, queued: &QueuedJob) -> Duration {
        service::span(queued.limit, self.least)
    }

    /// The nodes that close while it would still run.
    fn reached(&self, queued: &QueuedJob) -> Option<&BTreeSet<NodeIx>> {
        reached(&self.closing, self.now.plus(self.span(queued)))
    }

    /// When they are more, by time alone.
    fn crosses(&self, queued: &QueuedJob) -> Option<Timestamp> {
        let span = self.span(queued);
        let end = self.now.plus(span);
        let mut later = self.closing.iter().filter(|(from, _)| *from >= end);
        let (from, _) = later.next()?;
        Some(from.minus(span).plus(Duration::from_micros(1)))
    }

    /// Of the windows that cover a node the one that closes it first, or keeps it closed.
    fn next_on(&self, now: Timestamp, node: &NodeName, entry: &NodeEntry) -> Option<&Window> {
        let windows = self.windows.iter();
        service::foremost(now, windows.filter(|one| one.covers(node, entry.labels())))
    }
}

impl Planner {
    /// All maintenance windows that there are, over or not.
    pub fn set_windows(&mut self, now: Timestamp, windows: Vec<Window>) {
        self.upkeep.windows = windows;
        self.upkeep.stale = true;
        self.tick(now);
    }

    /// Jobs that may start on other nodes than when they were asked last are asked anew.
    pub(super) fn keep_up(&mut self, now: Seconds) {
        let at = self.upkeep.now;
        let turned = std::mem::take(&mut self.upkeep.turned);
        if self.upkeep.windows.is_empty() && self.upkeep.closing.is_empty() {
            return;
        }
        let expired = self.upkeep.until.is_some_and(|until| until <= at);
        let stale = std::mem::take(&mut self.upkeep.stale) || expired || turned;
        let changed = (stale && self.close_anew()) || turned;
        if stale {
            let rows = self.closures(at);
            self.policy.set_closures(rows);
        }
        let jobs: Vec<JobId> = if changed {
            self.upkeep.crossing.clear();
            self.queue.iter().map(|queued| queued.job).collect()
        } else {
            let crossing = &mut self.upkeep.crossing;
            let later = crossing.split_off(&(at.plus(Duration::from_micros(1)), JobId(0)));
            let due = std::mem::replace(crossing, later);
            due.into_iter().map(|(_, job)| job).collect()
        };
        for job in jobs {
            let Some(queued) = self.queue.get(job).cloned() else {
                continue;
            };
            let shunned = self.shunned(&queued);
            let asked = self.policy.asks(job.0).map(|ask| &ask.avoid);
            if self.policy.waits(job.0) && asked != Some(&shunned) {
                self.policy.withdraw(now, job.0);
                self.submit(now, &queued);
            } else {
                self.note_crossing(&queued);
            }
        }
    }

    pub(super) fn note_crossing(&mut self, queued: &QueuedJob) {
        let crosses = self.upkeep.crosses(queued);
        let crosses = crosses.map(|then| (then, queued.job));
        self.upkeep.crossing.extend(crosses);
    }

    /// Which nodes close when; whether that is news.
    fn close_anew(&mut self) -> bool {
        let (closing, until) = self.closing(self.upkeep.now);
        let changed = closing != self.upkeep.closing;
        self.upkeep.closing = closing;
        self.upkeep.until = until;
        changed
    }

    /// Which nodes close when, and until when that stays so.
    fn closing(&self, now: Timestamp) -> (Closing, Option<Timestamp>) {
        let mut from: BTreeMap<Timestamp, BTreeSet<NodeIx>> = BTreeMap::new();
        let mut until: Option<Timestamp> = None;
        for (name, entry) in self.ledger.nodes() {
            let Some(window) = self.upkeep.next_on(now, name, entry) else {
                continue;
            };
            until = until.into_iter().chain([window.until]).min();
            let ix = self.ixs.get(name).copied();
            from.entry(window.from).or_default().extend(ix);
        }
        let mut all = BTreeSet::new();
        let closing = from.into_iter().map(|(from, nodes)| {
            all.extend(nodes);
            (from, all.clone())
        });
        (closing.collect(), until)
    }

    /// For who asks at this moment.
    pub(super) fn outlook(&self, now: Timestamp) -> Outlook<'_> {
        let upkeep = &self.upkeep;
        let over = upkeep.until.is_some_and(|until| until <= now);
        // A clock that was set back brings back what was over.
        let good = !upkeep.stale && !over && now >= upkeep.now;
        let closing = match good || upkeep.windows.is_empty() && upkeep.closing.is_empty() {
            true => Cow::Borrowed(&upkeep.closing),
            false => Cow::Owned(self.closing(now).0),
        };
        Outlook { now, closing }
    }

    /// The nodes that close while it would still run.
    pub(super) fn closes_for(&self, queued: &QueuedJob) -> BTreeSet<NodeIx> {
        let reached = self.upkeep.reached(queued);
        reached.cloned().unwrap_or_default()
    }

    /// The same of who asks.
    pub(super) fn closes_at(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> BTreeSet<NodeIx> {
        let reached = outlook.reached(self.upkeep.span(queued));
        reached.cloned().unwrap_or_default()
    }

    /// Whether one of these nodes closes while it would still run there.
    pub(super) fn closes_on(&self, queued: &QueuedJob, pieces: &[Piece]) -> bool {
        let reached = self.upkeep.reached(queued);
        reached.is_some_and(|nodes| pieces.iter().any(|piece| nodes.contains(&piece.node)))
    }

    /// Of a node: the window that is on, or comes next.
    fn window_on(&self, now: Timestamp, node: &NodeName) -> Option<&Window> {
        self.upkeep.next_on(now, node, self.ledger.node(node)?)
    }

    /// A window is all that holds a job back, in words.
    pub(super) fn held_by_window(
        &self,
        outlook: &Outlook<'_>,
        queued: &QueuedJob,
    ) -> Option<String> {
        let now = outlook.now;
        let closes = self.closes_at(outlook, queued);
        if closes.is_empty() {
            return None;
        }
        let mut free = self.ask_given(queued, closes.clone());
        free.avoid.retain(|ix| !closes.contains(ix));
        let pieces = self.policy.would_start(queued.job.0, &free);
        let places = pieces.unwrap_or_default().into_iter();
        let names: BTreeSet<&NodeName> = places
            .filter(|piece| closes.contains(&piece.node))
            .filter_map(|piece| self.names.get(&piece.node))
            .collect();
        let (first, window) = names
            .iter()
            .find_map(|name| Some((*name, self.window_on(now, name)?)))?;
        let others = match names.len() {
            0 | 1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        let why = match queued.limit {
            Some(limit) => format!("its time limit of {} s reaches into it", limit.as_secs()),
            None => "it would have to go at once".to_owned(),
        };
        let words = window.words(now);
        Some(format!(
            "waits for the maintenance of node {first}{others} {words} to be over: {why}"
        ))
    }

    /// Nodes that would hold it now, were they not closed for maintenance, in words; nothing where there are none.
    pub(super) fn closed_by_window(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> String {
        let now = outlook.now;
        let on = self.upkeep.windows.iter().any(|window| window.is_on(now));
        let fits = |entry: &NodeEntry| {
            let wish = queued.wish();
            !entry.open && wish.could_use(entry) && wish.has_room(entry)
        };
        let nodes = self.ledger.nodes().filter(|(_, entry)| on && fits(entry));
        let closed = nodes.filter_map(|(name, _)| {
            let window = self.window_on(now, name);
            let window = window.filter(|window| window.is_on(now))?;
            Some(format!(
                "; maintenance of node {name} {}",
                window.words(now)
            ))
        });
        closed.take(3).collect()
    }

    /// What a window does to a node, where it does something to the job.
    pub(super) fn window_words(
        &self,
        outlook: &Outlook<'_>,
        (queued, node): (&QueuedJob, &NodeName),
    ) -> Option<String> {
        let ix = self.ixs.get(node)?;
        let reached = outlook.reached(self.upkeep.span(queued))?;
        let window = self.window_on(outlook.now, node);
        let window = window.filter(|_| reached.contains(ix))?;
        Some(format!("maintenance {}", window.words(outlook.now)))
    }

    /// When nodes are out of service for maintenance.
    fn closures(&self, now: Timestamp) -> Vec<Outage> {
        let windows = self.upkeep.windows.iter();
        let windows: Vec<&Window> = windows.filter(|window| !window.is_over(now)).collect();
        let mut rows = Vec::new();
        for (name, entry) in self.ledger.nodes().filter(|_| !windows.is_empty()) {
            let covers = |window: &&&Window| window.covers(name, entry.labels());
            let mine: Vec<&Window> = windows.iter().filter(covers).copied().collect();
            // What is closed for another reason does not open when a window is over.
            let by_window = entry.open || mine.iter().any(|window| window.is_on(now));
            let node = self.ixs.get(name).copied().filter(|_| by_window);
            rows.extend(mine.iter().filter_map(|window| {
                Some(Outage {
                    node: node?,
                    from: self.seconds(window.from),
                    until: self.seconds(window.until),
                })
            }));
        }
        Outage::joined(rows)
    }

    /// The same, as this job meets it.
    pub(super) fn outages(&self, now: Timestamp, queued: &QueuedJob) -> Outages {
        Outages {
            rows: self.closures(now),
            span: whole(self.upkeep.span(queued)),
            shuns: self.blamed_for(queued, &BTreeSet::new()),
        }
    }

    /// The longest limit that ends before a window begins, in seconds, where the job would start with it.
    pub(super) fn shorter(
        &self,
        outlook: &Outlook<'_>,
        queued: &QueuedJob,
    ) -> Option<(u64, Change)> {
        const MINUTE: u64 = 60;
        let limit = queued.limit?;
        let starts = self.gaps(outlook).into_iter().rev().find_map(|left| {
            // A minute less, so that there is one to ask for it.
            let left = left.as_secs().saturating_sub(MINUTE);
            let left = if left < MINUTE {
                left
            } else {
                left - left % MINUTE
            };
            let mut changed = queued.clone();
            changed.limit = Some(Duration::from_secs(left)).filter(|left| *left < limit);
            let fits = left > 0 && changed.limit.is_some() && self.starts(outlook, &changed);
            fits.then_some(left)
        })?;
        let change = Change {
            field: "time_limit",
            from: format!("{} s", limit.as_secs()),
            to: format!("{starts} s"),
        };
        Some((starts, change))
    }

    /// How long one may run, from now on, that is to be gone before a window begins, or before nodes are free that are kept
    /// for another.
    fn gaps(&self, outlook: &Outlook<'_>) -> BTreeSet<Duration> {
        let windows = outlook.closing.iter().map(|(from, _)| {
            let left = from.since(outlook.now);
            left.saturating_sub(self.upkeep.least)
        });
        let kept = self.policy.kept().and_then(Reservation::known);
        let kept = kept.map(|then| self.moment(then).since(outlook.now));
        windows.chain(kept).collect()
    }
}
