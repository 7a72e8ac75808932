//! Where a page of points or lines ends, and a page under way.
//!
//! Owns that rule. Never reads. Used by what reads rows in chunks and by the service's pages.

use trainyard_core::record::{LogLine, Progress};

use super::{StoredLine, StoredPoint};

/// A page ends after so many rows, or before their texts grow beyond so many bytes. One row alone may be
/// larger, so a page is never empty while there is more: whoever pages goes on behind its last row until
/// one is empty.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Most {
    /// Text on one page of whoever walks over all rows.
    pub const BYTES: usize = 4 << 20;

    /// So many rows, and no more than [`Most::BYTES`] of them.
    #[must_use]
    pub const fn rows(rows: usize) -> Self {
        let bytes = Self::BYTES;
        Self { rows, bytes }
    }
}

/// A page under way.
#[derive(Debug)]
pub(crate) struct Filling<T> {
    pub(crate) rows: Vec<T>,
    left: Most,
}

impl<T> Filling<T> {
    pub(crate) fn to(most: Most) -> Self {
        Self {
            rows: Vec::new(),
            left: most,
        }
    }

    /// Takes a row of this size unless the page is full; the first one fits whatever its size.
    pub(crate) fn take(&mut self, size: usize, row: T) -> bool {
        let fits = size <= self.left.bytes || self.rows.is_empty();
        if self.is_full() || !fits {
            return false;
        }
        self.left.rows -= 1;
        self.left.bytes = self.left.bytes.saturating_sub(size);
        self.rows.push(row);
        true
    }

    /// It has as many rows as it may.
    pub(crate) fn is_full(&self) -> bool {
        self.left.rows == 0
    }
}

/// A row whose size is known.
pub(crate) trait Sizable {
    /// Bytes that it takes, about.
    fn size(&self) -> usize;
}

/// What a row takes beside its texts.
const ROW: usize = 64;
/// What a metric takes beside its name, in memory more than on any wire.
const METRIC: usize = 64;

impl Sizable for LogLine {
    fn size(&self) -> usize {
        ROW + self.level.len() + self.text.len()
    }
}

impl Sizable for Progress {
    fn size(&self) -> usize {
        let names = self.values.keys();
        let names = names.map(|name| name.len() + METRIC);
        let named = [&self.checkpoint, &self.best_checkpoint];
        let paths = named.into_iter().flatten().map(|named| named.path.len());
        ROW + names.chain(paths).sum::<usize>()
    }
}

impl Sizable for StoredLine {
    fn size(&self) -> usize {
        self.line.size()
    }
}

impl Sizable for StoredPoint {
    fn size(&self) -> usize {
        self.progress.size()
    }
}
