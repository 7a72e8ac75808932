//! Passwords: argon2id with a salt of their own.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use thiserror::Error;

/// Why a password could not be hashed or checked. A wrong password is not an error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PasswordError {
    /// The hash in the store is not one.
    #[error("the stored password hash is damaged: {0}")]
    Damaged(String),
    /// Hashing failed.
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

/// Hashes `password` with 16 bytes of salt, which the caller draws.
///
/// Takes tens of milliseconds by design: call it where blocking is allowed.
///
/// # Errors
/// When the hash cannot be made.
pub fn hash_password(password: &str, salt: [u8; 16]) -> Result<String, PasswordError> {
    let failed = |error: argon2::password_hash::Error| PasswordError::Hash(error.to_string());
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    let hash = hasher()
        .hash_password(password.as_bytes(), &salt)
        .map_err(failed)?;
    Ok(hash.to_string())
}

/// A simulation has thousands of logins, and nothing that is worth a guess.
fn hasher() -> Argon2<'static> {
    match trainyard_runtime::is_simulated() {
        true => Params::new(Params::MIN_M_COST, 1, 1, None).map_or_else(
            |_| Argon2::default(),
            |cheap| Argon2::new(Algorithm::Argon2id, Version::V0x13, cheap),
        ),
        false => Argon2::default(),
    }
}

/// Whether `password` is the one that `hash` was made of. As slow as hashing.
///
/// # Errors
/// When `hash` cannot be read.
pub fn verify_password(password: &str, hash: &str) -> Result<bool, PasswordError> {
    let parsed =
        PasswordHash::new(hash).map_err(|error| PasswordError::Damaged(error.to_string()))?;
    Ok(Argon2::default()
        .verify_password(password.as_bytes(), &parsed)
        .is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_matches_and_the_hash_does_not_show_it() {
        let hash = hash_password("admin123", [7; 16]).unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(!hash.contains("admin123"));
        assert_eq!(verify_password("admin123", &hash), Ok(true));
        assert_eq!(verify_password("admin124", &hash), Ok(false));
        assert!(verify_password("x", "no hash").is_err());
    }
}
