//! API keys as text: `ty_<id>_<secret>`, 64 and 256 drawn bits in hexadecimal.
//!
//! Owns the form and the hash; knows no row. Called by `api::users`.

use std::fmt;

const PREFIX: &str = "ty_";

/// An API key; its secret is shown once, to whoever made it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Under which its row is found.
    pub id: String,
    secret: String,
}

impl fmt::Debug for ApiKey {
    /// Without the secret: a log must not hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

impl ApiKey {
    /// Makes a key of random bits, which the caller draws.
    #[must_use]
    pub fn of(id: u64, secret: (u128, u128)) -> Self {
        Self {
            id: format!("{id:016x}"),
            secret: format!("{:032x}{:032x}", secret.0, secret.1),
        }
    }

    /// Reads a bearer token as an API key; none when it is something else.
    #[must_use]
    pub fn parse(token: &str) -> Option<Self> {
        let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
        let hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        (hex(id, 16) && hex(secret, 64)).then(|| Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The whole key, for the one who made it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }

    /// What the store keeps instead of the secret.
    #[must_use]
    pub fn hash(&self) -> String {
        blake3::hash(self.secret.as_bytes()).to_hex().to_string()
    }

    /// Whether `hash` was made of this key. Compared in a time that tells nothing.
    #[must_use]
    pub fn fits(&self, hash: &str) -> bool {
        let own = blake3::hash(self.secret.as_bytes());
        blake3::Hash::from_hex(hash).is_ok_and(|stored| stored == own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_fits_its_own_hash_only_and_hides_its_secret() {
        let key = ApiKey::of(7, (1, 2));
        let text = key.expose();
        assert!(text.starts_with("ty_0000000000000007_"), "{text}");
        assert_eq!(ApiKey::parse(&text), Some(key.clone()));
        assert!(key.fits(&key.hash()));
        assert!(!key.fits(&ApiKey::of(7, (1, 3)).hash()));
        assert!(!key.fits("no hash"));
        assert_eq!(format!("{key:?}"), "ApiKey(0000000000000007)");
        assert!(!key.hash().contains(text.rsplit('_').next().unwrap()));
    }

    #[test]
    fn what_is_no_key_is_not_read_as_one() {
        for text in ["", "ty_", "ty_1_2", "x.y.z", "ty_000000000000000g_00"] {
            assert_eq!(ApiKey::parse(text), None, "{text}");
        }
    }
}
