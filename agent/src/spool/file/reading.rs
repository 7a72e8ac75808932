//! Reading what the coordinator does not have yet: from the nearest known place on, and no further than is safe on disk.
//!
//! Part of the spool's file, asked by the sender; how frames are read is shared with its opening.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use super::super::error::SpoolError;
use super::super::frame::{self, Next, Spooled};
use super::TaskSpool;

impl TaskSpool {
    /// Records on disk that follow number `seq`, in order: at most `max_records`, and as many as fit
    /// into `max_bytes`, but at least one when there is one.
    pub fn unsent_after(
        &mut self,
        seq: u64,
        max_records: usize,
        max_bytes: u64,
    ) -> Result<Vec<Spooled>, SpoolError> {
        let mut found = Vec::new();
        // What is before was acknowledged, and may not be there any more.
        let seq = seq.max(self.base.0);
        if seq >= self.durable.last_seq {
            return Ok(found);
        }
        let (mut next, mut place) = self.place_near(seq + 1);
        let mut reader = reader_at(&self.reader, &self.path, place)?;
        let mut bytes = 0;
        while next <= self.durable.last_seq && found.len() < max_records {
            let (spooled, size) = match self.read_next(&mut reader)? {
                Next::Frame(spooled, size) if spooled.seq == next => (spooled, size),
                Next::Newer => return Err(self.newer(place, next)),
                Next::Frame(..) | Next::End | Next::Bad => return Err(self.damaged(place, next)),
            };
            if next > seq {
                bytes += size;
                if bytes > max_bytes && !found.is_empty() {
                    break;
                }
                found.push(*spooled);
            }
            next += 1;
            place += size;
        }
        self.cursor = (next, place);
        Ok(found)
    }

    /// The nearest known place at or before record `seq`.
    pub(super) fn place_near(&self, seq: u64) -> (u64, u64) {
        if self.cursor.0 == seq {
            return self.cursor;
        }
        let before = self.index.partition_point(|(known, _)| *known <= seq);
        let known = before.checked_sub(1).and_then(|at| self.index.get(at));
        let (marked, place) = self.base;
        known.copied().unwrap_or((marked + 1, place))
    }

    pub(super) fn read_next(&self, reader: &mut impl Read) -> Result<Next, SpoolError> {
        frame::read(reader).map_err(|source| SpoolError::from_io("read", &self.path, source))
    }
}

pub(super) fn reader_at(
    file: &File,
    path: &Path,
    place: u64,
) -> Result<BufReader<File>, SpoolError> {
    let open = || {
        let mut file = file.try_clone()?;
        file.seek(SeekFrom::Start(place))?;
        Ok(BufReader::with_capacity(64 << 10, file))
    };
    open().map_err(|source| SpoolError::from_io("read", path, source))
}
