//! The lease of a node: how long a silent one is believed.
//!
//! `ready → suspect → lost`. Unknown is not failed: nothing is decided about the jobs of a suspect
//! node; only the end of the lease makes it lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What is believed of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Heard of within the suspect span.
    Ready,
    /// Silent, within its lease.
    Suspect,
    /// Silent beyond its lease: its attempts are given up.
    Lost,
}

/// The tick of leases: a node is suspect at the last one before its span is over, so that whoever asks when it is over
/// is told so. Telling it (a timer, messages, a list) takes less.
const TICK: Duration = Duration::from_millis(50);

/// The two spans of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Silence after which a node is suspect at the latest; see [`Lease::suspect_at`].
    pub suspect_after: Duration,
    /// Silence after which it is lost.
    pub lost_after: Duration,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            suspect_after: Duration::from_secs(10),
            lost_after: Duration::from_secs(300),
        }
    }
}

impl Lease {
    /// The silence at which a node is suspect: a tick before `suspect_after`, so that it is seen to be by then. A span
    /// that is short against a tick is shortened by a twentieth.
    #[must_use]
    pub fn suspect_at(&self) -> Duration {
        let early = TICK.min(self.suspect_after / 20);
        self.suspect_after.saturating_sub(early)
    }

    /// What a node last heard of at `seen` is at `now`.
    #[must_use]
    pub fn state(&self, seen: Timestamp, now: Timestamp) -> NodeState {
        let silence = now.since(seen);
        if silence >= self.lost_after {
            NodeState::Lost
        } else if silence >= self.suspect_at() {
            NodeState::Suspect
        } else {
            NodeState::Ready
        }
    }

    /// Whether the observer himself was away (stopped, suspended, its clock set) for so long since he
    /// `looked` last that a node may have been heard of without his knowing: then leases begin anew.
    #[must_use]
    pub fn observer_was_away(&self, looked: Timestamp, now: Timestamp) -> bool {
        now.since(looked) >= self.suspect_at()
    }

    /// When the state will change next if the node stays silent.
    #[must_use]
    pub fn deadline(&self, seen: Timestamp, now: Timestamp) -> Option<Timestamp> {
        match self.state(seen, now) {
            NodeState::Ready => Some(seen.plus(self.suspect_at())),
            NodeState::Suspect => Some(seen.plus(self.lost_after)),
            NodeState::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observer_who_was_away_himself_judges_nobody() {
        let lease = Lease::default();
        let at = |seconds: u64| Timestamp(0).plus(Duration::from_secs(seconds));
        assert!(!lease.observer_was_away(at(0), at(9)));
        assert!(lease.observer_was_away(at(0), at(400)));
        assert!(!lease.observer_was_away(at(400), at(0)));
    }

    #[test]
    fn a_short_span_is_shortened_little() {
        let lease = Lease {
            suspect_after: Duration::from_millis(200),
            lost_after: Duration::from_millis(400),
        };
        assert_eq!(lease.suspect_at(), Duration::from_millis(190));
    }

    #[test]
    fn a_silent_node_is_suspect_first_and_lost_after_its_lease() {
        let lease = Lease::default();
        let seen = Timestamp(0);
        let at = |seconds: u64| seen.plus(Duration::from_secs(seconds));
        let tick = Duration::from_millis(50);
        let last = at(10).0 - i64::try_from(tick.as_micros()).unwrap();
        assert_eq!(lease.state(seen, Timestamp(last - 1)), NodeState::Ready);
        assert_eq!(lease.state(seen, Timestamp(last)), NodeState::Suspect);
        assert_eq!(lease.state(seen, at(10)), NodeState::Suspect);
        assert_eq!(lease.state(seen, at(299)), NodeState::Suspect);
        assert_eq!(lease.state(seen, at(300)), NodeState::Lost);
        assert_eq!(lease.deadline(seen, at(0)), Some(Timestamp(last)));
        assert_eq!(lease.deadline(seen, at(20)), Some(at(300)));
        assert_eq!(lease.deadline(seen, at(300)), None);
    }
}
