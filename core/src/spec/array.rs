//! Arrays: one submission that makes a job for each of its indices.
//!
//! Owns the text in which the indices are written, and how many there may be. Which of them run is for `sched::gates`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ids::JobId, resources::format_bytes};

/// Jobs of one array.
pub const MOST: usize = 10_000;
/// What all specifications of an array may take together, in bytes.
const ALL_BYTES: usize = 64 << 20;

/// The place of a job in its array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayPlace {
    /// The array's number: that of its first job. The others follow it without gaps.
    pub id: JobId,
    /// Which of the indices it is.
    pub index: u32,
    /// How many jobs there are.
    pub size: u32,
    /// How many of them may run at once; any number without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u32>,
}

/// Which indices, and how many of them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indices {
    /// Ascending, each once.
    pub list: Vec<u32>,
    /// How many of their jobs may run at once.
    pub at_most: Option<u32>,
}

/// Why a text names no indices.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndicesError {
    /// It is not written so.
    #[error(
        "'{0}' are no indices; write for example 0-99, 1,3,7-9 or 0-99%5 for at most 5 at once"
    )]
    Syntax(String),
    /// One end before the other.
    #[error("{0} ends before it begins; write the lower index first")]
    Backwards(String),
    /// More than there may be.
    #[error("are more than {MOST}; submit several arrays")]
    TooMany,
    /// None may run.
    #[error("let none run at once; give at least 1 after %")]
    NoneAtOnce,
}

impl Indices {
    /// Reads `0-99`, `1,3,7-9`, `0-99%5`.
    ///
    /// # Errors
    /// Says what is wrong and how it is written.
    pub fn parse(text: &str) -> Result<Self, IndicesError> {
        let syntax = || IndicesError::Syntax(text.chars().take(100).collect());
        let number = |text: &str| -> Result<u32, IndicesError> {
            let digits = !text.is_empty() && text.bytes().all(|one| one.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            number.ok_or_else(syntax)
        };
        let (ranges, limit) = match text.split_once('%') {
            Some((ranges, limit)) => (ranges, Some(number(limit.trim())?)),
            None => (text, None),
        };
        if limit == Some(0) {
            return Err(IndicesError::NoneAtOnce);
        }
        let (mut list, mut all) = (BTreeSet::new(), 0_usize);
        for range in ranges.split(',').map(str::trim) {
            let (first, last) = match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(range)?, number(range)?),
            };
            if last < first {
                return Err(IndicesError::Backwards(range.to_owned()));
            }
            let size = usize::try_from(last - first).unwrap_or(usize::MAX);
            // Those that are named twice count twice: a long text would be long in reading.
            all = all.saturating_add(size).saturating_add(1);
            if all > MOST {
                return Err(IndicesError::TooMany);
            }
            list.extend(first..=last);
        }
        Ok(Self {
            list: list.into_iter().collect(),
            at_most: limit,
        })
    }

    /// How many jobs.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.list.len()).unwrap_or(u32::MAX)
    }

    /// The places of all jobs of an array whose first one has this number.
    pub fn places(&self, id: JobId) -> impl Iterator<Item = ArrayPlace> + '_ {
        let size = self.size();
        self.list.iter().map(move |index| ArrayPlace {
            id,
            index: *index,
            size,
            at_most: self.at_most,
        })
    }

    /// What is wrong when each job's specification takes so many bytes.
    pub(super) fn too_large(&self, row: usize) -> Option<String> {
        let all = self.list.len().saturating_mul(row);
        let shown = |bytes: usize| format_bytes(u64::try_from(bytes).unwrap_or(u64::MAX));
        (all > ALL_BYTES).then(|| {
            format!(
                "make {} jobs of {} each, and all may take {} together; put what is large into a file, or give fewer indices",
                self.list.len(),
                shown(row),
                shown(ALL_BYTES)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_numbers_and_ranges_with_a_limit() {
        let read = |text| Indices::parse(text).unwrap();
        assert_eq!(read("0-3").list, [0, 1, 2, 3]);
        assert_eq!(read("7, 1,3-4,3").list, [1, 3, 4, 7]);
        let limited = read("0-99%5");
        assert_eq!((limited.size(), limited.at_most), (100, Some(5)));
        let places: Vec<_> = read("2,5").places(JobId(9)).collect();
        assert!(
            places
                .iter()
                .all(|place| (place.id, place.size) == (JobId(9), 2))
        );
        assert_eq!(
            places.iter().map(|place| place.index).collect::<Vec<_>>(),
            [2, 5]
        );
        assert_eq!(read("0-9999").size(), 10_000);
    }

    #[test]
    fn what_are_no_indices_is_refused_with_the_way_out() {
        for (text, words) in [
            ("", "write for example"),
            ("a-b", "write for example"),
            ("1-", "write for example"),
            ("+1", "write for example"),
            ("1-2%", "write for example"),
            ("9-3", "the lower index first"),
            ("0-9%0", "at least 1"),
            ("0-10000", "more than 10000"),
            ("0-9999,10000", "more than 10000"),
            ("0-4294967295", "more than 10000"),
            ("4294967296", "write for example"),
        ] {
            let error = Indices::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
