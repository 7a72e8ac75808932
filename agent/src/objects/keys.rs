//! A task's pair of keys: made from its secret, so that nothing is stored and a restarted agent knows them.
//!
//! Owns how they are made. They are good for as long as the task is registered.

use std::fmt;

/// Names the use, so that no other derivation of the secret gives the same.
const CONTEXT: &str = "trainyard 2026-11-26 secret key of a trainer's S3";

/// Access key and secret key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyPair {
    /// Tells the task; as long as those of AWS.
    pub(crate) access: String,
    /// Signs.
    pub(crate) secret: String,
}

/// Shows no secret.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair").field(&self.access).finish()
    }
}

impl KeyPair {
    /// Those of the task with this secret.
    pub(crate) fn of(secret: &str) -> Self {
        let access = blake3::hash(format!("access key {secret}").as_bytes()).to_hex();
        let access: String = access.chars().take(16).collect();
        let secret = blake3::Hash::from(blake3::derive_key(CONTEXT, secret.as_bytes()));
        Self {
            access: format!("TYRD{}", access.to_uppercase()),
            secret: secret.to_hex().chars().take(40).collect(),
        }
    }
}
