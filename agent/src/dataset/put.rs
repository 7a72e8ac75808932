//! One request that stores bytes of a file, and what the store's answer means.
//!
//! Owns which refusals pass, which ask for a fresh way, and which are final. Called by the uploads.

use std::{io::SeekFrom, path::Path, time::Duration};

use reqwest::{Body, Client, Response, StatusCode, header};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use url::Url;

use super::{http, retry::Moved};

/// How long the store may take beside the transfer.
const ANSWER: Duration = Duration::from_secs(60);
/// How slow a store may be: this many bytes a second, and a while for its answer.
const SLOWEST: u64 = 1 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// What was taken beyond this has left the node: so much fits into the buffers of a connection.
const BUFFERED: u64 = 8 << 20;
/// How much of an answer that is no success is read.
const REFUSAL_BYTES: usize = 8 << 10;
/// Azure's store takes nothing without being told what it is; others do not read it.
const BLOB: (&str, &str) = ("x-ms-blob-type", "BlockBlob");

/// Why bytes were not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No other try helps.
    Final(String),
    /// The way is not good any more.
    Way(String),
    /// Anything that may pass.
    Passing(String),
}

impl Refusal {
    /// Why.
    pub(super) fn into_words(self) -> String {
        match self {
            Self::Final(why) | Self::Way(why) | Self::Passing(why) => why,
        }
    }
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    pub(super) path: &'a Path,
    pub(super) from: u64,
    pub(super) size: u64,
}

/// How long it may take to store so many bytes.
pub(super) fn limit(size: u64) -> Duration {
    ANSWER + Duration::from_secs(size / SLOWEST)
}

/// Stores the bytes by a way, and tells when they move; answers with the tag that the store gives them.
pub(super) async fn put(
    client: &Client,
    url: Url,
    span: Span<'_>,
    moved: Moved,
) -> Result<String, Refusal> {
    let body = body(span, moved).await;
    let body = body.map_err(|error| Refusal::Final(format!("it cannot be read: {error}")))?;
    let limit = limit(span.size);
    let request = client
        .put(url)
        .header(header::CONTENT_LENGTH, span.size)
        .header(BLOB.0, BLOB.1)
        .timeout(limit)
        .body(body);
    let answer = request.send().await;
    let answer = answer.map_err(|error| Refusal::Passing(http::words(error)))?;
    if answer.status().is_success() {
        let tag = answer.headers().get(header::ETAG);
        let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default();
        return Ok(tag.to_owned());
    }
    let status = answer.status();
    Err(refusal(status, &said(answer).await))
}

/// The bytes, read as they are sent.
async fn body(span: Span<'_>, moved: Moved) -> std::io::Result<Body> {
    let mut file = File::open(span.path).await?;
    file.seek(SeekFrom::Start(span.from)).await?;
    let size = span.size;
    let bytes = futures::stream::try_unfold((file, size), move |(mut file, left)| {
        if size - left > BUFFERED {
            moved.now();
        }
        async move {
            let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            if room == 0 {
                return Ok(None);
            }
            let mut buffer = vec![0; room];
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                return Err(std::io::Error::other("it became shorter while it was sent"));
            }
            buffer.truncate(read);
            Ok(Some((buffer, (file, left - read as u64))))
        }
    });
    Ok(Body::wrap_stream(bytes))
}

/// The beginning of what the store says.
async fn said(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < REFUSAL_BYTES
        && let Ok(Ok(Some(chunk))) = tokio::time::timeout(http::SILENCE, answer.chunk()).await
    {
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn refusal(status: StatusCode, said: &str) -> Refusal {
    let message = between(said, "<Message>", "</Message>");
    // A coordinator says it in JSON.
    let words = match message.or_else(|| between(said, "{\"detail\":\"", "\"}")) {
        Some(message) => format!("the store answers {status}: {message}"),
        None => format!("the store answers {status}"),
    };
    let code = between(said, "<Code>", "</Code>").unwrap_or_default();
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::CONFLICT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
        )
        // S3 says this with 400 when a connection was slow.
        || code == "RequestTimeout";
    let stale = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        || matches!(code, "ExpiredToken" | "TokenRefreshRequired");
    match () {
        () if status == StatusCode::INSUFFICIENT_STORAGE => Refusal::Final(words),
        () if stale => Refusal::Way(words),
        () if passing => Refusal::Passing(words),
        () => Refusal::Final(words),
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    let (inner, _) = rest.split_once(to)?;
    // Some 300 characters are enough for a sentence.
    let end = inner
        .char_indices()
        .nth(300)
        .map_or(inner.len(), |(at, _)| at);
    inner.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, said: &str) -> &'static str {
        match refusal(StatusCode::from_u16(status).unwrap(), said) {
            Refusal::Final(_) => "final",
            Refusal::Way(_) => "way",
            Refusal::Passing(_) => "passing",
        }
    }

    #[test]
    fn what_the_store_will_say_again_is_final_and_its_words_are_told() {
        for (status, kinds) in [
            (400, "final"),
            (404, "final"),
            (411, "final"),
            (413, "final"),
            (507, "final"),
            (401, "way"),
            (403, "way"),
            (408, "passing"),
            (409, "passing"),
            (429, "passing"),
            (500, "passing"),
            (503, "passing"),
        ] {
            assert_eq!(kind(status, ""), kinds, "{status}");
        }
        assert_eq!(kind(400, "<Code>RequestTimeout</Code>"), "passing");
        assert_eq!(kind(400, "<Code>ExpiredToken</Code>"), "way");
        let large = "<Error><Code>EntityTooLarge</Code><Message>Too large</Message></Error>";
        let told = refusal(StatusCode::BAD_REQUEST, large);
        let words = "the store answers 400 Bad Request: Too large".to_owned();
        assert_eq!(told, Refusal::Final(words));
    }

    /// A store that reads so many bytes of a request, then hangs up.
    async fn reads(most: usize) -> Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio_util::task::TaskTracker::new().spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut left = vec![0; most];
            stream.read_exact(&mut left).await.unwrap();
        });
        Url::parse(&format!("http://{address}/x")).unwrap()
    }

    #[tokio::test]
    async fn bytes_that_went_out_are_told_though_they_came_to_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 4 * BUFFERED;
        file.as_file().set_len(size).unwrap();
        for (most, moves) in [(1, false), (16 << 20, true)] {
            let retry = crate::dataset::retry::Retry::new(Duration::ZERO);
            let (moved, begun) = (retry.moved(), retry.moved().at());
            let span = Span {
                path: file.path(),
                from: 0,
                size,
            };
            let put = put(&Client::new(), reads(most).await, span, retry.moved()).await;
            assert!(matches!(put, Err(Refusal::Passing(_))), "{put:?}");
            assert_eq!(moved.at() > begun, moves, "after {most} bytes");
        }
    }
}
