//! Files by signed, expiring links: how agents fetch datasets and store checkpoints when the store is a
//! folder or a web server.
//!
//! The signature is all that counts here; no token is asked for. Bodies are streamed, never held in
//! memory, and a sender that pauses or drips is cut off. Not described in the document: links are made by the coordinator
//! and are opaque to callers. Paths come from [`crate::storage::Ways`].

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
    routing,
};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{
    HeaderMap, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use tokio::time::Instant;
use tokio_util::bytes::{Bytes, BytesMut};
use trainyard_proto::status::Kind;

use super::{detail, error::Refusal};
use crate::{
    api::{ApiError, Service},
    storage::{Incoming, Shown, StorageError, Use},
};

/// Bytes that a sender has to bring in a second, on the whole: one that drips would else hold a connection and a
/// draft without end.
const SLOWEST: u64 = 64 << 10;
/// Bytes that are gathered before they are written.
const PIECE: usize = 1 << 20;
/// Bytes after which it is looked again whether there is room for more.
const LOOK_EVERY: u64 = 64 << 20;

/// The routes.
pub(super) fn router(service: &Service) -> Router {
    Router::new()
        .route("/api/v1/files/{*name}", routing::get(get).put(put))
        .method_not_allowed_fallback(super::not_allowed)
        .with_state(service.clone())
}

type Name = Result<Path<String>, PathRejection>;
type Signature = Result<Query<Shown>, QueryRejection>;

/// The file that the link names, if the link is good.
fn signed(service: &Service, what: Use, name: Name, shown: Signature) -> Result<String, Refusal> {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let shown = shown.map(|Query(shown)| shown).unwrap_or_default();
    if service.data().storage().allows(what, &name, &shown) {
        return Ok(name);
    }
    let words = "this link is not valid, or has expired; ask for a new one";
    Err(ApiError::new(Kind::Forbidden, words).into())
}

/// One file.
pub(super) async fn get(
    State(service): State<Service>,
    name: Name,
    shown: Signature,
) -> Result<Response, Refusal> {
    let name = signed(&service, Use::Read, name, shown)?;
    let (size, bits) = service.data().open(&name).await?;
    let bits = bits.map_err(|error| {
        tracing::warn!(%error, "a file broke off while it was served");
        std::io::Error::other(error)
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, size.to_string()),
        (CACHE_CONTROL, "private, no-store".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(bits)).into_response())
}

/// Stores one file; it is on disk when this answers.
pub(super) async fn put(
    State(service): State<Service>,
    name: Name,
    shown: Signature,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = signed(&service, Use::Write, name, shown)?;
    let unknown = || ApiError::new(Kind::NotFound, "there is no such file");
    let key = name.strip_prefix("artifacts/").ok_or_else(unknown)?;
    let storage = service.data().storage();
    let most = storage.upload_bytes();
    let told = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    if told.is_some_and(|size| size > most) {
        return Ok(too_large(most));
    }
    service.store().room().map_err(ApiError::from)?;
    let incoming = storage
        .artifacts()
        .receive()
        .await
        .map_err(ApiError::from)?;
    let reserve = service.store().reserve();
    let pace = Pace::new(service.http().body_timeout());
    let received = match incoming.has_room(told.unwrap_or_default(), reserve) {
        Ok(()) => receive(body, incoming, (most, reserve), pace).await,
        Err(error) => Received::Failed(error),
    };
    match received {
        Received::Whole(incoming) => {
            service.takes_upload(key)?;
            incoming.keep(key).await.map_err(ApiError::from)?;
            Ok(StatusCode::OK.into_response())
        }
        Received::TooLarge => Ok(too_large(most)),
        Received::Broken(words) => Ok(detail(StatusCode::BAD_REQUEST, &words).into_response()),
        // It is the sender's last try: it goes on by itself when there is something newer.
        Received::Failed(StorageError::Full(words)) => {
            Ok(detail(StatusCode::INSUFFICIENT_STORAGE, &words).into_response())
        }
        Received::Failed(error) => Err(ApiError::from(error).into()),
    }
}

enum Received {
    Whole(Incoming),
    TooLarge,
    Broken(String),
    Failed(StorageError),
}

/// How long a sender is waited for. What the disk takes does not count.
struct Pace {
    pause: Duration,
    waited: Duration,
}

impl Pace {
    fn new(pause: Duration) -> Self {
        Self {
            pause,
            waited: Duration::ZERO,
        }
    }

    /// For how long the next piece may let itself be waited for, after so many bytes.
    fn left(&self, size: u64) -> Duration {
        let earned = Duration::from_millis(size.saturating_mul(1_000) / SLOWEST);
        let whole = self.pause.saturating_add(earned);
        self.pause.min(whole.saturating_sub(self.waited))
    }

    /// What is said to one that took longer.
    fn refusal(&self, size: u64) -> String {
        let pause = self.pause.as_secs();
        if self.left(size) == self.pause {
            return format!(
                "The sender paused for more than {pause} s (http.body_timeout_seconds)"
            );
        }
        format!(
            "The sender brought {size} bytes in {} s, which is too slow: {pause} s (http.body_timeout_seconds) and a second for each {} KiB are given",
            self.waited.saturating_add(self.left(size)).as_secs(),
            SLOWEST >> 10
        )
    }
}

async fn receive(
    body: Body,
    mut incoming: Incoming,
    (most, reserve): (u64, u64),
    mut pace: Pace,
) -> Received {
    let mut chunks = body.into_data_stream();
    let (mut size, mut looked_at, mut piece) = (0_u64, 0_u64, BytesMut::new());
    loop {
        let asked = Instant::now();
        let next = tokio::time::timeout(pace.left(size), chunks.next()).await;
        let Ok(chunk): Result<Option<Result<Bytes, _>>, _> = next else {
            return Received::Broken(pace.refusal(size));
        };
        pace.waited = pace.waited.saturating_add(asked.elapsed());
        let ended = chunk.is_none();
        match chunk {
            Some(Ok(bytes)) => {
                size = size.saturating_add(bytes.len() as u64);
                piece.extend_from_slice(&bytes);
            }
            Some(Err(_)) => return Received::Broken("The body broke off".to_owned()),
            None => {}
        }
        if size > most {
            return Received::TooLarge;
        }
        if piece.len() >= PIECE || (ended && !piece.is_empty()) {
            incoming = match incoming.write(piece.split().freeze()).await {
                Ok(incoming) => incoming,
                Err(error) => return Received::Failed(error),
            };
        }
        // Others write to that disk too.
        if size - looked_at >= LOOK_EVERY {
            looked_at = size;
            if let Err(error) = incoming.has_room(0, reserve) {
                return Received::Failed(error);
            }
        }
        if ended {
            return Received::Whole(incoming);
        }
    }
}

fn too_large(most: u64) -> Response {
    let words = format!("The file is larger than {most} bytes (storage.upload_mib)");
    detail(StatusCode::PAYLOAD_TOO_LARGE, &words).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    /// How many seconds one holds on that brings so many bytes each so many seconds.
    fn holds(bytes: u64, each: u64) -> u64 {
        let mut pace = Pace::new(PAUSE);
        let (step, mut size) = (Duration::from_secs(each), 0);
        while pace.left(size) >= step && pace.waited < Duration::from_secs(100_000) {
            pace.waited += step;
            size += bytes;
        }
        pace.waited.as_secs()
    }

    #[test]
    fn one_that_drips_is_cut_off_and_one_that_is_slow_but_sends_is_not() {
        assert_eq!(holds(1, 29), 29, "a byte just before each pause is over");
        assert_eq!(holds(1, 1), 30);
        assert_eq!(holds(SLOWEST / 2, 1), 59);
        assert_eq!(holds(SLOWEST * 10, 10), 100_000);
        assert_eq!(holds(SLOWEST * 1_000, 31), 0, "a pause is a pause");
    }

    #[test]
    fn it_is_told_which_bound_it_has_met() {
        let pace = |waited| Pace {
            pause: PAUSE,
            waited: Duration::from_secs(waited),
        };
        let words = pace(0).refusal(0);
        assert!(words.contains("paused for more than 30 s"), "{words}");
        let words = pace(29).refusal(1);
        assert!(words.contains("brought 1 bytes in 30 s"), "{words}");
    }
}
