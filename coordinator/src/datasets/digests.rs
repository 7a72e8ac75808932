//! Digests of files, taken in parallel and kept as long as a file is the same.
//!
//! Owns the folder of kept digests, one file for each place; losing it costs time and nothing else. A
//! digest is kept by size and stamp, unless the file was changed so shortly before it was read that a
//! second change could carry the same stamp. Called when a snapshot is made.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use trainyard_core::time::Timestamp;

use crate::{
    clock,
    storage::{Entry, Place, StorageError},
};

/// Clocks of file systems tick at most this slowly.
const RACY: Duration = Duration::from_secs(3);

/// A file's digest.
pub(super) type Digest = [u8; 32];

/// The kept digests. A clone shares them.
#[derive(Clone, Debug)]
pub(super) struct Digests {
    folder: Arc<Path>,
    parallel: usize,
}

/// One kept digest, as a line has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    path: String,
    size: u64,
    stamp: String,
    digest: String,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Taken {
    /// Of every entry, in order.
    All(Vec<Digest>),
    /// So many, when time was up. They are kept.
    Some(u64),
}

impl Digests {
    pub(super) fn new(folder: PathBuf, parallel: usize) -> Self {
        Self {
            folder: folder.into(),
            parallel: parallel.max(1),
        }
    }

    /// The digest of every entry of `place`, within `limit`.
    pub(super) async fn take(
        &self,
        place: &Place,
        entries: &[Entry],
        limit: Duration,
    ) -> Result<Taken, StorageError> {
        let file = self.file(&place.name());
        let known = Arc::new(read(file.clone()).await);
        let fresh: Mutex<BTreeMap<String, Kept>> = Mutex::default();
        let done = AtomicU64::new(0);
        let began = clock::now();
        let one = |entry: Entry| {
            let (known, place) = (Arc::clone(&known), place.clone());
            let (fresh, done) = (&fresh, &done);
            async move {
                let before = known.get(&entry.path).and_then(|kept| still(kept, &entry));
                let digest = match before {
                    Some(digest) => digest,
                    None => place.digest(entry.clone()).await?,
                };
                done.fetch_add(1, Ordering::Relaxed);
                if let Some(kept) = keep(&entry, &digest, began) {
                    let mut fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
                    fresh.insert(entry.path, kept);
                }
                Ok(digest)
            }
        };
        let work = stream::iter(entries.iter().cloned().map(one)).buffered(self.parallel);
        let taken = tokio::time::timeout(limit, work.try_collect::<Vec<_>>()).await;
        let fresh = fresh.into_inner().unwrap_or_else(PoisonError::into_inner);
        if taken.is_ok() {
            save(file, &known, fresh).await;
        } else {
            // What was not reached this time is still known.
            let all = known
                .iter()
                .map(|(path, kept)| (path.clone(), kept.clone()));
            let all = all.chain(fresh).collect();
            save(file, &known, all).await;
        }
        match taken {
            Ok(digests) => digests.map(Taken::All),
            Err(_) => Ok(Taken::Some(done.load(Ordering::Relaxed))),
        }
    }

    fn file(&self, place: &str) -> PathBuf {
        let name = blake3::hash(place.as_bytes()).to_hex();
        self.folder.join(format!("{name}.jsonl"))
    }
}

/// The digest that was taken before, if the file is the same by all that can be seen.
fn still(kept: &Kept, entry: &Entry) -> Option<Digest> {
    let same = kept.size == entry.size && Some(&kept.stamp) == entry.stamp.as_ref();
    let hash = blake3::Hash::from_hex(&kept.digest).ok().filter(|_| same)?;
    Some(*hash.as_bytes())
}

/// What is worth keeping: of a file changed just now nothing, for it may change again unseen.
fn keep(entry: &Entry, digest: &Digest, began: Timestamp) -> Option<Kept> {
    let racy = entry.changed_at.is_some_and(|at| at.plus(RACY) > began);
    let stamp = entry.stamp.clone().filter(|_| !racy)?;
    Some(Kept {
        path: entry.path.clone(),
        size: entry.size,
        stamp,
        digest: blake3::Hash::from_bytes(*digest).to_hex().to_string(),
    })
}

async fn read(file: PathBuf) -> BTreeMap<String, Kept> {
    let reading = move || {
        let Ok(source) = std::fs::File::open(file) else {
            return BTreeMap::new();
        };
        let lines = BufReader::new(source).lines().map_while(Result::ok);
        let kept = lines.filter_map(|line| serde_json::from_str::<Kept>(&line).ok());
        kept.map(|kept| (kept.path.clone(), kept)).collect()
    };
    tokio::task::spawn_blocking(reading)
        .await
        .unwrap_or_default()
}

/// Replaces the file as a whole, when there is something new.
async fn save(file: PathBuf, known: &BTreeMap<String, Kept>, all: BTreeMap<String, Kept>) {
    if *known == all {
        return;
    }
    let writing = move || -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let draft = file.with_extension(format!("{:016x}.new", rand::random::<u64>()));
        let mut out = BufWriter::new(std::fs::File::create(&draft)?);
        for kept in all.values() {
            serde_json::to_writer(&mut out, kept)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        std::fs::rename(draft, file)
    };
    match tokio::task::spawn_blocking(writing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "digests could not be kept; they are taken again next time")
        }
        Err(error) => tracing::warn!(%error, "digests could not be kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stamp: Option<&str>, changed_at: Option<i64>) -> Entry {
        Entry {
            path: "a".into(),
            size: 3,
            stamp: stamp.map(str::to_owned),
            changed_at: changed_at.map(Timestamp),
        }
    }

    #[test]
    fn a_file_changed_just_now_is_read_again_next_time() {
        let began = Timestamp(100_000_000);
        assert!(keep(&entry(Some("t"), Some(96_000_000)), &[1; 32], began).is_some());
        assert!(keep(&entry(Some("t"), Some(97_500_000)), &[1; 32], began).is_none());
        assert!(keep(&entry(Some("t"), Some(200_000_000)), &[1; 32], began).is_none());
        assert!(keep(&entry(Some("etag"), None), &[1; 32], began).is_some());
        assert!(keep(&entry(None, None), &[1; 32], began).is_none());
    }

    #[test]
    fn a_kept_digest_counts_only_for_the_same_size_and_stamp() {
        let kept = keep(&entry(Some("t"), None), &[7; 32], Timestamp(0)).unwrap();
        assert_eq!(still(&kept, &entry(Some("t"), None)), Some([7; 32]));
        assert_eq!(still(&kept, &entry(Some("u"), None)), None);
        assert_eq!(
            still(
                &kept,
                &Entry {
                    size: 4,
                    ..entry(Some("t"), None)
                }
            ),
            None
        );
        assert_eq!(still(&kept, &entry(None, None)), None);
    }
}
