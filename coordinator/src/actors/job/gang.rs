//! The patience of a gang: when to look for ranks that keep the others waiting.
//!
//! Owns the alarm alone; who is late is for core to say. Called by the job's actor.

use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef};
use trainyard_core::{
    ids::Rank,
    job::{Event, JobState},
};

use super::{JobMsg, State};
use crate::clock;

/// It is looked no sooner than after this.
const SOONEST: Duration = Duration::from_millis(20);
/// Who is late is looked at once more after this.
const AGAIN: Duration = Duration::from_secs(10);

impl State {
    /// Sets the alarm, unless it is set for then already.
    pub(super) fn wake_for_late(&mut self, myself: &ActorRef<JobMsg>) {
        let starting = self.job.state == JobState::Starting && !self.job.cancel_requested;
        let live = self.job.live().filter(|_| starting);
        let patience = self.peers.gang_patience;
        let next = live.and_then(|live| live.next_late(patience, &self.heard));
        let Some(next) = next.filter(|next| self.alarm.is_none_or(|set| *next < set)) else {
            return;
        };
        self.alarm = Some(next);
        // Those that were late when it was looked have a moment to speak.
        let soonest = if self.late.is_empty() {
            SOONEST
        } else {
            AGAIN.min(patience / 4)
        };
        let wait = next.since(clock::now()).max(soonest);
        myself.send_after(wait, || JobMsg::LookForLate);
    }

    pub(super) async fn look_for_late(&mut self) -> Result<(), ActorProcessingErr> {
        self.alarm = None;
        let starting = self.job.state == JobState::Starting && !self.job.cancel_requested;
        let Some(live) = self.job.live().filter(|_| starting) else {
            return Ok(());
        };
        let patience = self.peers.gang_patience;
        let late = live.late(clock::now(), patience, &self.heard);
        let number = live.number;
        let before = std::mem::replace(&mut self.late, late.clone());
        let still: Vec<Rank> = late
            .into_iter()
            .filter(|rank| before.contains(rank))
            .collect();
        if still.is_empty() {
            return Ok(());
        }
        self.late.clear();
        self.event(Event::Late(number, still), None).await
    }
}
