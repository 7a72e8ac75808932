//! Leaves out reports of metrics, and at last callbacks of all kinds, by the rule of `core::thin`, and says so in the job's own log.
//!
//! Owns when something is said: as it becomes coarser, when all is kept again, and with the trainer's last word.
//! Called by `file`.

use trainyard_core::{
    record::{LogLine, LogStream, Record},
    thin::{Coarse, Thinning},
};

use super::left::Counts;
use crate::clock;

#[derive(Clone, Debug)]
pub(super) struct Thinner {
    thinning: Thinning,
    /// What was said last.
    said: (Coarse, u64),
}

type Records = Vec<(Record, Option<u64>)>;

impl Thinner {
    /// One that goes on counting what earlier lives of the agent have left out, and from what they have said.
    pub(super) fn after(counts: Counts) -> Self {
        let mut level = counts.level;
        if counts.said < counts.metrics + counts.callbacks {
            // Something is still to be said when all is kept again, also where the note does not know how coarse it was.
            level = level.max(1);
        }
        Self {
            thinning: Thinning::after(counts.metrics, counts.callbacks),
            said: (Coarse::of_level(level), counts.said),
        }
    }

    /// What was left out so far.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            metrics: self.thinning.left_out(),
            callbacks: self.thinning.unsaid(),
            said: self.said.1,
            level: self.said.0.level(),
        }
    }

    /// The records that are kept, and a line for the job's log when there is something to say. `room` is in bytes.
    pub(super) fn sift(
        &mut self,
        records: &[(Record, Option<u64>)],
        (coarse, room): (Coarse, u64),
    ) -> (Records, Option<Record>) {
        let is_kept = |record: &&(Record, Option<u64>)| match &record.0 {
            Record::Progress(report) => self.thinning.keeps(report, coarse),
            Record::Validation { .. } => self.thinning.keeps_callback(coarse),
            Record::Log(line) if line.stream == LogStream::Callback => {
                self.thinning.keeps_callback(coarse)
            }
            Record::Completion(_) | Record::Log(_) | Record::Stored(_) => true,
        };
        let kept = records.iter().filter(is_kept).cloned().collect();
        let is_last = |(record, _): &(Record, _)| matches!(record, Record::Completion(_));
        let note = self.note((coarse, room), records.iter().any(is_last));
        (kept, note.map(line))
    }

    fn note(&mut self, (coarse, room): (Coarse, u64), is_last: bool) -> Option<String> {
        let (before, told) = self.said;
        let (left_out, unsaid) = (self.thinning.left_out(), self.thinning.unsaid());
        let all = left_out + unsaid;
        let news =
            coarse > before || (coarse.is_whole() && !before.is_whole()) || (is_last && all > told);
        if !news {
            return None;
        }
        self.said = (coarse, all);
        let mut far = format!("{left_out} reports of metrics were left out so far");
        if unsaid > 0 {
            let more = format!(", and {unsaid} lines and validation results that it sent");
            far.push_str(&more);
        }
        if coarse.is_whole() {
            return (all > 0).then(|| format!("the coordinator takes everything again; {far}"));
        }
        if coarse.is_full() {
            let besides = match coarse.is_over() {
                true => "nor is one that names a checkpoint, of which there were too many",
                false => "reports of checkpoints and of the last epoch are",
            };
            return Some(format!(
                "the coordinator has not taken what this task tells for so long that the {} MiB for it (node.spool_mib) are used up: no report of metrics is kept until it does, and no line or validation result that the trainer sends; {besides}, and what it prints waits in its own file; {far}",
                room >> 20
            ));
        }
        let (steps, epochs) = (coarse.of_steps(), coarse.of_epochs());
        Some(format!(
            "the coordinator has not taken what this task tells for long, and of {} MiB for it (node.spool_mib) less than 1/{steps} is left: of {steps} reports within an epoch one is kept, of whole epochs 1 of {epochs}; lines, validation results and checkpoints are all kept; {far}",
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
