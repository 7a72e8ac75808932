//! Whether a trainer may owe reports: those that its agent did not take when they were made, and that it keeps.
//!
//! Owns how long its checkpoints wait for them: one that has a name before the report of its epoch is here leaves a gap in
//! the curve, if this node is lost then. A trainer that reports first and then writes waits for nobody as long as its agent
//! takes what it says. Called by the callbacks, by Runs for what it finds, and by what publishes checkpoints.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// Checkpoints wait for so long at most, from the first sign on, however often a call is refused and however much is kept:
/// what is lost with the node is the work since its last checkpoint, and a curve with a gap is worth less than that. Also
/// where nothing is heard: the SDK says again after some seconds what it keeps, and a trainer that keeps nothing may not
/// call for hours. So silence for as long ends it, too.
const PATIENCE: Duration = Duration::from_secs(60);
/// What else a trainer keeps comes within this time, where it does not say how much there is.
const OTHERS: Duration = Duration::from_secs(5);

/// Until when checkpoints of one task wait; none while its trainer owes nothing. A cheap handle.
#[derive(Clone, Debug)]
pub struct Owing {
    owed: watch::Sender<Option<Owed>>,
}

/// From the first call that was not taken until the last one that was kept is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owed {
    since: Instant,
    /// When it was last seen that something is owed.
    seen: Instant,
    /// When it is over, where its trainer does not say so.
    over: Option<Instant>,
}

impl Owed {
    const fn new(now: Instant) -> Self {
        Self {
            since: now,
            seen: now,
            over: None,
        }
    }

    fn until(self) -> Instant {
        let bound = self.since + PATIENCE;
        self.over.map_or(bound, |over| over.min(bound))
    }

    fn is_over(self, now: Instant) -> bool {
        self.over.unwrap_or(self.seen + PATIENCE) <= now
    }
}

impl Default for Owing {
    fn default() -> Self {
        Self {
            owed: watch::Sender::new(None),
        }
    }
}

impl Owing {
    /// The agent was away: what was said meanwhile may be kept. No checkpoint has waited for that yet.
    pub fn begin(&self) {
        self.set(|_, now| Some(Owed::new(now)));
    }

    /// A call was not taken, and its trainer may say it again.
    pub fn refused(&self) {
        self.set(|before, now| Some(more(before, now)));
    }

    /// A call was taken, and its trainer keeps so many behind it; none where it does not say.
    pub fn heard(&self, kept: Option<u64>) {
        self.set(|before, now| after(before, kept, now));
    }

    /// The trainer has ended: nothing comes any more.
    pub fn end(&self) {
        self.set(|_, _| None);
    }

    /// Waits until nothing is owed, or nobody can know that it is, or it was waited for long enough.
    pub async fn is_settled(&self) {
        let mut changes = self.owed.subscribe();
        loop {
            let owed = *changes.borrow_and_update();
            let Some(owed) = owed else { return };
            tokio::select! {
                () = tokio::time::sleep_until(owed.until()) => return,
                // The sender is this handle's own.
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn set(&self, change: impl FnOnce(Option<Owed>, Instant) -> Option<Owed>) {
        self.owed.send_if_modified(|owed| {
            let next = change(*owed, Instant::now());
            std::mem::replace(owed, next) != next
        });
    }
}

/// Something is owed. It is of the same owing as before, unless that is over.
fn more(before: Option<Owed>, now: Instant) -> Owed {
    let same = before.filter(|owed| !owed.is_over(now));
    same.map_or_else(
        || Owed::new(now),
        |owed| Owed {
            seen: now,
            over: None,
            ..owed
        },
    )
}

fn after(before: Option<Owed>, kept: Option<u64>, now: Instant) -> Option<Owed> {
    match kept {
        Some(0) => None,
        Some(_) => Some(more(before, now)),
        None => before.map(|owed| Owed {
            over: owed.over.or(Some(now + OTHERS)),
            ..owed
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(owed: Option<Owed>) -> Option<Instant> {
        owed.map(Owed::until)
    }

    #[test]
    fn a_checkpoint_waits_for_what_its_trainer_keeps_and_for_what_cannot_be_known_within_bounds() {
        let now = Instant::now();
        let begun = Some(Owed::new(now));
        assert_eq!(until(begun), Some(now + PATIENCE));
        assert_eq!(after(begun, Some(0), now), None);
        assert_eq!(after(None, Some(2), now), begun, "it says so itself");
        assert_eq!(after(None, None, now), None, "nothing was refused");
        let soon = after(begun, None, now);
        assert_eq!(until(soon), Some(now + OTHERS));
        let others = after(soon, None, now + OTHERS / 2);
        assert_eq!(others, soon, "the others are not waited for anew");
    }

    /// After how many seconds a checkpoint is let go, while there is a call every two seconds, as the SDK makes them.
    async fn waited(owing: &Owing, call: impl Fn(&Owing)) -> u64 {
        call(owing);
        let begun = Instant::now();
        let calls = async {
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_secs(2)).await;
                call(owing);
            }
        };
        tokio::select! {
            () = owing.is_settled() => {}
            () = calls => {}
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn however_often_it_is_refused_and_however_much_is_kept_a_checkpoint_waits_once() {
        let calls: [fn(&Owing); 2] = [Owing::refused, |owing| owing.heard(Some(9_000))];
        for call in calls {
            let owing = Owing::default();
            assert_eq!(waited(&owing, call).await, 60);
            // The ones behind it wait for nothing, as long as that goes on.
            for _ in 0..100 {
                call(&owing);
                assert_eq!(waited(&owing, call).await, 0);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            // What begins when all of that is over is waited for as ever.
            owing.heard(Some(0));
            assert_eq!(waited(&owing, call).await, 60);
            owing.heard(None);
            tokio::time::sleep(OTHERS).await;
            assert_eq!(waited(&owing, call).await, 60);
            tokio::time::sleep(PATIENCE).await;
            assert_eq!(waited(&owing, call).await, 60);
            owing.begin();
            assert_eq!(waited(&owing, call).await, 60, "the agent was away");
        }
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
