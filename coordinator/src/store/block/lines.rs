//! Lines of logs in blocks.
//!
//! Owns their columns: one block is unpacked as a whole, so whoever seals keeps it small. Used through `Kept`.

use serde::{Deserialize, Serialize};
use trainyard_core::{
    ids::{AttemptNo, Rank},
    record::{LogLine, LogStream},
    time::Timestamp,
};

use super::{Kept, Packed, RanksOf, Unpacked, numbers::Numbers, ranks_of};
use crate::store::{
    codec::{self, BlockBytes, Place},
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
        rows: Vec<(u64, Rank, Self)>,
    ) -> Result<Packed, ReadError> {
        let ranks = ranks_of(place, &rows)?;
        let rows = rows.into_iter().map(|(id, _, line)| (id, line));
        let (ids, lines): (Vec<u64>, Vec<Self>) = rows.unzip();
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
            body: codec::to_block(place, &ranks, &stored)?,
            columns: Vec::new(),
        })
    }

    fn unpack(
        _source: &impl Source,
        first: u64,
        body: BlockBytes<'_>,
    ) -> Result<Unpacked<LinesBlock>, ReadError> {
        let place = Place {
            table: LOGS.name,
            key: &first,
        };
        let (ranks, stored): (_, Stored) = codec::from_block(place, body)?;
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
            ranks: RanksOf::read(ranks),
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
