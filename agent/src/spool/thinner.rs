//! Leaves out reports of metrics by the rule of `core::thin`, and says so in the job's own log.
//!
//! Owns when something is said: as it becomes coarser, when all is kept again, and with the trainer's last word.
//! Called by `file`.

use trainyard_core::{
    record::{LogLine, LogStream, Record},
    thin::{Coarse, Thinning},
};

use crate::clock;

#[derive(Clone, Debug, Default)]
pub(super) struct Thinner {
    thinning: Thinning,
    /// What was said last.
    said: (Coarse, u64),
}

type Records = Vec<(Record, Option<u64>)>;

impl Thinner {
    /// The records that are kept, and a line for the job's log when there is something to say. `room` is in bytes.
    pub(super) fn sift(
        &mut self,
        records: &[(Record, Option<u64>)],
        (coarse, room): (Coarse, u64),
    ) -> (Records, Option<Record>) {
        let is_kept = |record: &&(Record, Option<u64>)| match &record.0 {
            Record::Progress(report) => self.thinning.keeps(report, coarse),
            Record::Completion(_)
            | Record::Log(_)
            | Record::Stored(_)
            | Record::Validation { .. } => true,
        };
        let kept = records.iter().filter(is_kept).cloned().collect();
        let is_last = |(record, _): &(Record, _)| matches!(record, Record::Completion(_));
        let note = self.note((coarse, room), records.iter().any(is_last));
        (kept, note.map(line))
    }

    fn note(&mut self, (coarse, room): (Coarse, u64), is_last: bool) -> Option<String> {
        let (before, told) = self.said;
        let left_out = self.thinning.left_out();
        let news = coarse > before
            || (coarse.is_whole() && !before.is_whole())
            || (is_last && left_out > told);
        if !news {
            return None;
        }
        self.said = (coarse, left_out);
        let far = format!("{left_out} reports of metrics were left out so far");
        if coarse.is_whole() {
            return (left_out > 0)
                .then(|| format!("the coordinator takes everything again; {far}"));
        }
        if coarse.is_full() {
            return Some(format!(
                "the coordinator has not taken what this task tells for so long that the {} MiB for it (node.spool_mib) are used up: no report of metrics is kept until it does, lines and checkpoints are; {far}",
                room >> 20
            ));
        }
        let (steps, epochs) = (coarse.of_steps(), coarse.of_epochs());
        Some(format!(
            "the coordinator has not taken what this task tells for long, and of {} MiB for it (node.spool_mib) less than 1/{steps} is left: of {steps} reports within an epoch one is kept, of whole epochs 1 of {epochs}; lines and checkpoints are all kept; {far}",
            room >> 20
        ))
    }
}

fn line(text: String) -> Record {
    Record::Log(LogLine {
        at: clock::now(),
        stream: LogStream::System,
        level: "WARNING".to_owned(),
        text,
    })
}
