//! Writes that are to last, and what a simulation lets become of them.
//!
//! Owns the moments at which a program can be gone amid its work on a disk: before a write, in the middle of it, or when
//! all of it is there and nobody was told; and disks that are full. Never writes anything itself. Called by whoever writes
//! what must be there after a crash; the simulation alone says what becomes of it. docs/adr/0017 says why.

use std::{fmt, io, path::Path, sync::OnceLock};

static FATES: OnceLock<Box<dyn Fates>> = OnceLock::new();

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// The program is gone before it.
    Before,
    /// It is gone when so many bytes are written.
    Amid(usize),
    /// It is gone when all is written.
    After,
    /// The disk has room for so many bytes only: they are written, and the program is told so.
    Full(usize),
}

/// Who says what becomes of writes.
pub trait Fates: fmt::Debug + Send + Sync {
    /// Of this one, of so many bytes; none where names are changed or a disk is waited for.
    fn of(&self, path: &Path, bytes: usize) -> Fate;

    /// How many bytes the disk that `path` is on still takes; none where it takes any number.
    fn room(&self, path: &Path) -> Option<u64>;
}

/// From now on `fates` says what becomes of each write that is to last. For a simulation alone, once.
pub fn writes_end_as(fates: Box<dyn Fates>) {
    drop(FATES.set(fates));
}

/// How many bytes the simulated disk that `path` is on still takes; none where it takes any number, as each does that is
/// none of a simulation.
#[must_use]
pub fn room(path: &Path) -> Option<u64> {
    FATES.get().and_then(|fates| fates.room(path))
}

/// Does a write that is to last: `write` is given the bytes.
///
/// # Errors
/// What `write` says; in a simulation also that the disk is full, or that the program is gone, of which nobody hears any
/// more.
pub fn lasting(
    path: &Path,
    bytes: &[u8],
    write: impl FnOnce(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let fate = FATES.get().map(|fates| fates.of(path, bytes.len()));
    let written = match fate.unwrap_or(Fate::Done) {
        Fate::Done => return write(bytes),
        Fate::Before => Ok(()),
        Fate::Amid(length) => write(bytes.get(..length).unwrap_or(bytes)),
        Fate::After => write(bytes),
        Fate::Full(length) => {
            write(bytes.get(..length).unwrap_or(bytes))?;
            return Err(io::ErrorKind::StorageFull.into());
        }
    };
    written.and_then(|()| Err(io::Error::other("this program is gone")))
}
