//! The patience of a gang: when to look for ranks that keep the others waiting.
//!
//! Owns the alarm alone; who is late is for core to say. Called by the job's actor.

use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef};
use trainyard_core::job::{Event, JobState};

use super::{JobMsg, State};
use crate::clock;

/// It is looked no sooner than after this.
const SOONEST: Duration = Duration::from_millis(20);

impl State {
    /// Sets the alarm, unless it is set for then already.
    pub(super) fn wake_for_late(&mut self, myself: &ActorRef<JobMsg>) {
        let starting = self.job.state == JobState::Starting;
        let live = self.job.live().filter(|_| starting);
        let next = live.and_then(|live| live.next_late(self.peers.gang_patience));
        if next.is_none() || next == self.alarm {
            return;
        }
        self.alarm = next;
        if let Some(next) = next {
            // A moment that is over: not at once for ever.
            let wait = next.since(clock::now()).max(SOONEST);
            myself.send_after(wait, || JobMsg::LookForLate);
        }
    }

    pub(super) async fn look_for_late(&mut self) -> Result<(), ActorProcessingErr> {
        self.alarm = None;
        let now = clock::now();
        let starting = self.job.state == JobState::Starting;
        let Some(live) = self.job.live().filter(|_| starting) else {
            return Ok(());
        };
        let late = live.late(now, self.peers.gang_patience);
        if late.is_empty() || self.job.cancel_requested {
            return Ok(());
        }
        let event = Event::Late(live.number, late);
        self.event(event, None).await
    }
}
