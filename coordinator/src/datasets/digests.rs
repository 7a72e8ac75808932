//! Digests of files, taken in parallel and kept as long as a file is the same.
//!
//! Owns the folder of kept digests, one file for each place; losing it costs time and nothing else. A
//! digest is kept by size and stamp, unless the file was changed so shortly before it was read that a
//! second change could carry the same stamp. Called when a snapshot is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
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

    /// The digest of every entry of `place`, as far as they are taken before `deadline`. What may be long for a large dataset is done
    /// where it blocks nobody.
    pub(super) async fn take(
        &self,
        place: &Place,
        entries: &Arc<[Entry]>,
        deadline: Instant,
    ) -> Result<Taken, StorageError> {
        let file = self.file(&place.name());
        let began = clock::now();
        let looked = {
            let (file, entries) = (file.clone(), Arc::clone(entries));
            trainyard_runtime::blocking(move || look_up(read(&file), &entries))
        };
        let (known, mut digests) = looked.await.map_err(|error| broken(&error))?;
        let one = |number: usize, entry: Entry| async move {
            let digest = place.digest(entry).await?;
            Ok::<_, StorageError>((number, digest))
        };
        let missing = missing(entries, &digests);
        let missing = missing
            .into_iter()
            .map(|(number, entry)| one(number, entry));
        // In whatever order: one that is slow holds up no others.
        let mut work = std::pin::pin!(stream::iter(missing).buffer_unordered(self.parallel));
        let mut fresh = Vec::new();
        let taking = async {
            while let Some(taken) = work.try_next().await? {
                fresh.push(taken);
            }
            Ok(())
        };
        let outcome = timeout_at(deadline, taking).await;
        let entries = Arc::clone(entries);
        let keeping = trainyard_runtime::blocking(move || {
            for (number, digest) in fresh {
                if let Some(place) = digests.get_mut(number) {
                    *place = Some(digest);
                }
            }
            remember(&file, known, (&entries, &digests), began);
            digests
        });
        let digests = keeping.await.map_err(|error| broken(&error))?;
        if let Ok(Err(error)) = outcome {
            return Err(error);
        }
        let count = digests.iter().flatten().count() as u64;
        let all: Option<Vec<Digest>> = digests.into_iter().collect();
        Ok(all.map_or(Taken::Some(count), Taken::All))
    }

    /// Removes what was last written before a time and is of none of these places, drafts among it; says how
    /// many files. Blocks.
    pub(super) fn tidy(&self, places: &BTreeSet<String>, before: Timestamp) -> u64 {
        let wanted: BTreeSet<PathBuf> = places.iter().map(|place| self.file(place)).collect();
        // One that is not there yet has nothing to tidy.
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let gone = paths.filter(|path| !wanted.contains(path) && is_older(path, before));
        let removed = gone.map(std::fs::remove_file);
        removed.filter(Result::is_ok).count() as u64
    }

    fn file(&self, place: &str) -> PathBuf {
        let name = blake3::hash(place.as_bytes()).to_hex();
        self.folder.join(format!("{name}.jsonl"))
    }
}

fn is_older(path: &Path, before: Timestamp) -> bool {
    let written = path.metadata().and_then(|about| about.modified()).ok();
    let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    micros.is_some_and(|micros| micros < before.0)
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

/// By path. Blocks.
type Known = BTreeMap<String, Kept>;

fn read(file: &Path) -> Known {
    let Ok(source) = std::fs::File::open(file) else {
        return Known::new();
    };
    let lines = BufReader::new(source).lines().map_while(Result::ok);
    let kept = lines.filter_map(|line| serde_json::from_str::<Kept>(&line).ok());
    kept.map(|kept| (kept.path.clone(), kept)).collect()
}

/// What is known, and of that the digest of each entry.
fn look_up(known: Known, entries: &[Entry]) -> (Known, Vec<Option<Digest>>) {
    let digest = |entry: &Entry| known.get(&entry.path).and_then(|kept| still(kept, entry));
    let digests = entries.iter().map(digest).collect();
    (known, digests)
}

/// The entries without a digest, by number.
fn missing(entries: &[Entry], digests: &[Option<Digest>]) -> Vec<(usize, Entry)> {
    let all = entries.iter().zip(digests).enumerate();
    all.filter(|(_, (_, digest))| digest.is_none())
        .map(|(number, (entry, _))| (number, entry.clone()))
        .collect()
}

fn broken(error: &tokio::task::JoinError) -> StorageError {
    StorageError::Failed(format!("the digests could not be taken: {error}"))
}

/// Keeps the digests that were taken and, of files that were not reached this time, those known before.
fn remember(
    file: &Path,
    known: Known,
    (entries, digests): (&[Entry], &[Option<Digest>]),
    began: Timestamp,
) {
    let mut all = Known::new();
    for (entry, digest) in entries.iter().zip(digests) {
        let kept = match digest {
            Some(digest) => keep(entry, digest, began),
            None => known.get(&entry.path).cloned(),
        };
        all.extend(kept.map(|kept| (kept.path.clone(), kept)));
    }
    if all == known {
        return;
    }
    if let Err(error) = save(file, &all) {
        tracing::warn!(%error, "digests could not be kept; they are taken again next time");
    }
}

/// Replaces the file as a whole.
fn save(file: &Path, all: &Known) -> std::io::Result<()> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stamp: Option<&str>, changed_at: Option<i64>) -> Entry {
        Entry {
            path: "a".into(),
            size: 3,
            stamp: stamp.map(str::to_owned),
            written_at: None,
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
