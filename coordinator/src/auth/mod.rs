//! Who calls: passwords, user tokens, API keys, an issuer's tokens, and how often one may fail.
//!
//! Owns hashing, signing and checking; never touches the store and never decides what a user may.
//! Called by the API edges of the coordinator, which look users up.

mod api_key;
mod oidc;
mod password;
mod rows;
mod throttle;
mod token;

pub use api_key::ApiKey;
pub use oidc::{Oidc, OidcError, Person};
pub use password::{PasswordError, hash_password, verify_password};
pub use rows::{ApiKeyRow, ApiKeyUseRow, IssuerLinkRow, SessionRow, SigningKeyRow};
pub use throttle::Throttle;
pub use token::{Access, Keys, Lives, Refresh, Subject, TokenError, TokenPair};
