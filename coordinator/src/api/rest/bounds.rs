//! What every call of this door goes through: time limits, counting, and which web pages may call.
//!
//! Sizes of bodies are bounded where the routes are. A client that is slow to send its headers is cut
//! off by the listener. Called by the door's router.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;
use tower_http::{
    cors::{AllowOrigin, CorsLayer},
    timeout::RequestBodyTimeoutLayer,
};

use crate::{api::Service, config::Http};

/// How long a browser may remember what it was told of origins.
const REMEMBER: Duration = Duration::from_secs(600);

/// Puts all bounds around `routes`.
pub(super) fn around(routes: Router, service: &Service) -> Router {
    let http = service.http();
    let state = (service.clone(), http.request_timeout());
    let routes = routes
        .layer(RequestBodyTimeoutLayer::new(http.body_timeout()))
        .layer(from_fn_with_state(state, bounded));
    for_pages(routes, service)
}

/// Says to browsers which web pages may call.
pub(super) fn for_pages(routes: Router, service: &Service) -> Router {
    match cors(service.http()) {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// Counts the call, and ends it when it takes too long.
async fn bounded(
    State((service, limit)): State<(Service, Duration)>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = counted(request.method());
    let older = request.version() <= Version::HTTP_11;
    let ended = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let watch = Arc::clone(&ended);
    let request = request.map(|body| Body::new(Watched { body, ended: watch }));
    let answered = tokio::time::timeout(limit, next.run(request)).await;
    let mut answer = answered.unwrap_or_else(|_| {
        let words = format!(
            "The call took longer than {} s (http.request_timeout_seconds); it may have been carried out",
            limit.as_secs()
        );
        super::detail(StatusCode::SERVICE_UNAVAILABLE, &words).into_response()
    });
    if older && !ended.load(Ordering::Relaxed) {
        // The rest of the body is not read, so this connection cannot carry another call: said aloud, or
        // a client that keeps it sees it break in the middle of its next one.
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let status = answer.status().as_u16();
    service
        .telemetry()
        .answered(route, method, status, began.elapsed());
    answer
}

/// The word under which a method is counted. Methods are made up by whoever calls: each word is kept
/// for good, so there are few.
fn counted(method: &Method) -> &'static str {
    const COUNTED: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let known = COUNTED.into_iter().find(|name| *name == method.as_str());
    known.unwrap_or("other")
}

/// A body that says whether it was read to its end.
struct Watched {
    body: Body,
    ended: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn cors(http: &Http) -> Option<CorsLayer> {
    let origins = http.origins();
    let origins = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false if origins.is_empty() => return None,
        false => AllowOrigin::list(origins),
    };
    let key = HeaderName::from_static("idempotency-key");
    // What a page needs to read beside the body: browsers hide all else.
    let shown = [
        header::RETRY_AFTER,
        header::WWW_AUTHENTICATE,
        header::CONTENT_DISPOSITION,
        header::ETAG,
    ];
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, key])
        .expose_headers(shown)
        .max_age(REMEMBER);
    Some(cors)
}
