//! How far a spool is acknowledged, with all that follows from the records up to there: a start begins to read behind it,
//! however much was delivered.
//!
//! Owns `spool.mark`: entries one behind the other, `[len u32][crc32 u32][postcard Mark][postcard bodies]`, the last of which is
//! there where there are some, and not minded by agents that know none. Each is true for good, since it
//! is written when what it speaks of is on disk and acknowledged; so mostly none is waited for, and what is torn or of another
//! version only makes a start read more. But once the disk has the room of the first records back, nothing else tells where
//! the rest begins: before that the marks are waited for, and without them such a spool is refused. Blocks on the disk.
//! Called by `file`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trainyard_runtime::lasting;

use super::file::{Body, Key};
use super::frame;

/// Raised with each change of [`Mark`].
const VERSION: u8 = 1;

/// A place of a spool, and what follows from the records before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    version: u8,
    /// The last record before the place.
    pub(super) seq: u64,
    /// In bytes.
    pub(super) place: u64,
    pub(super) source_offset: Option<u64>,
    pub(super) completed: bool,
    /// Of the reports since the mark before.
    pub(super) keys: Vec<Key>,
    /// Those since the mark before that are known again; behind all else.
    #[serde(skip)]
    pub(super) bodies: Vec<Body>,
}

impl Mark {
    /// Of record `seq`, which ends at `place`.
    pub(super) fn new((seq, place): (u64, u64), keys: Vec<Key>) -> Self {
        Self {
            version: VERSION,
            seq,
            place,
            source_offset: None,
            completed: false,
            keys,
            bodies: Vec::new(),
        }
    }
}

/// The file of marks.
#[derive(Debug)]
pub(super) struct Marks {
    path: PathBuf,
    file: Option<File>,
    /// Where the next one is written; none where those of another spool stand in the way.
    len: Option<u64>,
}

impl Marks {
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            len: Some(0),
        }
    }

    /// All that are whole. The next is written behind them.
    pub(super) fn read(&mut self) -> io::Result<Vec<Mark>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut rest = bytes.as_slice();
        let mut found: Vec<Mark> = Vec::new();
        while let Some((mark, behind)) = next(rest) {
            let last = found.last();
            if mark.version != VERSION || last.is_some_and(|last| last.seq >= mark.seq) {
                break;
            }
            found.push(mark);
            rest = behind;
        }
        let whole = bytes.len() - rest.len();
        self.len = u64::try_from(whole).ok();
        Ok(found)
    }

    /// What was written is of another spool: it goes, or there will be none.
    pub(super) fn forget(&mut self) {
        let empty = || File::options().write(true).truncate(true).open(&self.path);
        let emptied = lasting(&self.path, &[], |_| empty().map(drop));
        self.len = emptied.ok().map(|()| 0);
    }

    /// False where there is none.
    pub(super) fn write(&mut self, mark: &Mark) -> io::Result<bool> {
        let Some(at) = self.len else {
            return Ok(false);
        };
        let mut body = postcard::to_stdvec(mark).map_err(io::Error::other)?;
        if !mark.bodies.is_empty() {
            body = postcard::to_extend(&mark.bodies, body).map_err(io::Error::other)?;
        }
        let bytes = frame::sealed(&body).ok_or(io::ErrorKind::InvalidData)?;
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = File::options();
                options.write(true).create(true).truncate(false);
                options.open(&self.path)?
            }
        };
        lasting(&self.path, &bytes, |bytes| file.write_all_at(bytes, at))?;
        self.file = Some(file);
        self.len = Some(at + bytes.len() as u64);
        Ok(true)
    }

    /// Waits until all that were written are on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_data()?;
        }
        let folder = self.path.parent();
        folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

fn next(bytes: &[u8]) -> Option<(Mark, &[u8])> {
    let (body, behind) = frame::opened(bytes)?;
    let (mut mark, bodies): (Mark, _) = postcard::take_from_bytes(body).ok()?;
    mark.bodies = postcard::from_bytes(bodies).unwrap_or_default();
    Some((mark, behind))
}
