//! The connection to a coordinator: address, tokens and their silent refresh, errors in words.
//!
//! Owns no command. Never prints. Called by every client command and by the demo.

use std::{path::PathBuf, time::Duration};

use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use trainyard_net::{Connection, Place, PlaceError};
use trainyard_proto::v1::{
    LoginRequest, RefreshRequest, TokenPair, auth_service_client::AuthServiceClient,
    job_service_client::JobServiceClient,
};

use crate::{
    credentials::{self, Credentials, Login},
    error::{CliError, is_broken},
    transport::Transport,
};

/// Where a coordinator is looked for when nobody says.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8000";
/// Its token goes before the stored ones.
pub(crate) const TOKEN_VARIABLE: &str = "TRAINYARD_ACCESS_TOKEN";
/// A service account's API key; goes before both.
pub(crate) const API_KEY_VARIABLE: &str = "TRAINYARD_API_KEY";
/// How long a connection may take, handshake and all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is tried so often; a partition is noticed after two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Puts the access token into each call.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// What the generated clients are made of.
pub(crate) type Via = InterceptedService<Channel, Bearer>;

/// The largest answer that is read: a job of a thousand ranks has the last lines of each.
const MOST_BYTES: usize = 64 << 20;

/// Asks for jobs.
pub(crate) fn job_service(via: Via) -> JobServiceClient<Via> {
    JobServiceClient::new(via).max_decoding_message_size(MOST_BYTES)
}

/// Where the tokens come from.
#[derive(Clone, Debug)]
enum Identity {
    /// Nobody is logged in.
    Nobody,
    /// A token that the caller gave; it cannot be renewed.
    Given(String),
    /// A login that the file keeps.
    Stored { login: Login, file: PathBuf },
}

/// A connection to one coordinator; copies share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    connection: Connection,
    channel: Channel,
    identity: Identity,
}

impl Client {
    /// Connects to `asked`, else to where the last login was, else to the default address.
    pub(crate) async fn open(asked: Option<&str>, transport: &Transport) -> anyhow::Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|token| !token.is_empty());
        let given = variable(API_KEY_VARIABLE).or_else(|| variable(TOKEN_VARIABLE));
        let file = credentials::path();
        let kept = match &file {
            Ok(path) => Credentials::load(path)?,
            // With an address and a token given, no file is needed.
            Err(_) => Credentials::default(),
        };
        let text = asked.or(kept.last.as_deref()).unwrap_or(DEFAULT_URL);
        let connection = transport.connection(text, &kept)?;
        let url = connection.url().to_owned();
        let identity = match (given, kept.servers.get(&url), file) {
            (Some(token), ..) => Identity::Given(token),
            (None, Some(login), Ok(file)) => Identity::Stored {
                login: login.clone(),
                file,
            },
            (None, ..) => Identity::Nobody,
        };
        Ok(Self::connect(connection, identity).await?)
    }

    /// Connects as nobody to this machine.
    pub(crate) async fn anonymous(url: &str) -> Result<Self, CliError> {
        let transport = Transport::default();
        Self::stranger(transport.connection(url, &Credentials::default())?).await
    }

    /// Connects as nobody, to log in.
    pub(crate) async fn stranger(connection: Connection) -> Result<Self, CliError> {
        Self::connect(connection, Identity::Nobody).await
    }

    async fn connect(connection: Connection, identity: Identity) -> Result<Self, CliError> {
        let connection = connection.tuned(|endpoint| {
            endpoint
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
        });
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connection.connect()).await;
        let reason = match connected {
            Ok(Ok(channel)) => {
                return Ok(Self {
                    connection,
                    channel,
                    identity,
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_late) => format!("no answer within {CONNECT_TIMEOUT:?}"),
        };
        let url = connection.url().to_owned();
        Err(CliError::Unreachable { url, reason })
    }

    /// The coordinator's address.
    pub(crate) fn url(&self) -> &str {
        self.connection.url()
    }

    /// The connection without a token.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Logs in; the calls that follow are that user's. Nothing is stored.
    pub(crate) async fn login(&mut self, email: &str, password: &str) -> anyhow::Result<Login> {
        let request = LoginRequest {
            email: email.to_owned(),
            password: password.to_owned(),
        };
        let answer = AuthServiceClient::new(self.channel()).login(request).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::Unauthenticated => {
                let refused = CliError::LoginRefused {
                    url: self.url().to_owned(),
                    reason: status.message().to_owned(),
                };
                return Err(refused.into());
            }
            Err(status) => return Err(self.diagnosed(status).await.into()),
        };
        let tokens = answer.into_inner().tokens.unwrap_or_default();
        self.identity = Identity::Given(tokens.access_token.clone());
        Ok(login(email, tokens))
    }

    /// Asks, and where the access token has expired gets a new one and asks again.
    pub(crate) async fn call<T>(
        &mut self,
        ask: impl AsyncFn(Via) -> Result<Response<T>, Status>,
    ) -> Result<T, anyhow::Error> {
        let mut answer = ask(self.via()?).await;
        if let Err(status) = &answer
            && status.code() == Code::Unauthenticated
            && self.refresh().await?
        {
            answer = ask(self.via()?).await;
        }
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.diagnosed(status).await.into()),
        }
    }

    /// As [`Client::explain`]; a connection that was closed without a word is asked why.
    pub(crate) async fn diagnosed(&self, status: Status) -> CliError {
        let error = self.explain(status);
        let CliError::Unreachable { url, reason } = error else {
            return error;
        };
        let reason = self.connection.diagnose().await.unwrap_or(reason);
        CliError::Unreachable { url, reason }
    }

    fn via(&self) -> Result<Via, CliError> {
        let token = match &self.identity {
            Identity::Nobody => None,
            Identity::Given(token) => Some(token),
            Identity::Stored { login, .. } => Some(&login.access_token),
        };
        let header = token
            .map(|token| MetadataValue::try_from(format!("Bearer {token}")))
            .transpose()
            .map_err(|_invalid| CliError::TokenRefused {
                url: self.url().to_owned(),
                reason: "it holds characters that no token has".to_owned(),
            })?;
        Ok(InterceptedService::new(
            self.channel.clone(),
            Bearer(header),
        ))
    }

    /// Renews the stored login; false where there is none or it is refused.
    ///
    /// A refresh token is good once. So commands that run at the same time take turns, and one that
    /// comes second takes what the first has got.
    async fn refresh(&mut self) -> anyhow::Result<bool> {
        let Identity::Stored { login: old, file } = &self.identity else {
            return Ok(false);
        };
        let (old, file) = (old.clone(), file.clone());
        let _turn = credentials::turn(&file).await?;
        let mut kept = Credentials::load(&file)?;
        let newer = kept.servers.get(self.url()).filter(|login| **login != old);
        if let Some(login) = newer.cloned() {
            self.identity = Identity::Stored { login, file };
            return Ok(true);
        }
        let request = RefreshRequest {
            refresh_token: old.refresh_token.clone(),
        };
        let answer = AuthServiceClient::new(self.channel())
            .refresh(request)
            .await;
        let tokens = match answer {
            Ok(response) => response.into_inner().tokens.unwrap_or_default(),
            Err(status) if status.code() == Code::Unauthenticated => return Ok(false),
            Err(status) => return Err(self.explain(status).into()),
        };
        let login = login(&old.email, tokens);
        kept.servers.insert(self.url().to_owned(), login.clone());
        kept.save(&file)?;
        self.identity = Identity::Stored { login, file };
        Ok(true)
    }

    /// A status as an error with its exit code.
    pub(crate) fn explain(&self, status: Status) -> CliError {
        let url = self.url().to_owned();
        if status.code() == Code::Unauthenticated {
            return match self.identity {
                Identity::Nobody => CliError::NotLoggedIn { url },
                Identity::Given(_) | Identity::Stored { .. } => CliError::TokenRefused {
                    url,
                    reason: status.message().to_owned(),
                },
            };
        }
        match std::error::Error::source(&status) {
            Some(cause) if is_broken(&status) => CliError::Unreachable {
                url,
                reason: trainyard_net::reason(cause),
            },
            _ => CliError::Refused(Box::new(status)),
        }
    }
}

fn login(email: &str, tokens: TokenPair) -> Login {
    Login {
        email: email.to_owned(),
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
    }
}

/// An address in the one form in which logins are kept.
pub(crate) fn address(text: &str) -> Result<String, PlaceError> {
    Ok(Place::parse(text, true)?.url().to_owned())
}

#[cfg(test)]
mod tests;
