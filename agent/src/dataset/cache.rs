//! Files by the digest of their content: each is fetched once, whoever wants it.
//!
//! Owns `cache/` of the data folder: `<two digits>/<digest>`, and `tmp/` for what is on its way. A
//! file is read-only and its time of change is a fixed one, so that one which somebody has written to
//! is known and fetched anew. In use is what a view has a hard link to, or what a lease names; of the
//! rest the longest unused goes when there is too much. So a restart needs no memory of it.

use std::{
    collections::BTreeMap,
    fs::{self, File, FileTimes, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use trainyard_core::time::Timestamp;

use super::FetchError;
use crate::clock;

/// blake3 of a content.
pub type Digest = [u8; 32];

/// When every file of the cache was changed last.
const SEAL: u64 = 1_000_000_000;

type Flights = BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>;

/// The cache. A cheap handle.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    limit: u64,
    /// What stays free on the disk.
    reserve: u64,
    state: Mutex<State>,
    flights: Mutex<Flights>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Digest, Entry>,
    total: u64,
    uses: u64,
    pins: BTreeMap<Digest, u32>,
    /// All that was over the limit was in use: not looked at again before there is so much.
    look_again_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    used: u64,
}

/// Keeps what it names in the cache for as long as it lives.
#[derive(Debug)]
pub struct Lease {
    cache: Cache,
    digests: Mutex<Vec<Digest>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let digests = std::mem::take(
            self.digests
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let mut state = self.cache.0.state();
        for digest in digests {
            if let Some(count) = state.pins.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(&digest);
                }
            }
        }
    }
}

/// Removes what is on its way unless it has arrived.
#[derive(Debug)]
struct OnItsWay(PathBuf);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        // It is not there any more when it has arrived.
        fs::remove_file(&self.0).ok();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = blake3::Hash::from_bytes(*digest).to_hex();
        let shelf: String = name.chars().take(2).collect();
        self.folder.join(shelf).join(name.as_str())
    }

    /// Whether it is there and as it was laid down; it counts as used then.
    fn has(&self, digest: &Digest, size: u64) -> io::Result<bool> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(digest);
                return Ok(false);
            }
            Err(error) => return Err(error),
            Ok(found) if found.len() != size || found.mtime() != SEAL.cast_signed() => {
                tracing::warn!(path = %path.display(), "a file of the cache was changed by somebody; it is fetched anew");
                fs::remove_file(&path)?;
                self.forget(digest);
                return Ok(false);
            }
            Ok(_) => {}
        }
        File::open(&path)?.set_times(FileTimes::new().set_accessed(now()))?;
        self.count(*digest, size);
        Ok(true)
    }

    fn count(&self, digest: Digest, size: u64) {
        let mut state = self.state();
        state.uses += 1;
        let entry = Entry {
            size,
            used: state.uses,
        };
        if state.entries.insert(digest, entry).is_none() {
            state.total += size;
        }
    }

    fn forget(&self, digest: &Digest) {
        let mut state = self.state();
        if let Some(entry) = state.entries.remove(digest) {
            state.total -= entry.size;
        }
    }

    /// Gives what has arrived its name.
    fn take_in(&self, from: &Path, digest: Digest, size: u64) -> io::Result<()> {
        let sealed = SystemTime::UNIX_EPOCH + Duration::from_secs(SEAL);
        let file = File::options().write(true).open(from)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.set_times(FileTimes::new().set_accessed(now()).set_modified(sealed))?;
        file.sync_all()?;
        let to = self.path(&digest);
        if let Some(shelf) = to.parent() {
            fs::create_dir_all(shelf)?;
        }
        fs::rename(from, &to)?;
        self.count(digest, size);
        self.make_room();
        Ok(())
    }

    /// Removes the longest unused until there is a tenth of room.
    fn make_room(&self) {
        {
            let state = self.state();
            if state.total <= self.limit || state.total < state.look_again_at {
                return;
            }
        }
        let enough = self.limit / 10 * 9;
        for (_, digest) in self.unused().into_iter().rev() {
            if self.state().total <= enough {
                break;
            }
            if let Err(error) = self.remove_unused(&digest) {
                tracing::warn!(%error, "a file of the cache cannot be removed");
            }
        }
        let mut state = self.state();
        state.look_again_at = if state.total > self.limit {
            state.total + self.limit / 20
        } else {
            0
        };
    }

    /// Whether `size` more bytes leave enough of the disk free; the longest unused goes for it. What is free
    /// and what is wanted, if not.
    fn has_room(&self, size: u64) -> io::Result<Result<(), (u64, u64)>> {
        let wanted = size.saturating_add(self.reserve);
        let mut unused = None;
        loop {
            let free = crate::disk::seen(&self.folder)?.free;
            if free >= wanted {
                return Ok(Ok(()));
            }
            let unused = unused.get_or_insert_with(|| self.unused());
            let Some((_, digest)) = unused.pop() else {
                return Ok(Err((free, wanted)));
            };
            self.remove_unused(&digest)?;
        }
    }

    /// What no lease names, the longest unused last.
    fn unused(&self) -> Vec<(u64, Digest)> {
        let state = self.state();
        let free = |digest: &&Digest| !state.pins.contains_key(*digest);
        let entries = state.entries.iter().filter(|(digest, _)| free(digest));
        let entries = entries.map(|(digest, entry)| (entry.used, *digest));
        let mut unused: Vec<_> = entries.collect();
        unused.sort_unstable_by(|a, b| b.cmp(a));
        unused
    }

    fn remove_unused(&self, digest: &Digest) -> io::Result<()> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(found) if found.nlink() > 1 => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Whoever takes a lease from now on finds it gone, and fetches it.
        let mut state = self.state();
        if state.pins.contains_key(digest) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        if let Some(entry) = state.entries.remove(digest) {
            state.total -= entry.size;
        }
        Ok(())
    }
}

fn now() -> SystemTime {
    let Timestamp(micros) = clock::now();
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros.unsigned_abs())
}

impl Cache {
    /// Takes in what an earlier life has left in `folder`; holds `limit` bytes at most and leaves `reserve`
    /// of the disk free. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(folder: PathBuf, (limit, reserve): (u64, u64)) -> io::Result<Self> {
        let tmp = folder.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        fs::create_dir_all(&tmp)?;
        let mut found = Vec::new();
        for shelf in fs::read_dir(&folder)? {
            let shelf = shelf?;
            if !shelf.file_type()?.is_dir() || shelf.file_name() == "tmp" {
                continue;
            }
            for file in fs::read_dir(shelf.path())? {
                let file = file?;
                let name = file.file_name();
                let digest = name
                    .to_str()
                    .and_then(|name| blake3::Hash::from_hex(name).ok());
                if let Some(digest) = digest {
                    let seen = file.metadata()?;
                    let used = (seen.atime(), seen.atime_nsec());
                    found.push((used, *digest.as_bytes(), seen.len()));
                }
            }
        }
        found.sort_unstable();
        let inner = Inner {
            folder,
            limit,
            reserve,
            state: Mutex::default(),
            flights: Mutex::default(),
        };
        for (_, digest, size) in found {
            inner.count(digest, size);
        }
        inner.make_room();
        Ok(Self(Arc::new(inner)))
    }

    /// Makes room for `size` more bytes on the disk.
    ///
    /// # Errors
    /// When what is not in use is too little.
    pub async fn make_room(&self, size: u64) -> Result<(), FetchError> {
        let found = self.blocking(move |inner| inner.has_room(size)).await?;
        let Err((free, wanted)) = found else {
            return Ok(());
        };
        Err(FetchError::Node(format!(
            "the disk of this node's data folder has {} free where {} are needed (datasets.reserve_mib of them stay free); make room there",
            super::size_text(free),
            super::size_text(wanted)
        )))
    }

    /// For one preparation.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease {
            cache: self.clone(),
            digests: Mutex::default(),
        }
    }

    /// Has the file with this content, got by `get` into the path that it is given unless it is there
    /// or on its way for somebody else. `get` answers for the content. True when it was there.
    ///
    /// # Errors
    /// Those of `get` and of the disk.
    pub async fn get<F: Future<Output = Result<(), FetchError>>>(
        &self,
        lease: &Lease,
        digest: Digest,
        size: u64,
        get: impl FnOnce(PathBuf) -> F,
    ) -> Result<bool, FetchError> {
        self.pin(lease, digest);
        let flight = self.flight(digest);
        let _alone = flight.lock().await;
        if self.blocking(move |inner| inner.has(&digest, size)).await? {
            return Ok(true);
        }
        let name = format!("{:032x}", rand::random::<u128>());
        let on_its_way = OnItsWay(self.0.folder.join("tmp").join(name));
        get(on_its_way.0.clone()).await?;
        self.blocking(move |inner| inner.take_in(&on_its_way.0, digest, size))
            .await?;
        Ok(false)
    }

    fn pin(&self, lease: &Lease, digest: Digest) {
        *self.0.state().pins.entry(digest).or_default() += 1;
        let mut digests = lease.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.push(digest);
    }

    /// Shared by all that want this content at the same time.
    fn flight(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self
            .0
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&digest).and_then(Weak::upgrade) {
            return flight;
        }
        if flights.len() >= 1_024 {
            flights.retain(|_, flight| flight.strong_count() > 0);
        }
        let flight = Arc::default();
        flights.insert(digest, Arc::downgrade(&flight));
        flight
    }

    /// Shows the content at `to`, by a hard link where the disk allows it. Blocks.
    ///
    /// # Errors
    /// When it is not in the cache, or `to` cannot be made.
    pub fn link(&self, digest: &Digest, to: &Path) -> io::Result<()> {
        let from = self.0.path(digest);
        match fs::hard_link(&from, to) {
            Err(error) if is_no_link(&error) => fs::copy(&from, to).map(drop),
            done => done,
        }
    }

    /// The content. Blocks.
    ///
    /// # Errors
    /// When it is not in the cache.
    pub fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        fs::read(self.0.path(digest))
    }

    /// What it holds, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.state().total
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FetchError> {
        let inner = Arc::clone(&self.0);
        let done = trainyard_runtime::blocking(move || work(&inner)).await;
        let done = done.map_err(io::Error::other).and_then(|done| done);
        done.map_err(|error| {
            FetchError::Node(format!(
                "the cache of this node: {error}; see the data folder's free disk space and permissions"
            ))
        })
    }
}

/// Another file system, one without hard links, or too many of them.
fn is_no_link(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests;
