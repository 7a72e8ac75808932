//! Maintenance windows: which nodes they are on and when, which of several is named, and when they are forgotten.
//!
//! Pure, as all of `service`: told the time, it gives the same answer to the same moment.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ids::NodeName, time::Timestamp};

/// On which nodes a window is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// On all, those that come later too.
    All,
    /// On these.
    Nodes(BTreeSet<NodeName>),
    /// On those that have all of these labels at the time, each `key=value`.
    Labels(BTreeSet<String>),
}

/// A span in which nodes are out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From 1, over all that there ever were.
    pub id: u64,
    /// Where.
    pub scope: Scope,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// Why, for people.
    pub why: String,
    /// The e-mail address of who made it.
    pub made_by: String,
    /// When.
    pub made_at: Timestamp,
}

/// Of a window what is told beside each of its nodes: not on which others it is, and not all of its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    /// The window's number.
    pub id: u64,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// Why, in short.
    pub why: String,
    /// Until when the node is closed from then on, since others follow without a gap or overlap it.
    pub closed_until: Timestamp,
    /// Those, by number: the first few.
    pub others: Vec<u64>,
}

/// So many other windows are named beside a node.
const OTHERS: usize = 10;

/// Characters of a reason that are told beside each node and each job that it concerns: they may be many.
pub(super) const SHORT: usize = 100;

impl Window {
    /// The beginning of its reason.
    fn short(&self) -> String {
        let mut why: String = self.why.chars().take(SHORT).collect();
        if why.len() < self.why.len() {
            why.push('…');
        }
        why
    }

    /// Whether it is on a node with these labels.
    #[must_use]
    pub fn covers(&self, node: &NodeName, labels: &BTreeSet<String>) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Nodes(nodes) => nodes.contains(node),
            Scope::Labels(wanted) => wanted.is_subset(labels),
        }
    }

    /// Whether it has begun and is not over.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// Whether a job that starts now and takes so long would reach into it.
    #[must_use]
    pub fn is_reached(&self, now: Timestamp, span: Duration) -> bool {
        !self.is_over(now) && now.plus(span) > self.from
    }

    /// Such as `until 18:00 UTC (new fan)`, or with when it begins.
    #[must_use]
    pub fn words(&self, now: Timestamp) -> String {
        let until = self.until.moment(now);
        let why = match self.short() {
            none if none.is_empty() => none,
            why => format!(" ({why})"),
        };
        match self.is_on(now) {
            true => format!("until {until}{why}"),
            false => format!("from {} until {until}{why}", self.from.moment(now)),
        }
    }
}

/// Of windows that cover a node the one that is named: of those that are on the one that ends last, since until then the
/// node is closed; where none is on the one that comes next, and of several such the longest.
#[must_use]
pub fn foremost<'w>(
    now: Timestamp,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Option<&'w Window> {
    let left = windows.into_iter().filter(|window| !window.is_over(now));
    left.min_by_key(|window| {
        let begins = window.from.max(now);
        (begins, Reverse(window.until), Reverse(window.id))
    })
}

/// The window that is named of those that cover a node, and how long they keep it closed.
#[must_use]
pub fn closure<'w>(
    now: Timestamp,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Option<Closure> {
    let mut left: Vec<&Window> = windows.into_iter().collect();
    left.retain(|window| !window.is_over(now));
    left.sort_by_key(|window| (window.from, window.id));
    let named = foremost(now, left.iter().copied())?;
    let (mut closed_until, mut others) = (named.until, Vec::new());
    for window in left {
        if window.from > closed_until {
            break;
        }
        closed_until = closed_until.max(window.until);
        if window.id != named.id {
            others.push(window.id);
        }
    }
    others.truncate(OTHERS);
    Some(Closure {
        id: named.id,
        from: named.from,
        until: named.until,
        why: named.short(),
        closed_until,
        others,
    })
}

/// So long a window is kept that is over.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// A clock that was set is not believed for so long, where something would be gone for good.
const DOUBTED: Duration = Duration::from_secs(3_600);
/// Between two looks a clock goes on by less, unless it is set or nobody looked.
const STEP: Duration = Duration::from_secs(600);

/// Since when a clock goes on as clocks do. One that is set far ahead for a moment would end what is to last for days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    since: Timestamp,
    looked: Timestamp,
}

impl Steady {
    /// From now on.
    #[must_use]
    pub fn from(now: Timestamp) -> Self {
        let (since, looked) = (now, now);
        Self { since, looked }
    }

    /// It was looked at.
    pub fn look(&mut self, now: Timestamp) {
        let before = std::mem::replace(&mut self.looked, now);
        if now < before || now.since(before) > STEP {
            self.since = now;
        }
    }

    /// Whether it was not set for an hour.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        self.looked.since(self.since) >= DOUBTED
    }

    /// Of these windows those that were over a day ago, by a clock that was not set for an hour.
    #[must_use]
    pub fn forgotten<'w>(&self, windows: impl IntoIterator<Item = &'w Window>) -> Vec<u64> {
        let (now, believed) = (self.looked, self.is_believed());
        let windows = windows.into_iter().filter(|_| believed);
        let old = windows.filter(|window| window.until.plus(KEPT) <= now);
        old.map(|window| window.id).collect()
    }
}
