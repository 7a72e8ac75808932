//! How far a spool is delivered, which is noted beside it, and what becomes of the room of what was.
//!
//! Part of the spool's file, told by whoever hears the coordinator. What the disk refuses is done without: the next life
//! sends more than it must, and the file keeps its room.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use trainyard_runtime::lasting;

use super::super::error::SpoolError;
use super::TaskSpool;

impl TaskSpool {
    /// Notes that the coordinator keeps everything up to `seq`. The note may be lost in a crash, and is
    /// none while the disk refuses it: delivery goes on, and the next life sends more than it must.
    pub fn ack(&mut self, seq: u64) -> Result<(), SpoolError> {
        if seq <= self.acked || self.closed {
            return Ok(());
        }
        if seq > self.durable.last_seq {
            return Err(self.ack_ahead(seq));
        }
        if let Err(error) = self.note_ack(seq) {
            tracing::debug!(path = %self.ack_path.display(), %error, "an acknowledgement cannot be noted");
        }
        self.acked = seq;
        self.note_marks();
        Ok(())
    }

    /// Writes down the marks that are acknowledged. As with the note, what the disk refuses is done without.
    pub(super) fn note_marks(&mut self) {
        let mut newest = None;
        while let Some(mark) = self.unwritten.front().filter(|mark| mark.seq <= self.acked) {
            match self.marks.write(mark) {
                Ok(true) => newest = Some((mark.seq, mark.place)),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(path = %self.path.display(), %error, "how far a spool is delivered cannot be noted");
                    return;
                }
            }
            self.unwritten.pop_front();
        }
        let far =
            |(_, place): &(u64, u64)| place.saturating_sub(self.released) >= self.release_step;
        if let Some(base) = newest.filter(far) {
            self.release(base);
        }
    }

    /// Gives the room of what is before a mark back to the disk, once that mark is on it: a task that runs for days takes
    /// no more than it has to. Places stay what they are. A disk that cannot do that keeps all.
    fn release(&mut self, base: (u64, u64)) {
        let (file, marks) = (&self.reader, &self.marks);
        let released = lasting(&self.path, &[], |_| {
            marks.sync()?;
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(file, how, 0, base.1)?)
        });
        match released {
            Ok(()) => {
                self.released = base.1;
                self.base = base;
                self.index.retain(|(known, _)| *known > base.0);
            }
            Err(error) => {
                // Nor is it tried again: what a disk has failed to sync once it says to be on it the next time.
                self.released = u64::MAX;
                tracing::debug!(path = %self.path.display(), %error, "what was delivered keeps its room on the disk");
            }
        }
    }

    /// Over the last one, in one write of always the same length: it is seen whole by whoever opens the file.
    fn note_ack(&mut self, seq: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = match self.ack_file.take() {
            Some(file) => file,
            None => options
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.ack_path)?,
        };
        let note = format!("{seq:<20}\n");
        lasting(&self.ack_path, note.as_bytes(), |bytes| {
            file.write_all_at(bytes, 0)
        })?;
        self.ack_file = Some(file);
        Ok(())
    }
}
