//! Opening a stream to the coordinator, and what its end means. Never speaks on it. Called by the
//! session and its data stream.

use std::{error::Error, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use trainyard_proto::v1::{
    ConnectRequest, ConnectResponse, agent_service_client::AgentServiceClient,
};

use super::session::SessionEnd;

/// The largest frame in either direction.
const MOST_BYTES: usize = 16 << 20;
/// How long a connection, and the first word on it, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that is silent for so long is asked, and after as long again counts as gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Answers that no later try changes: token, version of the protocol, name of the node.
const FINAL: [Code; 4] = [
    Code::Unauthenticated,
    Code::PermissionDenied,
    Code::FailedPrecondition,
    Code::InvalidArgument,
];

/// What is wrong with the coordinator's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "coordinator '{url}' is not the URL of a coordinator: {fault}; write it like http://10.0.0.1:8000"
)]
pub struct UrlError {
    /// As it was given.
    pub url: String,
    /// What is wrong.
    pub fault: String,
}

/// Where the coordinator is, and how its connections behave. Each stream makes one of its own.
pub fn endpoint(url: &str) -> Result<Endpoint, UrlError> {
    let wrong = |fault: String| UrlError {
        url: url.to_owned(),
        fault,
    };
    let uri: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("TLS is not supported yet".to_owned())),
        Some(_) | None => return Err(wrong("it does not begin with http://".to_owned())),
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("there is more than host and port".to_owned()));
    }
    Ok(Endpoint::from(uri)
        .tcp_nodelay(true)
        .connect_timeout(KEEP_ALIVE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// A connection for single calls, made when it is first needed and again when it breaks.
pub fn channel(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}

/// Opens a stream over a connection of its own; `requests` already holds the first frame.
pub(super) async fn open(
    endpoint: &Endpoint,
    requests: mpsc::Receiver<ConnectRequest>,
) -> Result<Streaming<ConnectResponse>, SessionEnd> {
    let opened = async {
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| SessionEnd::Lost(chain(&error)))?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MOST_BYTES)
            .max_encoding_message_size(MOST_BYTES);
        let response = client.connect(ReceiverStream::new(requests)).await;
        let response = response.map_err(|status| of_status(&status))?;
        Ok(response.into_inner())
    };
    let late = |_| SessionEnd::Lost(format!("no answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, opened).await.map_err(late)?
}

/// What it means that a stream gives no further frame.
pub(super) fn ended(last: Result<Option<ConnectResponse>, Status>) -> SessionEnd {
    match last {
        Ok(_) => SessionEnd::Lost("the coordinator has closed the stream".to_owned()),
        Err(status) => of_status(&status),
    }
}

fn of_status(status: &Status) -> SessionEnd {
    let text = match status.source() {
        Some(source) => format!("{}: {}", status.message(), chain(source)),
        None => status.message().to_owned(),
    };
    if status.code() == Code::AlreadyExists {
        SessionEnd::NameTaken(text)
    } else if FINAL.contains(&status.code()) {
        SessionEnd::Refused(text)
    } else {
        SessionEnd::Lost(text)
    }
}

/// An error with all that it came of.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_leads_nowhere_is_refused_with_an_example() {
        assert!(endpoint("http://127.0.0.1:8000").is_ok());
        assert!(endpoint("http://host:8000/").is_ok());
        for url in [
            "",
            "host:8000",
            "https://host:8000",
            "ftp://host",
            "http://host/api",
            "http://",
            "not a url",
        ] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(error.contains("http://10.0.0.1:8000"), "{error}");
            assert!(error.contains(url), "{error}");
        }
    }

    #[test]
    fn a_refused_token_is_told_from_all_other_ends() {
        let refused = SessionEnd::Refused("no".into());
        assert_eq!(ended(Err(Status::unauthenticated("no"))), refused);
        assert_eq!(ended(Err(Status::permission_denied("no"))), refused);
        let taken = SessionEnd::NameTaken("no".into());
        assert_eq!(ended(Err(Status::already_exists("no"))), taken);
        let lost = SessionEnd::Lost("no".into());
        assert_eq!(ended(Err(Status::unavailable("no"))), lost);
        assert_eq!(refused.without_refusal(), lost);
    }
}
