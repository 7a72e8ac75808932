//! One file from the way that the manifest names into the cache, verified while it is written.
//!
//! Owns going on where a connection broke, asking for a fresh way, and telling a changed file from a
//! failing network. Called by the fetch.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::{StatusCode, header};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{
    Datasets, FetchError, http,
    manifest::{Manifest, ManifestFile},
    retry::Retry,
};

/// How long a server that gives nothing is borne.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often in a row a fresh way may be refused.
const MOST_REFUSALS: u32 = 3;
/// A content that differs is fetched once more: it may be the transfer's fault.
const MOST_CONTENTS: u32 = 2;

/// What a file must turn out to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) size: u64,
    /// Where it is known.
    pub(super) digest: Option<[u8; 32]>,
}
/// The longest reason of a refusal that is read, in bytes.
const REASON: usize = 4 << 10;
/// Others write to the disk too: how often it is looked at while a file comes, in bytes.
const LOOK_EVERY: u64 = 64 << 20;

/// Why a try came to nothing.
pub(super) enum Trouble {
    /// The way is refused: expired, or the file is gone. With what the coordinator says of it.
    Refused(StatusCode, Option<String>),
    /// The file is there and is another.
    Differs(String),
    /// Anything that may pass.
    Passing(String),
    /// This node's disk.
    Disk(std::io::Error),
    /// There is no room on it any more.
    Full(FetchError),
}

/// Fetches file `number` to `to`, where nothing is yet.
pub(super) async fn download(
    datasets: &Datasets,
    manifest: &Manifest<'_>,
    number: usize,
    to: &Path,
) -> Result<(), FetchError> {
    let (Some(file), Some(mut way)) = (manifest.files.get(number), manifest.way(number)) else {
        return Err(FetchError::Infrastructure(
            "a file without a way".to_owned(),
        ));
    };
    let content = Content {
        size: file.size,
        digest: Some(file.digest),
    };
    datasets.cache.make_room(file.size).await?;
    let mut target = Target::create(to).map_err(disk)?;
    let (mut retry, mut refusals, mut contents) = (Retry::new(PATIENCE), 0, 0);
    loop {
        let before = target.written;
        let Err(trouble) = target.fill(datasets, content, &way).await else {
            return Ok(());
        };
        if target.written > before {
            retry.progress();
            refusals = 0;
        }
        match trouble {
            Trouble::Disk(error) => return Err(disk(error)),
            Trouble::Full(error) => return Err(error),
            Trouble::Differs(how) => {
                contents += 1;
                if contents >= MOST_CONTENTS {
                    return Err(changed(file, how));
                }
                target.restart().await.map_err(disk)?;
            }
            Trouble::Refused(status, words) => {
                refusals += 1;
                if refusals >= MOST_REFUSALS {
                    return Err(refused(file, status, words));
                }
                manifest.refresh(number, &way).await?;
                way = manifest.way(number).unwrap_or_else(|| Arc::clone(&way));
            }
            Trouble::Passing(why) => {
                if !retry.again().await {
                    let text = format!("'{}': {why}", file.path);
                    return Err(FetchError::Infrastructure(text));
                }
            }
        }
    }
}

fn changed(file: &ManifestFile, how: String) -> FetchError {
    FetchError::Changed {
        path: file.path.clone(),
        how,
    }
}

fn refused(file: &ManifestFile, status: StatusCode, words: Option<String>) -> FetchError {
    let why = words.map(|words| format!(" ({words})")).unwrap_or_default();
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return changed(file, format!("is not there any more{why}"));
    }
    let text = format!("'{}' is refused with status {status}{why}", file.path);
    FetchError::Infrastructure(text)
}

fn disk(error: std::io::Error) -> FetchError {
    FetchError::Node(format!(
        "the cache of this node: {error}; see the data folder's free disk space and permissions"
    ))
}

/// What has come so far.
pub(super) struct Target {
    file: File,
    hasher: blake3::Hasher,
    pub(super) written: u64,
}

impl Target {
    /// Not on another thread: whoever gives up while that makes the file would remove it too early.
    pub(super) fn create(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::File::create_new(path)?;
        Ok(Self {
            file: File::from_std(file),
            hasher: blake3::Hasher::new(),
            written: 0,
        })
    }

    pub(super) async fn restart(&mut self) -> std::io::Result<()> {
        use tokio::io::AsyncSeekExt as _;
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        self.hasher.reset();
        self.written = 0;
        Ok(())
    }

    /// Goes on with the rest, or begins again where the server does not give a part.
    pub(super) async fn fill(
        &mut self,
        datasets: &Datasets,
        content: Content,
        way: &str,
    ) -> Result<(), Trouble> {
        let url = datasets.coordinator.join(way);
        let url = url.map_err(|error| Trouble::Passing(format!("its way is no URL: {error}")))?;
        let mut request = datasets.http.get(url);
        if self.written > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.written));
        }
        let mut answer = in_time(request.send()).await?;
        match answer.status() {
            StatusCode::OK => {
                if self.written > 0 {
                    self.restart().await.map_err(Trouble::Disk)?;
                }
            }
            StatusCode::PARTIAL_CONTENT if self.written > 0 => {}
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Trouble::Differs(format!(
                    "is shorter than {} bytes",
                    content.size
                )));
            }
            status if is_refusal(status) => {
                return Err(Trouble::Refused(status, reason(&mut answer).await));
            }
            status => return Err(Trouble::Passing(format!("the server answers {status}"))),
        }
        let mut looked_at = self.written;
        loop {
            let Some(chunk) = in_time(answer.chunk()).await? else {
                break;
            };
            self.written += chunk.len() as u64;
            if self.written - looked_at >= LOOK_EVERY {
                looked_at = self.written;
                let left = content.size.saturating_sub(self.written);
                datasets
                    .cache
                    .make_room(left)
                    .await
                    .map_err(Trouble::Full)?;
            }
            if self.written > content.size {
                return Err(Trouble::Differs(format!(
                    "is longer than {} bytes",
                    content.size
                )));
            }
            self.hasher.update(&chunk);
            self.file.write_all(&chunk).await.map_err(Trouble::Disk)?;
        }
        self.file.flush().await.map_err(Trouble::Disk)?;
        self.check(content)
    }

    fn check(&self, content: Content) -> Result<(), Trouble> {
        if self.written != content.size {
            let how = format!("has {} bytes in place of {}", self.written, content.size);
            return Err(Trouble::Differs(how));
        }
        if content
            .digest
            .is_some_and(|digest| *self.hasher.finalize().as_bytes() != digest)
        {
            return Err(Trouble::Differs("has another content".to_owned()));
        }
        Ok(())
    }
}

/// What the coordinator says of a refusal; other servers say nothing that helps.
async fn reason(answer: &mut reqwest::Response) -> Option<String> {
    let mut body = Vec::new();
    while body.len() <= REASON
        && let Ok(Some(chunk)) = in_time(answer.chunk()).await
    {
        body.extend_from_slice(&chunk);
    }
    let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
    body.get("detail")?.as_str().map(str::to_owned)
}

/// What a server says, unless it is silent for too long.
async fn in_time<T>(answer: impl Future<Output = reqwest::Result<T>>) -> Result<T, Trouble> {
    let answer = tokio::time::timeout(http::SILENCE, answer).await;
    let silent = |_| Trouble::Passing(format!("the server was silent for {:?}", http::SILENCE));
    answer
        .map_err(silent)?
        .map_err(|error| Trouble::Passing(http::words(error)))
}

/// Whether it will be said so again, but perhaps for a fresh way.
fn is_refusal(status: StatusCode) -> bool {
    let passing = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_client_error() && !passing
}
