//! From raw pipe bytes to records of `output.log`.
//!
//! Owns cutting a stream into lines and appending records, whole or not at all. It never interprets
//! text. The shim's pump calls it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// The longest text of one record; a longer line is cut into pieces of this size.
pub(crate) const MAX_LINE: usize = trainyard_core::record::LONGEST_LINE;

/// Cuts one stream into lines. A bare carriage return overwrites what stood before it.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Takes `bytes` and hands each line that they complete to `emit`, without its line end.
    pub(crate) fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.extend(text, &mut emit);
            if ended {
                emit(visible(&self.partial));
                self.partial.clear();
            }
        }
    }

    /// Hands over what is left when the stream has ended.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            emit(visible(&self.partial));
            self.partial.clear();
        }
    }

    fn extend(&mut self, mut text: &[u8], emit: &mut impl FnMut(&[u8])) {
        while !text.is_empty() {
            if self.partial.len() > MAX_LINE {
                self.shrink(emit);
            }
            let room = (MAX_LINE + 1).saturating_sub(self.partial.len());
            let (now, later) = text.split_at(room.min(text.len()));
            self.partial.extend_from_slice(now);
            text = later;
        }
        if self.partial.len() > MAX_LINE {
            self.shrink(emit);
        }
    }

    /// Drops overwritten text, or else cuts off a full piece.
    fn shrink(&mut self, emit: &mut impl FnMut(&[u8])) {
        let overwritten = self.partial.len() - last_visible(&self.partial).len();
        if overwritten > 0 {
            self.partial.drain(..overwritten);
        } else {
            let end = end_of_piece(&self.partial);
            emit(self.partial.get(..end).unwrap_or_default());
            self.partial.drain(..end);
        }
    }
}

/// Where a line that is too long is cut: not within a character, where it has any.
fn end_of_piece(line: &[u8]) -> usize {
    let begins = |at: &usize| {
        line.get(*at)
            .is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
    };
    let near = (MAX_LINE - 3..=MAX_LINE).rev().find(begins);
    near.unwrap_or(MAX_LINE).min(line.len())
}

/// What a terminal would show last, with a carriage return at the end still there.
fn last_visible(line: &[u8]) -> &[u8] {
    let end = line.len() - line.iter().rev().take_while(|&&byte| byte == b'\r').count();
    let start = line
        .get(..end)
        .and_then(|text| text.iter().rposition(|&byte| byte == b'\r'))
        .map_or(0, |at| at + 1);
    line.get(start..).unwrap_or(line)
}

/// What a terminal would show of a whole line.
fn visible(line: &[u8]) -> &[u8] {
    let mut shown = last_visible(line);
    while let Some((b'\r', rest)) = shown.split_last() {
        shown = rest;
    }
    shown
}

/// Appends one record to `batch`.
pub(crate) fn encode(batch: &mut Vec<u8>, at_us: u64, stream: char, text: &[u8]) {
    batch.extend_from_slice(format!("{at_us} {stream} {}\n", text.len()).as_bytes());
    batch.extend_from_slice(text);
    batch.push(b'\n');
}

/// `output.log`, open for appending. What cannot be written is counted and dropped: the trainer
/// must never block on a full disk.
#[derive(Debug)]
pub(crate) struct OutputLog {
    path: PathBuf,
    file: Option<File>,
    /// The length up to which the file holds whole records.
    good: u64,
    lost: u64,
    /// Something was written.
    written: bool,
}

impl OutputLog {
    /// Opens or creates the file; if that fails it is tried again at each write.
    pub(crate) fn open(path: PathBuf) -> Self {
        let mut log = Self {
            path,
            file: None,
            good: 0,
            lost: 0,
            written: false,
        };
        // A failure here shows as lost bytes later; an empty file is no requirement.
        drop(log.reopen());
        log
    }

    /// Bytes of output that were dropped.
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.lost
    }

    /// Appends whole records holding `payload` bytes of output.
    pub(crate) fn append(&mut self, records: &[u8], payload: u64) {
        if self.try_append(records).is_err() {
            self.lost += payload;
        }
    }

    /// Makes what was written survive a power cut, as far as the disk takes it. Nothing was: nothing has to.
    pub(crate) fn sync(&self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.written) {
            drop(file.sync_data());
        }
    }

    fn try_append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        match file.write_all(records) {
            Ok(()) => {
                self.good += records.len() as u64;
                self.written = true;
                Ok(())
            }
            Err(error) => {
                // Take a torn record back; if that fails too, the next write tries it again.
                if file.set_len(self.good).is_err() {
                    self.file = None;
                }
                Err(error)
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        let length = file.metadata()?.len();
        if self.good == 0 {
            self.good = length;
        } else if length > self.good {
            file.set_len(self.good)?;
        }
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn a_carriage_return_overwrites_unless_it_ends_the_line() {
        assert_eq!(split(&[b"10%\r20%\r30%\ndos\r\n"]), [&b"30%"[..], b"dos"]);
        assert_eq!(split(&[b"a\rb\r"]), [b"b"]);
    }

    #[test]
    fn a_long_line_is_cut_into_pieces_and_nothing_is_lost() {
        let long = vec![b'x'; MAX_LINE * 3 + 5];
        let lines = split(&[&long, b"\n"]);
        assert_eq!(
            lines.iter().map(Vec::len).collect::<Vec<_>>(),
            [MAX_LINE, MAX_LINE, MAX_LINE, 5]
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let long = format!("x{}", "ä€😀".repeat(MAX_LINE / 4));
        let lines = split(&[long.as_bytes(), b"\n"]);
        assert!(lines.iter().all(|line| line.len() <= MAX_LINE));
        let texts: Result<String, _> = lines.into_iter().map(String::from_utf8).collect();
        assert_eq!(texts.as_deref(), Ok(long.as_str()));
        // What is no text at all is cut where it must be.
        let lines = split(&[&[0x80; MAX_LINE + 5]]);
        assert_eq!(lines.iter().map(Vec::len).sum::<usize>(), MAX_LINE + 5);
    }

    #[test]
    fn endless_progress_without_a_line_end_stays_small() {
        let mut splitter = LineSplitter::default();
        for _ in 0..100_000 {
            splitter.push(b"step 1 of 2\r", |_| panic!("no line has ended"));
        }
        assert!(splitter.partial.len() <= MAX_LINE + 1);
    }

    #[test]
    fn a_full_disk_loses_bytes_and_does_not_fail() {
        let mut log = OutputLog::open(PathBuf::from("/dev/full"));
        log.append(b"1 o 3\nabc\n", 3);
        log.append(b"1 o 3\nabc\n", 3);
        assert_eq!(log.lost_bytes(), 6);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.push(0);
            cuts.push(text.len());
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(&[&text]), split(&chunks));
        }
    }
}
