//! Objects get other names: a copy and a delete, since stores have no rename.
//!
//! Owns how an object is copied that is too large for one request. Called by [`super::Remote`]'s callers.

use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart, path::Path};

use super::{Remote, StorageError, read_only};

/// What stores copy in one request; S3 no more.
const COPIED_AT_ONCE: u64 = 5 << 30;
/// Pieces of a copy that goes through the coordinator, and how many are under way at once.
const PART: usize = 32 << 20;
const PARTS: usize = 3;

impl Remote {
    /// A store says nothing while it copies.
    fn copier(&self) -> &dyn ObjectStore {
        self.bucket
            .as_ref()
            .map_or(&*self.store, |bucket| &*bucket.patient)
    }

    /// Gives an object another name; what had it is replaced, by a whole object or not at all.
    pub(in crate::storage) async fn rename(
        &self,
        from: &str,
        to: &str,
    ) -> Result<(), StorageError> {
        self.rename_within(from, to, COPIED_AT_ONCE).await
    }

    /// The store itself copies objects of at most `at_once` bytes.
    async fn rename_within(&self, from: &str, to: &str, at_once: u64) -> Result<(), StorageError> {
        if self.is_web() {
            return Err(read_only(&self.url));
        }
        let large = self.stat(from).await?.size > at_once;
        let (source, target) = (self.at(from)?, self.at(to)?);
        let copied = match large {
            true => self.copy_in_parts(&source, &target).await,
            false => self.copier().copy(&source, &target).await,
        };
        copied.map_err(|error| self.told(from, &error))?;
        self.remove(from).await
    }

    async fn copy_in_parts(&self, from: &Path, to: &Path) -> object_store::Result<()> {
        let mut bytes = self.store.get(from).await?.into_stream();
        let target = self.copier().put_multipart(to).await?;
        let mut target = WriteMultipart::new_with_chunk_size(target, PART);
        let written = async {
            while let Some(chunk) = bytes.try_next().await? {
                target.wait_for_capacity(PARTS).await?;
                target.put(chunk);
            }
            Ok(())
        };
        match written.await {
            Ok(()) => target.finish().await.map(drop),
            Err(error) => {
                // What cannot be given up costs until the bucket's own rules clear it away.
                target.abort().await.ok();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::address::Service;

    #[tokio::test]
    async fn an_object_too_large_to_be_copied_at_once_gets_its_new_name_too() {
        let mut remote = Remote::bucket((Service::S3, "b", "train"), &Vec::new()).unwrap();
        remote.store = Arc::new(object_store::memory::InMemory::new());
        remote.bucket.as_mut().unwrap().patient = Arc::clone(&remote.store);
        let large: Vec<u8> = (0..=250).cycle().take(PART + 7).collect();
        for (at_once, old) in [(1, "old"), (u64::MAX, "older")] {
            remote.write("to", old.into()).await.unwrap();
            remote.write("from", large.clone()).await.unwrap();
            remote.rename_within("from", "to", at_once).await.unwrap();
            assert_eq!(remote.read("to", u64::MAX).await.unwrap(), large);
            let gone = remote.stat("from").await.unwrap_err();
            assert!(matches!(gone, StorageError::NotFound(_)), "{gone:?}");
        }
        let none = remote.rename_within("from", "to", 1).await.unwrap_err();
        assert!(matches!(none, StorageError::NotFound(_)), "{none:?}");
        assert_eq!(remote.read("to", u64::MAX).await.unwrap(), large);
    }
}
