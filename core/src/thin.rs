//! Which reports of metrics a task leaves out while what it tells waits for a coordinator that is away.
//!
//! Owns the rule; pure. The trainer's last word and the agent's own words are never left out. Reports that name a new
//! checkpoint, that of the last epoch and those without metrics are, only when twice the room is taken: a trainer that
//! names another checkpoint with each step, or goes on for ever behind its last epoch, must not fill the disk. Lines and
//! validation results that it sends by callbacks are left out when the room is used up; what it prints waits elsewhere.
//! Called by the agent's spool.
//!
//! The rule for metrics: as long as half of the room is free, every report is kept. In each half of what is then left, half as
//! many are kept as before: every second one, every fourth, and so on. So the room is never used up, whatever is
//! told, and a curve keeps its shape: it becomes coarser towards the end. Reports within an epoch go first; those of
//! whole epochs are thinned only when seven eighths of the room are taken.

use crate::record::Progress;

/// How much later the reports of whole epochs are thinned, in halves of the room.
const EPOCHS_LATER: u32 = 2;
/// Of so many that none is kept.
const NONE: u32 = 63;
/// Twice the room is taken.
const OVER: u32 = 64;

/// How coarse it is now: of `2^n` reports one is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coarse(u32);

impl Coarse {
    /// While `waiting` bytes of `room` are taken.
    #[must_use]
    pub fn at(waiting: u64, room: u64) -> Self {
        match room.checked_sub(waiting) {
            None | Some(0) if waiting / 2 >= room => Self(OVER),
            None | Some(0) => Self(NONE),
            Some(left) => Self((room / left).max(1).ilog2().min(NONE)),
        }
    }

    /// As it was noted by [`Coarse::level`]; what was never noted is as coarse as can be.
    #[must_use]
    pub fn of_level(level: u64) -> Self {
        Self(u32::try_from(level).unwrap_or(OVER).min(OVER))
    }

    /// A number to note it by: the higher, the coarser, and 0 while nothing is left out.
    #[must_use]
    pub fn level(self) -> u64 {
        self.0.into()
    }

    /// Of how many reports within an epoch one is kept.
    #[must_use]
    pub const fn of_steps(self) -> u64 {
        match self.0 {
            OVER.. => 1 << NONE,
            coarse => 1 << coarse,
        }
    }

    /// Of how many reports of whole epochs one is kept.
    #[must_use]
    pub const fn of_epochs(self) -> u64 {
        1 << self.0.saturating_sub(EPOCHS_LATER)
    }

    /// Whether none is kept.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.0 >= NONE
    }

    /// Whether not even those of weight are.
    #[must_use]
    pub const fn is_over(self) -> bool {
        self.0 >= OVER
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self == Self::default()
    }
}

/// Counts what comes and says what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thinning {
    steps: u64,
    epochs: u64,
    left_out: u64,
    unsaid: u64,
    /// What was named last: many trainers name the same file with every report.
    checkpoints: [Option<String>; 2],
}

impl Thinning {
    /// One that goes on counting: so many reports of metrics, and so many lines and validation results, were left out before.
    #[must_use]
    pub fn after(left_out: u64, unsaid: u64) -> Self {
        Self {
            left_out,
            unsaid,
            ..Self::default()
        }
    }

    /// Whether a report is kept.
    pub fn keeps(&mut self, report: &Progress, coarse: Coarse) -> bool {
        let is_last = report.step.is_none() && report.epoch >= report.total_epochs;
        // One that is left out has named nothing.
        if !coarse.is_over() && (self.names_another(report) || is_last || !report.has_metrics) {
            return true;
        }
        let (count, of) = match report.step {
            Some(_) => (&mut self.steps, coarse.of_steps()),
            None => (&mut self.epochs, coarse.of_epochs()),
        };
        *count += 1;
        let kept = count.is_multiple_of(of);
        self.left_out += u64::from(!kept);
        kept
    }

    /// Whether a line or a validation result is kept that was sent by a callback.
    pub const fn keeps_callback(&mut self, coarse: Coarse) -> bool {
        let kept = !coarse.is_full();
        if !kept {
            self.unsaid += 1;
        }
        kept
    }

    /// Whether a checkpoint is named that was not named just before.
    fn names_another(&mut self, report: &Progress) -> bool {
        let named = [&report.checkpoint, &report.best_checkpoint];
        let mut another = false;
        for (known, named) in self.checkpoints.iter_mut().zip(named) {
            if let Some(named) = named
                && known.as_ref() != Some(&named.path)
            {
                *known = Some(named.path.clone());
                another = true;
            }
        }
        another
    }

    /// How many reports of metrics were left out.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// How many lines and validation results were.
    #[must_use]
    pub const fn unsaid(&self) -> u64 {
        self.unsaid
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{record::Checkpoint, time::Timestamp};

    fn report(step: Option<u64>) -> Progress {
        Progress {
            at: Timestamp(7),
            epoch: 1,
            total_epochs: 9,
            step,
            values: [("loss".to_owned(), 0.5)].into(),
            has_metrics: true,
            checkpoint: None,
            best_checkpoint: None,
        }
    }

    #[test]
    fn half_of_the_room_takes_everything_and_each_half_of_the_rest_half_as_many() {
        let of = |waiting| {
            let coarse = Coarse::at(waiting, 1_000);
            (coarse.of_steps(), coarse.of_epochs())
        };
        assert_eq!(of(0), (1, 1));
        assert_eq!(of(499), (1, 1));
        assert_eq!(of(500), (2, 1));
        assert_eq!(of(750), (4, 1));
        assert_eq!(of(875), (8, 2));
        assert_eq!(of(999), (512, 128));
        assert!(Coarse::at(999, 1_000) < Coarse::at(1_000, 1_000));
        assert!(Coarse::at(1_000, 1_000).is_full() && Coarse::at(5_000, 1_000).is_full());
        assert!(!Coarse::at(1_999, 1_000).is_over() && Coarse::at(2_000, 1_000).is_over());
        assert!(Coarse::at(1_999, 1_000) < Coarse::at(2_000, 1_000));
        assert_eq!(of(9_000), (1 << 63, 1 << 62));
        assert!(Coarse::at(0, u64::MAX).is_whole());
    }

    #[test]
    fn how_coarse_it_is_is_the_same_when_it_was_noted() {
        for waiting in [0, 500, 999, 1_000, 9_000] {
            let coarse = Coarse::at(waiting, 1_000);
            assert_eq!(Coarse::of_level(coarse.level()), coarse);
        }
        assert!(Coarse::of_level(u64::MAX).is_over());
    }

    #[test]
    fn new_checkpoints_and_words_without_metrics_are_kept_when_the_room_is_used_up() {
        let (mut thinning, coarse) = (Thinning::default(), Coarse::at(1_000, 1_000));
        let mut without_metrics = report(None);
        without_metrics.has_metrics = false;
        for number in 0..10 {
            let path = format!("/c/{number}.pt");
            let mut with_checkpoint = report(None);
            with_checkpoint.checkpoint = Some(Checkpoint {
                path,
                size_bytes: None,
            });
            assert!(thinning.keeps(&with_checkpoint, coarse));
            assert!(!thinning.keeps(&with_checkpoint, coarse), "named before");
            assert!(thinning.keeps(&without_metrics, coarse));
            assert!(!thinning.keeps(&report(Some(1)), coarse));
        }
        assert_eq!(thinning.left_out(), 20);
    }

    #[test]
    fn lines_and_results_sent_by_callbacks_are_left_out_when_the_room_is_used_up() {
        let mut thinning = Thinning::default();
        assert!(thinning.keeps_callback(Coarse::at(999, 1_000)));
        assert!(!thinning.keeps_callback(Coarse::at(1_000, 1_000)));
        assert!(thinning.keeps_callback(Coarse::at(0, 1_000)));
        assert_eq!((thinning.unsaid(), thinning.left_out()), (1, 0));
    }

    #[test]
    fn a_checkpoint_that_was_left_out_is_named_by_the_next_report_that_names_it() {
        let mut thinning = Thinning::default();
        let mut named = report(None);
        named.checkpoint = Some(Checkpoint {
            path: "/c/1.pt".into(),
            size_bytes: None,
        });
        assert!(!thinning.keeps(&named, Coarse::at(2_000, 1_000)));
        assert!(thinning.keeps(&named, Coarse::at(1_000, 1_000)));
        assert!(!thinning.keeps(&named, Coarse::at(1_000, 1_000)));
    }

    proptest! {
        #![proptest_config(crate::cases::cases(32))]
        #[test]
        fn nothing_that_a_trainer_reports_takes_more_than_twice_the_room(
            room in 1_000_u64..100_000,
            kinds in proptest::collection::vec(0..4_u8, 1..50),
        ) {
            let (mut thinning, mut waiting) = (Thinning::default(), 0);
            for number in 0..2_000_u32 {
                let coarse = Coarse::at(waiting, room);
                let kind = kinds.get(number as usize % kinds.len());
                let mut report = report(None);
                let kept = match kind {
                    Some(0) => thinning.keeps_callback(coarse),
                    Some(1) => {
                        report.epoch = 9 + number;
                        thinning.keeps(&report, coarse)
                    }
                    Some(2) => {
                        let path = format!("/c/{number}.pt");
                        report.best_checkpoint = Some(Checkpoint { path, size_bytes: None });
                        thinning.keeps(&report, coarse)
                    }
                    _ => {
                        report.has_metrics = false;
                        thinning.keeps(&report, coarse)
                    }
                };
                waiting += if kept { 500 } else { 0 };
            }
            prop_assert!(waiting <= 2 * room + 500, "{waiting} of {room}");
        }

        #[test]
        fn the_room_is_never_used_up_by_metrics_and_what_is_left_out_is_counted(
            room in 10_000_u64..1_000_000,
            size in 50_u64..500,
            steps in any::<bool>(),
        ) {
            let (mut thinning, mut waiting, mut kept) = (Thinning::default(), 0, 0);
            let report = report(steps.then_some(1));
            for _ in 0..100_000 {
                if thinning.keeps(&report, Coarse::at(waiting, room)) {
                    waiting += size;
                    kept += 1;
                }
            }
            prop_assert!(waiting <= room + size, "{waiting} of {room}");
            prop_assert_eq!(kept + thinning.left_out(), 100_000);
            prop_assert!(waiting >= (room / 2).min(100_000 * size), "it is not thinned before");
        }
    }
}
