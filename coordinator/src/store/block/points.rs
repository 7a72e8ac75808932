//! Points in blocks: a spine, and a column a metric.
//!
//! Owns which metrics stand in a column of their own: those with many values in the block. Used through `Kept`, and by
//! whoever wants one metric alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trainyard_core::{
    ids::{AttemptNo, Rank},
    record::{Checkpoint, Progress},
    time::Timestamp,
};

use super::{
    Kept, Packed, RanksOf, Unpacked, column, index,
    numbers::{Gapped, Numbers},
    ranks_of,
};
use crate::store::{
    Sample,
    codec::{self, BlockBytes, Place},
    error::ReadError,
    tables::{POINTS, Source},
};

/// Values below which a metric makes no column.
const FEW: usize = 32;
/// One value in so many points at least makes a column.
const SELDOM: usize = 8;

#[derive(Serialize, Deserialize)]
struct Spine {
    attempt: AttemptNo,
    ids: Numbers<u64>,
    at: Numbers<i64>,
    epochs: Numbers<u32>,
    totals: Numbers<u32>,
    steps: Gapped<u64>,
    /// Rows whose report said that it had no metrics.
    bare: Vec<u32>,
    checkpoints: Vec<(u32, Checkpoint)>,
    best: Vec<(u32, Checkpoint)>,
    /// Metrics that have a column.
    names: Vec<String>,
    /// Values of the others, by row.
    rest: Vec<(u32, String, f64)>,
}

/// Points that are unpacked.
pub(in crate::store) struct PointsBlock {
    at: Vec<i64>,
    epochs: Vec<u32>,
    totals: Vec<u32>,
    steps: Vec<Option<u64>>,
    /// Of the rest one entry a row that has any.
    rest: BTreeMap<usize, Rest>,
    columns: Vec<(String, Vec<Option<f64>>)>,
}

/// What few rows have.
#[derive(Default)]
struct Rest {
    bare: bool,
    checkpoint: Option<Checkpoint>,
    best: Option<Checkpoint>,
    values: Vec<(String, f64)>,
}

/// By row.
#[derive(Default)]
struct Rests(BTreeMap<usize, Rest>);

impl Rests {
    fn of(&mut self, row: u32) -> &mut Rest {
        self.0.entry(at(row)).or_default()
    }
}

impl Kept for Progress {
    type Block = PointsBlock;

    fn pack(
        place: Place<'_>,
        attempt: AttemptNo,
        rows: Vec<(u64, Rank, Self)>,
    ) -> Result<Packed, ReadError> {
        let ranks = ranks_of(place, &rows)?;
        let count = rows.len();
        let mut metrics: BTreeMap<String, Vec<(u32, f64)>> = BTreeMap::new();
        let (mut bare, mut checkpoints, mut best) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ids, mut at) = (Vec::new(), Vec::new());
        let (mut epochs, mut totals, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for (n, (id, _, point)) in rows.into_iter().enumerate() {
            let row = index(place, n)?;
            ids.push(id);
            at.push(point.at.0);
            epochs.push(point.epoch);
            totals.push(point.total_epochs);
            steps.extend(point.step.map(|step| (row, step)));
            bare.extend((!point.has_metrics).then_some(row));
            checkpoints.extend(point.checkpoint.map(|checkpoint| (row, checkpoint)));
            best.extend(point.best_checkpoint.map(|checkpoint| (row, checkpoint)));
            for (name, value) in point.values {
                metrics.entry(name).or_default().push((row, value));
            }
        }
        let (columns, rest) = apart(place, count, metrics)?;
        let spine = Spine {
            attempt,
            ids: Numbers::pack(place, ids)?,
            at: Numbers::pack(place, at)?,
            epochs: Numbers::pack(place, epochs)?,
            totals: Numbers::pack(place, totals)?,
            steps: Gapped::pack(place, count, steps)?,
            bare,
            checkpoints,
            best,
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            rest,
        };
        Ok(Packed {
            body: codec::to_block(place, &ranks, &spine)?,
            columns,
        })
    }

    fn unpack(
        source: &impl Source,
        first: u64,
        body: BlockBytes<'_>,
    ) -> Result<Unpacked<PointsBlock>, ReadError> {
        let place = here(&first);
        let (ranks, spine): (_, Spine) = codec::from_block(place, body)?;
        let ids = spine.ids.unpack(place)?;
        let count = ids.len();
        let mut columns = Vec::with_capacity(spine.names.len());
        for name in spine.names {
            let values = metric(source, (first, &name), count)?;
            columns.push((name, values));
        }
        let mut rest = Rests::default();
        for row in spine.bare {
            rest.of(row).bare = true;
        }
        for (row, checkpoint) in spine.checkpoints {
            rest.of(row).checkpoint = Some(checkpoint);
        }
        for (row, checkpoint) in spine.best {
            rest.of(row).best = Some(checkpoint);
        }
        for (row, name, value) in spine.rest {
            rest.of(row).values.push((name, value));
        }
        let block = PointsBlock {
            at: spine.at.whole(place, count)?,
            epochs: spine.epochs.whole(place, count)?,
            totals: spine.totals.whole(place, count)?,
            steps: spine.steps.unpack(place, count)?,
            rest: rest.0,
            columns,
        };
        Ok(Unpacked {
            attempt: spine.attempt,
            ranks: RanksOf::read(ranks),
            ids,
            block,
        })
    }

    fn row(block: &PointsBlock, index: usize) -> Option<Self> {
        let rest = block.rest.get(&index);
        let mut values: BTreeMap<String, f64> = BTreeMap::new();
        for (name, column) in &block.columns {
            if let Some(value) = column.get(index).copied().flatten() {
                values.insert(name.clone(), value);
            }
        }
        values.extend(rest.into_iter().flat_map(|rest| rest.values.clone()));
        Some(Self {
            at: Timestamp(*block.at.get(index)?),
            epoch: *block.epochs.get(index)?,
            total_epochs: *block.totals.get(index)?,
            step: *block.steps.get(index)?,
            values,
            has_metrics: !rest.is_some_and(|rest| rest.bare),
            checkpoint: rest.and_then(|rest| rest.checkpoint.clone()),
            best_checkpoint: rest.and_then(|rest| rest.best.clone()),
        })
    }
}

/// Metrics that have a column, as they are stored.
type Columns = Vec<(String, Vec<u8>)>;
/// Values of metrics that make no column, by row.
type Few = Vec<(u32, String, f64)>;

/// Metrics with many values as columns, the values of the others by row.
fn apart(
    place: Place<'_>,
    count: usize,
    metrics: BTreeMap<String, Vec<(u32, f64)>>,
) -> Result<(Columns, Few), ReadError> {
    let (mut columns, mut rest) = (Vec::new(), Vec::new());
    for (name, found) in metrics {
        if found.len() < FEW || found.len() < count / SELDOM {
            let few = found.into_iter();
            rest.extend(few.map(|(row, value)| (row, name.clone(), value)));
            continue;
        }
        let column = Gapped::pack(place, count, found)?;
        columns.push((name, codec::to_column(place, &column)?));
    }
    rest.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    Ok((columns, rest))
}

/// Hands out the values of one metric of a block in order while `take` wants more; says whether it does. Reads
/// the spine and that column.
pub(in crate::store) fn each_value(
    source: &impl Source,
    (first, body, name): (u64, BlockBytes<'_>, &str),
    take: &mut impl FnMut(Sample) -> bool,
) -> Result<bool, ReadError> {
    let place = here(&first);
    let (ranks, spine): (_, Spine) = codec::from_block(place, body)?;
    let ranks = RanksOf::read(ranks);
    let ids = spine.ids.unpack(place)?;
    let count = ids.len();
    let values = if spine.names.iter().any(|known| known == name) {
        metric(source, (first, name), count)?
    } else {
        let mut values = vec![None; count];
        let few = spine.rest.iter().filter(|(_, known, _)| known == name);
        for (row, _, value) in few {
            if let Some(place) = values.get_mut(at(*row)) {
                *place = Some(*value);
            }
        }
        values
    };
    let epochs = spine.epochs.whole(place, count)?;
    let steps = spine.steps.unpack(place, count)?;
    let rows = ids.into_iter().zip(epochs).zip(steps).zip(values);
    for (n, (((id, epoch), step), value)) in rows.enumerate() {
        let sample = value.map(|value| Sample {
            id,
            attempt: spine.attempt,
            rank: ranks.of(n),
            epoch,
            step,
            value,
        });
        if sample.is_some_and(|sample| !take(sample)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn metric(
    source: &impl Source,
    key: (u64, &str),
    count: usize,
) -> Result<Vec<Option<f64>>, ReadError> {
    column(source, key, |place, bytes| {
        let stored: Gapped<f64> = codec::from_column(place, bytes)?;
        stored.unpack(place, count)
    })
}

fn here(first: &u64) -> Place<'_> {
    Place {
        table: POINTS.name,
        key: first,
    }
}

fn at(row: u32) -> usize {
    usize::try_from(row).unwrap_or(usize::MAX)
}
