//! Opening a stream to the coordinator, and what its end means. Never speaks on it. Called by the
//! session and its data stream.

use std::{error::Error, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use trainyard_net::{ClientTls, Connection, Plain, client::SetupError};
use trainyard_proto::v1::{
    ConnectRequest, ConnectResponse, agent_service_client::AgentServiceClient,
};

use super::{Access, session::SessionEnd};

/// The largest frame in either direction.
pub(super) const MOST_BYTES: usize = 16 << 20;
/// How long a connection, and the first word on it, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that is silent for so long is asked, and after as long again counts as gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Answers that no later try changes: rights, version of the protocol, name of the node.
const FINAL: [Code; 3] = [
    Code::PermissionDenied,
    Code::FailedPrecondition,
    Code::InvalidArgument,
];

/// The way to the coordinator, and how connections behave. Each stream makes one of its own.
///
/// # Errors
/// When the URL is none or leads plain text out of this machine, or a file of TLS is of no use.
pub fn connection(url: &str, tls: ClientTls, plain: Plain) -> Result<Connection, SetupError> {
    let connection = Connection::new(url, tls, plain)?;
    Ok(connection.tuned(|endpoint| {
        endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
    }))
}

/// Opens a stream over a connection of its own; `requests` already holds the first frame.
pub(super) async fn open(
    access: &Access,
    requests: mpsc::Receiver<ConnectRequest>,
) -> Result<Streaming<ConnectResponse>, SessionEnd> {
    let opened = async {
        let channel = access.connection().connect().await;
        let channel = channel.map_err(|error| SessionEnd::Lost(error.to_string()))?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MOST_BYTES)
            .max_encoding_message_size(MOST_BYTES);
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(header) = access.header() {
            // Known before the first frame is read, which may then be a large one.
            request.metadata_mut().insert("authorization", header);
        }
        let response = client.connect(request).await;
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

pub(super) fn of_status(status: &Status) -> SessionEnd {
    let text = match status.source() {
        Some(source) => format!("{}: {}", status.message(), chain(source)),
        None => status.message().to_owned(),
    };
    if status.code() == Code::Unauthenticated {
        SessionEnd::Unknown(text)
    } else if status.code() == Code::AlreadyExists {
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
    fn a_refused_credential_is_told_from_all_other_ends() {
        let unknown = SessionEnd::Unknown("no".into());
        assert_eq!(ended(Err(Status::unauthenticated("no"))), unknown);
        let refused = SessionEnd::Refused("no".into());
        assert_eq!(ended(Err(Status::permission_denied("no"))), refused);
        let taken = SessionEnd::NameTaken("no".into());
        assert_eq!(ended(Err(Status::already_exists("no"))), taken);
        let lost = SessionEnd::Lost("no".into());
        assert_eq!(ended(Err(Status::unavailable("no"))), lost);
        assert_eq!(refused.without_refusal(), lost);
    }
}
