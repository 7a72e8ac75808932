//! The coordinator's disk: in memory, and honest about what a power cut does to it.
//!
//! Owns what is synced and what is only written. After a cut the synced bytes are there, and of the writes since
//! whichever the seed keeps, the last of them perhaps torn. Never decides when. Called by redb and by the world.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, rngs::StdRng};
use redb::StorageBackend;

/// A disk. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a cut leaves.
    synced: Vec<u8>,
    /// What is read.
    live: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    on: bool,
    full: bool,
    /// The sync after so many further ones is never finished.
    fails_after: Option<u32>,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power on: what is there is what was synced.
    pub(crate) fn boot(&self) {
        let mut state = self.state();
        state.on = true;
        state.full = false;
        state.fails_after = None;
        state.live = state.synced.clone();
        state.unsynced.clear();
    }

    /// Power off. Of what was not synced, each write is kept or lost; one may be kept in part.
    pub(crate) fn cut(&self, rng: &mut StdRng) {
        let mut state = self.state();
        state.on = false;
        let pending = std::mem::take(&mut state.unsynced);
        for (at, bytes) in pending {
            if rng.random_bool(0.5) {
                let whole = rng.random_bool(0.7);
                let kept = if whole {
                    bytes.len()
                } else {
                    rng.random_range(0..=bytes.len())
                };
                let part = bytes.get(..kept).unwrap_or_default();
                put(&mut state.synced, at, part);
            }
        }
    }

    /// The power fails in the middle of a sync, after so many more.
    pub(crate) fn fail_after(&self, syncs: u32) {
        self.state().fails_after = Some(syncs);
    }

    /// Whether nothing more can be written.
    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Whether it is dead without having been cut.
    pub(crate) fn has_failed(&self) -> bool {
        !self.state().on
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(place) = image.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        if self.on {
            return Ok(());
        }
        Err(io::Error::other("the power is off"))
    }

    fn writable(&self) -> io::Result<()> {
        self.check()?;
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

fn offset(at: u64) -> io::Result<usize> {
    usize::try_from(at).map_err(io::Error::other)
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        let state = self.state();
        state.check()?;
        u64::try_from(state.live.len()).map_err(io::Error::other)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.state();
        state.check()?;
        let at = offset(at)?;
        let bytes = state.live.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let mut state = self.state();
        state.writable()?;
        state.live.resize(offset(length)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.state();
        state.check()?;
        if let Some(left) = &mut state.fails_after {
            if *left == 0 {
                state.on = false;
                return Err(io::Error::other("the power fails"));
            }
            *left -= 1;
        }
        let length = state.live.len();
        let pending = std::mem::take(&mut state.unsynced);
        state.synced.resize(length, 0);
        for (at, bytes) in pending {
            put(&mut state.synced, at, &bytes);
        }
        state.synced.truncate(length);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), io::Error> {
        let mut state = self.state();
        state.writable()?;
        let at = offset(at)?;
        put(&mut state.live, at, bytes);
        state.unsynced.push((at, bytes.to_vec()));
        Ok(())
    }
}
