//! Buckets, and web servers that are only read, by way of `object_store`.
//!
//! Owns how a store is built from its URL and the settings, and that answers are bounded. Never shows a
//! credential: trainers get URLs that are signed here. Called by `storage`.

mod copy;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    ClientOptions, GetOptions, ObjectStore, ObjectStoreExt as _, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, http::HttpBuilder, path::Path,
    signer::Signer,
};
use tokio_util::bytes::Bytes;
use url::Url;

use super::{
    Entry, StorageError,
    address::Service,
    guard::{Guard, Guarded},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a store may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a request with its repetitions may take.
const RETRIES: Duration = Duration::from_secs(60);
/// Where a web server that cannot list its folders says what is in them: one path a line.
const INDEX: &str = "files.txt";
/// Sizes that are asked for at once.
const HEADS: usize = 8;
/// The largest such list.
const INDEX_BYTES: u64 = 64 << 20;

/// A bucket with a prefix, or a folder of a web server. A clone is cheap.
#[derive(Clone)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    url: Arc<str>,
    web: bool,
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
        let made = match service {
            Service::S3 => s3(name, options).map(|store| both(Arc::new(store))),
            Service::Gcs => gcs(name, options).map(|store| both(Arc::new(store))),
            Service::Azure => azure(name, options).map(|store| both(Arc::new(store))),
        };
        let scheme = service.scheme();
        // The words of the builder may repeat a value of the settings.
        let (store, signer) = made.map_err(|error| {
            tracing::debug!(kind = %name_of(&error), "a store could not be set up");
            StorageError::Failed(format!(
                "{scheme}://{name} cannot be set up ({}); see storage_options of the coordinator's settings",
                name_of(&error)
            ))
        })?;
        let prefix =
            Path::parse(prefix).map_err(|error| StorageError::Address(error.to_string()))?;
        let slash = if prefix.as_ref().is_empty() { "" } else { "/" };
        Ok(Self {
            url: format!("{scheme}://{name}{slash}{prefix}").into(),
            store,
            signer: Some(signer),
            prefix,
            web: false,
        })
    }

    /// A folder of a web server, read by a client that keeps to `guard`.
    pub(super) fn web(url: &Url, guard: &Guard) -> Result<Self, StorageError> {
        guard.check(url)?;
        let text = url.as_str().trim_end_matches('/');
        let store = HttpBuilder::new()
            .with_url(text)
            .with_retry(retries())
            .with_http_connector(Guarded(guard.clone()))
            .build()
            .map_err(|error| StorageError::Failed(format!("{text}: {error}")))?;
        Ok(Self {
            store: Arc::new(store),
            signer: None,
            prefix: Path::default(),
            url: text.into(),
            web: true,
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

    /// Every object below `prefix`, page by page, at most `most`.
    pub(super) async fn list(&self, prefix: &str, most: usize) -> Result<Vec<Entry>, StorageError> {
        let below = match prefix.trim_matches('/') {
            "" => self.prefix.clone(),
            prefix => self.at(prefix)?,
        };
        match self.listed(&below, most).await {
            Err(error) if self.web && !matches!(error, StorageError::TooLarge(_)) => {
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
            // A weak tag promises less than the same bytes.
            let stamp = meta.e_tag.filter(|tag| !tag.starts_with("W/"));
            let at = meta.last_modified.timestamp_micros();
            found.push(Entry {
                path: relative.to_owned(),
                size: meta.size,
                stamp: stamp.map(|tag| format!("{tag}.{at}")),
                changed_at: None,
            });
            if found.len() > most {
                return Err(super::too_many(&self.url, most));
            }
        }
        Ok(without_markers(found))
    }

    /// The list that a web server without WebDAV keeps in a file.
    async fn indexed(&self, most: usize, why: &StorageError) -> Result<Vec<Entry>, StorageError> {
        let text = match self.read(INDEX, INDEX_BYTES).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(StorageError::NotFound(_)) => {
                return Err(StorageError::Address(format!(
                    "{} can neither list its folders (WebDAV) nor has a {INDEX} with one path a line: {why}",
                    self.url
                )));
            }
            Err(error) => return Err(error),
        };
        let names: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        if names.len() > most {
            return Err(super::too_many(&self.url, most));
        }
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let heads = names.into_iter().map(|name| self.clone().head(name));
        futures::stream::iter(heads)
            .buffer_unordered(HEADS)
            .try_collect()
            .await
    }

    async fn head(self, name: String) -> Result<Entry, StorageError> {
        self.stat(&name).await
    }

    /// One object without its bytes.
    pub(super) async fn stat(&self, name: &str) -> Result<Entry, StorageError> {
        let meta = self.store.head(&self.at(name)?).await;
        let meta = meta.map_err(|error| self.told(name, &error))?;
        Ok(Entry {
            path: name.to_owned(),
            size: meta.size,
            stamp: meta.e_tag.filter(|tag| !tag.starts_with("W/")),
            changed_at: None,
        })
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
        if self.web {
            return Err(read_only(&self.url));
        }
        let at = self.at(relative)?;
        let put = self.store.put(&at, bytes.into()).await;
        put.map(drop).map_err(|error| self.told(relative, &error))
    }

    pub(super) async fn remove(&self, relative: &str) -> Result<(), StorageError> {
        if self.web {
            return Err(read_only(&self.url));
        }
        match self.store.delete(&self.at(relative)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.told(relative, &error)),
        }
    }

    /// A URL signed by the store; none where the store signs nothing.
    pub(super) async fn sign(
        &self,
        method: http::Method,
        relative: &str,
        span: Duration,
    ) -> Result<Option<Url>, StorageError> {
        let Some(signer) = &self.signer else {
            return Ok(None);
        };
        let at = self.at(relative)?;
        let signed = signer.signed_url(method, &at, span).await;
        signed
            .map(Some)
            .map_err(|error| self.told(relative, &error))
    }

    /// What the store said, without a query: that of a signed URL is a credential.
    fn told(&self, relative: &str, error: &object_store::Error) -> StorageError {
        let name = match relative {
            "" => self.url.to_string(),
            name => format!("{}/{name}", self.url),
        };
        if matches!(error, object_store::Error::NotFound { .. }) {
            return StorageError::NotFound(name);
        }
        let mut cause: &dyn std::error::Error = error;
        let mut words = cause.to_string();
        while let Some(next) = cause.source() {
            cause = next;
            words = cause.to_string();
        }
        let words: String = words
            .split('?')
            .next()
            .unwrap_or_default()
            .chars()
            .take(300)
            .collect();
        // The guard's own words, from within the client.
        if words.contains("datasets.allow_private_urls") {
            return StorageError::Refused(words);
        }
        StorageError::Failed(format!("{name} cannot be used: {words}"))
    }
}

fn read_only(url: &str) -> StorageError {
    StorageError::Address(format!("{url} is only read; nothing can be stored there"))
}

fn both<S: ObjectStore + Signer>(store: Arc<S>) -> (Arc<dyn ObjectStore>, Arc<dyn Signer>) {
    (Arc::clone(&store) as Arc<dyn ObjectStore>, store)
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

fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: RETRIES,
        ..RetryConfig::default()
    }
}

/// Bodies may take as long as they like while they move.
fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled()
        .with_read_timeout(SILENCE)
}

fn plain_http(options: &Options) -> bool {
    options
        .iter()
        .any(|(key, value)| key.contains("endpoint") && value.starts_with("http://"))
}

fn s3(bucket: &str, options: &Options) -> object_store::Result<object_store::aws::AmazonS3> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_client_options(client());
    if plain_http(options) {
        builder = builder.with_allow_http(true);
    }
    for (key, value) in options {
        builder = match key.as_str() {
            "path_style" => builder.with_virtual_hosted_style_request(value == "false"),
            key => builder.with_config(key.parse()?, value),
        };
    }
    builder.build()
}

fn gcs(
    bucket: &str,
    options: &Options,
) -> object_store::Result<object_store::gcp::GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_client_options(client());
    for (key, value) in options {
        builder = builder.with_config(key.parse()?, value);
    }
    builder.build()
}

fn azure(
    container: &str,
    options: &Options,
) -> object_store::Result<object_store::azure::MicrosoftAzure> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(retries())
        .with_client_options(client());
    if plain_http(options) {
        builder = builder.with_allow_http(true);
    }
    for (key, value) in options {
        builder = builder.with_config(key.parse()?, value);
    }
    builder.build()
}

/// The kind of an error, without its words.
fn name_of(error: &object_store::Error) -> String {
    if let object_store::Error::UnknownConfigurationKey { key, .. } = error {
        return format!("unknown option '{key}'");
    }
    if let object_store::Error::Generic { source, .. } = error {
        let words = source.to_string();
        return words
            .split(['\'', '"', ':'])
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    "an option is missing or wrong".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, size: u64) -> Entry {
        Entry {
            path: path.to_owned(),
            size,
            stamp: None,
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
