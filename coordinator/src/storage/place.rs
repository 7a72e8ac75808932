//! Somewhere with files: listing, reading, hashing and writing, whatever kind of place it is.
//!
//! Owns that nothing here blocks the runtime. Made by `storage`; called by `datasets` and the doors.

use std::{io::ErrorKind, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::io::AsyncReadExt as _;
use tokio_util::bytes::Bytes;
use trainyard_core::{resources::format_bytes, time::Timestamp};

use super::{
    Entry, StorageError, blocking,
    local::{Draft, Folder},
    remote::{Parts, Remote},
};

/// Bytes handed on at once when a file is served.
const CHUNK: usize = 256 << 10;

/// Somewhere with files. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Place(pub(super) Kind);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Folder(Folder),
    Remote(Remote),
}

/// A file's bytes in order.
pub type Bits = BoxStream<'static, Result<Bytes, StorageError>>;

impl Place {
    /// As a user would write it.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Folder(folder) => folder.path().display().to_string(),
            Kind::Remote(remote) => remote.url().to_owned(),
        }
    }

    /// Whether it is a folder of this machine.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        match &self.0 {
            Kind::Folder(_) => true,
            Kind::Remote(_) => false,
        }
    }

    /// What a file of this place is called by those who ask where it lies.
    #[must_use]
    pub fn location(&self, file: &str) -> String {
        format!("{}/{file}", self.name().trim_end_matches('/'))
    }

    /// Every file below `prefix` (empty for all), sorted by path.
    ///
    /// # Errors
    /// When there are more than `most`, or something is no file, or the place cannot be read.
    pub async fn list(&self, prefix: &str, most: usize) -> Result<Vec<Entry>, StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, prefix) = (folder.clone(), prefix.to_owned());
                blocking(move || folder.list(&prefix, most)).await
            }
            Kind::Remote(remote) => remote.list(prefix, most).await,
        }
    }

    /// The blake3 of a listed file, which must not have changed since.
    ///
    /// # Errors
    /// When it has, or cannot be read.
    pub async fn digest(&self, listed: Entry) -> Result<[u8; 32], StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.digest(&listed)).await
            }
            Kind::Remote(remote) => remote.digest(&listed).await,
        }
    }

    /// A whole file of at most `most` bytes.
    ///
    /// # Errors
    /// When it is larger, not there, or cannot be read.
    pub async fn read(&self, file: &str, most: u64) -> Result<Vec<u8>, StorageError> {
        let Kind::Folder(folder) = &self.0 else {
            let Kind::Remote(remote) = &self.0 else {
                return Err(StorageError::NotFound(file.to_owned()));
            };
            return remote.read(file, most).await;
        };
        let (folder, file) = (folder.clone(), file.to_owned());
        blocking(move || {
            let (source, size) = folder.read(&file)?;
            let large = StorageError::TooLarge(format!("'{file}' is larger than {most} bytes"));
            if size > most {
                return Err(large);
            }
            let mut bytes = Vec::new();
            let mut source = std::io::Read::take(source, most + 1);
            std::io::Read::read_to_end(&mut source, &mut bytes)
                .map_err(|error| StorageError::Failed(format!("'{file}': {error}")))?;
            if bytes.len() as u64 > most {
                Err(large)
            } else {
                Ok(bytes)
            }
        })
        .await
    }

    /// A file's size and its bytes in pieces.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub async fn stream(&self, file: &str) -> Result<(u64, Bits), StorageError> {
        let folder = match &self.0 {
            Kind::Folder(folder) => folder.clone(),
            Kind::Remote(remote) => return remote.stream(file).await,
        };
        let name = file.to_owned();
        let (source, size) = blocking(move || folder.read(&name)).await?;
        let mut source = tokio::fs::File::from_std(source);
        let name = file.to_owned();
        let bits = async_stream::try_stream! {
            let mut left = size;
            while left > 0 {
                let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let mut buffer = vec![0; room];
                let read = source.read(&mut buffer).await
                    .map_err(|error| StorageError::Failed(format!("'{name}': {error}")))?;
                if read == 0 {
                    Err(StorageError::Changed(name.clone()))?;
                }
                buffer.truncate(read);
                left = left.saturating_sub(read as u64);
                yield Bytes::from(buffer);
            }
        };
        Ok((size, bits.boxed()))
    }

    /// Stores a whole file; on disk when this returns.
    ///
    /// # Errors
    /// When the place is only read or cannot be written.
    pub async fn write(&self, file: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, file) = (folder.clone(), file.to_owned());
                blocking(move || folder.write(&file, &bytes)).await
            }
            Kind::Remote(remote) => remote.write(file, bytes).await,
        }
    }

    /// The size of a file.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub async fn size(&self, file: &str) -> Result<u64, StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, file) = (folder.clone(), file.to_owned());
                blocking(move || folder.read(&file).map(|(_, size)| size)).await
            }
            Kind::Remote(remote) => remote.stat(file).await.map(|entry| entry.size),
        }
    }

    /// Gives a file another name; what had it is replaced.
    ///
    /// # Errors
    /// When it is not there, or the place is only read or cannot be written.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, from, to) = (folder.clone(), from.to_owned(), to.to_owned());
                blocking(move || folder.rename(&from, &to)).await
            }
            Kind::Remote(remote) => remote.rename(from, to).await,
        }
    }

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// When the place is only read or cannot be written.
    pub async fn remove(&self, file: &str) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, file) = (folder.clone(), file.to_owned());
                blocking(move || folder.remove(&file)).await
            }
            Kind::Remote(remote) => remote.remove(file).await,
        }
    }

    /// Removes files that were begun, never kept, and last written before a time; says how many.
    ///
    /// # Errors
    /// When the place cannot be read or written.
    pub async fn remove_drafts(&self, before: Timestamp) -> Result<u64, StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.remove_drafts(before)).await
            }
            // A store shows nothing that is not whole.
            Kind::Remote(_) => Ok(0),
        }
    }

    /// Removes folders in `below` that are empty and were last changed before a time.
    ///
    /// # Errors
    /// When the place cannot be read or written.
    pub async fn remove_empty(&self, below: &str, before: Timestamp) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, below) = (folder.clone(), below.to_owned());
                blocking(move || folder.remove_empty(&below, before)).await
            }
            // A store has none.
            Kind::Remote(_) => Ok(()),
        }
    }

    /// Removes a folder that may be empty; one that is not stays.
    ///
    /// # Errors
    /// When the place cannot be written.
    pub async fn remove_folder(&self, folder: &str) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Folder(home) => {
                let (home, folder) = (home.clone(), folder.to_owned());
                blocking(move || home.remove_folder(&folder)).await
            }
            // A store has none.
            Kind::Remote(_) => Ok(()),
        }
    }

    /// Begins a file of `size` bytes in parts of about `part`, each with a URL of its own; none where it
    /// goes in one request.
    ///
    /// # Errors
    /// When the store cannot begin it, or does not take so much.
    pub async fn begin(
        &self,
        file: &str,
        sizes: (u64, u64),
        span: Duration,
    ) -> Result<Option<Parts>, StorageError> {
        match &self.0 {
            Kind::Folder(_) => Ok(None),
            Kind::Remote(remote) => remote.begin(file, sizes, span).await,
        }
    }

    /// Makes a file of its parts; `tags` are what the store answered to each, in order. One that was made
    /// already, and has that size, is good.
    ///
    /// # Errors
    /// When a part is missing, or the place takes no parts.
    pub async fn complete(
        &self,
        file: &str,
        (id, tags): (&str, Vec<String>),
        size: u64,
    ) -> Result<(), StorageError> {
        self.in_parts()?.complete(file, (id, tags), size).await
    }

    /// Forgets the parts of a file that will not be whole.
    ///
    /// # Errors
    /// When the store cannot, or the place takes no parts.
    pub async fn abort(&self, file: &str, id: &str) -> Result<(), StorageError> {
        self.in_parts()?.abort(file, id).await
    }

    fn in_parts(&self) -> Result<&Remote, StorageError> {
        match &self.0 {
            Kind::Remote(remote) => Ok(remote),
            Kind::Folder(_) => {
                let words = "files of this place come in one request, not in parts";
                Err(StorageError::Refused(words.to_owned()))
            }
        }
    }

    /// Begins a file that comes in pieces; only folders take such.
    ///
    /// # Errors
    /// When the place is none, or cannot be written.
    pub async fn receive(&self) -> Result<Incoming, StorageError> {
        let Kind::Folder(folder) = &self.0 else {
            let words = "files are sent to the object store itself, with a signed URL";
            return Err(StorageError::Refused(words.to_owned()));
        };
        let folder = folder.clone();
        let draft = blocking(move || folder.draft()).await?;
        Ok(Incoming { draft })
    }
}

/// A file on its way in. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    draft: Draft,
}

impl Incoming {
    /// Sees that there is room for so many more bytes beside what the platform needs for itself: a checkpoint must not take
    /// the last room from the store, which may be on the same disk.
    ///
    /// # Errors
    /// [`StorageError::Full`] when there is not.
    pub fn has_room(&self, more: u64, reserve: u64) -> Result<(), StorageError> {
        let free = self.draft.free();
        let free =
            free.map_err(|error| StorageError::Failed(format!("cannot be stored: {error}")))?;
        if free >= more.saturating_add(reserve) {
            return Ok(());
        }
        let [free, more, reserve] = [free, more, reserve].map(format_bytes);
        Err(StorageError::Full(format!(
            "the coordinator's disk has {free} free where {more} more of this file are to come and {reserve} stay free (store.reserve_mib); make room there, or set storage.artifacts to another place"
        )))
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written; [`StorageError::Full`] for want of room.
    pub async fn write(self, bytes: Bytes) -> Result<Self, StorageError> {
        let mut draft = self.draft;
        blocking(move || {
            draft.write(&bytes).map_err(|error| {
                let words = format!("cannot be stored: {error}");
                let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
                match full.contains(&error.kind()) {
                    true => StorageError::Full(words),
                    false => StorageError::Failed(words),
                }
            })?;
            Ok(Self { draft })
        })
        .await
    }

    /// Puts the file in its place, on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn keep(self, file: &str) -> Result<(), StorageError> {
        let file = file.to_owned();
        blocking(move || self.draft.keep(&file)).await
    }
}
