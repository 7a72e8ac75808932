//! Whether chunks and blocks of points and lines are what was written, and agree with what is kept about them.
//!
//! The part of the check that looks into them. Only reads.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable as _;

use super::check::{Check, Jobs};
use crate::store::{
    block::Kept,
    codec::{self, Place},
    error::ReadError,
    numbers,
    series::{self, Entry},
    tables::{COLUMNS, OfJob, POINTS, Rows, Series},
};

/// What is found of a kind of rows while its chunks are read.
#[derive(Default)]
struct Found {
    /// Behind the last row of each job.
    ends: BTreeMap<u64, u64>,
    /// Behind the last row of all.
    end: u64,
    /// Chunks of each job that are not sealed.
    raw: BTreeMap<u64, u64>,
    /// Bytes of each job.
    held: BTreeMap<u64, u64>,
}

impl Check<'_> {
    pub(super) fn series<T: Kept>(&mut self, series: Series, jobs: &Jobs) -> Result<(), ReadError> {
        let name = series.name;
        let mut index = BTreeMap::new();
        for row in self.txn.open_table(series.by_job)?.iter()? {
            let (key, entry) = row?;
            let (job, first) = key.value();
            self.owned(name, &first, jobs.contains_key(&job));
            index.insert(first, (job, Entry::of(entry.value())));
        }
        let mut found = Found::default();
        self.rows(name, series.chunks, |check, first, bytes| {
            let said = index.remove(&first);
            check.chunk::<T>((series, first, bytes), said, &mut found);
        })?;
        for first in index.keys() {
            self.wrong(name, first, "the index names a chunk that is not there");
        }
        let mut next = 1;
        numbers::each(self.txn, self.report.schema, |row| {
            // A damaged one is told elsewhere.
            if let numbers::Row::Counter(of, Ok(number)) = row
                && of == name.as_bytes()
            {
                next = number;
            }
            Ok(())
        })?;
        if next < found.end {
            let words = format!(
                "the next row would be {next}, but there are rows up to {}",
                found.end - 1
            );
            self.wrong("counters", &name, words);
        }
        self.held(series, (jobs, found))
    }

    fn chunk<T: Kept>(
        &mut self,
        (series, first, bytes): (Series, u64, &[u8]),
        said: Option<(u64, Entry)>,
        found: &mut Found,
    ) {
        let name = series.name;
        if let Some((job, entry)) = said {
            *found.held.entry(job).or_default() += bytes.len() as u64;
            if !entry.sealed {
                *found.raw.entry(job).or_default() += 1;
            }
        }
        let chunk = match series::opened::<T>(self.txn, series, first, bytes) {
            Ok(chunk) => chunk,
            Err(error) => return self.damaged(name, &first, error),
        };
        let ids = chunk.ids();
        let ascend = ids.is_sorted_by(|one, next| one < next);
        if ids.first() != Some(&first) || !ascend {
            self.wrong(name, &first, "its rows do not ascend from its own id");
        }
        let end = ids.last().map_or(first, |last| last.saturating_add(1));
        found.end = found.end.max(end);
        let Some((job, entry)) = said else {
            return self.wrong(name, &first, "is not in the index");
        };
        if u32::try_from(ids.len()) != Ok(entry.rows) {
            let words = format!("has {} rows, the index says {}", ids.len(), entry.rows);
            self.wrong(name, &first, words);
        }
        if entry.sealed != chunk.is_sealed() {
            let words = "the index does not say rightly whether it is sealed";
            self.wrong(name, &first, words);
        }
        let before = found.ends.insert(job, end).unwrap_or_default();
        if first < before {
            self.wrong(name, &first, "begins before the chunk before it ends");
        }
    }

    /// Every column of a block of points.
    pub(super) fn columns(&mut self) -> Result<(), ReadError> {
        if self.report.schema < 2 {
            return Ok(());
        }
        let mut blocks = BTreeSet::new();
        for row in self.txn.open_table(POINTS.by_job)?.iter()? {
            let (key, entry) = row?;
            let sealed = Entry::of(entry.value()).sealed;
            blocks.extend(sealed.then_some(key.value().1));
        }
        self.rows("point_columns", COLUMNS, |check, (first, name), bytes| {
            let key = format!("{first}/{name}");
            let place = Place {
                table: "point_columns",
                key: &key,
            };
            if let Err(error) = codec::unseal(place, bytes) {
                check.damaged("point_columns", &key, error);
            }
            if !blocks.contains(&first) {
                check.wrong(
                    "point_columns",
                    &key,
                    "belongs to a block that is not there",
                );
            }
        })
    }

    /// What is kept about each job's chunks.
    fn held(&mut self, series: Series, (jobs, mut found): (&Jobs, Found)) -> Result<(), ReadError> {
        if self.report.schema < 2 {
            return Ok(());
        }
        if series.rows == Rows::Points {
            let mut owners = BTreeMap::new();
            for row in self.txn.open_table(series.by_job)?.iter()? {
                let (job, first) = row?.0.value();
                owners.insert(first, job);
            }
            for row in self.txn.open_table(COLUMNS)?.iter()? {
                let (key, bytes) = row?;
                if let Some(job) = owners.get(&key.value().0) {
                    *found.held.entry(*job).or_default() += bytes.value().len() as u64;
                }
            }
        }
        self.agree("chunks to seal", (series, series.raw), found.raw)?;
        self.agree("bytes", (series, series.held), found.held)?;
        for row in self.txn.open_table(series.trimmed)?.iter()? {
            let job = row?.0.value();
            self.owned(
                series.name,
                &format!("trimmed {job}"),
                jobs.contains_key(&job),
            );
        }
        Ok(())
    }

    fn agree(
        &mut self,
        what: &str,
        (series, table): (Series, OfJob),
        mut found: BTreeMap<u64, u64>,
    ) -> Result<(), ReadError> {
        for row in self.txn.open_table(table)?.iter()? {
            let (job, said) = row?;
            let (job, said) = (job.value(), said.value());
            let is = found.remove(&job).unwrap_or_default();
            if is != said {
                let words = format!("job {job} has {is} {what}, its count says {said}");
                self.wrong(series.name, &job, words);
            }
        }
        for (job, is) in found {
            let words = format!("job {job} has {is} {what} that are not counted");
            self.wrong(series.name, &job, words);
        }
        Ok(())
    }
}
