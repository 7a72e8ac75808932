//! Tokens of an OpenID Connect issuer: RS256 and ES256, verified with the issuer's published keys.
//!
//! Owns finding and caching the keys and every check of such a token. Knows no user and no store.
//! Called by `api::users`, which makes users of what it answers.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use reqwest::{Client, Url, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::Mutex;
use trainyard_core::{access::SystemRole, time::Timestamp};

use crate::{
    clock,
    config::{OidcConfig, is_exposed},
};

/// Clocks may differ by this many seconds.
const LEEWAY: u64 = 30;
/// Keys older than this are fetched again, so that one that was withdrawn is forgotten.
const KEYS_FOR: Duration = Duration::from_secs(3_600);
/// The largest document that is read from an issuer.
const LARGEST: usize = 1 << 20;

/// Whom an issuer's token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The issuer's name for them.
    pub subject: String,
    /// Their address.
    pub email: String,
    /// Whether the issuer says that the address is theirs; none when it does not say.
    pub email_verified: Option<bool>,
    /// For people.
    pub name: String,
    /// The highest role that the role claim names.
    pub role: Option<SystemRole>,
    /// When the token ends, in seconds since the epoch.
    pub exp: i64,
}

/// Why an issuer's token is not taken. Never holds a token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OidcError {
    /// Its form, algorithm, signature, issuer, audience or time is wrong.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// No key of the issuer has its `kid`.
    #[error("the issuer has no key '{0}'")]
    UnknownKey(String),
    /// A claim that is needed is missing.
    #[error("the token has no claim '{0}'")]
    Missing(&'static str),
    /// The issuer did not answer as it should.
    #[error("the issuer's keys could not be fetched: {0}")]
    Issuer(String),
}

/// The keys, and when they were fetched.
#[derive(Debug, Default)]
struct Cached {
    keys: Option<Arc<JwkSet>>,
    at: Option<Timestamp>,
}

/// The issuer.
#[derive(Debug)]
pub struct Oidc {
    settings: OidcConfig,
    http: Client,
    cached: RwLock<Cached>,
    /// When fetching was last tried; held while it is tried, so that many callers share one try.
    tried: Mutex<Option<Timestamp>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Oidc {
    /// The issuer of the settings. Nothing is fetched yet.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(settings: OidcConfig) -> Result<Self, OidcError> {
        let time_out = Duration::from_secs(u64::from(settings.timeout_seconds));
        let http = Client::builder()
            .timeout(time_out)
            .connect_timeout(time_out)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| OidcError::Issuer(error.to_string()))?;
        Ok(Self {
            settings,
            http,
            cached: RwLock::default(),
            tried: Mutex::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    /// Whether a token is of a kind that an issuer signs, which says nothing about its being good.
    #[must_use]
    pub fn is_candidate(token: &str) -> bool {
        let header = decode_header(token).ok();
        header.is_some_and(|header| matches!(header.alg, Algorithm::RS256 | Algorithm::ES256))
    }

    /// Whom the token speaks for.
    ///
    /// # Errors
    /// When it is not good, or the issuer's keys cannot be had.
    pub async fn verify(&self, token: &str) -> Result<Person, OidcError> {
        let invalid = |error: jsonwebtoken::errors::Error| OidcError::Invalid(error.to_string());
        let header = decode_header(token).map_err(invalid)?;
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
            return Err(OidcError::Invalid("its algorithm is not taken".to_owned()));
        }
        let kid = header.kid.ok_or(OidcError::Missing("kid"))?;
        let key = self.key(&kid).await?;
        fits(&key, header.alg)?;
        let key = DecodingKey::from_jwk(&key).map_err(invalid)?;
        // The algorithm is one of two that take public keys only: no key can be passed off as a secret.
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Map<String, Value>>(token, &key, &validation);
        self.person(&claims.map_err(invalid)?.claims)
    }

    fn person(&self, claims: &Map<String, Value>) -> Result<Person, OidcError> {
        let text = |name: &'static str| claims.get(name).and_then(Value::as_str);
        let needed = |name: &'static str| {
            let found = text(name).filter(|text| !text.is_empty());
            found.map(str::to_owned).ok_or(OidcError::Missing(name))
        };
        // Some issuers write the flag as a text.
        let verified = claims.get("email_verified").map(|flag| {
            flag.as_bool()
                .unwrap_or_else(|| flag.as_str() == Some("true"))
        });
        Ok(Person {
            subject: needed("sub")?,
            email: needed("email")?,
            email_verified: verified,
            name: text("name").unwrap_or_default().chars().take(200).collect(),
            role: self.role(claims),
            exp: claims
                .get("exp")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
        })
    }

    /// The claim may be a text or a list, and may lie deeper: `realm_access.roles`.
    fn role(&self, claims: &Map<String, Value>) -> Option<SystemRole> {
        let mut path = self.settings.role_claim.split('.');
        let first = claims.get(path.next()?)?;
        let value = path.try_fold(first, |value, name| value.get(name))?;
        let one = |value: &Value| self.settings.role(value.as_str()?);
        value
            .as_array()
            .map_or_else(|| one(value), |values| values.iter().filter_map(one).max())
    }

    /// The key with this id, from the cache or from the issuer.
    async fn key(&self, kid: &str) -> Result<Jwk, OidcError> {
        if let Some(keys) = self.fresh()
            && let Some(key) = keys.find(kid)
        {
            return Ok(key.clone());
        }
        let fetched = self.refetch().await;
        let unknown = || OidcError::UnknownKey(kid.to_owned());
        match (self.kept(), fetched) {
            (Some(keys), Ok(())) => keys.find(kid).cloned().ok_or_else(unknown),
            // An issuer that is away does not lock out those whose key is known.
            (Some(keys), Err(error)) => keys.find(kid).cloned().ok_or(error),
            (None, fetched) => Err(fetched.err().unwrap_or_else(unknown)),
        }
    }

    fn kept(&self) -> Option<Arc<JwkSet>> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        cached.keys.clone()
    }

    fn fresh(&self) -> Option<Arc<JwkSet>> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = cached
            .at
            .is_some_and(|at| clock::now().since(at) < KEYS_FOR);
        cached.keys.clone().filter(|_| fresh)
    }

    /// Fetches the keys, unless that was tried a moment ago.
    async fn refetch(&self) -> Result<(), OidcError> {
        let mut tried = self.tried.lock().await;
        let pause = Duration::from_secs(u64::from(self.settings.refetch_seconds));
        if tried.is_some_and(|at| clock::now().since(at) < pause) {
            return Ok(());
        }
        *tried = Some(clock::now());
        let keys = self.fetch().await.inspect_err(|error| {
            tracing::warn!(%error, issuer = %self.settings.issuer, "an issuer's keys are not there");
        })?;
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        *cached = Cached {
            keys: Some(Arc::new(keys)),
            at: Some(clock::now()),
        };
        Ok(())
    }

    async fn fetch(&self) -> Result<JwkSet, OidcError> {
        if !self.settings.jwks_url.is_empty() {
            return self.get(&self.settings.jwks_url).await;
        }
        let base = self.settings.issuer.trim_end_matches('/');
        let found: Discovery = self
            .get(&format!("{base}/.well-known/openid-configuration"))
            .await?;
        if found.issuer != self.settings.issuer {
            let words = format!(
                "its discovery document names another issuer, '{}'",
                found.issuer
            );
            return Err(OidcError::Issuer(words));
        }
        // Whoever could write into that answer could sign any token.
        if is_exposed(&found.jwks_uri) && !is_exposed(&self.settings.issuer) {
            let words =
                "its discovery document leads to keys at an http:// address of another machine";
            return Err(OidcError::Issuer(words.to_owned()));
        }
        self.get(&found.jwks_uri).await
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, OidcError> {
        let issuer = |error: &dyn std::fmt::Display| OidcError::Issuer(format!("{url}: {error}"));
        let url = Url::parse(url).map_err(|error| issuer(&error))?;
        let answer = self.http.get(url).send().await;
        let mut answer = answer
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| issuer(&error))?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| issuer(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST {
                return Err(issuer(&"the answer is larger than 1 MiB"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| issuer(&error))
    }
}

/// Whether the issuer means the key for signatures of this algorithm.
fn fits(key: &Jwk, algorithm: Algorithm) -> Result<(), OidcError> {
    let common = &key.common;
    let signs = common
        .public_key_use
        .as_ref()
        .is_none_or(|wanted| *wanted == PublicKeyUse::Signature);
    let same = common
        .key_algorithm
        .as_ref()
        .is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    if signs && same {
        Ok(())
    } else {
        Err(OidcError::Invalid(
            "its key is not for this algorithm".to_owned(),
        ))
    }
}
