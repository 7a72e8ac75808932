//! Columns of numbers as bytes.
//!
//! Owns the choice between a few numbers as they are and many packed by pco, and columns with gaps. Never changes a bit
//! of a number. Used by the blocks.

use pco::{
    ChunkConfig,
    data_types::Number,
    standalone::{simple_compress, simple_decompress},
};
use serde::{Deserialize, Serialize};

use crate::store::{codec::Place, error::ReadError};

/// Below so many, what pco notes about a sequence takes more than it saves.
const FEW: usize = 24;

/// Numbers of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Numbers<T> {
    /// As they are.
    Few(Vec<T>),
    /// Packed.
    Many(Vec<u8>),
}

impl<T: Number> Numbers<T> {
    pub(super) fn pack(place: Place<'_>, numbers: Vec<T>) -> Result<Self, ReadError> {
        if numbers.len() < FEW {
            return Ok(Self::Few(numbers));
        }
        let packed = simple_compress(&numbers, &ChunkConfig::default());
        Ok(Self::Many(packed.map_err(|error| place.decode(error))?))
    }

    pub(super) fn unpack(self, place: Place<'_>) -> Result<Vec<T>, ReadError> {
        match self {
            Self::Few(numbers) => Ok(numbers),
            Self::Many(packed) => simple_decompress(&packed).map_err(|error| place.decode(error)),
        }
    }

    /// As many as there are rows.
    pub(super) fn whole(self, place: Place<'_>, rows: usize) -> Result<Vec<T>, ReadError> {
        let numbers = self.unpack(place)?;
        if numbers.len() == rows {
            return Ok(numbers);
        }
        let words = format!("a column of {} for {rows} rows", numbers.len());
        Err(place.decode(words))
    }
}

/// Numbers of some rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Gapped<T> {
    /// Which rows; none for all of them.
    rows: Option<Numbers<u32>>,
    numbers: Numbers<T>,
}

impl<T: Number> Gapped<T> {
    /// By row, ascending.
    pub(super) fn pack(
        place: Place<'_>,
        of: usize,
        found: Vec<(u32, T)>,
    ) -> Result<Self, ReadError> {
        let everywhere = found.len() == of;
        let (rows, numbers): (Vec<u32>, Vec<T>) = found.into_iter().unzip();
        let rows = (!everywhere).then(|| Numbers::pack(place, rows));
        Ok(Self {
            rows: rows.transpose()?,
            numbers: Numbers::pack(place, numbers)?,
        })
    }

    /// One a row.
    pub(super) fn unpack(self, place: Place<'_>, of: usize) -> Result<Vec<Option<T>>, ReadError> {
        let Some(rows) = self.rows else {
            let numbers = self.numbers.whole(place, of)?;
            return Ok(numbers.into_iter().map(Some).collect());
        };
        let rows = rows.unpack(place)?;
        let numbers = self.numbers.whole(place, rows.len())?;
        let mut all = vec![None; of];
        for (row, number) in rows.into_iter().zip(numbers) {
            let at = usize::try_from(row).ok().and_then(|row| all.get_mut(row));
            let at = at.ok_or_else(|| place.decode(format_args!("row {row} of {of}")))?;
            *at = Some(number);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place {
        table: "t",
        key: &"k",
    };

    fn bits(numbers: &[f64]) -> Vec<u64> {
        numbers.iter().map(|number| number.to_bits()).collect()
    }

    #[test]
    fn every_bit_of_a_number_comes_back_however_many_there_are() {
        let odd = [
            f64::NAN,
            f64::from_bits(0x7ff8_0000_dead_beef),
            -0.0,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE / 3.0,
            0.1,
        ];
        for count in [0, 1, FEW - 1, FEW, 5_000] {
            let numbers: Vec<f64> = odd.iter().copied().cycle().take(count).collect();
            let packed = Numbers::pack(HERE, numbers.clone()).unwrap();
            assert_eq!(bits(&packed.unpack(HERE).unwrap()), bits(&numbers));
        }
    }

    #[test]
    fn values_that_were_once_short_floats_take_no_more_than_those() {
        let curve = (1_u16..2_000).map(|n| f64::from(1.0_f32 / f32::from(n)));
        let packed = Numbers::pack(HERE, curve.collect()).unwrap();
        let Numbers::Many(bytes) = packed else {
            panic!("as they are")
        };
        assert!(bytes.len() < 2_000 * 4, "{} bytes", bytes.len());
    }

    #[test]
    fn a_column_with_gaps_has_them_where_they_were_and_a_wrong_length_is_an_error() {
        let found = vec![(1, 10_u64), (4, 40)];
        let packed = Gapped::pack(HERE, 5, found).unwrap();
        let all = packed.clone().unpack(HERE, 5).unwrap();
        assert_eq!(all, [None, Some(10), None, None, Some(40)]);
        assert!(packed.unpack(HERE, 4).is_err());
        let full = Gapped::pack(HERE, 2, vec![(0, 1_u64), (1, 2)]).unwrap();
        assert!(full.rows.is_none());
        assert!(full.unpack(HERE, 3).is_err());
    }
}
