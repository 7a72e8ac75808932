//! Folders of web servers: listed by WebDAV, or by a file with one path a line.
//!
//! Owns the bounds of both lists. Read by a client that keeps to the [`Guard`]. Called by
//! [`Remote`].

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use http::Method;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    },
    http::HttpBuilder,
    path::Path,
};
use thiserror::Error;
use url::Url;

use super::{Entry, Guard, Remote, StorageError, build};

/// Where a web server that cannot list its folders says what is in them: one path a line.
const INDEX: &str = "files.txt";
/// The largest such list.
const INDEX_BYTES: u64 = 64 << 20;
/// The largest list of WebDAV: some 100,000 files. It is held in memory, and so is what it says.
const LIST_BYTES: usize = 64 << 20;
/// The longest answer that is no success, of which only the beginning is told anyway.
const REFUSAL_BYTES: usize = 64 << 10;
/// Sizes that are asked for at once.
const HEADS: usize = 8;

impl Remote {
    /// A folder of a web server, read by a client that keeps to `guard`.
    pub(in crate::storage) fn web(url: &Url, guard: &Guard) -> Result<Self, StorageError> {
        guard.check(url)?;
        let text = url.as_str().trim_end_matches('/');
        let store = HttpBuilder::new()
            .with_url(text)
            .with_retry(build::retries())
            .with_http_connector(Guarded(guard.clone()))
            .build()
            .map_err(|error| StorageError::Failed(format!("{text}: {error}")))?;
        Ok(Self {
            store: Arc::new(store),
            bucket: None,
            prefix: Path::default(),
            url: text.into(),
        })
    }

    /// The list that a web server without WebDAV keeps in a file, sorted by path.
    pub(super) async fn indexed(
        &self,
        most: usize,
        why: &StorageError,
    ) -> Result<Vec<Entry>, StorageError> {
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
        let lines = text.lines().map(str::trim).filter(|name| !name.is_empty());
        // One more than is taken is enough to know.
        let names: Vec<String> = lines
            .take(most.saturating_add(1))
            .map(str::to_owned)
            .collect();
        if names.len() > most {
            return Err(super::super::too_many(&self.url, most));
        }
        let heads = names.into_iter().map(|name| self.clone().head(name));
        let mut found: Vec<Entry> = futures::stream::iter(heads)
            .buffer_unordered(HEADS)
            .try_collect()
            .await?;
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some([twice, _]) = found
            .windows(2)
            .find(|pair| matches!(pair, [a, b] if a.path == b.path))
        {
            let words = format!(
                "{}/{INDEX} names '{}' twice; name it once",
                self.url, twice.path
            );
            return Err(StorageError::Address(words));
        }
        Ok(found)
    }

    async fn head(self, name: String) -> Result<Entry, StorageError> {
        self.stat(&name).await
    }
}

/// Gives the store of web servers the guarded client, with bounded answers.
#[derive(Debug)]
struct Guarded(Guard);

impl HttpConnector for Guarded {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.0.client();
        client
            .map(|client| HttpClient::new(Bounded(client)))
            .map_err(|error| object_store::Error::Generic {
                store: "HTTP",
                source: Box::new(error),
            })
    }
}

#[derive(Debug, Error)]
#[error(
    "the server's answer to {method} is longer than {most} bytes; keep a {INDEX} there, or fewer files"
)]
struct TooLong {
    method: Method,
    most: usize,
}

/// A client whose answers are bounded where the store would hold them whole: everything but files.
#[derive(Debug)]
struct Bounded(reqwest::Client);

#[tonic::async_trait]
impl HttpService for Bounded {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let method = request.method().clone();
        let answer = HttpService::call(&self.0, request).await?;
        let most = match answer.status().is_success() {
            true if method == Method::GET || method == Method::HEAD => return Ok(answer),
            true => LIST_BYTES,
            false => REFUSAL_BYTES,
        };
        let (parts, body) = answer.into_parts();
        let (mut chunks, mut whole) = (body.bytes_stream(), Vec::new());
        while let Some(chunk) = chunks.try_next().await? {
            if whole.len().saturating_add(chunk.len()) > most {
                return Err(HttpError::new(
                    HttpErrorKind::Decode,
                    TooLong { method, most },
                ));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(HttpResponse::from_parts(parts, whole.into()))
    }
}
