//! When the scheduler looks again though nothing happens. Part of the scheduler.

use std::time::Duration;

use trainyard_core::time::Timestamp;

use super::{SchedulerMsg, SchedulerRef, State};

/// It is looked at least so often when somebody waits for a moment.
const LONGEST_ALARM: Duration = Duration::from_secs(60);
/// What a job has not heard is said again after this.
pub(super) const SOON: Duration = Duration::from_secs(10);

impl State {
    /// Looks again when the next job that is tried again may start.
    pub(super) fn wake_for(&mut self, myself: &SchedulerRef, now: Timestamp) {
        if let Some(span) = self.next_alarm(now) {
            myself.send_after(span, || SchedulerMsg::Alarm);
        }
    }

    /// Whatever the clock says by now: it does not ring again unless it is set anew.
    pub(super) fn rings(&mut self) {
        self.alarm = None;
        self.dirty = true;
        self.unread.append(&mut self.unreadable);
        for (job, why) in self.planner.nevers() {
            self.give_up(job, why);
        }
    }

    /// In how long to look again, unless that is seen to.
    pub(super) fn next_alarm(&mut self, now: Timestamp) -> Option<Duration> {
        // A timer does not know when the clock is set, so it is never set for long.
        let longest = now.plus(LONGEST_ALARM);
        let unheard = self.planner.nevers().next().is_some() || !self.unreadable.is_empty();
        let again = unheard.then(|| now.plus(SOON));
        let next = self.planner.wake(now).into_iter().chain(again);
        let next = next.chain(self.notes.next()).min();
        let next = next.map(|next| next.min(longest));
        let set = self.alarm.filter(|alarm| *alarm > now);
        self.alarm = set;
        let next = next.filter(|next| set.is_none_or(|set| *next < set))?;
        self.alarm = Some(next);
        Some(next.since(now).max(Duration::from_millis(1)))
    }
}
