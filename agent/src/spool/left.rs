//! How much of what a task told was left out, which outlives the agent: else the job's log would say too small a number after
//! a restart in the middle of an outage.
//!
//! Owns `spool.left`: the counts in one write of always the same length, over the last one. None is waited for: what a power
//! cut takes makes the sum in the log too small, and nothing else. Blocks on the disk. Called by `file`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use trainyard_runtime::lasting;

/// What was left out since the task began, and what of it the job's log has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Reports of metrics.
    pub(super) metrics: u64,
    /// Lines and validation results that were sent by callbacks.
    pub(super) callbacks: u64,
    /// Of both, what was said last.
    pub(super) said: u64,
    /// How coarse it was then, see [`trainyard_core::thin::Coarse::level`]: what a life before has said is not said again.
    pub(super) level: u64,
}

/// The file of the counts, which is there once something was left out.
#[derive(Debug)]
pub(super) struct Left {
    path: PathBuf,
    file: Option<File>,
    noted: Counts,
}

impl Left {
    /// With what an earlier life has noted; what cannot be read counts for nothing.
    pub(super) fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let numbers: Option<Vec<u64>> = text
            .split_whitespace()
            .map(|one| one.parse().ok())
            .collect();
        let noted = match numbers.as_deref() {
            // Agents before this one did not note the level.
            Some(&[metrics, callbacks, said, ref level @ ..]) if level.len() <= 1 => Counts {
                metrics,
                callbacks,
                said,
                level: level.first().copied().unwrap_or_default(),
            },
            _ => Counts::default(),
        };
        Self {
            path,
            file: None,
            noted,
        }
    }

    /// What is noted.
    pub(super) const fn counts(&self) -> Counts {
        self.noted
    }

    /// Notes the counts, if they are others. What the disk refuses is noted with the next ones.
    pub(super) fn note(&mut self, counts: Counts) {
        if counts == self.noted {
            return;
        }
        let Counts {
            metrics,
            callbacks,
            said,
            level,
        } = counts;
        let note = format!("{metrics:<20} {callbacks:<20} {said:<20} {level:<20}\n");
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let (path, file) = (&self.path, &mut self.file);
        let noted = lasting(path, note.as_bytes(), |bytes| {
            let open = match file.take() {
                Some(open) => open,
                None => options.open(path)?,
            };
            file.insert(open).write_all_at(bytes, 0)
        });
        match noted {
            Ok(()) => self.noted = counts,
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "what was left out cannot be noted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use trainyard_core::record::{LogLine, Record};

    use super::super::{
        TaskSpool,
        tests::{place, progress},
    };
    use super::*;

    /// What the job's log was told last.
    fn last_words(spool: &mut TaskSpool) -> String {
        let mut last = String::new();
        for spooled in spool.unsent_after(0, usize::MAX, u64::MAX).unwrap() {
            if let Record::Log(LogLine { text, .. }) = spooled.record {
                last = text;
            }
        }
        last
    }

    fn opened(path: &std::path::Path) -> TaskSpool {
        let mut spool = TaskSpool::open(path).unwrap();
        spool.room = 2_000;
        spool
    }

    #[test]
    fn what_was_left_out_is_counted_across_the_lives_of_the_agent_and_said_once() {
        let (folder, path) = place();
        let mut out = 0;
        for life in 0..3 {
            let mut spool = opened(&path);
            for epoch in 0..100 {
                let told = spool
                    .append_once(&[(progress(life * 100 + epoch), None)])
                    .unwrap();
                out += u64::from(told == super::super::Appended::LeftOut);
            }
            spool.sync().unwrap();
        }
        assert!(
            out > 100,
            "{out}: two lives began in the middle of an outage"
        );
        // What a life before has not come to say is said with the last word.
        let mut spool = opened(&path);
        let last = (Record::Completion(Default::default()), None);
        spool.append_once(&[last]).unwrap();
        spool.sync().unwrap();
        let words = last_words(&mut spool);
        let counts = Left::read(folder.path().join("spool.left")).counts();
        assert_eq!(counts.said, counts.metrics);
        assert!(counts.metrics >= out, "{counts:?} of {out}");
        let far = format!("{} reports of metrics were left out so far", counts.metrics);
        assert!(words.ends_with(&far), "{words}");
        // When all is kept again it is said once more, and then never again.
        for (epoch, said) in [(301, 1), (302, 0)] {
            let lines = spool.last_seq();
            drop(spool);
            spool = opened(&path);
            spool.ack(lines).unwrap();
            spool.append_once(&[(progress(epoch), None)]).unwrap();
            spool.sync().unwrap();
            assert_eq!(spool.last_seq(), lines + 1 + said);
        }
    }

    /// An outage has begun in an earlier life, in which so many reports were made, and this one has not heard of any yet.
    fn in_an_outage(path: &std::path::Path, reports: u32) -> (TaskSpool, String) {
        let mut spool = opened(path);
        for epoch in 0..reports {
            spool.append_once(&[(progress(epoch), None)]).unwrap();
        }
        spool.sync().unwrap();
        drop(spool);
        let mut spool = opened(path);
        let words = last_words(&mut spool);
        (spool, words)
    }

    #[test]
    fn what_was_left_out_is_said_in_full_when_the_outage_ends_before_the_next_report_to_a_new_agent()
     {
        for notes_levels in [true, false] {
            let (folder, path) = place();
            let (mut spool, before) = in_an_outage(&path, 300);
            let note = folder.path().join("spool.left");
            let counts = Left::read(note.clone()).counts();
            assert!(counts.said < counts.metrics, "{before}");
            if !notes_levels {
                // As older agents did.
                let text = fs::read_to_string(&note).unwrap();
                let three: Vec<_> = text.split_whitespace().take(3).collect();
                fs::write(&note, three.join(" ")).unwrap();
                spool = opened(&path);
            }
            spool.ack(spool.last_seq()).unwrap();
            spool.append_once(&[(progress(300), None)]).unwrap();
            spool.sync().unwrap();
            let all = counts.metrics;
            let words = format!(
                "the coordinator takes everything again; {all} reports of metrics were left out so far"
            );
            assert_eq!(last_words(&mut spool), words);
            let lines = spool.last_seq();
            drop(spool);
            let mut spool = opened(&path);
            spool.ack(lines).unwrap();
            spool.append_once(&[(progress(301), None)]).unwrap();
            spool.sync().unwrap();
            assert_eq!(spool.last_seq(), lines + 1, "it is said once");
        }
    }

    #[test]
    fn how_coarse_it_is_is_not_said_anew_by_each_agent_that_begins_in_the_same_outage() {
        let (_folder, path) = place();
        let (mut spool, before) = in_an_outage(&path, 300);
        assert!(before.contains("left out so far"), "{before}");
        for life in 1..4 {
            let lines = spool.last_seq();
            spool.append_once(&[(progress(300 + life), None)]).unwrap();
            spool.sync().unwrap();
            assert_eq!(spool.last_seq(), lines, "{}", last_words(&mut spool));
            drop(spool);
            spool = opened(&path);
        }
    }

    #[test]
    fn counts_that_are_torn_or_cannot_be_noted_hold_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.left");
        let counts = Counts {
            metrics: 3,
            callbacks: 20,
            said: 23,
            level: 63,
        };
        Left::read(path.clone()).note(counts);
        assert_eq!(Left::read(path.clone()).counts(), counts);
        fs::write(&path, "3   2").unwrap();
        let mut torn = Left::read(path.clone());
        assert_eq!(torn.counts(), Counts::default());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        torn.note(counts);
        assert_eq!(torn.counts(), Counts::default());
        fs::remove_dir(&path).unwrap();
        torn.note(counts);
        assert_eq!(Left::read(path).counts(), counts);
    }
}
