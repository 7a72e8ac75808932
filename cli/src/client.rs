//! The connection to a coordinator: address, tokens and their silent refresh, errors in words.
//!
//! Owns no command. Never prints. Called by every client command and by the demo.

use std::{path::PathBuf, time::Duration};

use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use trainyard_proto::v1::{
    LoginRequest, RefreshRequest, TokenPair, auth_service_client::AuthServiceClient,
};

use crate::{
    credentials::{self, Credentials, Login},
    error::{CliError, is_broken, root_cause},
};

/// Where a coordinator is looked for when nobody says.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8000";
/// Its token goes before the stored ones.
pub(crate) const TOKEN_VARIABLE: &str = "TRAINYARD_ACCESS_TOKEN";
/// A service account's API key; goes before both.
pub(crate) const API_KEY_VARIABLE: &str = "TRAINYARD_API_KEY";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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
    url: String,
    channel: Channel,
    identity: Identity,
}

impl Client {
    /// Connects to `asked`, else to where the last login was, else to the default address.
    pub(crate) async fn open(asked: Option<&str>) -> anyhow::Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|token| !token.is_empty());
        let given = variable(API_KEY_VARIABLE).or_else(|| variable(TOKEN_VARIABLE));
        let file = credentials::path();
        let kept = match &file {
            Ok(path) => Credentials::load(path)?,
            // With an address and a token given, no file is needed.
            Err(_) => Credentials::default(),
        };
        let url = match asked {
            Some(url) => address(url)?,
            None => kept.last.clone().unwrap_or_else(|| DEFAULT_URL.to_owned()),
        };
        let identity = match (given, kept.servers.get(&url), file) {
            (Some(token), ..) => Identity::Given(token),
            (None, Some(login), Ok(file)) => Identity::Stored {
                login: login.clone(),
                file,
            },
            (None, ..) => Identity::Nobody,
        };
        Ok(Self::connect(url, identity).await?)
    }

    /// Connects as nobody, to log in.
    pub(crate) async fn anonymous(url: &str) -> Result<Self, CliError> {
        Self::connect(address(url)?, Identity::Nobody).await
    }

    async fn connect(url: String, identity: Identity) -> Result<Self, CliError> {
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|_invalid| CliError::Address(url.clone()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        match endpoint.connect().await {
            Ok(channel) => Ok(Self {
                url,
                channel,
                identity,
            }),
            Err(error) => Err(CliError::Unreachable {
                url,
                reason: root_cause(&error),
            }),
        }
    }

    /// The coordinator's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
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
        let answer = answer.map_err(|status| {
            if status.code() == Code::Unauthenticated {
                CliError::LoginRefused {
                    url: self.url.clone(),
                    reason: status.message().to_owned(),
                }
            } else {
                self.explain(status)
            }
        })?;
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
            Err(status) => Err(self.explain(status).into()),
        }
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
                url: self.url.clone(),
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
        let newer = kept.servers.get(&self.url).filter(|login| **login != old);
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
        kept.servers.insert(self.url.clone(), login.clone());
        kept.save(&file)?;
        self.identity = Identity::Stored { login, file };
        Ok(true)
    }

    /// A status as an error with its exit code.
    pub(crate) fn explain(&self, status: Status) -> CliError {
        let url = self.url.clone();
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
                reason: root_cause(cause),
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

/// An address in the one form in which logins are kept: with a scheme, without a slash at the end.
pub(crate) fn address(text: &str) -> Result<String, CliError> {
    let bad = || CliError::Address(text.to_owned());
    let (scheme, rest) = text
        .trim()
        .split_once("://")
        .unwrap_or_else(|| ("http", text.trim()));
    let host = rest.trim_end_matches('/');
    // This build speaks no TLS; a tunnel or a proxy has to.
    if scheme != "http" || host.is_empty() {
        return Err(bad());
    }
    let url = format!("http://{host}");
    match Endpoint::from_shared(url.clone()) {
        Ok(_) => Ok(url),
        Err(_) => Err(bad()),
    }
}

#[cfg(test)]
mod tests;
