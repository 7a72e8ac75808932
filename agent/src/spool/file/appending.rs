//! How records come into a spool: all, or those that there is room for, or none where they are there already.
//!
//! Part of the spool's file. Nothing here waits for the disk.

use std::io::Write as _;

use trainyard_core::record::Record;
use trainyard_core::thin::Coarse;
use trainyard_runtime::lasting;

use super::super::error::SpoolError;
use super::super::frame;
use super::{Appended, TaskSpool, bodies, key};

impl TaskSpool {
    /// Writes the records, all or none, without waiting for the disk; returns the last number.
    pub fn append(&mut self, records: &[(Record, Option<u64>)]) -> Result<u64, SpoolError> {
        self.write(records, None)
    }

    /// As `append`; so many of the first ones are of the body of this identity.
    fn write(
        &mut self,
        records: &[(Record, Option<u64>)],
        body: Option<(u64, usize)>,
    ) -> Result<u64, SpoolError> {
        self.check()?;
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        let mut seq = self.head.last_seq;
        let part = |at| body.and_then(|body| bodies::part(body, at));
        for (at, (record, source_offset)) in records.iter().enumerate() {
            seq += 1;
            places.push(self.head.len + bytes.len() as u64);
            frame::encode(seq, (record, *source_offset), part(at), &mut bytes)?;
        }
        let writer = &mut self.writer;
        let written = lasting(&self.path, &bytes, |bytes| writer.write_all(bytes));
        if let Err(source) = written {
            self.cut(self.head.len);
            return Err(SpoolError::from_io("write", &self.path, source));
        }
        for (at, ((record, source_offset), place)) in records.iter().zip(places).enumerate() {
            self.take_in(record, (*source_offset, part(at)), place);
        }
        self.head.len += bytes.len() as u64;
        Ok(self.head.last_seq)
    }

    /// As `append`, unless the first record is a progress or completion that is there already.
    pub fn append_once(
        &mut self,
        records: &[(Record, Option<u64>)],
    ) -> Result<Appended, SpoolError> {
        let there = records.first().is_some_and(|(first, _)| match first {
            Record::Progress(progress) => self.keys.contains(&key(progress)),
            Record::Completion(_) => self.head.completed,
            Record::Log(_) | Record::Validation { .. } | Record::Stored(_) => false,
        });
        if there {
            return Ok(Appended::AlreadyThere);
        }
        self.append_sifted(records)
    }

    /// As `append`, without what there is no room for, see [`trainyard_core::thin`].
    pub fn append_sifted(
        &mut self,
        records: &[(Record, Option<u64>)],
    ) -> Result<Appended, SpoolError> {
        self.sifted(records, None)
    }

    fn sifted(
        &mut self,
        records: &[(Record, Option<u64>)],
        identity: Option<u64>,
    ) -> Result<Appended, SpoolError> {
        let coarse = Coarse::at(self.waiting(), self.room);
        let before = self.thinner.clone();
        let (kept, note) = self.thinner.sift(records, (coarse, self.room));
        let appended = if kept.is_empty() && note.is_none() {
            Ok(Appended::LeftOut)
        } else {
            let body = identity.map(|identity| (identity, kept.len()));
            let records = [kept, note.map(|line| (line, None)).into_iter().collect()].concat();
            self.write(&records, body).map(Appended::Stored)
        };
        if appended.is_err() {
            // Whoever hears of it comes again, with what was named and is to be said.
            self.thinner = before;
        }
        self.left.note(self.thinner.counts());
        appended
    }

    /// As `append_sifted`, unless the body of this identity is one of the last already. Of one whose end a crash has torn
    /// off, what is missing.
    pub fn append_body(
        &mut self,
        records: &[(Record, Option<u64>)],
        identity: u64,
    ) -> Result<Appended, SpoolError> {
        let left = self.bodies.left(identity);
        if left == Some(0) {
            return Ok(Appended::AlreadyThere);
        }
        let there = left.map_or(0, |left| records.len().saturating_sub(left));
        self.sifted(records.get(there..).unwrap_or(records), Some(identity))
    }
}
