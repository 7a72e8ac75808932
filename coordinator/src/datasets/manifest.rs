//! The list of a snapshot's files in the artifact store, and handing it out with a way to each file.
//!
//! Owns the names and the lines of what lies beside a snapshot. Ways are short-lived; only the live
//! attempt gets any, which is checked before each page. Called by the service for agents.

use futures::{Stream, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use trainyard_core::snapshot::Snapshot;
use trainyard_proto::{status::Kind, v1};

use super::Datasets;
use crate::{
    api::ApiError,
    storage::{Bits, Place, StorageError, Use},
};

/// Where all of it lies in the artifact store.
pub(super) const SNAPSHOTS: &str = "snapshots";
/// What lies beside a snapshot.
pub(super) const METADATA: &str = "metadata.json";
pub(super) const MANIFEST: &str = "manifest.jsonl";
pub(super) const PARTS: &str = "parts.json";
/// All of it.
pub(super) const FILES: [&str; 3] = [METADATA, MANIFEST, PARTS];

/// Files on one page.
const PAGE: usize = 500;
/// The longest line: a path, a number and a digest.
const LINE: usize = 64 << 10;
/// The largest list of images that are named one by one.
const NAMED: u64 = 256 << 20;

/// How much of it comes in one message.
const PIECE: usize = 16 << 20;

/// Where the files of a snapshot lie in the artifact store.
pub(super) fn folder(snapshot: &str) -> String {
    format!("{SNAPSHOTS}/{snapshot}")
}

/// Where one of them lies.
pub(super) fn at(snapshot: &str, name: &str) -> String {
    format!("{}/{name}", folder(snapshot))
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) path: String,
    pub(super) size: u64,
    /// Hex.
    pub(super) digest: String,
}

/// Some files with their ways.
pub type ManifestPage = v1::FetchManifestResponse;

impl Datasets {
    /// The files of a snapshot after a path, in pages; `live` is asked before each.
    pub fn manifest<L>(
        &self,
        snapshot: Snapshot,
        after: String,
        live: L,
    ) -> impl Stream<Item = Result<ManifestPage, ApiError>> + Send + use<L>
    where
        L: Fn() -> Result<(), ApiError> + Send + 'static,
    {
        let datasets = self.clone();
        async_stream::try_stream! {
            live()?;
            let place = datasets.place(&snapshot.storage_path).await;
            if after.is_empty() {
                if let Some(changed) = datasets.difference(&snapshot, &place).await? {
                    live()?;
                    yield ManifestPage { changed: Some(changed), ..ManifestPage::default() };
                    return;
                }
                for named_parts_json in datasets.named_parts(&snapshot.id).await? {
                    live()?;
                    yield ManifestPage { named_parts_json, ..ManifestPage::default() };
                }
            }
            let place = unless_lost(place)?;
            let mut lines = datasets.lines(&snapshot.id).await?;
            let mut first = true;
            loop {
                let page = lines.page(&after).await?;
                if page.is_empty() && !first {
                    break;
                }
                live()?;
                first = false;
                let files = datasets.ways(&snapshot, place.as_ref(), page).await?;
                yield ManifestPage { files, ..ManifestPage::default() };
            }
        }
    }

    /// The files that a snapshot records, in the order of their paths.
    pub(super) async fn lines(&self, id: &str) -> Result<Lines, ApiError> {
        let path = at(id, MANIFEST);
        let (_, bits) = self.inner.storage.artifacts().stream(&path).await?;
        Ok(Lines {
            bits,
            buffer: Vec::new(),
            seen: 0,
            ended: false,
        })
    }

    /// The parts of images that are named one by one, in pieces that an agent takes in one message.
    async fn named_parts(&self, id: &str) -> Result<Vec<String>, ApiError> {
        let read = self
            .inner
            .storage
            .artifacts()
            .read(&at(id, PARTS), NAMED)
            .await;
        match read {
            Ok(bytes) => Ok(pieces(&String::from_utf8_lossy(&bytes), PIECE)),
            Err(StorageError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// A file whose folder is gone, or is refused now, has a way on the coordinator: a node that has the file
    /// already needs it not, and to another one it is told as missing, with the reason.
    async fn ways(
        &self,
        snapshot: &Snapshot,
        place: Option<&Place>,
        page: Vec<Line>,
    ) -> Result<Vec<v1::SnapshotFile>, ApiError> {
        let storage = &self.inner.storage;
        let mut files = Vec::with_capacity(page.len());
        for line in page {
            let name = format!("snapshots/{}/{}", snapshot.id, line.path);
            let span = storage.way_for();
            let apart = unless_lost(self.apart(snapshot, &line.path).await)?;
            let found = match &apart {
                Some(Some((place, file))) => Some((place, file)),
                Some(None) => place.map(|place| (place, &line.path)),
                None => None,
            };
            let url = match found {
                Some((place, file)) => {
                    let file = (place, file.as_str());
                    storage.way(Use::Read, file, (&name, span)).await?
                }
                None => storage.own_way(Use::Read, (&name, span)),
            };
            let digest = blake3::Hash::from_hex(&line.digest).map_err(|_damaged| damaged())?;
            files.push(v1::SnapshotFile {
                path: line.path,
                size_bytes: line.size,
                digest: digest.as_bytes().to_vec(),
                url,
            });
        }
        Ok(files)
    }

    /// The place and name of a file that does not lie where the others do.
    pub(super) async fn apart(
        &self,
        snapshot: &Snapshot,
        path: &str,
    ) -> Result<Option<(Place, String)>, ApiError> {
        match &snapshot.document {
            Some(document) if document.path == path => Ok(Some(self.at(&document.location).await?)),
            Some(_) | None => Ok(None),
        }
    }

    /// A file that a signed way on the coordinator names, as its size and bytes.
    ///
    /// # Errors
    /// When there is no such file.
    pub async fn open(&self, name: &str) -> Result<(u64, Bits), ApiError> {
        let unknown = || ApiError::new(Kind::NotFound, "there is no such file");
        let (kind, rest) = name.split_once('/').ok_or_else(unknown)?;
        match kind {
            "snapshots" => {
                let (id, path) = rest.split_once('/').ok_or_else(unknown)?;
                let snapshot = self.snapshot(id)?;
                let apart = self.apart(&snapshot, path).await.map_err(lost)?;
                let (place, file) = match apart {
                    Some(apart) => apart,
                    None => {
                        let place = self.place(&snapshot.storage_path).await;
                        (place.map_err(lost)?, path.to_owned())
                    }
                };
                let stream = place.stream(&file).await;
                stream.map_err(|error| lost(error.into()))
            }
            "artifacts" => Ok(self.inner.storage.artifacts().stream(rest).await?),
            _ => Err(unknown()),
        }
    }
}

/// None where there is nothing, or nothing that may be read now.
fn unless_lost<T>(found: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match found.map_err(lost) {
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// What is wrong with what was fine when its snapshot was made. What would be refused now has been replaced or
/// moved, or is not allowed any more: in each case the file of the snapshot is not there, and the words say why.
pub(super) fn lost(error: ApiError) -> ApiError {
    if error.kind != Kind::Invalid {
        return error;
    }
    ApiError::new(Kind::NotFound, error.message)
}

/// The lines of a manifest, read as they come.
pub(super) struct Lines {
    bits: Bits,
    buffer: Vec<u8>,
    /// So much of the buffer has been read.
    seen: usize,
    ended: bool,
}

impl Lines {
    /// The next files after a path; none at the end.
    async fn page(&mut self, after: &str) -> Result<Vec<Line>, ApiError> {
        let mut page = Vec::with_capacity(PAGE);
        while page.len() < PAGE
            && let Some(line) = self.next().await?
        {
            if line.path.as_str() > after {
                page.push(line);
            }
        }
        Ok(page)
    }

    pub(super) async fn next(&mut self) -> Result<Option<Line>, ApiError> {
        loop {
            let rest = self.buffer.get(self.seen..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.get(..end).unwrap_or_default();
                let line = serde_json::from_slice(line).map_err(|_damaged| damaged())?;
                self.seen += end + 1;
                return Ok(Some(line));
            }
            let left = rest.len();
            if self.ended {
                return if left == 0 { Ok(None) } else { Err(damaged()) };
            }
            if left > LINE {
                return Err(damaged());
            }
            self.buffer.drain(..self.seen.min(self.buffer.len()));
            self.seen = 0;
            match self.bits.try_next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
    }
}

/// Refuses a list of images that no agent could be sent.
pub(super) fn nameable(id: &str, bytes: u64) -> Result<(), ApiError> {
    if bytes <= NAMED {
        return Ok(());
    }
    let words = format!(
        "dataset '{id}': the parts of images that are named one by one are {} MiB; at most {} MiB are taken: split it by ratios, or split the dataset",
        bytes.div_ceil(1 << 20),
        NAMED >> 20
    );
    Err(ApiError::new(Kind::Invalid, words))
}

/// A text in pieces of at most `most` bytes.
fn pieces(mut text: &str, most: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.floor_char_boundary(most));
        pieces.push(piece.to_owned());
        text = rest;
    }
    pieces
}

fn damaged() -> ApiError {
    let words = "the list of the snapshot's files is damaged; submit the job anew";
    ApiError::new(Kind::Internal, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_comes_in_pieces_that_together_are_the_whole() {
        let text = "{\"ä\":\"träin\"}".repeat(9);
        let some = pieces(&text, 5);
        assert!(some.len() > 9 && some.iter().all(|piece| piece.len() <= 5));
        assert_eq!(some.concat(), text);
        assert_eq!(pieces("", 5), [""; 0]);
    }

    #[test]
    fn a_list_that_no_agent_could_be_sent_is_refused_at_the_submit() {
        assert_eq!(nameable("pets", NAMED), Ok(()));
        let told = nameable("pets", NAMED + 1).unwrap_err();
        assert_eq!(told.kind, Kind::Invalid);
        let words = "are 257 MiB; at most 256 MiB are taken: split it by ratios";
        assert!(told.message.contains(words), "{}", told.message);
    }
}
