//! Whether a node is in service: drains by operators, and maintenance windows.
//!
//! Owns what a node does at a moment, which is one of three things, and which jobs may still start before a window. Pure:
//! it is told the time, and the same time gives the same answer, so that a restart or a clock that is set changes nothing.
//! Never closes a node: the coordinator's supervisor of nodes asks it again and again. Used by that and by the planner.

#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::window::{Closure, Scope, Steady, Window, closure, foremost};
use crate::{ids::NodeName, time::Timestamp};

/// What becomes of those who are left at the deadline of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// They save their work, go, and go on elsewhere.
    #[default]
    Preempt,
    /// They go on for as long as they take.
    Wait,
}

impl AtDeadline {
    /// The name in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preempt => "preempt",
            Self::Wait => "wait",
        }
    }

    /// From such a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Preempt, Self::Wait]
            .into_iter()
            .find(|one| one.name() == name)
    }
}

/// Until when jobs may end by themselves, and what is done with those that have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// When.
    pub at: Timestamp,
    /// What then.
    pub then: AtDeadline,
}

/// An operator wants no new jobs on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why, for people.
    pub reason: String,
    /// Without one those that run there go on for as long as they take.
    pub deadline: Option<Deadline>,
}

impl Drain {
    /// What those are told who are left at its deadline.
    #[must_use]
    pub fn words(&self, node: &NodeName) -> String {
        format!("node {node} is drained: {}", self.reason)
    }
}

/// How long a job is taken to have its place for a window that is to come: its limit, and what starting costs, `least`,
/// since the limit counts from when the trainer runs. One without a limit may run for any time, and is told to go when the
/// window begins; it starts as long as that leaves it `least`.
#[must_use]
pub fn span(limit: Option<Duration>, least: Duration) -> Duration {
    limit.unwrap_or_default().saturating_add(least)
}

/// What a node does at a moment, as far as its operators have a say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It gets jobs.
    Open,
    /// It gets none; those that run there go on.
    Draining,
    /// It gets none; those that run there are to save their work and go, for this reason.
    Vacating(String),
}

/// What a node does now, by its drain and the windows that cover it, in any order.
#[must_use]
pub fn duty<'w>(
    now: Timestamp,
    node: &NodeName,
    drain: Option<&Drain>,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Duty {
    let on = foremost(now, windows).filter(|window| window.is_on(now));
    if let Some(window) = on {
        return Duty::Vacating(format!("maintenance of node {node} {}", window.words(now)));
    }
    let Some(drain) = drain else {
        return Duty::Open;
    };
    match drain.deadline {
        Some(Deadline {
            at,
            then: AtDeadline::Preempt,
        }) if at <= now => Duty::Vacating(drain.words(node)),
        Some(_) | None => Duty::Draining,
    }
}

/// When that changes next by time alone.
#[must_use]
pub fn next_change<'w>(
    now: Timestamp,
    drain: Option<&Drain>,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Option<Timestamp> {
    let deadline = drain.and_then(|drain| drain.deadline);
    let deadline = deadline.map(|deadline| deadline.at);
    let edges = windows.into_iter();
    let edges = edges.flat_map(|window| [window.from, window.until]);
    edges.chain(deadline).filter(|then| *then > now).min()
}
