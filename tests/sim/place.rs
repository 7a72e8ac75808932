//! The folder of one run. Its name is the seed's alone, for it stands in words that are stored.
//!
//! Owns what a run that was killed has left under that name: it goes. Called by `world`.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// So many runs of a seed may go on at once, as when each of its writes is tried.
const MOST: u32 = 100;

/// A folder, and that it is ours: both are gone with this.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    _lock: File,
}

impl Place {
    /// In memory, where there is such a place: files of agents are synced often.
    pub(crate) fn of(seed: u64) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        for number in 0..MOST {
            let folder = base.join(format!("trainyard-sim-{seed:010}-{number:02}"));
            let taken = Self::take(folder).context("a folder for the simulated disks")?;
            if let Some(place) = taken {
                return Ok(place);
            }
        }
        bail!("{MOST} runs of seed {seed} go on at once")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// None where another run has it.
    fn take(folder: PathBuf) -> Result<Option<Self>> {
        fs::create_dir_all(&folder)?;
        let lock = File::open(&folder)?;
        if lock.try_lock().is_err() {
            return Ok(None);
        }
        // One that ends just now takes its folder with it, and another one may have made it anew.
        let named = fs::metadata(&folder).map(|named| named.ino()).ok();
        if named != Some(lock.metadata()?.ino()) {
            return Ok(None);
        }
        for left in fs::read_dir(&folder)? {
            let left = left?;
            match left.file_type()?.is_dir() {
                true => fs::remove_dir_all(left.path())?,
                false => fs::remove_file(left.path())?,
            }
        }
        Ok(Some(Self {
            folder,
            _lock: lock,
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays goes with the next run of the seed.
        fs::remove_dir_all(&self.folder).ok();
    }
}
