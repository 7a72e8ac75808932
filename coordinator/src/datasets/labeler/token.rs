//! Service tokens: HS256 with a secret of their own, by which the platform speaks to the Labeler for a
//! user. Pure but for signing; time comes in as an argument. Called by the client of the Labeler.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use trainyard_core::time::Timestamp;

/// Life of a token that speaks for a user.
const FOR_A_USER: Duration = Duration::from_secs(5 * 60);
/// The only scope that is needed.
const SCOPES: [&str; 1] = ["labeler:read"];

/// The contract's claims: no `iss`, no `aud`.
#[derive(Debug, Serialize)]
struct Claims {
    sub: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    service: &'static str,
    scopes: [&'static str; 1],
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Signs service tokens. Prints nothing of its secret.
#[derive(Clone)]
pub(super) struct Signer {
    key: EncodingKey,
    kid: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl Signer {
    pub(super) fn new(secret: &str, kid: &str) -> Self {
        Self {
            key: EncodingKey::from_secret(secret.as_bytes()),
            kid: kid.to_owned(),
        }
    }

    /// A token that speaks for a user, good for five minutes.
    pub(super) fn for_user(&self, user: u64, now: Timestamp) -> Option<String> {
        let seconds = now.0.div_euclid(1_000_000);
        let life = i64::try_from(FOR_A_USER.as_secs()).unwrap_or(0);
        let claims = Claims {
            sub: user.to_string(),
            iat: seconds,
            nbf: seconds,
            exp: seconds + life,
            service: "platform",
            scopes: SCOPES,
            kind: "service",
        };
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.kid.clone());
        encode(&header, &claims, &self.key).ok()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_service_token_is_exactly_that_of_the_contract() {
        let signer = Signer::new("secret", "k2");
        let token = signer
            .for_user(7, Timestamp(1_800_000_000_500_000))
            .unwrap();
        assert_eq!(decode_header(&token).unwrap().kid.as_deref(), Some("k2"));
        let mut checks = Validation::new(Algorithm::HS256);
        checks.validate_exp = false;
        let key = DecodingKey::from_secret(b"secret");
        let claims = decode::<Value>(&token, &key, &checks).unwrap().claims;
        assert_eq!(
            claims,
            json!({
                "sub": "7", "iat": 1_800_000_000, "nbf": 1_800_000_000, "exp": 1_800_000_300,
                "service": "platform", "scopes": ["labeler:read"], "type": "service",
            })
        );
        assert!(!format!("{signer:?}").contains("secret"));
    }
}
