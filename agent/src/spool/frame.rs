//! One record as bytes: `[len u32][crc32 u32][postcard (seq, source offset, record)]`, numbers
//! little-endian. Never touches a file by itself. Called by `file`.

use std::io::{self, Read};

use trainyard_core::record::Record;

use super::error::SpoolError;

/// Length and checksum.
pub(super) const HEADER: usize = 8;
/// Larger than any body the callback endpoint takes.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// A record with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Spooled {
    /// From 1, without gaps.
    pub seq: u64,
    /// Where the trainer's output goes on after this line; `None` for all but lines of output.
    pub source_offset: Option<u64>,
    /// What the task told.
    pub record: Record,
}

/// What stands at a place of the file.
#[derive(Debug)]
pub(super) enum Next {
    /// A good record and its size with the header.
    Frame(Box<Spooled>, u64),
    /// The end, after a whole record.
    End,
    /// Neither: cut off or damaged.
    Bad,
}

/// Adds a record to `out`.
pub(super) fn encode(
    seq: u64,
    source_offset: Option<u64>,
    record: &Record,
    out: &mut Vec<u8>,
) -> Result<(), SpoolError> {
    let body = postcard::to_stdvec(&(seq, source_offset, record))?;
    if body.len() > MOST_BYTES {
        return Err(SpoolError::TooLarge {
            bytes: body.len(),
            limit: MOST_BYTES,
        });
    }
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
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
    let Some((len, crc)) = split_header(&header) else {
        return Ok(Next::Bad);
    };
    let mut body = Vec::new();
    reader.by_ref().take(len as u64).read_to_end(&mut body)?;
    if body.len() < len || crc32fast::hash(&body) != crc {
        return Ok(Next::Bad);
    }
    let Ok((seq, source_offset, record)) = postcard::from_bytes(&body) else {
        return Ok(Next::Bad);
    };
    let spooled = Spooled {
        seq,
        source_offset,
        record,
    };
    Ok(Next::Frame(Box::new(spooled), (HEADER + len) as u64))
}

/// Whether a whole record numbered above `last` stands anywhere in `bytes`.
pub(super) fn any_after(bytes: &[u8], last: u64) -> bool {
    (0..bytes.len()).any(|start| {
        let rest = bytes.get(start..).unwrap_or_default();
        let Some((len, crc)) = split_header(rest) else {
            return false;
        };
        let Some(body) = rest.get(HEADER..HEADER + len) else {
            return false;
        };
        // The number is looked at first: it is cheap and rules out nearly every place.
        let plausible = postcard::take_from_bytes::<u64>(body)
            .is_ok_and(|(seq, _)| seq > last && seq - last <= bytes.len() as u64);
        plausible && crc32fast::hash(body) == crc
    })
}

fn split_header(bytes: &[u8]) -> Option<(usize, u32)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    (1..=MOST_BYTES)
        .contains(&len)
        .then(|| (len, u32::from_le_bytes(*crc)))
}
