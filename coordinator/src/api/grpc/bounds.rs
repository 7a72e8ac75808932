//! What every call of gRPC goes through before anything of its message is read: who calls, how large the
//! first message may be, how long the call may take.
//!
//! Who may do what is decided by the service; here is only told whether somebody is known at all. The
//! REST door has the same bounds. Called by the door's router.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tonic::Status;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use crate::{
    api::{ApiError, Service, peer::bearer},
    listen::PeerCertificate,
};

/// The largest first message of a caller who is not known yet, in bytes.
pub(super) const STRANGER: usize = 64 << 10;
/// The largest first message of an agent that shows its credential in it: it tells all its tasks.
const HELLO: usize = 1 << 20;

/// What a method needs before its message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// What is needed stands in the message.
    Nothing,
    /// An agent's stream: its credential may stand in the first message.
    Stream,
    /// An agent's credential.
    Agent,
    /// A user's token.
    User,
}

/// A method that is not named needs a user.
fn needs(path: &str) -> Needs {
    let Some(method) = path.strip_prefix("/trainyard.v1.") else {
        // Health and reflection.
        return Needs::Nothing;
    };
    match method {
        "AuthService/Login" | "AuthService/Refresh" | "AgentService/Join" => Needs::Nothing,
        "AgentService/Connect" => Needs::Stream,
        method if method.starts_with("AgentService/") => Needs::Agent,
        _ => Needs::User,
    }
}

/// Puts the bounds around every method.
pub(super) fn around(routes: Router, service: &Service) -> Router {
    routes.route_layer(from_fn_with_state(service.clone(), bounded))
}

async fn bounded(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let needs = needs(request.uri().path());
    let first = match known(&service, &mut request, needs) {
        Ok(first) => first,
        Err(error) => return Status::from(error).into_http(),
    };
    let pause = service.http().body_timeout();
    let request = request.map(|body| {
        let body = match first {
            Some(most) => Body::new(First::new(body, most)),
            None => body,
        };
        // An agent may have nothing to say for long; its lease is another's matter.
        match needs {
            Needs::Stream => body,
            Needs::Nothing | Needs::Agent | Needs::User => Body::new(Moving::new(body, pause)),
        }
    });
    // Until the answer begins: streams have no end of their own.
    let limit = service.http().request_timeout();
    let answered = tokio::time::timeout(limit, next.run(request)).await;
    answered.unwrap_or_else(|_| late(limit))
}

/// Whether the caller is known as the method needs it; answers with the bound on the first message of
/// one that is not.
fn known(
    service: &Service,
    request: &mut Request,
    needs: Needs,
) -> Result<Option<usize>, ApiError> {
    let token = bearer(request.headers());
    let certificate = request.extensions().get::<PeerCertificate>();
    match (needs, token) {
        (Needs::Nothing, _) => Ok(Some(STRANGER)),
        (Needs::Stream, None) => Ok(Some(HELLO)),
        (Needs::Stream | Needs::Agent, token) => {
            service.agent(token.unwrap_or_default(), certificate)?;
            Ok(None)
        }
        (Needs::User, token) => {
            let caller = service.caller(token)?;
            request.extensions_mut().insert(caller);
            Ok(None)
        }
    }
}

fn late(limit: Duration) -> Response {
    let words = format!(
        "the call took longer than {} s (http.request_timeout_seconds); it may have been carried out",
        limit.as_secs()
    );
    Status::deadline_exceeded(words).into_http()
}

/// Why a body broke off.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that may not pause for long.
struct Moving {
    body: Pin<Box<TimeoutBody<Body>>>,
    pause: Duration,
}

impl Moving {
    fn new(body: Body, pause: Duration) -> Self {
        Self {
            body: Box::pin(TimeoutBody::new(pause, body)),
            pause,
        }
    }
}

impl HttpBody for Moving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let pause = self.pause.as_secs();
        self.body.as_mut().poll_frame(context).map_err(|error| {
            if !error.is::<TimeoutError>() {
                return error;
            }
            let words =
                format!("the sender paused for more than {pause} s (http.body_timeout_seconds)");
            Status::deadline_exceeded(words).into()
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body whose first message has a bound of its own, told by the length before it.
struct First {
    body: Body,
    most: usize,
    /// The first five bytes as far as they came: whether it is compressed, and its length.
    head: Vec<u8>,
}

/// Bytes before a message.
const HEAD: usize = 5;

impl First {
    fn new(body: Body, most: usize) -> Self {
        Self {
            body,
            most,
            head: Vec::with_capacity(HEAD),
        }
    }

    /// Whether the first message is small enough, as far as is known.
    fn fits(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if self.head.len() >= HEAD {
            return Ok(());
        }
        let missing = HEAD - self.head.len();
        self.head.extend(bytes.iter().take(missing));
        let [_, a, b, c, d] = *self.head.as_slice() else {
            return Ok(());
        };
        let size = u32::from_be_bytes([a, b, c, d]);
        if usize::try_from(size).is_ok_and(|size| size <= self.most) {
            return Ok(());
        }
        let words = format!(
            "the first message has {size} bytes, and a caller who is not known may send {}",
            self.most
        );
        Err(Status::resource_exhausted(words))
    }
}

impl HttpBody for First {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            let bytes = bytes.clone();
            if let Err(status) = self.fits(&bytes) {
                return Poll::Ready(Some(Err(Box::new(status))));
            }
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_named_needs_a_user() {
        assert_eq!(needs("/trainyard.v1.JobService/New"), Needs::User);
        assert_eq!(needs("/trainyard.v1.AgentService/New"), Needs::Agent);
        assert_eq!(needs("/grpc.health.v1.Health/Check"), Needs::Nothing);
    }

    #[test]
    fn the_length_is_read_however_it_is_cut_and_only_the_first_counts() {
        let mut first = First::new(Body::empty(), 256);
        assert!(first.fits(&[0, 0]).is_ok());
        assert!(first.fits(&[0, 1]).is_ok());
        assert!(first.fits(&[0, 7, 7]).is_ok());
        assert!(first.fits(&[0, 255, 255, 255, 255]).is_ok());
        let mut large = First::new(Body::empty(), 256);
        assert!(large.fits(&[0, 0, 0, 1]).is_ok());
        assert!(large.fits(&[1]).is_err());
    }
}
