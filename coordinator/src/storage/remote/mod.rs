//! Buckets, and web servers that are only read, by way of `object_store`.
//!
//! Owns what is asked of a store and that answers are bounded. Never shows a credential: trainers get URLs
//! that are signed here. How a store is made is in `build`, what it says when it refuses in `told`, other
//! names in `copy`, large files in `parts`, what is special about web servers in `web`. Called by `storage`.

mod build;
mod copy;
mod parts;
mod told;
mod web;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, multipart::MultipartStore,
    path::Path, signer::Signer,
};
use tokio_util::bytes::Bytes;
use url::Url;

use super::{Entry, StorageError, address::Service, blocking, guard::Guard};

pub use self::parts::{Part, Parts};

/// A bucket with a prefix, or a folder of a web server. A clone is cheap.
#[derive(Clone)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    /// None of a web server.
    bucket: Option<Bucket>,
    prefix: Path,
    url: Arc<str>,
}

/// What only buckets can.
#[derive(Clone)]
struct Bucket {
    service: Service,
    signer: Arc<dyn Signer>,
    /// Waits longer for an answer: a copy of much, or one file of many parts, takes minutes.
    patient: Arc<dyn ObjectStore>,
    parts: Arc<dyn MultipartStore>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Options of a store by name, as `object_store` knows them.
pub(super) type Options = Vec<(String, String)>;

impl Remote {
    /// A bucket. `options` go before what the coordinator's own environment says.
    pub(super) fn bucket(
        (service, name, prefix): (Service, &str, &str),
        options: &Options,
    ) -> Result<Self, StorageError> {
        let made = build::bucket(service, name, options)?;
        let scheme = service.scheme();
        let prefix =
            Path::parse(prefix).map_err(|error| StorageError::Address(error.to_string()))?;
        let slash = if prefix.as_ref().is_empty() { "" } else { "/" };
        Ok(Self {
            url: format!("{scheme}://{name}{slash}{prefix}").into(),
            store: made.store,
            bucket: Some(Bucket {
                service,
                signer: made.signer,
                patient: made.patient,
                parts: made.parts,
            }),
            prefix,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn at(&self, relative: &str) -> Result<Path, StorageError> {
        super::check_key(relative)?;
        let whole = match self.prefix.as_ref() {
            "" => relative.to_owned(),
            prefix => format!("{prefix}/{relative}"),
        };
        Path::parse(whole).map_err(|error| {
            StorageError::Refused(format!("'{relative}' is no name for an object: {error}"))
        })
    }

    /// What a file is called in messages.
    fn name(&self, relative: &str) -> String {
        match relative {
            "" => self.url.to_string(),
            name => format!("{}/{name}", self.url),
        }
    }

    /// Every object below `prefix`, page by page, sorted by path, at most `most`.
    pub(super) async fn list(&self, prefix: &str, most: usize) -> Result<Vec<Entry>, StorageError> {
        let below = match prefix.trim_matches('/') {
            "" => self.prefix.clone(),
            prefix => self.at(prefix)?,
        };
        match self.listed(&below, most).await {
            Err(error) if self.is_web() && !matches!(error, StorageError::TooLarge(_)) => {
                self.indexed(most, &error).await
            }
            listed => listed,
        }
    }

    async fn listed(&self, below: &Path, most: usize) -> Result<Vec<Entry>, StorageError> {
        let some = (!below.as_ref().is_empty()).then_some(below);
        let mut pages = self.store.list(some);
        let mut found = Vec::new();
        while let Some(meta) = pages
            .try_next()
            .await
            .map_err(|error| self.told("", &error))?
        {
            let key = meta.location.as_ref();
            let relative = match self.prefix.as_ref() {
                "" => key,
                prefix => key
                    .strip_prefix(prefix)
                    .unwrap_or(key)
                    .trim_start_matches('/'),
            };
            let path = relative.to_owned();
            found.push(self.entry(path, meta));
            if found.len() > most {
                return Err(super::too_many(&self.url, most));
            }
        }
        blocking(move || Ok(without_markers(found))).await
    }

    fn entry(&self, path: String, meta: ObjectMeta) -> Entry {
        let written = trainyard_core::time::Timestamp(meta.last_modified.timestamp_micros());
        // A weak tag promises less than the same bytes.
        let tag = meta.e_tag.filter(|tag| !tag.starts_with("W/"));
        Entry {
            path,
            size: meta.size,
            stamp: tag.map(|tag| format!("{tag}.{}", written.0)),
            written_at: Some(written),
            // The tags of web servers are often made of the time in seconds and the size.
            changed_at: Some(written).filter(|_| self.is_web()),
        }
    }

    /// One object without its bytes.
    pub(super) async fn stat(&self, name: &str) -> Result<Entry, StorageError> {
        let meta = self.store.head(&self.at(name)?).await;
        let meta = meta.map_err(|error| self.told(name, &error))?;
        Ok(self.entry(name.to_owned(), meta))
    }

    /// The object's size and its bytes.
    pub(super) async fn stream(
        &self,
        relative: &str,
    ) -> Result<(u64, BoxStream<'static, Result<Bytes, StorageError>>), StorageError> {
        let at = self.at(relative)?;
        let got = self.store.get_opts(&at, GetOptions::default()).await;
        let got = got.map_err(|error| self.told(relative, &error))?;
        let (place, name) = (self.clone(), relative.to_owned());
        let size = got.meta.size;
        let bytes = got
            .into_stream()
            .map_err(move |error| place.told(&name, &error));
        Ok((size, bytes.boxed()))
    }

    pub(super) async fn read(&self, relative: &str, most: u64) -> Result<Vec<u8>, StorageError> {
        let (size, mut bytes) = self.stream(relative).await?;
        let large = || StorageError::TooLarge(format!("'{relative}' is larger than {most} bytes"));
        if size > most {
            return Err(large());
        }
        let mut whole = Vec::new();
        while let Some(chunk) = bytes.try_next().await? {
            whole.extend_from_slice(&chunk);
            if whole.len() as u64 > most {
                return Err(large());
            }
        }
        Ok(whole)
    }

    /// The blake3 of an object that is still as long as the list said.
    pub(super) async fn digest(&self, listed: &Entry) -> Result<[u8; 32], StorageError> {
        let (_, mut bytes) = self.stream(&listed.path).await?;
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        while let Some(chunk) = bytes.try_next().await? {
            size += chunk.len() as u64;
            hasher.update(&chunk);
        }
        if size != listed.size {
            return Err(StorageError::Changed(listed.path.clone()));
        }
        Ok(*hasher.finalize().as_bytes())
    }

    pub(super) async fn write(&self, relative: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        if self.is_web() {
            return Err(read_only(&self.url));
        }
        let at = self.at(relative)?;
        let put = self.store.put(&at, bytes.into()).await;
        put.map(drop).map_err(|error| self.told(relative, &error))
    }

    pub(super) async fn remove(&self, relative: &str) -> Result<(), StorageError> {
        if self.is_web() {
            return Err(read_only(&self.url));
        }
        match self.store.delete(&self.at(relative)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.told(relative, &error)),
        }
    }

    /// A URL signed by the store; none where the store signs nothing, or not this name.
    pub(super) async fn sign(
        &self,
        method: http::Method,
        relative: &str,
        span: Duration,
    ) -> Result<Option<Url>, StorageError> {
        let Some(bucket) = &self.bucket else {
            return Ok(None);
        };
        let at = self.at(relative)?;
        if !bucket.signs(&at) {
            return match method {
                http::Method::GET => Ok(None),
                _ => Err(odd_name(relative)),
            };
        }
        let signed = bucket.signer.signed_url(method, &at, span).await;
        signed
            .map(Some)
            .map_err(|error| self.told(relative, &error))
    }

    fn is_web(&self) -> bool {
        self.bucket.is_none()
    }

    fn told(&self, relative: &str, error: &object_store::Error) -> StorageError {
        told::told(self.name(relative), self.is_web(), error)
    }
}

impl Bucket {
    /// Azure's signature is over the name as it is, `object_store`'s over the name as a URL has it: it is
    /// good only where both are the same.
    fn signs(&self, at: &Path) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/!$&'()*+,;=:@".contains(c);
        self.service != Service::Azure || at.as_ref().chars().all(plain)
    }
}

fn odd_name(name: &str) -> StorageError {
    StorageError::Refused(format!(
        "'{name}' cannot be sent to Azure's store: rename it to letters, digits, '.', '_' and '-'"
    ))
}

fn read_only(url: &str) -> StorageError {
    StorageError::Address(format!("{url} is only read; nothing can be stored there"))
}

/// Empty objects that stand for folders are no files.
fn without_markers(mut found: Vec<Entry>) -> Vec<Entry> {
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let is_folder: Vec<bool> = found
        .iter()
        .map(|entry| {
            let below = format!("{}/", entry.path);
            let next = found.partition_point(|other| other.path.as_str() < below.as_str());
            entry.size == 0
                && found
                    .get(next)
                    .is_some_and(|other| other.path.starts_with(&below))
        })
        .collect();
    let mut is_folder = is_folder.into_iter();
    found.retain(|entry| !is_folder.next().unwrap_or(false) && !entry.path.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, size: u64) -> Entry {
        Entry {
            path: path.to_owned(),
            size,
            stamp: None,
            written_at: None,
            changed_at: None,
        }
    }

    #[test]
    fn an_empty_object_that_stands_for_a_folder_is_no_file() {
        let found = without_markers(vec![
            entry("images/a", 1),
            entry("images", 0),
            entry("images-b", 0),
            entry("empty", 0),
            entry("", 0),
        ]);
        let names: Vec<_> = found.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(names, ["empty", "images-b", "images/a"]);
    }

    #[test]
    fn no_credential_shows_when_a_store_cannot_be_set_up() {
        let options = vec![("access_key_idd".to_owned(), "hunter2".to_owned())];
        let error = Remote::bucket((Service::S3, "b", ""), &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains("unknown option 'access_key_idd'"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
