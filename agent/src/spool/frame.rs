//! One record as bytes: `[len u24][version u8][crc32 u32][postcard (seq, source offset, record)][postcard Option<Part>]`,
//! numbers little-endian. Never touches a file by itself. Called by `file`.
//!
//! The version is each record's own, since a task outlives the agent that began its spool. It is 0 for all records so far,
//! where there was a length of 32 bits before; [`VERSION`] is raised with each change of a record's form, and older forms
//! are read on. What stays in all of them: the header, a checksum over version (unless it is 0) and body, and a body that
//! begins with the record's number. So an older agent tells a record of a newer one from a damaged one. What follows the record
//! in its body is not minded by an older agent, as a new field of a JSON file is not: whose line it is stands there, of those
//! that are known again, and nothing with others.

use std::io::{self, Read};

use trainyard_core::record::Record;

use super::error::SpoolError;
use super::file::Part;

/// Length and checksum.
pub(super) const HEADER: usize = 8;
/// Larger than any body the callback endpoint takes; what three bytes count.
pub(super) const MOST_BYTES: usize = (16 << 20) - 1;
/// The form of the records that are written.
const VERSION: u8 = 0;

/// A record with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Spooled {
    /// From 1, without gaps.
    pub seq: u64,
    /// Where the trainer's output goes on after this line; `None` for all but lines of output.
    pub source_offset: Option<u64>,
    /// What the task told.
    pub record: Record,
    /// The body that it came with, where it is a line of one that is known again.
    pub part: Option<Part>,
}

/// What stands at a place of the file.
#[derive(Debug)]
pub(super) enum Next {
    /// A good record and its size with the header.
    Frame(Box<Spooled>, u64),
    /// The end, after a whole record.
    End,
    /// A whole record of a form that only a newer agent knows.
    Newer,
    /// None of these: cut off or damaged.
    Bad,
}

/// Adds a record to `out`.
pub(super) fn encode(
    seq: u64,
    (record, source_offset): (&Record, Option<u64>),
    part: Option<Part>,
    out: &mut Vec<u8>,
) -> Result<(), SpoolError> {
    let mut body = postcard::to_stdvec(&(seq, source_offset, record))?;
    if part.is_some() {
        body = postcard::to_extend(&part, body)?;
    }
    if body.len() > MOST_BYTES {
        return Err(SpoolError::TooLarge {
            bytes: body.len(),
            limit: MOST_BYTES,
        });
    }
    put(VERSION, &body, out);
    Ok(())
}

/// Adds header and body to `out`.
pub(super) fn put(version: u8, body: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let [low, middle, high, _] = len.to_le_bytes();
    out.extend_from_slice(&[low, middle, high, version]);
    out.extend_from_slice(&checksum(version, body).to_le_bytes());
    out.extend_from_slice(body);
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if version != 0 {
        hasher.update(&[version]);
    }
    hasher.update(body);
    hasher.finalize()
}

/// Reads the record that starts where `reader` stands.
pub(super) fn read(reader: &mut impl Read) -> io::Result<Next> {
    let mut header = Vec::with_capacity(HEADER);
    reader
        .by_ref()
        .take(HEADER as u64)
        .read_to_end(&mut header)?;
    if header.is_empty() {
        return Ok(Next::End);
    }
    let Some((len, version, crc)) = split_header(&header) else {
        return Ok(Next::Bad);
    };
    let mut body = Vec::new();
    reader.by_ref().take(len as u64).read_to_end(&mut body)?;
    if body.len() < len || checksum(version, &body) != crc {
        return Ok(Next::Bad);
    }
    if version > VERSION {
        return Ok(Next::Newer);
    }
    // As it was written, and not to be understood: also that is the work of another agent and not of the disk.
    let Ok(((seq, source_offset, record), behind)) = postcard::take_from_bytes(&body) else {
        return Ok(Next::Newer);
    };
    let spooled = Spooled {
        seq,
        source_offset,
        record,
        part: postcard::from_bytes(behind).unwrap_or_default(),
    };
    Ok(Next::Frame(Box::new(spooled), (HEADER + len) as u64))
}

/// Whether a whole record numbered above `last` stands anywhere in `bytes`.
pub(super) fn any_after(bytes: &[u8], last: u64) -> bool {
    (0..bytes.len()).any(|start| {
        let rest = bytes.get(start..).unwrap_or_default();
        let Some((len, version, crc)) = split_header(rest) else {
            return false;
        };
        let Some(body) = rest.get(HEADER..HEADER + len) else {
            return false;
        };
        // The number is looked at first: it is cheap and rules out nearly every place.
        let plausible = postcard::take_from_bytes::<u64>(body)
            .is_ok_and(|(seq, _)| seq > last && seq - last <= bytes.len() as u64);
        plausible && checksum(version, body) == crc
    })
}

fn split_header(bytes: &[u8]) -> Option<(usize, u8, u32)> {
    let ([low, middle, high, version], rest) = bytes.split_first_chunk::<4>()?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes([*low, *middle, *high, 0])).ok()?;
    (len > 0).then(|| (len, *version, u32::from_le_bytes(*crc)))
}

/// A body of another kind with a header of this kind; `None` when it is too large.
pub(super) fn sealed(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() > MOST_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    put(0, body, &mut bytes);
    Some(bytes)
}

/// The body of the first of these, if it is whole, and what follows it.
pub(super) fn opened(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, version, crc) = split_header(bytes)?;
    let (body, behind) = bytes.get(HEADER..)?.split_at_checked(len)?;
    (checksum(version, body) == crc).then_some((body, behind))
}
