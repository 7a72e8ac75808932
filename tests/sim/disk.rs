//! The coordinator's disk: in memory, and honest about what a power cut does to it.
//!
//! Owns what is synced and what is only written. After a cut the synced bytes are there, and of the writes since
//! whichever the seed keeps, the last of them perhaps torn. Who has opened it before the cut reaches it no more, as a
//! process that is gone. Never decides when. Called by redb and by the world.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, rngs::StdRng};
use redb::StorageBackend;

/// A disk. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

/// What a program that runs has of it: until the power goes.
#[derive(Debug)]
pub(crate) struct Opened {
    disk: Disk,
    /// How many were gone when it was opened.
    program: u64,
}

/// When power fails, seen from a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Moment {
    /// Nothing of what it was to bring has arrived.
    Before,
    /// Any part of it has.
    Amid,
    /// All of it has, and nobody was told.
    After,
}

#[derive(Debug, Default)]
struct State {
    /// What a cut leaves.
    synced: Vec<u8>,
    /// What is read.
    live: Vec<u8>,
    unsynced: Vec<Change>,
    on: bool,
    /// That had it open and are gone.
    programs: u64,
    /// So many bytes can still be written.
    room: Option<usize>,
    /// It has been full since the program began that has it open.
    refused: bool,
    /// Finished since the beginning.
    syncs: u32,
    /// The power fails with the sync after so many further ones.
    fails: VecDeque<(u32, Moment)>,
    /// That is awaited until it comes, whoever starts meanwhile.
    patient: bool,
    /// How often it has failed so.
    failures: usize,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a program that starts.
    pub(crate) fn open(&self) -> Opened {
        Opened {
            program: self.state().programs,
            disk: self.clone(),
        }
    }

    /// For the next program: there is room, and power. After a cut what is there is what was synced.
    pub(crate) fn boot(&self) {
        let mut state = self.state();
        if !state.on {
            state.live = state.synced.clone();
            state.unsynced.clear();
        }
        state.on = true;
        state.refused = false;
        state.room = None;
        if !state.patient {
            state.fails.clear();
        }
    }

    /// What is to fail with a sync does so, whoever starts meanwhile, one after the other.
    pub(crate) fn is_patient(&self) {
        self.state().patient = true;
    }

    /// What was to fail and has not will not.
    pub(crate) fn spare(&self) {
        self.state().fails.clear();
    }

    /// How often the power has failed with a sync.
    pub(crate) fn failures(&self) -> usize {
        self.state().failures
    }

    /// For the next program; how much room there is stays as it is.
    pub(crate) fn boot_as_it_is(&self) {
        let room = self.state().room;
        self.boot();
        self.state().room = room;
    }

    /// The program that has it open is gone.
    pub(crate) fn leave(&self) {
        self.state().programs += 1;
    }

    /// Power off. Of what was not synced, each change is kept or lost; a write may be kept in part.
    pub(crate) fn cut(&self, rng: &mut StdRng) {
        let mut state = self.state();
        state.on = false;
        for change in std::mem::take(&mut state.unsynced) {
            if !rng.random_bool(0.5) {
                continue;
            }
            match change {
                Change::Length(length) => state.synced.resize(length, 0),
                Change::Write(at, bytes) => {
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
    }

    /// The power fails with the sync after so many further ones.
    pub(crate) fn fail_after(&self, syncs: u32, moment: Moment) {
        let mut state = self.state();
        if !state.patient {
            state.fails.clear();
        }
        state.fails.push_back((syncs, moment));
    }

    /// Only so many more bytes can be written.
    pub(crate) fn fill(&self, room: usize) {
        self.state().room = Some(room);
    }

    /// Whether what has it open reads it still: not without power, and a database that was once refused a write refuses
    /// all until it is opened again.
    pub(crate) fn is_read(&self) -> bool {
        let state = self.state();
        state.on && !state.refused
    }

    /// Whether it is dead without having been cut.
    pub(crate) fn has_failed(&self) -> bool {
        !self.state().on
    }

    /// Syncs that were finished since the beginning.
    pub(crate) fn syncs(&self) -> u32 {
        self.state().syncs
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
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Length(length) => self.synced.resize(length, 0),
                Change::Write(at, bytes) => put(&mut self.synced, at, &bytes),
            }
        }
        self.syncs += 1;
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.live, at, bytes);
        self.unsynced.push(Change::Write(at, bytes.to_vec()));
    }
}

impl Opened {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.on && state.programs == self.program {
            return Ok(state);
        }
        Err(io::Error::other("the power is off"))
    }
}

fn offset(at: u64) -> io::Result<usize> {
    usize::try_from(at).map_err(io::Error::other)
}

impl StorageBackend for Opened {
    fn len(&self) -> Result<u64, io::Error> {
        u64::try_from(self.state()?.live.len()).map_err(io::Error::other)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.state()?;
        let at = offset(at)?;
        let bytes = state.live.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let mut state = self.state()?;
        let length = offset(length)?;
        if state.room == Some(0) && length > state.live.len() {
            state.refused = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.live.resize(length, 0);
        state.unsynced.push(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.state()?;
        match state.fails.front_mut() {
            Some((0, moment)) => {
                let moment = *moment;
                state.fails.pop_front();
                state.failures += 1;
                match moment {
                    Moment::Before => state.unsynced.clear(),
                    Moment::Amid => {}
                    Moment::After => state.sync(),
                }
                state.on = false;
                return Err(io::Error::other("the power fails"));
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        state.sync();
        Ok(())
    }

    /// Where there is little room, what fits is written, and that it was not all is said.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), io::Error> {
        let mut state = self.state()?;
        let at = offset(at)?;
        let room = state.room.unwrap_or(usize::MAX);
        let fits = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        state.write(at, fits);
        state.room = state.room.map(|room| room - fits.len());
        if fits.len() < bytes.len() {
            state.refused = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}
