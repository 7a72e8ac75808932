//! What the store keeps of tokens: signing keys, sessions, API keys, links to an issuer's users.
//!
//! Owns the shape of these rows. Never reads or writes them; `api::users` does.

use serde::{Deserialize, Serialize};
use trainyard_config::Secret;
use trainyard_core::time::Timestamp;

use crate::store::Document;

/// A key that signs user tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeyRow {
    /// Stands in the header of each token that it signed.
    pub kid: String,
    /// 256 bits in hexadecimal.
    pub secret: Secret,
    /// When it was drawn; the newest signs.
    pub created_at: Timestamp,
    /// When a newer one took its place.
    #[serde(default)]
    pub retired_at: Option<Timestamp>,
}

impl Document for SigningKeyRow {
    const KIND: &'static str = "signing_key";

    fn key(&self) -> String {
        self.kid.clone()
    }
}

/// A family of tokens: everything that came of one login. It ends when its row goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Whose.
    pub user_id: u64,
    /// Stands in each of its tokens.
    pub sid: String,
    /// The number of the one refresh token that has not been used.
    pub jti: String,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// When its refresh token expires.
    pub expires_at: Timestamp,
}

impl SessionRow {
    /// What the keys of a user's sessions start with.
    #[must_use]
    pub fn of_user(user_id: u64) -> String {
        format!("{user_id:020}/")
    }

    /// The key of one session.
    #[must_use]
    pub fn key_of(user_id: u64, sid: &str) -> String {
        format!("{user_id:020}/{sid}")
    }
}

impl Document for SessionRow {
    const KIND: &'static str = "session";

    fn key(&self) -> String {
        Self::key_of(self.user_id, &self.sid)
    }
}

/// An API key of a service account, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRow {
    /// Stands in the key.
    pub id: String,
    /// The service account it speaks for.
    pub user_id: u64,
    /// For people.
    pub name: String,
    /// blake3 of the secret, in hexadecimal: 256 drawn bits need no slow hash.
    pub hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if ever.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

impl Document for ApiKeyRow {
    const KIND: &'static str = "api_key";

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// When an API key was last used. A row of its own, so that noting it never brings back a key that
/// was revoked at the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyUseRow {
    /// The key.
    pub id: String,
    /// To the minute.
    pub at: Timestamp,
}

impl Document for ApiKeyUseRow {
    const KIND: &'static str = "api_key_use";

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// The user that a subject of an issuer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerLinkRow {
    /// The issuer.
    pub issuer: String,
    /// The issuer's name for the user.
    pub subject: String,
    /// Our user.
    pub user_id: u64,
}

impl IssuerLinkRow {
    /// The key of a subject of an issuer.
    #[must_use]
    pub fn key_of(issuer: &str, subject: &str) -> String {
        format!("{issuer}\n{subject}")
    }
}

impl Document for IssuerLinkRow {
    const KIND: &'static str = "issuer_link";

    fn key(&self) -> String {
        Self::key_of(&self.issuer, &self.subject)
    }
}
