//! The lease of a node: how long a silent one is believed; and the room that it needs to take work.
//!
//! `ready → suspect → lost`. Unknown is not failed: nothing is decided about the jobs of a suspect
//! node; only the end of the lease makes it lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{resources::format_bytes, time::Timestamp};

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
    /// `looked` last that a node may have been heard of without his knowing: then leases begin anew. So they do when his
    /// clock was set back: what was heard before then would lie in the future, and silence would count from there.
    #[must_use]
    pub fn observer_was_away(&self, looked: Timestamp, now: Timestamp) -> bool {
        now < looked || now.since(looked) >= self.suspect_at()
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

/// A disk as it was seen, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// For anybody to use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// What has to be free on the disk of a node's data folder for it to take work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes; of a small disk a twentieth. 0: none.
    pub reserve: u64,
}

impl Room {
    /// Why the node takes no work, for people; `None` while it does. One that `was_full` takes work again with a quarter
    /// more, so that it does not change its mind with each file.
    #[must_use]
    pub fn lacks(self, disk: Disk, was_full: bool) -> Option<String> {
        let needs = self.reserve.min(disk.total / 20);
        let wanted = if was_full { needs + needs / 4 } else { needs };
        let [free, total, needs] = [disk.free, disk.total, needs].map(format_bytes);
        let words = || format!("disk full: {free} free of {total}, needs {needs}");
        (disk.free < wanted).then(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_no_work_while_its_disk_is_full_and_again_with_some_room_to_spare() {
        let room = Room { reserve: 64 << 20 };
        let lacks = |free: u64, was_full| {
            let disk = Disk {
                free: free << 20,
                total: 100 << 30,
            };
            room.lacks(disk, was_full)
        };
        assert_eq!(lacks(64, false), None);
        let words = "disk full: 63 MiB free of 100 GiB, needs 64 MiB";
        assert_eq!(lacks(63, false).as_deref(), Some(words));
        assert!(lacks(79, true).is_some());
        assert_eq!(lacks(80, true), None);
    }

    #[test]
    fn a_small_disk_is_not_full_when_it_is_empty() {
        let disk = |free: u64| Disk {
            free: free << 20,
            total: 40 << 20,
        };
        let room = Room { reserve: 64 << 20 };
        assert_eq!(room.lacks(disk(2), false), None);
        assert!(room.lacks(disk(1), false).is_some());
        assert_eq!(Room::default().lacks(disk(0), true), None);
    }

    #[test]
    fn an_observer_who_was_away_himself_judges_nobody() {
        let lease = Lease::default();
        let at = |seconds: u64| Timestamp(0).plus(Duration::from_secs(seconds));
        assert!(!lease.observer_was_away(at(0), at(9)));
        assert!(lease.observer_was_away(at(0), at(400)));
        assert!(lease.observer_was_away(at(400), at(0)));
    }

    #[test]
    fn a_node_that_is_silent_is_lost_within_its_lease_though_the_clock_is_set_back_meanwhile() {
        let lease = Lease::default();
        let at = |seconds: u64| Timestamp(0).plus(Duration::from_secs(seconds));
        let (mut seen, mut looked) = (at(10_000), at(10_000));
        // Silent from now on. The observer looks each second, and his clock goes back by an hour.
        let mut passed = 0;
        let lost = loop {
            passed += 1;
            let back = if passed > 100 { 3_600 } else { 0 };
            let now = at(10_000 + passed - back);
            if lease.observer_was_away(looked, now) {
                seen = now;
            }
            looked = now;
            if lease.state(seen, now) == NodeState::Lost {
                break passed;
            }
            assert!(passed < 10_000, "it is never lost");
        };
        assert_eq!(lost, 101 + 300);
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
