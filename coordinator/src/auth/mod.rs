//! Who calls: passwords and user tokens.
//!
//! Owns hashing, signing and checking; never touches the store and never decides what a user may.
//! Called by the API edges of the coordinator, which look users up.

mod password;
mod token;

pub use password::{PasswordError, hash_password, verify_password};
pub use token::{Access, Keys, Refresh, Subject, TokenError, TokenPair};
