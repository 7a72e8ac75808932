//! Whether the files of a snapshot are still what they were, looked at before a node shows them to a trainer.
//!
//! Owns which difference is told: that of the first path. A node verifies each file that it fetches; but one that
//! has them from an earlier job fetches none, and what becomes of a job must not hang on which node it came to.
//! What cannot be told in time, or because the folder holds something else that is refused, is left to the nodes.
//! Called when a node asks for a snapshot's files.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use trainyard_core::{dataset::MOST_DOCUMENT_BYTES, snapshot::Snapshot};
use trainyard_proto::{status::Kind, v1::ChangedFile};

use super::{
    Datasets,
    digests::{Digest, Taken},
    manifest::{Line, Lines, lost},
};
use crate::{
    api::ApiError,
    storage::{Entry, Place, StorageError},
};

/// A node waits a minute for each message.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is there now, in the order of paths.
struct Now {
    entries: Arc<[Entry]>,
    digests: Vec<Digest>,
}

impl Datasets {
    /// The first file of a snapshot that is another now; none while all are as recorded, and where that cannot be
    /// told.
    ///
    /// # Errors
    /// When the list of the snapshot's files cannot be read.
    pub(super) async fn difference(
        &self,
        snapshot: &Snapshot,
        place: &Result<Place, ApiError>,
    ) -> Result<Option<ChangedFile>, ApiError> {
        let place = match place {
            Ok(place) => place,
            Err(error) => {
                let error = lost(error.clone());
                if error.kind != Kind::NotFound {
                    return Err(error);
                }
                let first = self.lines(&snapshot.id).await?.next().await?;
                return Ok(first.map(|line| gone(line, &error.message)));
            }
        };
        let deadline = Instant::now() + PATIENCE;
        match self.now(place, deadline).await {
            Ok(Some(now)) => {
                let mut lines = self.lines(&snapshot.id).await?;
                self.compare(snapshot, &mut lines, &now).await
            }
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::debug!(snapshot = snapshot.id, %error, "the dataset cannot be looked at as a whole");
                self.look_at_each(snapshot, place).await
            }
        }
    }

    /// None when time is up.
    async fn now(&self, place: &Place, deadline: Instant) -> Result<Option<Now>, StorageError> {
        let listing = async {
            let _reader = self.inner.readers.acquire().await;
            place.list("", self.inner.most).await
        };
        let Ok(entries) = timeout_at(deadline, listing).await else {
            return Ok(None);
        };
        let entries: Arc<[Entry]> = entries?.into();
        match self.inner.digests.take(place, &entries, deadline).await? {
            Taken::All(digests) => Ok(Some(Now { entries, digests })),
            Taken::Some(_) => Ok(None),
        }
    }

    async fn compare(
        &self,
        snapshot: &Snapshot,
        lines: &mut Lines,
        now: &Now,
    ) -> Result<Option<ChangedFile>, ApiError> {
        while let Some(line) = lines.next().await? {
            let seen = match self.apart(snapshot, &line.path).await.map_err(lost) {
                Ok(None) => now.of(&line.path),
                Ok(Some((place, file))) => document(&place, &file).await?,
                Err(error) if error.kind == Kind::NotFound => {
                    return Ok(Some(gone(line, &error.message)));
                }
                Err(error) => return Err(error),
            };
            let how = match seen {
                None => "is not there any more".to_owned(),
                Some((size, _)) if size != line.size => {
                    format!("has {size} bytes in place of {}", line.size)
                }
                Some((_, digest)) if is_of(&line, digest) => continue,
                Some(_) => "has another content".to_owned(),
            };
            let path = line.path;
            return Ok(Some(ChangedFile { path, how }));
        }
        Ok(None)
    }

    /// Something in the folder is refused, and it may be one of the snapshot's files. That costs nothing in a folder
    /// of this machine; elsewhere it is left to the nodes.
    async fn look_at_each(
        &self,
        snapshot: &Snapshot,
        place: &Place,
    ) -> Result<Option<ChangedFile>, ApiError> {
        if !place.is_folder() {
            return Ok(None);
        }
        let mut lines = self.lines(&snapshot.id).await?;
        while let Some(line) = lines.next().await? {
            let apart = snapshot.document.as_ref();
            if apart.is_some_and(|document| document.path == line.path) {
                continue;
            }
            match place.size(&line.path).await {
                Ok(_) => {}
                Err(error @ (StorageError::NotFound(_) | StorageError::Refused(_))) => {
                    return Ok(Some(gone(line, &error.to_string())));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

impl Now {
    /// Size and digest of a file.
    fn of(&self, path: &str) -> Option<(u64, Digest)> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.path.as_str().cmp(path))
            .ok()?;
        Some((self.entries.get(at)?.size, *self.digests.get(at)?))
    }
}

/// Size and digest of a document that lies elsewhere.
async fn document(place: &Place, file: &str) -> Result<Option<(u64, Digest)>, ApiError> {
    match place.read(file, MOST_DOCUMENT_BYTES).await {
        Ok(bytes) => Ok(Some((bytes.len() as u64, *blake3::hash(&bytes).as_bytes()))),
        Err(StorageError::NotFound(_) | StorageError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_of(line: &Line, digest: Digest) -> bool {
    blake3::Hash::from_hex(&line.digest).is_ok_and(|recorded| *recorded.as_bytes() == digest)
}

fn gone(line: Line, why: &str) -> ChangedFile {
    ChangedFile {
        path: line.path,
        how: format!("is not there any more ({why})"),
    }
}
