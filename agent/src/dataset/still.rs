//! A copy of a file that another process may be writing: whole, or none.
//!
//! Owns telling a copy that is whole from one that was taken while its file was written. The copy is taken first, from an
//! open file, and proven afterwards; never is the writer waited for without end. Called for checkpoints of trainers that
//! work, and by the callbacks that hear of them.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempPath;
use tokio::time::Instant;
use trainyard_core::{node::Disk, resources::format_bytes, time::Timestamp};

use super::told::Told;
use crate::{clock, disk};

/// A file that has not been written for so long is left alone.
const QUIET: Duration = Duration::from_secs(1);
/// The same of a file that is never left alone for that long.
const BRIEF: Duration = Duration::from_millis(100);
/// The same of one of which its trainer has said that it is whole: two writes that are nearer to each other may have one
/// time.
const TOLD: Duration = Duration::from_millis(20);
/// How often one is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// How copies are called.
const PREFIX: &str = "on-its-way-";
/// What a copy leaves free beside what the trainer may need; of a small disk a twentieth.
const RESERVE: u64 = 64 << 20;
/// Copies that are taken in vain before it is left for another time.
const MOST_COPIES: u32 = 8;

/// What tells two contents of a file apart without reading them; the newer one is greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    modified: Timestamp,
    pub(super) size: u64,
    inode: u64,
}

impl Mark {
    pub(super) fn of(about: &Metadata) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(Self {
            modified: clock::of(about.modified()?),
            size: about.len(),
            inode: about.ino(),
        })
    }

    /// A time that lies ahead, as after a clock jump, says nothing.
    fn is_quiet_for(&self, span: Duration) -> bool {
        let now = clock::now();
        now > self.modified && now.since(self.modified) >= span
    }
}

/// A copy that is whole. It is gone with its path.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) path: TempPath,
    /// Of the file as it was copied.
    pub(super) mark: Mark,
    source: File,
}

/// Copies the file into a folder of ours; none when no copy could be proven to be whole. A file that is `restless` has not
/// been left alone for long in a whole round: a shorter silence is taken for the end of a write.
pub(super) async fn copy(
    path: &Path,
    copies: &Path,
    (told, restless): (&Told, bool),
) -> io::Result<Option<Copy>> {
    let quiet = if restless { BRIEF } else { QUIET };
    for _ in 0..MOST_COPIES {
        if let Some(copy) = off(path, copies, take).await?
            && is_whole(&copy, path, (told, quiet)).await?
        {
            return Ok(Some(copy));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

/// Work on the disk, off the runtime's threads.
async fn off<T: Send + 'static>(
    path: &Path,
    copies: &Path,
    work: fn(&Path, &Path) -> io::Result<T>,
) -> io::Result<T> {
    let (path, copies): (PathBuf, PathBuf) = (path.to_owned(), copies.to_owned());
    let done = trainyard_runtime::blocking(move || work(&path, &copies)).await;
    done.map_err(io::Error::other).and_then(|done| done)
}

/// A copy, unless the file has changed meanwhile.
fn take(path: &Path, copies: &Path) -> io::Result<Option<Copy>> {
    let mut source = File::open(path)?;
    let mark = Mark::of(&source.metadata()?)?;
    has_room(&disk::seen(copies)?, mark.size)?;
    let (mut file, path) = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempfile_in(copies)?
        .into_parts();
    // By the file system itself where it can, which takes no room there.
    let bytes = io::copy(&mut source, &mut file)?;
    let same = bytes == mark.size && Mark::of(&source.metadata()?)? == mark;
    Ok(same.then_some(Copy { path, mark, source }))
}

/// A trainer must not fail for a copy of ours: beside it there has to be room for the next checkpoint, which many write
/// before the last one goes. At the trainer's end it is stored without a copy.
fn has_room(disk: &Disk, size: u64) -> io::Result<()> {
    let needs = size
        .saturating_mul(2)
        .saturating_add(RESERVE.min(disk.total / 20));
    if disk.free >= needs {
        return Ok(());
    }
    let [free, needs] = [disk.free, needs].map(format_bytes);
    let words = format!(
        "the disk of this node has {free} free, and a copy of it beside the next one needs {needs}; it is stored when the trainer has ended"
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, words))
}

/// Removes the copies that an agent has left in this folder when it was killed.
pub(crate) fn forget_copies(copies: &Path) -> io::Result<()> {
    for entry in copies.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether what was copied is a whole checkpoint: nobody has written to it for a while, before or since; or its trainer
/// has said so; or another one has taken its name, so that it was finished.
async fn is_whole(copy: &Copy, path: &Path, (told, quiet): (&Told, Duration)) -> io::Result<bool> {
    let since = Instant::now();
    // The clock may be set back: then no time is ever long enough ago.
    while since.elapsed() <= quiet * 2 {
        let now = Mark::of(&copy.source.metadata()?)?;
        if now != copy.mark {
            return Ok(false);
        }
        let told = told.knows(&copy.mark) && copy.mark.is_quiet_for(TOLD);
        if told || copy.mark.is_quiet_for(quiet) {
            return Ok(true);
        }
        match fs::metadata(path) {
            Ok(other) if Mark::of(&other)?.inode != copy.mark.inode => return Ok(true),
            Ok(_) => tokio::time::sleep(LOOK).await,
            // It is being made anew; nobody knows why.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
