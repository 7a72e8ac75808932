//! What was decided, to be read back: rows under ascending numbers, with indexes by job and by node.
//!
//! Owns the numbers, which rows belong together, and what of a node's row is a decision. Decides nothing about jobs. Written
//! by the committing thread in the transaction of what is noted; read by the service.

use std::ops::RangeInclusive;

use redb::{ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, WriteTransaction};
use tokio::sync::watch;
use trainyard_core::{
    decision::{Decision, Kind},
    ids::{JobId, NodeName},
    label,
    time::Timestamp,
};

use super::{
    Change, NodeRow, ReadError, Store, TrimError,
    apply::Batch,
    codec::{self, Place},
    error::spared,
    tables::{EVENTS, EVENTS_OF_JOB, EVENTS_OF_NODE},
};
use crate::clock;

/// The table, to be read.
type Events = redb::ReadOnlyTable<u64, &'static [u8]>;

/// The index by job, to be written.
type OfJob<'t> = redb::Table<'t, (u64, u64), ()>;
/// The index by node, to be written.
type OfNode<'t> = redb::Table<'t, (&'static str, u64), ()>;

/// Rows that one commit forgets.
const AT_ONCE: usize = 1_024;

/// What was decided, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Ascending, from 1.
    pub id: u64,
    /// What.
    pub decision: Decision,
}

/// Which of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsOf {
    /// Only about this job, or for it.
    pub job: Option<JobId>,
    /// Only about this node.
    pub node: Option<NodeName>,
}

impl EventsOf {
    fn wants(&self, decision: &Decision) -> bool {
        let node = self.node.as_ref();
        node.is_none_or(|node| decision.nodes.contains(node))
    }
}

/// What a node's new row decides, seen from the row before. Who has set labels is not in the row: whoever sets them notes
/// it.
pub(super) fn of_node(before: Option<&NodeRow>, after: &NodeRow) -> Vec<Decision> {
    let labels = before.and_then(|before| label::changes(&before.labels, &after.labels));
    let labels = labels.map(|words| {
        let words = format!("its agent: {words}");
        Decision::of_node(clock::now(), Kind::Labelled, after.name.clone(), words)
    });
    of_drain(before, after).into_iter().chain(labels).collect()
}

fn of_drain(before: Option<&NodeRow>, after: &NodeRow) -> Option<Decision> {
    let (was, is) = (before.and_then(NodeRow::drain), after.drain());
    let by = after.ordered_by.as_str();
    let again = is.is_some() && before.is_some_and(|before| before.ordered_by != by);
    if was == is && !again {
        return None;
    }
    let (kind, words) = match &is {
        Some(drain) if by.is_empty() || drain.reason.contains(by) => {
            (Kind::Drained, drain.reason.clone())
        }
        // Before the reason, which may be cut.
        Some(drain) => (Kind::Drained, format!("{by}: {}", drain.reason)),
        None => {
            let who = if by.is_empty() { "an operator" } else { by };
            (Kind::Resumed, format!("{who} wants it to get jobs again"))
        }
    };
    Some(Decision::of_node(
        clock::now(),
        kind,
        after.name.clone(),
        words,
    ))
}

/// By which jobs and by which nodes the row of this number is found.
pub(super) fn index(
    note: &Decision,
    id: u64,
    (of_job, of_node): (&mut OfJob<'_>, &mut OfNode<'_>),
) -> Result<(), ReadError> {
    for job in note.job.into_iter().chain(note.for_job) {
        of_job.insert((job.0, id), ())?;
    }
    for node in &note.nodes {
        of_node.insert((node.0.as_str(), id), ())?;
    }
    Ok(())
}

impl Batch<'_> {
    pub(super) fn note(&mut self, notes: &[Decision]) -> Result<(), ReadError> {
        let tables = self.opened.noting(self.txn)?;
        let mut last = match self.last_event {
            Some(last) => last,
            None => tables.events.last()?.map_or(0, |(id, _)| id.value()),
        };
        for note in notes {
            last += 1;
            let place = Place {
                table: "events",
                key: &last,
            };
            let bytes = codec::to_json(place, note)?;
            tables.events.insert(last, bytes.as_slice())?;
            index(note, last, (&mut tables.of_job, &mut tables.of_node))?;
        }
        self.last_event = Some(last);
        Ok(())
    }
}

/// Forgets rows up to this number, a bounded number of them, and never the last one.
pub(super) fn forget(txn: &WriteTransaction, to: u64) -> Result<(), ReadError> {
    let mut events = txn.open_table(EVENTS)?;
    let last = events.last()?.map_or(0, |(id, _)| id.value());
    let mut gone = Vec::new();
    for entry in events
        .range(..=to.min(last.saturating_sub(1)))?
        .take(AT_ONCE)
    {
        let (id, bytes) = entry?;
        let id = id.value();
        // Of a damaged one it is not known what it is about: entries of indexes that lead nowhere are passed over.
        gone.push((id, decoded(id, bytes.value()).ok()));
    }
    let mut of_job = txn.open_table(EVENTS_OF_JOB)?;
    let mut of_node = txn.open_table(EVENTS_OF_NODE)?;
    for (id, note) in gone {
        events.remove(id)?;
        let Some(note) = note else { continue };
        for job in note.job.into_iter().chain(note.for_job) {
            of_job.remove((job.0, id))?;
        }
        for node in &note.nodes {
            of_node.remove((node.0.as_str(), id))?;
        }
    }
    Ok(())
}

impl Store {
    /// What was decided behind number `after` and not before `since`, ascending: at most `limit` rows. One that cannot be read
    /// is left out, and the log says so. Blocks.
    pub fn events(
        &self,
        of: &EventsOf,
        (after, since): (u64, Timestamp),
        limit: usize,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let txn = self.read()?;
        let after = after.max(before_since(&txn, since)?);
        let events = txn.open_table(EVENTS)?;
        let from = after.saturating_add(1);
        let mut found = Vec::new();
        let mut take = |id: u64, bytes: &[u8]| -> Result<bool, ReadError> {
            let decision = spared(decoded(id, bytes))?;
            let wanted = decision.filter(|decision| decision.at >= since && of.wants(decision));
            found.extend(wanted.map(|decision| StoredEvent { id, decision }));
            Ok(found.len() < limit)
        };
        let mut by_index = |id: u64| -> Result<bool, ReadError> {
            match events.get(id)? {
                Some(bytes) => take(id, bytes.value()),
                None => Ok(true),
            }
        };
        match (of.job, &of.node) {
            (Some(job), _) => {
                let index = txn.open_table(EVENTS_OF_JOB)?;
                for entry in index.range((job.0, from)..=(job.0, u64::MAX))? {
                    if !by_index(entry?.0.value().1)? {
                        break;
                    }
                }
            }
            (None, Some(node)) => {
                let index = txn.open_table(EVENTS_OF_NODE)?;
                let name = node.0.as_str();
                for entry in index.range((name, from)..=(name, u64::MAX))? {
                    if !by_index(entry?.0.value().1)? {
                        break;
                    }
                }
            }
            (None, None) => {
                for entry in events.range(from..)? {
                    let (id, bytes) = entry?;
                    if !take(id.value(), bytes.value())? {
                        break;
                    }
                }
            }
        }
        Ok(found)
    }

    /// What was decided last about a job.
    pub fn last_event(&self, job: JobId) -> Result<Option<Decision>, ReadError> {
        let txn = self.read()?;
        let events = txn.open_table(EVENTS)?;
        let index = txn.open_table(EVENTS_OF_JOB)?;
        for entry in index.range((job.0, 0)..=(job.0, u64::MAX))?.rev() {
            let id = entry?.0.value().1;
            let Some(bytes) = events.get(id)? else {
                continue;
            };
            let decision = spared(decoded(id, bytes.value()))?;
            // What another one does for it is not its own.
            let own = decision.filter(|decision| decision.job == Some(job));
            if own.is_some() {
                return Ok(own);
            }
        }
        Ok(None)
    }

    /// Changes whenever something new is noted.
    pub fn noted(&self) -> watch::Receiver<u64> {
        self.inner.shared.events.subscribe()
    }

    /// Forgets what was decided before then, and all but the newest `most`; says whether anything was. Some at a time, and
    /// never the last.
    ///
    /// # Errors
    /// When the store has stopped, or cannot be read.
    pub async fn trim_events(
        &self,
        before: Option<Timestamp>,
        most: Option<u64>,
    ) -> Result<bool, TrimError> {
        let mut any = false;
        while let Some(to) = self.forgettable(before, most)? {
            self.commit_and_wait(vec![Change::ForgetEvents(to)]).await?;
            any = true;
        }
        Ok(any)
    }

    /// Up to which number there is something to forget.
    fn forgettable(
        &self,
        before: Option<Timestamp>,
        most: Option<u64>,
    ) -> Result<Option<u64>, ReadError> {
        let txn = self.read()?;
        let events = txn.open_table(EVENTS)?;
        let old = before.map(|before| old_ones(&events, before)).transpose()?;
        let (Some((first, _)), Some((last, _))) = (events.first()?, events.last()?) else {
            return Ok(None);
        };
        // Numbers have no gaps but behind what was forgotten.
        let many = most.map(|most| last.value().saturating_sub(most));
        let to = old.into_iter().chain(many).max().unwrap_or_default();
        let to = to.min(last.value().saturating_sub(1));
        Ok((first.value() <= to).then_some(to))
    }

    /// How many rows there are.
    pub fn count_events(&self) -> Result<u64, ReadError> {
        Ok(self.read()?.open_table(EVENTS)?.len()?)
    }
}

/// Of the first rows, the last before the first that is young. Not looked for by halves: among young ones there may be
/// one that a clock that was wrong made old. A row that cannot be read is of no use to anybody.
fn old_ones(events: &Events, before: Timestamp) -> Result<u64, ReadError> {
    let mut known = 0;
    for row in events.iter()?.take(AT_ONCE) {
        let (id, bytes) = row?;
        let id = id.value();
        if decoded(id, bytes.value()).is_ok_and(|decision| decision.at >= before) {
            break;
        }
        known = id;
    }
    Ok(known)
}

/// The last number of what was decided before then: looked for by halves, for numbers ascend with time. Where a clock was
/// set this is a guess.
fn before_since(txn: &ReadTransaction, since: Timestamp) -> Result<u64, ReadError> {
    let events = txn.open_table(EVENTS)?;
    let (Some((first, _)), Some((last, _))) = (events.first()?, events.last()?) else {
        return Ok(0);
    };
    let (mut known, mut end) = (first.value().saturating_sub(1), last.value());
    while known < end {
        let middle = known + (end - known).div_ceil(2);
        match first_decided(&events, middle..=end)? {
            Some((id, at)) if at < since => known = id,
            _ => end = middle - 1,
        }
    }
    Ok(known)
}

/// The first of these that can be read: a number whose row is damaged counts as the next one.
fn first_decided(
    events: &Events,
    numbers: RangeInclusive<u64>,
) -> Result<Option<(u64, Timestamp)>, ReadError> {
    for row in events.range(numbers)? {
        let (id, bytes) = row?;
        let id = id.value();
        if let Some(decision) = spared(decoded(id, bytes.value()))? {
            return Ok(Some((id, decision.at)));
        }
    }
    Ok(None)
}

/// When the last of it was decided.
pub(super) fn last_decided(txn: &ReadTransaction) -> Result<Option<Timestamp>, ReadError> {
    let events = txn.open_table(EVENTS)?;
    let Some((id, bytes)) = events.last()? else {
        return Ok(None);
    };
    let decision = spared(decoded(id.value(), bytes.value()))?;
    Ok(decision.map(|decision| decision.at))
}

fn decoded(id: u64, bytes: &[u8]) -> Result<Decision, ReadError> {
    let place = Place {
        table: "events",
        key: &id,
    };
    codec::from_json(place, bytes)
}
