//! Any order of appending, flushing, crashing and opening again, against a plain list. Owns no
//! product code; called by the test runner.

use std::fs::OpenOptions;

use proptest::prelude::*;

use super::tests::line;
use super::{SpoolError, TaskSpool, mark::Marks};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<String>),
    Sync,
    Reopen,
    /// The agent ends, and so many bytes of the end are gone.
    Crash(u64),
    Ack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::collection::vec(".{0,20}", 0..5).prop_map(Step::Append),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => (0_u64..60).prop_map(Step::Crash),
        1 => Just(Step::Ack),
    ];
    proptest::collection::vec(step, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_spool_holds_a_gapless_beginning_of_what_was_told(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        // Small marks: what was acknowledged is soon not read any more, and then not there.
        let open = || TaskSpool::open(&path).map(|mut spool| {
            (spool.mark_step, spool.release_step) = (50, 100);
            spool
        });
        let mut spool = open().unwrap();
        let mut told: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Append(lines) => {
                    for text in lines {
                        told.push(text.clone());
                        let seq = spool.append(&[(line(&text), Some(told.len() as u64))]).unwrap();
                        prop_assert_eq!(seq, told.len() as u64);
                    }
                }
                Step::Sync => spool.sync().unwrap(),
                Step::Ack => spool.ack(spool.last_seq() / 2).unwrap(),
                Step::Reopen => spool = open().unwrap(),
                Step::Crash(bytes) => {
                    let acked = spool.acked();
                    drop(spool);
                    let marks = Marks::at(path.with_extension("mark")).read().unwrap();
                    let marked = marks.last().map_or(0, |mark| mark.place);
                    let file = OpenOptions::new().write(true).open(&path).unwrap();
                    let left = file.metadata().unwrap().len().saturating_sub(bytes);
                    file.set_len(left).unwrap();
                    match open() {
                        Ok(opened) => spool = opened,
                        Err(error) => {
                            // Only an acknowledged record that is gone may keep it from opening.
                            let ahead = matches!(error, SpoolError::AckAhead { acked: a, .. } if a == acked);
                            let gone = matches!(error, SpoolError::Damaged { last_good, .. } if last_good <= acked && left < marked);
                            let lost = ahead || gone;
                            prop_assert!(lost, "{:?}", error);
                            return Ok(());
                        }
                    }
                    told.truncate(usize::try_from(spool.last_seq()).unwrap());
                }
            }
        }
        spool.sync().unwrap();
        prop_assert_eq!(spool.source_offset(), told.len() as u64);
        let kept = spool.unsent_after(0, usize::MAX, u64::MAX).unwrap();
        let skipped = spool.skipped();
        prop_assert!(skipped <= spool.acked());
        let unread = told.iter().skip(usize::try_from(skipped).unwrap());
        let expected: Vec<_> = unread.map(|text| line(text)).collect();
        prop_assert_eq!(kept.iter().map(|k| k.seq).collect::<Vec<_>>(), (skipped + 1..=told.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(kept.into_iter().map(|k| k.record).collect::<Vec<_>>(), expected);
    }
}
