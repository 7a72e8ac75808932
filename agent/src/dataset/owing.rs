//! Whether a trainer may owe reports: those that its agent did not take when they were made, and that it keeps.
//!
//! Owns how long its checkpoints wait for them: one that has a name before the report of its epoch is here leaves a gap in
//! the curve, if this node is lost then. A trainer that reports first and then writes waits for nobody as long as its agent
//! takes what it says. Called by the callbacks, by Runs for what it finds, and by what publishes checkpoints.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// Where nothing is heard: the SDK says again after some seconds what it keeps, and a trainer that keeps nothing may not
/// call for hours.
const PATIENCE: Duration = Duration::from_secs(60);
/// What else a trainer keeps comes within this time, where it does not say how much there is.
const OTHERS: Duration = Duration::from_secs(5);

/// Until when checkpoints of one task wait; none while its trainer owes nothing. A cheap handle.
#[derive(Clone, Debug)]
pub struct Owing {
    until: watch::Sender<Option<Instant>>,
}

impl Default for Owing {
    fn default() -> Self {
        Self {
            until: watch::Sender::new(None),
        }
    }
}

impl Owing {
    /// The agent was away, or has refused a report: what was said meanwhile may be kept.
    pub fn begin(&self) {
        self.set(|_, now| Some(now + PATIENCE));
    }

    /// A call was taken, and its trainer keeps so many behind it; none where it does not say.
    pub fn heard(&self, kept: Option<u64>) {
        self.set(|before, now| after(before, kept, now));
    }

    /// The trainer has ended: nothing comes any more.
    pub fn end(&self) {
        self.set(|_, _| None);
    }

    /// Waits until nothing is owed, or nobody can know that it is.
    pub async fn is_settled(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let Some(until) = until else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                // The sender is this handle's own.
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn set(&self, change: impl FnOnce(Option<Instant>, Instant) -> Option<Instant>) {
        self.until.send_if_modified(|until| {
            let next = change(*until, Instant::now());
            std::mem::replace(until, next) != next
        });
    }
}

fn after(before: Option<Instant>, kept: Option<u64>, now: Instant) -> Option<Instant> {
    match kept {
        Some(0) => None,
        Some(_) => Some(now + PATIENCE),
        None => before.map(|until| until.min(now + OTHERS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_waits_for_what_its_trainer_keeps_and_for_what_cannot_be_known_within_bounds() {
        let now = Instant::now();
        let begun = Some(now + PATIENCE);
        assert_eq!(after(begun, Some(0), now), None);
        assert_eq!(after(None, Some(2), now), begun, "it says so itself");
        assert_eq!(after(None, None, now), None, "nothing was refused");
        assert_eq!(after(begun, None, now), Some(now + OTHERS));
        let soon = Some(now + OTHERS / 2);
        assert_eq!(
            after(soon, None, now),
            soon,
            "the others are not waited for anew"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_without_end() {
        let owing = Owing::default();
        owing.is_settled().await;
        owing.begin();
        let begun = Instant::now();
        owing.is_settled().await;
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
        for end in [Owing::end, |owing: &Owing| owing.heard(Some(0))] {
            owing.begin();
            let begun = Instant::now();
            let other = owing.clone();
            let ((), ()) = tokio::join!(owing.is_settled(), async { end(&other) });
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
    }
}
