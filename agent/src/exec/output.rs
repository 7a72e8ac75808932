//! Reading `output.log`: what a trainer wrote, line by line, from any offset.
//!
//! Owns the record parser and a reader that follows a growing file. It never writes the file and
//! never waits: at the end it returns what there is, and can be asked again. The agent's log
//! delivery calls it.
//!
//! A record is `{microseconds} {o|e} {length}\n{bytes}\n`. The order of records is the order in
//! which the shim read them: exact within a stream; between the two streams it is exact only if the
//! writer gave the shim the time to read in between, since two pipes carry no common order.

use super::lines::MAX_LINE;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The longest head of a record: twenty digits, a letter, five digits, two blanks and a line end.
const MAX_HEAD: usize = 48;

/// Which of the two streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line of a trainer's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputLine {
    /// Where reading goes on after this line.
    pub offset_after: u64,
    /// When the shim read its end, microseconds since 1970.
    pub at_us: u64,
    /// Where it was written to.
    pub stream: Stream,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Turns bytes into lines, however they are cut. Pure.
///
/// A record that is not complete waits for more. Bytes that are no record (a torn record of a
/// power cut, in the middle) are skipped up to the next line end that a record follows.
#[derive(Debug, Default)]
pub struct RecordParser {
    buffer: Vec<u8>,
    taken: usize,
    offset: u64,
    skipping: bool,
}

enum Step {
    Line(OutputLine, usize),
    Malformed,
    Incomplete,
}

impl RecordParser {
    /// A parser whose first byte stands at `offset`.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }

    /// The offset of the first byte that no line has used.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets bytes that no line has used; the next push must start at [`Self::offset`].
    pub fn rewind(&mut self) {
        self.buffer.clear();
        self.taken = 0;
    }

    /// The next whole line, if there is one.
    pub fn next_line(&mut self) -> Option<OutputLine> {
        loop {
            if self.skipping {
                self.skip_line()?;
            }
            let rest = self.buffer.get(self.taken..).unwrap_or_default();
            match parse(rest) {
                Step::Line(mut line, length) => {
                    self.take(length);
                    line.offset_after = self.offset;
                    return Some(line);
                }
                Step::Incomplete => return None,
                Step::Malformed => self.skipping = true,
            }
        }
    }

    fn skip_line(&mut self) -> Option<()> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n');
        self.take(end.map_or(rest.len(), |at| at + 1));
        end?;
        self.skipping = false;
        Some(())
    }

    fn take(&mut self, length: usize) {
        self.taken += length;
        self.offset += length as u64;
    }
}

fn parse(bytes: &[u8]) -> Step {
    let window = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let Some(head_end) = window.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < MAX_HEAD {
            Step::Incomplete
        } else {
            Step::Malformed
        };
    };
    let Some((at_us, stream, length)) = window.get(..head_end).and_then(parse_head) else {
        return Step::Malformed;
    };
    let start = head_end + 1;
    match (bytes.get(start..start + length), bytes.get(start + length)) {
        (Some(text), Some(b'\n')) => Step::Line(
            OutputLine {
                offset_after: 0,
                at_us,
                stream,
                text: String::from_utf8_lossy(text).into_owned(),
            },
            start + length + 1,
        ),
        (Some(_), Some(_)) => Step::Malformed,
        _ => Step::Incomplete,
    }
}

fn parse_head(head: &[u8]) -> Option<(u64, Stream, usize)> {
    let mut fields = std::str::from_utf8(head).ok()?.split(' ');
    let at_us = fields.next()?.parse().ok()?;
    let stream = match fields.next()? {
        "o" => Stream::Out,
        "e" => Stream::Err,
        _ => return None,
    };
    let length: usize = fields.next()?.parse().ok()?;
    (fields.next().is_none() && length <= MAX_LINE).then_some((at_us, stream, length))
}

/// Follows an `output.log` from an offset.
#[derive(Debug)]
pub struct OutputReader {
    file: File,
    parser: RecordParser,
}

impl OutputReader {
    /// Opens `path`; `offset` is 0 or an [`OutputLine::offset_after`].
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            parser: RecordParser::at(offset),
        })
    }

    /// Where the next call goes on.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.parser.offset()
    }

    /// At most `max` further whole lines; an empty answer means that there are none yet. Blocks on
    /// the disk.
    pub fn read_lines(&mut self, max: usize) -> io::Result<Vec<OutputLine>> {
        // The shim may have taken a torn record back since: read its bytes anew.
        self.parser.rewind();
        self.file.seek(SeekFrom::Start(self.parser.offset()))?;
        let mut lines = Vec::new();
        let mut chunk = vec![0; MAX_LINE];
        loop {
            while lines.len() < max {
                match self.parser.next_line() {
                    Some(line) => lines.push(line),
                    None => break,
                }
            }
            if lines.len() >= max {
                return Ok(lines);
            }
            match self.file.read(&mut chunk)? {
                0 => return Ok(lines),
                count => self.parser.push(chunk.get(..count).unwrap_or_default()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::encode;
    use super::*;
    use proptest::prelude::*;

    fn parse_all(chunks: &[&[u8]]) -> Vec<OutputLine> {
        let mut parser = RecordParser::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            parser.push(chunk);
            while let Some(line) = parser.next_line() {
                lines.push(line);
            }
        }
        lines
    }

    #[test]
    fn a_torn_last_record_is_left_for_later() {
        let mut log = Vec::new();
        encode(&mut log, 5, 'o', b"whole");
        let whole = log.len() as u64;
        encode(&mut log, 6, 'e', b"torn");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.log");
        std::fs::write(&path, &log[..log.len() - 3]).unwrap();
        let mut reader = OutputReader::open(&path, 0).unwrap();
        let lines = reader.read_lines(10).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].offset_after, whole);
        std::fs::write(&path, &log).unwrap();
        let rest = reader.read_lines(10).unwrap();
        assert_eq!(rest[0].text, "torn");
        assert_eq!(rest[0].stream, Stream::Err);
    }

    #[test]
    fn garbage_in_the_middle_is_skipped() {
        let mut log = Vec::new();
        encode(&mut log, 1, 'o', b"before");
        log.extend_from_slice(&[0; 100]);
        log.push(b'\n');
        encode(&mut log, 2, 'o', b"after");
        let texts: Vec<String> = parse_all(&[&log]).into_iter().map(|l| l.text).collect();
        assert_eq!(texts, ["before", "after"]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            texts in proptest::collection::vec((any::<u64>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..12),
            garbage in proptest::collection::vec(any::<u8>(), 0..80),
            cuts in proptest::collection::vec(0usize..1500, 0..12),
        ) {
            let mut log = Vec::new();
            for (at, out, text) in &texts {
                encode(&mut log, *at, if *out { 'o' } else { 'e' }, text);
            }
            let clean = parse_all(&[&log]);
            prop_assert_eq!(clean.len(), texts.len());
            for (line, (at, _, text)) in clean.iter().zip(&texts) {
                prop_assert_eq!(line.at_us, *at);
                prop_assert_eq!(&line.text, &String::from_utf8_lossy(text));
            }
            log.extend_from_slice(&garbage);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(log.len())).collect();
            cuts.push(0);
            cuts.push(log.len());
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &log[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parse_all(&[&log]), parse_all(&chunks));
        }
    }
}
