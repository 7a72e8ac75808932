//! User tokens: HS256, claims as the HTTP contract has them.
//!
//! Access claims: `sub` (user id as a string), `email`, `role`, `organization_id`, `exp`, `type`.
//! Refresh claims: `sub`, `exp`, `type`. Time comes in as an argument, so expiry is checked here and
//! not by the library's own clock.

use std::{fmt, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use trainyard_core::time::Timestamp;

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user's number.
    pub user_id: u64,
    /// The user's e-mail address.
    pub email: String,
    /// The user's role.
    pub role: String,
    /// The user's organization.
    pub organization_id: Option<i64>,
}

/// Claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// User id as a string.
    pub sub: String,
    /// E-mail address.
    pub email: String,
    /// Role.
    pub role: String,
    /// Organization, if any.
    pub organization_id: Option<i64>,
    /// Seconds since the epoch.
    pub exp: i64,
    /// Always `access`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Claims of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// User id as a string.
    pub sub: String,
    /// Seconds since the epoch.
    pub exp: i64,
    /// Always `refresh`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Both tokens of a login.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// For calls.
    pub access: String,
    /// For the next pair.
    pub refresh: String,
}

impl fmt::Debug for TokenPair {
    /// Shows neither token: a log must not hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenPair(..)")
    }
}

/// Why a token is not believed. The texts are those that callers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not a token, or signed by another key or algorithm.
    #[error("signature or form is not valid")]
    Invalid,
    /// Its time is over.
    #[error("it has expired; log in again")]
    Expired,
    /// A refresh token where an access token is needed, or the other way round.
    #[error("it is of the wrong type")]
    WrongType,
    /// It could not be signed.
    #[error("it could not be signed")]
    NotSigned,
}

/// Signs and checks. Prints nothing of its secret.
#[derive(Clone)]
pub struct Keys {
    signing: EncodingKey,
    verifying: DecodingKey,
    access_for: Duration,
    refresh_for: Duration,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Keys of one secret, and how long tokens are good for.
    #[must_use]
    pub fn new(secret: &[u8], access_for: Duration, refresh_for: Duration) -> Self {
        Self {
            signing: EncodingKey::from_secret(secret),
            verifying: DecodingKey::from_secret(secret),
            access_for,
            refresh_for,
        }
    }

    /// Issues both tokens for `subject` at `now`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue(&self, subject: &Subject, now: Timestamp) -> Result<TokenPair, TokenError> {
        let sub = subject.user_id.to_string();
        let access = Access {
            sub: sub.clone(),
            email: subject.email.clone(),
            role: subject.role.clone(),
            organization_id: subject.organization_id,
            exp: seconds(now.plus(self.access_for)),
            kind: "access".to_owned(),
        };
        let refresh = Refresh {
            sub,
            exp: seconds(now.plus(self.refresh_for)),
            kind: "refresh".to_owned(),
        };
        Ok(TokenPair {
            access: self.sign(&access)?,
            refresh: self.sign(&refresh)?,
        })
    }

    /// The claims of an access token that is good at `now`.
    ///
    /// # Errors
    /// When it is not.
    pub fn access(&self, token: &str, now: Timestamp) -> Result<Access, TokenError> {
        let typed: Typed = self.read(token)?;
        typed.check("access", now)?;
        self.read(token)
    }

    /// The claims of a refresh token that is good at `now`.
    ///
    /// # Errors
    /// When it is not.
    pub fn refresh(&self, token: &str, now: Timestamp) -> Result<Refresh, TokenError> {
        let typed: Typed = self.read(token)?;
        typed.check("refresh", now)?;
        self.read(token)
    }

    fn sign<T: Serialize>(&self, claims: &T) -> Result<String, TokenError> {
        encode(&Header::new(Algorithm::HS256), claims, &self.signing)
            .ok()
            .ok_or(TokenError::NotSigned)
    }

    fn read<T: DeserializeOwned + Clone>(&self, token: &str) -> Result<T, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        decode::<T>(token, &self.verifying, &validation)
            .map(|data| data.claims)
            .ok()
            .ok_or(TokenError::Invalid)
    }
}

/// What both kinds share, read first so that a wrong type is told from a damaged token.
#[derive(Clone, Deserialize)]
struct Typed {
    exp: i64,
    #[serde(rename = "type")]
    kind: String,
}

impl Typed {
    fn check(&self, kind: &str, now: Timestamp) -> Result<(), TokenError> {
        if self.kind != kind {
            return Err(TokenError::WrongType);
        }
        if self.exp <= seconds(now) {
            return Err(TokenError::Expired);
        }
        Ok(())
    }
}

fn seconds(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn keys(secret: &[u8]) -> Keys {
        let hour = Duration::from_secs(3_600);
        Keys::new(secret, hour, hour * 24 * 7)
    }

    fn ada() -> Subject {
        Subject {
            user_id: 7,
            email: "ada@example.com".into(),
            role: "admin".into(),
            organization_id: None,
        }
    }

    #[test]
    fn an_access_token_carries_the_claims_of_the_contract() {
        let keys = keys(b"secret");
        let pair = keys.issue(&ada(), NOW).unwrap();
        let access = keys.access(&pair.access, NOW).unwrap();
        assert_eq!(access.sub, "7");
        assert_eq!(access.exp, 1_800_003_600);
        assert_eq!(access.kind, "access");
        assert_eq!(keys.refresh(&pair.refresh, NOW).unwrap().sub, "7");
    }

    #[test]
    fn expired_foreign_swapped_and_unsigned_tokens_are_refused() {
        let keys = keys(b"secret");
        let pair = keys.issue(&ada(), NOW).unwrap();
        let later = NOW.plus(Duration::from_secs(3_600));
        assert_eq!(keys.access(&pair.access, later), Err(TokenError::Expired));
        assert_eq!(keys.access(&pair.refresh, NOW), Err(TokenError::WrongType));
        assert_eq!(keys.refresh(&pair.access, NOW), Err(TokenError::WrongType));
        let foreign = super::tests::keys(b"other").issue(&ada(), NOW).unwrap();
        assert_eq!(keys.access(&foreign.access, NOW), Err(TokenError::Invalid));
        // {"alg":"none","typ":"JWT"} with the same claims and no signature.
        let claims = pair.access.split('.').nth(1).unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
        assert_eq!(keys.access(&unsigned, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn neither_keys_nor_tokens_show_in_a_log() {
        let keys = keys(b"secret");
        let pair = keys.issue(&ada(), NOW).unwrap();
        assert_eq!(format!("{keys:?} {pair:?}"), "Keys(..) TokenPair(..)");
    }
}
