//! A server that a test holds in its hand: it notes every call and answers as it is told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

/// A call that came.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// How a call ends before its proper answer is looked for.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mood {
    /// Properly.
    #[default]
    Well,
    /// With this status, unheard.
    Status(u16),
    /// With 429 and `Retry-After: 1`, unheard.
    Busy,
    /// As MLflow refuses what it will never take.
    Never,
    /// It is carried out, and answered with 500.
    Forgets,
    /// Properly, once the test lets it.
    Holds(Arc<Notify>),
}

type Answers = Box<dyn Fn(&Call) -> Response + Send + Sync>;

struct Inner {
    calls: Mutex<Vec<Call>>,
    mood: Mutex<Mood>,
    answers: Answers,
}

/// The server; it ends when it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// At this address, or any free port.
    pub(crate) async fn at(
        address: &str,
        answers: impl Fn(&Call) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            calls: Mutex::default(),
            mood: Mutex::default(),
            answers: Box::new(answers),
        });
        let router = Router::new().fallback(take).with_state(Arc::clone(&inner));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            inner,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }

    pub(crate) fn mood(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn take(
    State(inner): State<Arc<Inner>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = Call {
        path: uri.path().to_owned(),
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    inner.calls.lock().unwrap().push(call.clone());
    let mood = inner.mood.lock().unwrap().clone();
    match mood {
        Mood::Well => (inner.answers)(&call),
        Mood::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mood::Busy => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        Mood::Never => {
            let words = r#"{"error_code": "INVALID_PARAMETER_VALUE", "message": "too strange"}"#;
            (StatusCode::BAD_REQUEST, words).into_response()
        }
        Mood::Forgets => {
            (inner.answers)(&call);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Mood::Holds(gate) => {
            gate.notified().await;
            (inner.answers)(&call)
        }
    }
}
