//! Sealed blocks: rows by columns, compressed.
//!
//! Owns how rows become a block and rows again, the same to the last bit. Never touches a table but for the columns of
//! a block that is read. Used by `series` and `seal`.

mod lines;
mod numbers;
mod points;

use redb::ReadableTable as _;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

use trainyard_core::ids::{AttemptNo, Rank};

pub(super) use points::each_value;

use super::{
    codec::{BlockBytes, Place, Ranks},
    error::ReadError,
    page::Sizable,
    tables::{COLUMNS, Source},
};

/// A kind of row that is kept in chunks and sealed into blocks.
pub(super) trait Kept: Sizable + Serialize + DeserializeOwned + 'static {
    /// A block that is unpacked; its rows are made when they are asked for.
    type Block: 'static;

    /// Rows of one attempt by ascending ids, as one block.
    fn pack(
        place: Place<'_>,
        attempt: AttemptNo,
        rows: Vec<(u64, Rank, Self)>,
    ) -> Result<Packed, ReadError>;

    /// What a block that begins with the row `first` holds.
    fn unpack(
        source: &impl Source,
        first: u64,
        body: BlockBytes<'_>,
    ) -> Result<Unpacked<Self::Block>, ReadError>;

    /// The row at this place of the block.
    fn row(block: &Self::Block, index: usize) -> Option<Self>;
}

/// A block as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// What the table of chunks holds.
    pub(super) body: Vec<u8>,
    /// Metrics that stand apart, by name.
    pub(super) columns: Vec<(String, Vec<u8>)>,
}

/// A block that is read.
pub(super) struct Unpacked<B> {
    pub(super) attempt: AttemptNo,
    /// Of which rank each row is.
    pub(super) ranks: RanksOf,
    /// One a row, ascending.
    pub(super) ids: Vec<u64>,
    pub(super) block: B,
}

/// Of which rank each row of a block is. Nearly all are of rank 0.
pub(super) struct RanksOf(BTreeMap<usize, Rank>);

impl RanksOf {
    fn read(ranks: Ranks) -> Self {
        let ranks = ranks.into_iter();
        let ranks =
            ranks.map(|(row, rank)| (usize::try_from(row).unwrap_or(usize::MAX), Rank(rank)));
        Self(ranks.collect())
    }

    pub(super) fn of(&self, row: usize) -> Rank {
        self.0.get(&row).copied().unwrap_or(Rank(0))
    }
}

/// The ranks of rows that are not of rank 0.
fn ranks_of<T>(place: Place<'_>, rows: &[(u64, Rank, T)]) -> Result<Ranks, ReadError> {
    let others = rows.iter().enumerate();
    let others = others.filter(|(_, (_, rank, _))| *rank != Rank(0));
    others
        .map(|(n, (_, rank, _))| Ok((index(place, n)?, rank.0)))
        .collect()
}

/// The column of a block, as it is stored.
fn column<T>(
    source: &impl Source,
    (first, name): (u64, &str),
    read: impl FnOnce(Place<'_>, &[u8]) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let key = format!("{first}/{name}");
    let place = Place {
        table: "point_columns",
        key: &key,
    };
    let table = source.table(COLUMNS)?;
    match table.get((first, name))? {
        Some(bytes) => read(place, bytes.value()),
        None => Err(place.decode("its block names it, and it is not there")),
    }
}

/// A place in a column, or how many places there are: blocks are far smaller.
fn index(place: Place<'_>, n: usize) -> Result<u32, ReadError> {
    u32::try_from(n).map_err(|error| place.decode(error))
}
