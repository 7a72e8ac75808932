//! Lines of logs in blocks.
//!
//! Owns their columns: one block is unpacked as a whole, so whoever seals keeps it small. Used through `Kept`.

use serde::{Deserialize, Serialize};
use trainyard_core::{
    ids::AttemptNo,
    record::{LogLine, LogStream},
    time::Timestamp,
};

use super::{Kept, Packed, Unpacked, numbers::Numbers};
use crate::store::{
    codec::{self, Place},
    error::ReadError,
    tables::{LOGS, Source},
};

#[derive(Serialize, Deserialize)]
struct Stored {
    attempt: AttemptNo,
    ids: Numbers<u64>,
    at: Numbers<i64>,
    streams: Vec<LogStream>,
    levels: Vec<String>,
    texts: Vec<String>,
}

/// Lines that are unpacked.
pub(in crate::store) struct LinesBlock {
    at: Vec<i64>,
    streams: Vec<LogStream>,
    levels: Vec<String>,
    texts: Vec<String>,
}

impl Kept for LogLine {
    type Block = LinesBlock;

    fn pack(
        place: Place<'_>,
        attempt: AttemptNo,
        rows: Vec<(u64, Self)>,
    ) -> Result<Packed, ReadError> {
        let (ids, lines): (Vec<u64>, Vec<Self>) = rows.into_iter().unzip();
        let at = lines.iter().map(|line| line.at.0).collect();
        let streams = lines.iter().map(|line| line.stream).collect();
        let (levels, texts) = lines
            .into_iter()
            .map(|line| (line.level, line.text))
            .unzip();
        let stored = Stored {
            attempt,
            ids: Numbers::pack(place, ids)?,
            at: Numbers::pack(place, at)?,
            streams,
            levels,
            texts,
        };
        Ok(Packed {
            body: codec::to_block(place, &stored)?,
            columns: Vec::new(),
        })
    }

    fn unpack(
        _source: &impl Source,
        first: u64,
        body: &[u8],
    ) -> Result<Unpacked<LinesBlock>, ReadError> {
        let place = Place {
            table: LOGS.name,
            key: &first,
        };
        let stored: Stored = codec::from_block(place, body)?;
        let ids = stored.ids.unpack(place)?;
        let block = LinesBlock {
            at: stored.at.whole(place, ids.len())?,
            streams: stored.streams,
            levels: stored.levels,
            texts: stored.texts,
        };
        let lengths = [block.streams.len(), block.levels.len(), block.texts.len()];
        if lengths.iter().any(|length| *length != ids.len()) {
            return Err(place.decode("its columns are not of one length"));
        }
        Ok(Unpacked {
            attempt: stored.attempt,
            ids,
            block,
        })
    }

    fn row(block: &LinesBlock, index: usize) -> Option<Self> {
        Some(Self {
            at: Timestamp(*block.at.get(index)?),
            stream: *block.streams.get(index)?,
            level: block.levels.get(index)?.clone(),
            text: block.texts.get(index)?.clone(),
        })
    }
}
