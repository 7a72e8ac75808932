//! User tokens: HS256, claims as the HTTP contract has them, each naming its key (`kid`) and its
//! session (`sid`).
//!
//! Access claims: `sub` (user id as a string), `email`, `role`, `organization_id`, `exp`, `type`, `sid`.
//! Refresh claims: `sub`, `exp`, `type`, `sid`, `jti`. Time comes in as an argument, so expiry is
//! checked here and not by the library's own clock.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use trainyard_core::time::Timestamp;

use super::rows::SigningKeyRow;

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
    /// The session.
    pub sid: String,
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
    /// The session.
    pub sid: String,
    /// Its number within the session.
    pub jti: String,
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

/// How long tokens are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Access tokens.
    pub access: Duration,
    /// Refresh tokens, and so sessions.
    pub refresh: Duration,
}

/// One key, ready for use.
#[derive(Clone)]
struct SigningKey {
    kid: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    /// A retired key verifies until the last token that it signed has expired.
    until: Option<Timestamp>,
}

/// Access tokens remembered at once.
const REMEMBERED: usize = 4_096;

/// An access token that was checked: its claims, and until when its key verifies.
#[derive(Clone)]
struct Checked {
    claims: Arc<Access>,
    until: Option<Timestamp>,
}

/// Signs with the newest key and checks with every one that may still be met. Prints no secret.
pub struct Keys {
    keys: Vec<SigningKey>,
    lives: Lives,
    /// By hash of the whole token, so that a caller's token is taken apart once and not at each call. Other keys
    /// begin with none.
    checked: Mutex<BTreeMap<[u8; 32], Checked>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// The keys of the store; the one that is not retired signs.
    #[must_use]
    pub fn new(rows: &[SigningKeyRow], lives: Lives) -> Self {
        let key = |row: &SigningKeyRow| {
            let secret = row.secret.expose().as_bytes();
            SigningKey {
                kid: row.kid.clone(),
                signing: EncodingKey::from_secret(secret),
                verifying: DecodingKey::from_secret(secret),
                until: row.retired_at.map(|at| at.plus(lives.refresh)),
            }
        };
        let keys = rows.iter().map(key).collect();
        Self {
            keys,
            lives,
            checked: Mutex::default(),
        }
    }

    /// How long tokens are good for.
    #[must_use]
    pub const fn lives(&self) -> Lives {
        self.lives
    }

    /// Issues both tokens for `subject` at `now`, within session `sid` and under number `jti`.
    ///
    /// # Errors
    /// When signing fails, or there is no key.
    pub fn issue(
        &self,
        subject: &Subject,
        (sid, jti): (&str, &str),
        now: Timestamp,
    ) -> Result<TokenPair, TokenError> {
        let sub = subject.user_id.to_string();
        let access = Access {
            sub: sub.clone(),
            email: subject.email.clone(),
            role: subject.role.clone(),
            organization_id: subject.organization_id,
            exp: seconds(now.plus(self.lives.access)),
            kind: "access".to_owned(),
            sid: sid.to_owned(),
        };
        let refresh = Refresh {
            sub,
            exp: seconds(now.plus(self.lives.refresh)),
            kind: "refresh".to_owned(),
            sid: sid.to_owned(),
            jti: jti.to_owned(),
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
    pub fn access(&self, token: &str, now: Timestamp) -> Result<Arc<Access>, TokenError> {
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        let known = self.checked().get(&hash).cloned();
        if let Some(Checked { claims, until }) = known
            && claims.exp > seconds(now)
            && until.is_none_or(|until| now < until)
        {
            return Ok(claims);
        }
        let (typed, until): (Typed, _) = self.read(token, now)?;
        typed.check("access", now)?;
        let claims: Arc<Access> = Arc::new(self.read(token, now)?.0);
        let mut checked = self.checked();
        if checked.len() >= REMEMBERED {
            checked.retain(|_, one| one.claims.exp > seconds(now));
        }
        if checked.len() >= REMEMBERED {
            // Whoever is forgotten is checked again at the next call.
            checked.pop_first();
        }
        let kept = Checked {
            claims: Arc::clone(&claims),
            until,
        };
        checked.insert(hash, kept);
        Ok(claims)
    }

    fn checked(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The claims of a refresh token that is good at `now`.
    ///
    /// # Errors
    /// When it is not.
    pub fn refresh(&self, token: &str, now: Timestamp) -> Result<Refresh, TokenError> {
        let (typed, _): (Typed, _) = self.read(token, now)?;
        typed.check("refresh", now)?;
        Ok(self.read(token, now)?.0)
    }

    fn sign<T: Serialize>(&self, claims: &T) -> Result<String, TokenError> {
        let newest = self.keys.iter().find(|key| key.until.is_none());
        let key = newest.ok_or(TokenError::NotSigned)?;
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.kid.clone());
        let signed = encode(&header, claims, &key.signing);
        signed.ok().ok_or(TokenError::NotSigned)
    }

    /// The claims, and until when their key verifies. The key comes from the header's `kid` and the algorithm from us,
    /// never from the header.
    fn read<T: DeserializeOwned + Clone>(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<(T, Option<Timestamp>), TokenError> {
        let header = decode_header(token).ok().ok_or(TokenError::Invalid)?;
        let named = |key: &&SigningKey| {
            header.kid.as_deref() == Some(&key.kid) && key.until.is_none_or(|until| now < until)
        };
        let key = self.keys.iter().find(named).ok_or(TokenError::Invalid)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        decode::<T>(token, &key.verifying, &validation)
            .map(|data| (data.claims, key.until))
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
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
    use serde_json::json;
    use trainyard_config::Secret;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn row(kid: &str, secret: &str, retired_at: Option<Timestamp>) -> SigningKeyRow {
        SigningKeyRow {
            kid: kid.into(),
            secret: Secret::new(secret.into()),
            created_at: NOW,
            retired_at,
        }
    }

    fn of(rows: &[SigningKeyRow]) -> Keys {
        let lives = Lives {
            access: HOUR,
            refresh: HOUR * 24 * 7,
        };
        Keys::new(rows, lives)
    }

    fn keys(secret: &str) -> Keys {
        of(&[row("k1", secret, None)])
    }

    fn ada() -> Subject {
        Subject {
            user_id: 7,
            email: "ada@example.com".into(),
            role: "admin".into(),
            organization_id: None,
        }
    }

    fn pair(keys: &Keys) -> TokenPair {
        keys.issue(&ada(), ("s1", "r1"), NOW).unwrap()
    }

    #[test]
    fn an_access_token_carries_the_claims_of_the_contract() {
        let keys = keys("secret");
        let pair = pair(&keys);
        let access = keys.access(&pair.access, NOW).unwrap();
        assert_eq!(access.sub, "7");
        assert_eq!(access.exp, 1_800_003_600);
        assert_eq!((&*access.kind, &*access.sid), ("access", "s1"));
        let refresh = keys.refresh(&pair.refresh, NOW).unwrap();
        assert_eq!(
            (&*refresh.sub, &*refresh.sid, &*refresh.jti),
            ("7", "s1", "r1")
        );
    }

    #[test]
    fn expired_foreign_swapped_and_unsigned_tokens_are_refused() {
        let keys = keys("secret");
        let pair = pair(&keys);
        let later = NOW.plus(HOUR);
        assert_eq!(keys.access(&pair.access, later), Err(TokenError::Expired));
        assert_eq!(keys.access(&pair.refresh, NOW), Err(TokenError::WrongType));
        assert_eq!(keys.refresh(&pair.access, NOW), Err(TokenError::WrongType));
        let foreign = super::tests::pair(&super::tests::keys("other"));
        assert_eq!(keys.access(&foreign.access, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_of_another_algorithm_or_without_a_known_key_is_refused() {
        let keys = keys("secret");
        let good = pair(&keys).access;
        let claims = keys.access(&good, NOW).unwrap();
        let key = EncodingKey::from_secret(b"secret");
        let signed = |algorithm, kid: Option<&str>| {
            let mut header = Header::new(algorithm);
            header.kid = kid.map(str::to_owned);
            encode(&header, &claims, &key).unwrap()
        };
        assert!(
            keys.access(&signed(Algorithm::HS256, Some("k1")), NOW)
                .is_ok()
        );
        let (body, signature) = good.split_once('.').unwrap().1.split_once('.').unwrap();
        let relabelled = |header: serde_json::Value| {
            let header = BASE64.encode(header.to_string());
            [
                format!("{header}.{body}."),
                format!("{header}.{body}.{signature}"),
            ]
        };
        let mut bad = vec![
            signed(Algorithm::HS256, None),
            signed(Algorithm::HS256, Some("k2")),
            signed(Algorithm::HS384, Some("k1")),
            signed(Algorithm::HS512, Some("k1")),
        ];
        for algorithm in ["none", "None", "RS256", "ES256", "HS384"] {
            bad.extend(relabelled(
                json!({"alg": algorithm, "typ": "JWT", "kid": "k1"}),
            ));
        }
        for token in bad {
            assert_eq!(
                keys.access(&token, NOW),
                Err(TokenError::Invalid),
                "{token}"
            );
        }
    }

    #[test]
    fn a_retired_key_verifies_as_long_as_its_tokens_live_and_signs_no_more() {
        let old = pair(&keys("old"));
        let retired = row("k1", "old", Some(NOW));
        let both = of(&[row("k2", "new", None), retired.clone()]);
        assert!(both.access(&old.access, NOW).is_ok());
        assert!(both.refresh(&old.refresh, NOW).is_ok());
        let newer = pair(&both);
        assert_eq!(
            of(&[retired]).access(&newer.access, NOW),
            Err(TokenError::Invalid)
        );
        let week = NOW.plus(HOUR * 24 * 7);
        assert_eq!(both.access(&old.access, week), Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_that_is_remembered_ends_as_one_that_is_not() {
        let old = pair(&keys("old"));
        let retired = of(&[row("k1", "old", Some(NOW))]);
        let week = NOW.plus(HOUR * 24 * 7);
        for _ in 0..2 {
            assert!(retired.access(&old.access, NOW).is_ok());
            let expired = retired.access(&old.access, NOW.plus(HOUR));
            assert_eq!(expired, Err(TokenError::Expired));
            let gone = retired.access(&old.access, week);
            assert_eq!(gone, Err(TokenError::Invalid));
        }
        let forged = old.access + "A";
        assert_eq!(retired.access(&forged, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn neither_keys_nor_tokens_show_in_a_log() {
        let keys = keys("secret");
        let pair = pair(&keys);
        let row = row("k1", "hunter2", None);
        let text = format!("{keys:?} {pair:?}");
        assert_eq!(text, "Keys(..) TokenPair(..)");
        assert!(!format!("{row:?}").contains("hunter2"));
    }
}
