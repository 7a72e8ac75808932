//! The list of a snapshot's files, and the ways to them.
//!
//! Owns asking the coordinator for it, again where the connection breaks, and for fresh ways when
//! those at hand have expired. Checks it against the snapshot's hash. Never fetches a file.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tonic::{Code, Status, Streaming};
use trainyard_core::dataset::{VersionHasher, check_path};
use trainyard_proto::v1::{ChangedFile, FetchManifestRequest, FetchManifestResponse, SnapshotFile};

use super::{Datasets, Digest, FetchError, Wanted, retry::Retry};

/// How long a coordinator that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long one message may take.
const MESSAGE: Duration = Duration::from_secs(60);
/// The largest message: a piece of the parts of images that are named one by one, or files with their ways.
const MOST_BYTES: usize = 64 << 20;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ManifestFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// The list, in the order of paths.
pub(super) struct Manifest<'a> {
    datasets: &'a Datasets,
    wanted: &'a Wanted<'a>,
    pub(super) files: Vec<ManifestFile>,
    pub(super) named_parts: Option<Value>,
    /// The text of the parts, as far as it has come.
    parts: String,
    ways: Mutex<Vec<Arc<str>>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl<'a> Manifest<'a> {
    /// Reads all of it and compares its hash with the snapshot's.
    pub(super) async fn read(
        datasets: &'a Datasets,
        wanted: &'a Wanted<'a>,
    ) -> Result<Self, FetchError> {
        let mut manifest = Self {
            datasets,
            wanted,
            files: Vec::new(),
            named_parts: None,
            parts: String::new(),
            ways: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        };
        let mut retry = Retry::new(PATIENCE);
        while let Err(status) = manifest.go_on(&mut retry).await? {
            manifest.bear(&status, &mut retry).await?;
        }
        manifest.verify()?;
        manifest.read_parts()?;
        Ok(manifest)
    }

    /// Reads on from where it is. The inner error is the connection's.
    async fn go_on(&mut self, retry: &mut Retry) -> Result<Result<(), Status>, FetchError> {
        let after = self.files.last().map_or("", |file| &file.path).to_owned();
        if after.is_empty() {
            // They come anew.
            self.parts.clear();
        }
        let mut stream = match self.ask(after).await {
            Ok(stream) => stream,
            Err(status) => return Ok(Err(status)),
        };
        loop {
            match message(&mut stream).await {
                Ok(Some(page)) => self.take(page)?,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            }
            retry.progress();
        }
    }

    async fn ask(&self, after_path: String) -> Result<Streaming<FetchManifestResponse>, Status> {
        let order = self.wanted.order;
        let request = FetchManifestRequest {
            task: Some(order.task.into()),
            secret: order.secret.expose().to_owned(),
            after_path,
        };
        let asking = async {
            let calls = self.datasets.calls().await?;
            let mut calls = calls.max_decoding_message_size(MOST_BYTES);
            calls.fetch_manifest(request).await
        };
        let answer = tokio::time::timeout(MESSAGE, asking).await;
        Ok(answer.map_err(late)??.into_inner())
    }

    fn take(&mut self, page: FetchManifestResponse) -> Result<(), FetchError> {
        if let Some(ChangedFile { path, how }) = page.changed {
            return Err(FetchError::Changed { path, how });
        }
        self.parts.push_str(&page.named_parts_json);
        for wire in page.files {
            let (file, way) = parse(wire)?;
            if self.files.last().is_some_and(|last| last.path >= file.path) {
                let text = format!("the coordinator's list is out of order at '{}'", file.path);
                return Err(FetchError::Infrastructure(text));
            }
            self.files.push(file);
            self.ways().push(way);
        }
        Ok(())
    }

    fn read_parts(&mut self) -> Result<(), FetchError> {
        let text = std::mem::take(&mut self.parts);
        if !text.is_empty() {
            let read = serde_json::from_str(&text);
            self.named_parts = Some(read.map_err(|error| {
                FetchError::Infrastructure(format!("the coordinator's list of parts: {error}"))
            })?);
        }
        Ok(())
    }

    fn verify(&self) -> Result<(), FetchError> {
        let mut hasher = VersionHasher::default();
        for file in &self.files {
            hasher.add(&file.path, file.size, &file.digest)?;
        }
        let (found, snapshot) = (hasher.finish(), self.wanted.snapshot);
        if found == snapshot.version_hash {
            return Ok(());
        }
        Err(FetchError::Infrastructure(format!(
            "the coordinator's list of files has the hash {found}, and the snapshot {}; its manifest is damaged",
            snapshot.version_hash
        )))
    }

    /// Their sizes together.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The way to a file.
    pub(super) fn way(&self, number: usize) -> Option<Arc<str>> {
        self.ways().get(number).cloned()
    }

    /// Asks for fresh ways to this file and those that follow, unless somebody has meanwhile.
    pub(super) async fn refresh(&self, number: usize, expired: &str) -> Result<(), FetchError> {
        let _alone = self.refreshing.lock().await;
        let mut retry = Retry::new(PATIENCE);
        while self.way(number).as_deref() == Some(expired) {
            let before = number
                .checked_sub(1)
                .and_then(|before| self.files.get(before));
            let after = before.map_or("", |file| &file.path).to_owned();
            let page = match self.ask(after).await {
                Ok(mut stream) => files(&mut stream).await,
                Err(status) => Err(status),
            };
            match page {
                Ok(page) => {
                    let page = page.map(|page| page.files).unwrap_or_default();
                    self.renew(number, page)?;
                    return Ok(());
                }
                Err(status) => self.bear(&status, &mut retry).await?,
            }
        }
        Ok(())
    }

    fn renew(&self, first: usize, page: Vec<SnapshotFile>) -> Result<(), FetchError> {
        let mut ways = self.ways();
        let known = self.files.iter().zip(ways.iter_mut()).skip(first);
        for ((file, way), wire) in known.zip(page) {
            let (fresh, fresh_way) = parse(wire)?;
            if fresh != *file {
                let text = format!("the coordinator's list has changed at '{}'", file.path);
                return Err(FetchError::Infrastructure(text));
            }
            *way = fresh_way;
        }
        Ok(())
    }

    /// Waits before the next try, or says why there is none.
    async fn bear(&self, status: &Status, retry: &mut Retry) -> Result<(), FetchError> {
        let passing = matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Unknown
                | Code::Internal
                | Code::Aborted
                | Code::Cancelled
                | Code::ResourceExhausted
        );
        if passing && retry.again().await {
            return Ok(());
        }
        Err(FetchError::Infrastructure(format!(
            "the coordinator gives no list of files: {}",
            status.message()
        )))
    }

    fn ways(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn message(
    stream: &mut Streaming<FetchManifestResponse>,
) -> Result<Option<FetchManifestResponse>, Status> {
    let next = tokio::time::timeout(MESSAGE, stream.message()).await;
    next.map_err(late)?
}

/// The next message with files; pieces of the parts are known already.
async fn files(
    stream: &mut Streaming<FetchManifestResponse>,
) -> Result<Option<FetchManifestResponse>, Status> {
    loop {
        match message(stream).await? {
            Some(page) if page.files.is_empty() => {}
            page => return Ok(page),
        }
    }
}

fn late(_: tokio::time::error::Elapsed) -> Status {
    Status::deadline_exceeded(format!("no answer within {MESSAGE:?}"))
}

/// A path that leads out of the dataset is refused before anything is done with it.
fn parse(wire: SnapshotFile) -> Result<(ManifestFile, Arc<str>), FetchError> {
    check_path(&wire.path)?;
    let digest = Digest::try_from(wire.digest.as_slice()).map_err(|_length| {
        FetchError::Infrastructure(format!("the digest of '{}' is not of 32 bytes", wire.path))
    })?;
    let file = ManifestFile {
        path: wire.path,
        size: wire.size_bytes,
        digest,
    };
    Ok((file, wire.url.into()))
}
