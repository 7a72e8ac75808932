//! Which of the last calls that brought lines are in a spool: the same body with the same identity is the same call, sent
//! again since nobody had answered it, perhaps to the next life of the agent.
//!
//! Owns no file: each line carries in its own record whose it is, and what is not read any more stands in the marks.
//! Called by the spool's file.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// So many bodies are known again: before a process tries a call again that nobody answered, the others of its task may
/// deliver all that they have kept meanwhile. Of 24 bytes each.
const MOST_BODIES: usize = 8_192;

/// The body that a line was a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Tells that body from any other of its task.
    pub(super) identity: u64,
    /// How many lines of it follow.
    pub(super) left: u32,
}

/// A body of which the spool has lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::spool) struct Body {
    /// The number of the last of them.
    seq: u64,
    /// That line's.
    part: Part,
}

/// The last ones, oldest first.
#[derive(Debug, Default)]
pub(super) struct Bodies(VecDeque<Body>);

impl Bodies {
    /// How many lines of this body are not there yet: a crash may have torn off the last of them. None where it is not known.
    pub(super) fn left(&self, identity: u64) -> Option<usize> {
        let mut newest = self.0.iter().rev();
        let found = newest.find(|body| body.part.identity == identity)?;
        usize::try_from(found.part.left).ok()
    }

    pub(super) fn take_in(&mut self, seq: u64, part: Part) {
        let goes_on = |last: &&mut Body| {
            let due = last.part.left.checked_sub(1);
            last.part.identity == part.identity && due == Some(part.left)
        };
        let body = Body { seq, part };
        match self.0.back_mut().filter(goes_on) {
            Some(last) => *last = body,
            None => self.push(body),
        }
    }

    /// As a mark has kept it.
    pub(super) fn push(&mut self, body: Body) {
        if self.0.len() == MOST_BODIES {
            self.0.pop_front();
        }
        self.0.push_back(body);
    }

    /// Those that ended behind this record.
    pub(super) fn after(&self, seq: u64) -> Vec<Body> {
        let later = self.0.iter().filter(|body| body.seq > seq);
        later.copied().collect()
    }

    /// Nothing behind this record is there.
    pub(super) fn roll_back(&mut self, last: u64) {
        self.0.retain(|body| body.seq <= last);
    }
}

/// Whose line this one is, of so many of the body of this identity.
pub(super) fn part((identity, count): (u64, usize), at: usize) -> Option<Part> {
    let left = count.checked_sub(at.saturating_add(1))?;
    let left = u32::try_from(left).ok()?;
    Some(Part { identity, left })
}
