//! A copy of a file that another process may be writing: whole, or none.
//!
//! Owns telling a file that is left alone from one that is being written. Never waits for it. Called for checkpoints of
//! trainers that work.

use std::{
    fs::{self, Metadata},
    io,
    path::Path,
    time::Duration,
};

use tempfile::TempPath;
use trainyard_core::time::Timestamp;

use crate::clock;

/// A file that has not been written for so long is left alone.
const QUIET: Duration = Duration::from_secs(1);

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
    fn is_quiet(&self) -> bool {
        let now = clock::now();
        now > self.modified && now.since(self.modified) >= QUIET
    }
}

/// Copies the file that `mark` is of into a folder of ours; none when it is being written. The copy is gone with its path.
pub(super) async fn copy(path: &Path, mark: &Mark, copies: &Path) -> io::Result<Option<TempPath>> {
    if !mark.is_quiet() {
        return Ok(None);
    }
    let (path, mark, copies) = (path.to_owned(), mark.clone(), copies.to_owned());
    let work = move || {
        let copy = tempfile::Builder::new()
            .prefix("on-its-way-")
            .tempfile_in(copies)?
            .into_temp_path();
        fs::copy(&path, &copy)?;
        let same = Mark::of(&fs::metadata(&path)?)? == mark;
        Ok(Some(copy)
            .filter(|copy| same && fs::metadata(copy).is_ok_and(|new| new.len() == mark.size)))
    };
    let done = trainyard_runtime::blocking(work).await;
    done.map_err(io::Error::other).and_then(|done| done)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A file that was written a while ago.
    fn old(path: &Path) -> Mark {
        fs::write(path, b"weights").unwrap();
        let file = File::options().append(true).open(path).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(3_600);
        file.set_modified(long_ago).unwrap();
        Mark::of(&file.metadata().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_file_that_is_left_alone_is_copied_whole_and_the_copy_goes_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.pt");
        let mark = old(&path);
        let copy = copy(&path, &mark, folder.path())
            .await
            .unwrap()
            .expect("it is quiet");
        assert_eq!(fs::read(&copy).unwrap(), b"weights");
        drop(copy);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_left_for_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.pt");
        let mark = old(&path);
        // Written since it was looked at.
        fs::write(&path, b"other weights").unwrap();
        assert!(copy(&path, &mark, folder.path()).await.unwrap().is_none());
        // Written just now.
        let fresh = Mark::of(&fs::metadata(&path).unwrap()).unwrap();
        assert!(copy(&path, &fresh, folder.path()).await.unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
