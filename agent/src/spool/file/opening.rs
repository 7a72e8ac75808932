//! What an agent finds in the spool of an earlier life: behind the last mark each record is read once, a torn end is cut off,
//! and what is damaged in the middle is refused.
//!
//! Called by the opening of a spool alone.

use std::fs;
use std::io::{self, Read as _};

use trainyard_runtime::lasting;

use super::super::error::SpoolError;
use super::super::frame::{self, Next};
use super::{Head, TaskSpool, reading::reader_at};

/// How far behind a bad record a good one is looked for.
const LOOK_AHEAD: u64 = 2 * frame::MOST_BYTES as u64;

impl TaskSpool {
    /// Begins behind what was acknowledged, if it is known what was there.
    pub(super) fn skip_marked(&mut self) -> Result<(), SpoolError> {
        let marks = self.marks.read();
        let marks =
            marks.map_err(|source| SpoolError::from_io("read the marks of", &self.path, source))?;
        let is_released = self.is_released()?;
        let Some(last) = marks.last() else {
            return if is_released {
                Err(self.damaged(0, 1))
            } else {
                Ok(())
            };
        };
        let mut reader = reader_at(&self.reader, &self.path, last.place)?;
        let fits = match self.read_next(&mut reader)? {
            Next::Frame(spooled, _) => spooled.seq == last.seq + 1,
            Next::End => self.file_len()? == last.place,
            // Whoever reads it from its start says what is wrong with it, if anything; or from the mark, where nothing is
            // before that any more.
            Next::Newer | Next::Bad => is_released,
        };
        if !fits && is_released {
            return Err(self.damaged(last.place, last.seq + 1));
        }
        if !fits {
            tracing::warn!(path = %self.path.display(), "a mark does not fit the spool, which is read from its start");
            self.marks.forget();
            return Ok(());
        }
        self.head = Head {
            len: last.place,
            last_seq: last.seq,
            source_offset: last.source_offset,
            completed: last.completed,
        };
        self.base = (last.seq, last.place);
        self.acked = last.seq;
        self.marked = (last.seq, last.place);
        self.cursor = (last.seq + 1, last.place);
        for mark in marks {
            self.keys.extend(mark.keys);
            mark.bodies
                .into_iter()
                .for_each(|body| self.bodies.push(body));
        }
        Ok(())
    }

    /// Whether the disk has the room of the first records back.
    fn is_released(&self) -> Result<bool, SpoolError> {
        let mut header = [0; 8];
        let mut reader = reader_at(&self.reader, &self.path, 0)?;
        match reader.read_exact(&mut header) {
            // No record begins so: none is of no length.
            Ok(()) => Ok(header == [0; 8]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(SpoolError::from_io("read", &self.path, source)),
        }
    }

    fn file_len(&self) -> Result<u64, SpoolError> {
        let about = self.reader.metadata();
        about
            .map(|about| about.len())
            .map_err(|source| SpoolError::from_io("read", &self.path, source))
    }

    pub(super) fn scan(&mut self) -> Result<(), SpoolError> {
        let mut reader = reader_at(&self.reader, &self.path, self.head.len)?;
        loop {
            let place = self.head.len;
            match self.read_next(&mut reader)? {
                Next::Frame(spooled, size) if spooled.seq == self.head.last_seq + 1 => {
                    let of = (spooled.source_offset, spooled.part);
                    self.take_in(&spooled.record, of, place);
                    self.head.len += size;
                    self.settle();
                }
                Next::End => break,
                Next::Newer => return Err(self.newer(place, self.head.last_seq + 1)),
                Next::Frame(..) | Next::Bad => {
                    self.drop_tail()?;
                    break;
                }
            }
        }
        if self.head.len > 0 {
            lasting(&self.path, &[], |_| self.writer.sync_data())
                .map_err(|source| SpoolError::from_io("flush", &self.path, source))?;
        }
        self.settle();
        Ok(())
    }

    /// Cuts off what a crash left behind the last good record; refuses when good ones follow, or might: what is longer than
    /// is looked at is no torn end.
    fn drop_tail(&mut self) -> Result<(), SpoolError> {
        let place = self.head.len;
        let mut rest = Vec::new();
        reader_at(&self.reader, &self.path, place)?
            .take(LOOK_AHEAD)
            .read_to_end(&mut rest)
            .map_err(|source| SpoolError::from_io("read", &self.path, source))?;
        let torn = u64::try_from(rest.len()).is_ok_and(|length| length < LOOK_AHEAD);
        if !torn || frame::any_after(&rest, self.head.last_seq) {
            return Err(self.damaged(place, self.head.last_seq + 1));
        }
        tracing::warn!(path = %self.path.display(), bytes = rest.len(), "torn end of the spool dropped");
        lasting(&self.path, &[], |_| self.reader.set_len(place))
            .map_err(|source| SpoolError::from_io("shorten", &self.path, source))
    }

    pub(super) fn read_ack(&mut self) -> Result<(), SpoolError> {
        // A missing or half-written note only means that records are sent again.
        let acked = fs::read_to_string(&self.ack_path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        if acked > self.head.last_seq {
            return Err(self.ack_ahead(acked));
        }
        self.acked = self.acked.max(acked);
        Ok(())
    }
}
