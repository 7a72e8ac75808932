//! A real HTTP server that files come from and checkpoints go to; it can be slow, break off, and let
//! its ways expire.
#![expect(
    clippy::indexing_slicing,
    reason = "a case that looks where nothing is has failed"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// What the server knows.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Files asked for, in order.
    pub(crate) asked: Vec<String>,
    pub(crate) uploads: BTreeMap<String, Vec<u8>>,
    /// Uploads that are refused before one is taken.
    pub(crate) refuse_uploads: u32,
    /// With this status.
    pub(crate) refuse_with: Option<StatusCode>,
    /// Names of uploads that came, taken or not.
    pub(crate) came: Vec<String>,
    /// Uploads in parts that were ended, with the number of their parts.
    pub(crate) ended: Vec<(String, usize)>,
    /// Ways signed before this number have expired.
    pub(crate) valid_from: u64,
    /// Answers that break off in the middle.
    pub(crate) broken: u32,
    /// Uploads whose sender has hung up before they were taken.
    pub(crate) left: u32,
}

/// An upload that is being taken.
struct Coming {
    store: Store,
    taken: bool,
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.taken {
            self.store.shelf().left += 1;
        }
    }
}

/// The server. A cheap handle.
#[derive(Clone)]
pub(crate) struct Store {
    shelf: Arc<Mutex<Shelf>>,
    /// Answers that may be given; as many as anybody wants unless a case takes them.
    pub(crate) gate: Arc<Semaphore>,
    /// Held by a case: uploads are not taken.
    pub(crate) full: Arc<tokio::sync::Mutex<()>>,
    pub(crate) address: SocketAddr,
}

impl Store {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let store = Self {
            shelf: Arc::default(),
            gate: Arc::new(Semaphore::new(1_000_000)),
            full: Arc::default(),
            address: listener.local_addr().expect("its address"),
        };
        let router = Router::new()
            .route("/files/{*path}", get(file))
            .route("/uploads/{name}", axum::routing::put(upload))
            .with_state(store.clone());
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
        store
    }

    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("no case has panicked with it")
    }

    /// The way to a file, as it is signed now.
    pub(crate) fn way(&self, path: &str) -> String {
        let signed = self.shelf().valid_from;
        format!("http://{}/files/{path}?signed={signed}", self.address)
    }

    /// From now on only `count` answers are given.
    pub(crate) fn close_after(&self, count: usize) {
        self.gate.forget_permits(usize::MAX);
        self.gate.add_permits(count);
    }

    pub(crate) fn asked_for(&self, path: &str) -> usize {
        self.shelf().asked.iter().filter(|one| *one == path).count()
    }
}

async fn file(
    State(store): State<Store>,
    Path(path): Path<String>,
    Query(query): Query<BTreeMap<String, u64>>,
    headers: HeaderMap,
) -> Response {
    store.shelf().asked.push(path.clone());
    store
        .gate
        .acquire()
        .await
        .expect("it is never closed")
        .forget();
    let mut shelf = store.shelf();
    if query
        .get("signed")
        .is_none_or(|signed| *signed < shelf.valid_from)
    {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(content) = shelf.files.get(&path).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let from = range.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let rest = content[from.unwrap_or(0)..].to_vec();
    let status = match from {
        Some(_) => StatusCode::PARTIAL_CONTENT,
        None => StatusCode::OK,
    };
    if shelf.broken > 0 && rest.len() > 1 {
        shelf.broken -= 1;
        let half = Bytes::from(rest[..rest.len() / 2].to_vec());
        let broken = std::io::Error::other("broken");
        let parts = futures::stream::iter([Ok(half), Err(broken)]);
        return (status, Body::from_stream(parts)).into_response();
    }
    (status, rest).into_response()
}

async fn upload(State(store): State<Store>, Path(name): Path<String>, body: Bytes) -> Response {
    store.shelf().came.push(name.clone());
    let mut coming = Coming {
        store: store.clone(),
        taken: false,
    };
    let free = store.full.lock().await;
    coming.taken = true;
    drop(free);
    let mut shelf = store.shelf();
    if shelf.refuse_uploads > 0 {
        shelf.refuse_uploads -= 1;
        let status = shelf.refuse_with.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let words = "<Error><Message>as the case wants it</Message></Error>";
        return (status, words).into_response();
    }
    let tag = format!("\"tag of {name}\"");
    shelf.uploads.insert(name, body.to_vec());
    ([(header::ETAG, tag)], StatusCode::OK).into_response()
}
