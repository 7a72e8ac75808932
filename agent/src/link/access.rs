//! What the coordinator believes this agent by: a credential of its own, which it gets for a join
//! token and keeps in the data folder.
//!
//! Owns the file of the credential: it is on disk before it is used, for its owner's eyes only. Never
//! opens a session. Called by the link, and by whoever makes calls of its own to the coordinator.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use trainyard_config::Secret;
use trainyard_net::{Connection, client::ConnectError};
use trainyard_proto::v1::{JoinRequest, agent_service_client::AgentServiceClient};

use super::{SessionEnd, wire};
use crate::exec::durable;

/// In the data folder.
const FILE: &str = "credential";

/// The credential as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The node that it is for.
    node: String,
    credential: Secret,
}

/// The way to the coordinator and what is shown there. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Access {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    node: String,
    agent_id: String,
    join_token: Option<Secret>,
    file: PathBuf,
    credential: Mutex<Option<Secret>>,
}

/// Puts the credential on each call.
#[derive(Clone, Debug)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Calls of the agent outside of its session.
pub type Calls = AgentServiceClient<InterceptedService<Channel, Bearer>>;

/// Why the coordinator cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It has not joined.
    #[error("this node has not joined the cluster yet")]
    NotJoined,
    /// It cannot be reached.
    #[error("the coordinator cannot be reached: {0}")]
    Connect(#[from] ConnectError),
}

impl Access {
    /// What is kept in `data_dir` for this node, if anything, and a token to join with.
    pub(crate) fn open(
        connection: Connection,
        (node, agent_id): (&str, &str),
        join_token: Option<Secret>,
        data_dir: &Path,
    ) -> io::Result<Self> {
        let file = data_dir.join(FILE);
        let kept: Option<Kept> = durable::read_json(&file)?;
        // One of another name is of no use; joining replaces it.
        let credential = kept.filter(|kept| kept.node == node);
        let inner = Inner {
            connection,
            node: node.to_owned(),
            agent_id: agent_id.to_owned(),
            join_token,
            file,
            credential: Mutex::new(credential.map(|kept| kept.credential)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The way to the coordinator, also for HTTP clients.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// The credential, once there is one.
    #[must_use]
    pub fn credential(&self) -> Option<Secret> {
        self.held().clone()
    }

    /// A connection of its own for calls beside the session; keep it and share its clones.
    ///
    /// # Errors
    /// When the node has not joined, or the coordinator cannot be reached.
    pub async fn calls(&self) -> Result<Calls, AccessError> {
        let header = self.header().ok_or(AccessError::NotJoined)?;
        let channel = self.connection().connect().await?;
        let calls = AgentServiceClient::with_interceptor(channel, Bearer(header));
        Ok(calls
            .max_decoding_message_size(wire::MOST_BYTES)
            .max_encoding_message_size(wire::MOST_BYTES))
    }

    /// The credential as metadata, once there is one.
    pub(super) fn header(&self) -> Option<MetadataValue<Ascii>> {
        let header = format!("Bearer {}", self.credential()?.expose());
        let mut header: MetadataValue<Ascii> = header.parse().ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// Whether this agent has anything to show.
    pub(crate) fn can_enter(&self) -> bool {
        self.inner.join_token.is_some() || self.held().is_some()
    }

    /// The credential; joins to get one where there is none.
    pub(super) async fn enter(&self) -> Result<Secret, SessionEnd> {
        if let Some(credential) = self.credential() {
            return Ok(credential);
        }
        let token = self.inner.join_token.as_ref();
        let token = token.ok_or_else(|| {
            SessionEnd::Refused(
                "it has no credential; join it with a token (`trainyard node token`)".to_owned(),
            )
        })?;
        let credential = Secret::new(self.join(token).await?);
        let (file, node) = (self.inner.file.clone(), self.inner.node.clone());
        let kept = Kept {
            node,
            credential: credential.clone(),
        };
        let write = move || durable::write_private_json(&file, &kept);
        let written = trainyard_runtime::blocking(write).await;
        let written = written
            .map_err(io::Error::other)
            .and_then(|written| written);
        written.map_err(|error| {
            let file = self.inner.file.display();
            SessionEnd::Lost(format!("the credential cannot be kept in {file}: {error}"))
        })?;
        *self.held() = Some(credential.clone());
        tracing::info!(node = %self.inner.node, "this node has joined the cluster");
        Ok(credential)
    }

    /// The coordinator does not take the credential: with a token at hand it is given up, and the next
    /// session begins with joining. False without one.
    pub(super) fn give_up(&self) -> bool {
        self.inner.join_token.is_some() && self.held().take().is_some()
    }

    async fn join(&self, token: &Secret) -> Result<String, SessionEnd> {
        let request = JoinRequest {
            token: token.expose().to_owned(),
            node_name: self.inner.node.clone(),
            agent_id: self.inner.agent_id.clone(),
        };
        let joining = async {
            let channel = self.connection().connect().await;
            let channel = channel.map_err(|error| SessionEnd::Lost(error.to_string()))?;
            let answer = AgentServiceClient::new(channel).join(request).await;
            let answer = answer.map_err(|status| wire::of_status(&status))?;
            Ok(answer.into_inner().credential)
        };
        let late = |_| SessionEnd::Lost(format!("no answer within {:?}", wire::PATIENCE));
        let joined = tokio::time::timeout(wire::PATIENCE, joining);
        match joined.await.map_err(late)? {
            // No later try with this token is better.
            Err(SessionEnd::Unknown(text)) => Err(SessionEnd::Refused(text)),
            Err(SessionEnd::Lost(text)) => {
                let said = self.connection().diagnose().await;
                Err(SessionEnd::Lost(said.unwrap_or(text)))
            }
            joined => joined,
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        let held = self.inner.credential.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use trainyard_net::{ClientTls, Plain};

    use super::*;

    fn open(folder: &Path, node: &str, token: Option<&str>) -> Access {
        let url = "http://127.0.0.1:1";
        let connection = Connection::new(url, ClientTls::default(), Plain::Loopback).unwrap();
        let token = token.map(|token| Secret::new(token.to_owned()));
        Access::open(connection, (node, "id"), token, folder).unwrap()
    }

    #[test]
    fn a_credential_is_its_owners_alone_and_is_of_one_node() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!open(folder.path(), "a", None).can_enter());
        let file = folder.path().join(FILE);
        let kept = Kept {
            node: "a".into(),
            credential: Secret::new("tya:a:secret".into()),
        };
        durable::write_private_json(&file, &kept).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let access = open(folder.path(), "a", None);
        assert_eq!(access.credential().unwrap().expose(), "tya:a:secret");
        assert!(!format!("{access:?}").contains("secret"));
        assert!(!access.give_up(), "without a token it is all there is");
        assert!(open(folder.path(), "b", None).credential().is_none());
        assert!(open(folder.path(), "a", Some("t")).give_up());
    }
}
